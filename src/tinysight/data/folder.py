"""Your own images: a folder of class folders.

`FOLDER/<class>/*` gets a val and a minival split made here; `FOLDER/train/<class>/*` with
`FOLDER/val/<class>/*` keeps its val, and minival is taken from train. `FOLDER/test/` may hold loose
images without labels, or class folders. With `train/` but no `val/`, val is taken from it too.

- Folders inside a class folder belong to the class; a file there that is not an image is an error.
  `layout` has what else is understood or refused. A zip may take the folder's place.
- Classes are in code-point order of their names; rows of a split are ordered by (class, file). A
  class's id is its name.
- A file's split follows from the SHA-256 of its name inside the class folder: the lowest are val,
  the highest minival. So a split depends on neither the order of files nor the machine, and adding
  an image moves at most one image of its class across each border.
"""

from __future__ import annotations

import dataclasses
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median_low
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from tinysight.data.annotations import nfc
from tinysight.data.dataset import SPLITS, DatasetIndex, few, source_fingerprint, split_ranges
from tinysight.data.layout import EXPECTED, read_layout
from tinysight.data.tree import Tree, hidden_image_folders, open_tree
from tinysight.images import FITS, Fit, frame_side, load_square
from tinysight.text import pluralize

IMAGE_SIZE, MAX_IMAGE_SIZE = 64, 1024
AUTO_SIZES = (32, 48, 64, 96, 128)  # larger ones cost more than they gain
NUM_MEASURED = 500  # images, evenly chosen, whose median side is that of all
MINIVAL_SHARE, VAL_SHARE = 0.1, 0.2

Rows = dict[str, list[tuple[int, str]]]  # split -> (label, image), in row order


