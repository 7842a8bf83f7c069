"""How well predicted boxes lie on the true ones, by size of the object (Wu et al. 2017, section
4.8, Fig. 15).

A localizer's boxes are in the stored evaluation of a split."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tinysight.analysis.results import Floats, Ints
from tinysight.data.dataset import Dataset
from tinysight.evaluation.evaluate import Evaluation
from tinysight.ops.boxes import area, pairwise_iou
from tinysight.ops.detection_metrics import is_found
from tinysight.ops.metrics import wilson_interval

SIZES = (0.0, 0.1, 0.25, 0.5, 1.0)  # borders of the share of the image that a true box covers


@dataclass(frozen=True, kw_only=True)
class FoundBoxes:
    """Predicted boxes of a split, those of one image by falling confidence."""

    rows: Ints  # (M,)
    boxes: npt.NDArray[np.float32]  # (M, 4)
    confidence: npt.NDArray[np.float32]  # (M,)

    def boxes_of(self, row: int, *, threshold: float = 0.0) -> npt.NDArray[np.float32]:
        """Return the boxes (n, 4) of one row from `threshold` on, the most confident first, which
        is always there.
        """
        own = self.rows == row
        return np.asarray(self.boxes[own][: max(1, int((self.confidence[own] >= threshold).sum()))])


def read_boxes(path: Path, pack: Dataset, split: str) -> FoundBoxes | None:
    """Read a run's predicted boxes; None where it has none. Raises ValueError when the file is
    damaged or misfit.
    """
    if not path.exists():
        return None
    evaluation = Evaluation.load(path)
    if evaluation.detections is None:
        return None
    image, place = (evaluation.detections.confidence > 0).nonzero(as_tuple=True)
    rows = evaluation.rows[image].numpy()
    boxes = evaluation.detections.boxes[image, place].numpy()
    confidence = evaluation.detections.confidence[image, place].numpy()
    own = pack.rows(split)
    if bool(((rows < own.start) | (rows >= own.stop)).any()):
        raise ValueError(f"{path} does not fit {pack.name} {split}; remove it or make it anew")
    order = np.lexsort((-confidence, rows))
    return FoundBoxes(
        rows=rows[order].astype(np.int64),
        boxes=boxes[order].astype(np.float32),
        confidence=confidence[order].astype(np.float32),
    )


def overlaps(pack: Dataset, split: str, found: FoundBoxes) -> tuple[Ints, Floats]:
    """Return the rows (n,) of a split that have true boxes, and the IoU (n,) of the most confident
    box of each.

    It counts with the true box that it fits best, as in `tinysight evaluate`; 0 where none was
    predicted."""
    rows = [row for row in pack.rows(split) if len(pack.boxes_of(row))]
    values = []
    for row in rows:
        predicted = torch.from_numpy(found.boxes_of(row)[:1])
        true = torch.from_numpy(np.array(pack.boxes_of(row)))
        values.append(float(pairwise_iou(predicted, true).max()) if len(predicted) else 0.0)
    return np.array(rows, np.int64), np.array(values)


def by_size(pack: Dataset, rows: Ints, best: Floats) -> list[dict[str, Any]]:
    """Sort images (n,) by the share of the image that their largest true box covers, and count
    those found.
    """
    covered = np.array(
        [float(area(torch.from_numpy(np.array(pack.boxes_of(row)))).max()) for row in rows.tolist()]
    )
    which = np.searchsorted(SIZES[1:-1], covered / pack.image_size**2, side="right")
    sizes = []
    for number, (start, stop) in enumerate(pairwise(SIZES)):
        values = best[which == number]
        if len(values):
            hits = np.array([int(is_found(values).sum())])
            low, high = wilson_interval(hits, np.array([len(values)]))
            figures = {"mean_iou": float(values.mean()), "found": float(hits[0] / len(values))}
            sizes.append(
                {
                    "start": start,
                    "stop": stop,
                    "count": len(values),
                    **figures,
                    "low": low[0],
                    "high": high[0],
                }
            )
    return sizes
