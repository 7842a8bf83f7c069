"""Mixup and CutMix against a plain loop over images; the labels' weights are those of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from tinysight.ops import mixing
from tinysight.ops.mixing import MixParams, Targets, cross_entropy


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _draw(count: int, **changes: float) -> MixParams:
    return mixing.sample_mix(
        count,
        generator=_generator(),
        **{"mixup": 0.4, "cutmix": 1.0, "probability": 0.8, **changes},
    )


def _mixed_plainly(
    images: Tensor, labels: list[int], mixes: MixParams, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Mix pixel by pixel; return images and each image's weights (B, K) of all labels, counted on
    the way.
    """
    count, _, height, width = images.shape
    mixed, weights = images.clone(), torch.zeros(count, num_classes, dtype=torch.float64)
    for index in range(count):
        partner = index + 1 if index % 2 == 0 else index - 1
        partner = index if partner >= count else partner
        own = float(mixes.own[index])
        x0, y0, x1, y1 = (
            round(share * side)
            for share, side in zip(
                mixes.window[index].tolist(), (width, height, width, height), strict=True
            )
        )
        for row in range(height):
            for column in range(width):
                share = 0.0 if x0 <= column < x1 and y0 <= row < y1 else own
                point = images[:, :, row, column]
                mixed[index, :, row, column] = share * point[index] + (1 - share) * point[partner]
                weights[index, labels[index]] += share
                weights[index, labels[partner]] += 1 - share
    return mixed, weights / (height * width)


@pytest.mark.parametrize("count", [8, 7, 1])
@pytest.mark.parametrize("changes", [{}, {"mixup": 0.0}, {"cutmix": 0.0}, {"probability": 1.0}])
def test_it_is_the_plain_loop_and_weights_match_the_pixels(
    count: int, changes: dict[str, float]
) -> None:
    images = torch.rand(count, 3, 7, 9, generator=_generator(1)) * 255
    labels = torch.arange(count) % 5
    mixes = _draw(count, **changes)
    mixed, targets = mixing.mix(images, labels, mixes)
    expected, weights = _mixed_plainly(images, labels.tolist(), mixes, 5)
    assert torch.allclose(mixed, expected, atol=1e-3)
    found = torch.zeros(count, 5, dtype=torch.float64)
    found.scatter_add_(1, targets.labels[:, None], targets.own.double()[:, None])
    found.scatter_add_(1, targets.partners[:, None], 1 - targets.own.double()[:, None])
    assert torch.allclose(found, weights, atol=1e-6)
    assert torch.allclose(weights.sum(1), torch.ones(count, dtype=torch.float64))


def test_an_image_that_is_not_mixed_stays_to_the_bit() -> None:
    images = torch.rand(6, 3, 8, 8, generator=_generator(2)) * 255
    mixed, targets = mixing.mix(images, torch.arange(6), _draw(6, probability=0.0))
    assert torch.equal(mixed, images) and torch.equal(targets.own, torch.ones(6))
    assert torch.equal(targets.main, torch.arange(6))


