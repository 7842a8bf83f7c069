"""The report's VGG: layers in their order, pools that round up, the grid before the linear layers,
options.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tinysight.models import create_model

SMALL = {"filters": (4, 8, 8, 8, 8), "hidden": 16}


def _layers(model: nn.Module, *kinds: type[nn.Module]) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kinds)]


@pytest.mark.parametrize(("depth", "linear"), [(16, True), (16, False), (19, True), (19, False)])
def test_depth_counts_the_layers_with_weights(depth: int, linear: bool) -> None:
    model = create_model("vgg", 5, **{**SMALL, "depth": depth, "linear_convolutions": linear})
    kernels = [layer.kernel_size[0] for layer in _layers(model, nn.Conv2d)]
    assert kernels.count(3) + len(_layers(model, nn.Linear)) == depth
    assert kernels.count(1) == (3 if linear else 0)
    assert len(_layers(model, nn.MaxPool2d)) == 4  # the last is removed
    assert len(_layers(model, nn.Dropout)) == 3  # one for each linear layer


def test_a_batch_norm_comes_before_each_activation_with_a_slope_a_channel() -> None:
    layers = _layers(
        create_model("vgg", 5, **SMALL),
        nn.Conv2d,
        nn.Linear,
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.PReLU,
    )
    assert isinstance(layers.pop(), nn.Linear)  # the logits
    for weighted, norm, activation in zip(*[iter(layers)] * 3, strict=True):
        assert isinstance(weighted, nn.Conv2d | nn.Linear) and isinstance(
            norm, nn.BatchNorm1d | nn.BatchNorm2d
        )
        assert isinstance(activation, nn.PReLU) and activation.num_parameters == norm.num_features


def test_pools_round_up_and_see_no_zero_beyond_the_edge() -> None:
    model: Any = create_model("vgg", 5, **SMALL)
    sizes: list[int] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    with torch.no_grad():
        model.eval().forward_features(torch.zeros(1, 3, 56, 56))
    assert sizes == [28, 14, 7, 4, 4]
    pool = _layers(model, nn.MaxPool2d)[0]
    assert torch.equal(pool(torch.full((1, 1, 7, 7), -1.0)), torch.full((1, 1, 4, 4), -1.0))


@pytest.mark.parametrize(("size", "identity"), [(32, False), (56, True), (64, True), (128, False)])
def test_maps_are_averaged_to_the_grid_from_other_sizes_only(size: int, identity: bool) -> None:
    model: Any = create_model("vgg", 5, **SMALL).eval()
    images = torch.randint(
        0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        features = model.forward_features(images)
        grid = nn.functional.adaptive_avg_pool2d(features, 4)
        assert torch.equal(grid, features) == identity
        assert torch.equal(model(images), model.head(grid))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"m": 1}, "no option 'm'; there are depth, linear_convolutions, dropout, filters, hidden"),
        ({"depth": 17}, "is 17; allowed: 16, 19"),
        ({"depth": 16.0}, "expected a value like 16"),
        ({"linear_convolutions": 1}, "expected a value like True"),
        ({"dropout": 1.0}, "0 to below 1"),
        ({"dropout": -0.1}, "0 to below 1"),
        ({"filters": (64, 128)}, "give the channels"),
        ({"filters": (0, 1, 1, 1, 1)}, "give the channels"),
        ({"hidden": 0}, "needs 1 unit"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        create_model("vgg", 5, **options)
