"""Your own images with boxes: class folders, or any folder of images where boxes state classes.

In class folders an image has its folder's class, as in `folder`, and a box its image's, unless the
annotations state several classes, which then must be among the folder's. Everywhere else the
classes are those of the boxes, in code-point order, and an image has the class of the boxes that
its square keeps if they are all of one, else none (-1). Files that are not images are ignored
there, as labels lie next to images. Splits are those of folders called train, val (valid,
validation) and test (testing) above an image; without such folders images are divided as in
`folder`, those with the same rarest class as a class is: by their names below the folder that holds
them all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import posixpath
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np

from tinysight.corrections import Correction, current_boxes, current_labels
from tinysight.data.annotation_formats import read_annotations
from tinysight.data.annotations import (
    AnnotatedBox,
    AnnotatedImage,
    Annotations,
    BoxRules,
    ImageBoxes,
    SquareBoxes,
    in_square,
    kept_classes,
    match_boxes,
    nfc,
)
from tinysight.data.corrected_folder import (
    CorrectedFolderSource,
    digest_of,
    given_corrections,
    labels_of,
)
from tinysight.data.dataset import SPLITS, DatasetIndex, few, offsets
from tinysight.data.folder import (
    IMAGE_SIZE,
    FolderSource,
    Rows,
    assemble,
    inaccessible,
    split_images,
)
from tinysight.data.layout import SPLIT_NAMES, find_annotations, given_splits
from tinysight.data.tree import images_below
from tinysight.files import expand
from tinysight.images import Fit
from tinysight.text import pluralize

NO_RULES = BoxRules()
ONLY_CLASS = "object"  # where no class is stated


@dataclass(frozen=True)
class BoxedFolderSource(FolderSource):
    """A folder of images with boxes, as a `build.Source`.

    `boxes` is a file or folder for `annotation_formats.read_annotations`. Every property raises
    ValueError in one line for what a folder or its annotations can have wrong.
    """

    fit: Fit = "pad"  # no object is lost
    has_boxes: ClassVar[bool] = True
    boxes: Path = field(kw_only=True)
    rules: BoxRules = field(default=NO_RULES, kw_only=True)

    @cached_property
    def annotations(self) -> Annotations:
        """The content of the file or folder of boxes."""
        try:
            return read_annotations(self.boxes)
        except ValueError as error:
            form, path = find_annotations(self.tree) or ("", "")
            other = self.tree.path / path
            if form and self.tree.path.is_dir() and other.resolve() != self.boxes.resolve():
                raise ValueError(f"{error} (there is {form} in {str(other)!r})") from error
            raise

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Path, fingerprint and settings."""
        origin = super().origin
        own = {"boxes": self._digest, **dataclasses.asdict(self.rules)}
        return origin | {"settings": origin["settings"] | own}

    @property
    def _digest(self) -> str:
        return self.annotations.digest

    @cached_property
    def index(self) -> DatasetIndex:
        """The images with their classes, splits and boxes."""
        try:
            images = images_below(self.tree, "", only_images=True)
            stated = self.annotations.class_names
            if _has_class_folders(images, set(stated)):
                try:
                    index = super().index
                except ValueError:
                    if len(stated) != 1:  # one class may be that of all images, in any folders
                        raise
                else:
                    return self._of_class_folders(index)
            return self._of_boxes(images)
        except OSError as error:
            raise inaccessible(error) from error

    def _of_class_folders(self, index: DatasetIndex) -> DatasetIndex:
        """Add the boxes of labeled images to those of class folders."""
        labeled = [
            file for file, label in zip(index.files, index.labels, strict=True) if label >= 0
        ]
        optional = index.files[slice(*index.splits.get("test", (0, 0)))]
        found, notes = match_boxes(
            self.annotations, self.tree, labeled, self.rules, optional=optional
        )
        known = self.annotations.class_names
        names = dict(zip(index.class_names, range(len(index.class_names)), strict=True))
        if len(known) < 2:
            if {*known} - {*names}:
                what = f"the only class of the boxes, {known[0]!r}, is not used: "
                notes = (*notes, f"{what}images have the classes of their folders")
            names = {}  # a box has its image's class
        elif unknown := sorted(set(known) - set(names)):
            raise ValueError(
                f"{self.annotations.name} has boxes of {few(map(repr, unknown))}, and the folder's "
                f"classes are {few(map(repr, names))}; leave other boxes out of the file, or their "
                "class"
            )
        kept = np.array([file in found for file in index.files]) | (index.labels < 0)
        index = index.keep_rows(kept, notes)
        return _with_boxes(index, found, names, self.fit)

    def _of_boxes(self, images: list[str]) -> DatasetIndex:
        """Make an index of images whose classes are those of their boxes."""
        splits = given_splits(images)
        optional = {image for image in images if splits.get(image) == "test"}
        rules, where = self.rules, self.annotations.name
        found, notes = match_boxes(self.annotations, self.tree, images, rules, optional=optional)
        stated = {name for own in found.values() for name in own.class_names}
        if "" in stated:
            if len(stated) > 1:
                raise ValueError(f"{where} states a class for some boxes and not for others")
            notes = (*notes, f"no class is stated; the boxes are of the class {ONLY_CLASS!r}")
            found = {
                image: own._replace(class_names=(ONLY_CLASS,) * len(own.boxes))
                for image, own in found.items()
            }
        class_names = tuple(sorted(stated - {""})) or (ONLY_CLASS,)
        names = {name: label for label, name in enumerate(class_names)}
        rows = self._divide(found, splits, names)
        index = self._sized(assemble(class_names, rows))
        index = _with_boxes(index, found, names, self.fit)
        return dataclasses.replace(index, notes=(*notes, *index.notes, *_absent(index)))

    def _divide(
        self, found: dict[str, ImageBoxes], splits: dict[str, str], names: dict[str, int]
    ) -> Rows:
        """Label every image and give it a split."""
        rows: Rows = {split: [] for split in SPLITS}
        groups: dict[tuple[int, str], list[str]] = {}
        labels = {}
        number = Counter(name for own in found.values() for name in set(own.class_names))
        for image, own in found.items():
            classes, kept = set(own.class_names), kept_classes(own, self.fit)
            labels[image] = names[min(kept)] if len(kept) == 1 else -1
            if splits.get(image, "train") == "train":
                rarest = min(((number[name], name) for name in classes), default=(0, ""))
                groups.setdefault(rarest, []).append(image)
            else:
                rows[splits[image]].append((labels[image], image))
        shares = (self.minival_share, 0 if "val" in splits.values() else self.val_share)
        common = posixpath.commonpath([posixpath.dirname(image) for image in found])
        depth = len(PurePosixPath(common).parts)
        for images in groups.values():
            for split, part in split_images(images, depth, *shares).items():
                rows[split] += [(labels[image], image) for image in part]
        for own_rows in rows.values():
            own_rows.sort(key=lambda row: (row[0] < 0, row[0], nfc(row[1])))
        return rows


