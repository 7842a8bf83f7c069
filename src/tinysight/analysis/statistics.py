"""Intervals, ranks and tests: of shares of images, of two models, and of a few training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from tinysight.ops import metrics

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NUM_DRAWS = 4000
NO_NOISE = 1e-12  # variance of shares: less is that of rounding


@dataclass(frozen=True)
class Ranks:
    """The range of each class's rank (K,), 1 for the lowest error; 0 for classes without images.

    `among_worst` is the probability that a class is truly one of the `num_extreme` of highest
    error, `among_best` of lowest.
    """

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
    """Return the ranks that each class's true error (K,) has with probability `confidence`.

    A Bayesian bootstrap of each class's images (Rubin 1981): error rates are drawn from
    Beta(errors + 1/2, right + 1/2) and ranked. Unlike resampling the images it does not treat a
    class without errors as perfect.
    """
    shown = np.flatnonzero(counts > 0)
    num_extreme = min(num_extreme, len(shown))
    wrong, right = errors[shown] + 0.5, (counts - errors)[shown] + 0.5
    ranks = (
        generator.beta(wrong, right, (num_draws, len(shown))).argsort(axis=1).argsort(axis=1) + 1
    )
    tail = 100 * (1 - confidence) / 2
    result = np.zeros((4, len(errors)))
    result[:, shown] = (
        # The nearest rank outwards, so that the range has at least the probability `confidence`
        np.percentile(ranks, tail, axis=0, method="lower"),
        np.percentile(ranks, 100 - tail, axis=0, method="higher"),
        (ranks > len(shown) - num_extreme).mean(axis=0),
        (ranks <= num_extreme).mean(axis=0),
    )
    low, high = result[:2].astype(np.int64)
    return Ranks(low, high, among_worst=result[2], among_best=result[3], num_extreme=num_extreme)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    `only_first` and `only_second` count the images that only one of two models gets wrong; without
    a difference each falls to either by a fair coin.
    """
    count = only_first + only_second
    return float(stats.binomtest(only_first, count).pvalue) if count else 1.0


def holm(p_values: Floats) -> Floats:
    """Adjust p-values (K,) for multiple tests (Holm 1979); those up to 0.05 are significant."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    result = np.empty(len(p_values))
    result[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return result


@dataclass(frozen=True)
class Difference:
    """The second model's error minus the first's on the same images, with a 95 % interval."""

    value: float
    low: float
    high: float
    only_first_wrong: int
    only_second_wrong: int
    p_value: float  # of McNemar's test


def paired_difference(first_correct: Bools, second_correct: Bools) -> Difference:
    """Compare two models on the same N images, given which each gets right (N,)."""
    first, second = torch.from_numpy(first_correct), torch.from_numpy(second_correct)
    value, low, high = metrics.paired_difference(first, second)
    only_first, only_second = int((second & ~first).sum()), int((first & ~second).sum())
    return Difference(value, low, high, only_first, only_second, mcnemar(only_first, only_second))


@dataclass(frozen=True)
class Summary:
    """A sample's mean, standard deviation (n - 1; None for a single value) and extremes."""

    count: int
    mean: float
    sd: float | None
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The mean of paired differences, with a confidence interval; None for a single pair."""

    count: int
    mean: float
    interval: tuple[float, float] | None
    own_noise: bool = False  # the noise is that of these pairs alone

    @property
    def significant(self) -> bool | None:
        """Whether the interval excludes 0; None where one pair cannot tell."""
        return None if self.interval is None else not self.interval[0] <= 0 <= self.interval[1]


def summarize(values: Sequence[float]) -> Summary:
    """Summarize the results of several seeds; raise ValueError for no values."""
    if not values:
        raise ValueError("there is no value to summarize: give at least one")
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(len(values), float(np.mean(values)), sd, min(values), max(values))


def paired(values: Sequence[float], others: Sequence[float], confidence: float = 0.95) -> Paired:
    """Return the mean of `values - others`, paired by seed, with Student's t interval.

    Raises ValueError when there are no pairs, the lengths differ, or `confidence` is not between 0
    and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a share between 0 and 1, as 0.95")
    if len(values) != len(others):
        raise ValueError(f"{len(values)} values and {len(others)} others; give as many of each")
    found = summarize(np.subtract(values, others).tolist())
    if found.sd is None:
        return Paired(count=1, mean=found.mean, interval=None)
    half = stats.t.ppf((1 + confidence) / 2, found.count - 1) * found.sd / np.sqrt(found.count)
    interval = (float(found.mean - half), float(found.mean + half))
    return Paired(count=found.count, mean=found.mean, interval=interval)


