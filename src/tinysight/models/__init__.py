"""The networks, by name; each is images (B, 3, H, W) in 0..255 -> logits (B, K), with `forward_features` and `num_features`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from tinysight.models.resnet import ResNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet": ResNet,
}


def build(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    """Build a model; raise ValueError for an unknown name or option, with the nearest one that exists."""
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.3)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"no model is named {name!r}; {hint}there are {', '.join(MODELS)}")
    known = {n: p for n, p in inspect.signature(MODELS[name]).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"model {name} has no option {option!r}; there are {', '.join(known)}")
        default = known[option].default
        if type(value) is not type(default) and not (type(default) is float and type(value) is int):
            raise ValueError(f"model.options.{option} is {value!r}; expected a {type(default).__name__}, as {default!r}")
    return MODELS[name](num_classes, **options)


def count_parameters(model: nn.Module) -> int:
    """Count the trainable values."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
