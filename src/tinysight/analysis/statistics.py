"""What may be concluded from counts of errors: intervals, ranks, and differences of two runs on the
same images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tinysight.ops import metrics

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NUM_DRAWS = 4000


@dataclass(frozen=True)
class Ranks:
    """Which place each class (K,) may have among those that have images, 1 the lowest error; 0
    where there are none.

    `among_worst` is the probability that a class is truly one of the `num_extreme` of highest
    error, and `among_best` of lowest."""

    low: Ints
    high: Ints
    among_worst: Floats
    among_best: Floats
    num_extreme: int


def rank_intervals(
    errors: Ints,
    counts: Ints,
    *,
    generator: np.random.Generator,
    num_extreme: int = 5,
    confidence: float = 0.95,
    num_draws: int = NUM_DRAWS,
) -> Ranks:
    """Draw what each class's true error (K,) may be, rank the draws, and return the range that
    holds `confidence`.

    A Bayesian bootstrap of each class's images (Rubin 1981): an error rate is drawn from
    Beta(errors + 1/2, right + 1/2). Unlike resampling the images it does not take a class
    without a seen error for perfect."""
    there = np.flatnonzero(counts > 0)
    num_extreme = min(num_extreme, len(there))
    wrong, right = errors[there] + 0.5, (counts - errors)[there] + 0.5
    drawn = generator.beta(wrong, right, (num_draws, len(there)))
    places = drawn.argsort(axis=1).argsort(axis=1) + 1  # (draws, classes there)
    tail = 100 * (1 - confidence) / 2
    # The nearest whole place outwards, so that the range holds at least `confidence`
    low = np.percentile(places, tail, axis=0, method="lower")
    high = np.percentile(places, 100 - tail, axis=0, method="higher")
    ranks = Ranks(
        low=np.zeros(len(errors), np.int64),
        high=np.zeros(len(errors), np.int64),
        among_worst=np.zeros(len(errors)),
        among_best=np.zeros(len(errors)),
        num_extreme=num_extreme,
    )
    ranks.low[there], ranks.high[there] = low, high
    ranks.among_worst[there] = (places > len(there) - num_extreme).mean(axis=0)
    ranks.among_best[there] = (places <= num_extreme).mean(axis=0)
    return ranks


def sign_test(first: int, second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test: the images that only one of two runs
    got wrong.

    Under no difference each of the first + second images fell to either run by a fair coin.
    """
    n, k = first + second, min(first, second)
    if first == second:
        return 1.0
    terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2)
        for i in range(k + 1)
    ]
    largest = max(terms)
    return min(1.0, 2 * math.exp(largest) * math.fsum(math.exp(term - largest) for term in terms))


def holm(p_values: Floats) -> Floats:
    """Adjust p-values (K,) for being many (Holm 1979): those of at most 0.05 are all real with 95 %
    confidence.
    """
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    result = np.empty(len(p_values))
    result[order] = adjusted
    return result


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The second run's error less the first's on the same images: share, 95 % interval, McNemar's
    p-value.
    """

    value: float
    low: float
    high: float
    only_first_wrong: int
    only_second_wrong: int
    p_value: float


def paired_difference(first_correct: Bools, second_correct: Bools) -> Difference:
    """Compare two runs on the same images (N,): `ops.metrics.paired_difference`, and McNemar's test
    beside it.
    """
    first, second = torch.from_numpy(first_correct), torch.from_numpy(second_correct)
    value, low, high = metrics.paired_difference(first, second)
    first_only, second_only = int((second & ~first).sum()), int((first & ~second).sum())
    return Difference(
        value=value,
        low=low,
        high=high,
        only_first_wrong=first_only,
        only_second_wrong=second_only,
        p_value=sign_test(first_only, second_only),
    )
