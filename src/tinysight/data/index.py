"""What a source holds before a pixel is decoded: its form and its checks; duplicates, once its
pixels are known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tinysight.data.decoding import Failure

SPLITS = ("train", "minival", "val", "test")


@dataclass(frozen=True, kw_only=True)
class DatasetIndex:
    """What a source holds before a pixel is decoded, rows in pack order (N rows, M boxes, K
    classes).
    """

    name: str
    image_size: int
    class_names: tuple[str, ...]  # K, for people: "goldfish"
    class_ids: tuple[str, ...]  # K, stable: a wnid or a folder's name
    splits: dict[
        str, tuple[int, int]
    ]  # half-open row ranges, in the order of SPLITS, together [0, N)
    files: tuple[str, ...]  # N names, relative to the source
    labels: npt.NDArray[np.int64]  # (N,), -1 where there is none
    boxes: npt.NDArray[np.float32]  # (M, 4)
    box_labels: npt.NDArray[np.int64]  # (M,)
    box_offsets: npt.NDArray[np.int64]  # (N + 1,)
    source: dict[
        str, Any
    ]  # kind, path, fingerprint; settings where the same files can give different packs
    notes: tuple[str, ...] = field(
        default=()
    )  # what a person should know of this data, a line each
    extra: dict[str, Any] = field(
        default_factory=dict
    )  # goes into the manifest as it is; JSON values


def check_index(listing: DatasetIndex) -> None:
    """Raise ValueError where a listing contradicts itself."""
    check_name(listing.name)
    num, num_boxes, num_classes = len(listing.files), len(listing.boxes), len(listing.class_names)

    def require(holds: bool | np.bool_, what: str) -> None:
        if not holds:
            raise ValueError(f"the listing of {listing.name!r} is wrong: {what}")

    require(listing.image_size >= 1, f"image_size is {listing.image_size}, expected at least 1")
    require(num >= 1, "there is no image in it")
    require(
        num_classes >= 1 and len(listing.class_ids) == num_classes,
        "class_names and class_ids differ in number",
    )
    for title, names in (
        ("class name", listing.class_names),
        ("class id", listing.class_ids),
        ("file", listing.files),
    ):
        if len(set(names)) < len(names):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            require(False, f"the {title} {twice!r} comes twice")
    require(
        list(listing.splits) == [s for s in SPLITS if s in listing.splits],
        f"splits must be of {SPLITS}, in order",
    )
    edges = [0] + [edge for bounds in listing.splits.values() for edge in bounds] + [num]
    joined = all(edges[i] == edges[i + 1] for i in range(0, len(edges), 2)) and edges == sorted(
        edges
    )
    require(joined, f"the splits {listing.splits} do not cover rows 0..{num} one behind the other")
    for title, array, dtype, shape in (
        ("labels", listing.labels, np.int64, (num,)),
        ("boxes", listing.boxes, np.float32, (num_boxes, 4)),
        ("box_labels", listing.box_labels, np.int64, (num_boxes,)),
        ("box_offsets", listing.box_offsets, np.int64, (num + 1,)),
    ):
        fits = array.dtype == dtype and array.shape == shape
        require(fits, f"{title} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")
    for title, labels, least in (
        ("labels", listing.labels, -1),
        ("box_labels", listing.box_labels, 0),
    ):
        off = np.flatnonzero((labels < least) | (labels >= num_classes))
        require(
            not off.size,
            f"{title}[{off[:1]}] is {labels[off[:1]]}, expected {least}..{num_classes - 1}",
        )
    offsets = listing.box_offsets
    rising = offsets[0] == 0 and offsets[-1] == num_boxes and (np.diff(offsets) >= 0).all()
    require(rising, f"box_offsets must rise from 0 to {num_boxes}")
    x0, y0, x1, y1 = listing.boxes.T
    inside = (
        (x0 >= 0)
        & (y0 >= 0)
        & (x1 <= listing.image_size)
        & (y1 <= listing.image_size)
        & (x0 < x1)
        & (y0 < y1)
    )
    if not inside.all():  # also where one is not a number
        box = int(np.flatnonzero(~inside)[0])
        file = listing.files[int(np.searchsorted(offsets, box, side="right")) - 1]
        require(
            False,
            f"box {listing.boxes[box].tolist()} of {file} is empty, inverted or outside the image",
        )


def check_name(name: str) -> None:
    """Raise ValueError where a name cannot be that of a pack: it becomes a folder."""
    if not re.fullmatch(r"\w[\w .+-]{0,99}", name) or name != name.strip():
        raise ValueError(
            f"a pack cannot be named {name!r}; use letters, digits, and . _ - + or spaces inside"
        )


def without_rows(
    listing: DatasetIndex,
    keep: npt.NDArray[np.bool_],
    failures: list[Failure],
    what: str = "unreadable images",
) -> DatasetIndex:
    """Leave out the rows where `keep` (N,) is false, with their boxes, and say so in the notes.
    Raises ValueError.
    """
    if not keep.any():
        raise ValueError(f"all of the {len(keep)} are {what}; the first: {failures[0][1]}")
    before = np.concatenate([[0], np.cumsum(keep)])  # kept rows before each row
    counts = np.diff(listing.box_offsets)
    keep_boxes = np.repeat(keep, counts)
    splits = {
        name: (int(before[start]), int(before[stop]))
        for name, (start, stop) in listing.splits.items()
    }
    notes = (f"{len(failures)} {what} were left out", *(f"left out: {why}" for _, why in failures))
    return replace(
        listing,
        splits={name: bounds for name, bounds in splits.items() if bounds[0] < bounds[1]},
        files=tuple(file for file, kept in zip(listing.files, keep, strict=True) if kept),
        labels=listing.labels[keep],
        boxes=listing.boxes[keep_boxes],
        box_labels=listing.box_labels[keep_boxes],
        box_offsets=np.concatenate([[0], np.cumsum(counts[keep])]).astype(np.int64),
        notes=listing.notes + notes,
    )


def find_duplicates(
    listing: DatasetIndex, digests: npt.NDArray[np.uint8]
) -> list[dict[str, list[Any]]]:
    """Group images of identical pixels that carry different labels or lie in different splits.

    Each group is {"files", "labels" (class ids, None where there is none), "splits"}, in row order.
    """
    keys = digests.view("<u8")[:, 0]  # 8 of 32 bytes to sort by; the whole digest decides
    values, counts = np.unique(keys, return_counts=True)
    groups: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(np.isin(keys, values[counts > 1])):
        groups.setdefault(digests[row].tobytes(), []).append(int(row))
    found: list[dict[str, list[Any]]] = []
    for rows in groups.values():
        labels = [int(listing.labels[row]) for row in rows]
        splits = [
            next(name for name, (start, stop) in listing.splits.items() if start <= row < stop)
            for row in rows
        ]
        if len({label for label in labels if label >= 0}) > 1 or len(set(splits)) > 1:
            ids = [listing.class_ids[label] if label >= 0 else None for label in labels]
            found.append(
                {"files": [listing.files[row] for row in rows], "labels": ids, "splits": splits}
            )
    return found


def duplicate_notes(duplicates: list[dict[str, list[Any]]]) -> list[str]:
    """Count the groups of `find_duplicates` for people, a line each kind."""
    conflicts = sum(len(set(group["labels"]) - {None}) > 1 for group in duplicates)
    across = sum(len(set(group["splits"])) > 1 for group in duplicates)
    notes = []
    if conflicts:
        notes.append(
            f"{conflicts} groups of identical images carry different labels (manifest: duplicates)"
        )
    if across:
        notes.append(
            f"{across} groups of identical images lie in more than one split (manifest: duplicates)"
        )
    return notes
