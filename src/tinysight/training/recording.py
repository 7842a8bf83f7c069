"""Distributions of layers' activations during a training (Wu et al. 2017, section 4.3).

On the steps that are due, hooks take statistics of a layer's output, of this process's shard, and a
sample of it, without waiting for the device; they move to the host when the log is written.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

QUANTITIES = ("max", "mean", "std", "min", "sparsity")
# values of a layer in a histogram; all of them would cost twenty times as much
SAMPLE = 16_384


@dataclass(frozen=True)
class Recorded:
    """One layer at one step: statistics by name, and a sample of its values (n,) on the host."""

    step: int
    layer: str
    statistics: dict[str, float]
    sample: Tensor


class Recorder:
    """Record `layers` of a model, named as in `model.named_modules()`, every `every` steps."""

    def __init__(self, model: nn.Module, layers: Sequence[str], *, every: int) -> None:
        self._modules = {name: model.get_submodule(name) for name in layers}
        self._every = every
        self._waiting: list[tuple[int, str, Tensor, Tensor]] = []

    @contextmanager
    def watch(self, step: int) -> Iterator[None]:
        """Record the forward pass within, if the step is due; of two of a layer, the last."""
        if not self._modules or step % self._every:
            yield
            return
        found: dict[str, tuple[Tensor, Tensor]] = {}
        names = {module: name for name, module in self._modules.items()}

        def keep(module: nn.Module, _: object, output: object) -> None:
            if isinstance(output, Tensor):
                found[names[module]] = describe(output)

        hooks = [module.register_forward_hook(keep) for module in names]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self._waiting += [(step, name, *pair) for name, pair in found.items()]

    def take(self) -> list[Recorded]:
        """Return what was recorded since the last call, moved to the host."""
        waiting, self._waiting = self._waiting, []
        return [
            Recorded(step, layer, dict(zip(QUANTITIES, values.tolist(), strict=True)), sample.cpu())
            for step, layer, values, sample in waiting
        ]


@torch.no_grad()
def describe(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return maximum, mean, deviation, minimum and share of zeros (5,), and a sample (n,).

    The sample is evenly spaced, at most `SAMPLE` values; the statistics are of all values.
    """
    flat = values.detach().flatten().float()
    low, high = flat.aminmax()
    std, mean = torch.std_mean(flat, correction=0)
    zeros = (flat == 0).float().mean()
    stride = -(-len(flat) // SAMPLE)
    return torch.stack([high, mean, std, low, zeros]), flat[::stride].clone()


def check_layers(model: nn.Module, layers: Sequence[str]) -> None:
    """Raise ValueError, with the nearest names, for a layer that the model does not have."""
    known = [name for name, _ in model.named_modules() if name]
    for layer in layers:
        if layer not in known:
            close = difflib.get_close_matches(layer, known, n=3, cutoff=0.3) or known[-3:]
            what = f"train.record names {layer!r}, which the model does not have"
            raise ValueError(f"{what}; near it are {', '.join(close)}")
