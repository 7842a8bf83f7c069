"""One class of a dataset, in folds and with negatives: a view of the dataset's own images.

The regime of Wu et al. 2017, section 3.5 (goldfish, 400 images to train on and 100 held out). The
classes are the one and "other". The train and minival images of the class are assigned to folds;
the fold held out is the new minival, the others the new train, and both get images of ten other
classes as negatives, which hold nothing to find. The val images of all these are the new val. The
assignment follows from the file names and a fixed seed by raw Philox numbers, which numpy promises
never to change; `goldfish-folds.txt` has it written out for the report's class.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import Dataset, DatasetIndex, View, few, make_view

Ints = npt.NDArray[np.int64]

VERSION = 1  # of the assignment: part of the digest
SEED = 0
FOLDS = 5
NUM_OTHERS = 10
OTHER = "other"


def slug(name: str) -> str:
    """Write a class's name as part of a dataset's name: "Egyptian cat" is egyptian-cat."""
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")


def find_class(dataset: Dataset, name: str) -> int:
    """Return the index of a class by name, id (a wnid) or slug, in any case."""
    for names in (dataset.class_names, dataset.class_ids):
        if name in names:
            return names.index(name)
    for names in (dataset.class_names, dataset.class_ids):
        same = [index for index, one in enumerate(names) if slug(name) == slug(one)]
        if len(same) == 1:
            return same[0]
        if same:
            raise ValueError(
                f"{name!r} can be several classes of {dataset.name}: "
                f"{few(repr(names[index]) for index in same)}; write one of them in full"
            )
    lower = {one.lower(): one for one in dataset.class_names}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    hint = (
        f"did you mean {lower[close[0]]!r}?"
        if close
        else f"there are {few(map(repr, dataset.class_names))}"
    )
    raise ValueError(f"{dataset.name} has no class {name!r}; {hint}")


def subset_name(dataset: str, class_slug: str, fold: int, negatives: int | None) -> str:
    """Name a one-class view: dataset.class, then .foldK and .negativesN if not the default."""
    parts = [dataset, class_slug]
    parts += [f"fold{fold}"] if fold else []
    parts += [] if negatives is None else [f"negatives{negatives}"]
    return ".".join(parts)


def class_slug(dataset: Dataset, label: int, given: str) -> str:
    """Write a class as part of a name: by its id if it was given by that, else by its name."""
    by_id = given.lower() == dataset.class_ids[label].lower()
    return slug(dataset.class_ids[label] if by_id else dataset.class_names[label])


def class_list(dataset: Dataset, label: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the names and the ids of the two classes of every view for one class."""
    name, wnid = dataset.class_names[label], dataset.class_ids[label]
    other = OTHER if OTHER not in (name, wnid) else f"not {OTHER}"
    return (name, other), (wnid, other)


def assign_folds(files: Sequence[str], *, folds: int = FOLDS, seed: int = SEED) -> Ints:
    """Assign files to folds (N,) of nearly equal size; only names and seed decide, not order."""
    assigned = np.empty(len(files), np.int64)
    assigned[_shuffled(files, seed, 0)] = np.arange(len(files)) * folds // max(len(files), 1)
    return assigned


def bundled_folds() -> dict[str, int]:
    """Read the bundled list: the fold of each of the 500 goldfish images (n01443537)."""
    text = (resources.files("tinysight.data") / "goldfish-folds.txt").read_text("utf-8")
    pairs = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {file: int(fold) for file, fold in pairs}


def has_class(dataset: Dataset, label: int) -> npt.NDArray[np.bool_]:
    """Mark the rows (N,) that have a box of a class, whatever else is in them."""
    counts = np.concatenate([[0], np.cumsum(dataset.box_labels == label)])
    marked: npt.NDArray[np.bool_] = (
        counts[dataset.box_offsets[1:]] > counts[dataset.box_offsets[:-1]]
    )
    return marked


@dataclass(frozen=True)
class _Rows:
    """Copy the images of some rows."""

    dataset: Dataset
    rows: tuple[int, ...]

    def __call__(self, row: int) -> npt.NDArray[np.uint8]:
        return np.array(self.dataset.images[self.rows[row]])


def one_class(
    dataset: Dataset,
    class_name: str,
    *,
    fold: int = 0,
    folds: int = FOLDS,
    negatives: int | None = None,
    name: str | None = None,
) -> Dataset:
    """View a class (name or id) of a dataset, with fold `fold` of `folds` held out as minival.

    `negatives` images of other classes go with the class's own in train and minival (None: as many
    as those, 0: none, in val either); images that hold the class next to another are never among
    them. Only the class's boxes are kept. Raises ValueError: the class has fewer than two images
    per fold, or no boxes; numbers out of range.
    """
    label = find_class(dataset, class_name)
    _check_numbers(fold, folds, negatives)
    holds = has_class(dataset, label)
    positives = _positives(dataset, label, holds, folds)
    rows, others = _choose_rows(dataset, label, holds, positives, fold, folds, negatives)
    chosen = np.concatenate(list(rows.values()))
    ends = np.cumsum([len(part) for part in rows.values()]).tolist()
    boxes, box_offsets = _boxes_of_class(dataset, label, chosen)
    labeled = dataset.labels[_rows(dataset, "train", "minival")] == label
    missing = int(labeled.sum()) - len(positives)
    notes = [f"{missing} images of the class have no box and were left out"] if missing else []
    names, ids = class_list(dataset, label)
    index = DatasetIndex(
        image_size=dataset.image_size,
        class_names=names,
        class_ids=ids,
        splits={
            split: (end - len(part), end)
            for (split, part), end in zip(rows.items(), ends, strict=True)
        },
        files=tuple(dataset.files[row] for row in chosen),
        labels=np.where(holds[chosen], 0, 1).astype(np.int64),
        boxes=boxes,
        box_labels=np.zeros(len(boxes), np.int64),
        box_offsets=box_offsets,
        notes=(*notes, f"a model trained on all of {dataset.name} has seen this minival"),
        extra={
            "class": dataset.class_ids[label],
            "fold": fold,
            "folds": folds,
            "others": [dataset.class_ids[other] for other in others],
        },
    )
    if name is None:
        name = subset_name(dataset.name, class_slug(dataset, label, class_name), fold, negatives)
    number = "as-many" if negatives is None else negatives
    return make_view(
        name,
        View(dataset, index, _Rows(dataset, tuple(chosen.tolist()))),
        kind="one-class",
        parameters=f"{VERSION}-{dataset.class_ids[label]}-fold{fold}of{folds}-negatives-{number}"
        f"-of{NUM_OTHERS}-seed{SEED}",
    )


