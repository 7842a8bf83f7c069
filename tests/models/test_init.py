"""Initial weights: their moments, and that they come from the generator alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tinysight.models.init import INITIALIZATIONS, torch_default, variance_scaling, xavier

# (layer, inputs of one output, outputs of one input) of `make`
LAYERS = ((0, 16 * 25, 64 * 25), (3, 256, 200))


def make() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(16, 64, 5, bias=False), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(256, 200)
    )


def weight_of(model: nn.Sequential, index: int) -> Tensor:
    layer = model[index]
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer.weight.detach()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_variance_scaling_has_its_moments() -> None:
    model = make()
    variance_scaling(model, generator=generator(0))
    for index, fan_in, _ in LAYERS:
        weight, std = weight_of(model, index), math.sqrt(2 / fan_in)
        assert abs(float(weight.mean())) < 4 * std / math.sqrt(weight.numel())
        assert float(weight.std()) == pytest.approx(std, rel=4 / math.sqrt(2 * weight.numel()))
        assert float(weight.abs().max()) > 3 * std  # normal, not uniform
    assert not model[3].bias.any()  # type: ignore[operator, union-attr]


def test_xavier_is_the_reports_and_not_torchs() -> None:
    model, reference = make(), make()
    xavier(model, generator=generator(0))
    for index, fan_in, fan_out in LAYERS:
        weight, bound = weight_of(model, index), 1 / math.sqrt(fan_in + fan_out)
        std, variance = bound / math.sqrt(3), 1 / (3 * (fan_in + fan_out))
        assert bound * 0.99 < float(weight.max()) <= bound
        assert -bound <= float(weight.min()) < -bound * 0.99
        assert abs(float(weight.mean())) < 4 * std / math.sqrt(weight.numel())
        assert float(weight.var()) == pytest.approx(variance, rel=4 / math.sqrt(weight.numel()))
        # The same random numbers through torch's own are wider by sqrt(6).
        xavier(model[index], generator=generator(5))
        nn.init.xavier_uniform_(reference[index].weight, generator=generator(5))  # type: ignore[arg-type]
        wider = weight_of(reference, index)
        assert torch.allclose(wider, weight * math.sqrt(6), rtol=1e-4, atol=1e-7)
    assert not model[3].bias.any()  # type: ignore[operator, union-attr]


def test_the_default_is_torchs_own_distribution() -> None:
    model, reference = make(), make()
    torch_default(model, generator=generator(0))
    for index, fan_in, _ in LAYERS:
        weight, bound = weight_of(model, index), 1 / math.sqrt(fan_in)
        assert bound * 0.99 < float(weight.abs().max()) <= bound
        expected = float(weight_of(reference, index).std())
        assert float(weight.std()) == pytest.approx(expected, rel=0.03)
    assert 0 < float(model[3].bias.detach().abs().max()) <= 1 / 16  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_slopes_and_norms_keep_torchs_values(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4))
    INITIALIZATIONS[name](model, generator=generator(0))
    state = model.state_dict()
    assert (state["2.weight"] == 0.25).all()
    assert (state["1.weight"] == 1).all() and (state["1.bias"] == 0).all()


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_weights_come_from_the_generator_alone(name: str) -> None:
    models = make(), make(), make()
    before = torch.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        INITIALIZATIONS[name](model, generator=generator(seed))
    assert torch.equal(before, torch.get_rng_state())
    first, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(value, same[key]) for key, value in first.items())
    assert not torch.equal(first["0.weight"], other["0.weight"])
