"""Boxes of your own images: what annotation files state, checked against the images.

`annotation_formats` reads the files. Here their names are matched with images, shares and
coordinates that count from 1 become half-open pixels of the upright image, what cannot be right is
collected, and boxes are moved into the square that is kept of an image.

A name is an image's path below the folder or the end of one, with or without its suffix, as long as
it fits one image only; one with the suffix counts more than one without, and a path than its end.
Of an absolute path, the longest end that fits one counts. How accents are encoded does not matter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import few
from tinysight.data.tree import Tree
from tinysight.images import Fit, frame_of, upright_size
from tinysight.text import pluralize

MIN_SIDE = 0.1  # pixels of a box
OVERSHOOT = 1.0  # pixels by which a box may extend beyond its image: tools round
SHARE_OVERSHOOT = 0.01  # the same where all boxes are shares of the image's sides
MIN_KEPT = 0.5  # share of its area that a box keeps in the square, as in training

UNLABELED = ("error", "skip", "empty")
ORIGINS = ("auto", "0", "1")
Corners = npt.NDArray[np.float64]  # (N, 4): x0, y0, x1, y1


class AnnotatedBox(NamedTuple):
    """A box as it is stated, with its class ("": none stated)."""

    corners: tuple[float, float, float, float]  # x0, y0, x1, y1; NaN where it is not readable
    class_name: str
    where: str  # "line 3 of a.csv has the box '1,2,3,4'"


class AnnotatedImage(NamedTuple):
    """All that is stated about one image; without a box it shows no object."""

    names: tuple[str, ...]  # the first that fits an image counts
    boxes: tuple[AnnotatedBox, ...]
    size: tuple[int, int] | None = None  # width and height, where they are stated


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The content of a file or folder of boxes."""

    name: str  # of the file or folder, for messages
    form: str  # "Pascal VOC"
    digest: str  # of the content
    images: tuple[AnnotatedImage, ...]
    shares: bool = False  # the format states shares of the image's sides, not pixels
    counts_from_one: bool = False  # the format counts pixels from 1, where it is kept to
    notes: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes that are stated, sorted."""
        found = {box.class_name for image in self.images for box in image.boxes}
        return tuple(sorted(found - {""}))


@dataclass(frozen=True)
class BoxRules:
    """What to do where annotations and images do not agree.

    Images without an annotation are an error, left out, or taken as showing no object; unusable
    boxes are an error, or left out; coordinates count from 0, from 1, or as the data shows.
    """

    unlabeled: str = "error"
    skip_bad: bool = False
    origin: str = "auto"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("unlabeled", self.unlabeled, UNLABELED),
            ("boxes-origin", self.origin, ORIGINS),
        ):
            if value not in known:
                raise ValueError(f"--{name} is {value!r}; expected {', '.join(known)}")


class ImageBoxes(NamedTuple):
    """The boxes of one image in pixels of the upright image, not clipped."""

    boxes: Corners
    class_names: tuple[str, ...]  # N, "" if not stated
    size: tuple[int, int]  # width and height of the image; 0, 0 if it has no box


class SquareBoxes(NamedTuple):
    """The boxes of one image in its square."""

    boxes: npt.NDArray[np.float32]  # (N, 4), clipped
    class_names: tuple[str, ...]
    cut: bool  # the square cuts most of an object away, but not all of it


def nfc(text: str) -> str:
    """Normalize a name: macOS separates accents from letters, Linux keeps names as written."""
    return unicodedata.normalize("NFC", text)


def match_boxes(
    annotations: Annotations,
    tree: Tree,
    images: Sequence[str],
    rules: BoxRules,
    *,
    optional: Collection[str] = (),
) -> tuple[dict[str, ImageBoxes], tuple[str, ...]]:
    """Return the boxes of each image (a path in `tree`) that is kept, and what to know of them.

    Images in `optional` need no annotation. An unreadable image has no boxes: decoding reports it.
    Raises ValueError where names and images do not fit together, for unusable boxes (outside of
    their image, without extent) unless `rules` skips these, and if no box remains.
    """
    matched, notes = _match_names(annotations, tree, images, rules, optional)
    sizes: dict[str, tuple[int, int]] = {}
    for image, entry in matched.items():
        if entry.boxes:
            with suppress(ValueError):
                sizes[image] = upright_size(tree.read(image))
    corners, origin, how = _to_pixels(annotations, matched, sizes, rules.origin)
    faults: list[str] = []
    found: dict[str, ImageBoxes] = {}
    repeated = 0
    for image, entry in matched.items():
        if image not in sizes:
            found[image] = ImageBoxes(np.zeros((0, 4)), (), (0, 0))
            continue
        reasons = _faults(image, entry, corners[image], sizes[image], origin)
        faults += [why for why in dict.fromkeys(reasons) if why]
        good = [not why for why in reasons]
        places = {box[:2]: place for place, box in enumerate(entry.boxes) if good[place]}
        repeated += sum(good) - len(places)
        if kept := list(places.values()):
            classes = tuple(entry.boxes[place].class_name for place in kept)
            found[image] = ImageBoxes(corners[image][kept], classes, sizes[image])
    if faults and not rules.skip_bad:
        raise ValueError(
            f"{pluralize(len(faults), 'box')} cannot be used: {few(faults, '; ')}; correct, or "
            "leave out (--skip-bad-boxes)"
        )
    if not any(len(own.boxes) for own in found.values()):
        why = f": {few(faults, '; ')}" if faults else ""
        raise ValueError(
            f"{annotations.name} has no usable box of a readable image in {tree.path}{why}"
        )
    notes = [f"boxes: {annotations.form}, {how}", *annotations.notes, *notes]
    if repeated:
        notes.append(f"{pluralize(repeated, 'box')} stated twice, which counts once")
    if faults:
        notes.append(f"{pluralize(len(faults), 'box')} that cannot be used left out")
        notes += [f"left out: {why}" for why in faults]
    if lost := [repr(image) for image in matched if image not in found]:
        notes.append(f"{pluralize(len(lost), 'image')} without a usable box left out: {few(lost)}")
    return found, tuple(notes)


def in_square(found: ImageBoxes, side: int, fit: Fit) -> SquareBoxes:
    """Move an image's boxes, clipped to it, into its square, resized to `side`."""
    if not len(found.boxes):
        return SquareBoxes(np.zeros((0, 4), np.float32), (), False)
    moved = frame_of(*found.size, fit).to_square(found.boxes.clip(0, found.size * 2), side)
    kept, cut = _kept(found, fit)
    class_names = tuple(compress(found.class_names, kept))
    return SquareBoxes(moved[kept].clip(0, side).astype(np.float32), class_names, cut)


