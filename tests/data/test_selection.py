"""Views of some rows: every image is in val of exactly one fold; draws of images per class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tinysight.data.dataset import Dataset
from tinysight.data.load import load_dataset
from tinysight.data.selection import MAX_JUDGED, draw, drawn_rows, held_out_fold


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


def test_a_draw_learns_from_some_of_each_class_and_is_judged_by_others(
    dataset: Dataset, data_home: Path
) -> None:
    view = load_dataset("small.draw2-1", home=data_home)
    assert np.bincount(view.labels[view.rows("train")]).tolist() == [2] * 24
    names = {split: {view.files[row] for row in view.rows(split)} for split in view.splits}
    assert not names["train"] & names["val"] and len(view) == 120
    row = dataset.files.index(view.files[5])
    assert np.array_equal(view.images[5], dataset.images[row])
    more, other = drawn_rows(dataset, 2, 1)["train"], drawn_rows(dataset, 1, 2)["train"]
    fewer = drawn_rows(dataset, 1, 1)["train"]
    assert set(fewer) < set(more) and set(fewer) != set(other)


def test_identical_images_are_on_one_side_of_a_fold_and_a_draw(dataset: Dataset) -> None:
    twins = replace(dataset)
    digests = np.array(dataset.digests)
    pairs = [(3, 90), (10, 30), (10, 119), (71, 40)]
    for row, other in pairs:
        digests[other] = digests[row]
    twins.__dict__["digests"] = digests
    moved = 0
    for fold in range(5):
        view, without = (held_out_fold(each, fold, name="f") for each in (twins, dataset))
        val = {dataset.files.index(view.files[row]) for row in view.rows("val")}
        assert all((row in val) == (other in val) for row, other in pairs)
        own = {dataset.files.index(without.files[row]) for row in without.rows("val")}
        assert not (val ^ own) - {row for pair in pairs for row in pair}  # only copies move
        assert (view.digest == without.digest) == (val == own)
        moved += val != own
    assert moved
    for seed in range(5):
        rows, before = (drawn_rows(each, 2, seed) for each in (twins, dataset))
        assert rows["train"].tolist() == before["train"].tolist()
        learned = {digests[row].tobytes() for row in rows["train"]}
        kept = [row for row in before["val"] if digests[row].tobytes() not in learned]
        assert rows["val"].tolist() == kept
        same = draw(twins, 2, seed, name="d").digest == draw(dataset, 2, seed, name="d").digest
        assert same == (len(kept) == len(before["val"]))
    twins.__dict__["digests"] = np.zeros_like(digests)
    with pytest.raises(ValueError, match=r"fold 1 of 5 of small holds .* identical ones are in"):
        held_out_fold(twins, 1, name="f")
    with pytest.raises(ValueError, match="of two or more that differ"):
        drawn_rows(twins, 2, 0)


def test_a_draw_takes_half_of_a_class_at_most_and_has_an_end(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = drawn_rows(dataset, 1000, 0)
    assert len(rows["train"]) == 48 and len(rows["val"]) == 72 < MAX_JUDGED  # 2 of 5
    monkeypatch.setattr("tinysight.data.selection.MAX_JUDGED", 7)
    assert len(drawn_rows(dataset, 2, 0)["val"]) == 7
    with pytest.raises(ValueError, match="0 per class of 120 labeled images in small: give 1"):
        drawn_rows(dataset, 0, 0)
