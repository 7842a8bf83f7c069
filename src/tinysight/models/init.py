"""Starting weights of convolutions and linear layers, drawn from a generator that the caller
passes.

Batch norms start as torch makes them (scale 1, shift 0), and so do the slopes of a PReLU (0.25).
"""

from __future__ import annotations

import math

import torch
from torch import nn


def variance_scaling(model: nn.Module, *, generator: torch.Generator) -> None:
    """Draw every convolution's and linear layer's weights from N(0, 2 / n), n the inputs of one
    output; biases 0.

    Source: He et al. 2015 (arXiv:1502.01852), as Wu et al. 2017, section 4.5, states it.
    """
    for module in _weighted(model):
        fan_in = module.weight[0].numel()
        torch.nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_in), generator=generator)
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)


def xavier(model: nn.Module, *, generator: torch.Generator) -> None:
    """Draw every convolution's and linear layer's weights from U(-1 / sqrt(n + m), 1 / sqrt(n +
    m)); biases 0.

    n is the inputs of one output and m the outputs that one input reaches at stride 1, the kernel's
    area included in both: for a convolution n = in x k x k and m = out x k x k, for a linear layer
    its two widths.

    Source: Wu et al. 2017, section 4.5. This is narrower by sqrt(6) than Glorot and Bengio 2010,
    whose bound sqrt(6 / (n + m)) torch's `xavier_uniform_` has: the variance is 1 / (3 (n + m))
    and not 2 / (n + m)."""
    for module in _weighted(model):
        weight = module.weight
        fan_in, fan_out = weight[0].numel(), weight[:, 0].numel()
        bound = 1.0 / math.sqrt(fan_in + fan_out)
        torch.nn.init.uniform_(weight, -bound, bound, generator=generator)
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)


def torch_default(model: nn.Module, *, generator: torch.Generator) -> None:
    """Draw U(-1 / sqrt(n), 1 / sqrt(n)) for weights and biases, as torch's `reset_parameters`, but
    from `generator`.
    """
    for module in _weighted(model):
        bound = 1.0 / math.sqrt(module.weight[0].numel())
        torch.nn.init.uniform_(module.weight, -bound, bound, generator=generator)
        if module.bias is not None:
            torch.nn.init.uniform_(module.bias, -bound, bound, generator=generator)


INITIALIZATIONS = {"variance_scaling": variance_scaling, "xavier": xavier, "torch": torch_default}


def _weighted(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