@dataclass(frozen=True)
class FolderSource:
    """A folder of images, or a zip of one, as a `build.Source`.

    Shares are of each class's images (of train, if val is given), rounded, at least 1; see
    `split_counts` for tiny classes. The size "auto" is that of AUTO_SIZES next to the images' own.
    Every property raises ValueError in one line for what a folder can have wrong.
    """

    folder: Path
    name: str
    image_size: int | Literal["auto"] = IMAGE_SIZE
    minival_share: float = MINIVAL_SHARE
    val_share: float = VAL_SHARE
    fit: Fit = "crop"
    has_boxes: ClassVar[bool] = False

    @cached_property
    def root(self) -> Path:
        """The folder or zip, resolved."""
        try:
            root = self.folder.resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:  # too long, no rights, a NUL, a loop
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(f"cannot open {str(self.folder)!r}: {reason}; {EXPECTED}") from error
        if not root.is_dir() and root.suffix.lower() != ".zip":
            raise ValueError(f"{str(root)!r} is neither a folder nor a .zip; {EXPECTED}")
        return root

    @cached_property
    def tree(self) -> Tree:
        """What is in the folder or zip."""
        return open_tree(self.root)

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Path, fingerprint and settings."""
        root, size, minival, val = self.root, self.image_size, self.minival_share, self.val_share
        if size != "auto" and not 1 <= size <= MAX_IMAGE_SIZE:
            raise ValueError(
                f"image_size is {size}, expected 1 to {MAX_IMAGE_SIZE} pixels, or auto"
            )
        if self.fit not in FITS:
            raise ValueError(f"fit is {self.fit!r}, expected {', '.join(FITS)}")
        if not (minival >= 0 and val >= 0 and minival + val < 1):
            given = f"minival_share {minival} and val_share {val}"
            raise ValueError(f"{given} must not be negative and together be under 1")
        settings: dict[str, Any] = {"image_size": size, "minival_share": minival, "val_share": val}
        settings["fit"] = self.fit
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
            class_names, rows, notes = self._rows()
            index = self._sized(assemble(class_names, rows))
            notes = (*notes, *_notes(class_names, rows), *index.notes)
            if hidden := hidden_image_folders(self.tree):
                notes += (f"hidden folders with images are left out: {few(map(repr, hidden))}",)
            return dataclasses.replace(index, notes=notes)
        except OSError as error:
            raise inaccessible(error) from error

    def decode(self, row: int) -> npt.NDArray[np.uint8]:
        """Read one image as uint8 (S, S, 3)."""
        image = self.tree.read(self.index.files[row])
        return load_square(image, self.index.image_size, self.fit)

    def _sized(self, index: DatasetIndex) -> DatasetIndex:
        """Set the size, and note what it costs where the images are smaller."""
        sides = []
        for file in index.files[:: -(-len(index.files) // NUM_MEASURED)]:
            with suppress(ValueError):  # decoding reports it
                sides.append(frame_side(self.tree.read(file), self.fit))
        side = median_low(sides) if sides else IMAGE_SIZE
        fitting = min(AUTO_SIZES, key=lambda size: abs(size - side))
        size, notes = self.image_size, index.notes
        if size == "auto":
            size = fitting
        elif size > fitting:
            cost = f"at {size} a training takes {(size / fitting) ** 2:.1f} times as long"
            notes += (
                f"most images have about {side} pixels; {cost} as at {fitting} (--size auto)",
            )
        return dataclasses.replace(index, image_size=size, notes=notes, extra={"fit": self.fit})

    def _rows(self) -> tuple[tuple[str, ...], Rows, tuple[str, ...]]:
        """List the classes, every image with its label by split, and notes."""
        layout = read_layout(self.tree, self.name, has_boxes=self.has_boxes)
        class_names = tuple(sorted(layout.splits["train"]))
        shares = (self.minival_share, 0 if "val" in layout.splits else self.val_share)
        rows: Rows = {split: [] for split in SPLITS}
        for label, class_name in enumerate(class_names):
            given = {split: own.get(class_name, []) for split, own in layout.splits.items()}
            given = split_images(given.pop("train"), layout.depth, *shares) | given
            for split, images in given.items():
                rows[split] += [(label, image) for image in images]
        rows["test"] += [(-1, image) for image in layout.unlabeled]
        for split in SPLITS:
            rows[split].sort(key=lambda row: (row[0] < 0, row[0], nfc(row[1])))  # unlabeled last
        return class_names, rows, layout.notes


def split_counts(num_images: int, *, minival_share: float, val_share: float) -> tuple[int, int]:
    """Return how many of a class's images go to (minival, val); train keeps at least one.

    A single image stays in train, of two one is val, from three on there is one in minival too.
    """

    def count(share: float) -> int:
        return max(1, int(num_images * share + 0.5)) if share else 0

    num_val = min(count(val_share), num_images - 1)
    return min(count(minival_share), num_images - 1 - num_val), num_val


def split_images(images: list[str], depth: int, minival: float, val: float) -> dict[str, list[str]]:
    """Divide a class's images by their names below the first `depth` folders."""
    num_minival, num_val = split_counts(len(images), minival_share=minival, val_share=val)

    def key(image: str) -> tuple[bytes, str]:
        name = image.split("/", depth)[depth]
        return hashlib.sha256(nfc(name).encode()).digest(), name

    ranked = sorted(images, key=key)
    first = len(ranked) - num_minival
    return {"train": ranked[num_val:first], "minival": ranked[first:], "val": ranked[:num_val]}


def assemble(class_names: tuple[str, ...], rows: Rows) -> DatasetIndex:
    """Make an index of labeled images without boxes."""
    ordered = [row for split in SPLITS for row in rows[split]]
    return DatasetIndex(
        image_size=IMAGE_SIZE,
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
            count = f"{len(missing)} of {pluralize(len(class_names), 'class')}"
            notes.append(f"no image in {split} for {count}: {few(missing)}")
    return tuple(notes)


def inaccessible(error: OSError) -> ValueError:
    """Return the error that names a file or folder that cannot be read."""
    return ValueError(f"cannot read {error.filename!r}: {error.strerror}; repair or remove it")
