"""Groups for a person who labels images, and features of single files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from tinysight.finetuning.encoders import find_encoder
from tinysight.finetuning.file_features import FileFeatures
from tinysight.finetuning.sorting import NEW, Proposed, arrange, judge_labels
from tinysight.predict.inference import CPU

NUM_CLASSES, PER_CLASS = 4, 40


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return np.random.default_rng(0).permutation(np.arange(NUM_CLASSES).repeat(PER_CLASS))


@pytest.fixture(scope="module")
def features(truth: np.ndarray) -> Tensor:
    """Classes of unit spread whose means are six apart."""
    means = 6 * torch.eye(NUM_CLASSES, 8)
    noise = torch.randn(len(truth), 2, 8, generator=torch.Generator().manual_seed(0))
    return (means[torch.from_numpy(truth)][:, None] + noise + 10).half()


def test_like_images_are_grouped_while_no_class_is_known(
    features: Tensor, truth: np.ndarray
) -> None:
    labels = np.full(len(truth), -1)
    groups = arrange(features, labels, most=10)
    assert [(group.label, len(group.rows)) for group in groups] == [(NEW, 13)] * 10
    rows = np.concatenate([group.rows for group in groups])
    assert len(set(rows.tolist())) == len(rows) == 130
    assert all(len(set(truth[group.rows])) == 1 for group in groups[:8])
    rest = arrange(features, labels, most=99)
    assert sorted(np.concatenate([group.rows for group in rest])) == list(range(len(truth)))
    labels[: len(truth) - 3] = 2  # of one known class, three images are left
    assert [len(group.rows) for group in arrange(features, labels)] == [3]


def test_sure_classes_come_first_and_typical_images_first_in_them(
    features: Tensor, truth: np.ndarray
) -> None:
    labels = np.where(np.arange(len(truth)) < 60, truth, -1)
    groups = arrange(features, labels, size=25)
    assert sorted(group.label for group in groups) == list(range(NUM_CLASSES))
    for group in groups:
        assert (truth[group.rows] == group.label).all()
        assert (labels[group.rows] == -1).all() and len(group.rows) <= 25
    hard = torch.cat([features, features.mean(dim=0, keepdim=True)])  # between all classes
    groups = arrange(hard, np.append(labels, -1), size=200)
    assert groups[-1].rows[-1] == len(truth)  # its class is the last, and it is the last there


def test_classes_without_a_label_are_not_proposed(features: Tensor, truth: np.ndarray) -> None:
    labels = np.where((np.arange(len(truth)) < 80) & (truth % 2 == 1), truth * 10, -1)
    assert {group.label for group in arrange(features, labels)} == {10, 30}


def test_a_model_proposes_classes_that_have_no_label(features: Tensor, truth: np.ndarray) -> None:
    none, shares = np.full(len(truth), -1), np.where(np.arange(len(truth)) % 3, 0.4, 0.9)
    known = np.where(truth == 3, NEW, truth)  # the model does not know a class
    groups = arrange(features, none, Proposed(known, shares), size=100)
    found = {group.label: truth[group.rows] for group in groups}
    assert sorted(found) == [0, 1, 2]
    for label, classes in found.items():
        own = classes[: PER_CLASS // 2]  # the surest, and of them also those that it doubts
        assert (own == label).all() and len(classes) >= PER_CLASS
    assert arrange(features, none, Proposed(known, np.full(len(truth), 0.4)))[0].label == NEW
    one = arrange(features, none, Proposed(np.where(truth == 2, 2, NEW), shares), most=3)
    assert [group.label for group in one] == [2, NEW, NEW]
    assert (truth[one[0].rows] == 2).all() and (shares[one[0].rows] == 0.9).all()
    assert not set(one[0].rows) & set(one[1].rows) and len(one[0].rows) <= 30
    wrong = Proposed((truth + 1) % NUM_CLASSES, shares)
    assert all((truth[g.rows[:10]] != g.label).all() for g in arrange(features, none, wrong))
    labels = np.where(np.arange(len(truth)) < 110, truth, -1)  # enough labels: its word is nothing
    for group in arrange(features, labels, wrong):
        assert (truth[group.rows] == group.label).all() and (labels[group.rows] == -1).all()


def test_labels_are_judged(features: Tensor, truth: np.ndarray) -> None:
    labels = np.where(np.arange(len(truth)) < 80, truth, -1)
    right = judge_labels(features, labels)
    assert right is not None and right.error < 0.03 and 0.02 < right.high < 0.12
    wrong = labels.copy()
    wrong[:20] = (wrong[:20] + 1) % NUM_CLASSES
    judged = judge_labels(features, wrong)
    assert judged is not None and judged.error > 0.2
    assert judge_labels(features, np.where(labels == 1, 1, -1)) is None


def test_the_simulated_person_needs_few_decisions(
    features: Tensor, truth: np.ndarray, load_script: Callable[[Path], ModuleType]
) -> None:
    script = load_script(Path(__file__).parents[2] / "benchmarks" / "sorting.py")
    none = np.zeros(0, np.int64)
    found = script.sort(features, truth, none, case="cold", seed=0, overlooked=0.0)
    assert (found.pictures, found.right) == (160, 1.0)
    assert found.groups <= found.decisions <= 20
    careless = script.sort(features, truth, none, case="", seed=0, overlooked=1.0)
    assert careless.right < 1 and careless.decisions == careless.groups


def test_features_of_files_are_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, own = find_encoder("bundled"), {"home": tmp_path, "runtime": CPU}
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    names = [letter * 64 for letter in "abc"]
    first = FileFeatures(encoder, Path("photos"), **own)
    first.add(names[:2], images[:2])
    first.add(names[2:], images[2:])
    views = first.of(["c" * 64, "a" * 64])
    assert views.shape == (2, 2, 896) and not torch.equal(views[0], views[1])
    monkeypatch.setattr("tinysight.finetuning.file_features.embed", None)
    again = FileFeatures(encoder, Path("photos"), **own)
    assert torch.equal(again.of(["c" * 64, "a" * 64]), views)
    assert FileFeatures(encoder, Path("other"), **own).known == {}
    kept = next(iter(again.place.iterdir()))
    content = kept.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    for damaged in (b"damaged", content[:-40], b"", bytes(flipped)):  # a zip of arrays
        kept.write_bytes(damaged)
        assert 0 < len(FileFeatures(encoder, Path("photos"), **own).known) < 3
