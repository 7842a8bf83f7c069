"""Read files of boxes: CSV, COCO, Pascal VOC, YOLO, LabelMe, CVAT and VIA, recognized by content.

A reader turns one file into `AnnotatedImage`s with corners as they are stated; `annotations` checks
them. Polygons and other shapes give the box around them. YAML is not parsed: of a data.yaml the
names are read, in the forms that tools write, and anything else is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tinysight.data.annotation_csv import from_csv
from tinysight.data.annotation_entries import (
    TextFile,
    around,
    centered,
    ellipse,
    extended,
    image_names,
    make_box,
    rotated,
    stated_path,
    stated_size,
)
from tinysight.data.annotation_json import from_json
from tinysight.data.annotations import AnnotatedImage, Annotations, nfc

READ = (
    "a CSV, COCO, VIA or CVAT file, or a file or folder of Pascal VOC (.xml), LabelMe (.json) or "
    "YOLO (.txt, with data.yaml or classes.txt); other programs export COCO"
)
MAX_BYTES = 512_000_000  # of one file: COCO's own largest has 450 MB
_NAMES_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
_SUFFIXES = (".xml", ".json", ".csv")  # of what is read in a folder
_Element = ElementTree.Element


def read_annotations(path: Path) -> Annotations:
    """Read a file or folder of boxes; a ValueError names the file and place of anything wrong."""
    if path.name in _NAMES_FILES:
        path = path.parent
    if path.is_dir():
        texts = [entry for entry in sorted(path.rglob("*")) if _is_text(entry, path)]
        suffixes = {file.suffix.lower() for file in texts} & set(_SUFFIXES)
        labels = [file for file in texts if file.suffix == ".txt"]
        inside = [file for file in labels if "labels" in file.relative_to(path).parts]
        if inside or (labels and not suffixes):
            return _from_yolo(path, inside or labels)
        texts = [file for file in texts if file.suffix.lower() in suffixes]
        if len(suffixes) != 1:
            found = ", ".join(sorted(suffixes)) or "none of these"
            raise ValueError(f"cannot read boxes from {str(path)!r}: it holds {found}; give {READ}")
    else:
        texts = [path]
    files = [TextFile(_below(file, path), _read(file)) for file in texts]
    parsed = [_parse(file) for file in files]
    if len(forms := {form for form, *_ in parsed}) > 1:
        raise ValueError(f"{str(path)!r} holds {' and '.join(sorted(forms))}; give one of these")
    images = tuple(
        _in_folder(image, file.name)
        for file, (_, own, _) in zip(files, parsed, strict=True)
        for image in own
    )
    notes = tuple(note for *_, own in parsed for note in own)
    (form,) = forms
    voc = form == "Pascal VOC"
    return Annotations(
        name=path.name,
        form=form,
        digest=_digest(files),
        images=images,
        counts_from_one=voc,
        notes=notes,
    )


def _in_folder(image: AnnotatedImage, file: str) -> AnnotatedImage:
    """Add the name that an image has below the folder that its file of boxes is in."""
    folder = file.rpartition("/")[0]
    full = (f"{folder}/{image.names[0]}",) if folder else ()
    return image._replace(names=(*full, *image.names))


def _is_text(entry: Path, root: Path) -> bool:
    known = entry.suffix.lower() in (*_SUFFIXES, ".txt") and entry.name[0] != "."
    return known and not _is_hidden(entry, root) and entry.is_file()


def _is_hidden(entry: Path, root: Path) -> bool:
    return any(part[0] in "._" and part != entry.name for part in entry.relative_to(root).parts)


def _below(file: Path, root: Path) -> str:
    return nfc(file.relative_to(root).as_posix() if file != root else file.name)


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"{str(file)!r} is larger than {MAX_BYTES // 1_000_000} MB; divide it")
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot read {str(file)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"cannot read boxes from {str(file)!r}: it is not UTF-8 text; save it as UTF-8, or "
            f"give {READ}"
        ) from error


def _digest(files: Iterable[TextFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{len(file.text)}\0{file.text}".encode())
    return digest.hexdigest()


_Parsed = tuple[str, list[AnnotatedImage], list[str]]  # form, images, notes


def _parse(file: TextFile) -> _Parsed:
    """Recognize the format of a file, and read it."""
    start = file.text.lstrip()[:1]
    if start == "<":
        return _from_xml(file)
    if start in ("{", "[") and not file.name.lower().endswith(".csv"):
        return from_json(file)
    return "CSV", from_csv(file), []


def _from_xml(file: TextFile) -> _Parsed:
    if re.search(r"<!(?!--|\[CDATA\[)", file.text):
        raise ValueError(f"{file.name} declares a document type, which no file of boxes needs")
    try:
        root = ElementTree.fromstring(file.text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{file.name} is not readable XML: {error}") from error
    if root.tag == "annotation":
        return "Pascal VOC", [_voc_image(file, root)], []
    if root.tag != "annotations":
        raise ValueError(f"{file.name} is XML of <{root.tag}>, not of boxes; give {READ}")
    if root.find("track") is not None:
        raise ValueError(f"{file.name} is CVAT's form for videos; export CVAT for images, or COCO")
    return "CVAT", [_cvat_image(file, image) for image in root.findall("image")], []


def _voc_image(file: TextFile, root: _Element) -> AnnotatedImage:
    boxes = []
    for number, item in enumerate(root.findall("object"), 1):
        corners = [item.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
        boxes.append(make_box(corners, item.findtext("name"), f"object {number} of {file.name}"))
    size = stated_size(root.findtext("size/width"), root.findtext("size/height"), file.name)
    return AnnotatedImage(image_names(file, root.findtext("filename") or ""), tuple(boxes), size)


def _cvat_image(file: TextFile, image: _Element) -> AnnotatedImage:
    name = image.get("name") or ""
    if not name:
        raise ValueError(f"{file.name} has an image without a name")
    boxes = []
    for number, shape in enumerate(image, 1):
        corners: list[Any] = []
        get = shape.get
        if shape.tag == "box":
            corners = [get("xtl"), get("ytl"), get("xbr"), get("ybr")]
        elif shape.tag == "mask":
            corners = extended(get("left"), get("top"), get("width"), get("height"))
        elif shape.tag == "ellipse":
            corners = ellipse(get("cx"), get("cy"), get("rx"), get("ry"))
        elif points := get("points"):
            corners = around(point.split(",") for point in points.split(";"))
        elif shape.tag in ("tag", "attribute"):
            continue
        where = f"{shape.tag} {number} of {name!r} in {file.name}"
        if shape.tag in ("box", "ellipse") and get("rotation"):
            corners = rotated(corners, get("rotation"), is_ellipse=shape.tag == "ellipse")
        boxes.append(make_box(corners, get("label"), where))
    size = stated_size(image.get("width"), image.get("height"), file.name)
    return AnnotatedImage((stated_path(name),), tuple(boxes), size)


def _from_yolo(root: Path, labels: list[Path]) -> Annotations:
    """Read label files: class, center and size in shares, or class and a polygon, per line."""
    names_file = _names_file(root)
    content = _read(names_file)
    names = yolo_names(content, names_file.name)
    pose = re.search(r"^kpt_shape:", content, re.MULTILINE)  # boxes, followed by their keypoints
    own = [file for file in labels if file.name not in _NAMES_FILES]
    files = [TextFile(_below(file, root), _read(file)) for file in own]
    images = []
    for file in files:
        boxes = []
        for number, line in enumerate(file.text.splitlines(), 1):
            if not line.strip():
                continue
            where, (index, *values) = f"line {number} of {file.name}", line.split()
            if not index.isdecimal() or int(index) >= len(names):
                raise ValueError(
                    f"{where} has class {index!r}; {names_file.name} has 0 to {len(names) - 1}"
                )
            if len(values) > 5 and not len(values) % 2 and not pose:
                corners = around(zip(values[::2], values[1::2], strict=True))
            else:
                corners = centered(*values[:4]) if len(values) == 4 or pose else []
            boxes.append(make_box(corners, names[int(index)], where, stated=line.strip()))
        parts = file.name.removesuffix(".txt").split("/")
        without = [part for part in parts if part != "labels"]
        moved = ["images" if part == "labels" else part for part in parts]
        images.append(AnnotatedImage(("/".join(moved), "/".join(without)), tuple(boxes)))
    return Annotations(
        name=root.name,
        form="YOLO",
        digest=_digest([*files, TextFile(names_file.name, content)]),
        images=tuple(images),
        shares=True,
    )


def _names_file(root: Path) -> Path:
    """Find the file of YOLO's class names: in the folder, below it, or in the two above it."""
    if (own := _names_in(root)) is not None:
        return own
    below = [file for file in sorted(root.rglob("*")) if file.name in _NAMES_FILES]
    below = [file for file in below if file.is_file() and not _is_hidden(file, root)]
    known = {file: yolo_names(_read(file), file.name) for file in below}
    for file, names in known.items():
        first = next(iter(known))
        if names != known[first]:
            raise ValueError(
                f"{_below(first, root)} and {_below(file, root)} in {str(root)!r} have different "
                "class names; give one folder after the other, or one data.yaml in the folder"
            )
    if known:
        return next(iter(known))
    for folder in root.resolve().parents[:2]:
        if (above := _names_in(folder)) is not None:
            return above
    raise ValueError(
        f"{str(root)!r} holds .txt files and no class names for them; YOLO's labels need a "
        "data.yaml or classes.txt in their folder or above it"
    )


