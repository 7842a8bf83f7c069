"""Bins counted by hand, and the error that evaluation computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinysight.analysis.calibration import reliability
from tinysight.ops.metrics import expected_calibration_error


def test_bins_by_hand() -> None:
    bins = reliability(
        np.array([0.5, 0.4, 0.9, 1.0, 0.51]), np.array([True, False, True, True, False]), num_bins=2
    )
    assert bins.counts.tolist() == [2, 3]  # a border belongs to the bin below it
    assert bins.confidence.tolist() == pytest.approx([0.45, 2.41 / 3])
    assert bins.accuracy.tolist() == pytest.approx([0.5, 2 / 3])
    assert bins.error == pytest.approx((0.05 * 2 + (2.41 / 3 - 2 / 3) * 3) / 5)


def test_the_error_is_that_of_the_evaluation() -> None:
    rng = np.random.default_rng(0)
    confidence, correct = rng.uniform(0.05, 1, 3000), rng.uniform(size=3000) < 0.6
    bins = reliability(confidence, correct)
    expected = expected_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert bins.error == pytest.approx(expected, abs=1e-12)


def test_empty_bins_hold_nothing() -> None:
    bins = reliability(np.array([0.99]), np.array([True]))
    assert (
        bins.counts.sum() == 1
        and np.isnan(bins.accuracy[:-1]).all()
        and bins.error == pytest.approx(0.01)
    )
