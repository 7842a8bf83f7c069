"""The optimizers against their formulas, step by step in float64; their state in checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tinysight.config import OptimizerConfig
from tinysight.training.optimizers import (
    build,
    optimizer_tensors,
    orthogonal,
    restore_optimizer,
    set_lr,
)


def _model(seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _build(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    return build(model, OptimizerConfig(**settings))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for parameter in model.parameters():
        # In the parameter's memory layout, as autograd makes it: fused optimizers go through
        # memory, not by indices.
        parameter.grad = torch.empty_like(parameter).copy_(
            torch.randn(parameter.shape, generator=generator)
        )
    optimizer.step()


def _values(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay_all", [True, False])
def test_it_is_the_formula(nesterov: bool, decay_all: bool) -> None:
    model = _model()
    optimizer = _build(
        model, lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.02, decay_all=decay_all
    )
    values = {name: p.detach().clone() for name, p in model.named_parameters()}
    velocity: dict[str, torch.Tensor] = {}
    for number in range(4):
        lr = 0.1 / (number + 1)
        set_lr(optimizer, lr)
        _step(model, optimizer, number)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            decay = 0.02 if decay_all or parameter.ndim > 1 else 0.0
            gradient = parameter.grad + decay * values[name]
            velocity[name] = gradient if number == 0 else 0.9 * velocity[name] + gradient
            values[name] -= lr * (gradient + 0.9 * velocity[name] if nesterov else velocity[name])
            assert torch.allclose(parameter, values[name], rtol=1e-12, atol=1e-14), name


def test_it_is_torchs_plain_sgd() -> None:
    model, reference = _model().float(), _model().float()
    optimizer = _build(model, lr=0.1, weight_decay=5e-4)
    plain = torch.optim.SGD(
        reference.parameters(),
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        foreach=False,
        fused=False,
    )
    for number in range(5):
        _step(model, optimizer, number)
        _step(reference, plain, number)
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_frozen_parameters_are_left_alone() -> None:
    model = _model()
    model[0].requires_grad_(False)
    optimizer = _build(model, lr=0.1, weight_decay=0.1, decay_all=False)
    before = model[0].weight.clone()  # type: ignore[operator]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert torch.equal(model[0].weight, before)  # type: ignore[arg-type]
    assert not torch.equal(model[3].weight, _model()[3].weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "prefix"), [("sgd", ""), ("sgd", "encoder."), ("adam", "")])
@pytest.mark.parametrize("decay_all", [True, False])
def test_the_encoder_has_its_share_of_the_learning_rate(
    name: str, prefix: str, decay_all: bool
) -> None:
    parts = nn.ModuleDict({"stem": nn.Linear(2, 3), "head": nn.Linear(3, 2)})
    model = nn.ModuleDict({"encoder": parts}) if prefix else parts
    settings = {"encoder_ratio": 0.25, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    optimizer = _build(model, name=name, decay_all=decay_all, **settings)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    set_lr(optimizer, 0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for key, value in model.state_dict().items():
        step = 0.1 if key.startswith(f"{prefix}head.") else 0.025
        assert torch.allclose(before[key] - value, torch.tensor(step), rtol=1e-4), key


@pytest.mark.parametrize("decay_all", [True, False])
def test_nesterov_is_the_reports_equations_5_and_6(decay_all: bool) -> None:
    """They move a velocity, torch's a gradient's average; with a constant rate both take the same
    steps.
    """
    model = _model()
    settings = OptimizerConfig(
        lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0, decay_all=decay_all
    )
    optimizer = build(model, settings)
    values = {name: p.detach().clone().numpy() for name, p in model.named_parameters()}
    velocity = {name: np.zeros_like(value) for name, value in values.items()}
    for number in range(5):
        _step(model, optimizer, number)
        for name, parameter in model.named_parameters():
            old = velocity[name]
            velocity[name] = 0.9 * old - 0.1 * parameter.grad.numpy()  # type: ignore[union-attr]
            values[name] += -0.9 * old + (1 + 0.9) * velocity[name]
            np.testing.assert_allclose(
                parameter.detach().numpy(), values[name], rtol=1e-11, atol=1e-13
            )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("epsilon", [1.0, 1e-10])
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
def test_rmsprop_is_tensorflow_1s(momentum: float, epsilon: float, weight_decay: float) -> None:
    model = _model()
    settings = OptimizerConfig(
        name="rmsprop",
        lr=0.05,
        decay=0.9,
        epsilon=epsilon,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    optimizer = build(model, settings)
    values = {name: p.detach().clone().numpy() for name, p in model.named_parameters()}
    mean = {name: np.ones_like(value) for name, value in values.items()}
    moved = {name: np.zeros_like(value) for name, value in values.items()}
    for number in range(5):
        lr = 0.05 * 0.9**number
        set_lr(optimizer, lr)
        _step(model, optimizer, number)
        for name, parameter in model.named_parameters():
            gradient = parameter.grad.numpy() + weight_decay * values[name]  # type: ignore[union-attr]
            mean[name] = 0.9 * mean[name] + 0.1 * gradient**2
            moved[name] = momentum * moved[name] + lr * gradient / np.sqrt(mean[name] + epsilon)
            values[name] -= moved[name]
            np.testing.assert_allclose(
                parameter.detach().numpy(), values[name], rtol=1e-12, atol=1e-14
            )


def test_rmsprop_at_the_reports_epsilon_is_not_torchs() -> None:
    ours, theirs = _model(), _model()
    mine = _build(ours, name="rmsprop", lr=0.05, epsilon=1.0, momentum=0.0, weight_decay=0.0)
    torchs = torch.optim.RMSprop(theirs.parameters(), lr=0.05, alpha=0.9, eps=1.0)
    before = _values(_model())
    for number in range(3):
        _step(ours, mine, number)
        _step(theirs, torchs, number)
    steps = [_values(model) - before for model in (ours, theirs)]
    assert (steps[0] - steps[1]).norm() > 0.05 * steps[1].norm()


def test_adam_is_its_formula() -> None:
    model = _model()
    optimizer = _build(
        model, name="adam", lr=0.001, epsilon=1e-8, weight_decay=0.02, decay_all=False
    )
    values = {name: p.detach().clone().numpy() for name, p in model.named_parameters()}
    first = {name: np.zeros_like(value) for name, value in values.items()}
    second = {name: np.zeros_like(value) for name, value in values.items()}
    for number in range(1, 5):
        _step(model, optimizer, number)
        for name, parameter in model.named_parameters():
            gradient = parameter.grad.numpy() + (0.02 if parameter.ndim > 1 else 0.0) * values[name]  # type: ignore[union-attr]
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            root = np.sqrt(second[name] / (1 - 0.999**number)) + 1e-8
            values[name] -= 0.001 * first[name] / (1 - 0.9**number) / root
            np.testing.assert_allclose(
                parameter.detach().numpy(), values[name], rtol=1e-9, atol=1e-12
            )


STATES = {
    "sgd": {"momentum_buffer"},
    "rmsprop": {"momentum_buffer", "square_average"},
    "adam": {"exp_avg", "exp_avg_sq", "step"},
}


@pytest.mark.parametrize("name", STATES)
def test_a_restored_optimizer_takes_the_same_steps_to_the_bit(name: str) -> None:
    settings = OptimizerConfig(name=name, lr=0.1, weight_decay=0.02, decay_all=False)
    model = _model()
    optimizer = build(model, settings)
    for number in range(3):
        _step(model, optimizer, number)
    tensors = {
        path: value.clone().contiguous()
        for path, value in optimizer_tensors(optimizer, model).items()
    }
    assert set(tensors) == {
        f"{path}|{key}" for path, _ in model.named_parameters() for key in STATES[name]
    }

    other = _model(seed=1)
    other.load_state_dict(model.state_dict())
    resumed, forgetful = build(other, settings), build(other, settings)
    restore_optimizer(resumed, other, tensors)
    for key in STATES[name] - {"step"}:
        assert resumed.state[next(other.parameters())][key].is_contiguous(
            memory_format=torch.channels_last
        )
    for number in range(3, 6):
        _step(model, optimizer, number)
        _step(other, resumed, number)
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)
    _step(other, forgetful, 6)
    _step(model, optimizer, 6)
    assert not torch.equal(
        next(model.parameters()), next(other.parameters())
    )  # the state does matter


def _convolutional(bias: bool = False) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 6, 3, bias=bias),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6, 5),
    ).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonal_brings_all_singular_values_near_one(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((8, 30), (30, 8), (5, 5)):
        matrix = torch.randn(shape, generator=generator)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        nearest = orthogonal(matrix, dtype=dtype)
        assert nearest.dtype == torch.float32
        assert torch.equal(nearest, nearest.bfloat16().float()) is (dtype == torch.bfloat16)
        values = torch.linalg.svdvals(nearest)
        assert values.min() > 0.6 and values.max() < 1.25, values
        cosine = (nearest * (u @ v)).sum() / nearest.norm() / (u @ v).norm()
        assert cosine > 0.97


@pytest.mark.parametrize("spike", [0.0, 1.0, 10.0])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_orthogonal_is_the_polynomial_iterated(
    dtype: torch.dtype, most: float, spike: float
) -> None:
    """Also where one direction is far larger than all others, as momentum often is."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(64, 300, generator=generator)
    column, row = (torch.randn(shape, generator=generator) for shape in ((64, 1), (1, 300)))
    matrix += spike * column @ row
    expected = matrix.double() / matrix.double().norm()
    for _ in range(5):
        square = expected @ expected.T
        polynomial = 3.4445 * torch.eye(64) - 4.7750 * square + 2.0315 * square @ square
        expected = polynomial @ expected
    for given, wanted in ((matrix, expected), (matrix.T, expected.T)):
        found = orthogonal(given, dtype=dtype).double()
        assert float((found - wanted).norm() / wanted.norm()) < most


