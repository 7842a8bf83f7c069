"""Settings that a person changes: refused where another setting leaves them without an effect."""

from __future__ import annotations

from typing import Any

from tinysight.config import Config, override

# setting, or section: the setting that decides, and the values of it that use the first
USED_WITH: dict[str, tuple[str, tuple[Any, ...]]] = {
    "optimizer.momentum": ("optimizer.name", ("sgd", "muon", "rmsprop")),
    "optimizer.nesterov": ("optimizer.name", ("sgd", "muon")),
    "optimizer.sgd_ratio": ("optimizer.name", ("muon",)),
    "optimizer.decay": ("optimizer.name", ("rmsprop",)),
    "optimizer.betas": ("optimizer.name", ("adam",)),
    "optimizer.epsilon": ("optimizer.name", ("adam", "rmsprop")),
    "schedule.factor": ("schedule.name", ("plateau", "exponential")),
    "schedule.patience": ("schedule.name", ("plateau",)),
    "schedule.cycles": ("schedule.name", ("cyclic",)),
    "localizer": ("localizer.head", ("mlp", "lstm", "centernet")),
    "localizer.num_steps": ("localizer.head", ("lstm",)),
    "localizer.feedback": ("localizer.head", ("lstm",)),
    "localizer.shared": ("localizer.head", ("lstm",)),
}


def change(config: Config, changes: dict[str, Any]) -> Config:
    """Return `override(config, changes)`; raise ValueError where a change would have no effect."""
    changed = override(config, changes)
    for name in changes:
        for key in (name.partition(".")[0], name):
            deciding, values = USED_WITH.get(key, ("", ()))
            if not deciding or name == deciding:
                continue
            section, _, field = deciding.partition(".")
            value = getattr(getattr(changed, section), field)
            if value not in values:
                raise ValueError(
                    f"{name} has no effect with {deciding}={value}; set {deciding} to "
                    f"{' or '.join(values)}, or leave {name} out"
                )
    return changed
