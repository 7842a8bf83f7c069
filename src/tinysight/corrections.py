"""What a person says pictures are and show: `corrections.jsonl`, a file that only grows.

A line is a JSON object: `sha256` of the picture's file, its `path` below the folder (for people:
files are found by their content, wherever they were moved), the `old` and the `new` label (null:
none, as when a label is taken back) and the `time`, in UTC. A line that has `boxes` is about these
and leaves the label as it is: a list of {"box": [x0, y0, x1, y1], "label": ...}, half-open, in
pixels of the upright picture (empty: it shows no object; null: taken back). Of a file's labels and
of its boxes, the last line counts.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tinysight.files import sync_folder

NAME = "corrections.jsonl"
MAX_LINE = 1 << 16  # bytes; a path, two labels and 200 boxes take less
MAX_BOXES = 200  # of a picture


@dataclass(frozen=True)
class Correction:
    """One picture's change of label."""

    sha256: str
    path: str
    old: str | None
    new: str | None
    time: str = ""


@dataclass(frozen=True)
class LabeledBox:
    """A box (x0, y0, x1, y1), half-open, in pixels of the upright picture; None: no class."""

    box: tuple[float, float, float, float]
    label: str | None = None


@dataclass(frozen=True)
class BoxCorrection(Correction):
    """One picture's boxes (None: taken back); its label stays, so that `old` is `new`."""

    boxes: tuple[LabeledBox, ...] | None = None


def parse_boxes(given: Any) -> tuple[LabeledBox, ...]:
    """Read JSON's list of boxes; ValueError in one line where one cannot be used."""
    if not isinstance(given, list) or len(given) > MAX_BOXES:
        count = f"{len(given)} boxes" if isinstance(given, list) else repr(given)[:80]
        raise ValueError(f"a picture has {count}; expected a list of at most {MAX_BOXES} boxes")
    for number, each in enumerate(given, 1):
        one: Any = each if isinstance(each, dict) else {}
        box: Any = one.get("box")
        label: Any = one.get("label")
        numbers = isinstance(box, list) and len(box) == 4 and all(type(x) in _NUMBERS for x in box)
        if not (
            numbers and all(abs(x) < _FAR for x in box) and box[0] < box[2] and box[1] < box[3]
        ):
            raise ValueError(
                f"box {number} is {repr(box)[:80]}; expected numbers x0 < x1 and y0 < y1 as "
                "[x0, y0, x1, y1], in pixels"
            )
        if label is not None and not (isinstance(label, str) and label):
            raise ValueError(f"box {number} has the label {repr(label)[:80]}; expected a name")
    return tuple(LabeledBox(tuple(each["box"]), each.get("label")) for each in given)


_NUMBERS, _FAR = (int, float), 1e9  # pixels; not NaN


def now() -> str:
    """Return the time as corrections have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def current_labels(corrections: Iterable[Correction]) -> dict[str, str]:
    """Return the label of each picture that has one, by SHA-256, in the order of first mention."""
    last = {each.sha256: each.new for each in corrections if not isinstance(each, BoxCorrection)}
    return {digest: label for digest, label in last.items() if label is not None}


def current_boxes(corrections: Iterable[Correction]) -> dict[str, tuple[LabeledBox, ...]]:
    """Return the boxes of each picture whose boxes were given, by SHA-256."""
    last = {each.sha256: each.boxes for each in corrections if isinstance(each, BoxCorrection)}
    return {digest: boxes for digest, boxes in last.items() if boxes is not None}


def read_corrections(path: Path) -> tuple[Correction, ...]:
    """Read a file; none where there is no file. A last line that was cut short is not one.

    Raises ValueError that names a damaged line, or what is no such file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from None
    *lines, last = content.split(b"\n")
    found = [_parse(line, f"line {number} of {path}") for number, line in enumerate(lines, 1)]
    with suppress(ValueError):
        found.append(_parse(last, ""))
    return tuple(found)


def append_corrections(path: Path, corrections: Sequence[Correction]) -> None:
    """Add lines, and wait until the disk has them; where that fails, the file is as before.

    What is left of a line that was cut short, and so was never confirmed, is removed. Raises
    OSError that names the file, ValueError where a line is too long.
    """
    lines = [json.dumps(asdict(each)) + "\n" for each in corrections]
    if (longest := max(map(len, lines), default=0)) > MAX_LINE:
        what = f"a correction has {longest:,} bytes, expected at most {MAX_LINE:,}"
        raise ValueError(f"{what}; give fewer boxes, or shorter names")
    try:
        is_new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _add(descriptor, "".join(lines).encode("ascii"))
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _add(descriptor: int, content: bytes) -> None:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    start = os.lseek(descriptor, max(0, size - MAX_LINE), os.SEEK_SET)
    end = os.read(descriptor, MAX_LINE)
    if torn := end.rpartition(b"\n")[2]:
        with suppress(ValueError):
            _parse(torn, "")
            content = b"\n" + content  # complete, written by another program
            torn = b""
    size = start + len(end) - len(torn)
    try:
        os.lseek(descriptor, size, os.SEEK_SET)
        os.truncate(descriptor, size)
        rest = content
        while rest:
            if not (count := os.write(descriptor, rest)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rest = rest[count:]
        os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            os.truncate(descriptor, size)
        raise


def _parse(line: bytes, where: str) -> Correction:
    boxes = None
    try:
        given = json.loads(line)
        digest, file, time = (str(given.get(name, "")) for name in ("sha256", "path", "time"))
        old, new = given.get("old"), given["new"]
        bytes.fromhex(digest)
        good = len(digest) == 64 and all(x is None or isinstance(x, str) for x in (old, new))
        if (about_boxes := "boxes" in given) and given["boxes"] is not None:
            boxes = parse_boxes(given["boxes"])
    except (ValueError, KeyError, AttributeError):
        good = False
    if not good:
        expected = 'expected {"sha256": ..., "path": ..., "old": ..., "new": ..., "time": ...}'
        raise ValueError(f"{where} is not a correction; {expected}; repair or remove it")
    own = (digest.lower(), file, old, new, time)
    return BoxCorrection(*own, boxes) if about_boxes else Correction(*own)
