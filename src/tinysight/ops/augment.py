"""Augment a batch of images: the random draws apart from the arithmetic that applies them.

The six methods of Wu et al. 2017, section 3.1 and Fig. 1: a crop of 56 pixels (at random in
training, central in testing), horizontal flip, translation, rotation, contrast scaling and gamma
correction. "Every augmentation method is applied randomly to this image" is read as: each method
independently, to each image, with probability 0.5.

Where the report leaves room:

* Contrast scales about mid-gray, 127.5, not about the image's own mean. Both methods of tone then
  map a value to a value, so that together they are one table of 256 entries an image. Contrast
  comes first, clipped to [0, 255]; then gamma, 255 * (v / 255) ** gamma.
* Tone is applied to the source's pixels, before the geometry.
* No bounds are given for translation and rotation: 4 pixels and 10 degrees here.

Geometry is ONE resampling. In the order of what is seen: cut the crop window out of the source,
flip it, rotate it about its center (positive angles turn counter-clockwise), shift it (positive to
the right and down). All four compose into one affine map from an output pixel to a point of the
source, which is read by bilinear interpolation; what a rotation or a shift brings in is therefore
the source around the window, wherever it has any. Where an image is not rotated and moves by whole
pixels, source values come out exactly.

Beyond the source's edge its nearest pixel repeats: no straight black edge for a network to
learn. (Reflection would make the warp a third slower, for the few output pixels that lie
outside.)"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tinysight.ops import boxes as box_ops
from tinysight.ops.tensor_rows import TensorRows

MID_GRAY = 127.5
# Images worked on together on a CPU: the temporaries of 16 images stay in the second-level cache,
# where simple arithmetic runs three times as fast as on a whole batch. 8 to 32 measure alike.
_CHUNK = 16


@dataclasses.dataclass(frozen=True)
class TransformParams(TensorRows):
    """What happens to each of N images; every field is a tensor (N,), float32 but for `flip`.

    Neutral values (no flip, shift 0, angle 0, contrast 1, gamma 1) leave an image as it is, but
    for the crop."""

    offset_x: Tensor  # left column of the crop window in the source, whole pixels
    offset_y: Tensor  # its top row
    flip: Tensor  # bool: mirror left and right
    shift_x: Tensor  # pixels to the right, as seen in the output
    shift_y: Tensor  # pixels down
    angle: Tensor  # degrees counter-clockwise
    contrast: Tensor  # factor about mid-gray
    gamma: Tensor  # exponent on v / 255


def center(count: int, source_size: int, crop: int) -> TransformParams:
    """Return neutral draws for `count` images: the central crop window and nothing else."""
    _check_crop(source_size, crop)
    offset = torch.full((count,), float((source_size - crop) // 2))
    zero, one = torch.zeros(count), torch.ones(count)
    return TransformParams(
        offset, offset, torch.zeros(count, dtype=torch.bool), zero, zero, zero, one, one
    )


def draw(
    count: int,
    *,
    source_size: int,
    crop: int,
    generator: torch.Generator,
    flip: float = 0.5,
    shift: int = 4,
    rotation: float = 10.0,
    contrast: tuple[float, float] = (0.9, 1.08),
    gamma: tuple[float, float] = (0.9, 1.08),
    probability: float = 0.5,
) -> TransformParams:
    """Draw what happens to each of `count` square images, on the CPU, from `generator`.

    The crop window is uniform over the source. `flip` is the probability of a flip. Shift (whole
    pixels, from -shift to shift on each axis), rotation (degrees, U(-rotation, rotation)),
    contrast and gamma (uniform between their bounds) are each applied with `probability`. Every
    quantity owns a row of the random numbers, so turning one method off leaves the draws of all
    others as they were."""
    _check_crop(source_size, crop)
    _check_methods(flip, shift, rotation, contrast, gamma, probability)
    uniform = torch.rand(12, count, generator=generator)
    shifted, rotated, scaled, corrected = uniform[8:] < probability
    return TransformParams(
        offset_x=_whole(uniform[0], 0, source_size - crop),
        offset_y=_whole(uniform[1], 0, source_size - crop),
        flip=uniform[2] < flip,
        shift_x=torch.where(shifted, _whole(uniform[3], -shift, shift), 0.0),
        shift_y=torch.where(shifted, _whole(uniform[4], -shift, shift), 0.0),
        angle=torch.where(rotated, _between(uniform[5], -rotation, rotation), 0.0),
        contrast=torch.where(scaled, _between(uniform[6], *contrast), 1.0),
        gamma=torch.where(corrected, _between(uniform[7], *gamma), 1.0),
    )


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return uniform * (high - low) + low


def _whole(uniform: Tensor, low: int, high: int) -> Tensor:
    # The clamp matters once in millions: the largest number below 1, times a count, can round up to
    # the count.
    return (uniform * (high - low + 1)).floor_().clamp_(max=high - low).add_(low)


def _check_crop(source_size: int, crop: int) -> None:
    if not 1 <= crop <= source_size:
        raise ValueError(
            f"crop {crop} does not fit images of {source_size} pixels: choose 1 to {source_size}"
        )


def _check_methods(
    flip: float,
    shift: int,
    rotation: float,
    contrast: tuple[float, float],
    gamma: tuple[float, float],
    probability: float,
) -> None:
    for name, share in (("flip", flip), ("probability", probability)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}: give a probability from 0 to 1")
    for name, bound in (("shift", shift), ("rotation", rotation)):
        if not 0 <= bound < math.inf:
            raise ValueError(f"{name} is {bound}: give the largest amount, 0 or more")
    for name, (low, high) in (("contrast", contrast), ("gamma", gamma)):
        if not 0 < low <= high < math.inf:
            raise ValueError(
                f"{name} is ({low}, {high}): give two positive bounds, the lower one first"
            )


def adjust_contrast(values: Tensor, factor: Tensor) -> Tensor:
    """Scale float values in [0, 255] about mid-gray by `factor` (broadcast), clipped; a factor of 1
    changes nothing.
    """
    scaled = ((values - MID_GRAY) * factor).add_(MID_GRAY).clamp_(0, 255)
    return torch.where(factor == 1, values, scaled)


def adjust_gamma(values: Tensor, gamma: Tensor) -> Tensor:
    """Map float values in [0, 255] to 255 * (v / 255) ** gamma (broadcast); a gamma of 1 changes
    nothing.
    """
    # exp(gamma * log) takes a quarter of the time of pow on a CPU and is off by under 0.001; log(0)
    # gives 0, as due.
    raised = (values / 255).log_().mul(gamma).exp_().mul_(255)
    return torch.where(gamma == 1, values, raised)


def apply(images: Tensor, draws: TransformParams, *, crop: int) -> Tensor:
    """Augment images (B, H, W, 3) or (B, 3, H, W) in 0..255, uint8 or float, into float32 (B, 3,
    crop, crop) in 0..255.

    The output is channels_last for (B, H, W, 3) images, contiguous otherwise. An image's result
    depends on its own row alone. `draws` must lie on the images' device; on a CUDA device
    nothing waits for the host."""
    channels_last = images.shape[-1] == 3
    if images.dim() != 4 or not (channels_last or images.shape[1] == 3):
        raise ValueError(
            f"images have shape {tuple(images.shape)}: give (B, H, W, 3) or (B, 3, H, W)"
        )
    if len(draws) != images.shape[0]:
        raise ValueError(f"{len(draws)} draws for {images.shape[0]} images: give one an image")
    if draws.angle.device != images.device:
        raise ValueError(
            f"draws are on {draws.angle.device}, images on {images.device}: move the draws with .to()"
        )
    pixels = images if channels_last else images.permute(0, 2, 3, 1)
    if pixels.device.type == "cpu" and pixels.dtype == torch.uint8:
        augmented = _apply_in_groups(pixels.contiguous(), draws, crop)
    else:
        # The host looks at no row: all are read both ways, and those that move by whole pixels take
        # the exact one.
        source = _tone(pixels, draws)
        across, down = _source_axes(draws, crop, *pixels.shape[1:3])
        nearest, bilinear = (
            _sample(source, across, down, mode) for mode in ("nearest", "bilinear")
        )
        augmented = torch.where(_is_whole(draws)[:, None, None, None], nearest, bilinear)
    return augmented.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def _apply_in_groups(images: Tensor, draws: TransformParams, crop: int) -> Tensor:
    """Augment uint8 (B, H, W, 3) on the CPU, each image in the cheapest way that its geometry
    allows.
    """
    count, height, width, _ = images.shape
    tables = _tone_tables(draws)
    augmented = torch.empty(count, crop, crop, 3)
    whole = _is_whole(draws)
    left = draws.offset_x - torch.where(draws.flip, -draws.shift_x, draws.shift_x)
    top = draws.offset_y - draws.shift_y
    inside = whole & (left >= 0) & (left <= width - crop) & (top >= 0) & (top <= height - crop)

    if inside.any():
        # All windows of the batch, one at every pixel, as an overlapping view: to index it is to
        # cut.
        num_windows = count * height * width - (crop - 1) * width - crop + 1
        windows = images.as_strided((num_windows, crop, crop, 3), (3, 3 * width, 3, 1))
        starts = torch.arange(count) * (height * width) + top.long() * width + left.long()
        for flipped in (False, True):
            for rows in torch.split((inside & (draws.flip == flipped)).nonzero()[:, 0], _CHUNK):
                cut = windows.index_select(0, starts[rows])
                _place(_look_up(tables[rows], cut.flip(2) if flipped else cut), rows, augmented)
    for group, mode in ((whole & ~inside, "nearest"), (~whole, "bilinear")):
        group_rows = group.nonzero()[:, 0]
        across, down = _source_axes(draws[group_rows], crop, height, width)
        for start in range(0, len(group_rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            rows = group_rows[part]
            source = _look_up(tables[rows], images.index_select(0, rows))
            _place(
                _sample(source, across[:, part], down[:, part], mode).permute(0, 2, 3, 1),
                rows,
                augmented,
            )
    return augmented.permute(0, 3, 1, 2)


def _look_up(tables: Tensor, pixels: Tensor) -> Tensor:
    """Read bytes (n, ...) through the table (n, 256) of their image; faster on a CPU than gather's
    64-bit indices.
    """
    places = (
        pixels.flatten(1)
        .int()
        .add_(torch.arange(0, tables.numel(), 256, dtype=torch.int32)[:, None])
    )
    return tables.view(-1).index_select(0, places.view(-1)).view(pixels.shape)


def _place(images: Tensor, rows: Tensor, batch: Tensor) -> None:
    for row, image in zip(rows.tolist(), images, strict=True):  # half the time of index_copy_
        batch[row].copy_(image)


def _is_whole(draws: TransformParams) -> Tensor:
    """Tell, for each image (N,), whether every output pixel falls on exactly one source pixel."""
    whole = draws.angle == 0
    for moved in (draws.offset_x, draws.offset_y, draws.shift_x, draws.shift_y):
        whole = whole & (moved == moved.round())
    return whole


def _tone(pixels: Tensor, draws: TransformParams) -> Tensor:
    """Apply contrast and gamma to pixels (B, H, W, 3): float32 of the same shape."""
    if pixels.dtype == torch.uint8:
        return _tone_tables(draws).gather(1, pixels.flatten(1).long()).view(pixels.shape)
    contrast, gamma = draws.contrast[:, None, None, None], draws.gamma[:, None, None, None]
    return adjust_gamma(adjust_contrast(pixels.float(), contrast), gamma)


def _tone_tables(draws: TransformParams) -> Tensor:
    """Return contrast and gamma as one table (B, 256) of the value that each byte becomes."""
    values = torch.arange(256, device=draws.gamma.device, dtype=torch.float32)
    return adjust_gamma(adjust_contrast(values, draws.contrast[:, None]), draws.gamma[:, None])


def _turn(draws: TransformParams) -> tuple[Tensor, Tensor, Tensor]:
    """Return cosine and sine of each angle and -1 where flipped, else 1: float32 (B,)."""
    radians = torch.deg2rad(
        draws.angle.double()
    )  # double: a float32 cosine can differ with its place in the batch
    return radians.cos().float(), radians.sin().float(), 1 - 2 * draws.flip.float()


def _source_axes(
    draws: TransformParams, crop: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Return the map from output to source as what a column (2, B, 1, crop) and a row (2, B, crop,
    1) contribute.

    Their sum is the point of the source, (x, y) where -1 and 1 are the image's edges, as
    `grid_sample` takes it."""
    cos, sin, mirror = _turn(draws)
    steps = torch.arange(crop, device=cos.device, dtype=torch.float32) - (crop - 1) / 2
    x, y = (
        steps - draws.shift_x[:, None],
        steps - draws.shift_y[:, None],
    )  # (B, crop): undo the shift
    # Undo the rotation, the flip and the crop, in that order.
    to_x, to_y = 2 / width, 2 / height
    center_x, center_y = (
        (draws.offset_x + crop / 2) * to_x - 1,
        (draws.offset_y + crop / 2) * to_y - 1,
    )
    across_x = torch.addcmul(center_x[:, None], (mirror * cos * to_x)[:, None], x)
    across_y = torch.addcmul(center_y[:, None], (sin * to_y)[:, None], x)
    down_x, down_y = (mirror * sin * -to_x)[:, None] * y, (cos * to_y)[:, None] * y
    return torch.stack((across_x, across_y))[:, :, None, :], torch.stack((down_x, down_y))[
        :, :, :, None
    ]


