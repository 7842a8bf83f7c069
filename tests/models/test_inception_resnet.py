"""The report's Inception-ResNet: sizes and widths along the way, the scaled residual, batch norms,
options.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from tinysight.models import create_model

SMALL = {"n": 1, "width": 0.125}


@pytest.mark.parametrize("stem", ["report", "v4"])
def test_maps_have_the_channels_and_sizes_of_the_text(stem: str) -> None:
    with torch.device("meta"):
        model: Any = create_model("inception_resnet", 200, stem=stem)
        stemmed = model.stem(torch.zeros(1, 3, 56, 56))
        a = model.blocks_a(stemmed)
        b = model.blocks_b(model.reduction(a))
    assert stemmed.shape == a.shape == (1, 384, 14, 14)
    assert b.shape == (1, 1152, 7, 7)
    assert len(model.blocks_a) == 2 and len(model.blocks_b) == 4


def test_a_batch_norm_follows_every_convolution() -> None:
    for stem in ("report", "v4"):
        layers = list(create_model("inception_resnet", 5, **{**SMALL, "stem": stem}).modules())
        for layer, following in pairwise(layers):
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is None
                assert (
                    isinstance(following, nn.BatchNorm2d)
                    and following.num_features == layer.out_channels
                )


def test_a_module_adds_its_scaled_residual_and_rectifies_the_sum() -> None:
    maps = torch.randn(2, 48, 7, 7, generator=torch.Generator().manual_seed(0))
    for scale in (0.1, 1.0):
        model: Any = create_model("inception_resnet", 5, **{**SMALL, "scale": scale}).eval()
        module = model.blocks_a[0]
        with torch.no_grad():
            residual = module.linear(module.branches(maps))
            assert (residual < 0).any()  # linear: no ReLU before the sum
            assert torch.allclose(module(maps), (maps + scale * residual).clamp_min(0), atol=1e-6)


def test_the_scale_changes_what_a_network_says() -> None:
    images = torch.randint(
        0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    one, other = (
        create_model("inception_resnet", 5, **{**SMALL, "scale": scale}).eval()
        for scale in (0.1, 0.2)
    )
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert not torch.allclose(one(images), other(images))


def test_the_report_s_stem_joins_pooled_and_convolved_maps() -> None:
    model: Any = create_model("inception_resnet", 5, **SMALL).eval()
    with torch.no_grad():
        trunk = model.stem[:3](
            torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        )
        out = model.stem[3](trunk)
    assert torch.equal(out[:, : trunk.shape[1]], nn.functional.max_pool2d(trunk, 3, 2, 1))
    assert out.shape[2:] == (4, 4)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"m": 1}, "no option 'm'; there are n, stem, scale, dropout, width"),
        ({"n": 0}, "needs 1 module"),
        ({"stem": "v3"}, "is 'v3'; allowed: report, v4"),
        ({"stem": 4}, "expected a value like 'report'"),
        ({"scale": 0.0}, "above 0, at most 1"),
        ({"scale": 1.5}, "above 0, at most 1"),
        ({"dropout": 1.0}, "0 to below 1"),
        ({"dropout": -0.1}, "0 to below 1"),
        ({"dropout": float("nan")}, "0 to below 1"),
        ({"dropout": True}, "expected a value like 0.5"),
        ({"width": 0.0}, "1/32 to 8"),
        ({"width": 100}, "1/32 to 8"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        create_model("inception_resnet", 5, **options)
