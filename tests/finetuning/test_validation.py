"""Cross-validation keeps what belongs together, and its intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinysight.finetuning.lda import fit_views
from tinysight.finetuning.validation import (
    CurvePoint,
    assign_folds,
    crossvalidate,
    forecast,
    learning_curve,
    mean_distances,
)
from tinysight.ops.metrics import EFFECTIVE

CLASSES, WIDTH = 4, 12


def drawn(per_class: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Views (N, 2, F) of classes that overlap, and labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.7
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    images = means[labels] + torch.randn(len(labels), WIDTH, generator=generator)
    noise = torch.randn(len(labels), 2, WIDTH, generator=generator)
    return images[:, None] + 0.3 * noise, labels


def error_of(views: torch.Tensor, labels: torch.Tensor, others: torch.Tensor) -> float:
    found = mean_distances(fit_views(views, labels, CLASSES), others).argmax(dim=1)
    return float((found != torch.arange(CLASSES).repeat_interleave(500)).double().mean())


def test_folds_divide_classes_evenly_and_keep_groups_together() -> None:
    labels = np.repeat(np.arange(3), [20, 9, 1])
    groups = np.arange(30)
    groups[[5, 7, 25]] = 4  # two of the class, and one of another, are the same image
    folds = assign_folds(labels, groups, 5)
    assert len({*folds[[4, 5, 7, 25]]}) == 1
    for label, least, most in ((0, 3, 6), (1, 1, 3)):
        own = np.bincount(folds[labels == label], minlength=5)
        assert least <= own.min() and own.max() <= most


def test_intervals_cover_the_error_on_other_images_and_forecasts_that_of_twice_as_many() -> None:
    covered = predicted = 0
    squares, variances = [], []
    other = drawn(500, 1000)[0]
    for seed in range(100):
        views, labels = drawn(24, seed)
        half, own = views[::2], labels[::2]
        judged = crossvalidate(half, own, np.arange(len(own)), CLASSES)
        assert judged is not None
        truth = error_of(half, own, other)
        covered += judged.low <= truth <= judged.high
        squares.append((judged.error - truth) ** 2)
        variances.append(truth * (1 - truth) / len(own))
        curve = learning_curve(half, own, np.arange(len(own)), CLASSES, below=12)
        ahead = forecast((*curve, CurvePoint(12, judged.error)), len(own))
        assert ahead is not None and ahead.more == 12
        predicted += ahead.low <= error_of(views, labels, other) <= ahead.high
    assert covered >= 90 and predicted >= 80
    # of independent images, by one model, the squares would be the variances
    assert 0.9 < np.mean(squares) / np.mean(variances) < 1 / EFFECTIVE


def test_a_forecast_does_not_exclude_the_error_that_is_there() -> None:
    curve = [CurvePoint(3, 0.1), CurvePoint(5, 0.05), CurvePoint(10, 0.03)]
    low, high = (forecast((*curve, CurvePoint(20, error)), 60).low for error in (0.0, 0.02))  # type: ignore[union-attr]
    assert low == 0 and 0 < high <= 0.02


def test_few_images_are_below_the_threshold_and_probabilities_are_calibrated() -> None:
    views, labels = drawn(100, 3)
    judged = crossvalidate(views, labels, np.arange(len(labels)), CLASSES)
    assert judged is not None and judged.none_below is not None
    below = (judged.logits.max(dim=1).values < judged.none_below).float().mean()
    assert 0.02 < below < 0.04
    far = mean_distances(fit_views(views, labels, CLASSES), views + 5).max(dim=1).values
    assert (judged.temperature * far < judged.none_below).float().mean() > 0.9
    confidence = judged.logits.softmax(dim=1).max(dim=1).values.mean()
    assert abs(float(confidence) - (1 - judged.error)) < 0.05


def test_equal_images_of_two_classes_cannot_be_told_apart() -> None:
    views, labels = drawn(10, 4)
    views = torch.cat((views[labels == 0], views[labels == 0]))
    labels, groups = torch.arange(20) // 10, np.arange(20) % 10
    judged = crossvalidate(views, labels, groups, 2)
    assert judged is not None and judged.error >= 0.5


def test_single_images_are_not_judged_and_count_as_errors_among_others() -> None:
    views, labels = drawn(10, 5)
    assert crossvalidate(views[::10], labels[::10], np.arange(4), CLASSES) is None
    kept = torch.cat((torch.arange(30), torch.tensor([30])))  # one image of the last class
    judged = crossvalidate(views[kept], labels[kept], np.arange(31), CLASSES)
    assert judged is not None and int(judged.logits[30].argmax()) != 3


@pytest.mark.parametrize("counts", [(200, 3, 8), (2, 2, 2)])
def test_any_counts_have_a_curve_or_none(counts: tuple[int, ...]) -> None:
    views, labels = drawn(200, 6)
    kept = torch.cat([torch.where(labels == k)[0][:n] for k, n in enumerate(counts)])
    curve = learning_curve(views[kept], labels[kept], np.arange(len(kept)), 3, below=len(kept) / 3)
    sizes = [point.per_class for point in curve]
    assert sizes == [size for size in (3, 5, 10, 20, 40) if size < len(kept) / 3]
    assert all(0 <= point.error <= 1 for point in curve)
