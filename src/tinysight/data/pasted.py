"""Pasted scenes: objects of a class cut out of val by their boxes and laid on another image, among others.

A canvas has twice the side of the source's images. Its ground is three quarters of an image of another class, enlarged.
One to four objects of the class lie on it, in turn, and one to three distractors of other classes. An object is what
its box holds, at its own size where there is room (else shrunk), with a soft edge of a few pixels of what was round it.
At most a quarter of the smaller of any two boxes is shared, so that their IoU is under 0.3 and nothing is hidden. All
from val, with a fixed seed: nothing here is for training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinysight.data import pack
from tinysight.data.decoding import Decode, Progress
from tinysight.data.listing import Listing
from tinysight.data.mosaics import check_numbers, draw, val_rows
from tinysight.data.one_class import class_list, class_slug, find_class, pack_name
from tinysight.data.opening import Pack
from tinysight.data.scenes import Stream

VERSION = 1  # of the drawing, part of the fingerprint
KIND = "pasted"
NUM_CANVASES = 200
LARGEST = 0.8  # share of its image that a cut-out covers at most: what fills its image has no outline to find
SMALLEST = 10  # pixels a side of a cut-out, in its own image
MOST_SHARED = 0.25  # of the smaller of two boxes
SOFT = 3  # pixels over which the surroundings of a cut-out fade out
_PURPOSE = 101  # of the numbers drawn here

Ints = npt.NDArray[np.int64]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Piece:
    """One cut-out: box number `box` of the source, from its image `row`, and the place of that box on the canvas."""

    row: int
    box: int
    place: Box


@dataclass(frozen=True)
class Plan:
    """What is on a canvas: the ground, and the pieces in the order they are laid down."""

    ground: int  # a row of the source
    corner: tuple[int, int]  # of the part of it that is shown
    pieces: tuple[Piece, ...]
    own: tuple[int, ...]  # which pieces are of the class


@dataclass(frozen=True)
class _Painter:
    source: Pack
    plans: tuple[Plan, ...]

    def __call__(self, row: int) -> npt.NDArray[np.uint8]:
        plan, size = self.plans[row], self.source.image_size
        x, y = plan.corner
        shown = size * 3 // 4
        ground = Image.fromarray(np.array(self.source.images[plan.ground]))
        large = ground.resize((2 * size, 2 * size), Image.Resampling.BICUBIC, box=(x, y, x + shown, y + shown))
        canvas = np.array(large, np.float32)
        for piece in plan.pieces:
            _lay(canvas, np.array(self.source.images[piece.row]), self.source.boxes[piece.box].tolist(), piece.place)
        return np.asarray(canvas.round(), np.uint8)


def listing(source: Pack, label: int, *, name: str, num: int = NUM_CANVASES, seed: int = 0) -> tuple[Listing, Decode]:
    """List `num` pasted scenes of the source's class `label`; their only split is `val`.

    The classes are those of the class's one-class pack, and only the class's boxes are truths; canvas i has 1 + i % 4.
    Raises ValueError where val has too few images, or no box between SMALLEST pixels and LARGEST of the image.
    """
    check_numbers(num, seed)
    own_rows, other_rows = val_rows(source, label)
    own, others = _cuttable(source, own_rows, label), _cuttable(source, other_rows, None)
    if len(own) < 4 or len(others) < 3:
        raise ValueError(
            f"val of {source.name} has {len(own)} boxes of {source.class_names[label]} and {len(others)} others that "
            f"can be cut out; pasted scenes need 4 and 3 of at least {SMALLEST} pixels and {LARGEST:.0%} of their image"
        )
    plans = tuple(_plan(source, Stream(seed, "val", index, _PURPOSE), index, own, others) for index in range(num))
    names, ids = class_list(source, label)
    boxes = [[plan.pieces[number].place for number in plan.own] for plan in plans]
    found = Listing(
        name=name,
        image_size=2 * source.image_size,
        class_names=names,
        class_ids=ids,
        splits={"val": (0, num)},
        files=tuple(f"val/pasted-{index:05d}" for index in range(num)),
        labels=np.zeros(num, np.int64),
        boxes=np.array([box for canvas in boxes for box in canvas], np.float32),
        box_labels=np.zeros(sum(map(len, boxes)), np.int64),
        box_offsets=np.concatenate([[0], np.cumsum([len(canvas) for canvas in boxes])]).astype(np.int64),
        source=_source(source, label, num, seed),
        notes=("objects of val images pasted on others: for evaluation alone",),
    )
    return found, _Painter(source, plans)


def prepare(
    source: Pack,
    class_name: str,
    *,
    home: Path,
    num: int = NUM_CANVASES,
    seed: int = 0,
    name: str | None = None,
    progress: Progress | None = None,
    replace: bool = False,
    say: pack.Say | None = None,
) -> Pack:
    """Make the pasted scenes `<source>.<class>.pasted` of a class (name or wnid), or open them where they are made."""
    label = find_class(source, class_name)
    check_numbers(num, seed)
    name = name or pack_name(source.name, class_slug(source, label, class_name), kind=KIND)
    return pack.prepare(
        name,
        lambda: listing(source, label, name=name, num=num, seed=seed),
        _source(source, label, num, seed),
        home=home,
        workers=1,  # a millisecond each
        progress=progress,
        replace=replace,
        say=say,
    )


def _cuttable(source: Pack, rows: Ints, label: int | None) -> list[tuple[int, int]]:
    """List (row, number of its box) of every box of a class (None: of any) that can be cut out."""
    found = []
    for row in rows.tolist():
        for box in range(source.box_offsets[row], source.box_offsets[row + 1]):
            x0, y0, x1, y1 = source.boxes[box].tolist()
            large_enough = min(x1 - x0, y1 - y0) >= SMALLEST
            has_ground = (x1 - x0) * (y1 - y0) <= LARGEST * source.image_size**2
            if large_enough and has_ground and label in (None, int(source.box_labels[box])):
                found.append((row, box))
    return found


def _plan(source: Pack, stream: Stream, index: int, own: list[tuple[int, int]], others: list[tuple[int, int]]) -> Plan:
    size = source.image_size
    num_own = 1 + index % 4
    chosen = draw(stream, own, num_own) + draw(stream, others, stream.integer(1, 3))
    sizes = [np.diff(source.boxes[box].reshape(2, 2), axis=0)[0].tolist() for _, box in chosen]
    order = sorted(range(len(chosen)), key=lambda number: -sizes[number][0] * sizes[number][1])  # the largest below
    places: list[Box] = []
    for number in order:
        places.append(_place(stream, sizes[number], 2 * size, places))
    pieces = tuple(Piece(*chosen[number], place) for number, place in zip(order, places, strict=True))
    rest = size - size * 3 // 4
    return Plan(
        ground=others[stream.integer(0, len(others) - 1)][0],
        corner=(stream.integer(0, rest), stream.integer(0, rest)),
        pieces=pieces,
        own=tuple(position for position, number in enumerate(order) if number < num_own),
    )


def _place(stream: Stream, sides: list[float], canvas: int, others: Sequence[Box]) -> Box:
    """Find room for a box: at its own size the first of 64 places, then ever smaller."""
    for shrink in range(20):
        scale = 0.9**shrink
        wide, high = (max(4, round(scale * side)) for side in sides)
        for _ in range(64):
            x, y = stream.integer(0, canvas - wide), stream.integer(0, canvas - high)
            box = (x, y, x + wide, y + high)
            if all(_shared(box, other) <= MOST_SHARED for other in others):
                return box
    raise AssertionError(f"no room for a box among {len(others)} on {canvas} pixels")


def _shared(one: Box, other: Box) -> float:
    """Return the share of the smaller of two boxes that they have in common."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(wide, 0) * max(high, 0) / min(areas)


