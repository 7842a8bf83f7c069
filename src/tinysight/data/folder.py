"""A person's own images: a folder of class folders, in the same form as every other data set.

`FOLDER/<class>/*` has its val and minival made here; `FOLDER/train/<class>/*` with
`FOLDER/val/<class>/*` keeps its val, and has minival made out of train. `FOLDER/test/` may hold
loose images without labels, or class folders. Where there is `train/` without `val/`, val is made
out of it too.

- Folders inside a class folder belong to the class; links are followed. Hidden entries and what
  systems leave behind (.DS_Store, Thumbs.db, __MACOSX, ...) are ignored. Any other file in a class
  folder that is no image is an error.
- Classes are in code-point order of their names, normalized to NFC, so that macOS and Linux agree;
  rows of a split are ordered by (class, file). A class's id is its name.
- A file's split follows from the SHA-256 of its name inside the class folder: the lowest are
  val, the highest minival. So a split depends on neither the order of files nor the machine, and
  adding an image moves at most one image of its class across each border."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinysight.data.annotations import Annotations, boxes_of, read_annotations
from tinysight.data.build import OnUnreadable, Say, prepare
from tinysight.data.dataset import Dataset, source_fingerprint
from tinysight.data.decoding import Decode, Progress
from tinysight.data.index import SPLITS, DatasetIndex, check_name, without_rows
from tinysight.data.names import FEW, few, nfc
from tinysight.images import FORMATS, READABLE, SIGNATURE_LENGTH, format_of, load_square

LAYOUT = "expected FOLDER/<class>/<image>, or FOLDER/train/<class>/<image> and FOLDER/val/<class>/<image>"
MAX_IMAGE_SIZE = 1024

_SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
}  # trusted; any other file is looked into
_LEFT_BY_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}
_SPLIT_LIKE = {"train", "training", "val", "valid", "validation", "test", "testing"}

Classes = dict[
    str, list[str]
]  # NFC name -> its images, relative to FOLDER, as they are spelled on disk
Rows = dict[str, list[tuple[int, str]]]  # split -> (label, image), in the order of the pack


@dataclass(frozen=True)
class FolderDecode:
    """Decode row i of a listing: `files[i]` below `root`, as uint8 (size, size, 3); ValueError
    names the file.
    """

    root: Path
    files: tuple[str, ...]
    size: int

    def __call__(self, row: int) -> npt.NDArray[np.uint8]:
        return load_square(self.root / self.files[row], self.size)


def listing(
    folder: Path,
    *,
    name: str,
    image_size: int = 64,
    minival_share: float = 0.1,
    val_share: float = 0.2,
    annotations: Annotations | None = None,
) -> tuple[DatasetIndex, Decode]:
    """List the images of a folder with their classes, splits and boxes; decode none.

    Shares are of each class's images (of train, where val is given), rounded, at least 1; see
    `split_counts` for tiny classes. Raises ValueError in one line for everything a folder or its
    annotations can have wrong."""
    root = _existing_folder(folder)
    source = _source(
        root,
        image_size=image_size,
        minival_share=minival_share,
        val_share=val_share,
        annotations=annotations,
    )
    check_name(name)
    try:
        made = _list(root, name, image_size, minival_share, val_share, source)
        if annotations is not None:
            made = _with_boxes(made, annotations, root)
        return made, FolderDecode(root, made.files, image_size)
    except OSError as error:
        raise _inaccessible(error) from error


def import_folder(
    folder: Path,
    *,
    name: str,
    home: Path,
    image_size: int = 64,
    minival_share: float = 0.1,
    val_share: float = 0.2,
    boxes: Path | None = None,
    workers: int | None = None,
    on_unreadable: OnUnreadable = "stop",
    progress: Progress | None = None,
    replace: bool = False,
    say: Say | None = None,
) -> Dataset:
    """Make the pack `<home>/<name>` of a folder of images, or open it where folder and settings are
    unchanged.

    `boxes` is a file that says where the objects are, see `data.annotations`. See `listing` for
    the folder's form and `data.pack.prepare` for the rest. Raises ValueError."""
    root = _existing_folder(folder)
    settings: dict[str, Any] = {
        "image_size": image_size,
        "minival_share": minival_share,
        "val_share": val_share,
        "annotations": None if boxes is None else read_annotations(boxes),
    }
    return prepare(
        name,
        lambda: listing(root, name=name, **settings),
        _source(root, **settings),
        home=home,
        workers=workers,
        on_unreadable=on_unreadable,
        progress=progress,
        replace=replace,
        say=say,
    )


