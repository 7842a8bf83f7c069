"""Where the objects are in a person's own images: from a CSV file, or from COCO's JSON, which most tools export.

CSV with a first line of names, `file,x0,y0,x1,y1` (or `filename`, `xmin` to `ymax`; other columns are ignored), then a
line a box; an image that shows no object has one line, with its name alone. COCO: `images`, and `annotations` with
`bbox` (x, y, width, height); an image without an annotation shows no object.

Boxes are half-open, in pixels of the upright image, as viewers show it. A name is an image's path below the folder of
classes, or as much of the path's end as no other image has.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinysight.images import upright_size

Box = tuple[float, float, float, float]
Boxes = npt.NDArray[np.float32]  # (N, 4)

LEAST_KEPT = 0.5  # share of its area that a box keeps in the square that is cut out, or it is left out
FEW = 5  # culprits named in one line
_COLUMNS = (("file", "filename"), ("x0", "xmin"), ("y0", "ymin"), ("x1", "xmax"), ("y1", "ymax"))


@dataclass(frozen=True)
class Annotations:
    """What a file says, by the names it uses."""

    path: Path
    boxes: dict[str, list[Box]]
    sizes: dict[str, tuple[int, int]]  # width and height, where the file states them


def read_annotations(path: Path) -> Annotations:
    """Read a CSV or COCO file; raise ValueError that names the line or entry for anything that is not as it should."""
    try:
        text = _content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {str(path)!r}: it is no UTF-8 text") from error
    if path.suffix.lower() == ".csv":
        return Annotations(path, _from_csv(path.name, text), {})
    if path.suffix.lower() == ".json":
        return _from_coco(path, text)
    raise ValueError(f"boxes come from a .csv file or COCO's .json, not from {str(path)!r}")


def fingerprint_of(path: Path) -> str:
    """Return what changes when the file's content does; ValueError where it cannot be read."""
    return hashlib.sha256(_content(path)).hexdigest()


def boxes_of(annotations: Annotations, root: Path, images: Sequence[str], side: int) -> tuple[list[Boxes], int]:
    """Give each image (its path below `root`, with /) its boxes in the centre square of `side` pixels that is kept.

    Returns:
        The boxes of each image, clipped, and the number of those left out because the cut leaves too little of them.

    Raises:
        ValueError: the file's names and the images do not fit each other, a stated size is not an image's, or a box
            lies outside of its image.
    """
    names = _names_of(annotations, images)
    kept: list[Boxes] = []
    num_left_out = 0
    for image in images:
        boxes = np.array(annotations.boxes[names[image]], np.float64).reshape(-1, 4)
        inside = boxes[:0].astype(np.float32)
        if len(boxes) and (size := _size_of(root / image)) is not None:
            _check(annotations, names[image], size)
            inside = _in_square(boxes, size, side)
            num_left_out += len(boxes) - len(inside)
        kept.append(inside)
    return kept, num_left_out


def _size_of(path: Path) -> tuple[int, int] | None:
    try:
        return upright_size(path)
    except ValueError:
        return None  # the decoding says so, and stops or goes on without it


def _in_square(boxes: npt.NDArray[np.float64], size: tuple[int, int], side: int) -> Boxes:
    """Move an image's boxes (N, 4) into its centre square, resized to `side`; clip them, leave out what is cut away."""
    shorter = min(size)
    left, top = (size[0] - shorter) // 2, (size[1] - shorter) // 2  # as images.to_square cuts
    moved = (boxes - (left, top, left, top)) * (side / shorter)
    clipped = moved.clip(0, side)
    return clipped[_areas(clipped) >= LEAST_KEPT * _areas(moved)].astype(np.float32)


