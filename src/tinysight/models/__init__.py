"""Image classifiers by name."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from tinysight.files import suggest
from tinysight.models.classifier import Classifier, check_option
from tinysight.models.distance_head import DistanceHead
from tinysight.models.efficientnet import EfficientNetLite
from tinysight.models.imagenet_resnet import ImageNetResNet
from tinysight.models.inception_resnet import InceptionResNet
from tinysight.models.resnet import ResNet
from tinysight.models.vgg import VGG

MODELS: dict[str, type[Classifier]] = {
    "efficientnet_lite": EfficientNetLite,
    "imagenet_resnet": ImageNetResNet,
    "inception_resnet": InceptionResNet,
    "resnet": ResNet,
    "vgg": VGG,
}

_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def create_model(name: str, num_classes: int, /, **options: Any) -> Classifier:
    """Create a model with torch's default weights; see `models.init` for others.

    An option of every model is `head`, "linear" (the model's own) or "distances" (`DistanceHead`).
    Raises ValueError when the name or an option is unknown, or a value is not allowed.
    """
    head = options.pop("head", "linear")
    check_option("head", head, head in ("linear", "distances"), "linear, distances")
    if name not in MODELS:
        raise ValueError(f"no model is named {name!r}; {suggest(name, MODELS, cutoff=0.3)}")
    parameters = inspect.signature(MODELS[name]).parameters
    known = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"model {name} has no option {option!r}; there are {', '.join(known)}")
        if not _is_like(value, known[option]):
            expected = _EXPECTED.get(type(known[option]), "whole numbers with commas between")
            raise ValueError(f"model.options.{option} is {value!r}; expected {expected}")
    model = MODELS[name](num_classes, **options)  # type: ignore[call-arg]
    if head == "distances":
        model.head = DistanceHead(model.num_features, num_classes)
    return model


def _is_like(value: Any, default: Any) -> bool:
    """Return whether a value has the type of its default; of a tuple each item."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_is_like(item, default[0]) for item in value)
    return type(value) is type(default) or (type(default) is float and type(value) is int)


def count_parameters(model: nn.Module) -> int:
    """Count the trainable values."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def num_parameters(name: str, num_classes: int, options: dict[str, Any]) -> int:
    """Count the trainable values of a model without the memory and time of creating it."""
    with torch.device("meta"):
        return count_parameters(create_model(name, num_classes, **options))


def count_multiply_adds(model: nn.Module, size: int) -> int:
    """Count the multiply-adds of convolutions, linear layers and LSTMs for one image (3, S, S)."""
    total = 0

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        nonlocal total
        if isinstance(module, nn.LSTMCell):  # a head's, for all cells of the image at once
            weights = module.weight_ih.numel() + module.weight_hh.numel()
            total += len(output[0]) * weights
            return
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += output.numel() * module.weight[0].numel()

    counted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.LSTMCell)]
    hooks = [module.register_forward_hook(note) for module in counted]
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
