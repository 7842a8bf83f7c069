"""Which images to show: mistakes, typical ones of a class, and those whose label may be wrong."""

from __future__ import annotations

import numpy as np

from tinysight.analysis.results import EvalResults, Ints


def choose_mistakes(judged: EvalResults, *, limit: int = 36, per_pair: int = 2) -> Ints:
    """Return places (n,) of the most confident mistakes, most confident first, at most `per_pair`
    of a kind.

    A kind is a true class and what it was called; without that limit one confusion could fill
    the page."""
    taken: dict[tuple[int, int], int] = {}
    chosen = []
    wrong = np.flatnonzero(~judged.correct)
    for place in wrong[np.argsort(-judged.confidence[wrong], kind="stable")].tolist():
        kind = (int(judged.labels[place]), int(judged.predictions[place]))
        taken[kind] = taken.get(kind, 0) + 1
        if taken[kind] <= per_pair:
            chosen.append(place)
        if len(chosen) == limit:
            break
    return np.array(chosen, dtype=np.int64)


def examples_of(judged: EvalResults, label: int, *, limit: int = 6) -> Ints:
    """Return places (n,) of a class's images, evenly over how sure the model was of the label:
    surest first.
    """
    places = np.flatnonzero(judged.labels == label)
    ordered = places[np.argsort(-judged.probabilities[places, label], kind="stable")]
    if len(ordered) <= limit:
        return ordered
    return np.take(ordered, np.linspace(0, len(ordered) - 1, limit).round().astype(int))


def suspected_labels(
    judged: EvalResults,
    neighbor_labels: Ints | None,
    *,
    limit: int = 12,
    least_confidence: float = 0.5,
) -> Ints:
    """Return places (n,) of images whose label looks wrong, most suspected first.

    The model gives another class at least `least_confidence`, and, where the labels of the
    nearest training images (N, k) are known, more than half of those are of that class and none
    of the labeled one."""
    suspected = ~judged.correct & (judged.confidence >= least_confidence)
    if neighbor_labels is not None:
        agree = (neighbor_labels == judged.predictions[:, None]).mean(axis=1) > 0.5
        own = (neighbor_labels == judged.labels[:, None]).any(axis=1)
        suspected &= agree & ~own
    places = np.flatnonzero(suspected)
    own_probability = judged.probabilities[places, judged.labels[places]]
    return places[np.argsort(own_probability - judged.confidence[places], kind="stable")][:limit]
