"""From stored pixels to logits, the one way: centre window, size, mirror image. Evaluation and prediction share it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinysight.device import Placement
from tinysight.ops import augment
from tinysight.ops.resize import resize


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
    with placement.autocast():
        logits: Tensor = model(views).float()
        if flip_average:
            logits = (logits + model(views.flip(-1)).float()) / 2
    return logits