def _check_numbers(fold: int, folds: int, negatives: int | None) -> None:
    if folds < 2 or not 0 <= fold < folds:
        raise ValueError(
            f"fold is {fold} of {folds}; give two folds or more, and a fold from 0 to {folds - 1}"
        )
    if negatives is not None and negatives < 0:
        raise ValueError(f"negatives is {negatives}; give a number of images, 0 or more")


def _positives(dataset: Dataset, label: int, holds: npt.NDArray[np.bool_], folds: int) -> Ints:
    """Return the train and minival rows of a class that have a box of it."""
    title = f"{dataset.class_names[label]} of {dataset.name}"
    rows = _rows(dataset, "train", "minival")
    labeled = rows[dataset.labels[rows] == label]
    positives: Ints = labeled[holds[labeled]]
    if len(labeled) and not len(positives):
        raise ValueError(
            f"{title} has no boxes; a localizer needs a dataset with boxes, "
            "such as tiny-imagenet or shapes"
        )
    if len(positives) < 2 * folds:
        raise ValueError(
            f"{title} has {len(positives)} images with boxes to choose from, "
            f"{folds} folds need {2 * folds}"
        )
    return positives


def _choose_rows(
    dataset: Dataset,
    label: int,
    holds: npt.NDArray[np.bool_],
    positives: Ints,
    fold: int,
    folds: int,
    num_negatives: int | None,
) -> tuple[dict[str, Ints], list[int]]:
    """Return the rows of each split, and the classes of the negatives."""
    positive_folds = assign_folds([dataset.files[row] for row in positives], folds=folds)
    number = len(positives) if num_negatives is None else num_negatives
    others = _other_classes(dataset, label) if number else []
    candidates = _rows(dataset, "train", "minival")
    candidates = candidates[~holds[candidates]]
    negatives, negative_folds = _negatives(dataset, others, candidates, number, folds)
    val = _rows(dataset, "val")
    is_positive = (dataset.labels[val] == label) & holds[val]
    is_negative = np.isin(dataset.labels[val], others) & ~holds[val]
    rows = {
        "train": [positives[positive_folds != fold], negatives[negative_folds != fold]],
        "minival": [positives[positive_folds == fold], negatives[negative_folds == fold]],
        "val": [val[is_positive], val[is_negative]],
    }
    return {split: np.concatenate(parts) for split, parts in rows.items()}, others


def _other_classes(dataset: Dataset, label: int) -> list[int]:
    """Choose the classes of the negatives."""
    present = np.unique(dataset.labels[_rows(dataset, "train", "minival")]).tolist()
    classes = [one for one in present if one >= 0 and one != label]
    order = _shuffled([dataset.class_ids[one] for one in classes], SEED, 1)
    return sorted(classes[place] for place in order[:NUM_OTHERS])


def _negatives(
    dataset: Dataset, others: list[int], rows: Ints, number: int, folds: int
) -> tuple[Ints, Ints]:
    """Take `number` images out of rows, classes in turn; return rows (n,) and their folds (n,)."""
    queues = []
    for label in others:
        members = rows[dataset.labels[rows] == label]
        order = _shuffled([dataset.files[row] for row in members], SEED, 2)
        queues.append(members[order].tolist())
    taken = [
        (queue[place], (place + turn) % folds)  # turn: each fold has a similar share of each class
        for place in range(max(map(len, queues), default=0))
        for turn, queue in enumerate(queues)
        if place < len(queue)
    ]
    chosen = np.array(sorted(taken[:number]), np.int64).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]


def _boxes_of_class(
    dataset: Dataset, label: int, rows: Ints
) -> tuple[npt.NDArray[np.float32], Ints]:
    """Collect the boxes (M, 4) of a class in rows (n,), with their offsets (n + 1,)."""
    offsets = dataset.box_offsets
    labels = [dataset.box_labels[offsets[row] : offsets[row + 1]] for row in rows]
    found = [dataset.boxes_of(row)[own == label] for row, own in zip(rows, labels, strict=True)]
    counts = np.cumsum([len(boxes) for boxes in found])
    boxes = np.concatenate([*found, np.zeros((0, 4), np.float32)])
    return boxes, np.concatenate([[0], counts]).astype(np.int64)


def _rows(dataset: Dataset, *splits: str) -> Ints:
    """Return the rows of those splits that a dataset has."""
    ranges = [np.arange(*dataset.splits[split]) for split in splits if split in dataset.splits]
    return np.concatenate([*ranges, np.zeros(0, np.int64)]).astype(np.int64)


def _shuffled(names: Sequence[str], seed: int, purpose: int) -> Ints:
    """Return a random order (n,) of names that only they and the seed decide."""
    places = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    generator = np.random.Philox(key=np.array([seed, purpose], np.uint64))
    keys = np.array([generator.random_raw() for _ in names], np.uint64)
    return places[np.argsort(keys, kind="stable")]
