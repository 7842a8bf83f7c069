"""Networks to take features from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from tinysight import models
from tinysight.models.classifier import Classifier, is_of_head
from tinysight.models.localizer import Localizer
from tinysight.predict.inference import Preprocessing
from tinysight.predict.pretrained import NAMES, read_pretrained
from tinysight.run import find_trained

# features of several last layers together beat the last one's by 1 to 3 points
NUM_FEATURES = {"resnet": 3, "efficientnet_lite": 2, "imagenet_resnet": 2}


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


def find_encoder(source: str | Path) -> Encoder:
    """Return the encoder of a run, by name or folder, or of what `read_pretrained` takes."""
    try:
        found = source if source in NAMES else find_trained(source)
    except ValueError as error:
        raise ValueError(f"{error}; or give auto, bundled or lite0") from None
    trained, metadata = read_pretrained(found)
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
