"""The moving average against a plain loop over every tensor."""

from __future__ import annotations

import torch
from torch import nn

from tinysight.training.ema import EMA


def _train_a_little(model: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
        model.train()(torch.randn(8, 3, generator=generator))


def test_it_follows_every_tensor_as_the_plain_loop_does() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = EMA(model, 0.9)
    generator = torch.Generator().manual_seed(0)
    expected = {name: value.double().clone() for name, value in model.state_dict().items()}
    for step in range(120):
        _train_a_little(model, generator)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    shadow = average.model.state_dict()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(shadow[name].double(), expected[name], rtol=1e-4, atol=1e-4), name
            assert not torch.equal(shadow[name], value), name
    assert shadow["1.num_batches_tracked"] == 120


def test_it_is_a_copy_that_is_not_trained() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    average = EMA(model, 0.5)
    assert not average.model.training and model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    _train_a_little(model, torch.Generator().manual_seed(0))
    assert not torch.equal(average.model[0].weight, model[0].weight)  # type: ignore[index,arg-type]


def test_the_first_updates_leave_the_start_behind() -> None:
    model = nn.Linear(1, 1)
    average = EMA(model, 0.9999)
    with torch.no_grad():
        model.weight.fill_(100.0)
    for step in range(40):
        average.update(step)
    assert float(average.model.weight.detach()) > 99.0  # type: ignore[operator]
