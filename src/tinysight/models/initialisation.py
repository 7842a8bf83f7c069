"""Starting weights, drawn from a generator that the caller passes."""

from __future__ import annotations

import math

import torch
from torch import nn


def variance_scaling(model: nn.Module, *, generator: torch.Generator) -> None:
    """Draw every convolution's and linear layer's weights from N(0, 2 / n), n the inputs of one output; biases 0.

    Source: He et al. 2015 (arXiv:1502.01852), as Wu et al. 2017, section 4.5, states it.
    """
    for module in _weighted(model):
        fan_in = module.weight[0].numel()
        torch.nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_in), generator=generator)
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)


def torch_default(model: nn.Module, *, generator: torch.Generator) -> None:
    """Draw U(-1 / sqrt(n), 1 / sqrt(n)) for weights and biases, as torch's `reset_parameters`, but from `generator`."""
    for module in _weighted(model):
        bound = 1.0 / math.sqrt(module.weight[0].numel())
        torch.nn.init.uniform_(module.weight, -bound, bound, generator=generator)
        if module.bias is not None:
            torch.nn.init.uniform_(module.bias, -bound, bound, generator=generator)


INITIALISATIONS = {"variance_scaling": variance_scaling, "torch": torch_default}


def _weighted(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
