"""Confusions and calibration counted by hand, and the images chosen to look at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinysight.analysis.errors import (
    Pair,
    choose_mistakes,
    confused_pairs,
    count_confusions,
    examples_of,
    most_confused_classes,
    per_class,
    reliability,
    suspected_labels,
)
from tinysight.ops.metrics import error_interval, wilson_interval

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 1, 1, 0, 1, 2, 1, 2])


@pytest.fixture
def results() -> Any:
    probabilities = np.full((8, 4), 0.1, np.float32)
    probabilities[np.arange(8), PREDICTED] = [0.7, 0.6, 0.5, 0.4, 0.7, 0.7, 0.9, 0.7]
    return SimpleNamespace(
        labels=LABELS,
        predicted=PREDICTED,
        probabilities=probabilities,
        confidence=probabilities.max(axis=1).astype(float),
        correct=LABELS == PREDICTED,
        class_names=("a", "b", "c", "d"),
        evaluation=SimpleNamespace(cross_validated=False),
    )


def test_confusions_by_hand() -> None:
    expected = [[1, 2, 0, 0], [1, 1, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0]]
    assert count_confusions(LABELS, PREDICTED, 4).tolist() == expected


def test_errors_per_class_by_hand(results: Any) -> None:
    classes = per_class(results, generator=np.random.default_rng(0))
    assert classes.counts.tolist() == [3, 2, 3, 0] and classes.errors.tolist() == [2, 1, 1, 0]
    np.testing.assert_allclose(classes.error, [2 / 3, 1 / 2, 1 / 3, np.nan])
    assert classes.most_confused_with.tolist() == [1, 0, 1, -1]
    assert classes.times.tolist() == [2, 1, 1, 0]
    assert classes.order.tolist() == [2, 1, 0] and not classes.clearly_separated
    np.testing.assert_allclose(classes.confidence, [0.6, 0.55, 2.3 / 3, np.nan], rtol=1e-6)


def test_intervals_of_cross_validated_classes_are_those_of_fewer_images(results: Any) -> None:
    generator = np.random.default_rng(0)
    results.evaluation.cross_validated = True
    classes = per_class(results, generator=generator)
    expected = [error_interval(e, n) for e, n in ((2 / 3, 3), (1 / 2, 2), (1 / 3, 3))]
    np.testing.assert_allclose(np.stack([classes.low, classes.high], axis=1)[:3], expected)
    assert (classes.low[3], classes.high[3]) == (0, 1)
    # 0.7 times 100 images: Wilson's of 14 of 70
    np.testing.assert_allclose(error_interval(0.2, 100), wilson_interval(14, 70))


def test_pairs_are_ordered_by_mistakes_and_the_larger_direction_is_first() -> None:
    confusions = np.array([[5, 1, 0], [3, 5, 2], [0, 0, 5]])
    assert confused_pairs(confusions) == [
        Pair(first=1, second=0, forth=3, back=1),
        Pair(first=1, second=2, forth=2, back=0),
    ]
    assert len(confused_pairs(confusions, limit=1)) == 1
    assert confused_pairs(np.diag([3, 4])) == []


def test_confused_classes_are_next_to_each_other() -> None:
    confusions = np.zeros((6, 6), int)
    confusions[0, 3], confusions[3, 5], confusions[1, 2] = 9, 8, 7
    order = most_confused_classes(confusions, limit=5)
    assert sorted(order) == [0, 1, 2, 3, 5]
    assert order.index(0) + 2 == order.index(3) + 1 == order.index(5)
    assert most_confused_classes(np.zeros((3, 3), int)) == []


def test_mistakes_are_the_most_confident_of_each_confusion(results: Any) -> None:
    assert choose_mistakes(results).tolist() == [6, 1, 2, 3]
    assert choose_mistakes(results, per_pair=1).tolist() == [6, 1, 3]
    assert choose_mistakes(results, limit=2).tolist() == [6, 1]


def test_examples_range_from_the_most_to_the_least_probable(results: Any) -> None:
    assert examples_of(results, 2).tolist() == [5, 7, 6]
    assert examples_of(results, 2, limit=2).tolist() == [5, 6]
    assert examples_of(results, 3).tolist() == []


def test_suspected_labels_contradict_model_and_neighbors(results: Any) -> None:
    assert suspected_labels(results, None).tolist() == [6, 1, 2]
    neighbors = np.tile(PREDICTED[:, None], 3)
    neighbors[1, 0] = LABELS[1]  # one neighbor has the label
    neighbors[2] = 3
    assert suspected_labels(results, neighbors).tolist() == [6]


def test_reliability_bins_by_hand() -> None:
    confidence = np.array([0.5, 0.4, 0.9, 1.0, 0.51])
    bins = reliability(confidence, np.array([True, False, True, True, False]), num_bins=2)
    assert bins.counts.tolist() == [2, 3]  # a border belongs to the bin below
    assert bins.confidence.tolist() == pytest.approx([0.45, 2.41 / 3])
    assert bins.accuracy.tolist() == pytest.approx([0.5, 2 / 3])


def test_empty_bins_have_no_accuracy() -> None:
    bins = reliability(np.array([0.99]), np.array([True]))
    assert bins.counts.sum() == 1 and np.isnan(bins.accuracy[:-1]).all()
