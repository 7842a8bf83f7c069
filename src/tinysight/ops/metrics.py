"""Metrics of classification: correctness, intervals of a share, calibration, and ensembles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
# An interval of a cross-validated error is that of so many times fewer images: the folds' errors
# are correlated, and the final model is another one. Measured: docs/finetuning.md
EFFECTIVE = 0.7


def topk_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return whether each label (B,) is among the k highest of its logits (B, K): bool (B,).

    Of equal logits the lower index ranks first. A row with a NaN is wrong, so that a broken model
    never scores.
    """
    if not 1 <= k <= logits.shape[1]:
        most = logits.shape[1]
        raise ValueError(f"top-{k} of {most} classes: choose k from 1 to {most}")
    own = logits.gather(1, labels[:, None])  # (B, 1)
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return (rank < k) & ~logits.isnan().any(1)


def topk_error(
    logits: Tensor, labels: Tensor, k: int, *, cross_validated: bool = False
) -> tuple[float, float, float]:
    """Return the top-k error of logits (B, K), as a share, with its 95 % interval.

    It is Wilson's, or where logits are of models of several folds that of `error_interval`.
    """
    wrong, count = int((~topk_correct(logits, labels, k)).sum()), len(labels)
    if cross_validated:
        return (wrong / count, *error_interval(wrong / count, count))
    return (wrong / count, *wilson_interval(wrong, count))


def error_interval(error: float, count: int) -> tuple[float, float]:
    """Return a 95 % interval of the final model's error, from a cross-validated one of `count`."""
    low, high = error_intervals(np.array([error * count]), np.array([count]))
    return float(low[0]), float(high[0])


def error_intervals(errors: Any, counts: Any) -> tuple[Floats, Floats]:
    """Return the same for numbers of errors (K,) in `counts` (K,)."""
    share = errors / np.maximum(counts, 1)
    effective = np.where(counts > 0, np.maximum(EFFECTIVE * counts, 1.0), 0.0)
    return wilson_interval(share * effective, effective)


@overload
def wilson_interval(errors: int, count: int, confidence: float = ...) -> tuple[float, float]: ...
@overload
def wilson_interval(
    errors: Ints, count: Ints, confidence: float = ...
) -> tuple[Floats, Floats]: ...
def wilson_interval(errors: Any, count: Any, confidence: float = 0.95) -> tuple[Any, Any]:
    """Return the Wilson score interval (low, high) of shares of `errors` in `count` (Wilson 1927).

    Both are integers, or arrays of them. Unlike the normal approximation it stays within 0..1 and
    is not empty for 0 errors; of nothing it is 0 to 1.
    """
    errors, n = np.asarray(errors), np.maximum(count, 1)
    if not ((errors >= 0) & (errors <= count)).all():
        raise ValueError(f"{errors} errors of {count}: give errors from 0 to the count")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: give a share between 0 and 1, such as 0.95")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = errors / n
    center = share + z * z / (2 * n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding would leave 0 errors with a bound of 1e-19 in place of 0.
    low = np.where(errors == 0, 0.0, (center - half) / scale)
    high = np.where(errors == count, 1.0, (center + half) / scale)
    return low[()], high[()]


def paired_difference(
    correct: Tensor, others: Tensor, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return how much more often `correct` (N,) is True than `others` (N,), with an interval.

    Both are bool, about the same images; only images that one of both has right matter. The
    interval is that of Agresti and Min 2005, which adds half an image to each cell of the table
    of both, so that it is not empty for equal results; it ends at -1 and 1.
    """
    if correct.shape != others.shape or not len(correct):
        raise ValueError(f"{len(correct)} results and {len(others)} others: give both per image")
    gained, lost = int((correct & ~others).sum()), int((others & ~correct).sum())
    count = len(correct) + 2
    middle = (gained - lost) / count
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half = z * math.sqrt((gained + lost + 1) / count - middle * middle) / math.sqrt(count)
    return (gained - lost) / len(correct), max(-1.0, middle - half), min(1.0, middle + half)


def expected_calibration_error(probabilities: Tensor, correct: Tensor, bins: int = 15) -> float:
    """Return the mean gap of confidence and accuracy over bins of equal width (Guo et al. 2017).

    `probabilities` (N,) are those of the predictions, `correct` (N,) whether they were right. Bins
    are (low, high], as in the paper. Sums are made in double precision.
    """
    if len(probabilities) == 0:
        raise ValueError("no prediction to calibrate: give at least one")
    probability = probabilities.double()
    if not bool(((probability >= 0) & (probability <= 1)).all()):
        raise ValueError("probabilities reach outside 0..1 or hold a NaN: pass a softmax")
    borders = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=probability.device)
    index = torch.bucketize(probability, borders[1:-1])
    gap = torch.zeros(bins, dtype=torch.float64, device=probability.device)
    gap.index_add_(0, index, correct.double() - probability)
    return float(gap.abs().sum() / len(probability))


def mean_probability(logits: Sequence[Tensor]) -> Tensor:
    """Return the mean of several models' probabilities (N, K), float64, of their logits (N, K)."""
    shapes = {tuple(member.shape) for member in logits}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"logits have the shapes {sorted(shapes)}: give (N, K) of the same images")
    return torch.stack([member.double().softmax(dim=1) for member in logits]).mean(dim=0)


def majority_vote(logits: Sequence[Tensor]) -> Tensor:
    """Return each class's votes plus its mean probability (N, K), float64, which breaks ties.

    A model votes for its most probable class (Wu et al. 2017, section 5).
    """
    scores = mean_probability(logits)
    for member in logits:
        votes = member.argmax(dim=1, keepdim=True)
        scores.scatter_add_(1, votes, torch.ones_like(votes, dtype=scores.dtype))
    return scores


def majority_error(labels: Tensor) -> float:
    """Return the error of always predicting the most frequent class of labels (N,), -1: none."""
    labeled = labels[labels >= 0]
    return 1.0 - int(torch.bincount(labeled).max()) / len(labeled)
