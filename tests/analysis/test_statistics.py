"""Intervals, ranks and tests against scipy and exact references."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tinysight.analysis.statistics import (
    compared,
    holm,
    mcnemar,
    paired,
    paired_difference,
    rank_intervals,
    summarize,
    variance_outliers,
)


def test_ranks_of_well_separated_classes_are_certain() -> None:
    errors, counts = np.array([500, 10, 900, 0]), np.array([1000, 1000, 1000, 0])
    ranks = rank_intervals(errors, counts, generator=np.random.default_rng(0), num_extreme=1)
    assert ranks.low.tolist() == ranks.high.tolist() == [2, 1, 3, 0]
    assert ranks.among_worst.tolist() == [0, 0, 1, 0]
    assert ranks.among_best.tolist() == [0, 1, 0, 0]


def test_equal_classes_may_have_any_rank() -> None:
    errors, counts = np.full(20, 25), np.full(20, 50)
    ranks = rank_intervals(errors, counts, generator=np.random.default_rng(0), num_draws=8000)
    assert (ranks.low <= 2).all() and (ranks.high >= 19).all()
    np.testing.assert_allclose(ranks.among_worst, 5 / 20, atol=0.02)
    assert ranks.among_worst.sum() == pytest.approx(5)


def test_the_probability_to_be_worse_equals_the_integral() -> None:
    """Of two classes with errors Beta(a, b) and Beta(c, d), by summing over a grid."""
    ranks = rank_intervals(
        np.array([20, 25]),
        np.array([50, 50]),
        generator=np.random.default_rng(0),
        num_extreme=1,
        num_draws=200_000,
    )
    x = np.linspace(0, 1, 20_001)[1:-1]

    def density(wrong: float, right: float) -> np.ndarray:
        values = np.exp((wrong - 1) * np.log(x) + (right - 1) * np.log(1 - x))
        return values / values.sum()

    first, second = density(20.5, 30.5), density(25.5, 25.5)
    expected = float((second * first.cumsum()).sum())
    assert ranks.among_worst[1] == pytest.approx(expected, abs=0.005)


def test_fewer_classes_than_extreme_ones() -> None:
    ranks = rank_intervals(np.array([1]), np.array([3]), generator=np.random.default_rng(0))
    assert (ranks.low[0], ranks.high[0], ranks.num_extreme) == (1, 1, 1)


def test_the_same_generator_gives_the_same_ranks() -> None:
    errors, counts = np.arange(10), np.full(10, 20)
    one, two = (
        rank_intervals(errors, counts, generator=np.random.default_rng(3)) for _ in range(2)
    )
    assert (one.low == two.low).all() and (one.among_best == two.among_best).all()


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (5, 5), (0, 6), (1, 9), (30, 12), (400, 300), (3000, 2500)]
)
def test_mcnemar_is_exact(first: int, second: int) -> None:
    n, k = first + second, min(first, second)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    exact = min(1.0, 2 * tail / 2**n) if first != second else 1.0
    assert mcnemar(first, second) == pytest.approx(exact, rel=1e-9)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm(np.array([0.5, 0.9])), [1.0, 1.0])


def test_a_paired_difference_counts_and_its_interval_is_the_analytic_one() -> None:
    first = np.repeat(
        [False, True, True, False], [300, 200, 4000, 500]
    )  # wrong only in the first: 300
    second = np.repeat([True, False, True, False], [300, 200, 4000, 500])
    found = paired_difference(first, second)
    assert (found.only_first_wrong, found.only_second_wrong) == (300, 200)
    assert found.value == pytest.approx(-100 / 5000)
    spread = math.sqrt(500 - 100**2 / 5000) / 5000
    assert found.low == pytest.approx(found.value - 1.96 * spread, abs=4e-4)
    assert found.high == pytest.approx(found.value + 1.96 * spread, abs=4e-4)
    assert found.p_value == mcnemar(300, 200)


def test_a_model_does_not_differ_from_itself() -> None:
    correct = np.arange(50) % 3 == 0
    found = paired_difference(correct, correct)
    assert (found.value, found.p_value) == (0.0, 1.0)
    assert -0.05 < found.low < 0 < found.high < 0.05  # 50 images leave room for a small difference


def test_models_of_other_images_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="3 results and 2 others"):
        paired_difference(np.ones(3, bool), np.ones(2, bool))


def test_seeds_are_summarized() -> None:
    found = summarize([0.2, 0.4, 0.9])
    assert (found.count, found.low, found.high) == (3, 0.2, 0.9)
    assert found.mean == pytest.approx(0.5)
    assert found.sd == pytest.approx(np.std([0.2, 0.4, 0.9], ddof=1))
    assert summarize([0.3]).sd is None


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_paired_interval_equals_scipys(confidence: float) -> None:
    generator = np.random.default_rng(0)
    for count in (2, 3, 5, 20):
        values, others = generator.normal(0.4, 0.02, count), generator.normal(0.41, 0.02, count)
        expected = stats.ttest_rel(values, others)
        found = paired(values.tolist(), others.tolist(), confidence)
        interval = expected.confidence_interval(confidence)
        assert found.interval == pytest.approx((interval.low, interval.high))
        assert found.significant == (expected.pvalue < 1 - confidence)


def test_a_paired_interval_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.3027, so 2 -+ 4.3027 / sqrt(3)."""
    found = paired([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert found.mean == pytest.approx(2) and found.significant is False
    assert found.interval == pytest.approx((2 - 2.4842, 2 + 2.4842), abs=1e-3)


def test_pairing_removes_what_seeds_have_in_common() -> None:
    assert paired([0.50, 0.40, 0.30], [0.49, 0.39, 0.29]).significant is True
    assert paired([0.30, 0.50, 0.40], [0.49, 0.39, 0.29]).significant is False
    one = paired([0.4], [0.3])
    assert one.mean == pytest.approx(0.1) and (one.interval, one.significant) == (None, None)


def by_seed(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


def test_two_are_compared_as_pairs_are() -> None:
    first, second = [0.42, 0.44, 0.40], [0.45, 0.44, 0.44]
    found = compared({"a": by_seed(first), "b": by_seed(second)}, "a")["b"]
    expected = paired(second, first)
    assert found.mean == pytest.approx(expected.mean) and found.count == 3
    assert found.interval == pytest.approx(expected.interval)


def test_noise_of_all_runs_is_one() -> None:
    """Two seeds of three: residuals 1, -1 of b and c by hand, 2 degrees of freedom."""
    values = {"a": by_seed([10, 20]), "b": by_seed([12, 22]), "c": by_seed([14, 18])}
    found = compared(values, "a")
    # means a 15, b 17, c 16, seeds 12 and 20: residuals -1 1, -1 1, 2 -2; 12 / 2 = 6
    half = 4.302653 * np.sqrt(6 * 2 / 2)
    assert [found[label].mean for label in "bc"] == pytest.approx([2, 1])
    for label, mean in (("b", 2), ("c", 1)):
        assert found[label].interval == pytest.approx((mean - half, mean + half), rel=1e-6)


def test_what_is_not_finished_is_left_out_of_a_comparison() -> None:
    values = {"a": by_seed([1.0, 2.0]), "b": {0: 3.0}, "c": {2: 9.0}, "d": {}}
    assert {label: found.count for label, found in compared(values, "a").items()} == {"b": 1}
    one = compared(values, "a")["b"]
    assert one.mean == pytest.approx(2) and one.interval is None
    assert compared({"a": {}, "b": {0: 1.0}}, "a") == {}
    # b's only seed is judged by the noise of the others
    more = compared(values | {"e": by_seed([4.0, 5.2])}, "a")["b"]
    assert more.interval is not None and more.significant is not None


def test_intervals_of_a_comparison_hold_the_truth() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        seeds, noise = generator.normal(0, 0.02, 2), generator.normal(0, 0.01, (4, 2))
        runs = np.array([0.5, 0.5, 0.49, 0.47])[:, None] + seeds + noise
        found = compared({str(i): by_seed(own.tolist()) for i, own in enumerate(runs)}, "0")
        low, high = found["3"].interval or (0.0, 0.0)
        held += low <= -0.03 <= high
    assert 460 <= held <= 490  # 95 % of 500 is 475, standard deviation 4.9


def test_an_outlier_in_variance_is_compared_by_its_own_pairs() -> None:
    steady = {"a": [0.50, 0.52, 0.51], "b": [0.53, 0.54, 0.545], "c": [0.48, 0.50, 0.485]}
    values = {label: by_seed(own) for label, own in steady.items()}
    more = values | {"d": by_seed([0.55, 0.45, 0.60])}
    assert (variance_outliers(values), variance_outliers(more)) == ([], ["d"])
    assert variance_outliers(more, chance=1e-9) == []
    found, without = compared(more, "a"), compared(values, "a")
    assert list(found) == ["b", "c", "d"] and found["b"] == without["b"]
    assert found["d"] == replace(paired([0.55, 0.45, 0.60], steady["a"]), own_noise=True)
    by_d = compared(more, "d")
    assert by_d["b"] == replace(paired(steady["b"], [0.55, 0.45, 0.60]), own_noise=True)
    one = compared(more | {"e": {1: 0.7}}, "d")["e"]
    assert (one.count, one.interval, one.own_noise) == (1, None, True)
    again = more | {"f": by_seed([0.3, 0.9, 0.2])}
    assert sorted(variance_outliers(again)) == ["d", "f"]


def test_without_noise_no_label_is_an_outlier() -> None:
    same = {label: by_seed([0.1, 0.3]) for label in "abc"}
    assert variance_outliers(same | {"d": by_seed([0.1, 0.4])}) == variance_outliers({}) == []


def test_equal_values_do_not_differ_by_rounding() -> None:
    generator = np.random.default_rng(0)
    for labels, seeds in ((3, 5), (4, 3), (4, 5), (12, 2), (12, 3), (12, 5)):
        for _ in range(50):
            same = by_seed(generator.random(seeds).tolist())
            found = compared({str(label): same for label in range(labels)}, "0")
            assert {(own.mean, own.interval, own.significant) for own in found.values()} == {
                (0.0, (0.0, 0.0), False)
            }
    differing = compared({"a": by_seed([0.1, 0.3]), "b": by_seed([0.15, 0.35])}, "a")["b"]
    assert differing.mean == pytest.approx(0.05) and differing.significant is True


def test_one_in_a_hundred_studies_of_alike_noise_has_an_outlier_in_variance() -> None:
    generator = np.random.default_rng(0)
    found = 0
    for noise in generator.normal(0, 0.01, (2000, 5, 3)):
        found += bool(
            variance_outliers({str(i): by_seed(own.tolist()) for i, own in enumerate(noise)})
        )
    assert 8 <= found <= 32, found  # 20, standard deviation 4.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "at least one"),
        (([0.1, 0.2], [0.1]), "as many of each"),
        (([0.1, 0.2], [0.1, 0.3], 95), r"as 0\.95"),
    ],
)
def test_values_that_make_no_pairs_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired(*arguments)
