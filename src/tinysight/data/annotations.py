"""Where the objects are in a person's own images: from a CSV file, or from COCO's JSON, which most
tools export.

CSV with a first line of names, `file,x0,y0,x1,y1` (or `filename`, `xmin` to `ymax`; `class`,
`width` and `height` are read where they are there, other columns ignored), then a line a box; an
image that shows no object has one line, with its name alone. COCO: `images`, and `annotations` with
`bbox` (x, y, width, height); an image without one shows no object, and what is marked as a crowd is
left out.

Boxes are half-open, in pixels of the upright image, as viewers show it. A name is an image's
path below the folder of classes, or as much of the path's end as no other image has; how accents
are encoded does not matter."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinysight.data.names import few, nfc
from tinysight.images import center_square, upright_size

LEAST_SIDE = 0.1  # pixels of a box
OVERSHOOT = 1.0  # pixels by which a box may reach beyond its image: tools round
# share of its area that a box keeps in the square that is cut out, as in training (train.treatment)
LEAST_KEPT = 0.5
_COLUMNS = (("file", "filename"), ("x0", "xmin"), ("y0", "ymin"), ("x1", "xmax"), ("y1", "ymax"))


class Mark(NamedTuple):
    """A box of a file, and the class that it states, "" for none."""

    x0: float
    y0: float
    x1: float
    y1: float
    class_name: str = ""


@dataclass(frozen=True)
class Annotations:
    """What a file says, by the names it uses."""

    name: str  # of the file, for messages
    digest: str  # of its content
    marks: dict[str, list[Mark]]
    sizes: dict[str, tuple[int, int]]  # width and height, where the file states them


class Found(NamedTuple):
    """An image's boxes in the square that a pack keeps of it."""

    boxes: npt.NDArray[np.float32]  # (N, 4), clipped
    class_names: tuple[str, ...]  # N, "" where none is stated
    cut: bool  # the square cuts most of an object away, but not all: it is neither there nor gone


def read_annotations(path: Path) -> Annotations:
    """Read a CSV or COCO file; raise ValueError that names the line or entry for anything that is
    not as it should.
    """
    if path.suffix.lower() not in (".csv", ".json"):
        raise ValueError(f"boxes come from a .csv file or COCO's .json, not from {str(path)!r}")
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"cannot read {str(path)!r}: it is no UTF-8 text; save it as UTF-8"
        ) from error
    marks, sizes = (_from_csv if path.suffix.lower() == ".csv" else _from_coco)(path.name, text)
    furthest = max((max(mark[:4]) for of_image in marks.values() for mark in of_image), default=2.0)
    if furthest <= 1:
        raise ValueError(
            f"all boxes of {path.name} lie within 0 to 1: expected pixels, not shares of the image"
        )
    return Annotations(path.name, hashlib.sha256(content).hexdigest(), marks, sizes)


def boxes_of(annotations: Annotations, root: Path, images: Sequence[str], side: int) -> list[Found]:
    """Give each image (its path below `root`, with /) its boxes in the center square of `side`
    pixels that is kept.

    Raises:
        ValueError: the file's names and the images do not fit each other, a stated size is not
            an image's, or a box lies outside of its image."""
    names = _names_of(annotations, images)
    found = []
    for image in images:
        marks = annotations.marks[names[image]]
        size = _size_of(root / image) if marks else None
        if size is None:
            found.append(Found(np.zeros((0, 4), np.float32), (), False))
            continue
        _check(annotations, names[image], size)
        found.append(_in_square(marks, size, side))
    return found


def _size_of(path: Path) -> tuple[int, int] | None:
    try:
        return upright_size(path)
    except ValueError:
        return None  # the decoding says so, and stops or goes on without it


def _in_square(marks: Sequence[Mark], size: tuple[int, int], side: int) -> Found:
    """Move an image's boxes into its center square, resized to `side`; in numpy, as data is
    prepared without torch.
    """
    left, top, shorter = center_square(*size)
    moved = (np.array([mark[:4] for mark in marks]) - (left, top, left, top)) * (side / shorter)
    clipped = moved.clip(0, side)
    share = _areas(clipped) / _areas(moved)
    kept = share >= LEAST_KEPT
    return Found(
        clipped[kept].astype(np.float32),
        tuple(mark.class_name for mark, keep in zip(marks, kept, strict=True) if keep),
        bool(((share > 0) & ~kept).any()),
    )


