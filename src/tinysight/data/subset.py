"""One class out of a pack, as a pack of its own: the regime of Wu et al. 2017, section 3.5
(goldfish, 400 and 100).

The classes are the one and "other". Its train and minival images of the source are dealt into
folds; the fold held out is the new minival, the rest the new train, and both get images of ten
other classes beside them, which hold nothing to find. The source's val images of all these are
the new val. A deal follows from the file names and a fixed seed by raw Philox numbers, which
numpy promises never to change; `goldfish-folds.txt` has it written out for the report's class."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinysight.data import build
from tinysight.data.dataset import Dataset
from tinysight.data.decoding import Decode, Progress
from tinysight.data.index import DatasetIndex

Ints = npt.NDArray[np.int64]

VERSION = (
    1  # of the deal: part of the fingerprint, so that a changed one is never taken for an old one
)
SEED = 0
FOLDS = 5
NUM_OTHERS = 10
OTHER = "other"


def slug(name: str) -> str:
    """Write a class's name as part of a pack's name: "Egyptian cat" is egyptian-cat."""
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")


def find_class(source: Dataset, name: str) -> int:
    """Return the index of a class by name, by id (a wnid) or by slug, in any case. Raises
    ValueError, with a hint.
    """
    for names in (source.class_names, source.class_ids):
        if name in names:
            return names.index(name)
    for names in (source.class_names, source.class_ids):
        same = [
            index
            for index, one in enumerate(names)
            if name.lower() == one.lower() or slug(name) == slug(one)
        ]
        if len(same) == 1:
            return same[0]
        if same:
            few = ", ".join(repr(names[index]) for index in same[:5])
            raise ValueError(
                f"{name!r} can be several classes of {source.name}: {few}; write one of them in full"
            )
    lower = {one.lower(): one for one in source.class_names}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    hint = (
        f"did you mean {lower[close[0]]!r}?"
        if close
        else f"there are {', '.join(source.class_names[:5])}, ..."
    )
    raise ValueError(f"{source.name} has no class {name!r}; {hint}")


def pack_name(
    source_name: str,
    class_slug: str,
    *,
    fold: int = 0,
    negatives: int | None = None,
    kind: str | None = None,
) -> str:
    """Name a pack made for one class: source.class, then .foldK and .negativesN where not the
    default, or a kind.
    """
    parts = [source_name, class_slug]
    parts += [f"fold{fold}"] if fold else []
    parts += [] if negatives is None else [f"negatives{negatives}"]
    return ".".join([*parts, kind] if kind else parts)


def deal(files: Sequence[str], *, folds: int = FOLDS, seed: int = SEED) -> Ints:
    """Deal files into folds (N,) of as equal size as can be; only the names and the seed decide,
    not their order.
    """
    dealt = np.empty(len(files), np.int64)
    dealt[_shuffled(files, seed, 0)] = np.arange(len(files)) * folds // max(len(files), 1)
    return dealt


def bundled_folds() -> dict[str, int]:
    """Read the list that ships with the package: the fold of each of the 500 goldfish images
    (n01443537).
    """
    text = (resources.files("tinysight.data") / "goldfish-folds.txt").read_text("utf-8")
    pairs = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {file: int(fold) for file, fold in pairs}


@dataclass(frozen=True)
class Copy:
    """Give rows of a source pack again: the decoder of a pack that holds some of its images."""

    source: Dataset
    rows: tuple[int, ...]

    def __call__(self, row: int) -> npt.NDArray[np.uint8]:
        return np.array(self.source.images[self.rows[row]])


def listing(
    source: Dataset,
    label: int,
    *,
    name: str,
    fold: int = 0,
    folds: int = FOLDS,
    negatives: int | None = None,
) -> tuple[DatasetIndex, Decode]:
    """List the one-class pack of the source's class `label`, holding out fold `fold` of `folds` as
    minival.

    `negatives` images of other classes go with the class's own in train and minival (None: as
    many as those, 0: none, in val either); an image that holds the class beside another is never
    among them. Only the class's boxes are kept. Raises ValueError: the class has fewer than two
    images a fold, or no boxes; numbers out of range."""
    title = f"{source.class_names[label]} of {source.name}"
    _check_numbers(fold, folds, negatives)
    choosing = _rows(source, ("train", "minival"))
    holds = holding(source, label)
    labeled = choosing[source.labels[choosing] == label]
    own = labeled[holds[labeled]]
    if len(labeled) and not len(own):
        raise ValueError(
            f"{title} has no boxes; a localizer needs a pack with boxes, as tiny-imagenet or shapes"
        )
    if len(own) < 2 * folds:
        raise ValueError(
            f"{title} has {len(own)} images with boxes to choose on, {folds} folds need {2 * folds}"
        )
    own_folds = deal([source.files[row] for row in own], folds=folds)
    num_negatives = len(own) if negatives is None else negatives
    others = _other_classes(source, label) if num_negatives else []
    other, other_folds = _negatives(
        source, others, choosing[~holds[choosing]], num_negatives, folds
    )
    reporting = _rows(source, ("val",))
    is_other = np.isin(source.labels[reporting], others) & ~holds[reporting]
    rows = {
        "train": np.concatenate([own[own_folds != fold], other[other_folds != fold]]),
        "minival": np.concatenate([own[own_folds == fold], other[other_folds == fold]]),
        "val": np.concatenate(
            [reporting[(source.labels[reporting] == label) & holds[reporting]], reporting[is_other]]
        ),
    }
    ends = np.cumsum([len(part) for part in rows.values()]).tolist()
    chosen = np.concatenate(list(rows.values()))
    boxes, box_offsets = boxes_of_class(source, label, chosen)
    missing = len(labeled) - len(own)
    notes = [f"{missing} images of the class have no box and were left out"] if missing else []
    found = DatasetIndex(
        name=name,
        image_size=source.image_size,
        class_names=class_list(source, label)[0],
        class_ids=class_list(source, label)[1],
        splits={
            split: (end - len(part), end)
            for (split, part), end in zip(rows.items(), ends, strict=True)
        },
        files=tuple(source.files[row] for row in chosen),
        labels=np.where(holds[chosen], 0, 1).astype(np.int64),
        boxes=boxes,
        box_labels=np.zeros(len(boxes), np.int64),
        box_offsets=box_offsets,
        source=_source(source, label, fold, folds, negatives),
        notes=(*notes, f"a model trained on all of {source.name} has seen this minival"),
        extra={
            "class": source.class_ids[label],
            "fold": fold,
            "folds": folds,
            "others": [source.class_ids[one] for one in others],
        },
    )
    return found, Copy(source, tuple(chosen.tolist()))


def prepare(
    source: Dataset,
    class_name: str,
    *,
    home: Path,
    fold: int = 0,
    folds: int = FOLDS,
    negatives: int | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    replace: bool = False,
    say: build.Say | None = None,
) -> Dataset:
    """Make the one-class pack of a class (name or wnid), or open it where it is made; see `listing`
    and `pack_name`.
    """
    label = find_class(source, class_name)
    _check_numbers(fold, folds, negatives)
    name = name or pack_name(
        source.name, class_slug(source, label, class_name), fold=fold, negatives=negatives
    )
    return build.prepare(
        name,
        lambda: listing(source, label, name=name, fold=fold, folds=folds, negatives=negatives),
        _source(source, label, fold, folds, negatives),
        home=home,
        workers=1,  # nothing to decode
        progress=progress,
        replace=replace,
        say=say,
    )


def class_slug(source: Dataset, label: int, given: str) -> str:
    """Write a class as part of a pack's name, by its id where it was given by that, else by its
    name.
    """
    by_id = given.lower() == source.class_ids[label].lower()
    return slug(source.class_ids[label] if by_id else source.class_names[label])


def class_list(source: Dataset, label: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the names and the ids of the two classes of every pack made for one class."""
    name, wnid = source.class_names[label], source.class_ids[label]
    other = OTHER if OTHER not in (name, wnid) else f"not {OTHER}"
    return (name, other), (wnid, other)