def _sample(source: Tensor, across: Tensor, down: Tensor, mode: str) -> Tensor:
    """Read a float source (B, H, W, 3) where the axes of `_source_axes` point to: (B, 3, crop,
    crop).
    """
    points = (across + down).permute(1, 2, 3, 0)
    return F.grid_sample(
        source.permute(0, 3, 1, 2), points, mode=mode, padding_mode="border", align_corners=False
    )


def apply_to_boxes(boxes: Tensor, draws: TransformParams, *, crop: int) -> tuple[Tensor, Tensor]:
    """Move boxes (B, N, 4) with their images' pixels: boxes (B, N, 4) in the crop's pixels and the
    shares kept (B, N).

    A rotated box becomes the axis-aligned hull of its corners. All are clipped to the crop; the
    share kept is the clipped area over the area before. Padding passes: NaN stays NaN, and both
    it and an empty box keep a share of 0."""
    cos, sin, mirror = (value[:, None, None] for value in _turn(draws))  # against (B, N, corners)
    x0, y0, x1, y1 = boxes.unbind(-1)
    x = torch.stack((x0, x1, x0, x1), -1) - (draws.offset_x + crop / 2)[:, None, None]
    y = torch.stack((y0, y0, y1, y1), -1) - (draws.offset_y + crop / 2)[:, None, None]
    turned_x = cos * mirror * x + sin * y + (draws.shift_x + crop / 2)[:, None, None]
    turned_y = cos * y - sin * mirror * x + (draws.shift_y + crop / 2)[:, None, None]
    moved = torch.stack(
        (turned_x.amin(-1), turned_y.amin(-1), turned_x.amax(-1), turned_y.amax(-1)), -1
    )
    return box_ops.clip(moved, height=crop, width=crop), box_ops.kept_share(
        moved, height=crop, width=crop
    )


