"""Cross-validation: every image is in val of exactly one fold, with its label and boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tinysight.data.dataset import Dataset
from tinysight.data.folds import held_out_fold
from tinysight.data.load import load_dataset


def test_every_image_is_held_out_once(dataset: Dataset, data_home: Path) -> None:
    held: list[str] = []
    for fold in range(5):
        view = load_dataset(f"small.fold{fold}", home=data_home)
        assert view.name == f"small.fold{fold}" and list(view.splits) == ["train", "val"]
        names = {split: [view.files[row] for row in view.rows(split)] for split in view.splits}
        assert not set(names["train"]) & set(names["val"]) and len(view) == 120
        assert len(names["val"]) == 24
        held += names["val"]
        for row in (0, 50, 119):
            base = dataset.files.index(view.files[row])
            assert np.array_equal(view.images[row], dataset.images[base])
            assert view.labels[row] == dataset.labels[base]
            assert np.array_equal(view.boxes_of(row), dataset.boxes_of(base))
    in_test = {dataset.files[row] for row in dataset.rows("test")}
    assert sorted(held) == sorted(set(dataset.files) - in_test)


def test_folds_do_not_depend_on_the_order_of_the_images_and_differ_in_digest(
    dataset: Dataset,
) -> None:
    first, second = (held_out_fold(dataset, fold, name=f"f{fold}") for fold in (0, 1))
    assert first.digest != second.digest
    assert first.digest == held_out_fold(dataset, 0, name="f0").digest


@pytest.mark.parametrize("fold", [-1, 5])
def test_a_fold_that_there_is_not_is_refused(fold: int, dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="give 0 to 4"):
        held_out_fold(dataset, fold, name="f")