def _lay(canvas: npt.NDArray[np.float32], image: npt.NDArray[np.uint8], box: Sequence[float], place: Box) -> None:
    """Lay what `box` holds of an image on the canvas (in place), with as much soft edge as image and canvas have."""
    x0, y0, x1, y1 = box
    left, top, right, bottom = place
    step_x, step_y = (x1 - x0) / (right - left), (y1 - y0) / (bottom - top)  # pixels of the image for one of the canvas
    size = len(canvas)
    margins = (
        min(SOFT, left, math.floor(x0 / step_x)),
        min(SOFT, top, math.floor(y0 / step_y)),
        min(SOFT, size - right, math.floor((image.shape[1] - x1) / step_x)),
        min(SOFT, size - bottom, math.floor((image.shape[0] - y1) / step_y)),
    )
    west, north, east, south = margins
    wide, high = west + right - left + east, north + bottom - top + south
    source = (x0 - west * step_x, y0 - north * step_y, x1 + east * step_x, y1 + south * step_y)
    piece = np.asarray(Image.fromarray(image).resize((wide, high), Image.Resampling.BILINEAR, box=source), np.float32)
    across = _fade(wide, west, east)[None, :, None]
    down = _fade(high, north, south)[:, None, None]
    weight = np.minimum(across, down)
    window = canvas[top - north : bottom + south, left - west : right + east]
    window += weight * (piece - window)


def _fade(length: int, before: int, after: int) -> npt.NDArray[np.float32]:
    """Return weights (length,): 1 inside, falling to the ends over `before` and `after` pixels."""
    places = np.arange(length, dtype=np.float32)
    outside = np.maximum(np.maximum(before - places, places - (length - 1 - after)), 0)
    return np.asarray(1 - outside / (SOFT + 1), np.float32)


def _source(source: Pack, label: int, num: int, seed: int) -> dict[str, Any]:
    fingerprint = f"{KIND}{VERSION}-{source.digest}-{source.class_ids[label]}-{num}-seed{seed}"
    return {"kind": KIND, "path": source.name, "fingerprint": fingerprint}
