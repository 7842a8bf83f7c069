"""Confusions counted by hand, and the evidence on their origin."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tinysight.analysis.confusions import (
    Pair,
    confused_pairs,
    count_confusions,
    most_confused_classes,
)
from tinysight.analysis.evidence import PairEvidence, weigh
from tinysight.analysis.occlusion import Survival

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2])
CALLED = np.array([0, 1, 1, 0, 1, 2, 1, 2])


def test_counts_by_hand() -> None:
    assert count_confusions(LABELS, CALLED, 4).tolist() == [
        [1, 2, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 2, 0],
        [0, 0, 0, 0],
    ]


def test_pairs_both_ways_most_first_and_the_larger_direction_leads() -> None:
    confusions = np.array([[5, 1, 0], [3, 5, 2], [0, 0, 5]])
    assert confused_pairs(confusions) == [
        Pair(first=1, second=0, forth=3, back=1),
        Pair(first=1, second=2, forth=2, back=0),
    ]
    assert confused_pairs(confusions, limit=1)[0].total == 4
    assert confused_pairs(np.diag([3, 4])) == []


def test_entangled_classes_stand_side_by_side() -> None:
    confusions = np.zeros((6, 6), int)
    confusions[0, 3], confusions[3, 5], confusions[1, 2] = 9, 8, 7
    order = most_confused_classes(confusions, limit=5)
    assert sorted(order) == [0, 1, 2, 3, 5]
    assert order.index(0) + 2 == order.index(3) + 1 == order.index(5)
    assert most_confused_classes(np.zeros((3, 3), int)) == []


def evidence(
    tested: int, by_object: int, by_background: int, rank: float = 0.5, distance: int | None = None
) -> str:
    pair = Pair(first=0, second=1, forth=tested, back=0)
    return PairEvidence(
        pair=pair, similarity=0.1, similarity_rank=rank, distance=distance, tested=tested, kept_by_object=by_object,
        kept_by_background=by_background,
    ).verdict  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        ((10, 8, 1), "resemblance"),
        ((10, 1, 8), "background"),
        ((10, 8, 8), "open"),
        ((10, 1, 1), "open"),
        ((2, 0, 2), "open"),
        ((0, 0, 0), "open"),
        ((10, 1, 8, 0.99), "both"),
        ((10, 1, 1, 0.99), "resemblance"),
        ((0, 0, 0, 0.5, 2), "resemblance"),
        ((0, 0, 0, 0.5, 9), "open"),
    ],
)
def test_verdicts(arguments: tuple[int, ...], verdict: str) -> None:
    assert evidence(*arguments) == verdict  # type: ignore[arg-type]


def test_evidence_counts_the_mistakes_of_the_pair_that_survive() -> None:
    judged = SimpleNamespace(labels=LABELS, predictions=CALLED)
    survival = Survival(
        object_only=np.array([0, 1, 2, 0, 1, 2, -1, 2]),
        background_only=np.array([0, 0, 1, 1, 1, 2, -1, 2]),
    )
    similarity = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]], np.float32)
    pairs = confused_pairs(count_confusions(LABELS, CALLED, 3))
    first, second = weigh(judged, pairs, similarity=similarity, survival=survival)  # type: ignore[arg-type]
    assert (first.pair.first, first.pair.second, first.tested) == (0, 1, 3)
    assert (first.kept_by_object, first.kept_by_background) == (
        2,
        1,
    )  # rows 1, 2, 3 were called 1, 1, 0
    assert first.similarity_rank == pytest.approx(2 / 3)
    assert (second.tested, second.distance) == (0, None)
