"""Views of some rows of a dataset: folds, draws of some images per class, some of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import Dataset, DatasetIndex, View, make_view, offsets, split_ranges
from tinysight.data.subset import ANOTHER_FOLD, FOLDS, MOVED, CopyRows, assign_folds, with_copies
from tinysight.text import pluralize

Ints = npt.NDArray[np.int64]
MAX_JUDGED = 1000  # images of a draw's val: a share of 5 % is known to 0.7 points


def select(
    dataset: Dataset,
    rows: Mapping[str, Ints],
    *,
    name: str,
    kind: str,
    parameters: str,
    note: str,
    classes: Sequence[int] | None = None,
) -> Dataset:
    """View the rows of each split, with their boxes; `parameters` say which ones, for the digest.

    Args:
        classes: old labels in their new order, of images without boxes; None: all.
    """
    chosen = np.concatenate(list(rows.values()))
    boxes = [slice(*dataset.box_offsets[row : row + 2]) for row in chosen]
    labels, kept = dataset.labels[chosen], range(len(dataset.class_names))
    if classes is not None:
        kept = classes  # type: ignore[assignment]
        labels = np.array([classes.index(label) for label in labels.tolist()], np.int64)
    index = DatasetIndex(
        image_size=dataset.image_size,
        class_names=tuple(dataset.class_names[label] for label in kept),
        class_ids=tuple(dataset.class_ids[label] for label in kept),
        splits=split_ranges({split: len(part) for split, part in rows.items()}),
        files=tuple(dataset.files[row] for row in chosen),
        labels=labels,
        boxes=np.concatenate([dataset.boxes[part] for part in boxes]),
        box_labels=np.concatenate([dataset.box_labels[part] for part in boxes]),
        box_offsets=offsets([part.stop - part.start for part in boxes]),
        notes=(note,),
    )
    view = View(dataset, index, CopyRows(dataset, tuple(chosen.tolist())))
    return make_view(name, view, kind=kind, parameters=parameters)


def held_out_fold(dataset: Dataset, fold: int, *, folds: int = FOLDS, name: str) -> Dataset:
    """View the images of train, minival and val with fold `fold` of `folds` as the only val.

    There is no minival: train with data.monitor=none. Which fold an image is in follows from its
    file name, or that of an identical image. Raises ValueError: `fold` is out of range, or empty,
    or there are fewer images than folds.
    """
    rows = _known(dataset)
    if not 0 <= fold < folds <= len(rows):
        raise ValueError(
            f"fold is {fold}, of {pluralize(len(rows), 'image')}; give 0 to {folds - 1}"
        )
    by_name = assign_folds([dataset.files[row] for row in rows], folds=folds)
    assigned = with_copies(dataset, rows, by_name)
    held, note = assigned == fold, f"fold {fold} of {folds} of {dataset.name}"
    if (count := int(held.sum())) in (0, len(rows)):
        raise ValueError(
            f"{note} holds {count} of {len(rows)} images, as identical ones are in one fold; "
            f"{ANOTHER_FOLD}"
        )
    parts = {"train": rows[~held], "val": rows[held]}
    what = f"{fold}of{folds}{MOVED * (not np.array_equal(held, by_name == fold))}"
    return select(dataset, parts, name=name, kind="fold", parameters=what, note=note)


def draw(dataset: Dataset, per_class: int, seed: int, *, name: str) -> Dataset:
    """View some random images of each class as train, and others as val; see `drawn_rows`."""
    parts, left_out = _drawn(dataset, per_class, seed)
    note = f"{per_class} images per class of {dataset.name}, drawn with the seed {seed}"
    what = f"{per_class}-seed{seed}{MOVED * left_out}"
    return select(dataset, parts, name=name, kind="draw", parameters=what, note=note)


def drawn_rows(dataset: Dataset, per_class: int, seed: int) -> dict[str, Ints]:
    """Draw rows to learn from ("train") and, of the others, up to 1,000 to be judged by ("val").

    They are labeled rows of train, minival and val. A class gives half of its images at most, and
    at least one. With one seed, more images per class include fewer. No image of val is identical
    to one of train. Raises ValueError without an image to be judged by.
    """
    return _drawn(dataset, per_class, seed)[0]


def _drawn(dataset: Dataset, per_class: int, seed: int) -> tuple[dict[str, Ints], bool]:
    """Return the rows of `drawn_rows`, and whether copies of train are left out of val."""
    rows = _known(dataset)
    rows = rows[dataset.labels[rows] >= 0]
    shuffled = np.random.default_rng(seed).permutation(rows)
    order = shuffled[np.argsort(dataset.labels[shuffled], kind="stable")]
    labels = dataset.labels[order]
    rank = np.arange(len(order)) - np.searchsorted(labels, labels)
    half = np.maximum(np.bincount(labels, minlength=1) // 2, 1)[labels]
    learned = order[rank < np.minimum(half, per_class)]
    others = shuffled[~np.isin(shuffled, learned)]
    known = {digest.tobytes() for digest in dataset.digests[learned]}
    is_copy = [digest.tobytes() in known for digest in dataset.digests[others]]
    others = others[~np.array(is_copy, bool)][:MAX_JUDGED]
    if per_class < 1 or not len(others):
        found = f"{pluralize(len(rows), 'labeled image')} in {dataset.name}"
        expected = "give 1 or more, of two or more that differ"
        raise ValueError(f"{per_class} per class of {found}: {expected}")
    return {"train": np.sort(learned), "val": np.sort(others)}, any(is_copy)


def _known(dataset: Dataset) -> Ints:
    return np.concatenate(
        [np.arange(*bounds) for split, bounds in dataset.splits.items() if split != "test"]
    )
