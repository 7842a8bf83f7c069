"""Your own images: a folder of class folders.

`FOLDER/<class>/*` gets a val and a minival split made here; `FOLDER/train/<class>/*` with
`FOLDER/val/<class>/*` keeps its val, and minival is taken from train. `FOLDER/test/` may hold loose
images without labels, or class folders. With `train/` but no `val/`, val is taken from it too.

- Folders inside a class folder belong to the class; links are followed. Hidden entries and
  leftovers of systems (.DS_Store, Thumbs.db, __MACOSX, ...) are ignored. Any other file in a class
  folder that is not an image is an error.
- Classes are in code-point order of their names, normalized to NFC, so that macOS and Linux agree;
  rows of a split are ordered by (class, file). A class's id is its name.
- A file's split follows from the SHA-256 of its name inside the class folder: the lowest are val,
  the highest minival. So a split depends on neither the order of files nor the machine, and adding
  an image moves at most one image of its class across each border.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np
import numpy.typing as npt

from tinysight.data.annotations import nfc
from tinysight.data.dataset import FEW, SPLITS, DatasetIndex, few, source_fingerprint, split_ranges
from tinysight.images import FORMATS, READABLE, SIGNATURE_LENGTH, SUFFIXES, format_of, load_square

LAYOUT = (
    "expected FOLDER/<class>/<image>, or FOLDER/train/<class>/<image> and "
    "FOLDER/val/<class>/<image>"
)
MAX_IMAGE_SIZE = 1024
MINIVAL_SHARE, VAL_SHARE = 0.1, 0.2

_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}
_SPLIT_LIKE = {"train", "training", "val", "valid", "validation", "test", "testing"}

Classes = dict[str, list[str]]  # NFC name -> its images below FOLDER, as spelled on disk
Rows = dict[str, list[tuple[int, str]]]  # split -> (label, image), in row order


@dataclass(frozen=True)
class FolderSource:
    """A folder of images, as a `build.Source`.

    Shares are of each class's images (of train, if val is given), rounded, at least 1; see
    `split_counts` for tiny classes. Every property raises ValueError in one line for what
    a folder can have wrong.
    """

    folder: Path
    name: str
    image_size: int = 64
    minival_share: float = MINIVAL_SHARE
    val_share: float = VAL_SHARE

    @cached_property
    def root(self) -> Path:
        """The folder, resolved."""
        try:
            root = self.folder.resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:  # too long, no rights, a NUL, a loop
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(f"cannot open {str(self.folder)!r}: {reason}; {LAYOUT}") from error
        if not root.is_dir():
            raise ValueError(f"{str(root)!r} is a file; unpack an archive first; {LAYOUT}")
        return root

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Path, fingerprint and settings."""
        root, size, minival, val = self.root, self.image_size, self.minival_share, self.val_share
        if not 1 <= size <= MAX_IMAGE_SIZE:
            raise ValueError(f"image_size is {size}, expected 1 to {MAX_IMAGE_SIZE} pixels")
        if not (minival >= 0 and val >= 0 and minival + val < 1):
            given = f"minival_share {minival} and val_share {val}"
            raise ValueError(f"{given} must not be negative and together be under 1")
        settings: dict[str, Any] = {"image_size": size, "minival_share": minival, "val_share": val}
        try:
            fingerprint = source_fingerprint(root)
        except OSError as error:
            raise inaccessible(error) from error
        origin = {"kind": "folder", "path": str(root), "fingerprint": fingerprint}
        return origin | {"settings": settings}

    @cached_property
    def index(self) -> DatasetIndex:
        """The images with their classes and splits."""
        try:
            class_names, rows = self._rows()
            index = assemble(class_names, rows, self.image_size)
            return dataclasses.replace(index, notes=_notes(class_names, rows))
        except OSError as error:
            raise inaccessible(error) from error

    def decode(self, row: int) -> npt.NDArray[np.uint8]:
        """Read one image as uint8 (S, S, 3)."""
        return load_square(self.root / self.index.files[row], self.image_size)

    def _rows(self) -> tuple[tuple[str, ...], Rows]:
        """List every image with its label, by split."""
        root = self.root
        split_names = _split_folders(root)
        train = _images_of_classes(root, "train" if split_names else "", allow_empty=False)
        if len(train) < 2:
            raise ValueError(f"{_only_class(root, train)}; a classifier needs at least two")
        others = [split for split in split_names if split != "train"]
        given = {split: _images_of_classes(root, split, allow_empty=True) for split in others}
        for split, classes in given.items():
            _check_known(split, classes, train)
        class_names = tuple(sorted(train))
        rows: Rows = {split: [] for split in SPLITS}
        for label, class_name in enumerate(class_names):
            images = train[class_name]
            shares = (self.minival_share, 0 if "val" in given else self.val_share)
            for split, part in split_images(images, 2 if split_names else 1, *shares).items():
                rows[split] += [(label, image) for image in part]
            for split, classes in given.items():
                rows[split] += [(label, image) for image in classes.get(class_name, [])]
        if "test" in given:
            rows["test"] += [(-1, image) for image in images_below(root, "test", recurse=False)]
        for split in SPLITS:
            rows[split].sort(key=lambda row: (row[0] < 0, row[0], nfc(row[1])))  # unlabeled last
        return class_names, rows