def test_muon_in_bf16_turns_kernels_nearly_the_same_way() -> None:
    steps = {}
    for bf16 in (False, True):
        model = _convolutional()
        before = model[2].weight.detach().clone()
        _step(
            model,
            build(model, OptimizerConfig(name="muon", lr=0.05, weight_decay=0.01), bf16=bf16),
            0,
        )
        steps[bf16] = model[2].weight.detach() - before
    assert not torch.equal(steps[False], steps[True])
    assert float((steps[False] - steps[True]).norm() / steps[False].norm()) < 0.05


def test_muon_turns_kernels_by_the_rate_and_keeps_their_length() -> None:
    model = _convolutional()
    optimizer = _build(
        model, name="muon", lr=0.05, sgd_ratio=2.0, weight_decay=0.01, decay_all=False
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _step(model, optimizer, 0)
    after = dict(model.named_parameters())
    old, new = before["2.weight"], after["2.weight"].detach()
    assert torch.allclose(old.norm(), new.norm(), rtol=1e-9)
    angle = torch.arccos((old * new).sum() / old.norm() ** 2)
    assert 0.03 < float(angle) < 0.06
    for name in (
        "0.weight",
        "5.weight",
    ):  # the stem and the last layer: SGD with decay, Nesterov's first step
        grad = after[name].grad
        assert grad is not None
        expected = before[name] - 0.1 * 1.9 * (grad + 0.01 * before[name])
        assert torch.allclose(after[name], expected, rtol=1e-9), name
    grad = after["1.bias"].grad
    assert grad is not None
    assert torch.allclose(
        after["1.bias"], before["1.bias"] - 0.1 * 1.9 * grad, rtol=1e-9
    )  # no decay


def test_muon_leaves_a_kernel_without_a_norm_behind_it_to_sgd() -> None:
    groups = _build(_convolutional(bias=True), name="muon", lr=0.05).param_groups
    assert not any(group["kernels"] for group in groups)


def test_muons_state_goes_through_a_checkpoint() -> None:
    model, other = _convolutional(), _convolutional()
    optimizer = _build(model, name="muon", lr=0.05)
    _step(model, optimizer, 0)
    other.load_state_dict(model.state_dict())
    restored = _build(other, name="muon", lr=0.05)
    restore_optimizer(restored, other, optimizer_tensors(optimizer, model))
    _step(model, optimizer, 1)
    _step(other, restored, 1)
    assert torch.equal(_values(model), _values(other))
