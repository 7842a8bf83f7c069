"""Mixup and CutMix equal plain loops; the labels' weights are those of the pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from tinysight.ops import mixing
from tinysight.ops.mixing import MixParams, Targets


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample_mix(count: int, **changes: float) -> MixParams:
    options = {"mixup": 0.4, "cutmix": 1.0, "probability": 0.8, **changes}
    return mixing.sample_mix(count, generator=generator(), **options)


def pixels_of(window: Tensor, height: int, width: int) -> tuple[slice, slice]:
    x0, y0, x1, y1 = (
        round(share * side)
        for share, side in zip(window.tolist(), (width, height, width, height), strict=True)
    )
    return slice(y0, y1), slice(x0, x1)


def mix_by_loop(
    images: Tensor, labels: Tensor, params: MixParams, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return mixed images, and each image's weights (B, K) of all labels by counting pixels."""
    count, _, height, width = images.shape
    mixed, weights = images.clone(), torch.zeros(count, num_classes, dtype=torch.float64)
    for index in range(count):
        partner = index ^ 1 if index ^ 1 < count else index
        share = torch.full((height, width), float(params.weight[index]))
        share[pixels_of(params.window[index], height, width)] = 0.0
        mixed[index] = share * images[index] + (1 - share) * images[partner]
        weights[index, labels[index]] += share.double().mean()
        weights[index, labels[partner]] += 1 - share.double().mean()
    return mixed, weights


@pytest.mark.parametrize("count", [8, 7, 1])
@pytest.mark.parametrize("changes", [{}, {"mixup": 0.0}, {"cutmix": 0.0}, {"probability": 1.0}])
def test_mixing_equals_a_loop_over_images(count: int, changes: dict[str, float]) -> None:
    images = torch.rand(count, 3, 7, 9, generator=generator(1)) * 255
    labels = torch.arange(count) % 5
    params = sample_mix(count, **changes)
    mixed, targets = mixing.mix(images, labels, params)
    expected, weights = mix_by_loop(images, labels, params, 5)
    assert torch.allclose(mixed, expected, atol=1e-3)
    weight = targets.weight.double()[:, None]
    found = weight * F.one_hot(targets.labels, 5) + (1 - weight) * F.one_hot(targets.partners, 5)
    assert torch.allclose(found, weights, atol=1e-6)


def test_an_image_that_is_not_mixed_is_unchanged() -> None:
    images = torch.rand(6, 3, 8, 8, generator=generator(2)) * 255
    mixed, targets = mixing.mix(images, torch.arange(6), sample_mix(6, probability=0.0))
    assert torch.equal(mixed, images) and torch.equal(targets.weight, torch.ones(6))
    assert torch.equal(targets.main, torch.arange(6))


def test_each_image_takes_one_method_with_the_probability() -> None:
    params = sample_mix(20_000, probability=0.6)
    mixup, cutmix = params.weight < 1, params.window[:, 2] > params.window[:, 0]
    assert not (mixup & cutmix).any()
    assert abs(float(mixup.float().mean()) - 0.3) < 0.015
    assert abs(float(cutmix.float().mean()) - 0.3) < 0.015
    assert not sample_mix(1000, cutmix=0.0).window.any()
    assert (sample_mix(1000, mixup=0.0).weight == 1).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_shares_have_the_beta_distribution(alpha: float) -> None:
    weight = sample_mix(4000, mixup=alpha, cutmix=0.0, probability=1.0).weight.double().numpy()
    # A float32 may round up to 1.
    weight = np.concatenate([weight[weight < 1], np.ones(int((weight == 1).sum()))])
    assert stats.kstest(weight, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_unclipped_cutmix_windows_have_areas_of_the_beta_distribution() -> None:
    window = sample_mix(4000, mixup=0.0, cutmix=1.0, probability=1.0).window
    inside = ((window > 0) & (window < 1)).all(1)
    assert inside.sum() > 500
    sides = window[inside, 2:] - window[inside, :2]
    assert torch.allclose(sides[:, 0], sides[:, 1], atol=1e-5)
    # A window of side s lies entirely inside with probability (1 - s)^2, and s^2 is uniform: s has
    # the density 12 s (1 - s)^2, so P(side < s) = 6 s^2 - 8 s^3 + 3 s^4.
    side = sides[:, 0].double().numpy()
    assert stats.kstest(side, lambda s: 6 * s**2 - 8 * s**3 + 3 * s**4).pvalue > 0.01


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_equals_torchs_with_soft_labels(label_smoothing: float) -> None:
    logits = torch.randn(6, 5, generator=generator(3), dtype=torch.float64)
    targets = Targets(
        labels=torch.tensor([0, 1, 2, 3, 4, 0]),
        partners=torch.tensor([1, 1, 0, 4, 3, 2]),
        weight=torch.tensor([1.0, 0.3, 0.6, 0.5, 0.0, 0.9], dtype=torch.float64),
    )
    weight = targets.weight[:, None]
    soft = weight * F.one_hot(targets.labels, 5) + (1 - weight) * F.one_hot(targets.partners, 5)
    expected = F.cross_entropy(logits, soft, label_smoothing=label_smoothing)
    loss = mixing.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    assert torch.allclose(loss, expected)
    assert targets.main.tolist() == [0, 1, 2, 3, 3, 0]


def test_a_label_of_minus_one_adds_nothing_to_the_loss() -> None:
    logits = torch.randn(3, 4, generator=generator(5), dtype=torch.float64, requires_grad=True)
    labels, partners = torch.tensor([2, -1, -1]), torch.tensor([-1, 3, -1])
    share = torch.tensor([0.75, 0.75, 0.75], dtype=torch.float64)
    targets = Targets(labels=labels, partners=partners, weight=share)
    weights = torch.tensor([1.0, 1, 2, 4], dtype=torch.float64)
    each = -F.log_softmax(logits, dim=1)
    for factors, known in ((None, (1.0, 1.0)), (weights, (2.0, 4.0))):
        loss = mixing.cross_entropy(logits, targets, weights=factors)
        expected = (0.75 * known[0] * each[0, 2] + 0.25 * known[1] * each[1, 3]) / 3
        assert torch.allclose(loss, expected)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient[0].any() and not gradient[2].any()


@pytest.mark.parametrize("world_size", [2, 4])
def test_shards_of_a_batch_are_mixed_as_the_batch(world_size: int) -> None:
    images, labels = torch.rand(8, 3, 6, 6, generator=generator(4)), torch.arange(8)
    params = sample_mix(8)
    shards = [slice(start, start + 8 // world_size) for start in range(0, 8, 8 // world_size)]
    mixed = [mixing.mix(images[shard], labels[shard], params[shard])[0] for shard in shards]
    assert torch.equal(torch.cat(mixed), mixing.mix(images, labels, params)[0])


@pytest.mark.parametrize("changes", [{"mixup": -1.0}, {"cutmix": math.nan}, {"probability": 1.5}])
def test_mixing_options_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is .*: give"):
        sample_mix(4, **changes)
