"""Mosaics of val images: several objects in one picture, whose boxes are known without labeling.

A canvas is 2x2 full images, nothing resized, so that objects have the size they were learned at.
For a class, one to four tiles hold it, in turn, and the others are images of other classes; without
a class every tile is any image, and every box a ground-truth box. All from val, with a fixed seed:
for evaluation, not for training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import Dataset, DatasetIndex, View, make_view, offsets
from tinysight.data.drawing import CounterRng
from tinysight.data.subset import class_list, class_slug, find_class, has_class, of_class
from tinysight.text import pluralize

VERSION = 1  # of the choice of tiles: part of the digest
NUM_CANVASES = 200
_PURPOSE = 100  # of the numbers drawn here

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Tiles:
    """Put four images side by side: left to right, then down."""

    dataset: Dataset
    tiles: tuple[tuple[int, ...], ...]  # four rows per canvas

    def __call__(self, row: int) -> npt.NDArray[np.uint8]:
        one, two, three, four = (self.dataset.images[tile] for tile in self.tiles[row])
        return np.vstack([np.hstack([one, two]), np.hstack([three, four])])


def mosaics(
    dataset: Dataset,
    class_name: str | None = None,
    *,
    num: int = NUM_CANVASES,
    seed: int = 0,
    name: str | None = None,
) -> Dataset:
    """View `num` mosaics of a dataset's val, for a class (name or id) or all; split `val` only.

    For a class the classes are those of its one-class view and canvas i has 1 + i % 4 tiles of it,
    none twice; without one, a canvas has the label of its largest box, which comes first. The
    median box of train in each tile comes along as baseline boxes. They are named
    `<dataset>.<class>.mosaics`, or `<dataset>.mosaics`. Raises ValueError if val has too few images
    with boxes.
    """
    label = None if class_name is None else find_class(dataset, class_name)
    if num < 1 or not 0 <= seed < 2**64:
        raise ValueError(f"num is {num} and seed {seed}; expected 1 or more, and 0 or more")
    tiles = _choose_tiles(dataset, label, num, seed)
    found = [_boxes_of_canvas(dataset, label, canvas) for canvas in tiles]
    box_offsets = offsets([len(boxes) for boxes, _ in found])
    box_labels = np.concatenate([labels for _, labels in found])
    names, ids, of, chosen = dataset.class_names, dataset.class_ids, dataset.name, "all"
    if label is not None:
        of, chosen = f"{of}.{class_slug(dataset, label, str(class_name))}", ids[label]
        names, ids = class_list(dataset, label)
    index = DatasetIndex(
        image_size=2 * dataset.image_size,
        class_names=names,
        class_ids=ids,
        splits={"val": (0, num)},
        files=tuple(f"val/mosaic-{index:05d}" for index in range(num)),
        labels=box_labels[box_offsets[:-1]],
        boxes=np.concatenate([boxes for boxes, _ in found]),
        box_labels=box_labels,
        box_offsets=box_offsets,
        notes=("mosaics of val images: for evaluation only",),
        extra={
            "baseline_boxes": _baseline_boxes(dataset, label),
            "tiles": [[dataset.files[row] for row in canvas] for canvas in tiles],
        },
    )
    parameters = f"{VERSION}-{chosen}-{num}-seed{seed}"
    view = View(dataset, index, _Tiles(dataset, tuple(tiles)))
    return make_view(name or f"{of}.mosaics", view, kind="mosaics", parameters=parameters)


def _choose_tiles(data: Dataset, label: int | None, num: int, seed: int) -> list[tuple[int, ...]]:
    """Choose the four rows of each canvas."""
    with_boxes, others = _val_rows(data, label)
    if len(with_boxes) < 4 or (label is not None and len(others) < 3):
        title = data.name if label is None else f"{data.class_names[label]} of {data.name}"
        found = f"{title} has {pluralize(len(with_boxes), 'image')} with boxes in val"
        raise ValueError(f"{found}; mosaics need 4, and 3 others")
    tiles = []
    for index in range(num):
        rng = CounterRng(seed, "val", index, _PURPOSE)
        count = 4 if label is None else 1 + index % 4
        chosen = [*_sample(rng, with_boxes, count), *_sample(rng, others, 4 - count)]
        order = np.argsort(rng.array(4), kind="stable")
        tiles.append(tuple(chosen[place] for place in order.tolist()))
    return tiles


def _val_rows(dataset: Dataset, label: int | None) -> tuple[Ints, Ints]:
    """Return the val rows with boxes of a class, and those without it (None: any boxes)."""
    if "val" not in dataset.splits:
        raise ValueError(f"{dataset.name} has no val split, from which mosaics are made")
    rows = np.asarray(dataset.rows("val"), np.int64)
    if label is None:
        return rows[np.diff(dataset.box_offsets)[rows] > 0], rows[:0]
    holds, labeled = has_class(dataset, label)[rows], of_class(dataset, label)[rows]
    return rows[holds & labeled], rows[~holds & ~labeled]


def _sample(rng: CounterRng, rows: Iterable[int], count: int) -> list[int]:
    """Draw `count` different rows."""
    left = [int(row) for row in rows]
    return [left.pop(rng.integer(0, len(left) - 1)) for _ in range(count)]


def _boxes_of_canvas(
    dataset: Dataset, label: int | None, tiles: tuple[int, ...]
) -> tuple[npt.NDArray[np.float32], Ints]:
    """Return boxes (n, 4) and labels (n,) of a canvas; without a class, the largest first."""
    boxes, labels = [], []
    for place, row in enumerate(tiles):
        down, right = divmod(place, 2)
        span = slice(dataset.box_offsets[row], dataset.box_offsets[row + 1])
        corner = np.array([right, down, right, down], np.float32) * dataset.image_size
        boxes.append(dataset.boxes[span] + corner)
        labels.append(dataset.box_labels[span])
    all_boxes, all_labels = np.concatenate(boxes), np.concatenate(labels)
    if label is not None:
        of_class = all_labels == label
        return all_boxes[of_class], np.zeros(int(of_class.sum()), np.int64)
    areas = (all_boxes[:, 2:] - all_boxes[:, :2]).prod(axis=1)
    order = np.argsort(-areas, kind="stable")
    return all_boxes[order], all_labels[order]


def _baseline_boxes(dataset: Dataset, label: int | None) -> dict[str, list[list[float]]]:
    """Return the median box of train (of a class, or of all) in every tile."""
    if "train" not in dataset.splits:
        return {}
    start, stop = (int(dataset.box_offsets[row]) for row in dataset.splits["train"])
    boxes = dataset.boxes[start:stop]
    boxes = boxes if label is None else boxes[dataset.box_labels[start:stop] == label]
    if not len(boxes):
        return {}
    x0, y0, x1, y1 = np.median(boxes, axis=0).tolist()
    corners = [(x, y) for y in (0, dataset.image_size) for x in (0, dataset.image_size)]
    return {"median in every tile": [[x0 + x, y0 + y, x1 + x, y1 + y] for x, y in corners]}
