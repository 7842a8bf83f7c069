"""Your own images with the labels of `corrections.jsonl`, which a person gave on the page.

A label belongs to a file's content, so that moved and renamed files are found. An image without one
has the class of its folder, as in `folder`, unless the file labels an image in a folder that had no
label before: then folders were not classes while the images were sorted, and it is left out, as is
an image outside of folders. Folders train, val and test above the images are kept as splits;
without them images are divided as in `folder`.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from tinysight.corrections import BoxCorrection, Correction, current_labels, read_corrections
from tinysight.data.annotations import nfc
from tinysight.data.dataset import SPLITS, DatasetIndex
from tinysight.data.folder import FolderSource, Rows, assemble, inaccessible, split_images
from tinysight.data.layout import SPLIT_NAMES, given_splits
from tinysight.data.tree import Tree, images_below
from tinysight.files import sha256
from tinysight.text import pluralize


@dataclass(frozen=True)
class CorrectedFolderSource(FolderSource):
    """A folder or zip of images and a file of corrections, as a `build.Source`.

    Every property raises ValueError in one line for what they can have wrong.
    """

    corrections: Path = field(kw_only=True)

    @cached_property
    def lines(self) -> tuple[Correction, ...]:
        """The content of the file."""
        return given_corrections(self.corrections)

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Path, fingerprint and settings, of which the labels are one."""
        origin = super().origin
        content = json.dumps(current_labels(self.lines), sort_keys=True).encode()
        own = {"corrections": hashlib.sha256(content).hexdigest()}
        return origin | {"settings": origin["settings"] | own}

    @cached_property
    def index(self) -> DatasetIndex:
        """The labeled images with their classes and splits."""
        try:
            images = images_below(self.tree, "", only_images=True)
            digests = {image: digest_of(self.tree, image) for image in images}
            found, notes = self._labels(digests)
            index = self._sized(assemble(*self._rows_of(found)))
            return replace(index, notes=(*notes, *index.notes))
        except OSError as error:
            raise inaccessible(error) from error

    def _labels(self, digests: dict[str, str]) -> tuple[dict[str, str], list[str]]:
        """Return the class of each labeled image, and what was applied."""
        given, labels = current_labels(self.lines), labels_of(digests, self.lines)
        applied = len(set(digests.values()) & set(given))
        notes = [f"{pluralize(applied, 'correction')} applied"]
        if lost := len(given) - applied:
            notes[0] += f"; {lost} of pictures that are not in {self.root.name!r}"
        if left := len(digests) - len(labels):
            notes.append(f"{pluralize(left, 'image')} without a label left out")
        if len(names := set(labels.values())) < 2:
            only = f"one class, {names.pop()!r}" if names else "no label"
            raise ValueError(
                f"{self.corrections.name} gives the images in {str(self.root)!r} {only}; a "
                f"classifier needs at least two ({notes[0]})"
            )
        return labels, notes

    def _rows_of(self, labels: dict[str, str]) -> tuple[tuple[str, ...], Rows]:
        class_names = tuple(sorted(set(labels.values())))
        aboves = _folders_above(list(labels))
        named_as_split = any(above and _is_split(above[0]) for above in aboves)
        is_class = named_as_split and not _has_splits(aboves)
        splits = {} if is_class else given_splits(list(labels))
        shares = (self.minival_share, 0 if "val" in splits.values() else self.val_share)
        depth = len(PurePosixPath(_common(list(labels))).parts)
        rows: Rows = {split: [] for split in SPLITS}
        for label, name in enumerate(class_names):
            images = [image for image, own in labels.items() if own == name]
            learned = [image for image in images if splits.get(image, "train") == "train"]
            divided = split_images(learned, depth, *shares) if learned else {}
            for split in SPLITS:
                held = [image for image in images if splits.get(image) == split != "train"]
                rows[split] += [(label, image) for image in (*divided.get(split, ()), *held)]
        for own_rows in rows.values():
            own_rows.sort(key=lambda row: (row[0], nfc(row[1])))
        return class_names, rows


def given_corrections(path: Path) -> tuple[Correction, ...]:
    """Return the content of a file that has to be there."""
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file; give a corrections.jsonl")
    return read_corrections(path)


def labels_of(digests: dict[str, str], lines: tuple[Correction, ...]) -> dict[str, str]:
    """Return the class of each image (with its SHA-256) that has one; see the module."""
    folders = class_folders(list(digests)) if folders_are_classes(digests, lines) else {}
    given = current_labels(lines)
    own = {image: nfc(given[digest]) for image, digest in digests.items() if digest in given}
    return {image: name for image, name in folders.items() if name} | own


def digest_of(tree: Tree, image: str) -> str:
    """Return the SHA-256 of an image's file, in hexadecimal."""
    file = tree.read(image)
    return sha256(file) if isinstance(file, Path) else hashlib.sha256(file.getvalue()).hexdigest()


def class_folders(images: list[str]) -> dict[str, str]:
    """Return the name of each image's class folder, "" outside of one.

    It is the first folder below the one that holds all images, and below folders of splits.
    """
    aboves = _folders_above(images)
    has_splits = _has_splits(aboves)
    found = {}
    for image, above in zip(images, aboves, strict=True):
        inner = above[1:] if has_splits and above[:1] and _is_split(above[0]) else above
        found[image] = nfc(inner[0]) if inner else ""
    return found


def _folders_above(images: list[str]) -> list[list[str]]:
    """Return the folders of each image, from below the one that holds all images."""
    depth = len(PurePosixPath(_common(images)).parts)
    return [image.split("/")[depth:-1] for image in images]


def _is_split(folder: str) -> bool:
    return folder.lower() in SPLIT_NAMES


def _has_splits(aboves: list[list[str]]) -> bool:
    """Whether folders are of splits: a bus, a car and a train without folders in it are classes."""
    tops = {above[0] for above in aboves if above}
    within = any(
        len(above) > 1 and SPLIT_NAMES.get(above[0].lower()) == "train" for above in aboves
    )
    return within or all(map(_is_split, tops))


def folders_are_classes(digests: dict[str, str], lines: tuple[Correction, ...]) -> bool:
    """Whether images (with their SHA-256) had the classes of their folders when labels were given.

    That is so unless an image in a folder is known to have had none.
    """
    about_labels = (line for line in reversed(lines) if not isinstance(line, BoxCorrection))
    first = {line.sha256: line.old for line in about_labels}
    folders = class_folders(list(digests))
    return not any(first.get(digests[i], "") is None for i, name in folders.items() if name)


def _common(images: list[str]) -> str:
    return posixpath.commonpath([posixpath.dirname(image) for image in images]) if images else ""
