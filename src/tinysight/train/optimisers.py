"""Optimisers, built over a model's named parameters."""

from __future__ import annotations

import torch
from torch import nn


def sgd(
    model: nn.Module, *, lr: float, momentum: float, nesterov: bool, weight_decay: float, decay_all: bool
) -> torch.optim.Optimizer:
    """Build SGD with (Nesterov) momentum; with `decay_all=False` vectors (norms, biases) get no weight decay.

    It is fused: gradients must lie in memory as their parameters do, which autograd and DistributedDataParallel see to.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if decay_all:
        groups = [{"params": parameters, "weight_decay": weight_decay}]
    else:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)


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
        restored = (
            torch.empty_like(parameter, dtype=tensor.dtype) if tensor.shape == parameter.shape else tensor.clone()
        )
        with torch.no_grad():
            restored.copy_(tensor)
        optimiser.state[parameter][key] = restored
