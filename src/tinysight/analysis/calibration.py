"""Whether a confidence of 80 % means right in 80 % of cases (Guo et al. 2017, arXiv:1706.04599)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinysight.analysis.results import Bools, Floats, Ints
from tinysight.ops.metrics import wilson_interval

NUM_BINS = 15  # as `ops.metrics.expected_calibration_error`


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Images in bins of equal width by confidence: (low, high] each; means are NaN where a bin is
    empty.
    """

    borders: Floats  # (bins + 1,)
    counts: Ints
    confidence: Floats  # mean
    accuracy: Floats
    low: Floats
    high: Floats  # 95 % Wilson interval of the accuracy

    @property
    def error(self) -> float:
        """The expected calibration error, 0..1."""
        some = self.counts > 0
        gaps = np.abs(self.confidence - self.accuracy)[some]
        return float((gaps * self.counts[some]).sum() / self.counts.sum())


def reliability(confidence: Floats, correct: Bools, *, num_bins: int = NUM_BINS) -> Reliability:
    """Sort N predictions into bins by confidence (N,), with `correct` (N,) whether each was right."""
    borders = np.linspace(0, 1, num_bins + 1)
    which = np.searchsorted(borders[1:-1], confidence, side="left")
    counts = np.bincount(which, minlength=num_bins)
    right = np.bincount(which, correct, minlength=num_bins).astype(np.int64)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(which, confidence, minlength=num_bins) / counts
        accuracy = right / counts
    low, high = wilson_interval(right, counts)
    return Reliability(
        borders=borders, counts=counts, confidence=mean, accuracy=accuracy, low=low, high=high
    )
