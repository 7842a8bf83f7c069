"""What several classifiers say together of the same images (Wu et al. 2017, section 5: snapshots
that vote).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_probability(logits: Sequence[Tensor]) -> Tensor:
    """Return the mean over members of their probabilities (N, K), float64, for logits (N, K) of
    each.
    """
    _check(logits)
    return torch.stack([member.double().softmax(dim=1) for member in logits]).mean(dim=0)


def majority(logits: Sequence[Tensor]) -> Tensor:
    """Return each class's votes plus its mean probability (N, K), float64: the probability ranks
    equal votes.

    A member votes for its likeliest class.
    """
    probability = mean_probability(logits)
    votes = torch.zeros_like(probability)
    for member in logits:
        votes.scatter_add_(1, member.argmax(dim=1, keepdim=True), torch.ones_like(votes[:, :1]))
    return votes + probability


def _check(logits: Sequence[Tensor]) -> None:
    shapes = {tuple(member.shape) for member in logits}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            f"members' logits have the shapes {sorted(shapes)}: give (N, K) of the same images for each"
        )
