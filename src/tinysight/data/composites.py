"""Mosaics of val images: several objects in one picture whose boxes are known without anyone
labeling them anew.

A canvas is 2x2 whole images, nothing resized, so that objects have the size they were learned
at. Made for a class, one to four tiles hold it, in turn, and the others are images of other
classes; without a class every tile is any image, and every box a truth. All from val, with a
fixed seed: nothing here is for training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tinysight.data import build
from tinysight.data.dataset import Dataset
from tinysight.data.decoding import Decode, Progress
from tinysight.data.index import DatasetIndex
from tinysight.data.scenes import Stream
from tinysight.data.subset import class_list, class_slug, find_class, holding, pack_name

VERSION = 1  # of the drawing, part of the fingerprint
KIND = "mosaics"
NUM_CANVASES = 200
_PURPOSE = 100  # of the numbers drawn here

Ints = npt.NDArray[np.int64]
Item = TypeVar("Item")


@dataclass(frozen=True)
class _Tiled:
    """Lay four images of a source side by side: left to right, then down."""

    source: Dataset
    tiles: tuple[tuple[int, ...], ...]  # rows of the source, four a canvas

    def __call__(self, row: int) -> npt.NDArray[np.uint8]:
        one, two, three, four = (self.source.images[tile] for tile in self.tiles[row])
        return np.vstack([np.hstack([one, two]), np.hstack([three, four])])


def listing(
    source: Dataset, label: int | None = None, *, name: str, num: int = NUM_CANVASES, seed: int = 0
) -> tuple[DatasetIndex, Decode]:
    """List `num` mosaics of a pack's val, of a class or (None) of all; their only split is `val`.

    For a class the classes are those of its one-class pack and canvas i has 1 + i % 4 tiles of
    it, none twice; without one, a canvas has the label of its largest box, which comes first.
    The pack brings along the median box of train in each tile, as a constant to beat. Raises
    ValueError where val has too few images with boxes."""
    check_numbers(num, seed)
    own, others = val_rows(source, label)
    if len(own) < 4 or (label is not None and len(others) < 3):
        raise ValueError(
            f"{_title(source, label)} has {len(own)} images with boxes in val; mosaics need 4, and 3 others"
        )
    tiles = []
    for index in range(num):
        stream = Stream(seed, "val", index, _PURPOSE)
        count = 4 if label is None else 1 + index % 4
        chosen = [*draw(stream, own.tolist(), count), *draw(stream, others.tolist(), 4 - count)]
        order = np.argsort(stream.array(4), kind="stable")
        tiles.append(tuple(chosen[place] for place in order.tolist()))
    found = [_truths(source, label, canvas) for canvas in tiles]
    labels = np.concatenate([one for _, one in found])
    offsets = np.concatenate([[0], np.cumsum([len(one) for one, _ in found])]).astype(np.int64)
    names, ids = (
        (source.class_names, source.class_ids) if label is None else class_list(source, label)
    )
    listed = DatasetIndex(
        name=name,
        image_size=2 * source.image_size,
        class_names=names,
        class_ids=ids,
        splits={"val": (0, num)},
        files=tuple(f"val/mosaic-{index:05d}" for index in range(num)),
        labels=labels[offsets[:-1]] if label is None else np.zeros(num, np.int64),
        boxes=np.concatenate([one for one, _ in found]),
        box_labels=labels,
        box_offsets=offsets,
        source=_source(source, label, num, seed),
        notes=("mosaics of val images: for evaluation alone",),
        extra={
            "baseline_boxes": _constants(source, label),
            "tiles": [[source.files[row] for row in c] for c in tiles],
        },
    )
    return listed, _Tiled(source, tuple(tiles))


def prepare(
    source: Dataset,
    class_name: str | None = None,
    *,
    home: Path,
    num: int = NUM_CANVASES,
    seed: int = 0,
    name: str | None = None,
    progress: Progress | None = None,
    replace: bool = False,
    say: build.Say | None = None,
) -> Dataset:
    """Make the mosaics of a pack, for a class (name or wnid) or for all, or open them where they
    are made.

    They are named `<source>.<class>.mosaics`, or `<source>.mosaics`.
    """
    label = None if class_name is None else find_class(source, class_name)
    check_numbers(num, seed)
    if name is None and label is None:
        name = f"{source.name}.{KIND}"
    elif name is None and label is not None:
        name = pack_name(source.name, class_slug(source, label, str(class_name)), kind=KIND)
    assert name is not None
    return build.prepare(
        name,
        lambda: listing(source, label, name=name, num=num, seed=seed),
        _source(source, label, num, seed),
        home=home,
        workers=1,  # nothing to decode
        progress=progress,
        replace=replace,
        say=say,
    )


def val_rows(source: Dataset, label: int | None) -> tuple[Ints, Ints]:
    """Return the val rows of a pack that have boxes of a class, and those without it; of None: any
    boxes, and none.
    """
    if "val" not in source.splits:
        raise ValueError(
            f"{source.name} has no val split, from which mosaics and pasted scenes are made"
        )
    rows = np.asarray(source.rows("val"), np.int64)
    if label is None:
        return rows[np.diff(source.box_offsets)[rows] > 0], rows[:0]
    held = holding(source, label)[rows]
    return rows[held & (source.labels[rows] == label)], rows[~held & (source.labels[rows] != label)]


def draw(stream: Stream, items: Iterable[Item], count: int) -> list[Item]:
    """Draw `count` different items."""
    left = list(items)
    return [left.pop(stream.integer(0, len(left) - 1)) for _ in range(count)]


def _truths(
    source: Dataset, label: int | None, tiles: tuple[int, ...]
) -> tuple[npt.NDArray[np.float32], Ints]:
    """Return the boxes (n, 4) of a canvas and their labels (n,); without a class the largest box
    comes first.
    """
    boxes, labels = [], []
    for place, row in enumerate(tiles):
        down, right = divmod(place, 2)
        span = slice(source.box_offsets[row], source.box_offsets[row + 1])
        kept = (
            np.ones(span.stop - span.start, np.bool_)
            if label is None
            else source.box_labels[span] == label
        )
        corner = np.array([right, down, right, down], np.float32) * source.image_size
        boxes.append(source.boxes[span][kept] + corner)
        labels.append(
            source.box_labels[span][kept] if label is None else np.zeros(int(kept.sum()), np.int64)
        )
    found, own = np.concatenate(boxes), np.concatenate(labels)
    if label is None:
        areas = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
        order = np.argsort(-areas, kind="stable")
        found, own = found[order], own[order]
    return found, own


def _constants(source: Dataset, label: int | None) -> dict[str, list[list[float]]]:
    if "train" not in source.splits:
        return {}
    start, stop = (int(source.box_offsets[row]) for row in source.splits["train"])
    boxes = source.boxes[start:stop]
    boxes = boxes if label is None else boxes[source.box_labels[start:stop] == label]
    if not len(boxes):
        return {}
    x0, y0, x1, y1 = np.median(boxes, axis=0).tolist()
    size = source.image_size
    return {
        "median in every tile": [
            [x0 + x, y0 + y, x1 + x, y1 + y] for y in (0, size) for x in (0, size)
        ]
    }


def check_numbers(num: int, seed: int) -> None:
    if num < 1 or not 0 <= seed < 2**64:
        raise ValueError(
            f"num is {num} and seed {seed}; give a number of canvases of 1 or more, and a seed of 0 or more"
        )


def _title(source: Dataset, label: int | None) -> str:
    return source.name if label is None else f"{source.class_names[label]} of {source.name}"


def _source(source: Dataset, label: int | None, num: int, seed: int) -> dict[str, Any]:
    what = "all" if label is None else source.class_ids[label]
    return {
        "kind": KIND,
        "path": source.name,
        "fingerprint": f"{KIND}{VERSION}-{source.digest}-{what}-{num}-seed{seed}",
    }
