"""Read boxes from tables of text, in the forms that spreadsheets and other programs write."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from io import StringIO
from typing import NamedTuple

from tinysight.data.annotation_entries import (
    TextFile,
    extended,
    make_box,
    plain,
    stated_path,
    stated_size,
)
from tinysight.data.annotations import AnnotatedBox, AnnotatedImage

# What the columns of a CSV are called, in lower case without spaces, _ and -
_FILE = ("file", "filename", "image", "imagename", "imagepath", "path", "filepath", "imageid")
CLASS_COLUMNS = ("class", "label", "classname", "labelname", "category", "categoryname")
_CLASS_ENDINGS = ("class", "label", "category", "species", "type", "kind")  # as cell_type
_CORNERS = (
    *(("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2")),
    ("left", "top", "right", "bottom"),
)
_SIZES = (("imagewidth", "imageheight"), ("imgwidth", "imgheight"), ("width", "height"))
_EXPECTED = "expected file,x0,y0,x1,y1 and maybe class"


def from_csv(file: TextFile) -> list[AnnotatedImage]:
    """Read a table, with a header or as `file,x0,y0,x1,y1,class` without one.

    Columns are separated by commas, semicolons or tabs; lines of a name alone show no object.
    """
    first = next((line for line in file.text.splitlines() if line.strip()), "")
    marked = re.match(r"sep=(.)", first)
    delimiter = marked[1] if marked else max(",;\t", key=first.count)
    text = StringIO(file.text, newline=None)
    rows = csv.reader(text, delimiter=delimiter, skipinitialspace=True)
    boxes: dict[str, list[AnnotatedBox]] = {}
    sizes: dict[str, tuple[int, int] | None] = {}
    columns: _Columns | None = None
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            line = f"line {rows.line_num} of {file.name}"
            if not any(cells) or (marked and columns is None and cells[0].startswith("sep=")):
                continue
            if columns is None:
                columns, is_header = _columns(cells, file.name)
                if is_header:
                    continue
            name, *numbers = columns.of(cells, columns.box)
            if not name and not any(numbers):
                continue  # spreadsheets end like this
            if not name:
                raise ValueError(f"{line} has a box and no name; {_EXPECTED}")
            name, of_class = stated_path(name), columns.of(cells, columns.class_name)
            of_image = boxes.setdefault(name, [])
            if {number.lower() for number in numbers} - {"", "nan"}:
                stated = ",".join(numbers)
                numbers = [n if delimiter == "," else n.replace(",", ".") for n in numbers]
                corners = extended(*numbers) if columns.extends else numbers
                of_image.append(make_box(corners, "".join(of_class), line, stated=stated))
            width, height = columns.of(cells, columns.size)
            sizes[name] = stated_size(width, height, line) or sizes.get(name)
    except csv.Error as error:
        raise ValueError(
            f"{file.name} is not a readable CSV, line {rows.line_num}: {error}"
        ) from error
    if columns is None:
        raise ValueError(f"{file.name} is empty; {_EXPECTED}")
    return [AnnotatedImage((name,), tuple(own), sizes.get(name)) for name, own in boxes.items()]


class _Columns(NamedTuple):
    """Where a CSV has what; -1: nowhere."""

    box: tuple[int, ...]  # file, and four numbers
    class_name: tuple[int, ...] = (-1,)
    size: tuple[int, ...] = (-1, -1)  # of the image
    extends: bool = False  # the last two numbers are width and height

    @staticmethod
    def of(cells: Sequence[str], places: Sequence[int]) -> list[str]:
        return [cells[place] if 0 <= place < len(cells) else "" for place in places]


def _columns(cells: Sequence[str], where: str) -> tuple[_Columns, bool]:
    """Find the columns by the first line; return them, and whether that line is a header."""
    names = [plain(cell) for cell in cells]
    place = {name: number for number, name in reversed(list(enumerate(names))) if name}
    file = next((place[name] for name in _FILE if name in place), -1)
    like_classes = (name for name in place if name.endswith(_CLASS_ENDINGS))
    known = (name for name in CLASS_COLUMNS if name in place)
    class_name = next((place[name] for name in (*known, *like_classes)), -1)
    size: tuple[int, ...] = next(
        (tuple(place[n] for n in two) for two in _SIZES if set(two) <= set(place)), (-1, -1)
    )
    extents = ("bboxx", "bboxy", "bboxwidth", "bboxheight")
    for four in (*_CORNERS, extents):
        if file >= 0 and set(four) <= set(place):
            box = (file, *(place[name] for name in four))
            return _Columns(box, (class_name,), size, four == extents), True
    if len(cells) in (5, 6) and (not any(cells[1:]) or all(map(_is_number, cells[1:5]))):
        return _Columns((0, 1, 2, 3, 4), (5,)), False  # keras-retinanet
    raise ValueError(f"the first line of {where} is {','.join(cells)[:200]!r}; {_EXPECTED}")


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+([.,]\d+)?", text) is not None
