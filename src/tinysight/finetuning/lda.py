"""Linear discriminant analysis with a shrunk covariance, in closed form.

Source: Friedman 1989, "Regularized discriminant analysis"; the target is the diagonal of the
covariance within classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tinysight.models.distance_head import DistanceHead

SHRINKAGES = ((20, 0.5), (200, 0.2))  # below so many images per class; measured
LEAST_SHRINKAGE = 0.05
NEVER = -1e4  # log prior of a class without images


def shrinkage_for(num_images: int, num_classes: int) -> float:
    """Return the share of the diagonal target for a number of images in all classes together."""
    per_class = num_images / max(1, num_classes)
    return next((own for limit, own in SHRINKAGES if per_class < limit), LEAST_SHRINKAGE)


@dataclass(frozen=True)
class Discriminant:
    """z = projection (x - center); logits_k = -temperature |z - mean_k|^2 / 2 + log prior_k."""

    center: Tensor  # (F,)
    projection: Tensor  # (R, F)
    means: Tensor  # (K, R)
    log_prior: Tensor  # (K,)
    temperature: float = 1.0

    def distances(self, features: Tensor) -> Tensor:
        """Features (N, F) -> -|z - mean_k|^2 / 2, float32 (N, K); NEVER of classes not learned."""
        z = (features.double() - self.center) @ self.projection.T
        squares = z.square().sum(dim=1, keepdim=True) + self.means.square().sum(dim=1)
        found = z @ self.means.T - squares / 2
        return torch.where(self.log_prior > NEVER, found, NEVER).float()

    def logits(self, features: Tensor) -> Tensor:
        """Features (N, F) -> logits float32 (N, K)."""
        return self.temperature * self.distances(features) + self.log_prior.float()

    def fill(self, head: DistanceHead) -> None:
        """Write it into the last layer of a network."""
        factor = math.sqrt(self.temperature)
        rank = len(self.projection)  # fewer than the layer has where classes coincide
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.zero_()
            head.project.weight[:rank] = factor * self.projection
            head.project.bias[:rank] = -factor * self.projection @ self.center
            head.means[:, :rank] = factor * self.means
            head.log_prior.copy_(self.log_prior)


def fit_views(views: Tensor, labels: Tensor, num_classes: int) -> Discriminant:
    """Fit to the features (N, 2, F) of N images and their mirror images."""
    shrinkage = shrinkage_for(len(views), num_classes)
    return fit(views.flatten(0, 1), labels.repeat_interleave(2), num_classes, shrinkage)


def fit(features: Tensor, labels: Tensor, num_classes: int, shrinkage: float) -> Discriminant:
    """Fit to features (N, F) with labels (N,); a class without images is never predicted."""
    x = features.double()
    counts = torch.bincount(labels, minlength=num_classes).double()
    sums = torch.zeros(num_classes, x.shape[1], dtype=x.dtype).index_add_(0, labels, x)
    means, present = sums / counts.clamp_min(1)[:, None], counts > 0
    center = means[present].mean(dim=0)
    means[~present] = center
    x = x - means[labels]
    # Scaled to unit deviation within classes, in a thousandth of the mean one at least
    variance = x.square().mean(dim=0)
    deviation = (variance + 1e-3 * variance.mean() + 1e-12).sqrt()
    x, means = x / deviation, (means - center) / deviation
    log_prior = torch.where(present, ((counts + 1) / (counts + 1).sum()).log(), NEVER)
    if num_classes > x.shape[1]:  # the means are in all dimensions
        eye = torch.eye(x.shape[1], dtype=x.dtype)
        whiten = torch.linalg.solve_triangular(_root(x, shrinkage), eye, upper=False)
        return Discriminant(center, whiten / deviation, means @ whiten.T, log_prior)
    precise = _solve(x, means, shrinkage)  # the means times the inverse covariance: (K, F)
    values, vectors = torch.linalg.eigh(precise @ means.T)
    kept = values > 1e-9 * values[-1].clamp_min(1e-9)
    roots, vectors = values[kept].sqrt(), vectors[:, kept]
    projection = (vectors / roots).T @ precise / deviation
    return Discriminant(center, projection, vectors * roots, log_prior)


def _root(x: Tensor, shrinkage: float) -> Tensor:
    """Return the Cholesky factor (F, F) of (1 - s) x'x / N + s, of deviations x (N, F)."""
    covariance = (1 - shrinkage) / len(x) * (x.T @ x)
    covariance.diagonal().add_(shrinkage)
    root: Tensor = torch.linalg.cholesky(covariance)
    return root


def _solve(x: Tensor, means: Tensor, shrinkage: float) -> Tensor:
    """Return means (K, F) times the inverse of that matrix."""
    if len(x) >= x.shape[1]:
        return torch.cholesky_solve(means.T, _root(x, shrinkage)).T
    # Woodbury's identity: a system of N equations in place of F
    share = (1 - shrinkage) / len(x) / shrinkage
    inner = share * (x @ x.T)
    inner.diagonal().add_(1.0)
    solved = torch.cholesky_solve(x @ means.T, torch.linalg.cholesky(inner))
    return (means - share * (x.T @ solved).T) / shrinkage
