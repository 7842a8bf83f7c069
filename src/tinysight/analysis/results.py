"""What a report reads of a run: its record, its log, its data and what it said of each image of a
split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tinysight.data.dataset import Dataset
from tinysight.evaluation.evaluate import Evaluation, Metrics
from tinysight.run import Run
from tinysight.run import read_run as open_run

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class EvalResults:
    """What a model said of the N labeled images of a split with K classes."""

    pack: Dataset
    split: str
    scores: Evaluation
    crop: int  # pixels of the center window that the network saw

    @cached_property
    def labels(self) -> Ints:  # (N,)
        return self.scores.labels.numpy()

    @cached_property
    def rows(self) -> Ints:  # (N,), of the pack
        return self.scores.rows.numpy()

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float32]:  # (N, K)
        return self.scores.logits.softmax(dim=1).numpy()

    @cached_property
    def predictions(self) -> Ints:  # (N,)
        return np.asarray(self.scores.logits.argmax(dim=1))

    @cached_property
    def confidence(self) -> Floats:  # (N,), the probability of the prediction
        return np.asarray(self.probabilities.max(axis=1), dtype=np.float64)

    @cached_property
    def correct(self) -> Bools:  # (N,)
        return np.equal(self.predictions, self.labels)

    @cached_property
    def metrics(self) -> Metrics:
        return self.scores.metrics

    @property
    def window(self) -> tuple[int, int, int, int]:
        """The half-open window of an image that the network saw."""
        start = (self.pack.image_size - self.crop) // 2
        return (start, start, start + self.crop, start + self.crop)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.pack.class_names

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """One run as the analyses see it; `judged` is None where the split has not been scored."""

    record: Run
    log: list[dict[str, Any]]
    summary: dict[str, Any] | None  # None while the training has not come to its end
    pack: Dataset
    split: str
    judged: EvalResults | None

    @property
    def folder(self) -> Path:
        return self.record.folder

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def has_weights(self) -> bool:
        return self.record.is_finished


def read_run(folder: Path, pack: Dataset, *, split: str = "val") -> RunResults:
    """Read a run's folder together with the pack it is judged on.

    Raises:
        ValueError: a file is damaged, the split does not exist, or the stored scores are not of
    this pack."""
    pack.rows(split)
    record = open_run(folder)
    path = record.scores_path(record.label(pack.name, split))
    return RunResults(
        record=record,
        log=record.log(),
        summary=record.summary(),
        pack=pack,
        split=split,
        judged=_judged(path, pack, split, record.config.augment.crop or pack.image_size)
        if path.exists()
        else None,
    )


def _judged(path: Path, pack: Dataset, split: str, crop: int) -> EvalResults:
    scores = Evaluation.load(path)
    logits, labels, rows = scores.logits, scores.labels, scores.rows
    num_classes = len(pack.class_names)
    fault = None
    if logits.ndim != 2 or logits.shape != (len(labels), num_classes) or rows.shape != labels.shape:
        fault = f"they are {tuple(logits.shape)} for {len(labels)} images of {num_classes} classes"
    elif not bool(torch.isfinite(logits).all()):
        fault = "some are not finite"
    else:
        own = pack.rows(split)
        inside = bool(((rows >= own.start) & (rows < own.stop)).all())
        if not inside or not np.array_equal(pack.labels[rows.numpy()], labels.numpy()):
            fault = f"their images or labels are not those of {pack.name} {split}"
    if fault is not None:
        raise ValueError(
            f"{path} does not fit ({fault}); score anew with `tinysight evaluate {path.parent.parent}`"
        )
    kept = labels >= 0
    if not bool(kept.any()):
        raise ValueError(f"no image in {path} has a label, so there is nothing to judge")
    labeled = replace(
        scores, logits=logits[kept], labels=labels[kept], rows=rows[kept], detections=None
    )
    return EvalResults(pack, split, labeled, crop)
