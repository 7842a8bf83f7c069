"""All that happens to a training image between the pack and the network, as a run's `augment`
section says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tinysight.config import AugmentConfig
from tinysight.ops import augment, mixing, trivial_augment
from tinysight.ops.boxes import to_cxcywh
from tinysight.ops.tensor_rows import TensorRows

LEAST_KEPT = 0.5  # share of its area that a box keeps, or it is no truth any more


@dataclass(frozen=True)
class AugmentParams(TensorRows):
    """The draws of N training images, by method; None where a run does not use it."""

    draws: augment.TransformParams
    operations: trivial_augment.TrivialAugmentParams | None = None
    erasures: mixing.EraseParams | None = None
    mixes: mixing.MixParams | None = None


def draw(
    count: int, *, settings: AugmentConfig, source_size: int, crop: int, generator: torch.Generator
) -> AugmentParams:
    """Draw what happens to each of `count` images, on the CPU, from `generator`."""
    draws = augment.sample(
        count,
        source_size=source_size,
        crop=crop,
        generator=generator,
        flip=settings.flip,
        shift=settings.shift,
        rotation=settings.rotation,
        contrast=settings.contrast,
        gamma=settings.gamma,
        probability=settings.probability,
    )
    operations = (
        trivial_augment.sample(count, generator=generator) if settings.trivial_augment else None
    )
    if operations is not None:
        draws = trivial_augment.add_geometry(draws, operations, size=crop)
    return AugmentParams(
        draws=draws,
        operations=operations,
        erasures=mixing.sample_erase(count, generator=generator, probability=settings.erase)
        if settings.erase
        else None,
        mixes=mixing.sample_mix(
            count,
            generator=generator,
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            probability=settings.mix_probability,
        )
        if settings.mixes
        else None,
    )


def apply(
    images: Tensor,
    labels: Tensor,
    treatment: AugmentParams,
    *,
    crop: int,
    size: int,
    mixing_on: bool,
) -> tuple[Tensor, mixing.Targets | None]:
    """Treat images uint8 (B, S, S, 3) with labels (B,): float32 (B, 3, size, size) and, where
    mixed, their targets.

    Cut, moved and toned first, resized, then erased and mixed at the size that the network sees.
    """
    pixels = augment.apply(images, treatment.draws, crop=crop)
    if treatment.operations is not None:
        pixels = trivial_augment.apply_tone(pixels, treatment.operations)
    pixels = augment.resize(pixels, size)
    if treatment.erasures is not None:
        pixels = mixing.erase(pixels, treatment.erasures)
    if treatment.mixes is None or not mixing_on:
        return pixels, None
    return mixing.mix(pixels, labels, treatment.mixes)


def apply_to_boxes(boxes: Tensor, treatment: AugmentParams, *, crop: int) -> tuple[Tensor, Tensor]:
    """Move boxes (B, N, 4), pixels padded with NaN, with their images: (B, N, 4) and whether all of
    an image's stay.

    The result is (center x, center y, width, height) in shares of the window. A box that keeps
    less than half of its area in the window is lost (NaN): what is left of it is neither an
    object nor none."""
    moved, kept = augment.apply_to_boxes(boxes, treatment.draws, crop=crop)
    lost = kept < LEAST_KEPT  # padding keeps 0, too
    whole = lost.sum(dim=1) == boxes.isnan().any(dim=-1).sum(dim=1)
    return torch.where(lost[..., None], torch.nan, to_cxcywh(moved) / crop), whole