def kept_classes(found: ImageBoxes, fit: Fit) -> set[str]:
    """Return the classes of the boxes that an image's square keeps, of whatever side."""
    return set(compress(found.class_names, _kept(found, fit)[0])) if len(found.boxes) else set()


def _kept(found: ImageBoxes, fit: Fit) -> tuple[npt.NDArray[np.bool_], bool]:
    """Return which boxes (N,) the square keeps, and whether it cuts most of one away, not all."""
    frame, whole = frame_of(*found.size, fit), found.boxes.clip(0, found.size * 2)
    ends = (frame.left + frame.width, frame.top + frame.height)
    shown = whole.clip((frame.left, frame.top) * 2, ends * 2)
    area, all_of_it = ((own[:, 2:] - own[:, :2]).prod(axis=1) for own in (shown, whole))
    kept: npt.NDArray[np.bool_] = area / all_of_it >= MIN_KEPT
    return kept, bool(((area > 0) & ~kept).any())


def _match_names(
    annotations: Annotations,
    tree: Tree,
    images: Sequence[str],
    rules: BoxRules,
    optional: Collection[str],
) -> tuple[dict[str, AnnotatedImage], list[str]]:
    """Return what is stated of each image, and notes; see `match_boxes` for what is refused."""
    where, notes, unknown = annotations.name, [], []
    candidates = _ends_of_paths(images, (tree.path.parent.name, tree.path.name))
    stated: dict[str, AnnotatedImage] = {}
    used: dict[str, str] = {}
    for entry in annotations.images:
        name, fitting = _fitting(entry.names, candidates)
        if len(fitting) > 1:
            found = few(map(repr, fitting))
            raise ValueError(f"{where} names {name!r}, which may be {found}; give the full path")
        if not fitting:
            unknown.append(repr(name))
            continue
        if (other := used.setdefault(fitting[0], name)) != name or fitting[0] in stated:
            raise ValueError(f"{where} names one image twice, as {other!r} and {name!r}")
        stated[fitting[0]] = entry
    if unknown:
        what = f"names {pluralize(len(unknown), 'image')} not among the {len(images)} in "
        what += f"{tree.path.name!r}: {few(unknown)}"
        if not stated or not rules.skip_bad:
            raise ValueError(
                f"{where} {what}; expected paths below the folder, or the ends of these; correct "
                "them, or leave them out (--skip-bad-boxes)"
            )
        notes.append(f"{where} {what}; left out")
    if missing := [image for image in images if image not in stated and image not in optional]:
        names = few(map(repr, missing))
        if rules.unlabeled == "error":
            noted = "".join(f" ({note})" for note in annotations.notes)  # as of crowds
            raise ValueError(
                f"{where} does not mention {pluralize(len(missing), 'image')}: {names}{noted}; "
                "give boxes, or only a name where there is no object; or leave them out by "
                "--unlabeled skip, or choose --unlabeled empty if none shows an object"
            )
        how = "left out" if rules.unlabeled == "skip" else "taken as showing no object"
        notes.append(f"{pluralize(len(missing), 'image')} without an annotation {how}: {names}")
    empty = {*missing, *optional} if rules.unlabeled == "empty" else {*optional}
    blank = AnnotatedImage((), ())
    kept = ((image, stated.get(image)) for image in images)
    return {i: e or blank for i, e in kept if e is not None or i in empty}, notes


