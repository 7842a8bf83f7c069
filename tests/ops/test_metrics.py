"""What an evaluation counts, against values known by hand and slow loops."""

from __future__ import annotations

import math

import pytest
import torch

from tinysight.ops import metrics


@pytest.mark.parametrize("k", [1, 3, 5])
def test_topk_equals_sorting(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    # Few distinct values, so that ties are many.
    logits = torch.randint(0, 4, (300, 8), generator=generator).float()
    labels = torch.randint(0, 8, (300,), generator=generator)
    expected = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        best = sorted(range(8), key=lambda index: (-row[index], index))[:k]
        expected.append(label in best)
    assert metrics.topk_correct(logits, labels, k).tolist() == expected
    assert 0 < sum(expected) < 300


def test_topk_of_ties_nan_and_infinity() -> None:
    nan, inf = math.nan, math.inf
    logits = torch.tensor(
        [[1.0, 1, 1], [1, 1, 1], [nan, 0, 9], [nan, nan, nan], [inf, 0, -inf], [nan, 0, 1]]
    )
    labels = torch.tensor([0, 1, 2, 0, 0, 0])
    assert metrics.topk_correct(logits, labels, 1).tolist() == [
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert metrics.topk_correct(logits, labels, 3).tolist() == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    assert metrics.topk_correct(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 1).shape == (
        0,
    )


@pytest.mark.parametrize("k", [0, 4])
def test_topk_refuses_a_k_beyond_the_classes(k: int) -> None:
    with pytest.raises(ValueError, match=f"top-{k} of 3 classes"):
        metrics.topk_correct(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), k)


@pytest.mark.parametrize(
    ("errors", "count", "expected"),
    [
        # Newcombe 1998, Table I, method 3 (score): 81/263, 15/148, 0/20, 1/29.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (20, 20, (0.8389, 1.0)),
    ],
)
def test_wilson_interval_equals_published_values(
    errors: int, count: int, expected: tuple[float, float]
) -> None:
    assert metrics.wilson_interval(errors, count) == pytest.approx(expected, abs=5e-5)


def test_wilson_interval_narrows_with_confidence_and_count() -> None:
    def width(count: int, confidence: float) -> float:
        low, high = metrics.wilson_interval(count // 2, count, confidence)
        return high - low

    assert width(10_000, 0.95) == pytest.approx(
        2 * 0.0098, rel=0.01
    )  # the interval of 50 % on 10,000 images
    assert width(100, 0.8) < width(100, 0.95) < width(100, 0.99)
    assert width(1_000, 0.95) < width(100, 0.95)


def test_wilson_interval_touches_its_ends_exactly() -> None:
    for count in range(1, 200):
        assert metrics.wilson_interval(0, count)[0] == 0
        assert metrics.wilson_interval(count, count)[1] == 1


@pytest.mark.parametrize(("errors", "count"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_impossible_counts(errors: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"{errors} errors of {count}"):
        metrics.wilson_interval(errors, count)
    with pytest.raises(ValueError, match="confidence is 95"):
        metrics.wilson_interval(1, 5, 95)


def test_calibration_error_by_hand() -> None:
    # Bin (0.8, 1.0]: confidence 0.9, accuracy 0.5, 4 of 6 images. Bin (0.4, 0.6]: confidence 0.5,
    # accuracy 1, 2 of 6.
    probabilities = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.5, 0.5])
    correct = torch.tensor([1, 0, 1, 0, 1, 1]).bool()
    expected = 4 / 6 * 0.4 + 2 / 6 * 0.5
    assert metrics.expected_calibration_error(probabilities, correct, bins=5) == pytest.approx(
        expected, abs=1e-6
    )
    # One bin sees the means alone.
    overall = abs(4 / 6 - float(probabilities.mean()))
    assert metrics.expected_calibration_error(probabilities, correct, bins=1) == pytest.approx(
        overall, abs=1e-6
    )


def test_calibration_error_equals_a_loop_over_bins() -> None:
    generator = torch.Generator().manual_seed(0)
    # Quarters are exact in binary and lie on the borders of 4 bins: each belongs to the bin below.
    probabilities = torch.cat(
        (torch.rand(500, generator=generator), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0] * 20))
    )
    correct = torch.rand(600, generator=generator) < 0.4
    expected = 0.0
    for index in range(4):
        low, high = index / 4, (index + 1) / 4
        inside = [
            i
            for i, p in enumerate(probabilities.tolist())
            if low < p <= high or (index == 0 and p == 0)
        ]
        right = sum(bool(correct[i]) for i in inside)
        expected += abs(right - sum(float(probabilities[i]) for i in inside)) / 600
    assert metrics.expected_calibration_error(probabilities, correct, bins=4) == pytest.approx(
        expected, abs=1e-9
    )


def test_calibration_error_refuses_what_is_no_probability() -> None:
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="reach outside"):
            metrics.expected_calibration_error(
                torch.tensor([0.5, bad]), torch.tensor([True, False])
            )
    with pytest.raises(ValueError, match="no prediction"):
        metrics.expected_calibration_error(torch.zeros(0), torch.zeros(0, dtype=torch.bool))


def test_a_paired_difference_is_the_share_of_images_that_only_one_has_right() -> None:
    correct = torch.tensor([True] * 60 + [False] * 40)
    others = torch.tensor([True] * 50 + [False] * 10 + [True] * 4 + [False] * 36)
    difference, low, high = metrics.paired_difference(correct, others)
    assert difference == pytest.approx(0.06)
    # Agresti and Min 2005 by hand: 10.5 and 4.5 of 102, give or take 1.96 standard errors
    half = 1.959964 * math.sqrt((10.5 + 4.5) - 6**2 / 102) / 102
    assert (low, high) == pytest.approx((6 / 102 - half, 6 / 102 + half), abs=1e-6)
    assert metrics.paired_difference(others, correct)[0] == -difference


def test_a_paired_interval_covers_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        uniform = torch.rand(200, generator=generator)
        correct, others = (
            uniform < 0.6,
            (uniform < 0.45) | (uniform > 0.9),
        )  # 0.6 against 0.55, correlated
        _, low, high = metrics.paired_difference(correct, others)
        covered += low <= 0.05 <= high
    assert 0.92 < covered / 400 < 0.98


def test_a_paired_difference_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="for every image"):
        metrics.paired_difference(
            torch.zeros(3, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
        )
