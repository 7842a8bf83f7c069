"""Which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinysight.analysis.results import Ints


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two classes that are mistaken for each other: images of the first called the second, and the
    reverse.
    """

    first: int
    second: int
    forth: int
    back: int

    @property
    def total(self) -> int:
        return self.forth + self.back


def count_confusions(labels: Ints, predictions: Ints, num_classes: int) -> Ints:
    """Count images by true class (rows) and predicted class (columns): (K, K)."""
    flat = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def confused_pairs(confusions: Ints, *, limit: int = 20) -> list[Pair]:
    """Return the pairs of classes with the most mistakes between them, both ways together, most
    first.

    The direction with more mistakes comes first in a pair. Pairs of equal number keep the order
    of the classes."""
    both = np.triu(confusions + confusions.T, k=1)
    places = np.flatnonzero(both)
    places = places[np.argsort(-both.flat[places], kind="stable")][:limit]
    pairs = []
    for first, second in zip(*np.unravel_index(places, both.shape), strict=True):
        if confusions[first, second] < confusions[second, first]:
            first, second = second, first
        pairs.append(
            Pair(
                first=int(first),
                second=int(second),
                forth=int(confusions[first, second]),
                back=int(confusions[second, first]),
            )
        )
    return pairs


def most_confused_classes(confusions: Ints, *, limit: int = 24) -> list[int]:
    """Choose at most `limit` classes with the most mistakes among them, and put those confused side
    by side.

    Pairs are taken in order of their mistakes until the places are full; each class then stands
    behind the one placed before it that it is most confused with."""
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
