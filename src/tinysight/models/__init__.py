"""The networks, by name: images (B, 3, H, W) in 0..255 -> logits (B, K).

Each has `forward_features`, images to a map of features, `forward_head`, that map to logits, and
`num_features`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tinysight.models.inception_resnet import InceptionResNet
from tinysight.models.resnet import ResNet
from tinysight.models.vgg import VGG

MODELS: dict[str, Callable[..., nn.Module]] = {
    "inception_resnet": InceptionResNet,
    "resnet": ResNet,
    "vgg": VGG,
}


def build(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    """Build a model; raise ValueError for an unknown name or option, with the nearest one that
    exists.
    """
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.3)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"no model is named {name!r}; {hint}there are {', '.join(MODELS)}")
    known = {
        n: p
        for n, p in inspect.signature(MODELS[name]).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"model {name} has no option {option!r}; there are {', '.join(known)}")
        default = known[option].default
        if not _is_like(value, default):
            raise ValueError(
                f"model.options.{option} is {value!r}; expected a value like {default!r}"
            )
    return MODELS[name](num_classes, **options)


def _is_like(value: Any, default: Any) -> bool:
    """Whether an option's value has its default's type; a tuple's items the type of the default's
    first item.
    """
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_is_like(item, default[0]) for item in value)
    return type(value) is type(default) or (type(default) is float and type(value) is int)


def count_parameters(model: nn.Module) -> int:
    """Count the trainable values."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def num_parameters(name: str, num_classes: int, options: dict[str, Any]) -> int:
    """Count a model's trainable values without the memory and time of making it."""
    with torch.device("meta"):
        return count_parameters(build(name, num_classes, options))


def count_multiply_adds(model: nn.Module, size: int) -> int:
    """Count the multiply-adds of convolutions and linear layers in one image's forward pass at (3,
    size, size).
    """
    total = 0

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += output[0].numel() * module.weight[0].numel()

    hooks = [
        m.register_forward_hook(note)
        for m in model.modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    was_training = model.training
    try:
        with torch.no_grad():
            parameter = next(model.parameters())
            model.eval()(torch.zeros(1, 3, size, size, device=parameter.device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return total
