"""From stored pixels to logits and boxes, the one way, which evaluation and prediction share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinysight.device import Runtime
from tinysight.models.localizer import Localizer
from tinysight.ops import augment
from tinysight.ops.boxes import decode, nms

MAX_DETECTIONS = (
    32  # kept an image, whatever their confidence: metrics need those below the threshold, too
)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How candidates become boxes; the fields are those of a run's `localizer` section."""

    image_size: int  # of the training images, stored pixels
    decoding: str
    threshold: float
    nms_iou: float


@dataclass(frozen=True, kw_only=True)
class ImageDetections:
    """What is said of B images: logits (B, K), boxes (B, M, 4) in stored pixels by falling
    confidence (B, M).
    """

    logits: Tensor
    boxes: Tensor
    confidence: Tensor


def center_views(images: Tensor, *, crop: int, size: int, runtime: Runtime) -> Tensor:
    """Images uint8 (B, S, S, 3) -> what the network sees, (B, 3, size, size) in 0..255 on its
    device.
    """
    images = images.to(runtime.device, non_blocking=True)
    draws = augment.center(len(images), source_size=images.shape[1], crop=crop).to(runtime.device)
    return augment.resize(augment.apply(images, draws, crop=crop), size)


@torch.no_grad()
def score(
    model: nn.Module, images: Tensor, *, crop: int, size: int, flip_average: bool, runtime: Runtime
) -> Tensor:
    """Images uint8 (B, S, S, 3) -> logits float32 (B, K) on the model's device.

    With `flip_average` they are the mean over the image and its mirror image.
    """
    views = center_views(images, crop=crop, size=size, runtime=runtime)
    if isinstance(model, Localizer):
        model = model.encoder
    with runtime.autocast():
        logits: Tensor = model(views).float()
        if flip_average:
            logits = (logits + model(views.flip(-1)).float()) / 2
    return logits


@torch.no_grad()
def find(
    model: Localizer,
    images: Tensor,
    *,
    size: int,
    flip_average: bool,
    decoding: Decoding,
    runtime: Runtime,
) -> ImageDetections:
    """Name and find what is in images uint8 (B, S, S, 3), S any size: a canvas of more pixels is
    not shrunk.

    With `flip_average` the logits are the mean over the image and its mirror image; the boxes are
    the image's own.

    Args:
        size: what the network sees of `decoding.image_size` stored pixels.
    """
    side = images.shape[1]
    sides = side / decoding.image_size
    views = center_views(images, crop=side, size=max(1, round(size * sides)), runtime=runtime)
    with runtime.autocast():
        logits, candidates = model(views, sides, sides)
        logits = logits.float()
        if flip_average:
            logits = (logits + model.encoder(views.flip(-1)).float()) / 2
    found = decode(
        candidates, side=decoding.image_size, height=side, width=side, decoding=decoding.decoding
    )
    found = nms(found, max_iou=decoding.nms_iou, max_boxes=MAX_DETECTIONS)
    return ImageDetections(logits=logits, boxes=found.boxes, confidence=found.confidence)
