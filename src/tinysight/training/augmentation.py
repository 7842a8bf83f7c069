"""Training-time augmentation, as the config's `augment` section has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tinysight.config import AugmentConfig
from tinysight.ops import augment, mixing, mosaic, trivial_augment
from tinysight.ops.boxes import BoxTargets, to_cxcywh
from tinysight.ops.tensor_rows import TensorRows

ENTIRE = (0.5, 0.5, 1.0, 1.0)  # the box around an image, in shares of it
MIN_KEPT_SHARE = 0.5  # of a box's area in the window; a box that keeps less is dropped


@dataclass(frozen=True)
class AugmentParams(TensorRows):
    """Random parameters of N images, by method; None where the config does not use it."""

    draws: augment.TransformParams
    operations: trivial_augment.TrivialAugmentParams | None = None
    mixes: mixing.MixParams | None = None
    mosaics: mosaic.MosaicParams | None = None


class Augmented(NamedTuple):
    """Augmented images and what they are to be taken for."""

    images: Tensor  # float32 (B, 3, size, size)
    labels: Tensor  # (B,), -1 for a mosaic
    targets: mixing.Targets | None  # where images were mixed


def sample(
    count: int, *, settings: AugmentConfig, source_size: int, crop: int, generator: torch.Generator
) -> AugmentParams:
    """Draw the parameters of `count` images, on the CPU, from `generator`."""
    names = ("flip", "shift", "rotation", "contrast", "gamma", "zoom", "stretch", "probability")
    own: dict[str, Any] = {name: getattr(settings, name) for name in names}
    draws = augment.sample(count, source_size=source_size, crop=crop, generator=generator, **own)
    operations = mixes = mosaics = None
    if settings.trivial_augment:
        operations = trivial_augment.sample(count, generator=generator)
        draws = trivial_augment.add_geometry(draws, operations, size=crop)
    if settings.mixes:
        own = {"mixup": settings.mixup, "cutmix": settings.cutmix}
        own["probability"] = settings.mix_probability
        mixes = mixing.sample_mix(count, generator=generator, **own)
    if settings.mosaic:
        mosaics = mosaic.sample(count, generator=generator, probability=settings.mosaic)
    return AugmentParams(draws, operations, mixes, mosaics)


def apply(
    images: Tensor, labels: Tensor, params: AugmentParams, *, crop: int, size: int, mixing_on: bool
) -> Augmented:
    """Augment images uint8 (B, S, S, 3) with labels (B,).

    Cropped, moved and toned first, joined to mosaics, resized, then mixed at the network's size.
    """
    pixels = augment.apply(images, params.draws, crop=crop)
    if params.operations is not None:
        pixels = trivial_augment.apply_tone(pixels, params.operations)
    if params.mosaics is not None and mixing_on:
        pixels = mosaic.apply(pixels, params.mosaics)
        labels = mosaic.image_labels(labels, params.mosaics)
    pixels = augment.resize(pixels, size)
    if params.mixes is None or not mixing_on:
        return Augmented(pixels, labels, None)
    mixed, targets = mixing.mix(pixels, labels, params.mixes)
    return Augmented(mixed, targets.main, targets)


def apply_to_boxes(
    boxes: Tensor,
    params: AugmentParams,
    *,
    crop: int,
    mixing_on: bool = True,
    labels: Tensor | None = None,
) -> BoxTargets:
    """Move boxes (B, N, 4), NaN-padded, and their labels (B, N), if any, with their images.

    A box that keeps less than half of its area in the window is lost: what is left is neither an
    object nor background. So is a mixed image as a whole: nobody knows what boxes it has.
    """
    moved, kept = augment.apply_to_boxes(boxes, params.draws, crop=crop)
    if params.mosaics is not None and mixing_on:
        moved, kept = mosaic.apply_to_boxes(moved, kept, params.mosaics, size=crop)
        labels = None if labels is None else mosaic.labels_of_boxes(labels, params.mosaics)
    whole, shares = (kept >= MIN_KEPT_SHARE)[..., None], to_cxcywh(moved) / crop
    rest = ~whole & ~moved.isnan()  # padding keeps 0, too
    kept_boxes, lost = (torch.where(own, shares, torch.nan) for own in (whole, rest))
    if params.mixes is not None and mixing_on:
        mixed = params.mixes.mixed[:, None, None]
        kept_boxes = torch.where(mixed, torch.nan, kept_boxes)
        lost = torch.where(mixed, lost.new_tensor(ENTIRE), lost)
    return BoxTargets(kept_boxes, lost, labels)
