"""Boxes of your own images: from a CSV file, or from COCO's JSON, which most tools export.

CSV with a header line, `file,x0,y0,x1,y1` (or `filename`, `xmin` to `ymax`; `class`, `width` and
`height` are read if present, other columns ignored), then one line per box; an image that shows no
object has one line with its name alone. COCO: `images`, and `annotations` with `bbox` (x, y, width,
height); an image without one shows no object, and what is marked as a crowd is skipped.

Boxes are half-open, in pixels of the upright image, as viewers show it. A name is an image's path
below the folder of classes, or any end of the path that no other image has; how accents are encoded
does not matter.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import few
from tinysight.images import center_square, upright_size

MIN_SIDE = 0.1  # pixels of a box
OVERSHOOT = 1.0  # pixels by which a box may extend beyond its image: tools round
MIN_KEPT = 0.5  # share of its area that a box keeps in the center square, as in training
_COLUMNS = (("file", "filename"), ("x0", "xmin"), ("y0", "ymin"), ("x1", "xmax"), ("y1", "ymax"))

Sizes = dict[str, tuple[int, int]]  # name -> width, height


class AnnotatedBox(NamedTuple):
    """A box as the file states it, with its class ("": none stated)."""

    x0: float
    y0: float
    x1: float
    y1: float
    class_name: str = ""


@dataclass(frozen=True)
class Annotations:
    """The content of a file of boxes, by the names it uses."""

    name: str  # of the file, for messages
    digest: str  # of its content
    boxes: dict[str, list[AnnotatedBox]]
    sizes: Sizes  # where the file states them


class ImageBoxes(NamedTuple):
    """The boxes of one image in its center square."""

    boxes: npt.NDArray[np.float32]  # (N, 4), clipped
    class_names: tuple[str, ...]  # N, "" if not stated
    cut: bool  # the square cuts most of an object away, but not all of it


def nfc(text: str) -> str:
    """Normalize a name: macOS separates accents from letters, Linux keeps names as written."""
    return unicodedata.normalize("NFC", text)


def read_annotations(path: Path) -> Annotations:
    """Read a CSV or COCO file; a ValueError names the line or entry of anything wrong."""
    readers, name = {".csv": _from_csv, ".json": _from_coco}, repr(str(path))
    if path.suffix.lower() not in readers:
        raise ValueError(f"boxes are read from a .csv file or COCO's .json, not from {name}")
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {name}: it is not UTF-8 text; save it as UTF-8") from error
    boxes, sizes = readers[path.suffix.lower()](path.name, text)
    if max((max(box[:4]) for image in boxes.values() for box in image), default=2.0) <= 1:
        raise ValueError(f"all boxes of {path.name} lie within 0 to 1; expected pixels")
    return Annotations(path.name, hashlib.sha256(content).hexdigest(), boxes, sizes)


def boxes_of(
    annotations: Annotations, root: Path, images: Sequence[str], side: int
) -> list[ImageBoxes]:
    """Return the boxes of each image (a path below `root`) in its center square of `side` pixels.

    Raises ValueError if the file's names and the images do not match, a stated size is not an
    image's, or a box lies outside of its image.
    """
    names = _match_names(annotations, images)
    found = [ImageBoxes(np.zeros((0, 4), np.float32), (), False)] * len(images)
    for place, image in enumerate(images):
        if boxes := annotations.boxes[names[image]]:
            try:
                size = upright_size(root / image)
            except ValueError:
                continue  # decoding reports it, and stops or skips it
            _check(annotations, names[image], size)
            found[place] = _in_square(boxes, size, side)
    return found


def _in_square(boxes: Sequence[AnnotatedBox], size: tuple[int, int], side: int) -> ImageBoxes:
    """Move an image's boxes into its center square, resized to `side`."""
    left, top, shorter = center_square(*size)
    moved = (np.array([box[:4] for box in boxes]) - (left, top, left, top)) * (side / shorter)
    clipped = moved.clip(0, side)
    area, whole = ((corners[:, 2:] - corners[:, :2]).prod(axis=1) for corners in (clipped, moved))
    kept = area / whole >= MIN_KEPT
    class_names = tuple(box.class_name for box in compress(boxes, kept))
    cut = bool(((area > 0) & ~kept).any())
    return ImageBoxes(clipped[kept].astype(np.float32), class_names, cut)


def _match_names(annotations: Annotations, images: Sequence[str]) -> dict[str, str]:
    """Map each image to the name that the file uses for it; see `boxes_of` for what is refused."""
    where = annotations.name
    by_path = {nfc(image): image for image in images}
    by_end: dict[str, list[str]] = {}
    for key, image in by_path.items():
        parts = key.split("/")
        for start in range(1, len(parts)):
            by_end.setdefault("/".join(parts[start:]), []).append(image)
    by_end |= {name: [image] for name, image in by_path.items()}
    if unknown := [name for name in annotations.boxes if name not in by_end]:
        raise ValueError(
            f"{where} names {len(unknown)} images that are not among the labeled ones: "
            f"{few(map(repr, unknown))}; expected paths below the folder, or the ends of these"
        )
    names: dict[str, str] = {}
    for name in annotations.boxes:
        image, *more = by_end[name]
        if more:
            found = few(map(repr, by_end[name]))
            raise ValueError(f"{where} names {name!r}, which may be {found}; give the full path")
        if (other := names.setdefault(image, name)) != name:
            raise ValueError(f"{where} names one image twice, as {other!r} and {name!r}")
    if missing := [image for image in images if image not in names]:
        raise ValueError(
            f"{where} does not mention {len(missing)} images: {few(map(repr, missing))}; "
            "give them boxes, or only their name if they show no object"
        )
    return names


