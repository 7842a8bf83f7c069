"""One class of a dataset, in folds and with negatives: a view of the dataset's own images.

The regime of Wu et al. 2017, section 3.5 (goldfish, 400 images to train on and 100 held out). The
classes are the one and "other". The train and minival images of the class are assigned to folds;
the fold held out is the new minival, the others the new train, and both get images of ten other
classes as negatives, which hold nothing to find. Images of no class (of several, or without a box)
that do not hold it count as one more. The val images of all these are the new val. The assignment
follows from the file names and a fixed seed by raw Philox numbers, which numpy promises never to
change; `goldfish-folds.txt` has it written out for the report's class. Of identical images, the one
whose name comes first decides for all.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

from tinysight.data.annotations import nfc
from tinysight.data.dataset import (
    Dataset,
    DatasetIndex,
    View,
    few,
    make_view,
    offsets,
    split_ranges,
)
from tinysight.text import pluralize

Ints = npt.NDArray[np.int64]

VERSION = 2  # of the assignment: part of the digest
SEED = 0
FOLDS = 5
NUM_OTHERS = 10
OTHER = "other"
MOVED = "-with-copies"  # of the digest, where identical images are not where their names say
ANOTHER_FOLD = "choose another, or remove the copies"


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
            found = few(repr(names[index]) for index in same)
            what = f"{name!r} can be several classes of {dataset.name}: {found}"
            raise ValueError(f"{what}; write one of them in full")
    lower = {one.lower(): one for one in dataset.class_names}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    hint = f"there are {few(map(repr, dataset.class_names))}"
    if close:
        hint = f"did you mean {lower[close[0]]!r}?"
    raise ValueError(f"{dataset.name} has no class {name!r}; {hint}")


def subset_name(dataset: str, class_slug: str, fold: int, negatives: int | None) -> str:
    """Name a one-class view: dataset.class, then .foldK and .negativesN if not the default."""
    number = "" if negatives is None else f".negatives{negatives}"
    return f"{dataset}.{class_slug}{f'.fold{fold}' * (fold > 0)}{number}"


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


def with_copies(dataset: Dataset, rows: Ints, folds: Ints) -> Ints:
    """Move images of rows (n,) from their folds (n,) to that of an identical one."""
    digests = [digest.tobytes() for digest in dataset.digests[rows]]
    if len(set(digests)) == len(digests):
        return folds
    first: dict[bytes, int] = {}
    for place in sorted(range(len(rows)), key=lambda place: nfc(dataset.files[rows[place]])):
        first.setdefault(digests[place], int(folds[place]))
    return np.array([first[digest] for digest in digests], np.int64)


def bundled_folds() -> dict[str, int]:
    """Read the bundled list: the fold of each of the 500 goldfish images (n01443537)."""
    text = (resources.files("tinysight.data") / "goldfish-folds.txt").read_text("utf-8")
    pairs = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {file: int(fold) for file, fold in pairs}


def has_class(dataset: Dataset, label: int) -> npt.NDArray[np.bool_]:
    """Mark the rows (N,) that have a box of a class, whatever else is in them."""
    marked: npt.NDArray[np.bool_] = (
        np.diff(offsets(dataset.box_labels == label)[dataset.box_offsets]) > 0
    )
    return marked


def of_class(dataset: Dataset, label: int) -> npt.NDArray[np.bool_]:
    """Mark the rows (N,) that have the label of a class or, if they have none, a box of it."""
    marked: npt.NDArray[np.bool_] = (dataset.labels == label) | (
        (dataset.labels < 0) & has_class(dataset, label)
    )
    return marked


@dataclass(frozen=True)
class CopyRows:
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
    label, ids = find_class(dataset, class_name), dataset.class_ids
    if folds < 2 or not 0 <= fold < folds:
        allowed = f"give two folds or more, and a fold from 0 to {folds - 1}"
        raise ValueError(f"fold is {fold} of {folds}; {allowed}")
    if negatives is not None and negatives < 0:
        raise ValueError(f"negatives is {negatives}; give a number of images, 0 or more")
    holds = has_class(dataset, label)
    labeled = _rows(dataset, "train", "minival")
    labeled = labeled[of_class(dataset, label)[labeled]]
    positives = labeled[holds[labeled]]
    _check_positives(f"{dataset.class_names[label]} of {dataset.name}", labeled, positives, folds)
    number = len(positives) if negatives is None else negatives
    others = _other_classes(dataset, label) if number else []
    rows, moved = _choose_rows(dataset, label, holds, positives, others, fold, folds, number)
    chosen = np.concatenate(list(rows.values()))
    boxes, box_offsets = _boxes_of_class(dataset, label, chosen)
    everything, notes = _rows(dataset, "train", "minival", "val"), []
    if missing := int((of_class(dataset, label) & ~holds)[everything].sum()):
        notes.append(f"{pluralize(missing, 'image')} of the class without a box left out")
    if unused := len(everything) - len(chosen) - missing:
        notes.append(f"{pluralize(unused, 'image')} of other classes left out")
    class_names, class_ids = class_list(dataset, label)
    extra = {"class": ids[label], "fold": fold, "folds": folds}
    extra["others"] = [ids[other] for other in others if other >= 0]
    index = DatasetIndex(
        image_size=dataset.image_size,
        class_names=class_names,
        class_ids=class_ids,
        splits=split_ranges({split: len(part) for split, part in rows.items()}),
        files=tuple(dataset.files[row] for row in chosen),
        labels=np.where(holds[chosen], 0, 1).astype(np.int64),
        boxes=boxes,
        box_labels=np.zeros(len(boxes), np.int64),
        box_offsets=box_offsets,
        notes=(*notes, f"a model trained on all of {dataset.name} has seen this minival"),
        extra=extra,
    )
    if name is None:
        name = subset_name(dataset.name, class_slug(dataset, label, class_name), fold, negatives)
    parameters = f"{VERSION}-{ids[label]}-fold{fold}of{folds}"
    parameters += f"-negatives-{'as-many' if negatives is None else negatives}"
    parameters += f"-of{NUM_OTHERS}-seed{SEED}{MOVED * moved}"
    view = View(dataset, index, CopyRows(dataset, tuple(chosen.tolist())))
    return make_view(name, view, kind="one-class", parameters=parameters)


def _check_positives(title: str, labeled: Ints, positives: Ints, folds: int) -> None:
    if len(labeled) and not len(positives):
        raise ValueError(f"{title} has no boxes; a localizer needs a dataset with boxes")
    if len(positives) < 2 * folds:
        found = f"{title} has {pluralize(len(positives), 'image')} with boxes to choose from"
        raise ValueError(f"{found}, {folds} folds need {2 * folds}")


def _choose_rows(
    dataset: Dataset,
    label: int,
    holds: npt.NDArray[np.bool_],
    positives: Ints,
    others: list[int],
    fold: int,
    folds: int,
    number: int,
) -> tuple[dict[str, Ints], bool]:
    """Return the rows of each split, with `number` negatives, and whether `with_copies` moved any.

    Negatives are of the classes `others`.
    """
    positive_folds = assign_folds([dataset.files[row] for row in positives], folds=folds)
    candidates = _rows(dataset, "train", "minival")
    candidates = candidates[~holds[candidates]]
    negatives, negative_folds = _negatives(dataset, others, candidates, number, folds)
    chosen, assigned = (
        np.concatenate(pair) for pair in ((positives, negatives), (positive_folds, negative_folds))
    )
    together = with_copies(dataset, chosen, assigned)
    positive_folds, negative_folds = np.split(together, [len(positives)])
    if (count := int((positive_folds == fold).sum())) in (0, len(positives)):
        raise ValueError(
            f"fold {fold} of {dataset.class_names[label]} of {dataset.name} holds {count} of "
            f"{len(positives)} images, as identical ones are in one fold; {ANOTHER_FOLD}"
        )
    val = _rows(dataset, "val")
    is_positive = of_class(dataset, label)[val] & holds[val]
    is_negative = np.isin(dataset.labels[val], others) & ~holds[val]
    rows = {
        "train": [positives[positive_folds != fold], negatives[negative_folds != fold]],
        "minival": [positives[positive_folds == fold], negatives[negative_folds == fold]],
        "val": [val[is_positive], val[is_negative]],
    }
    moved = not np.array_equal(assigned == fold, together == fold)
    return {split: np.concatenate(parts) for split, parts in rows.items()}, moved


def _other_classes(dataset: Dataset, label: int) -> list[int]:
    """Choose the classes of the negatives; -1, that of several or none, is always among them."""
    present = np.unique(dataset.labels[_rows(dataset, "train", "minival")]).tolist()
    classes = [one for one in present if one >= 0 and one != label]
    order = _shuffled([dataset.class_ids[one] for one in classes], SEED, 1)
    return sorted([*(classes[place] for place in order[:NUM_OTHERS]), -1])


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
    spans = [slice(*dataset.box_offsets[row : row + 2]) for row in rows]
    found = [dataset.boxes[span][dataset.box_labels[span] == label] for span in spans]
    boxes = np.concatenate([*found, np.zeros((0, 4), np.float32)])
    return boxes, offsets([len(boxes) for boxes in found])


def _rows(dataset: Dataset, *splits: str) -> Ints:
    """Return the rows of those splits that a dataset has."""
    ranges = [np.arange(*dataset.splits[split]) for split in splits if split in dataset.splits]
    return np.concatenate([*ranges, np.zeros(0, np.int64)]).astype(np.int64)


def _shuffled(names: Sequence[str], seed: int, purpose: int) -> Ints:
    """Return a random order (n,) of names that only they and the seed decide."""
    places = np.array(sorted(range(len(names)), key=lambda place: nfc(names[place])), np.int64)
    generator = np.random.Philox(key=np.array([seed, purpose], np.uint64))
    keys = np.array([generator.random_raw() for _ in names], np.uint64)
    return places[np.argsort(keys, kind="stable")]