def compared(
    values: Mapping[str, Mapping[int, float]], reference: str, confidence: float = 0.95
) -> dict[str, Paired]:
    """Return the difference of each label's values, by seed, to those of the reference.

    A two-way layout without interaction: an effect of the label and one of the seed, which all
    labels share, and noise that is alike for all. All runs together estimate the noise, so that two
    seeds of several labels tell more than two pairs do; of one label and the reference it is
    `paired`. `variance_outliers` do not count for the noise of the others, nor the others for
    theirs: their differences are those of their own pairs (all are where the reference is one).
    Labels that have no seed of the reference are left out.
    """
    own = values[reference]
    labels = [label for label in values if label != reference and own.keys() & values[label].keys()]
    outliers = variance_outliers({label: values[label] for label in (reference, *labels)})
    found = {}
    for label in labels if reference in outliers else outliers:
        seeds = sorted(own.keys() & values[label].keys())
        pairs = [values[label][seed] for seed in seeds], [own[seed] for seed in seeds]
        found[label] = replace(paired(*pairs, confidence), own_noise=True)
    labels = [label for label in labels if label not in found]
    fit = _fit({label: values[label] for label in (*labels, reference)})
    noise = fit.squares / max(fit.freedom, 1)
    if noise <= NO_NOISE:
        noise = 0.0
    for place, label in enumerate(labels):
        contrast = fit.inverse[place] - fit.inverse[len(labels)]
        mean, interval = round(float(contrast @ fit.results), 12), None
        if fit.freedom:
            error = np.sqrt(noise * np.sum(contrast**2))
            half = float(stats.t.ppf((1 + confidence) / 2, fit.freedom) * error)
            interval = (mean - half, mean + half)
        count = len(own.keys() & values[label].keys())
        found[label] = Paired(count=count, mean=mean, interval=interval)
    return {label: found[label] for label in values if label in found}


def variance_outliers(values: Mapping[str, Mapping[int, float]], chance: float = 0.01) -> list[str]:
    """Return the labels whose values, by seed, scatter more than those of the others explain.

    Each label's share of the squares left by the two-way layout of `compared` is tested against
    what the others leave without it (an F test, for all labels together at `chance`: Bonferroni);
    the clearest is set aside, and the rest tested again.
    """
    outliers: list[str] = []
    while True:
        rest = {label: own for label, own in values.items() if label not in outliers}
        whole, p_values = _fit(rest), {}
        for label in rest:
            others = _fit({other: own for other, own in rest.items() if other != label})
            freedom = whole.freedom - others.freedom
            if freedom and others.freedom and (noise := others.squares / others.freedom) > NO_NOISE:
                ratio = (whole.squares - others.squares) / freedom / noise
                p_values[label] = float(stats.f.sf(ratio, freedom, others.freedom))
        clearest = min(p_values, key=p_values.__getitem__, default="")
        if not p_values or p_values[clearest] * len(rest) > chance:
            return outliers
        outliers.append(clearest)


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """Effects of labels and seeds, as a matrix (effects, runs) to be applied to `results` (runs,).

    The effects of labels come first, in their order. `squares` is what they leave unexplained, in
    sum, with `freedom` degrees of freedom.
    """

    inverse: Floats
    results: Floats
    squares: float
    freedom: int


def _fit(values: Mapping[str, Mapping[int, float]]) -> _Fit:
    seeds = sorted({seed for by_seed in values.values() for seed in by_seed})
    runs = [(label, seed) for label, by_seed in values.items() for seed in by_seed]
    design = np.array(
        [[label == one for one in values] + [seed == one for one in seeds] for label, seed in runs],
        np.float64,
    ).reshape(len(runs), len(values) + len(seeds))
    results = np.array([values[label][seed] for label, seed in runs])
    inverse = np.asarray(np.linalg.pinv(design), np.float64)
    left = results - design @ (inverse @ results)
    freedom = len(runs) - int(np.linalg.matrix_rank(design)) if runs else 0
    return _Fit(inverse=inverse, results=results, squares=float(left @ left), freedom=freedom)