def panels(image: Tensor, crop: int | None = None) -> list[tuple[str, Tensor]]:
    """Show an image uint8 (S, S, 3) under each method alone, as Fig. 1 does: captions, uint8 images
    (crop, crop, 3).

    Contrast and gamma take the figure's values; `crop` is the whole image unless told.
    """
    size = image.shape[0]
    crop = size if crop is None else crop
    neutral = center(1, size, crop)
    one = torch.ones(1)
    shown = [
        ("original", neutral),
        ("contrast 1.3", dataclasses.replace(neutral, contrast=1.3 * one)),
        ("contrast 0.7", dataclasses.replace(neutral, contrast=0.7 * one)),
        ("gamma 0.93", dataclasses.replace(neutral, gamma=0.93 * one)),
        ("gamma 1.06", dataclasses.replace(neutral, gamma=1.06 * one)),
        ("flipped", dataclasses.replace(neutral, flip=one.bool())),
        ("rotated 10°", dataclasses.replace(neutral, angle=10 * one)),
        ("translated 4 px", dataclasses.replace(neutral, shift_x=4 * one, shift_y=4 * one)),
    ]
    return [
        (caption, _to_bytes(apply(image[None], draws, crop=crop)[0])) for caption, draws in shown
    ]


def _to_bytes(image: Tensor) -> Tensor:
    return image.permute(1, 2, 0).round().to(torch.uint8).contiguous()
