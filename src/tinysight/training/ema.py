"""Averaged weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """An exponential moving average of `model`'s parameters and buffers.

    The decay warms up as (1 + t) / (10 + t), so that the random start is soon forgotten. Buffers
    (batch norm's statistics) are averaged, too; integers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average after the model's step number `step` (from 0)."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        shadow, current = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in shadow.items() if value.is_floating_point()]
        averages, values = ([state[name] for name in floating] for state in (shadow, current))
        torch._foreach_lerp_(averages, values, weight)
        for name in shadow.keys() - set(floating):
            shadow[name].copy_(current[name])
