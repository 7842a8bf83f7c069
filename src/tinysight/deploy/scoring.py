"""From stored pixels to logits and boxes, the one way, which evaluation and prediction share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinysight.device import Placement
from tinysight.models.localiser import Localiser
from tinysight.ops import augment
from tinysight.ops.candidates import decode, suppress
from tinysight.ops.resize import resize

MOST_BOXES = 32  # kept an image, whatever their confidence: metrics need those below the threshold, too


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How candidates become boxes; the fields are those of a run's `localise` section."""

    image_size: int  # of the training images, stored pixels
    decoding: str
    threshold: float
    suppression: float


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is said of B images: logits (B, K), boxes (B, M, 4) in stored pixels by falling confidence (B, M)."""

    logits: Tensor
    boxes: Tensor
    confidence: Tensor


def centre_views(images: Tensor, *, crop: int, size: int, placement: Placement) -> Tensor:
    """Images uint8 (B, S, S, 3) -> what the network sees, (B, 3, size, size) in 0..255 on its device."""
    images = images.to(placement.device, non_blocking=True)
    draws = augment.centre(len(images), source_size=images.shape[1], crop=crop).to(placement.device)
    return resize(augment.apply(images, draws, crop=crop), size)


@torch.no_grad()
def score(
    model: nn.Module, images: Tensor, *, crop: int, size: int, flip_average: bool, placement: Placement
) -> Tensor:
    """Images uint8 (B, S, S, 3) -> logits float32 (B, K) on the model's device.

    With `flip_average` they are the mean over the image and its mirror image.
    """
    views = centre_views(images, crop=crop, size=size, placement=placement)
    if isinstance(model, Localiser):
        model = model.encoder
    with placement.autocast():
        logits: Tensor = model(views).float()
        if flip_average:
            logits = (logits + model(views.flip(-1)).float()) / 2
    return logits


@torch.no_grad()
def find(
    model: Localiser, images: Tensor, *, size: int, flip_average: bool, decoding: Decoding, placement: Placement
) -> Finding:
    """Name and find what is in images uint8 (B, S, S, 3), S any size: a canvas of more pixels is not shrunk.

    With `flip_average` the logits are the mean over the image and its mirror image; the boxes are the image's own.

    Args:
        size: what the network sees of `decoding.image_size` stored pixels.
    """
    side = images.shape[1]
    sides = side / decoding.image_size
    views = centre_views(images, crop=side, size=max(1, round(size * sides)), placement=placement)
    with placement.autocast():
        logits, candidates = model(views, sides, sides)
        logits = logits.float()
        if flip_average:
            logits = (logits + model.encoder(views.flip(-1)).float()) / 2
    boxes, confidence = decode(
        candidates, side=decoding.image_size, height=side, width=side, decoding=decoding.decoding
    )
    boxes, confidence = suppress(boxes, confidence, overlap=decoding.suppression, most=MOST_BOXES)
    return Finding(logits=logits, boxes=boxes, confidence=confidence)