def holding(source: Dataset, label: int) -> npt.NDArray[np.bool_]:
    """Mark the rows (N,) of a pack that have a box of a class, whatever else is in them."""
    counts = np.concatenate([[0], np.cumsum(source.box_labels == label)])
    held: npt.NDArray[np.bool_] = counts[source.box_offsets[1:]] > counts[source.box_offsets[:-1]]
    return held


def boxes_of_class(source: Dataset, label: int, rows: Ints) -> tuple[npt.NDArray[np.float32], Ints]:
    """Collect the boxes (M, 4) of a class in rows (n,), with their offsets (n + 1,)."""
    found = [source.boxes_of(row)[_box_labels(source, row) == label] for row in rows.tolist()]
    offsets = np.concatenate([[0], np.cumsum([len(boxes) for boxes in found])]).astype(np.int64)
    return np.concatenate([*found, np.zeros((0, 4), np.float32)]), offsets


def _box_labels(source: Dataset, row: int) -> Ints:
    return np.asarray(source.box_labels[source.box_offsets[row] : source.box_offsets[row + 1]])


def _check_numbers(fold: int, folds: int, negatives: int | None) -> None:
    if folds < 2 or not 0 <= fold < folds:
        raise ValueError(
            f"fold is {fold} of {folds}; give two folds or more, and one from 0 to {folds - 1}"
        )
    if negatives is not None and negatives < 0:
        raise ValueError(f"negatives is {negatives}; give a number of images, 0 or more")