def split_counts(num_images: int, *, minival_share: float, val_share: float) -> tuple[int, int]:
    """Say how many of a class's images go to (minival, val); train has the rest, at least one.

    A single image stays in train, of two one is val, from three on there is one in minival too.
    """

    def share_of(share: float) -> int:
        return max(1, int(num_images * share + 0.5)) if share else 0

    num_val = min(share_of(val_share), num_images - 1)
    return min(share_of(minival_share), num_images - 1 - num_val), num_val


def _list(
    root: Path,
    name: str,
    image_size: int,
    minival_share: float,
    val_share: float,
    source: dict[str, Any],
) -> DatasetIndex:
    split_names = _split_folders(root)
    train = _images_of_classes(root, "train" if split_names else "", allow_empty=False)
    if len(train) < 2:
        raise ValueError(f"{_only_class(root, train)}; a recognizer needs at least two")
    given = {
        split: _images_of_classes(root, split, allow_empty=True)
        for split in split_names
        if split != "train"
    }
    for split, classes in given.items():
        _check_known(split, classes, train)
    unlabeled = _images_below(root, "test", recurse=False) if "test" in given else []
    class_names = tuple(sorted(train))
    rows: Rows = {split: [] for split in SPLITS}
    for label, class_name in enumerate(class_names):
        made = _split(
            train[class_name],
            depth=2 if split_names else 1,
            minival_share=minival_share,
            val_share=0 if "val" in given else val_share,
        )
        for split, images in made.items():
            rows[split] += [(label, image) for image in images]
        for split, classes in given.items():
            rows[split] += [(label, image) for image in classes.get(class_name, [])]
    rows["test"] += [(-1, image) for image in unlabeled]
    for split in SPLITS:
        rows[split].sort(key=lambda row: (row[0] < 0, row[0], nfc(row[1])))  # without a label: last
    return _assemble(name, image_size, class_names, rows, source)


def _split(
    images: list[str], *, depth: int, minival_share: float, val_share: float
) -> dict[str, list[str]]:
    """Divide a class's images among train, minival and val; `depth` folders lie above a name inside
    the class.
    """
    num_minival, num_val = split_counts(
        len(images), minival_share=minival_share, val_share=val_share
    )
    ranked = sorted(images, key=lambda image: _split_key(image.split("/", depth)[depth]))
    first_minival = len(ranked) - num_minival
    return {
        "train": ranked[num_val:first_minival],
        "minival": ranked[first_minival:],
        "val": ranked[:num_val],
    }


def _assemble(
    name: str, image_size: int, class_names: tuple[str, ...], rows: Rows, source: dict[str, Any]
) -> DatasetIndex:
    ordered = [row for split in SPLITS for row in rows[split]]
    ends = np.cumsum([len(rows[split]) for split in SPLITS]).tolist()
    return DatasetIndex(
        name=name,
        image_size=image_size,
        class_names=class_names,
        class_ids=class_names,
        splits={
            split: (end - len(rows[split]), end)
            for split, end in zip(SPLITS, ends, strict=True)
            if rows[split]
        },
        files=tuple(image for _, image in ordered),
        labels=np.array([label for label, _ in ordered], np.int64),
        boxes=np.zeros((0, 4), np.float32),
        box_labels=np.zeros(0, np.int64),
        box_offsets=np.zeros(len(ordered) + 1, np.int64),
        source=source,
        notes=_notes(class_names, rows),
    )


def _with_boxes(made: DatasetIndex, annotations: Annotations, root: Path) -> DatasetIndex:
    """Give every labeled image of a listing its boxes; leave out those whose object the square cuts
    in two.
    """
    labeled = [row for row, label in enumerate(made.labels) if label >= 0]
    found = boxes_of(annotations, root, [made.files[row] for row in labeled], made.image_size)
    counts = np.zeros(len(made.files), np.int64)
    counts[labeled] = [len(image.boxes) for image in found]
    stated = [name for image in found for name in image.class_names]
    made = dataclasses.replace(
        made,
        boxes=np.concatenate([image.boxes for image in found]),
        box_labels=_box_labels(
            annotations, made.class_names, stated, np.repeat(made.labels, counts)
        ),
        box_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )
    cut = [(row, made.files[row]) for row, image in zip(labeled, found, strict=True) if image.cut]
    if not cut:
        return made
    keep = np.ones(len(made.files), bool)
    keep[[row for row, _ in cut]] = False
    return without_rows(
        made, keep, cut, what="images whose center square shows less than half of an object"
    )


