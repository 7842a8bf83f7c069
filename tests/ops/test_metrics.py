"""Classification metrics against values known by hand and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from tinysight.ops.metrics import (
    expected_calibration_error,
    majority_vote,
    mean_probability,
    paired_difference,
    topk_correct,
    wilson_interval,
)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_topk_equals_sorting(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    # Few distinct values, so that ties are many.
    logits = torch.randint(0, 4, (300, 8), generator=generator).float()
    labels = torch.randint(0, 8, (300,), generator=generator)
    expected = [
        label in sorted(range(8), key=lambda index: (-row[index], index))[:k]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert topk_correct(logits, labels, k).tolist() == expected
    assert 0 < sum(expected) < 300


def test_topk_of_ties_nan_and_infinity() -> None:
    nan, inf = math.nan, math.inf
    logits = torch.tensor(
        [[1.0, 1, 1], [1, 1, 1], [nan, 0, 9], [nan, nan, nan], [inf, 0, -inf], [nan, 0, 1]]
    )
    labels = torch.tensor([0, 1, 2, 0, 0, 0])
    assert topk_correct(logits, labels, 1).nonzero()[:, 0].tolist() == [0, 4]
    assert topk_correct(logits, labels, 3).nonzero()[:, 0].tolist() == [0, 1, 4]
    assert topk_correct(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 1).shape == (0,)


@pytest.mark.parametrize("k", [0, 4])
def test_topk_refuses_a_k_beyond_the_classes(k: int) -> None:
    with pytest.raises(ValueError, match=f"top-{k} of 3 classes"):
        topk_correct(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), k)


@pytest.mark.parametrize(
    ("errors", "count", "expected"),
    [
        # Newcombe 1998, Table I, method 3 (score): 81/263, 15/148, 0/20, 1/29.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (20, 20, (0.8389, 1.0)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson_interval_equals_published_values(
    errors: int, count: int, expected: tuple[float, float]
) -> None:
    assert wilson_interval(errors, count) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_intervals_of_arrays_equal_scipys(confidence: float) -> None:
    errors, counts = np.array([0, 1, 25, 49, 50, 3]), np.array([50, 50, 50, 50, 50, 7])
    expected = [
        binomtest(k, n).proportion_ci(confidence, method="wilson")
        for k, n in zip(errors.tolist(), counts.tolist(), strict=True)
    ]
    low, high = wilson_interval(errors, counts, confidence)
    np.testing.assert_allclose(np.stack((low, high), axis=1), expected, rtol=1e-10)


def test_wilson_interval_touches_its_ends_exactly() -> None:
    counts = np.arange(1, 200)
    assert (wilson_interval(counts * 0, counts)[0] == 0).all()
    assert (wilson_interval(counts, counts)[1] == 1).all()


def test_wilson_interval_refuses_impossible_counts() -> None:
    for errors in (-1, 6):
        with pytest.raises(ValueError, match=f"{errors} errors of 5"):
            wilson_interval(errors, 5)
    with pytest.raises(ValueError, match="confidence is 95"):
        wilson_interval(1, 5, 95)


def test_calibration_error_by_hand() -> None:
    # Bin (0.8, 1.0]: confidence 0.9, accuracy 0.5, 4 of 6 images. Bin (0.4, 0.6]: confidence 0.5,
    # accuracy 1, 2 of 6.
    probabilities = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.5, 0.5])
    correct = torch.tensor([1, 0, 1, 0, 1, 1]).bool()
    error = expected_calibration_error(probabilities, correct, bins=5)
    assert error == pytest.approx(4 / 6 * 0.4 + 2 / 6 * 0.5, abs=1e-6)
    overall = abs(4 / 6 - float(probabilities.mean()))  # one bin sees the means alone
    error = expected_calibration_error(probabilities, correct, bins=1)
    assert error == pytest.approx(overall, abs=1e-6)


def test_calibration_error_equals_a_loop_over_bins() -> None:
    generator = torch.Generator().manual_seed(0)
    # Quarters are exact in binary and lie on the borders of 4 bins: each belongs to the bin below.
    borders = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0] * 20)
    probabilities = torch.cat((torch.rand(500, generator=generator), borders))
    correct = torch.rand(600, generator=generator) < 0.4
    expected = 0.0
    for index in range(4):
        low, high = index / 4, (index + 1) / 4
        inside = (low < probabilities) & (probabilities <= high)
        inside |= (probabilities == 0) & (index == 0)
        gap = correct[inside].sum() - probabilities[inside].double().sum()
        expected += abs(float(gap)) / 600
    error = expected_calibration_error(probabilities, correct, bins=4)
    assert error == pytest.approx(expected, abs=1e-9)


def test_calibration_error_refuses_what_is_not_a_probability() -> None:
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="reach outside"):
            expected_calibration_error(torch.tensor([0.5, bad]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match="no prediction"):
        expected_calibration_error(torch.zeros(0), torch.zeros(0, dtype=torch.bool))


def test_a_paired_difference_by_hand() -> None:
    correct = torch.tensor([True] * 60 + [False] * 40)
    others = torch.tensor([True] * 50 + [False] * 10 + [True] * 4 + [False] * 36)
    difference, low, high = paired_difference(correct, others)
    assert difference == pytest.approx(0.06)
    # Agresti and Min 2005: 10.5 and 4.5 of 102, give or take 1.96 standard errors
    half = 1.959964 * math.sqrt((10.5 + 4.5) - 6**2 / 102) / 102
    assert (low, high) == pytest.approx((6 / 102 - half, 6 / 102 + half), abs=1e-6)
    assert paired_difference(others, correct)[0] == -difference


def test_a_paired_interval_ends_at_one() -> None:
    right, wrong = torch.tensor([True]), torch.tensor([False])
    # Without that end: 1/3, give or take 1.96 (2/3 - 1/9)^.5 / 3^.5 = 0.84
    assert paired_difference(right, wrong) == pytest.approx((1, 1 / 3 - 0.843434, 1), abs=1e-5)
    assert paired_difference(wrong, right)[1] == -1


def test_a_paired_interval_has_its_nominal_coverage() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        uniform = torch.rand(200, generator=generator)
        # 0.6 against 0.55, correlated
        correct, others = uniform < 0.6, (uniform < 0.45) | (uniform > 0.9)
        _, low, high = paired_difference(correct, others)
        covered += low <= 0.05 <= high
    assert 0.92 < covered / 400 < 0.98


def test_a_paired_difference_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="3 results and 2 others"):
        paired_difference(torch.zeros(3, dtype=torch.bool), torch.zeros(2, dtype=torch.bool))


# Three models, three classes, two images. The first: two votes for class 0, but class 1 has the
# larger mean. The second: a vote for each class, so that the mean decides.
MEMBERS = [
    torch.tensor(probabilities, dtype=torch.float64).log()
    for probabilities in (
        [[0.5, 0.4, 0.1], [0.6, 0.3, 0.1]],
        [[0.5, 0.45, 0.05], [0.2, 0.7, 0.1]],
        [[0.05, 0.9, 0.05], [0.3, 0.25, 0.45]],
    )
]


def test_mean_probability_by_hand() -> None:
    expected = torch.tensor([[1.05, 1.75, 0.2], [1.1, 1.25, 0.65]], dtype=torch.float64) / 3
    assert torch.allclose(mean_probability(MEMBERS), expected)
    assert mean_probability(MEMBERS).argmax(1).tolist() == [1, 1]


def test_majority_vote_counts_votes_and_the_mean_breaks_ties() -> None:
    scores = majority_vote(MEMBERS)
    assert scores.argmax(1).tolist() == [0, 1]
    assert scores.floor().tolist() == [[2, 1, 0], [1, 1, 1]]
    assert torch.allclose(scores - scores.floor(), mean_probability(MEMBERS))
    shifted = [member + 100 * index for index, member in enumerate(MEMBERS)]
    assert torch.allclose(majority_vote(shifted), scores)


def test_an_ensemble_of_different_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3\), \(2, 3\)"):
        majority_vote([MEMBERS[0], MEMBERS[1][:1]])