def _check(annotations: Annotations, name: str, size: tuple[int, int]) -> None:
    """Raise ValueError if the file states another size than the image's, or a box lies outside."""
    where, (width, height) = annotations.name, size
    stated = annotations.sizes.get(name, size)
    if stated != size:
        raise ValueError(
            f"{where} states {stated[0]} x {stated[1]} pixels for {name!r}, the image has "
            f"{width} x {height}, upright; give the boxes in its pixels"
        )
    for x0, y0, x1, y1, _ in annotations.boxes[name]:
        far = max(-x0, -y0, x1 - width, y1 - height) > OVERSHOOT
        if far or x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            raise ValueError(
                f"{where}: the box {x0:g},{y0:g},{x1:g},{y1:g} of {name!r} extends beyond its "
                f"{width} x {height} pixels; expected x0,y0,x1,y1 in pixels of the upright image"
            )


def _from_csv(where: str, text: str) -> tuple[dict[str, list[AnnotatedBox]], Sizes]:
    rows = csv.DictReader(StringIO(text, newline=None), skipinitialspace=True)
    boxes: dict[str, list[AnnotatedBox]] = {}
    sizes: Sizes = {}
    try:
        header = rows.fieldnames or ()
        columns = [next((name for name in names if name in header), "") for names in _COLUMNS]
        if not all(columns):
            first = f"the first line of {where} is {','.join(header)!r}"
            raise ValueError(f"{first}; expected file,x0,y0,x1,y1")
        for row in rows:
            line = f"line {rows.line_num} of {where}"
            name, *numbers = (row[column] or "" for column in columns)
            if not any([name, *numbers]):
                continue  # spreadsheets end like this
            if not name:
                raise ValueError(f"{line} has a box and no name; expected file,x0,y0,x1,y1")
            of_image = boxes.setdefault(_path(name), [])
            if any(numbers):
                problem = f"{line} has the box {','.join(numbers)!r}; expected x0,y0,x1,y1"
                of_image.append(_box(numbers, row.get("class"), problem))
            if row.get("width") and row.get("height"):
                sizes[_path(name)] = _size(row["width"], row["height"], line)
    except csv.Error as error:
        raise ValueError(f"{where} is not a readable CSV, line {rows.line_num}: {error}") from error
    return boxes, sizes


def _from_coco(where: str, text: str) -> tuple[dict[str, list[AnnotatedBox]], Sizes]:
    try:
        content = json.loads(text)
        images = [(entry["id"], _path(entry["file_name"]), entry) for entry in content["images"]]
        file_names = {number: name for number, name, _ in images}
        categories = {entry["id"]: str(entry["name"]) for entry in content.get("categories", ())}
        kept = [entry for entry in content["annotations"] if not entry.get("iscrowd")]
        owners = [file_names.get(entry["image_id"]) for entry in kept]
        classes = [categories.get(entry.get("category_id")) for entry in kept]
        bboxes = [entry["bbox"] for entry in kept]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{where} is not in COCO's form ({type(error).__name__}: {error}); expected images "
            "with id and file_name, and annotations with image_id and bbox"
        ) from error
    for place, what in enumerate(("id", "file_name")):
        for value, count in Counter(image[place] for image in images).most_common(1):
            if count > 1:
                raise ValueError(f"{where} has {count} images with {what} {value!r}; expected one")
    boxes: dict[str, list[AnnotatedBox]] = {name: [] for name in file_names.values()}
    for entry, name, bbox, class_name in zip(kept, owners, bboxes, classes, strict=True):
        title = f"annotation {entry.get('id')} of {where}"
        if name is None:
            raise ValueError(f"{title} is for an image that is not among its images")
        numeric = isinstance(bbox, list) and all(isinstance(value, int | float) for value in bbox)
        corners = []
        if numeric and len(bbox) == 4:
            corners = [bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]]
        problem = f"{title} has the bbox {bbox}; expected numbers x, y, width, height"
        boxes[name].append(_box(corners, class_name, problem))
    sizes = {
        name: _size(entry["width"], entry["height"], f"image {number} of {where}")
        for number, name, entry in images
        if entry.get("width") and entry.get("height")
    }
    return boxes, sizes


def _box(corners: Sequence[Any], class_name: str | None, problem: str) -> AnnotatedBox:
    """Make a box from four numbers; anything else is a ValueError that begins with `problem`."""
    try:
        x0, y0, x1, y1 = map(float, corners)
    except (TypeError, ValueError, OverflowError):
        x0 = y0 = x1 = y1 = math.nan
    if not (MIN_SIDE <= x1 - x0 < math.inf and MIN_SIDE <= y1 - y0 < math.inf):
        raise ValueError(f"{problem}, of at least {MIN_SIDE} pixels per side")
    return AnnotatedBox(x0, y0, x1, y1, nfc(class_name or ""))


def _size(width: Any, height: Any, where: str) -> tuple[int, int]:
    try:
        return int(width), int(height)
    except (TypeError, ValueError):
        raise ValueError(f"{where} states {width!r} x {height!r}; expected integers") from None


def _path(name: str) -> str:
    return nfc(name.strip().replace("\\", "/").removeprefix("./"))
