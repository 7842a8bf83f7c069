"""One random operation of random strength per image, after TrivialAugment.

Source: Müller and Hutter 2021, arXiv:2103.10158. The operations are those of its wide space that
need no histogram and no shear: nothing, brightness, contrast, color, sharpness, posterize,
solarize; shift left or right, shift up or down, rotate. The three of geometry go into the one
resampling of `ops.augment`; the others change the pixels afterwards, each a blend between the image
and a degenerate one or a map of values, so that a batch takes a few passes whatever was sampled.
Strengths are uniform, not 31 steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from tinysight.ops.augment import TransformParams
from tinysight.ops.tensor_rows import TensorRows

OPERATIONS = (
    *("nothing", "brightness", "contrast", "color", "sharpness", "posterize", "solarize"),
    *("shift_x", "shift_y", "rotate"),
)
MAX_BLEND = 0.99  # factors are 1 minus that to 1 plus that
MAX_SHIFT = 0.5  # share of the image's side
MAX_ANGLE = 135.0  # degrees
MIN_BITS = 2
GRAY = (0.299, 0.587, 0.114)  # ITU-R 601-2 luma


@dataclass(frozen=True)
class TrivialAugmentParams(TensorRows):
    """The operation of each of N images."""

    operation: Tensor  # int64 (N,): index into OPERATIONS
    strength: Tensor  # float32 (N,) in -1..1


def sample(count: int, *, generator: torch.Generator) -> TrivialAugmentParams:
    """Sample an operation and its strength for each of `count` images, on the CPU."""
    uniform = torch.rand(2, count, generator=generator)
    operation = (uniform[0] * len(OPERATIONS)).long().clamp_(max=len(OPERATIONS) - 1)
    return TrivialAugmentParams(operation=operation, strength=2 * uniform[1] - 1)


def add_geometry(
    transforms: TransformParams, params: TrivialAugmentParams, *, size: int
) -> TransformParams:
    """Return the transforms plus the shift (whole pixels of `size`) or rotation of `params`."""
    pixels = (params.strength * MAX_SHIFT * size).round()
    angle = params.strength * MAX_ANGLE
    return replace(
        transforms,
        shift_x=transforms.shift_x + torch.where(_is(params, "shift_x"), pixels, 0.0),
        shift_y=transforms.shift_y + torch.where(_is(params, "shift_y"), pixels, 0.0),
        angle=transforms.angle + torch.where(_is(params, "rotate"), angle, 0.0),
    )


def apply_tone(images: Tensor, params: TrivialAugmentParams) -> Tensor:
    """Apply the operations that are not geometry to float images (B, 3, H, W) in 0..255.

    Every image goes through the same passes, so that on a CUDA device nothing waits for the host.
    """

    def chosen(name: str) -> Tensor:
        return _is(params, name)[:, None, None, None]

    red, green, blue = images.unbind(1)
    gray = (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue)[:, None]
    degenerate = torch.where(chosen("color"), gray, images)
    mean_gray = gray.mean(dim=(2, 3), keepdim=True)
    degenerate = torch.where(chosen("contrast"), mean_gray, degenerate)
    degenerate = torch.where(chosen("brightness"), 0.0, degenerate)
    degenerate = torch.where(chosen("sharpness"), _smooth(images), degenerate)
    factor = 1 + MAX_BLEND * params.strength[:, None, None, None]
    blended = (degenerate + (images - degenerate) * factor).clamp_(0, 255)
    changed = torch.where(degenerate == images, images, blended)

    amount = params.strength.abs()[:, None, None, None]
    step = 2.0 ** (amount * (8 - MIN_BITS)).round()  # posterize: 8 down to MIN_BITS bits
    changed = torch.where(chosen("posterize"), (images / step).floor() * step, changed)
    threshold = 256 * (1 - amount)
    inverted = torch.where(images >= threshold, 255 - images, images)
    return torch.where(chosen("solarize"), inverted, changed)


def _smooth(images: Tensor) -> Tensor:
    """Blur by (1 1 1 / 1 5 1 / 1 1 1) / 13, as Pillow's SMOOTH; the outermost pixels stay."""
    kernel = torch.ones(3, 1, 3, 3, device=images.device) / 13
    kernel[:, :, 1, 1] = 5 / 13
    smooth = images.clone()
    if min(images.shape[-2:]) > 2:
        smooth[:, :, 1:-1, 1:-1] = F.conv2d(images, kernel, groups=3)
    return smooth


def _is(params: TrivialAugmentParams, name: str) -> Tensor:
    return params.operation == OPERATIONS.index(name)
