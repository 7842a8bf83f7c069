"""A trained model computed by torch: preprocessing, classification and detection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tinysight.device import Runtime
from tinysight.models.localizer import Localizer
from tinysight.ops import augment
from tinysight.ops.boxes import Detections, decode, flip_averaged, nms
from tinysight.predict.decoding import MAX_DETECTIONS, Decoding, Outputs, UInt8
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.weights import load_weights

MAX_CANVAS = 2048  # pixels per side: memory grows with its square
CPU = Runtime(device=torch.device("cpu"), bf16=False)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How square uint8 images become a network's input, in training, evaluation and prediction."""

    image_size: int  # of the images
    crop: int  # of the center window
    input_size: int  # that the window is resized to
    flip_average: bool  # average the logits of the image and its mirror image

    @classmethod
    def of(cls, metadata: ModelMetadata) -> Preprocessing:
        """Return the preprocessing that a model was trained for."""
        return cls(**{name: getattr(metadata, name) for name in cls.__dataclass_fields__})

    def center(self, images: Tensor, runtime: Runtime) -> Tensor:
        """Images uint8 (B, S, S, 3) -> center windows (B, 3, input, input) on the device."""
        return self._resized(images, self.crop, self.input_size, runtime)

    def full(self, images: Tensor, runtime: Runtime) -> Tensor:
        """Uncropped images, of any S: more pixels than `image_size` make a larger input."""
        side = images.shape[1]
        size = max(1, round(self.input_size * (side / self.image_size)))
        return self._resized(images, side, size, runtime)

    @staticmethod
    def _resized(images: Tensor, crop: int, size: int, runtime: Runtime) -> Tensor:
        images = images.to(runtime.device, non_blocking=True)
        params = augment.center(len(images), source_size=images.shape[1], crop=crop)
        return augment.resize(augment.apply(images, params.to(runtime.device), crop=crop), size)


@torch.no_grad()
def classify(
    model: nn.Module, images: Tensor, preprocessing: Preprocessing, runtime: Runtime
) -> Tensor:
    """Images uint8 (B, S, S, 3) -> logits float32 (B, K) on the model's device."""
    views = preprocessing.center(images, runtime)
    model = model.encoder if isinstance(model, Localizer) else model
    with runtime.autocast():
        logits: Tensor = model(views).float()
        if preprocessing.flip_average:
            logits = (logits + model(views.flip(-1)).float()) / 2
    return logits


@torch.no_grad()
def detect(
    model: Localizer,
    images: Tensor,
    preprocessing: Preprocessing,
    decoding: Decoding,
    runtime: Runtime,
) -> tuple[Tensor, Detections]:
    """Images uint8 (B, S, S, 3), of any S -> logits (B, K) and boxes in pixels of the images.

    With `flip_average` the logits are the mean over the image and its mirror image, and so are the
    candidates of a head with one box per cell.
    """
    side = images.shape[1]
    ratio = side / preprocessing.image_size
    views = preprocessing.full(images, runtime)
    with runtime.autocast():
        logits, candidates = model(views, ratio, ratio)
        logits = logits.float()
        if preprocessing.flip_average:
            if candidates.logits.shape[-1] == 1:
                mirrored, others = model(views.flip(-1), ratio, ratio)
                candidates = flip_averaged(candidates, others, width=ratio)
            else:
                mirrored = model.encoder(views.flip(-1))
            logits = (logits + mirrored.float()) / 2
    size, rule = preprocessing.image_size, decoding.decoding
    detections = decode(candidates, side=size, height=side, width=side, decoding=rule)
    return logits, nms(detections, max_iou=decoding.nms_iou, max_boxes=MAX_DETECTIONS)


class Network:
    """A model of a weights file on a device."""

    def __init__(self, path: Path, runtime: Runtime | None = None) -> None:
        self.runtime = runtime or CPU
        model, self.metadata = load_weights(path)
        model.to(self.runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.localizer = model if isinstance(model, Localizer) else None
        self.model: Any = model.encoder if isinstance(model, Localizer) else model  # the classifier
        self.preprocessing, self.max_side = Preprocessing.of(self.metadata), MAX_CANVAS

    def logits(self, images: UInt8) -> Tensor:
        """Images (B, S, S, 3), S the metadata's image_size -> the classifier's logits (B, K)."""
        return classify(self.model, _tensor(images), self.preprocessing, self.runtime)

    def views(self, images: UInt8) -> Tensor:
        """Images (B, S, S, 3), S the metadata's image_size -> the classifier's input, in 0..255."""
        return self.preprocessing.center(_tensor(images), self.runtime)

    def __call__(self, images: UInt8, decoding: Decoding | None) -> Outputs:
        """Images (B, S, S, 3), of a localizer of any S -> what the model computes for them."""
        if self.localizer is None or decoding is None:
            return Outputs(self.logits(images).cpu().numpy())
        how = (self.preprocessing, decoding, self.runtime)
        logits, found = detect(self.localizer, _tensor(images), *how)
        boxes, confidence = found.boxes.cpu().numpy(), found.confidence.cpu().numpy()
        labels = None if found.labels is None else found.labels.cpu().numpy()
        return Outputs(logits.cpu().numpy(), boxes, confidence, labels)


def _tensor(images: UInt8) -> Tensor:
    return torch.from_numpy(np.array(images))  # a copy: torch warns of arrays that are read-only
