"""Learning-rate schedules: a function of the step and, of the plateau, the monitored error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class LRSchedule:
    """The factor on the peak rate, by step; `observe` and `state` matter only to the plateau.

    "exponential" is `factor ** (step / epoch)` (Wu et al. 2017, equation 4); "plateau" multiplies
    by `factor` when an observation is not better, after `patience` such ones; "cyclic" is `cycles`
    cosines from 1 to 0, one after the other (Huang et al. 2017, arXiv:1704.00109).
    """

    name: str
    total: int  # steps of the training
    epoch: float = 1.0  # steps per epoch, not always an integer
    warmup: int = 0  # steps of linear growth before that
    factor: float = 0.1
    patience: int = 3
    cycles: int = 1
    scale: float = 1.0
    best: float = math.inf
    waited: int = 0

    def at(self, step: int) -> float:
        """Return the factor for the update that takes the training from `step` to `step + 1`."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        if self.name == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        if self.name == "linear":
            return 1.0 - progress
        if self.name == "exponential":
            return float(self.factor ** (step / self.epoch))
        if self.name == "cyclic":
            return 0.5 * (1.0 + math.cos(math.pi * (step * self.cycles % self.total) / self.total))
        return self.scale

    def observe(self, error: float) -> None:
        """Take into account the monitored error of an epoch."""
        if error < self.best:
            self.best, self.waited = error, 0
        else:
            self.waited += 1
        if self.waited > self.patience and self.name == "plateau":
            self.scale, self.waited = self.scale * self.factor, 0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        best = None if math.isinf(self.best) else self.best
        return {"scale": self.scale, "best": best, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore `state()`."""
        self.scale, self.waited = float(state["scale"]), int(state["waited"])
        self.best = math.inf if state["best"] is None else float(state["best"])
