"""Cross-validation of a small dataset: one fold of its images as val, all others as train."""

from __future__ import annotations

import numpy as np

from tinysight.data.dataset import Dataset, DatasetIndex, View, make_view, offsets, split_ranges
from tinysight.data.subset import FOLDS, CopyRows, assign_folds
from tinysight.text import pluralize


def held_out_fold(dataset: Dataset, fold: int, *, folds: int = FOLDS, name: str) -> Dataset:
    """View the images of train, minival and val with fold `fold` of `folds` as the only val.

    There is no minival: train with data.monitor=none. Which fold an image is in follows from its
    file name. Raises ValueError: `fold` is out of range, or there are fewer images than folds.
    """
    rows = np.concatenate(
        [np.arange(*bounds) for split, bounds in dataset.splits.items() if split != "test"]
    )
    if not 0 <= fold < folds <= len(rows):
        raise ValueError(
            f"fold is {fold}, of {pluralize(len(rows), 'image')}; give 0 to {folds - 1}"
        )
    held = assign_folds([dataset.files[row] for row in rows], folds=folds) == fold
    chosen = np.concatenate([rows[~held], rows[held]])
    boxes = [slice(*dataset.box_offsets[row : row + 2]) for row in chosen]
    index = DatasetIndex(
        image_size=dataset.image_size,
        class_names=dataset.class_names,
        class_ids=dataset.class_ids,
        splits=split_ranges({"train": int((~held).sum()), "val": int(held.sum())}),
        files=tuple(dataset.files[row] for row in chosen),
        labels=dataset.labels[chosen],
        boxes=np.concatenate([dataset.boxes[part] for part in boxes]),
        box_labels=np.concatenate([dataset.box_labels[part] for part in boxes]),
        box_offsets=offsets([part.stop - part.start for part in boxes]),
        notes=(f"fold {fold} of {folds} of {dataset.name}",),
    )
    view = View(dataset, index, CopyRows(dataset, tuple(chosen.tolist())))
    return make_view(name, view, kind="fold", parameters=f"{fold}of{folds}")
