"""What a few trainings tell: mean, spread, and paired differences with Student's interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Figures of a sample; `sd` (with n - 1) is None for a single value."""

    count: int
    mean: float
    sd: float | None
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The mean of paired differences, with a confidence interval, None for a single pair."""

    count: int
    mean: float
    interval: tuple[float, float] | None

    @property
    def significant(self) -> bool | None:
        """Whether the interval leaves out 0; None where one pair cannot tell."""
        return None if self.interval is None else not self.interval[0] <= 0 <= self.interval[1]


def summary(values: Sequence[float]) -> Summary:
    """Return count, mean, standard deviation and extremes; raise ValueError for no values."""
    if not values:
        raise ValueError("there is no value to sum up: give at least one")
    mean = math.fsum(values) / len(values)
    sd = (
        math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
        if len(values) > 1
        else None
    )
    return Summary(count=len(values), mean=mean, sd=sd, low=min(values), high=max(values))


def paired(values: Sequence[float], others: Sequence[float], confidence: float = 0.95) -> Paired:
    """Return the mean of `values - others`, pair by pair, with Student's t interval (n - 1 degrees
    of freedom).

    Raises:
        ValueError: there are no pairs, the lengths differ, or `confidence` is no share between 0
    and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: give a share between 0 and 1, as 0.95")
    if len(values) != len(others):
        raise ValueError(
            f"{len(values)} values and {len(others)} others make no pairs: give as many of each"
        )
    found = summary([value - other for value, other in zip(values, others, strict=True)])
    if found.sd is None:
        return Paired(count=1, mean=found.mean, interval=None)
    half = (
        float(stats.t.ppf((1 + confidence) / 2, found.count - 1))
        * found.sd
        / math.sqrt(found.count)
    )
    return Paired(
        count=found.count, mean=found.mean, interval=(found.mean - half, found.mean + half)
    )
