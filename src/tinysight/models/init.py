"""Initial weights of convolutions and linear layers, drawn from the given generator.

Batch norms keep torch's initial values (scale 1, shift 0), and so do the slopes of a PReLU (0.25).
"""

from __future__ import annotations

import math

from torch import Generator, nn
from torch.nn import init


def variance_scaling(model: nn.Module, *, generator: Generator) -> None:
    """Draw weights from N(0, 2 / n), n the inputs of one output; biases 0.

    Source: He et al. 2015 (arXiv:1502.01852), as Wu et al. 2017, section 4.5, states it.
    """
    for layer in _weighted(model):
        init.normal_(layer.weight, 0.0, math.sqrt(2 / layer.weight[0].numel()), generator=generator)
        if layer.bias is not None:
            init.zeros_(layer.bias)


def xavier(model: nn.Module, *, generator: Generator) -> None:
    """Draw weights from U(-1 / sqrt(n + m), 1 / sqrt(n + m)); biases 0.

    n and m are the layer's inputs and outputs times the kernel's area. Source: Wu et al. 2017,
    section 4.5; narrower by sqrt(6) than Glorot and Bengio 2010, which is `xavier_uniform_`.
    """
    for layer in _weighted(model):
        bound = 1 / math.sqrt(layer.weight[0].numel() + layer.weight[:, 0].numel())
        init.uniform_(layer.weight, -bound, bound, generator=generator)
        if layer.bias is not None:
            init.zeros_(layer.bias)


def torch_default(model: nn.Module, *, generator: Generator) -> None:
    """Draw weights and biases from U(-1 / sqrt(n), 1 / sqrt(n)), as `reset_parameters` does."""
    for layer in _weighted(model):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        init.uniform_(layer.weight, -bound, bound, generator=generator)
        if layer.bias is not None:
            init.uniform_(layer.bias, -bound, bound, generator=generator)


INITIALIZATIONS = {"variance_scaling": variance_scaling, "xavier": xavier, "torch": torch_default}


def _weighted(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