def _box_labels(
    annotations: Annotations,
    class_names: tuple[str, ...],
    stated: list[str],
    of_images: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Label boxes (N,) by the classes that the file states, if it knows several, else by their
    images' (N,).
    """
    known = {mark.class_name for marks in annotations.marks.values() for mark in marks} - {""}
    if len(known) < 2:
        return of_images
    if strangers := sorted(known - set(class_names)):
        raise ValueError(
            f"{annotations.name} has boxes of {few(map(repr, strangers))}, and the folder's classes are "
            f"{few(map(repr, class_names))}; leave other boxes out of the file, or their class"
        )
    numbers = {name: label for label, name in enumerate(class_names)}
    return np.array(
        [numbers.get(name, label) for name, label in zip(stated, of_images.tolist(), strict=True)],
        np.int64,
    )


def _split_key(name: str) -> tuple[bytes, str]:
    """Order the images of a class for splitting, by the hash of their names inside the class
    folder.
    """
    return hashlib.sha256(nfc(name).encode()).digest(), name


def _notes(class_names: tuple[str, ...], rows: Rows) -> tuple[str, ...]:
    """Name the classes that are too small to be in every split."""
    notes = []
    for split in ("minival", "val"):
        there = {label for label, _ in rows[split]}
        missing = [repr(name) for label, name in enumerate(class_names) if label not in there]
        if missing:
            notes.append(
                f"no image in {split} for {len(missing)} of {len(class_names)} classes: {few(missing)}"
            )
    return tuple(notes)


def _split_folders(root: Path) -> tuple[str, ...]:
    """Find which of train/, val/ and test/ there are, or none where FOLDER holds the class folders
    itself.
    """
    if (root / "wnids.txt").is_file():
        raise ValueError(
            f"{str(root)!r} looks like Tiny ImageNet; use: tinysight data get tiny-imagenet --source FOLDER"
        )
    folders = [entry.name for entry in _visible(root) if entry.is_dir()]
    if "train" in folders and any(entry.is_dir() for entry in _visible(root / "train")):
        if strangers := [repr(name) for name in folders if name not in ("train", "val", "test")]:
            raise ValueError(
                f"beside train/ there is {few(strangers)} in {str(root)!r}; {LAYOUT}, and perhaps test/"
            )
        return tuple(split for split in SPLITS if split in folders)
    if folders and {name.lower() for name in folders} <= _SPLIT_LIKE:
        names = few([repr(name) for name in folders])
        raise ValueError(
            f"{str(root)!r} has {names} but no class folder in train/; {LAYOUT}, in these very names"
        )
    return ()


def _images_of_classes(root: Path, inside: str, *, allow_empty: bool) -> Classes:
    """List the images of every class folder in `root/inside`; loose images beside them are allowed
    in test/ only.
    """
    entries = _visible(root / inside)
    if inside != "test" and (
        loose := [repr(e.name) for e in entries if not e.is_dir() and _is_image(e)]
    ):
        raise ValueError(
            f"{str(root / inside)!r} has images outside of class folders ({few(loose)}); {LAYOUT}"
        )
    spelled: dict[str, str] = {}  # lower-case NFC -> as on disk
    classes: Classes = {}
    for entry in entries:
        if not entry.is_dir():
            continue
        class_name = nfc(entry.name)
        if (other := spelled.setdefault(class_name.lower(), entry.name)) != entry.name:
            raise ValueError(
                f"the class folders {other!r} and {entry.name!r} in {str(root / inside)!r} differ only by case or in "
                "how accents are encoded, and would be one folder on other systems; rename or merge one"
            )
        classes[class_name] = _images_below(root, f"{inside}/{entry.name}".lstrip("/"))
    if empty := [repr(name) for name, images in classes.items() if not images and not allow_empty]:
        raise ValueError(
            f"no image in the class folder {few(empty)} of {str(root / inside)!r}; fill or remove it"
        )
    return classes


def _only_class(root: Path, classes: Classes) -> str:
    """Say that there is at most one class, and where the classes may be if it is not one."""
    if not classes:
        return f"{str(root)!r} has no class folder; {LAYOUT}"
    (only,) = classes
    inner = sorted({image.split("/")[1] for image in classes[only] if image.count("/") > 1})
    hint = (
        f" (did you mean its folder {only!r}, with {few([repr(name) for name in inner])}?)"
        if inner
        else ""
    )
    return f"{str(root)!r} has only one class, {only!r}{hint}"


def _check_known(split: str, classes: Classes, train: Classes) -> None:
    for name in classes:
        if name not in train:
            near = difflib.get_close_matches(name, train, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            where = "; put test images without a label into test/ itself" if split == "test" else ""
            raise ValueError(
                f"{split}/{name} is not a class of train/{hint}; classes need images in train/{where}"
            )


def _images_below(root: Path, folder: str, *, recurse: bool = True) -> list[str]:
    """List the images in `root/folder`, relative to root with /; raise ValueError for any other
    visible file.
    """
    images: list[str] = []
    strangers: list[str] = []
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while pending and len(strangers) < FEW:
        here, above = pending.pop()
        stat = (root / here).stat()
        identity = stat.st_dev, stat.st_ino
        if identity in above:
            raise ValueError(f"{str(root / here)!r} is a link to a folder that holds it; remove it")
        for entry in _visible(root / here):
            path = f"{here}/{entry.name}"
            if entry.is_dir():
                if recurse:
                    pending.append((path, above | {identity}))
            elif _is_image(entry):
                images.append(path)
            else:
                strangers.append(repr(path))
    if strangers:
        raise ValueError(
            f"{str(root)!r} holds files that are no images of a kind that tinysight reads ({READABLE}): "
            f"{few(strangers)}; convert, move or remove them"
        )
    return images


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder's entries by name, without hidden ones. Raises ValueError for a name that would
    break output.
    """
    with os.scandir(folder) as entries:
        found = [
            entry
            for entry in entries
            if entry.name[0] != "." and entry.name.lower() not in _LEFT_BY_SYSTEMS
        ]
    for entry in found:
        if not entry.name.isprintable() and any(
            unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in entry.name
        ):
            raise ValueError(
                f"the name {entry.name!r} in {str(folder)!r} has a line break, another control character "
                "or bytes that are not UTF-8; rename it"
            )
    return sorted(found, key=lambda entry: entry.name)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Trust the suffixes of images; look into any other file. Raises ValueError for what is no
    file.
    """
    if not entry.is_file():
        what = "a link to nothing" if entry.is_symlink() else "neither a file nor a folder"
        raise ValueError(f"{entry.path!r} is {what}; remove it")
    if Path(entry.name).suffix.lower() in _SUFFIXES:
        return True
    with Path(entry.path).open("rb") as file:
        return format_of(file.read(SIGNATURE_LENGTH)) in FORMATS


def _existing_folder(folder: Path) -> Path:
    try:
        root = folder.resolve(strict=True)
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # too long, no rights, a NUL, a circle of links
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"cannot open the folder {str(folder)!r}: {reason}; {LAYOUT}") from error
    if not root.is_dir():
        raise ValueError(
            f"{str(folder)!r} is a file, not a folder (an archive is to be unpacked first); {LAYOUT}"
        )
    return root


def _source(
    root: Path,
    *,
    image_size: int,
    minival_share: float,
    val_share: float,
    annotations: Annotations | None,
) -> dict[str, Any]:
    """State where a pack comes from; the same again means that there is nothing to do. Raises
    ValueError.
    """
    if not 1 <= image_size <= MAX_IMAGE_SIZE:
        raise ValueError(f"image_size is {image_size}, expected 1 to {MAX_IMAGE_SIZE} pixels")
    if not (minival_share >= 0 and val_share >= 0 and minival_share + val_share < 1):
        raise ValueError(
            f"minival_share {minival_share} and val_share {val_share} must not be negative and together be under 1"
        )
    try:
        fingerprint = source_fingerprint(root)
    except OSError as error:
        raise _inaccessible(error) from error
    settings: dict[str, Any] = {
        "image_size": image_size,
        "minival_share": minival_share,
        "val_share": val_share,
    }
    if annotations is not None:
        settings["boxes"] = annotations.digest
    return {"kind": "folder", "path": str(root), "fingerprint": fingerprint, "settings": settings}


def _inaccessible(error: OSError) -> ValueError:
    return ValueError(f"cannot read {error.filename!r}: {error.strerror}; mend or remove it")