def _areas(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    areas: npt.NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def _names_of(annotations: Annotations, images: Sequence[str]) -> dict[str, str]:
    """Find what the file calls each image; see `boxes_of` for what is refused."""
    where = annotations.name
    whole = {nfc(image): image for image in images}
    by_end: dict[str, list[str]] = {}
    for key, image in whole.items():
        parts = key.split("/")
        for start in range(1, len(parts)):
            by_end.setdefault("/".join(parts[start:]), []).append(image)
    fitting = {
        name: [whole[name]] if name in whole else by_end.get(name, []) for name in annotations.marks
    }
    if strange := [name for name, fits in fitting.items() if not fits]:
        raise ValueError(
            f"{where} names {len(strange)} images that are not among the labeled ones: {few(map(repr, strange))}; "
            "expected their paths below the folder, or the ends of these"
        )
    names: dict[str, str] = {}
    for name, fits in fitting.items():
        if len(fits) > 1:
            raise ValueError(
                f"{where} names {name!r}, which may be {few(map(repr, fits))}; give the path below the folder"
            )
        if (other := names.setdefault(fits[0], name)) != name:
            raise ValueError(
                f"{where} names one image twice, as {other!r} and {name!r}; use one name"
            )
    if missing := [image for image in images if image not in names]:
        raise ValueError(
            f"{where} says nothing of {len(missing)} images: {few(map(repr, missing))}; give them boxes, or name them "
            "without one where they show no object"
        )
    return names


def _check(annotations: Annotations, name: str, size: tuple[int, int]) -> None:
    """Raise ValueError where the file states another size than an image has, or a box reaches out
    of it.
    """
    where, (width, height) = annotations.name, size
    stated = annotations.sizes.get(name, size)
    if stated != size:
        raise ValueError(
            f"{where} states {stated[0]} x {stated[1]} pixels for {name!r}, the image has {width} x {height}, "
            "upright; give the boxes in its pixels"
        )
    for x0, y0, x1, y1, _ in annotations.marks[name]:
        far = max(-x0, -y0, x1 - width, y1 - height) > OVERSHOOT
        if far or x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            raise ValueError(
                f"{where}: the box {x0:g},{y0:g},{x1:g},{y1:g} of {name!r} reaches out of its {width} x {height} "
                "pixels; expected x0,y0,x1,y1 in pixels of the upright image"
            )


def _from_csv(where: str, text: str) -> tuple[dict[str, list[Mark]], dict[str, tuple[int, int]]]:
    rows = csv.DictReader(StringIO(text, newline=None), skipinitialspace=True)
    marks: dict[str, list[Mark]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    try:
        there = rows.fieldnames or ()
        columns = [next((name for name in names if name in there), "") for names in _COLUMNS]
        if not all(columns):
            raise ValueError(
                f"the first line of {where} is {','.join(there)!r}; expected file,x0,y0,x1,y1"
            )
        for row in rows:
            line = f"line {rows.line_num} of {where}"
            name, *numbers = (row[column] or "" for column in columns)
            if not any([name, *numbers]):
                continue  # spreadsheets end so
            if not name:
                raise ValueError(f"{line} has a box and no name; expected file,x0,y0,x1,y1")
            of_image = marks.setdefault(_path(name), [])
            if any(numbers):
                told = f"{line} has the box {','.join(numbers)!r}; expected x0,y0,x1,y1"
                of_image.append(_mark(numbers, row.get("class"), told))
            if row.get("width") and row.get("height"):
                sizes[_path(name)] = _size(row["width"], row["height"], line)
    except csv.Error as error:
        raise ValueError(
            f"{where} is no CSV that can be read, near line {rows.line_num}: {error}"
        ) from error
    return marks, sizes


def _from_coco(where: str, text: str) -> tuple[dict[str, list[Mark]], dict[str, tuple[int, int]]]:
    try:
        content = json.loads(text)
        images = [(entry["id"], _path(entry["file_name"]), entry) for entry in content["images"]]
        file_names = {number: name for number, name, _ in images}
        categories = {entry["id"]: str(entry["name"]) for entry in content.get("categories", ())}
        found = [
            (
                entry.get("id"),
                file_names.get(entry["image_id"]),
                entry["bbox"],
                categories.get(entry.get("category_id")),
            )
            for entry in content["annotations"]
            if not entry.get("iscrowd")
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{where} is not in COCO's form ({type(error).__name__}: {error}); expected images with id and file_name, "
            "and annotations with image_id and bbox"
        ) from error
    for what, values in (
        ("id", [number for number, *_ in images]),
        ("file_name", [name for _, name, _ in images]),
    ):
        for value, count in Counter(values).most_common(1):
            if count > 1:
                raise ValueError(
                    f"{where} has {count} images of the {what} {value!r}; expected one"
                )
    marks: dict[str, list[Mark]] = {name: [] for name in file_names.values()}
    for number, name, bbox, class_name in found:
        if name is None:
            raise ValueError(
                f"annotation {number} of {where} is of an image that is not among its images"
            )
        corners = []
        if (
            isinstance(bbox, list)
            and len(bbox) == 4
            and all(isinstance(value, int | float) for value in bbox)
        ):
            corners = [bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]]
        told = f"annotation {number} of {where} has the bbox {bbox}; expected numbers x, y, width, height"
        marks[name].append(_mark(corners, class_name, told))
    sizes = {
        name: _size(entry["width"], entry["height"], f"image {number} of {where}")
        for number, name, entry in images
        if entry.get("width") and entry.get("height")
    }
    return marks, sizes


def _mark(corners: Sequence[Any], class_name: str | None, told: str) -> Mark:
    """Make a box of four numbers; raise ValueError with what is told where they are none."""
    try:
        x0, y0, x1, y1 = map(float, corners)
    except (TypeError, ValueError, OverflowError):
        x0 = y0 = x1 = y1 = math.nan
    if not (LEAST_SIDE <= x1 - x0 < math.inf and LEAST_SIDE <= y1 - y0 < math.inf):
        raise ValueError(f"{told}, of {LEAST_SIDE} pixels or more a side")
    return Mark(x0, y0, x1, y1, nfc(class_name or ""))


def _size(width: Any, height: Any, where: str) -> tuple[int, int]:
    try:
        return int(width), int(height)
    except (TypeError, ValueError):
        raise ValueError(
            f"{where} states {width!r} x {height!r} pixels; expected whole numbers"
        ) from None


def _path(name: str) -> str:
    return nfc(name.strip().replace("\\", "/").removeprefix("./"))