def split_counts(num_images: int, *, minival_share: float, val_share: float) -> tuple[int, int]:
    """Return how many of a class's images go to (minival, val); train keeps at least one.

    A single image stays in train, of two one is val, from three on there is one in minival too.
    """

    def count(share: float) -> int:
        return max(1, int(num_images * share + 0.5)) if share else 0

    num_val = min(count(val_share), num_images - 1)
    return min(count(minival_share), num_images - 1 - num_val), num_val


def split_images(images: list[str], depth: int, minival: float, val: float) -> dict[str, list[str]]:
    """Divide a class's images; `depth` folders are above a name inside the class folder."""
    num_minival, num_val = split_counts(len(images), minival_share=minival, val_share=val)

    def key(image: str) -> tuple[bytes, str]:
        name = image.split("/", depth)[depth]
        return hashlib.sha256(nfc(name).encode()).digest(), name

    ranked = sorted(images, key=key)
    first = len(ranked) - num_minival
    return {"train": ranked[num_val:first], "minival": ranked[first:], "val": ranked[:num_val]}


def assemble(class_names: tuple[str, ...], rows: Rows, image_size: int) -> DatasetIndex:
    """Make an index of labeled images without boxes."""
    ordered = [row for split in SPLITS for row in rows[split]]
    return DatasetIndex(
        image_size=image_size,
        class_names=class_names,
        class_ids=class_names,
        splits=split_ranges({split: len(rows[split]) for split in SPLITS if rows[split]}),
        files=tuple(image for _, image in ordered),
        labels=np.array([label for label, _ in ordered], np.int64),
        boxes=np.zeros((0, 4), np.float32),
        box_labels=np.zeros(0, np.int64),
        box_offsets=np.zeros(len(ordered) + 1, np.int64),
    )


def _notes(class_names: tuple[str, ...], rows: Rows) -> tuple[str, ...]:
    """Name the classes that are too small to be in every split."""
    notes = []
    for split in ("minival", "val"):
        present = {class_names[label] for label, _ in rows[split]}
        if missing := [repr(name) for name in class_names if name not in present]:
            count = f"{len(missing)} of {len(class_names)}"
            notes.append(f"no image in {split} for {count} classes: {few(missing)}")
    return tuple(notes)


def _split_folders(root: Path) -> tuple[str, ...]:
    """Return which of train/, val/ and test/ exist; none if FOLDER holds the class folders."""
    where = repr(str(root))
    if (root / "wnids.txt").is_file():
        command = "tinysight data get tiny-imagenet --source FOLDER"
        raise ValueError(f"{where} looks like Tiny ImageNet; use: {command}")
    folders = [entry.name for entry in _visible(root) if entry.is_dir()]
    if "train" in folders and any(entry.is_dir() for entry in _visible(root / "train")):
        if unknown := [repr(name) for name in folders if name not in ("train", "val", "test")]:
            raise ValueError(f"next to train/ there is {few(unknown)} in {where}; {LAYOUT}")
        return tuple(split for split in SPLITS if split in folders)
    if folders and {name.lower() for name in folders} <= _SPLIT_LIKE:
        found = few(map(repr, folders))
        raise ValueError(f"{where} has {found} but no class folder in train/; {LAYOUT}")
    return ()


