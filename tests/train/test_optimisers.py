"""SGD against torch's plain one and the formula of momentum; what a checkpoint keeps of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tinysight.train.optimisers import optimiser_tensors, restore_optimiser, set_lr, sgd


def _model(seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _step(model: nn.Module, optimiser: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for parameter in model.parameters():
        # In the parameter's memory layout, as autograd makes it: fused optimisers go through memory, not by indices.
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
    optimiser.step()


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay_all", [True, False])
def test_it_is_the_formula(nesterov: bool, decay_all: bool) -> None:
    model = _model()
    optimiser = sgd(model, lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.02, decay_all=decay_all)
    values = {name: p.detach().clone() for name, p in model.named_parameters()}
    velocity: dict[str, torch.Tensor] = {}
    for number in range(4):
        lr = 0.1 / (number + 1)
        set_lr(optimiser, lr)
        _step(model, optimiser, number)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            decay = 0.02 if decay_all or parameter.ndim > 1 else 0.0
            gradient = parameter.grad + decay * values[name]
            velocity[name] = gradient if number == 0 else 0.9 * velocity[name] + gradient
            values[name] -= lr * (gradient + 0.9 * velocity[name] if nesterov else velocity[name])
            assert torch.allclose(parameter, values[name], rtol=1e-12, atol=1e-14), name


def test_it_is_torchs_plain_sgd() -> None:
    model, reference = _model().float(), _model().float()
    optimiser = sgd(model, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_all=True)
    plain = torch.optim.SGD(
        reference.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, foreach=False, fused=False
    )
    for number in range(5):
        _step(model, optimiser, number)
        _step(reference, plain, number)
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_frozen_parameters_are_left_alone() -> None:
    model = _model()
    model[0].requires_grad_(False)
    optimiser = sgd(model, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, decay_all=False)
    before = model[0].weight.clone()  # type: ignore[operator]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    assert torch.equal(model[0].weight, before)  # type: ignore[arg-type]
    assert not torch.equal(model[3].weight, _model()[3].weight)  # type: ignore[arg-type]


def test_a_restored_optimiser_takes_the_same_steps_to_the_bit() -> None:
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.02, "decay_all": False}
    model = _model()
    optimiser = sgd(model, **settings)  # type: ignore[arg-type]
    for number in range(3):
        _step(model, optimiser, number)
    tensors = {name: value.clone().contiguous() for name, value in optimiser_tensors(optimiser, model).items()}
    assert set(tensors) == {f"{name}|momentum_buffer" for name, _ in model.named_parameters()}

    other = _model(seed=1)
    other.load_state_dict(model.state_dict())
    resumed, forgetful = sgd(other, **settings), sgd(other, **settings)  # type: ignore[arg-type]
    restore_optimiser(resumed, other, tensors)
    buffer = resumed.state[next(other.parameters())]["momentum_buffer"]
    assert buffer.is_contiguous(memory_format=torch.channels_last)
    for number in range(3, 6):
        _step(model, optimiser, number)
        _step(other, resumed, number)
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)
    _step(other, forgetful, 6)
    _step(model, optimiser, 6)
    assert not torch.equal(next(model.parameters()), next(other.parameters()))  # momentum does matter
