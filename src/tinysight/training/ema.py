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
        pairs = list(
            zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)
        )
        self._floating = [pair for pair in pairs if pair[0].is_floating_point()]
        self._integers = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after the model's step number `step` (from 0)."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        averages, values = map(list, zip(*self._floating, strict=True))
        torch._foreach_lerp_(averages, values, weight)
        if self._integers:
            copies, values = map(list, zip(*self._integers, strict=True))
            torch._foreach_copy_(copies, values)