def _source(
    source: Dataset, label: int, fold: int, folds: int, negatives: int | None
) -> dict[str, object]:
    number = "as-many" if negatives is None else negatives
    settings = f"{source.class_ids[label]}-fold{fold}of{folds}-negatives-{number}-of{NUM_OTHERS}-seed{SEED}"
    fingerprint = f"one-class{VERSION}-{source.digest}-{settings}"
    return {"kind": "one-class", "path": source.name, "fingerprint": fingerprint}


def _rows(source: Dataset, splits: tuple[str, ...]) -> Ints:
    """Return the rows of those splits that a pack has."""
    ranges = [np.arange(*source.splits[split]) for split in splits if split in source.splits]
    return np.concatenate([*ranges, np.zeros(0, np.int64)]).astype(np.int64)


def _shuffled(names: Sequence[str], seed: int, purpose: int) -> Ints:
    """Shuffle: the places of names (n,), whatever their order, in an order that they and the seed
    alone decide.
    """
    places = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    generator = np.random.Philox(key=np.array([seed, purpose], np.uint64))
    keys = np.array([generator.random_raw() for _ in names], np.uint64)
    return places[np.argsort(keys, kind="stable")]


def _other_classes(source: Dataset, label: int) -> list[int]:
    """Choose the classes of the negatives."""
    there = np.unique(source.labels[_rows(source, ("train", "minival"))])
    able = [int(one) for one in there if one >= 0 and one != label]
    order = _shuffled([source.class_ids[one] for one in able], SEED, 1)
    return sorted(able[place] for place in order[:NUM_OTHERS])


def _negatives(
    source: Dataset, others: list[int], rows: Ints, number: int, folds: int
) -> tuple[Ints, Ints]:
    """Take `number` images out of rows, classes in turn, and deal each class's into folds: (n,)
    rows, (n,) folds.
    """
    queues = []
    for label in others:
        own = rows[source.labels[rows] == label]
        queues.append(own[_shuffled([source.files[row] for row in own], SEED, 2)].tolist())
    longest = max(map(len, queues), default=0)
    taken = [
        (
            queue[place],
            (place + turn) % folds,
        )  # the turn: so that a fold has a like share of every class
        for place in range(longest)
        for turn, queue in enumerate(queues)
        if place < len(queue)
    ]
    taken = sorted(taken[:number])
    return np.array([row for row, _ in taken], np.int64), np.array(
        [fold for _, fold in taken], np.int64
    )
