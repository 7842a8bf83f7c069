"""Mosaics: four images, shrunken, on one canvas of the training size, with all their boxes.

They teach several objects from images with one box each (the four-image mosaic of Bochkovskiy et
al. 2020, arXiv:2004.10934, section 3.4). A canvas is divided at a random point into four windows;
each is filled with an image, shrunken until it just covers the window, and cut at its edges; no
pixel is invented and no shape changed. Random parameters are sampled apart from applying them.

The four images of image i are those of its group i // 4 of the batch, in turn, beginning with its
own: as random as a permutation, as batches are in random order, and independent of how many
processes share a batch. An incomplete group at the end of a batch stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tinysight.ops.boxes import area
from tinysight.ops.tensor_rows import TensorRows

GROUP = 4
CENTER = (0.3, 0.7)  # range of the point that divides a canvas, in shares of its sides


@dataclass(frozen=True)
class MosaicParams(TensorRows):
    """How each of N images becomes a mosaic, if it does."""

    used: Tensor  # bool (N,)
    center: Tensor  # float32 (N, 2): the dividing point (x, y), in shares of the sides
    # float32 (N, 4, 2): which part (x, y) of each image is seen, from 0, the first, to 1, the last
    part: Tensor


def sample(count: int, *, generator: torch.Generator, probability: float) -> MosaicParams:
    """Sample mosaics of `count` images, on the CPU; each is one with `probability`."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}: give a share from 0 to 1")
    uniform = torch.rand(count, 3 + 2 * GROUP, generator=generator)
    low, high = CENTER
    center, part = low + (high - low) * uniform[:, 1:3], uniform[:, 3:].reshape(count, GROUP, 2)
    return MosaicParams(used=uniform[:, 0] < probability, center=center, part=part)


def apply(images: Tensor, params: MosaicParams) -> Tensor:
    """Make mosaics of float images (B, 3, S, S); those that are not are unchanged.

    Antialiased; differs with nothing but the group's images and the image's own parameters.
    """
    used, partners = _used(params), _partners(len(images), images.device)
    size = images.shape[-1]
    across, down = _windows(params, size)
    # Products with the matrices of resampling, zero outside of the window: the sum is the mosaic.
    columns, rows = _resampling(*across, size), _resampling(*down, size)
    own = images.contiguous()[partners]
    joined = torch.einsum("bjyh,bjchw,bjxw->bcyx", rows, own, columns)
    output = torch.where(used[:, None, None, None], joined, images)
    return output.contiguous(memory_format=torch.channels_last)


def apply_to_boxes(
    boxes: Tensor, kept: Tensor, params: MosaicParams, *, size: int
) -> tuple[Tensor, Tensor]:
    """Move boxes (B, N, 4) with their images: (B, 4 N, 4), and the shares kept of each (B, 4 N).

    `kept` (B, N) are the shares before; boxes are clipped to their window. Padding of NaN stays so,
    with a share of 0. The boxes of an image that is not a mosaic come first, unchanged.
    """
    used, partners = _used(params)[:, None, None], _partners(len(boxes), boxes.device)
    (start, stop, scale, first), own = zip(*_windows(params, size), strict=True), boxes[partners]
    near, far = torch.stack(start, -1)[:, :, None], torch.stack(stop, -1)[:, :, None]
    scales, origin = torch.stack(scale, -1)[:, :, None], torch.stack(first, -1)[:, :, None]
    corners = [(own[..., part] - origin) * scales + near for part in (slice(2), slice(2, 4))]
    moved = torch.cat([corner.maximum(near).minimum(far) for corner in corners], -1)
    before = area(torch.cat(corners, -1))
    shares = kept[partners] * torch.where(before > 0, area(moved) / before, 0.0)
    alone, of_alone = torch.full_like(moved, torch.nan), torch.zeros_like(shares)
    alone[:, 0], of_alone[:, 0] = boxes, kept
    moved, shares = torch.where(used[..., None], moved, alone), torch.where(used, shares, of_alone)
    return moved.flatten(1, 2), shares.flatten(1, 2)


def labels_of_boxes(labels: Tensor, params: MosaicParams) -> Tensor:
    """Return the labels (B, 4 N) of the boxes of `apply_to_boxes`, from those before (B, N)."""
    used, partners = _used(params)[:, None, None], _partners(len(labels), labels.device)
    alone = labels[:, None].expand(-1, GROUP, -1)
    return torch.where(used, labels[partners], alone).flatten(1)


def image_labels(labels: Tensor, params: MosaicParams) -> Tensor:
    """Return the labels (B,) of the images, -1 for a mosaic, which has none of its own."""
    return torch.where(_used(params), -1, labels)


def _used(params: MosaicParams) -> Tensor:
    """Return which images are mosaics: bool (B,); not those of an incomplete group."""
    complete = len(params) // GROUP * GROUP
    return params.used & (torch.arange(len(params), device=params.used.device) < complete)


def _partners(count: int, device: torch.device) -> Tensor:
    """Return the four images of each: int64 (B, 4)."""
    index = torch.arange(count, device=device)[:, None]
    partners = index // GROUP * GROUP + (index + torch.arange(GROUP, device=device)) % GROUP
    return torch.where(partners < count, partners, index)


Axis = tuple[Tensor, Tensor, Tensor, Tensor]  # start, stop, scale and first source pixel, (B, 4)


def _windows(params: MosaicParams, size: int) -> tuple[Axis, Axis]:
    """Return the four windows across and down, in pixels, whole; left to right, then down."""
    x, y = (params.center * size).round().unbind(-1)  # (B,)
    zero, full = torch.zeros_like(x), torch.full_like(x, size)
    left, right = torch.stack((zero, x, zero, x), -1), torch.stack((x, full, x, full), -1)
    top, bottom = torch.stack((zero, zero, y, y), -1), torch.stack((y, y, full, full), -1)
    width, height = right - left, bottom - top
    scale = torch.maximum(width, height) / size  # the image covers its window
    part_x, part_y = params.part.unbind(-1)
    return (left, right, scale, part_x * (size - width / scale)), (
        *(top, bottom, scale),
        part_y * (size - height / scale),
    )


def _resampling(start: Tensor, stop: Tensor, scale: Tensor, first: Tensor, size: int) -> Tensor:
    """Return the weights (B, 4, size, size) of source pixels in each output pixel of an axis.

    Triangular filters as wide as an output pixel, which is 1 / `scale` source pixels.
    """
    pixels = torch.arange(size, device=start.device) + 0.5
    start, stop, scale, first = (v[..., None, None] for v in (start, stop, scale, first))
    source = (pixels[:, None] - start) / scale + first  # (B, 4, size, 1)
    weights = (1 - (source - pixels).abs() * scale).clamp_min(0)
    inside = (pixels[:, None] > start) & (pixels[:, None] < stop)
    total = weights.sum(-1, keepdim=True)
    return torch.where(inside, weights / total.clamp_min(1e-6), 0.0)
