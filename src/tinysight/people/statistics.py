"""Accuracy, error consistency and agreement of people and networks, with intervals.

Sources: two-way clustering, Cameron, Gelbach and Miller 2011 (by resampling); the interval of a
share from a survey, Korn and Graubard 1998; error consistency, Geirhos et al. 2020
(arXiv 2006.16736), its bootstrap, Klein et al. 2025; alpha, Krippendorff 2004.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tinysight.analysis.statistics import Paired, paired
from tinysight.people.answers import Answers, Bools, Floats, Ints

NUM_DRAWS = 1000
TAILS = (0.025, 0.975)
MAX_WEIGHT = 1e6  # answers, of the mean of groups that do not differ more than by chance


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


NOTHING = Estimate(math.nan, math.nan, math.nan)


def _clustered(
    values: Floats, index: Ints, count: int, rng: np.random.Generator, draws: int
) -> float:
    """Return the variance of the mean of values (N,) over `count` units, by resampling them."""
    if count < 2:
        return 0.0
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    totals = drawn @ np.bincount(index, minlength=count)
    means = (drawn @ np.bincount(index, values, count))[totals > 0] / totals[totals > 0]
    return float(means.var(ddof=1)) * count / (count - 1)


def _variance(values: Floats, answers: Answers, rng: np.random.Generator, draws: int) -> float:
    """Return the variance of the mean of values (N,) over people and images.

    People are resampled, and images: the sum of the two counts twice what varies from answer to
    answer, so that this is taken off once. Resampling both at once would count it three times
    (Owen 2007).
    """
    people = _clustered(values, answers.subject, len(answers.subjects), rng, draws)
    images = _clustered(values, answers.image, len(answers.images), rng, draws)
    single = float(values.var()) / max(len(values) - 1, 1)
    return max(people + images - single, people, images)


def _quantile(answers: Answers) -> float:
    """Return Student's t for the fewer of people and images (the normal one for one person)."""
    units = [n for n in (len(answers.subjects), len(answers.images)) if n > 1]
    return float(stats.t.ppf(0.975, min(units) - 1)) if units else 1.96


def accuracy(
    answers: Answers,
    rng: np.random.Generator,
    draws: int = NUM_DRAWS,
    *,
    right: Bools | None = None,
) -> Estimate:
    """Return the mean accuracy, its interval by resampling people and images.

    Wilson's interval for as many independent answers as have this variance, so that it stays
    within 0 and 1 and is not empty at 100 %. `right` (N,) says which answers count as right; None:
    those that are the label.
    """
    right = answers.correct if right is None else right
    value = float(right.mean())
    variance = _variance(right.astype(np.float64), answers, rng, draws)
    size: float = len(answers.images)
    if variance > 0 and 0 < value < 1:
        size = min(value * (1 - value) / variance, len(answers.rows))
    squared = _quantile(answers) ** 2 / size
    middle = (value + squared / 2) / (1 + squared)
    half = np.sqrt(squared * value * (1 - value) + squared**2 / 4) / (1 + squared)
    return Estimate(value, max(float(middle - half), 0.0), min(float(middle + half), 1.0))


def accuracies(answers: Answers, rng: np.random.Generator) -> dict[str, Estimate]:
    """Return each person's or network's accuracy, its interval over images."""
    return {name: accuracy(answers.of([name]), rng) for name in answers.subjects}


def difference(
    people: Answers, network: Answers, rng: np.random.Generator, draws: int = NUM_DRAWS
) -> Estimate:
    """Return people's accuracy minus the network's on the same images, per answer of a person.

    Raises ValueError where the network has no answer to an image.
    """
    right = dict(zip((row.image for row in network.rows), network.correct.tolist(), strict=True))
    missing = [image for image in people.images if image not in right]
    if missing:
        raise ValueError(f"the network has no answer to {missing[0]}; evaluate it on all images")
    others = np.array([right[row.image] for row in people.rows], np.float64)
    return mean_difference(people.correct - others, people, rng, draws)


def mean_difference(
    values: Floats, people: Answers, rng: np.random.Generator, draws: int = NUM_DRAWS
) -> Estimate:
    """Return the mean of one difference -1..1 per answer of a person (N,), with its interval.

    It is not empty where all are equal: one image more could differ (as Agresti and Min 2005).
    """
    value = float(values.mean())
    variance = max(_variance(values, people, rng, draws), (len(people.images) + 2) ** -2)
    half = _quantile(people) * math.sqrt(variance)
    return Estimate(value, max(value - half, -1.0), min(value + half, 1.0))


def kappa(first: Bools, second: Bools) -> float:
    """Return the error consistency of two observers that were right or not on the same images.

    1 where they err on the same images, 0 as by chance. NaN where one of them is always right or
    always wrong: then nothing can be said.
    """
    both = first[None], second[None], np.ones((1, len(first)), bool)
    return float(_kappas(*both, np.ones((1, len(first))))[0, 0])


