"""Optimisers, built over a model's named parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tinysight.config import Optimiser


class TensorFlowRMSprop(torch.optim.Optimizer):
    """RMSProp as TensorFlow 1 computes it, and Inception-ResNet was trained by (Wu et al. 2017, equations 2 and 3).

    With a gradient g: mean <- decay mean + (1 - decay) g^2; step <- momentum step + lr g / sqrt(mean + epsilon);
    weight <- weight - step. Against `torch.optim.RMSprop`: epsilon is inside the root, the mean starts at 1 in place of
    0, and the learning rate is in the step that momentum keeps. With the report's epsilon of 1.0 that is another
    optimiser: with decay 0.9 torch's first step is 0.81 to 1.38 times as long, later ones down to 0.71 times. Weight
    decay is L2: added to the gradient.

    Like torch's fused optimisers it makes this and all later steps empty when its attribute `found_inf`, a float tensor
    on the device, is not 0: a GPU's host need not wait to know.
    """

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
        defaults = {"lr": lr, "decay": decay, "epsilon": epsilon, "momentum": momentum, "weight_decay": weight_decay}
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
                gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
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


def build(model: nn.Module, settings: Optimiser) -> torch.optim.Optimizer:
    """Build the optimiser that `settings` describe over the trainable parameters of `model`.

    With `decay_all=False` vectors (norms, biases, PReLU's slopes) get no weight decay. torch's own are fused where the
    device allows: gradients must lie in memory as their parameters do, which autograd and DistributedDataParallel see
    to.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.decay_all:
        groups = [{"params": parameters, "weight_decay": settings.weight_decay}]
    else:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    if settings.name == "rmsprop":
        return TensorFlowRMSprop(
            groups, lr=settings.lr, decay=settings.decay, epsilon=settings.epsilon, momentum=settings.momentum
        )
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    if settings.name == "adam":
        return torch.optim.Adam(groups, lr=settings.lr, betas=settings.betas, eps=settings.epsilon, fused=fused)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=fused)


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the same learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def optimiser_tensors(optimiser: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the optimiser's tensors as {"<parameter>|<key>": tensor}, for a checkpoint."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {}
    for parameter, state in optimiser.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{names[parameter]}|{key}"] = value
    return tensors


def restore_optimiser(optimiser: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Take `optimiser_tensors` back, on each parameter's device and in its memory layout."""
    parameters = dict(model.named_parameters())
    optimiser.state.clear()
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("|")
        parameter = parameters[name]
        if tensor.shape == parameter.shape:
            restored = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
        else:  # a count of steps
            restored = tensor.to(parameter.device, copy=True)
        optimiser.state[parameter][key] = restored
