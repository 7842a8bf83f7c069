"""Several real goldfish: fold 0's held-out images, with every fish boxed.

    python benchmarks/goldfish.py RUN... [--thresholds 0.2 0.3]

Tiny ImageNet has one box for an image. `goldfish-more.csv` has those of the other fish, drawn by
hand, in 13 of the 100 images; the 12 images of swarms, and of fish that cannot be separated, are
left out. A box is right if its IoU with a fish that no surer box has found is 0.5 or more. The runs
must have learned from fold 0's train (`--data tiny-imagenet.goldfish`)."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import tinysight as ts
from tinysight.data.dataset import Dataset
from tinysight.ops.boxes import Detections
from tinysight.ops.detection_metrics import count_detections

MORE = Path(__file__).with_name("goldfish-more.csv")
Boxes = npt.NDArray[np.float32]


def all_fish(dataset: Dataset) -> dict[int, Boxes]:
    """Return the boxes (n, 4) of every fish, by row."""
    more: dict[str, list[list[str]]] = {}
    for line in csv.DictReader(MORE.open()):
        more.setdefault(line["file"], []).append([line[name] for name in ("x0", "y0", "x1", "y1")])
    boxes = {}
    for row in dataset.rows("minival"):
        own = more.pop(dataset.files[row], [])
        if dataset.labels[row] == 0 and ["", "", "", ""] not in own:
            drawn = np.array(own, np.float32).reshape(-1, 4)
            boxes[row] = np.concatenate([dataset.boxes_of(row), drawn])
    if more:
        raise ValueError(f"minival of {dataset.name} has no {next(iter(more))}: give fold 0")
    return boxes


def measure(found: Detections, truth: Tensor, threshold: float) -> str:
    """Return a line: recall, wrong boxes, counts, and fish found where there are several.

    Args:
        found: boxes (N, M, 4).
        truth: (N, G, 4), padded with NaN.
    """
    rows = truth[:, 1].isfinite().all(dim=1)
    own, several, one = (
        count_detections(boxes, fish, threshold=threshold)[0]
        for boxes, fish in (
            (found, truth),
            (found[rows], truth[rows]),
            (found[~rows], truth[~rows]),
        )
    )
    each = several.num_objects / several.num_images
    return (
        f"threshold {threshold:.2f}: {100 * own.recall:.0f} % of {own.num_objects} fish found, "
        f"{own.false_positives:.2f} wrong an image, count right in {100 * own.count_accuracy:.0f} %"
        f" and in {100 * one.count_accuracy:.0f} % of the {one.num_images} of one"
        f"; {several.recall * each:.1f} of {each:.1f} in the {several.num_images} of several"
    )


def main() -> None:
    """Print lines for each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--thresholds", type=float, nargs="*", default=[])
    given = parser.parse_args()
    dataset = ts.load_dataset("tiny-imagenet.goldfish")
    truth = all_fish(dataset)
    most = max(map(len, truth.values()))
    fish = torch.full((len(truth), most, 4), torch.nan)
    for place, boxes in enumerate(truth.values()):
        fish[place, : len(boxes)] = torch.from_numpy(boxes)
    for name in given.runs:
        predictor = ts.load_model(name)
        outputs = predictor.outputs(np.stack([dataset.images[row] for row in truth]))
        assert outputs.boxes is not None and outputs.confidence is not None
        assert predictor.decoding is not None
        found = Detections(torch.from_numpy(outputs.boxes), torch.from_numpy(outputs.confidence))
        for threshold in (predictor.decoding.threshold, *given.thresholds):
            print(name, measure(found, fish, threshold))


if __name__ == "__main__":
    main()