def test_each_image_takes_one_method_with_the_probability_given() -> None:
    mixes = _draw(20_000, probability=0.6)
    up, cut = mixes.own < 1, (mixes.window[:, 2] > mixes.window[:, 0])
    assert not (up & cut).any()
    assert (
        abs(float(up.float().mean()) - 0.3) < 0.015 and abs(float(cut.float().mean()) - 0.3) < 0.015
    )
    assert (
        not (_draw(1000, cutmix=0.0).window != 0).any() and (_draw(1000, mixup=0.0).own == 1).all()
    )


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_of_the_beta_distribution(alpha: float) -> None:
    own = _draw(4000, mixup=alpha, cutmix=0.0, probability=1.0).own.double().numpy()
    own = np.concatenate(
        [own[own < 1], np.ones(int((own == 1).sum()))]
    )  # a float32 may round up to 1
    assert stats.kstest(own, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_cutmix_windows_have_the_area_of_beta_where_they_are_not_clipped() -> None:
    window = _draw(4000, mixup=0.0, cutmix=1.0, probability=1.0).window
    whole = ((window > 0) & (window < 1)).all(1)
    assert whole.sum() > 500
    sides = window[whole, 2:] - window[whole, :2]
    assert torch.allclose(sides[:, 0], sides[:, 1], atol=1e-5)
    # A window of side s lies wholly inside with probability (1 - s)^2, and s^2 is uniform: s has
    # the density 12 s (1 - s)^2, so P(side < s) = 6 s^2 - 8 s^3 + 3 s^4.
    side = sides[:, 0].double().numpy()
    assert stats.kstest(side, lambda s: 6 * s**2 - 8 * s**3 + 3 * s**4).pvalue > 0.01


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_is_torchs_against_soft_labels(label_smoothing: float) -> None:
    logits = torch.randn(6, 5, generator=_generator(3), dtype=torch.float64)
    targets = Targets(
        labels=torch.tensor([0, 1, 2, 3, 4, 0]),
        partners=torch.tensor([1, 1, 0, 4, 3, 2]),
        own=torch.tensor([1.0, 0.3, 0.6, 0.5, 0.0, 0.9], dtype=torch.float64),
    )
    soft = targets.own[:, None] * F.one_hot(targets.labels, 5) + (
        1 - targets.own[:, None]
    ) * F.one_hot(targets.partners, 5)
    expected = F.cross_entropy(logits, soft, label_smoothing=label_smoothing)
    assert torch.allclose(cross_entropy(logits, targets, label_smoothing=label_smoothing), expected)
    assert targets.main.tolist() == [0, 1, 2, 3, 3, 0]


@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_a_batch_are_mixed_as_the_whole(world: int) -> None:
    images, labels = torch.rand(8, 3, 6, 6, generator=_generator(4)), torch.arange(8)
    mixes = _draw(8)
    whole, _ = mixing.mix(images, labels, mixes)
    parts = [slice(8 * rank // world, 8 * (rank + 1) // world) for rank in range(world)]
    assert torch.equal(
        torch.cat([mixing.mix(images[p], labels[p], mixes[p])[0] for p in parts]), whole
    )


@pytest.mark.parametrize(
    "changes", [{"mixup": -1.0}, {"cutmix": float("nan")}, {"probability": 1.5}]
)
def test_draws_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give"):
        _draw(4, **changes)


def test_erasing_equals_a_loop_over_images() -> None:
    images = torch.rand(12, 3, 9, 7, generator=torch.Generator().manual_seed(0)) * 255
    params = mixing.sample_erase(12, generator=torch.Generator().manual_seed(1), probability=0.7)
    expected = images.clone()
    for index in range(12):
        x0, y0, x1, y1 = (
            round(share * side)
            for share, side in zip(params.window[index].tolist(), (7, 9, 7, 9), strict=True)
        )
        expected[index, :, y0:y1, x0:x1] = params.color[index][:, None, None]
    erased = mixing.erase(images, params)
    assert torch.equal(erased, expected)
    assert (erased != images).flatten(1).any(1).sum() > 4


def test_erased_windows_have_the_papers_areas_and_aspects() -> None:
    params = mixing.sample_erase(5000, generator=torch.Generator().manual_seed(2), probability=0.5)
    width, height = (params.window[:, 2:] - params.window[:, :2]).T
    erased = (width > 0) & (height > 0)
    assert abs(float(erased.float().mean()) - 0.5) < 0.03
    whole = erased & ((params.window > 0) & (params.window < 1)).all(1)
    area, aspect = (width * height)[whole], (height / width)[whole]
    assert 0.0199 < area.min() < 0.04 and 0.2 < area.max() < 0.3301
    assert 0.2999 < aspect.min() < 0.4 and 2.5 < aspect.max() < 3.334
    assert params.color.min() >= 0 and 250 < params.color.max() <= 255


def test_an_erasing_probability_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        mixing.sample_erase(3, generator=torch.Generator(), probability=1.1)
