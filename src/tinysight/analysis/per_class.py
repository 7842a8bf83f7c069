"""Errors of each class, how sure they are, and which classes are best and worst (Wu et al. 2017,
Table 2, Fig. 7).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinysight.analysis.confusions import count_confusions
from tinysight.analysis.results import EvalResults, Floats, Ints
from tinysight.analysis.statistics import Ranks, rank_intervals
from tinysight.ops.metrics import wilson_interval

NUM_EXTREME = 5  # as in the report's Table 2


@dataclass(frozen=True, kw_only=True)
class PerClass:
    """Figures of each of K classes; those without images have count 0 and an error of NaN."""

    counts: Ints
    errors: Ints
    share: Floats  # of errors, 0..1
    low: Floats
    high: Floats  # 95 % Wilson interval
    ranks: Ranks
    confidence: Floats  # mean probability that the class's images give to their prediction
    rival: Ints  # the class they are most often mistaken for; -1 where there is none
    rival_count: Ints

    @property
    def order(self) -> Ints:
        """The classes that have images, lowest error first; of equal ones that of the lower number
        first.
        """
        there = np.flatnonzero(self.counts > 0)
        return there[np.argsort(self.share[there], kind="stable")]

    def best(self, num: int = NUM_EXTREME) -> Ints:
        """Return the `num` classes of lowest error, best first."""
        return self.order[:num]

    def worst(self, num: int = NUM_EXTREME) -> Ints:
        """Return the `num` classes of highest error, worst first."""
        return self.order[::-1][:num]

    @property
    def clearly_separated(self) -> bool:
        """Whether each of the worst ones named is truly among them with a probability above 95 %."""
        order = self.order
        if len(order) <= self.ranks.num_extreme:
            return False
        worst = self.worst(self.ranks.num_extreme)
        return bool(self.ranks.among_worst[worst].min() > 0.95)


def per_class(judged: EvalResults, *, generator: np.random.Generator) -> PerClass:
    """Count errors by true class; rank intervals are drawn from `generator`."""
    num_classes = len(judged.class_names)
    confusions = count_confusions(judged.labels, judged.predictions, num_classes)
    counts = confusions.sum(axis=1)
    errors = counts - confusions.diagonal()
    with np.errstate(invalid="ignore"):
        share = errors / counts
        confidence = np.bincount(judged.labels, judged.confidence, minlength=num_classes) / counts
    low, high = wilson_interval(errors, counts)
    mistaken = confusions.copy()
    np.fill_diagonal(mistaken, 0)
    rival_count = mistaken.max(axis=1)
    return PerClass(
        counts=counts,
        errors=errors,
        share=share,
        low=low,
        high=high,
        ranks=rank_intervals(errors, counts, generator=generator, num_extreme=NUM_EXTREME),
        confidence=confidence,
        rival=np.where(rival_count > 0, mistaken.argmax(axis=1), -1),
        rival_count=rival_count,
    )
