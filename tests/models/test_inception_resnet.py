"""The report's Inception-ResNet: sizes and channels, the scaled residual, batch norms, the stem."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from tinysight.models import create_model


def small(**options: Any) -> Any:
    return create_model("inception_resnet", 5, n=1, width=0.125, **options).eval()


@pytest.mark.parametrize("stem", ["report", "v4"])
def test_maps_have_the_channels_and_sizes_of_the_text(stem: str) -> None:
    with torch.device("meta"):
        model: Any = create_model("inception_resnet", 200, stem=stem)
        trunk = model.stem(torch.zeros(1, 3, 56, 56))
        a = model.blocks_a(trunk)
        b = model.blocks_b(model.reduction(a))
    assert trunk.shape == a.shape == (1, 384, 14, 14)
    assert b.shape == (1, 1152, 7, 7)
    assert len(model.blocks_a) == 2 and len(model.blocks_b) == 4


@pytest.mark.parametrize("stem", ["report", "v4"])
def test_a_batch_norm_follows_every_convolution(stem: str) -> None:
    for layer, following in pairwise(small(stem=stem).modules()):
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None and isinstance(following, nn.BatchNorm2d)
            assert following.num_features == layer.out_channels


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_a_module_adds_its_scaled_residual_and_rectifies_the_sum(scale: float) -> None:
    maps = torch.randn(2, 48, 7, 7, generator=torch.Generator().manual_seed(0))
    module = small(scale=scale).blocks_a[0]
    with torch.no_grad():
        residual = module.linear(module.branches(maps))
        assert (residual < 0).any()  # linear: no ReLU before the sum
        assert torch.allclose(module(maps), (maps + scale * residual).clamp_min(0), atol=1e-6)


def test_the_scale_changes_the_logits() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 255
    one, other = small(scale=0.1), small(scale=0.2)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert not torch.allclose(one(images), other(images))


def test_the_reports_stem_concatenates_pooled_and_convolved_maps() -> None:
    model = small()
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trunk = model.stem[:3](images)
        output = model.stem[3](trunk)
    assert torch.equal(output[:, : trunk.shape[1]], nn.functional.max_pool2d(trunk, 3, 2, 1))
    assert output.shape[2:] == (4, 4)