def _areas(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    areas: npt.NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _names_of(annotations: Annotations, images: Sequence[str]) -> dict[str, str]:
    """Find what the file calls each image; see `boxes_of` for what is refused."""
    where, whole = annotations.path.name, set(images)
    by_end: dict[str, list[str]] = {}
    for image in images:
        parts = image.split("/")
        for start in range(1, len(parts)):
            by_end.setdefault("/".join(parts[start:]), []).append(image)
    names: dict[str, str] = {}
    for name in annotations.boxes:
        fitting = [name] if name in whole else by_end.get(name, [])
        if not fitting:
            raise ValueError(f"{where} names {name!r}, but there is no such image with a label")
        if len(fitting) > 1:
            raise ValueError(f"{where} names {name!r}, which may be {_few(fitting)}; give the path below the folder")
        if (other := names.setdefault(fitting[0], name)) != name:
            raise ValueError(f"{where} names one image twice, as {other!r} and {name!r}")
    if missing := [image for image in images if image not in names]:
        raise ValueError(
            f"{where} says nothing of {len(missing)} images: {_few(missing)}; give them boxes, or name them "
            "without one where they show no object"
        )
    return names


def _check(annotations: Annotations, name: str, size: tuple[int, int]) -> None:
    """Raise ValueError where the file states another size than an image has, or a box lies outside of it."""
    where, (width, height) = annotations.path.name, size
    stated = annotations.sizes.get(name, size)
    if stated != size:
        raise ValueError(
            f"{where} states {stated[0]} x {stated[1]} pixels for {name!r}, the image has {width} x {height}, "
            "upright; its boxes would not fit"
        )
    for x0, y0, x1, y1 in annotations.boxes[name]:
        if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            raise ValueError(
                f"{where}: the box {x0:g},{y0:g},{x1:g},{y1:g} of {name!r} lies outside of its {width} x {height} "
                "pixels; boxes are x0,y0,x1,y1 in pixels of the upright image"
            )


def _from_csv(where: str, text: str) -> dict[str, list[Box]]:
    rows = csv.DictReader(StringIO(text), skipinitialspace=True)
    there = rows.fieldnames or ()
    columns = [next((name for name in names if name in there), None) for names in _COLUMNS]
    if None in columns:
        raise ValueError(f"the first line of {where} is {','.join(there)!r}; expected file,x0,y0,x1,y1")
    boxes: dict[str, list[Box]] = {}
    for row in rows:
        name, *numbers = (row[column] or "" for column in columns if column is not None)
        of_image = boxes.setdefault(_path(name), [])
        if any(numbers):
            of_image.append(_box(numbers, f"line {rows.line_num} of {where}"))
    return boxes


def _from_coco(path: Path, text: str) -> Annotations:
    where = path.name
    try:
        content = json.loads(text)
        images = {entry["id"]: (_path(entry["file_name"]), entry) for entry in content["images"]}
        found = [(entry["image_id"], entry["bbox"], entry.get("id")) for entry in content["annotations"]]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{where} is not in COCO's form ({type(error).__name__}: {error}); expected images with id and file_name, "
            "and annotations with image_id and bbox"
        ) from error
    if len(images) < len(content["images"]):
        numbers = [entry["id"] for entry in content["images"]]
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise ValueError(f"{where} has two images of the id {twice}")
    boxes: dict[str, list[Box]] = {name: [] for name, _ in images.values()}
    for image, bbox, number in found:
        if image not in images:
            raise ValueError(f"annotation {number} of {where} is of image {image}, which is not among its images")
        if not isinstance(bbox, list) or len(bbox) != 4:
            raise ValueError(f"annotation {number} of {where} has the bbox {bbox}; expected x, y, width, height")
        x, y, width, height = (float(number) if isinstance(number, int | float) else math.nan for number in bbox)
        boxes[images[image][0]].append(_box((x, y, x + width, y + height), f"annotation {number} of {where}"))
    sizes = {
        name: (entry["width"], entry["height"])
        for name, entry in images.values()
        if {"width", "height"} <= entry.keys()
    }
    return Annotations(path, boxes, sizes)


def _path(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _box(numbers: Sequence[str | float], where: str) -> Box:
    """Read a box; raise ValueError for what is none."""
    try:
        x0, y0, x1, y1 = (float(number) for number in numbers)
    except ValueError:
        x0 = y0 = x1 = y1 = math.nan
    if not (x0 < x1 and y0 < y1 and math.isfinite(x1 - x0) and math.isfinite(y1 - y0)):
        shown = ",".join(number if isinstance(number, str) else f"{number:g}" for number in numbers)
        raise ValueError(f"{where} has the box {shown!r}; expected x0,y0,x1,y1 with x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:FEW])) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")
