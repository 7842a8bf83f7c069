"""The error on images not learned from: folds, a learning curve, a forecast."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from tinysight.finetuning.lda import Discriminant, fit_views
from tinysight.ops.metrics import error_interval

Ints = npt.NDArray[np.int64]
FOLDS = ((2000, 10), (math.inf, 5))  # below so many images: folds
SIZES = (3, 5, 10, 20, 40, 80, 160, 320)  # images per class of a learning curve
MAX_CURVE_IMAGES = 4000  # learned from at one point of the curve: time grows with them
NUM_REPEATS = 8
NONE_SHARE = 0.03  # of images of the classes, held out, that are farther than the threshold
MIN_FOR_NONE = 20  # held-out images
TEMPERATURES = np.exp(np.linspace(math.log(0.02), math.log(3), 41))


@dataclass(frozen=True)
class CurvePoint:
    """The mean error of models learned from so many images per class."""

    per_class: float
    error: float


@dataclass(frozen=True)
class Forecast:
    """The range of the error expected with `more` images per class in addition."""

    more: int
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """What models that have not learned from an image make of it, for N images."""

    logits: Tensor  # float32 (N, K)
    error: float
    low: float  # 95 % interval
    high: float
    temperature: float  # with which the probabilities fit best
    none_below: float | None  # few of the images have a largest logit below it


def crossvalidate(
    features: Tensor, labels: Tensor, groups: Ints, num_classes: int
) -> CrossValidation | None:
    """Judge the last layer for features (N, 2, F); None where no class has two different images.

    Images of a group (N,), such as identical ones, are in the same fold. The image of a class with
    no other one counts as an error.
    """
    if not several(labels.numpy(), groups).any():
        return None
    count = len(labels)
    num_folds = next(number for limit, number in FOLDS if count < limit)
    folds = assign_folds(labels.numpy(), groups, num_folds)
    distances = torch.zeros(count, num_classes)
    for fold in range(num_folds):
        held_out = torch.from_numpy(folds == fold)
        if held_out.any():
            own = fit_views(features[~held_out], labels[~held_out], num_classes)
            distances[held_out] = mean_distances(own, features[held_out])
    prior = log_prior(labels, num_classes)
    temperature = _temperature(distances, prior, labels)
    logits = temperature * distances + prior
    error = float((logits.argmax(dim=1) != labels).double().mean())
    low, high = error_interval(error, count)
    judged = logits[torch.from_numpy(several(labels.numpy(), groups))]
    none_below = None
    if len(judged) >= MIN_FOR_NONE:
        none_below = float(np.quantile(judged.max(dim=1).values.numpy(), NONE_SHARE))
    return CrossValidation(logits, error, low, high, temperature, none_below)


def several(labels: Ints, groups: Ints) -> npt.NDArray[np.bool_]:
    """Return for each image (N,) whether its class has another, different one."""
    distinct = np.unique(np.stack([labels, groups]), axis=1)[0]
    return np.bincount(distinct)[labels] > 1


def assign_folds(labels: Ints, groups: Ints, num_folds: int) -> Ints:
    """Return the fold of each image (N,): classes are divided evenly, and groups stay together."""
    # a group has the class of its first image
    first, group = np.unique(groups, return_index=True, return_inverse=True)[1:]
    order = np.argsort(labels[first], kind="stable")
    folds = np.empty(len(first), np.int64)
    folds[order] = np.arange(len(order)) % num_folds
    return folds[group.reshape(-1)]


def log_prior(labels: Tensor, num_classes: int) -> Tensor:
    """Return the logarithm of each class's share (K,), of labels (N,)."""
    counts = torch.bincount(labels, minlength=num_classes) + 1.0
    return (counts / counts.sum()).log()


def learning_curve(
    features: Tensor,
    labels: Tensor,
    groups: Ints,
    num_classes: int,
    *,
    below: float = math.inf,
    seed: int = 0,
) -> tuple[CurvePoint, ...]:
    """Measure models of some images per class on all others, with fewer than `below` per class.

    Each class gives the same share of its images, and at least one.
    """
    generator, count, points = np.random.default_rng(seed), len(labels), []
    for size in SIZES:
        if size >= below or size * num_classes > MAX_CURVE_IMAGES:
            break
        errors = []
        for _ in range(NUM_REPEATS):
            chosen = _draw(labels.numpy(), groups, size * num_classes / count, generator)
            others = torch.from_numpy(~chosen & ~np.isin(groups, groups[chosen]))
            learned = torch.from_numpy(chosen)
            if others.any():
                own = fit_views(features[learned], labels[learned], num_classes)
                logits = mean_distances(own, features[others]) + log_prior(labels, num_classes)
                wrong = logits.argmax(dim=1) != labels[others]
                errors.append(float(wrong.double().mean()))
        if errors:
            points.append(CurvePoint(float(size), float(np.mean(errors))))
    return tuple(points)


def _draw(
    labels: Ints, groups: Ints, share: float, generator: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Choose a share of each class's images, at least one (N,)."""
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    ordered = labels[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    wanted = np.maximum(1, np.round(share * np.bincount(labels)))[ordered]
    chosen = np.zeros(len(labels), bool)
    chosen[order[rank < wanted]] = True
    return chosen


def forecast(curve: tuple[CurvePoint, ...], count: int) -> Forecast | None:
    """Extrapolate the curve to twice the images; None with too few points or no error at all.

    Errors fall by a power of the number of images, or more slowly: the range is from the power of
    the last points to a third of it, and wider by the noise of an error measured on `count` images.
    """
    known = [point for point in curve if point.error > 0]
    if len(known) < 3:
        return None
    last = known[-3:]
    x, y = (np.log([getattr(point, name) for point in last]) for name in ("per_class", "error"))
    power = float(np.clip(-np.polyfit(x, y, 1)[0], 0.0, 1.0))
    more = max(1, round(curve[-1].per_class))
    ratio = 1 + more / curve[-1].per_class
    low, high = error_interval(known[-1].error, count)
    low = min(low * ratio**-power, curve[-1].error)  # which may be 0
    return Forecast(more, low, high * ratio ** (-power / 3))


def mean_distances(own: Discriminant, views: Tensor) -> Tensor:
    """Views (N, 2, F) -> distances (N, K), the mean of both views."""
    return (own.distances(views[:, 0]) + own.distances(views[:, 1])) / 2


def _temperature(distances: Tensor, prior: Tensor, labels: Tensor) -> float:
    """Return the factor on distances (N, K) with which the probabilities fit the labels best."""
    step = -(-len(labels) // 5000)
    distances, labels = distances[::step], labels[::step]
    losses = [float(F.cross_entropy(float(t) * distances + prior, labels)) for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])
