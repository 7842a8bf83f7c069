"""The report's VGG: its layers in order, pools that round up, the grid before the linear layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tinysight.models import create_model


def small(**options: Any) -> Any:
    return create_model("vgg", 5, filters=(4, 8, 8, 8, 8), hidden=16, **options).eval()


def layers_of(model: nn.Module, *kinds: type[nn.Module]) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kinds)]


@pytest.mark.parametrize(("depth", "linear"), [(16, True), (16, False), (19, True), (19, False)])
def test_depth_counts_the_layers_with_weights(depth: int, linear: bool) -> None:
    model = small(depth=depth, linear_convolutions=linear)
    kernels = [layer.kernel_size[0] for layer in layers_of(model, nn.Conv2d)]
    assert kernels.count(3) + len(layers_of(model, nn.Linear)) == depth
    assert kernels.count(1) == (3 if linear else 0)
    assert len(layers_of(model, nn.MaxPool2d)) == 4  # the last is removed
    assert len(layers_of(model, nn.Dropout)) == 3  # one for each linear layer


def test_weights_norms_and_activations_with_a_slope_per_channel_alternate() -> None:
    weighted, norms = (nn.Conv2d, nn.Linear), (nn.BatchNorm1d, nn.BatchNorm2d)
    layers = layers_of(small(), *weighted, *norms, nn.PReLU)
    assert isinstance(layers.pop(), nn.Linear)  # the logits
    for layer, norm, activation in zip(*[iter(layers)] * 3, strict=True):
        assert isinstance(layer, weighted) and isinstance(norm, norms)
        assert isinstance(activation, nn.PReLU) and activation.num_parameters == norm.num_features


def test_pools_round_up_and_see_no_zero_beyond_the_edge() -> None:
    model = small()
    sizes: list[int] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    with torch.no_grad():
        model.forward_features(torch.zeros(1, 3, 56, 56))
    assert sizes == [28, 14, 7, 4, 4]
    pool = layers_of(model, nn.MaxPool2d)[0]
    assert torch.equal(pool(torch.full((1, 1, 7, 7), -1.0)), torch.full((1, 1, 4, 4), -1.0))


@pytest.mark.parametrize(("size", "identity"), [(32, False), (56, True), (64, True), (128, False)])
def test_maps_of_other_sizes_only_are_averaged_to_the_grid(size: int, identity: bool) -> None:
    model = small()
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        features = model.forward_features(images)
        grid = nn.functional.adaptive_avg_pool2d(features, 4)
        assert torch.equal(grid, features) == identity
        assert torch.equal(model(images), model.head(grid))
