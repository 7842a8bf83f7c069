"""A last layer by distances to class means: what linear discriminant analysis gives."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DistanceHead(nn.Module):
    """Features (B, F) or maps (B, F, h, w) -> logits (B, K): -|z - mean_k|^2 / 2 + log prior_k.

    z is a projection of the features' square roots to at most K - 1 dimensions, in which the
    classes have unit covariance and differ most. The softmax is that of the linear discriminant
    analysis in all F dimensions; the largest logit is also a distance, so that an image far from
    every class is known by it.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        rank = max(1, min(num_features, num_classes - 1))
        self.project = nn.Linear(num_features, rank)
        self.means = nn.Parameter(torch.zeros(num_classes, rank))
        self.log_prior = nn.Parameter(torch.zeros(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        kind = "cpu" if features.is_meta else features.device.type
        with torch.autocast(kind, enabled=False):  # squares need more than bf16
            z: Tensor = self.project(roots(features.float()))
            squares = z.square().sum(dim=1, keepdim=True) + self.means.square().sum(dim=1)
            return z @ self.means.T - squares / 2 + self.log_prior


def roots(features: Tensor) -> Tensor:
    """Features (B, F) or maps (B, F, h, w), not negative -> square roots of their means (B, F).

    Means of ReLUs are skewed; their roots are closer to the normal distributions that discriminant
    analysis assumes, which is worth a point of accuracy.
    """
    if features.ndim == 4:
        features = features.mean(dim=(2, 3))
    return (features.clamp_min(0) + 1e-5).sqrt()  # the root's slope at 0 is infinite
