"""One random operation of random strength an image, after TrivialAugment (Müller and Hutter 2021,
arXiv:2103.10158).

The operations are those of its wide space that need no histogram and no shear: nothing,
brightness, contrast, color, sharpness, posterize, solarize; shift left or right, shift up or
down, rotate. The three of geometry go into the one resampling of `ops.augment`; the others
change the pixels afterwards, each a blend between the image and a degenerate one or a table of
values, so that a batch takes a few passes whatever was drawn. Strengths are uniform, not 31
steps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tinysight.ops.augment import TransformParams
from tinysight.ops.tensor_rows import TensorRows

OPERATIONS = (
    *("nothing", "brightness", "contrast", "color", "sharpness", "posterize", "solarize"),
    *("shift_x", "shift_y", "rotate"),
)
STRONGEST_BLEND = 0.99  # a factor of 1 - that to 1 + that
STRONGEST_SHIFT = 0.5  # share of the image's side
STRONGEST_ANGLE = 135.0  # degrees
FEWEST_BITS = 2
GRAY = (0.299, 0.587, 0.114)  # ITU-R 601-2 luma


@dataclass(frozen=True)
class TrivialAugmentParams(TensorRows):
    """What happens to each of N images."""

    operation: Tensor  # int64 (N,): its place in OPERATIONS
    strength: Tensor  # float32 (N,) in -1..1


def draw(count: int, *, generator: torch.Generator) -> TrivialAugmentParams:
    """Draw an operation and its strength for each of `count` images, on the CPU."""
    uniform = torch.rand(2, count, generator=generator)
    operation = (uniform[0] * len(OPERATIONS)).long().clamp_(max=len(OPERATIONS) - 1)
    return TrivialAugmentParams(operation=operation, strength=2 * uniform[1] - 1)


def add_geometry(
    draws: TransformParams, trivial: TrivialAugmentParams, *, size: int
) -> TransformParams:
    """Return draws that also shift (by whole pixels of `size`) and rotate as `trivial` says."""
    pixels = (trivial.strength * STRONGEST_SHIFT * size).round()
    return dataclasses.replace(
        draws,
        shift_x=draws.shift_x + torch.where(_is(trivial, "shift_x"), pixels, 0.0),
        shift_y=draws.shift_y + torch.where(_is(trivial, "shift_y"), pixels, 0.0),
        angle=draws.angle
        + torch.where(_is(trivial, "rotate"), trivial.strength * STRONGEST_ANGLE, 0.0),
    )


def apply_tone(images: Tensor, trivial: TrivialAugmentParams) -> Tensor:
    """Change the pixels of float images (B, 3, H, W) in 0..255 as `trivial` says; the same shape,
    in 0..255.

    Every image goes through the same passes, so that on a CUDA device nothing waits for the host.
    """
    red, green, blue = images.unbind(1)
    gray = (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue)[:, None]
    degenerate = torch.where(_wide(trivial, "color"), gray, images)
    degenerate = torch.where(
        _wide(trivial, "contrast"), gray.mean(dim=(2, 3), keepdim=True), degenerate
    )
    degenerate = torch.where(_wide(trivial, "brightness"), 0.0, degenerate)
    degenerate = torch.where(_wide(trivial, "sharpness"), _smooth(images), degenerate)
    factor = 1 + STRONGEST_BLEND * trivial.strength[:, None, None, None]
    blended = (degenerate + (images - degenerate) * factor).clamp_(0, 255)
    changed = torch.where(degenerate == images, images, blended)

    amount = trivial.strength.abs()[:, None, None, None]
    step = 2.0 ** (amount * (8 - FEWEST_BITS)).round()  # posterize: 8 down to FEWEST_BITS bits
    changed = torch.where(_wide(trivial, "posterize"), (images / step).floor() * step, changed)
    threshold = 256 * (1 - amount)
    inverted = torch.where(images >= threshold, 255 - images, images)
    return torch.where(_wide(trivial, "solarize"), inverted, changed)


def _smooth(images: Tensor) -> Tensor:
    """Blur by the 3x3 kernel (1 1 1 / 1 5 1 / 1 1 1) / 13, as Pillow's SMOOTH does; the outermost
    pixels stay.
    """
    kernel = torch.ones(3, 1, 3, 3, device=images.device) / 13
    kernel[:, :, 1, 1] = 5 / 13
    smooth = images.clone()
    if min(images.shape[-2:]) > 2:
        smooth[:, :, 1:-1, 1:-1] = F.conv2d(images, kernel, groups=3)
    return smooth


def _is(trivial: TrivialAugmentParams, name: str) -> Tensor:
    return trivial.operation == OPERATIONS.index(name)


def _wide(trivial: TrivialAugmentParams, name: str) -> Tensor:
    return _is(trivial, name)[:, None, None, None]
