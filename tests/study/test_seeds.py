"""Mean, spread and paired intervals equal scipy's own and figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tinysight.study.seeds import paired, summary


def test_a_sample_is_summed_up() -> None:
    found = summary([0.2, 0.4, 0.9])
    assert (found.count, found.low, found.high) == (3, 0.2, 0.9)
    assert found.mean == pytest.approx(0.5)
    assert found.sd == pytest.approx(np.std([0.2, 0.4, 0.9], ddof=1))
    assert summary([0.3]).sd is None


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_paired_interval_is_scipys(confidence: float) -> None:
    generator = np.random.default_rng(0)
    for count in (2, 3, 5, 20):
        values, others = generator.normal(0.4, 0.02, count), generator.normal(0.41, 0.02, count)
        expected = stats.ttest_rel(values, others).confidence_interval(confidence)
        found = paired(values.tolist(), others.tolist(), confidence)
        assert found.interval == pytest.approx((expected.low, expected.high))
        assert found.significant == (stats.ttest_rel(values, others).pvalue < 1 - confidence)


def test_a_paired_interval_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.3027, so 2 -+ 4.3027 / sqrt(3)."""
    found = paired([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert found.mean == pytest.approx(2)
    assert found.interval == pytest.approx((2 - 2.4842, 2 + 2.4842), abs=1e-3)
    assert found.significant is False


def test_pairs_matter() -> None:
    """Seeds that differ much from each other, and each by the same from its pair: no noise is left."""
    found = paired([0.50, 0.40, 0.30], [0.49, 0.39, 0.29])
    assert found.significant is True
    assert paired([0.30, 0.50, 0.40], [0.49, 0.39, 0.29]).significant is False


def test_one_pair_cannot_tell() -> None:
    found = paired([0.4], [0.3])
    assert found.mean == pytest.approx(0.1)
    assert (found.interval, found.significant) == (None, None)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="give at least one"):
        summary([])
    with pytest.raises(ValueError, match="give as many of each"):
        paired([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match=r"as 0\.95"):
        paired([0.1, 0.2], [0.1, 0.3], confidence=95)
