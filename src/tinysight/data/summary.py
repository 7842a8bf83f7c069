"""What a dataset holds, in lines for a person: its classes, and its boxes."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import Dataset
from tinysight.text import pluralize

MAX_SMALL = 20_000  # images that the recipe `small` is made for
MAX_FEW = 100  # images per class, below which the features of a trained network are better
MANY_BOXES = 4  # per image that has some, on average, above which they are small
MAX_CLASSES = 20  # that are named where not all are asked for


def summarize(dataset: Dataset, *, all_classes: bool = False) -> tuple[str, ...]:
    """Return lines on images and boxes per class, images without a box, and the smallest box."""
    labels, most = dataset.labels, None if all_classes else MAX_CLASSES
    lines = [f"images per class: {_counts(dataset, labels, most)}"]
    if not len(dataset.boxes):
        return tuple(lines)
    if unlabeled := int((labels < 0).sum()):
        lines[0] += f"; with several classes or none: {unlabeled:,}"
    per_image, sides = np.diff(dataset.box_offsets), dataset.boxes[:, 2:] - dataset.boxes[:, :2]
    with_boxes, (width, height) = int((per_image > 0).sum()), sides[sides.prod(axis=1).argmin()]
    lines.append(f"boxes per class: {_counts(dataset, dataset.box_labels, most)}")
    images, without = (pluralize(n, "image") for n in (with_boxes, len(dataset) - with_boxes))
    lines.append(
        f"boxes: {len(dataset.boxes):,} in {images}, up to {per_image.max()} in one; {without} "
        f"without; smallest {width:.1f} x {height:.1f} pixels"
    )
    return tuple(lines)


def next_command(dataset: Dataset) -> str:
    """Return the command to go on with: that learns own pictures, by number and boxes."""
    name = shlex.quote(dataset.name)
    if dataset.manifest["source"]["kind"] != "folder" or len(dataset) > MAX_SMALL:
        return "tinysight recipes"
    if len(dataset.boxes):
        return f"tinysight train {_localizer(dataset)} --data {name}"
    if len(dataset) < MAX_FEW * len(dataset.class_names):
        return f"tinysight finetune {name}"
    return f"tinysight train small --data {name}"


def _localizer(dataset: Dataset) -> str:
    """Name the recipe for its boxes: many in an image, or of several classes in most, else few."""
    per_image = np.diff(dataset.box_offsets)
    with_boxes = per_image > 0
    mixed = (dataset.labels[with_boxes] < 0).mean()
    many = per_image[with_boxes].mean() > MANY_BOXES or mixed > 0.5
    return "localizer-many" if many else "localizer-small"


def caption(dataset: Dataset, row: int) -> str:
    """Name an image's class, or else the classes of its boxes with their numbers, or its file."""
    if (label := int(dataset.labels[row])) >= 0:
        return dataset.class_names[label]
    own = dataset.box_labels_of(row)
    found = zip(*np.unique(own, return_counts=True), strict=True)
    counts = [f"{count} {dataset.class_names[label]}" for label, count in found]
    return ", ".join(counts) or Path(dataset.files[row]).name


def _counts(dataset: Dataset, labels: npt.NDArray[np.int64], most: int | None) -> str:
    names = dataset.class_names
    counts = np.bincount(labels[labels >= 0], minlength=len(names)).tolist()
    shown = [f"{name} {count:,}" for name, count in zip(names, counts, strict=True)][:most]
    return ", ".join(
        [*shown, *([f"and {len(names) - most} more"] if names[most:] and most else [])]
    )