@dataclass(frozen=True)
class CorrectedBoxesSource(BoxedFolderSource):
    """Images with the boxes that a person gave on the page; `boxes` is a `corrections.jsonl`.

    An image whose boxes were not given is left out. A box without a class has its image's label.
    """

    @cached_property
    def lines(self) -> tuple[Correction, ...]:
        """The content of the file."""
        return given_corrections(self.boxes)

    @property
    def _digest(self) -> str:
        given = current_boxes(self.lines)
        boxes = {digest: [[*each.box, each.label] for each in own] for digest, own in given.items()}
        content = json.dumps([boxes, current_labels(self.lines)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def annotations(self) -> Annotations:
        """The boxes of the images that are there: by content, wherever they were moved."""
        images = images_below(self.tree, "", only_images=True)
        digests = {image: digest_of(self.tree, image) for image in images}
        given, labels = current_boxes(self.lines), labels_of(digests, self.lines)
        applied = len(set(digests.values()) & set(given))
        note = f"boxes of {pluralize(applied, 'image')} applied"
        if lost := len(given) - applied:
            note += f"; {lost} of pictures that are not in {self.root.name!r}"
        stated = []
        for image in images:
            where = f"{self.boxes.name} has for {image!r} the box "
            if (own := given.get(digests[image])) is not None:
                boxes = [
                    AnnotatedBox(b.box, nfc(b.label or labels.get(image, "")), f"{where}{b.box}")
                    for b in own
                ]
                stated.append(AnnotatedImage((nfc(image),), tuple(boxes)))
        if not applied:
            raise ValueError(f"{note}; give their folder, or take the labels by --only-labels")
        form = "given on the page"
        return Annotations(
            name=self.boxes.name, form=form, digest="", images=tuple(stated), notes=(note,)
        )

    @cached_property
    def index(self) -> DatasetIndex:
        """The images with their boxes."""
        try:
            return self._of_boxes(images_below(self.tree, "", only_images=True))
        except OSError as error:
            raise inaccessible(error) from error


def source_of(
    folder: str | Path,
    name: str,
    *,
    image_size: int | Literal["auto"] = IMAGE_SIZE,
    fit: Fit | None = None,
    boxes: str | Path | None = None,
    corrections: str | Path | None = None,
    only_labels: bool = False,
    rules: BoxRules = NO_RULES,
) -> FolderSource:
    """Return the source of a folder of images, with boxes where there are annotations.

    Boxes of corrections are taken unless `only_labels`. `fit` is "crop" without boxes and "pad"
    with them, if it is None. Raises ValueError where rules for boxes are given, and no boxes, or
    boxes and corrections, or what these do not use.
    """
    own: dict[str, Any] = {"image_size": image_size} | ({} if fit is None else {"fit": fit})
    if boxes is not None and corrections is not None:
        raise ValueError("--boxes and --corrections do not go together yet; give one of them")
    if only_labels and corrections is None:
        raise ValueError("--only-labels goes with --corrections")
    if boxes is not None:
        return BoxedFolderSource(expand(folder), name, boxes=expand(boxes), rules=rules, **own)
    if corrections is not None and not only_labels:
        given = expand(corrections)
        if any(current_boxes(given_corrections(given)).values()):
            if rules.origin == "1":
                raise ValueError("boxes of --corrections count from 0; leave out --boxes-origin 1")
            unlabeled = "skip" if rules.unlabeled == "error" else rules.unlabeled
            rules = BoxRules(unlabeled, rules.skip_bad, "0")
            return CorrectedBoxesSource(expand(folder), name, boxes=given, rules=rules, **own)
    if rules != NO_RULES:
        raise ValueError("--unlabeled, --skip-bad-boxes and --boxes-origin go with --boxes")
    if corrections is not None:
        given = expand(corrections)
        return CorrectedFolderSource(expand(folder), name, corrections=given, **own)
    return FolderSource(expand(folder), name, **own)


def _has_class_folders(images: list[str], stated: set[str]) -> bool:
    """Whether images lie in several folders that can be classes; see the module."""
    folders, loose = set(), False
    paths = [nfc(image).split("/") for image in images]
    while len({path[0] for path in paths}) == 1 and len(paths[0]) > 1:
        paths = [path[1:] for path in paths]  # a folder around everything
    for *above, _ in paths:
        split = SPLIT_NAMES.get(above[0].lower()) if above else None
        inner = above[1:] if split else above
        folders |= {*inner[:1]}
        loose |= not inner and split != "test"
    several = len(folders) > 1
    return several and (bool(stated & folders) or (len(stated) < 2 and not loose))


def _with_boxes(
    index: DatasetIndex, found: dict[str, ImageBoxes], names: dict[str, int], fit: Fit
) -> DatasetIndex:
    """Add boxes; drop images whose object the square cuts in two.

    A box has the label in `names` of its class, or its image's.
    """
    none = SquareBoxes(np.zeros((0, 4), np.float32), (), False)
    squares = [
        in_square(found[file], index.image_size, fit) if file in found else none
        for file in index.files
    ]
    box_labels = [
        names.get(name, label)
        for square, label in zip(squares, index.labels.tolist(), strict=True)
        for name in square.class_names
    ]
    index = dataclasses.replace(
        index,
        boxes=np.concatenate([square.boxes for square in squares]),
        box_labels=np.array(box_labels, np.int64),
        box_offsets=offsets([len(square.boxes) for square in squares]),
    )
    cut = np.array([square.cut for square in squares])
    if cut.any():
        files = [index.files[row] for row in np.flatnonzero(cut)]
        what = f"{pluralize(len(files), 'image')} whose center square shows less than half of an "
        what += "object (--fit pad shows all)"
        if cut.all():
            raise ValueError(f"there are only {what}; the first: {files[0]}")
        dropped = (f"left out: {file}" for file in files)
        index = index.keep_rows(~cut, (f"{what} left out", *dropped))
    if not len(index.boxes):
        raise ValueError("no object lies in the center square of its image; pad them (--fit pad)")
    return index


def _absent(index: DatasetIndex) -> list[str]:
    """Name the classes without a box in a split."""
    notes = []
    for split, (start, stop) in index.splits.items():
        labels = index.box_labels[index.box_offsets[start] : index.box_offsets[stop]]
        absent = sorted(set(range(len(index.class_names))) - set(labels.tolist()))
        if absent and split != "test":
            missing = few(repr(index.class_names[label]) for label in absent)
            notes.append(f"no box in {split} of {pluralize(len(absent), 'class')}: {missing}")
    return notes