def _ends_of_paths(images: Sequence[str], above: Sequence[str]) -> dict[str, list[str]]:
    """Map full paths and their ends, with and without suffix, to the images that they fit.

    A name with the suffix counts more than another image's without, and a full path than an end.
    Paths may begin with the names of the folders `above`, too.
    """
    found: tuple[dict[str, list[str]], ...] = ({}, {}, {}, {})
    for image in images:
        parts = [*above, *nfc(image).split("/")]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            for name in dict.fromkeys((end, end.removesuffix(Path(end).suffix))):
                rank = 2 * (name == end) + (start == len(above))
                found[rank].setdefault(name, []).append(image)
    without, entire_without, ends, entire = found
    return without | entire_without | ends | entire


def _fitting(names: Sequence[str], candidates: dict[str, list[str]]) -> tuple[str, list[str]]:
    """Return the first name that fits one image, with it; else the last, with all that it fits."""
    best: tuple[str, list[str]] = (names[-1], [])
    for name in names:
        tries = [name]
        if re.match(r"/|[A-Za-z]:/", name):  # the path on the machine of whoever drew the boxes
            parts = name.split("/")
            tries = ["/".join(parts[start:]) for start in range(1, len(parts))]
        found = next((candidates[end] for end in tries if end in candidates), [])
        if len(found) == 1:
            return name, found
        best = (name, found) if found else best
    return best


def _to_pixels(
    annotations: Annotations,
    matched: dict[str, AnnotatedImage],
    sizes: dict[str, tuple[int, int]],
    origin: str,
) -> tuple[dict[str, Corners], int, str]:
    """Return corners (N, 4) in half-open pixels per image; the origin, 0 or 1; and what was done.

    Where it is not given, the origin follows from the data: Pascal VOC counts from 1 and includes
    the last pixel, and many programs that write it count from 0.
    """
    stated = {
        image: np.array([box.corners for box in matched[image].boxes], np.float64)
        for image in sizes
    }
    values = np.concatenate([*stated.values(), np.zeros((0, 4))])
    values = values[np.isfinite(values).all(axis=1)]
    within = (-SHARE_OVERSHOOT, 1 + SHARE_OVERSHOOT)
    small = len(values) > 0 and within[0] <= values.min() and values.max() <= within[1]
    if annotations.shares or small:
        scaled = {image: own * np.tile(sizes[image], 2) for image, own in stated.items()}
        return scaled, 0, "as shares of the image's sides"
    first, why = int(origin == "1"), "given"
    if origin == "auto":
        first, why = 0, "as this format has it"
        if annotations.counts_from_one:
            at_end = sum(int((own[:, 2:] == sizes[i]).sum()) for i, own in stated.items())
            low = len(values) > 0 and values[:, :2].min() < 1
            first = int(not low)
            ends = f"{at_end or 'none'} of xmax and ymax are an image's width or height"
            why = "some begin before 1" if low else f"none begins before 1, {ends}"
            why += "" if low or at_end else "; otherwise --boxes-origin 0"
    shifted = {image: own - (first, first, 0, 0) for image, own in stated.items()}
    return shifted, first, f"in pixels counted from {first} ({why})"


def _faults(
    image: str, entry: AnnotatedImage, corners: Corners, size: tuple[int, int], origin: int
) -> list[str]:
    """Return why each box of an image cannot be used, "" where it can."""
    width, height = size
    if entry.size is not None and entry.size != size:
        states = f"states {entry.size[0]} x {entry.size[1]} pixels for {image!r}"
        why = f"{entry.boxes[0].where} and {states}, the image has {width} x {height}, upright"
        return [why] * len(entry.boxes)
    reasons = []
    for box, (x0, y0, x1, y1) in zip(entry.boxes, corners.tolist(), strict=True):
        why = ""
        if not np.isfinite((x0, y0, x1, y1)).all():
            why = "which is not four numbers"
        elif min(x1 - x0, y1 - y0) - origin < MIN_SIDE:
            why = f"of less than {MIN_SIDE} pixels per side"
        elif (
            max(-x0, -y0, x1 - width, y1 - height) > OVERSHOOT
            or max(x0 - width, y0 - height, -x1, -y1) >= 0
        ):
            why = f"which extends beyond the {width} x {height} pixels of {image!r}"
        reasons.append(why and f"{box.where}, {why}")
    return reasons
