"""Error analysis: errors per class, confused classes, mistakes to look at, calibration.

Per-class errors follow Wu et al. 2017, Table 2 and Fig. 7; calibration Guo et al. 2017
(arXiv:1706.04599).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from tinysight.analysis.results import EvalResults
from tinysight.analysis.statistics import Bools, Floats, Ints, Ranks, rank_intervals
from tinysight.ops.metrics import error_intervals, wilson_interval

NUM_EXTREME = 5  # classes listed as best and worst, as in Table 2
NUM_BINS = 15  # as `ops.metrics.expected_calibration_error`


@dataclass(frozen=True)
class PerClass:
    """Errors of each of K classes; those without images have count 0 and an error of NaN."""

    counts: Ints
    errors: Ints
    error: Floats  # share of the class's images, 0..1
    low: Floats
    high: Floats  # 95 % interval, see `per_class`
    ranks: Ranks
    confidence: Floats  # mean, of the predictions
    most_confused_with: Ints  # the most frequent wrong prediction; -1 where there is none
    times: Ints  # how often it is predicted

    @property
    def order(self) -> Ints:
        """The classes that have images, lowest error first; ties in the order of the classes."""
        shown = np.flatnonzero(self.counts > 0)
        return shown[np.argsort(self.error[shown], kind="stable")]

    @property
    def clearly_separated(self) -> bool:
        """Whether each of the worst classes is truly one of them with a probability above 95 %."""
        num = self.ranks.num_extreme
        worst = self.order[::-1][:num]
        return len(self.order) > num and bool(self.ranks.among_worst[worst].min() > 0.95)


def per_class(results: EvalResults, *, generator: np.random.Generator) -> PerClass:
    """Count errors by true class; rank intervals are drawn from `generator`.

    Intervals of errors are Wilson's, of cross-validated ones those of `error_intervals`.
    """
    num_classes = len(results.class_names)
    confusions = count_confusions(results.labels, results.predicted, num_classes)
    counts = confusions.sum(axis=1)
    errors = counts - confusions.diagonal()
    with np.errstate(invalid="ignore"):
        error = errors / counts
        confidence = np.bincount(results.labels, results.confidence, minlength=num_classes) / counts
    interval = error_intervals if results.evaluation.cross_validated else wilson_interval
    low, high = interval(errors, counts)
    ranks = rank_intervals(errors, counts, generator=generator, num_extreme=NUM_EXTREME)
    np.fill_diagonal(confusions, 0)
    times = confusions.max(axis=1)
    confused_with = np.where(times > 0, confusions.argmax(axis=1), -1)
    return PerClass(counts, errors, error, low, high, ranks, confidence, confused_with, times)


@dataclass(frozen=True)
class Pair:
    """Two confused classes: images of the first predicted as the second (forth), and back."""

    first: int
    second: int
    forth: int
    back: int


def count_confusions(labels: Ints, predicted: Ints, num_classes: int) -> Ints:
    """Count images by true class (rows) and predicted class (columns): (K, K)."""
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def confused_pairs(confusions: Ints, *, limit: int = 20) -> list[Pair]:
    """Return the pairs of classes with the most mistakes between them, most first.

    The direction with more mistakes comes first; ties keep the order of the classes.
    """
    both = np.triu(confusions + confusions.T, k=1)
    places = np.flatnonzero(both)
    places = places[np.argsort(-both.flat[places], kind="stable")][:limit]
    pairs = []
    for first, second in zip(*np.unravel_index(places, both.shape), strict=True):
        if confusions[first, second] < confusions[second, first]:
            first, second = second, first
        numbers = (first, second, confusions[first, second], confusions[second, first])
        pairs.append(Pair(*map(int, numbers)))
    return pairs


def most_confused_classes(confusions: Ints, *, limit: int = 24) -> list[int]:
    """Choose at most `limit` classes by the mistakes among them; confused ones are neighbors.

    Pairs are taken in order of their mistakes until the places are full; then each class follows
    the one before it that it is most confused with.
    """
    chosen: list[int] = []
    for pair in confused_pairs(confusions, limit=len(confusions) ** 2):
        new = [index for index in (pair.first, pair.second) if index not in chosen]
        if len(chosen) + len(new) <= limit:
            chosen += new
    both = confusions + confusions.T
    rest, ordered = chosen[1:], chosen[:1]
    while rest:
        nearest = max(rest, key=lambda index: both[ordered[-1], index])
        rest.remove(nearest)
        ordered.append(nearest)
    return ordered


def choose_mistakes(results: EvalResults, *, limit: int = 36, per_pair: int = 2) -> Ints:
    """Return places (n,) of the most confident mistakes, at most `per_pair` per confusion."""
    taken: Counter[tuple[int, int]] = Counter()
    chosen = []
    wrong = np.flatnonzero(~results.correct)
    for place in wrong[np.argsort(-results.confidence[wrong], kind="stable")].tolist():
        kind = (int(results.labels[place]), int(results.predicted[place]))
        taken[kind] += 1
        if taken[kind] <= per_pair:
            chosen.append(place)
    return np.array(chosen[:limit], dtype=np.int64)


def examples_of(results: EvalResults, label: int, *, limit: int = 6) -> Ints:
    """Return places (n,) of a class's images, evenly from the most confident in it to the least."""
    places = np.flatnonzero(results.labels == label)
    ordered = places[np.argsort(-results.probabilities[places, label], kind="stable")]
    count = min(limit, len(ordered))
    return np.take(ordered, np.linspace(0, len(ordered) - 1, count).round().astype(int))


def suspected_labels(
    results: EvalResults, neighbor_labels: Ints | None, *, min_confidence: float = 0.5
) -> Ints:
    """Return places (n,) of images whose label may be wrong, most suspected first.

    Another class is predicted with at least `min_confidence`, and, where the labels of the nearest
    training images (N, k) are known, more than half of those are of that class and none of the
    labeled one.
    """
    suspected = ~results.correct & (results.confidence >= min_confidence)
    if neighbor_labels is not None:
        agree = (neighbor_labels == results.predicted[:, None]).mean(axis=1) > 0.5
        suspected &= agree & ~(neighbor_labels == results.labels[:, None]).any(axis=1)
    places = np.flatnonzero(suspected)
    margin = results.probabilities[places, results.labels[places]] - results.confidence[places]
    return places[np.argsort(margin, kind="stable")]


@dataclass(frozen=True)
class Reliability:
    """Images in bins (low, high] of equal width by confidence; means are NaN in an empty bin."""

    borders: Floats  # (bins + 1,)
    counts: Ints
    confidence: Floats  # mean
    accuracy: Floats
    low: Floats
    high: Floats  # 95 % Wilson interval of the accuracy


def reliability(confidence: Floats, correct: Bools, *, num_bins: int = NUM_BINS) -> Reliability:
    """Bin N predictions by confidence (N,), with `correct` (N,) whether each is right."""
    borders = np.linspace(0, 1, num_bins + 1)
    which = np.searchsorted(borders[1:-1], confidence, side="left")
    counts = np.bincount(which, minlength=num_bins)
    right = np.bincount(which, correct, minlength=num_bins).astype(np.int64)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(which, confidence, minlength=num_bins) / counts
        accuracy = right / counts
    return Reliability(borders, counts, mean, accuracy, *wilson_interval(right, counts))