def _kappas(first: Bools, second: Bools, shown: Bools, weights: Floats) -> Floats:
    """Return kappa of J pairs, given what is right and what both answered (J, I), for D weights of
    images (D, I): (D, J).
    """
    count = weights @ shown.T
    with np.errstate(invalid="ignore", divide="ignore"):
        p, q, same = (
            weights @ (shown & part).T / count for part in (first, second, first == second)
        )
        chance = p * q + (1 - p) * (1 - q)
        values = (same - chance) / (1 - chance)
    return np.where((p > 0) & (p < 1) & (q > 0) & (q < 1), values, np.nan)


def _pairs(
    answers: Answers, pairs: Sequence[tuple[str, str]]
) -> tuple[Ints, Ints, Bools, Bools, Bools]:
    """Return the observers (J,) of pairs, what each has right and what both answered (J, I)."""
    right, shown = np.zeros((2, len(answers.subjects), len(answers.images)), bool)
    counted = np.isin(answers.kind, ["main", "core"])
    place = answers.subject[counted], answers.image[counted]
    right[place], shown[place] = answers.correct[counted], True
    index = {name: i for i, name in enumerate(answers.subjects)}
    a, b = np.array([[index[name] for name in pair] for pair in pairs], np.int64).reshape(-1, 2).T
    both = shown[a] & shown[b]
    some = both.any(axis=0)  # people share few images
    return a, b, right[a][:, some], right[b][:, some], both[:, some]


def kappas(answers: Answers, pairs: Sequence[tuple[str, str]]) -> Floats:
    """Return kappa of each pair (J,) on the images that both answered."""
    _, _, first, second, both = _pairs(answers, pairs)
    return np.asarray(_kappas(first, second, both, np.ones((1, both.shape[1])))[0])


@dataclass(frozen=True)
class Consistency:
    """Error consistencies of pairs of observers (J,), with their mean where they are defined."""

    values: Floats
    mean: Estimate


def consistency(
    answers: Answers,
    pairs: Sequence[tuple[str, str]],
    rng: np.random.Generator,
    draws: int = NUM_DRAWS,
    *,
    people: Collection[str] = (),
) -> Consistency:
    """Return kappa of each pair on the images that both answered, and the mean of the pairs.

    Its interval is by resampling images, and those of the observers that are `people`, which makes
    it rather too wide than too narrow (Owen 2007).
    """
    a, b, first, second, both = _pairs(answers, pairs)
    number = both.shape[1]
    values = _kappas(first, second, both, np.ones((1, number)))[0]
    if np.isnan(values).all():
        return Consistency(values, NOTHING)
    images = rng.multinomial(number, np.full(number, 1 / number), size=draws)
    drawn = _kappas(first, second, both, images.astype(np.float64))
    often = np.ones((draws, len(answers.subjects)))
    resampled = [i for i, name in enumerate(answers.subjects) if name in people]
    if resampled:
        chances = np.full(len(resampled), 1 / len(resampled))
        often[:, resampled] = rng.multinomial(len(resampled), chances, size=draws)
    weights = often[:, a] * often[:, b] * ~np.isnan(drawn)
    some = weights.sum(axis=1) > 0
    means = (weights * np.nan_to_num(drawn)).sum(axis=1)[some] / weights.sum(axis=1)[some]
    low, high = np.percentile(means, [2.5, 97.5]) if some.any() else (math.nan, math.nan)
    return Consistency(values, Estimate(float(np.nanmean(values)), float(low), float(high)))


def error_consistency(
    answers: Answers, first: str, second: str, rng: np.random.Generator, draws: int = NUM_DRAWS
) -> Estimate:
    """Return kappa of two observers on the images that both answered, resampling images."""
    return consistency(answers, [(first, second)], rng, draws).mean


def shrink(right: Floats, counts: Floats) -> list[Estimate]:
    """Return the accuracies of G groups, drawn towards their mean as far as chance explains them.

    `right` of `counts` answers (G,) are right; where answers depend on each other, both are of as
    many independent ones. The groups' true accuracies are taken to have a beta distribution, whose
    variance is that of the groups less what chance adds (method of moments). The intervals allow
    for the variance being estimated (empirical Bayes, Morris 1983).
    """
    total, own = counts.sum(), right / counts
    mean = right.sum() / total
    chance = mean * (1 - mean)
    between = (counts * (own - mean) ** 2).sum() - (len(counts) - 1) * chance
    spread = between / max(total - (counts**2).sum() / total, 1e-9)
    weight = min(max(chance / spread - 1, 0.0), MAX_WEIGHT) if spread > 0 else MAX_WEIGHT
    value = (weight * mean + right) / (weight + counts)
    drawn = weight / (weight + counts)
    variance = value * (1 - value) / (weight + counts + 1)
    if len(counts) > 3:
        variance += 2 / (len(counts) - 3) * drawn**2 * (own - mean) ** 2
    size = np.where(variance > 0, value * (1 - value) / np.maximum(variance, 1e-12) - 1, total)
    size = np.clip(size, counts, total)  # as exact as its own answers, at most as all
    low, high = (stats.beta.ppf(q, value * size + 0.5, (1 - value) * size + 0.5) for q in TAILS)
    parts = zip(value, np.minimum(low, value), np.maximum(high, value), strict=True)
    return [Estimate(*map(float, part)) for part in parts]