def _names_in(folder: Path) -> Path | None:
    return next((folder / name for name in _NAMES_FILES if (folder / name).is_file()), None)


_ITEM = r"""(?:'[^']*'|"[^"\\]*"|[^\s'"\[\]{},:#&*!|>%@`-](?:[^'"\[\]{},:#]*[^\s'"\[\]{},:#])?)"""


def yolo_names(text: str, where: str) -> tuple[str, ...]:
    """Return the class names of a data.yaml (list or numbered mapping), or of lines of names.

    A blank line among the latter is a class without a name, and moves no other one's number.
    """
    if not where.endswith((".yaml", ".yml")):
        return tuple(line.strip() for line in text.rstrip().splitlines())
    found = re.search(r"^names[ \t]*:(.*(?:\n(?:[ \t\-\]}#].*)?)*)", text, re.MULTILINE)
    body = re.sub(r"(^|\s)#.*", "", found[1]).strip() if found else ""
    if body[:1] in ("[", "{") and body[-1:] in ("]", "}"):
        items = body[1:-1].strip().removesuffix(",").split(",")
        marks = (r"(\d+)\s*:\s*" if body[0] == "{" else "()") + f"({_ITEM})"
    else:
        items = body.splitlines() if body else []
        marks = rf"(?:(\d+)\s*:|-)[ \t]+({_ITEM})"
    matches = [re.fullmatch(marks, item.strip()) for item in items if item.strip()]
    pairs = [(match[1], match[2].strip("'\"")) for match in matches if match]
    numbered = [int(number) for number, _ in pairs if number]
    if not pairs or len(pairs) < len(matches) or (numbered and numbered != [*range(len(pairs))]):
        raise ValueError(
            f"the names in {where} are neither a list nor numbered from 0; write them into "
            "classes.txt in its place, one per line"
        )
    return tuple(name for _, name in pairs)
