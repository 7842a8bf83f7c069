"""Optimizers, built over a model's named parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tinysight.config import OptimizerConfig


class TensorFlowRMSprop(torch.optim.Optimizer):
    """RMSProp as TensorFlow 1 computes it, and Inception-ResNet was trained by (Wu et al. 2017,
    equations 2 and 3).

    With a gradient g: mean <- decay mean + (1 - decay) g^2; step <- momentum step + lr g /
    sqrt(mean + epsilon); weight <- weight - step. Against `torch.optim.RMSprop`: epsilon is inside
    the root, the mean starts at 1 in place of 0, and the learning rate is in the step that momentum
    keeps. With the report's epsilon of 1.0 that is another optimizer: with decay 0.9 torch's first
    step is 0.81 to 1.38 times as long, later ones down to 0.71 times. Weight decay is L2: added to
    the gradient.

    Like torch's fused optimizers it makes this and all later steps empty when its attribute
    `found_inf`, a float tensor on the device, is not 0: a GPU's host need not wait to know."""

    def __init__(
        self,
        parameters: Any,
        *,
        lr: float,
        decay: float = 0.9,
        epsilon: float = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "decay": decay,
            "epsilon": epsilon,
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step by the gradients that the parameters hold."""
        assert closure is None, "the loop computes the gradients once"
        broken: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["square_average"] = torch.ones_like(parameter)
                    if group["momentum"]:
                        self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            gradients: list[Tensor] = [p.grad for p in parameters]
            if broken is not None:
                gradients = [torch.where(broken > 0, 0.0, gradient) for gradient in gradients]
            if group["weight_decay"]:
                gradients = list(
                    torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
                )
            averages = [self.state[p]["square_average"] for p in parameters]
            torch._foreach_mul_(averages, group["decay"])
            torch._foreach_addcmul_(averages, gradients, gradients, value=1 - group["decay"])
            roots = torch._foreach_add(averages, group["epsilon"])
            torch._foreach_sqrt_(roots)
            steps = list(torch._foreach_div(gradients, roots))
            torch._foreach_mul_(steps, group["lr"])
            if group["momentum"]:
                buffers = [self.state[p]["momentum_buffer"] for p in parameters]
                torch._foreach_mul_(buffers, group["momentum"])
                torch._foreach_add_(buffers, steps)
                steps = buffers
            if broken is not None:
                steps = [torch.where(broken > 0, 0.0, step) for step in steps]
            torch._foreach_sub_(parameters, steps)


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are made orthogonal, for convolutions that a norm follows; SGD for
    everything else.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", with its
    polynomial; ours is the scale. A kernel as a matrix (out, in x height x width) moves along the
    orthogonal matrix nearest to its momentum (Nesterov's), by `lr` times its own length, and is
    brought back to that length: behind a norm the length means nothing, so that `lr` is the turn of
    a kernel in radians and needs no weight decay. What has no such norm behind it, or is not a matrix
    (the stem's kernel of 3 channels, the last layer, norms, biases), is trained by plain SGD at its
    own rate, which follows the schedule, too.

    Like torch's fused optimizers it makes this and all later steps empty when its attribute
    `found_inf`, a float tensor on the device, is not 0.

    Args:
        groups: parameter groups, each with "kernels" True or False.
        lr: of the kernels.
        sgd_ratio: the rate of the others, in `lr`.
        bf16: whether the nearest orthogonal matrix is sought in bfloat16; its few digits are
    enough for that."""

    def __init__(
        self,
        groups: Any,
        *,
        lr: float,
        sgd_ratio: float,
        momentum: float,
        nesterov: bool,
        bf16: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "sgd_ratio": sgd_ratio,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": 0.0,
        }
        super().__init__(groups, defaults)
        self.dtype = torch.bfloat16 if bf16 else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step by the gradients that the parameters hold."""
        assert closure is None, "the loop computes the gradients once"
        broken: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = (
                    parameter.grad
                    if broken is None
                    else torch.where(broken > 0, 0.0, parameter.grad)
                )
                if not group["kernels"] and group["weight_decay"]:
                    gradient = gradient.add(parameter, alpha=group["weight_decay"])
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
                step = (
                    gradient.add(velocity, alpha=group["momentum"])
                    if group["nesterov"]
                    else velocity
                )
                if group["kernels"]:
                    moved = _turned(parameter, step, group["lr"], self.dtype)
                else:
                    moved = parameter.add(step, alpha=-group["lr"] * group["sgd_ratio"])
                parameter.copy_(
                    moved if broken is None else torch.where(broken > 0, parameter, moved)
                )


def _turned(kernel: Tensor, step: Tensor, lr: float, dtype: torch.dtype) -> Tensor:
    """Return a kernel (O, I, H, W) turned by about `lr` radians against a step, at its own length."""
    length: Tensor = kernel.norm()
    direction = orthogonal(step.flatten(1), dtype=dtype).view_as(step)
    moved: Tensor = kernel - direction * (lr * length / min(step.flatten(1).shape) ** 0.5)
    scale: Tensor = length / moved.norm().clamp_min(1e-12)
    return moved * scale


def orthogonal(matrix: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return nearly the orthogonal matrix closest to `matrix` (M, N): its singular values brought
    to 0.7 to 1.2.

    By an odd polynomial, five times over, which costs matrix products alone, in `dtype`; its
    coefficients are Jordan's, chosen for steepness at 0."""
    first, third, fifth = 3.4445, -4.7750, 2.0315
    x = matrix.float()
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = (wide / wide.norm().clamp_min(1e-12)).to(dtype)
    for _ in range(steps):
        square = wide @ wide.T
        wide = first * wide + (third * square + fifth * square @ square) @ wide
    nearest: Tensor = wide if x.shape[0] <= x.shape[1] else wide.T
    return nearest.to(matrix.dtype)


def _is_kernel(name: str, parameter: nn.Parameter, model: nn.Module) -> bool:
    """Whether a parameter is a convolution's kernel with a norm behind it: ours have no bias then."""
    module = model.get_submodule(name.rpartition(".")[0])
    return isinstance(module, nn.Conv2d) and module.bias is None and parameter.shape[1] > 3


def build(
    model: nn.Module, settings: OptimizerConfig, *, bf16: bool = False
) -> torch.optim.Optimizer:
    """Build the optimizer that `settings` describe over the trainable parameters of `model`;
    `bf16`: see `Muon`.

    With `decay_all=False` vectors (norms, biases, PReLU's slopes) get no weight decay. torch's
    own are fused where the device allows: gradients must lie in memory as their parameters do,
    which autograd and DistributedDataParallel see to."""
    if settings.name == "muon":
        return _build_muon(model, settings, bf16)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.decay_all:
        groups = [{"params": parameters, "weight_decay": settings.weight_decay}]
    else:
        groups = [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "weight_decay": settings.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    if settings.name == "rmsprop":
        return TensorFlowRMSprop(
            groups,
            lr=settings.lr,
            decay=settings.decay,
            epsilon=settings.epsilon,
            momentum=settings.momentum,
        )
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    if settings.name == "adam":
        return torch.optim.Adam(
            groups, lr=settings.lr, betas=settings.betas, eps=settings.epsilon, fused=fused
        )
    return torch.optim.SGD(
        groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=fused
    )


def _build_muon(model: nn.Module, settings: OptimizerConfig, bf16: bool) -> Muon:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    kernels = [p for name, p in named if _is_kernel(name, p, model)]
    others = [p for name, p in named if not _is_kernel(name, p, model)]
    groups = [
        {"params": kernels, "kernels": True},
        {
            "params": [p for p in others if p.ndim > 1],
            "kernels": False,
            "weight_decay": settings.weight_decay,
        },
        {
            "params": [p for p in others if p.ndim <= 1],
            "kernels": False,
            "weight_decay": settings.weight_decay if settings.decay_all else 0.0,
        },
    ]
    return Muon(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        sgd_ratio=settings.sgd_ratio,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        bf16=bf16,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> dict[str, torch.Tensor]:
    """Return the optimizer's tensors as {"<parameter>|<key>": tensor}, for a checkpoint."""
    names: dict[torch.Tensor, str] = {
        parameter: name for name, parameter in model.named_parameters()
    }
    tensors = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{names[parameter]}|{key}"] = value
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, torch.Tensor]
) -> None:
    """Take `optimizer_tensors` back, on each parameter's device and in its memory layout."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("|")
        parameter = parameters[name]
        if tensor.shape == parameter.shape:
            restored = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(
                tensor
            )
        else:  # a count of steps
            restored = tensor.to(parameter.device, copy=True)
        optimizer.state[parameter][key] = restored
