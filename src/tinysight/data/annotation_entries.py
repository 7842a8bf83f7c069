"""What the readers of annotation files have in common: a file, and its boxes, sizes and names."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from tinysight.data.annotations import AnnotatedBox, nfc


class TextFile(NamedTuple):
    """A file of boxes, read."""

    name: str  # below the folder that was given, with /
    text: str


def image_names(file: TextFile, stated: str) -> tuple[str, ...]:
    """Return how the image of a file of its own may be called: like the file, else as stated."""
    path, image = PurePosixPath(file.name), PurePosixPath(stated_path(stated))
    names = (str(path.with_suffix("")), path.stem, str(image), image.name)
    return tuple(dict.fromkeys(name for name in names if name not in ("", ".")))


def plain(text: str) -> str:
    """Return a name in lower case, without spaces, - and _."""
    return re.sub(r"[\W_]+", "", text.lower())


def make_box(
    corners: Iterable[Any], class_name: object, where: str, *, stated: object = None
) -> AnnotatedBox:
    """Make a box of four numbers; NaN for anything else. `stated` is how the file has it."""
    corners = list(corners)
    shown = ",".join(map(str, corners)) if stated is None else str(stated)
    try:
        x0, y0, x1, y1 = map(float, corners)
    except (TypeError, ValueError, OverflowError):
        x0 = y0 = x1 = y1 = math.nan
    name = nfc(str(class_name).strip()) if class_name is not None else ""
    return AnnotatedBox((x0, y0, x1, y1), name, f"{where} has the box {shown[:100]!r}")


def _numbers(values: Iterable[Any]) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return []


def extended(*values: Any) -> list[float]:
    """Return the corners of left, top, width and height; none of anything else."""
    numbers = _numbers(values)
    return [*numbers[:2], *map(sum, zip(numbers, numbers[2:], strict=False))]


def centered(*values: Any) -> list[float]:
    """Return the corners of center x, y, width and height."""
    numbers = _numbers(values)
    return ellipse(*numbers[:2], *(side / 2 for side in numbers[2:]))


def ellipse(*values: Any) -> list[float]:
    """Return the corners of center x, y and the radii."""
    center, radii = (numbers := _numbers(values))[:2], numbers[2:]
    low = [c - r for c, r in zip(center, radii, strict=False)]
    return [*low, *(c + r for c, r in zip(center, radii, strict=False))]


def around(points: Iterable[Iterable[Any]]) -> list[float]:
    """Return the corners of the box around points (x, y)."""
    pairs = [_numbers(point) for point in points]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        return []
    xs, ys = zip(*pairs, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def stated_size(width: Any, height: Any, where: str) -> tuple[int, int] | None:
    """Return a stated size in pixels; None where it is not stated, as null, empty or 0."""
    if width in (None, "", 0, "0") or height in (None, "", 0, "0"):
        return None
    sides = _numbers((width, height))
    if len(sides) != 2 or not all(side.is_integer() for side in sides):
        raise ValueError(f"{where} states {width!r} x {height!r}; expected pixels, as integers")
    return int(sides[0]), int(sides[1])


def stated_path(name: str) -> str:
    """Return a path with / and without leading ./ and ../, in NFC."""
    return nfc(re.sub(r"^(\.{1,2}/)+", "", name.strip().replace("\\", "/")))


def rotated(
    corners: Sequence[Any], turn: Any, *, full_turn: float = 360, is_ellipse: bool = False
) -> list[float]:
    """Return the corners of the box around a rotated one, or around the ellipse in it.

    None of anything else.
    """
    numbers = _numbers((*corners, turn))
    if len(numbers) != 5:
        return []
    x0, y0, x1, y1, angle = numbers
    cos, sin = (abs(of(angle / full_turn * math.tau)) for of in (math.cos, math.sin))
    width, height = (x1 - x0) / 2, (y1 - y0) / 2
    reach: Callable[[float, float], float] = math.hypot if is_ellipse else operator.add
    radii = (reach(width * cos, height * sin), reach(width * sin, height * cos))
    return ellipse((x0 + x1) / 2, (y0 + y1) / 2, *radii)
