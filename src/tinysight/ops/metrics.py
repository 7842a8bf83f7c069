"""What an evaluation counts: right answers, the interval of a share, and calibration."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor


def topk_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Tell whether each label (B,) is among the k highest of its logits (B, K): bool (B,).

    Of equal logits the lower index ranks first. A row that holds a NaN is wrong, so that a
    broken model never scores."""
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(
            f"top-{k} of {logits.shape[1]} classes: choose k from 1 to {logits.shape[1]}"
        )
    own = logits.gather(1, labels[:, None])  # (B, 1)
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return (rank < k) & ~logits.isnan().any(1)


def wilson_interval(errors: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval (low, high) of a share of `errors` in `count` (Wilson 1927).

    Unlike the normal approximation it stays within 0..1 and is not empty for 0 errors.
    """
    if not 0 <= errors <= count or count == 0:
        raise ValueError(
            f"{errors} errors of {count}: give a count of 1 or more and errors from 0 to it"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: give a share between 0 and 1, as 0.95")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = errors / count
    center = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # Rounding would leave 0 errors with a bound of 1e-19 in place of 0.
    low = 0.0 if errors == 0 else (center - half) / scale
    high = 1.0 if errors == count else (center + half) / scale
    return low, high


def paired_difference(
    correct: Tensor, others: Tensor, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return how much more often one answer is right than another on the same images, with an
    interval: shares.

    `correct` and `others` (N,) are bool. Only images that one of both has right matter. The
    interval is that of Agresti and Min 2005, which adds half an image to each cell of the table
    of both, so that it is not empty for equal answers."""
    if correct.shape != others.shape or not len(correct):
        raise ValueError(
            f"{len(correct)} answers and {len(others)} others: give one of each for every image"
        )
    gained, lost = int((correct & ~others).sum()), int((others & ~correct).sum())
    count = len(correct) + 2
    middle = (gained - lost) / count
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half = z * math.sqrt((gained + lost + 1) / count - middle * middle) / math.sqrt(count)
    return (gained - lost) / len(correct), middle - half, middle + half


def expected_calibration_error(probabilities: Tensor, correct: Tensor, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy, 0..1, over bins of equal width (Guo et
    al. 2017).

    `probabilities` (N,) are those of each prediction, `correct` (N,) whether it was right. A
    probability on a border belongs to the bin below it, as in the paper: bins are (low, high].
    Sums are made in double precision."""
    if len(probabilities) == 0:
        raise ValueError("no prediction to calibrate: give at least one")
    probability = probabilities.double()
    if not bool(((probability >= 0) & (probability <= 1)).all()):
        raise ValueError(
            "probabilities reach outside 0..1 or hold a NaN: pass the softmax of the logits"
        )
    borders = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=probability.device)
    which = torch.bucketize(probability, borders[1:-1])
    gap = torch.zeros(bins, dtype=torch.float64, device=probability.device)
    gap.index_add_(0, which, correct.double() - probability)
    return float(gap.abs().sum() / len(probability))