def design_effects(answers: Answers, groups: Ints) -> Floats:
    """Return how many answers are worth one independent answer in each group of classes (G,), given
    the group of each class (K,), from 0.

    Answers to one image are alike, so that those to images that many saw are worth less (Kish
    1965): 1 + their correlation times the mean number of other answers to an answer's image.
    """
    totals, right = np.bincount(answers.image), np.bincount(answers.image, answers.correct)
    shared = totals > 1
    alike = 0.0
    mean = right[shared].sum() / max(totals[shared].sum(), 1)
    if 0 < mean < 1:
        differing = 2 * right[shared] * (totals - right)[shared] / (totals[shared] - 1)
        alike = 1 - float(differing.sum() / totals[shared].sum()) / (2 * mean * (1 - mean))
    others = np.bincount(groups[answers.target], totals[answers.image] - 1)
    counts = np.bincount(groups[answers.target])
    return np.asarray(1 + max(alike, 0.0) * others / np.maximum(counts, 1))


@dataclass(frozen=True)
class Agreement:
    """How people agree on images: (I,) shares of the commonest answer, entropies in bits."""

    majority: Floats
    entropy: Floats

    @property
    def unanimous(self) -> float:
        """The share of images to which all gave one answer."""
        return float((self.majority == 1).mean())


def count_answers(answers: Answers) -> Ints:
    """Count the answers to each image (I, K); "I cannot tell" is not counted."""
    counts = np.zeros((len(answers.images), len(answers.class_names)), np.int64)
    given = answers.response >= 0
    np.add.at(counts, (answers.image[given], answers.response[given]), 1)
    return counts


def agreement(counts: Ints) -> Agreement:
    """Return the agreement on images with answers, from counts (I, K)."""
    kept = counts[counts.sum(axis=1) > 0]
    shares = kept / kept.sum(axis=1, keepdims=True)
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return Agreement(shares.max(axis=1), -(shares * logs).sum(axis=1) + 0.0)


def alpha(counts: Ints, rng: np.random.Generator, draws: int = NUM_DRAWS) -> Estimate:
    """Return Krippendorff's alpha for classes from counts (I, K) of answers, resampling images.

    1 for perfect agreement, 0 as by chance; NaN where no image has two answers, or all answers are
    one class.
    """
    kept = counts[counts.sum(axis=1) > 1].astype(np.float64)
    sizes = kept.sum(axis=1)
    differing = (sizes**2 - (kept**2).sum(axis=1)) / (sizes - 1)
    number = len(kept)
    if number == 0:
        return NOTHING
    drawn = rng.multinomial(number, np.full(number, 1 / number), size=draws)
    weights = np.vstack([np.ones(number), drawn])
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights @ sizes
        expected = total**2 - ((weights @ kept) ** 2).sum(axis=1)
        values = 1 - (weights @ differing) * (total - 1) / expected
    if not np.isfinite(values[0]):
        return NOTHING
    low, high = np.percentile(values[1:][np.isfinite(values[1:])], [2.5, 97.5])
    return Estimate(float(values[0]), float(low), float(high))


def session_parts(answers: Answers, number: int) -> Ints:
    """Return in which of `number` equal parts of a person's session each answer is: (N,), from 0;
    -1 for people with fewer answers than parts.
    """
    parts = np.full(len(answers.rows), -1)
    for i in range(len(answers.subjects)):
        own = np.flatnonzero(answers.subject == i)
        own = own[np.lexsort((answers.trial[own], answers.session[own]))]
        if len(own) >= number:
            for part, places in enumerate(np.array_split(own, number)):
                parts[places] = part
    return parts


def learning(answers: Answers) -> Paired:
    """Return each person's accuracy in the second half minus the first, the mean over people.

    Raises ValueError where nobody has two answers.
    """
    half = session_parts(answers, 2)
    means = [
        [float(answers.correct[(answers.subject == i) & (half == part)].mean()) for part in (1, 0)]
        for i in np.unique(answers.subject[half >= 0])
    ]
    return paired([late for late, _ in means], [early for _, early in means])


def repeated(answers: Answers, rng: np.random.Generator) -> Estimate:
    """Return the share of repeated images that a person answered as before; NaN without any."""
    before = {
        (row.subject, row.image): row.response for row in answers.rows if row.kind != "repeat"
    }
    again = [row for row in answers.rows if row.kind == "repeat"]
    same = [row.response == before.get((row.subject, row.image), "") for row in again]
    return share(same)


def share(right: Sequence[bool]) -> Estimate:
    """Return the share that is right, with Wilson's interval; NaN of nothing."""
    if not right:
        return NOTHING
    low, high = stats.binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    return Estimate(sum(right) / len(right), float(low), float(high))