def _images_of_classes(root: Path, inside: str, *, allow_empty: bool) -> Classes:
    """List the images of every class folder in `root/inside`; only test/ may have loose images."""
    entries = _visible(root / inside)
    where = str(root / inside)
    loose = [repr(e.name) for e in entries if not e.is_dir() and _is_image(e)]
    if loose and inside != "test":
        raise ValueError(f"{where!r} has images outside of class folders ({few(loose)}); {LAYOUT}")
    spelled: dict[str, str] = {}  # lower-case NFC -> as on disk
    classes: Classes = {}
    for entry in entries:
        if not entry.is_dir():
            continue
        class_name = nfc(entry.name)
        if (other := spelled.setdefault(class_name.lower(), entry.name)) != entry.name:
            raise ValueError(
                f"the class folders {other!r} and {entry.name!r} in {where!r} differ only by case "
                "or in how accents are encoded, and are one on other systems; rename one"
            )
        classes[class_name] = images_below(root, f"{inside}/{entry.name}".lstrip("/"))
    if empty := [repr(name) for name, images in classes.items() if not images and not allow_empty]:
        raise ValueError(f"no image in the class folder {few(empty)} of {where!r}; fill or remove")
    return classes


def _only_class(root: Path, classes: Classes) -> str:
    """Describe a folder of at most one class, and where its classes may be."""
    if not classes:
        return f"{str(root)!r} has no class folder; {LAYOUT}"
    (only,) = classes
    inner = sorted({image.split("/")[1] for image in classes[only] if image.count("/") > 1})
    names = few(map(repr, inner))
    hint = f" (did you mean its folder {only!r}, with {names}?)" if inner else ""
    return f"{str(root)!r} has only one class, {only!r}{hint}"


def _check_known(split: str, classes: Classes, train: Classes) -> None:
    for name in classes:
        if name not in train:
            near = difflib.get_close_matches(name, train, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            where = "; put test images without a label into test/ itself" if split == "test" else ""
            what = f"{split}/{name} is not a class of train/{hint}"
            raise ValueError(f"{what}; classes need images in train/{where}")


def images_below(
    root: Path, folder: str, *, recurse: bool = True, only_images: bool = False
) -> list[str]:
    """List the images in `root/folder`, relative to root.

    Other files are a ValueError, or ignored where the folder may hold more than images.
    """
    images: list[str] = []
    unknown: list[str] = []
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while pending and len(unknown) < FEW:
        here, above = pending.pop()
        stat = (root / here).stat()
        identity = stat.st_dev, stat.st_ino
        if identity in above:
            raise ValueError(f"{str(root / here)!r} is a link to a folder that contains it")
        for entry in _visible(root / here):
            path = f"{here}/{entry.name}".lstrip("/")
            if entry.is_dir():
                if recurse:
                    pending.append((path, above | {identity}))
            elif _is_image(entry):
                images.append(path)
            elif not only_images:
                unknown.append(repr(path))
    if unknown:
        raise ValueError(
            f"{str(root)!r} holds files that are not images of a kind that tinysight reads "
            f"({READABLE}): {few(unknown)}; convert, move or remove them"
        )
    return images


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder's entries by name, without hidden ones; names that break output are errors."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name[0] == "." or name.lower() in _SYSTEM_FILES:
                continue
            if not name.isprintable() and {"Cc", "Cs", "Zl", "Zp"} & set(map(category, name)):
                what = "a line break, another control character or bytes that are not UTF-8"
                raise ValueError(f"the name {name!r} in {str(folder)!r} has {what}; rename it")
            found.append(entry)
    return sorted(found, key=lambda entry: entry.name)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Trust the suffixes of images; open any other file. Anything but a file is a ValueError."""
    if not entry.is_file():
        what = "a link to nothing" if entry.is_symlink() else "neither a file nor a folder"
        raise ValueError(f"{entry.path!r} is {what}; remove it")
    if Path(entry.name).suffix.lower() in SUFFIXES:
        return True
    with Path(entry.path).open("rb") as file:
        return format_of(file.read(SIGNATURE_LENGTH)) in FORMATS


def inaccessible(error: OSError) -> ValueError:
    """Return the error that names a file or folder that cannot be read."""
    return ValueError(f"cannot read {error.filename!r}: {error.strerror}; repair or remove it")
