"""Starting weights: their moments, and that they come from the generator alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tinysight.models.init import INITIALIZATIONS, torch_default, variance_scaling, xavier


def _model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(16, 64, 5, bias=False), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(256, 200)
    )


def test_variance_scaling_has_its_moments() -> None:
    model = _model()
    variance_scaling(model, generator=torch.Generator().manual_seed(0))
    for index, fan_in in ((0, 16 * 25), (3, 256)):
        weight = model[index].weight.detach()  # type: ignore[operator]
        assert isinstance(weight, torch.Tensor)
        expected = math.sqrt(2 / fan_in)
        assert abs(float(weight.mean())) < 4 * expected / math.sqrt(weight.numel())
        assert float(weight.std()) == pytest.approx(expected, rel=4 / math.sqrt(2 * weight.numel()))
        assert float(weight.abs().max()) > 3 * expected  # normal, not uniform
    assert not model[3].bias.any()  # type: ignore[operator]


def test_xavier_is_the_report_s_and_not_torchs() -> None:
    model, torchs = _model(), _model()
    xavier(model, generator=torch.Generator().manual_seed(0))
    for index, fan_in, fan_out in ((0, 16 * 25, 64 * 25), (3, 256, 200)):
        weight = model[index].weight.detach()  # type: ignore[operator]
        assert isinstance(weight, torch.Tensor)
        bound = 1 / math.sqrt(fan_in + fan_out)
        expected = bound / math.sqrt(3)  # a uniform distribution's deviation
        assert (
            bound * 0.99 < float(weight.max()) <= bound
            and -bound <= float(weight.min()) < bound * -0.99
        )
        assert abs(float(weight.mean())) < 4 * expected / math.sqrt(weight.numel())
        assert float(weight.var()) == pytest.approx(
            1 / (3 * (fan_in + fan_out)), rel=4 / math.sqrt(weight.numel())
        )
        # The same draws through torch's own are wider by sqrt(6) throughout.
        reference = torchs[index].weight.detach()  # type: ignore[operator]
        assert isinstance(reference, torch.Tensor)
        generator = torch.Generator().manual_seed(5)
        nn.init.xavier_uniform_(reference, generator=generator)
        xavier(model[index], generator=generator.manual_seed(5))  # type: ignore[arg-type]
        assert torch.allclose(reference, weight * math.sqrt(6), rtol=1e-4, atol=1e-7)
    assert not model[3].bias.any()  # type: ignore[operator]


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_slopes_and_norms_stay_as_torch_makes_them(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4))
    INITIALIZATIONS[name](model, generator=torch.Generator().manual_seed(0))
    assert (
        (model[2].weight == 0.25).all()
        and (model[1].weight == 1).all()
        and (model[1].bias == 0).all()
    )  # type: ignore[operator,union-attr]


def test_the_default_is_torchs_own_distribution() -> None:
    model, own = _model(), _model()
    torch_default(model, generator=torch.Generator().manual_seed(0))
    for index, fan_in in ((0, 16 * 25), (3, 256)):
        weight, reference = (each[index].weight.detach() for each in (model, own))  # type: ignore[operator]
        assert isinstance(weight, torch.Tensor) and isinstance(reference, torch.Tensor)
        bound = 1 / math.sqrt(fan_in)
        assert bound * 0.99 < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(float(reference.std()), rel=0.03)
    assert 0 < float(model[3].bias.detach().abs().max()) <= 1 / 16  # type: ignore[operator]


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_weights_come_from_the_generator_alone(name: str) -> None:
    model, again, other = _model(), _model(), _model()
    before = torch.get_rng_state()
    for each, seed in ((model, 1), (again, 1), (other, 2)):
        INITIALIZATIONS[name](each, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(before, torch.get_rng_state())
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert not torch.equal(model[0].weight, other[0].weight)  # type: ignore[arg-type]
