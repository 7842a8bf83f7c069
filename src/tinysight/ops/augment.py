"""Geometry and tone of a batch of images; random parameters are sampled apart from applying them.

The six methods of Wu et al. 2017, section 3.1 and Fig. 1, each applied independently to each image
with probability 0.5. Where the report leaves room: tone comes before geometry, and contrast scales
about mid-gray, so that both methods of tone are one table of 256 entries per image; translation and
rotation go to 4 pixels and 10 degrees.

Geometry is one bilinear resampling: cut the crop window out of the source, scale it about its
center, flip it, rotate it (counter-clockwise), shift it (right and down). A rotation, a shift or a
smaller scale brings in the source around the window; beyond the source's edge its nearest pixel
repeats (reflection would make the warp a third slower). Without a rotation and a scale, moves by
whole pixels give source values exactly. Scales are not the report's: boxes need them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tinysight.ops.boxes import clip, kept_share
from tinysight.ops.tensor_rows import TensorRows

MID_GRAY = 127.5
# Images per step on a CPU: the temporaries of 16 images stay in the second-level cache, where
# simple arithmetic runs three times as fast as on the entire batch. 8 to 32 measure alike.
_CHUNK = 16


@dataclass(frozen=True)
class TransformParams(TensorRows):
    """Geometry and tone of N images; every field is a tensor (N,), float32 except `flip`.

    Neutral values (no flip, shift 0, angle 0, contrast, gamma and scale 1) leave the crop as it is.
    """

    offset_x: Tensor  # left column of the crop window in the source, an integer
    offset_y: Tensor  # its top row
    flip: Tensor  # bool: mirror left and right
    shift_x: Tensor  # pixels to the right, as seen in the output
    shift_y: Tensor  # pixels down
    angle: Tensor  # degrees counter-clockwise
    contrast: Tensor  # factor about mid-gray
    gamma: Tensor  # exponent on v / 255
    scale_x: Tensor  # factor of the width
    scale_y: Tensor


def center(count: int, source_size: int, crop: int) -> TransformParams:
    """Return neutral parameters for `count` images: the central crop window and nothing else."""
    _check_crop(source_size, crop)
    offset = torch.full((count,), float((source_size - crop) // 2))
    flip = torch.zeros(count, dtype=torch.bool)
    zero, one = torch.zeros(count), torch.ones(count)
    return TransformParams(offset, offset, flip, zero, zero, zero, one, one, one, one)


def sample(
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
    zoom: float = 1.0,
    stretch: float = 1.0,
    probability: float = 0.5,
) -> TransformParams:
    """Sample the parameters of `count` square images, on the CPU.

    The crop window is uniform over the source. Shift (whole pixels, -shift to shift on each axis),
    rotation (degrees, -rotation to rotation), contrast and gamma (between their bounds) are
    uniform, and each applied with `probability`. Every quantity has its own row of random numbers,
    so turning one method off changes no other.

    Args:
        flip: the probability of a flip.
        zoom: the scale is log-uniform from 1 / zoom to zoom.
        stretch: width over height changes by up to this factor, or 1 / stretch.
    """
    _check_crop(source_size, crop)
    for name, share in (("flip", flip), ("probability", probability)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}: give a probability from 0 to 1")
    for name, bound in (("shift", shift), ("rotation", rotation)):
        if not 0 <= bound < math.inf:
            raise ValueError(f"{name} is {bound}: give the largest amount, 0 or more")
    for name, (low, high) in (("contrast", contrast), ("gamma", gamma)):
        if not 0 < low <= high < math.inf:
            raise ValueError(f"{name} is ({low}, {high}): give two positive bounds, lower first")
    uniform = torch.rand(12, count, generator=generator)
    shifted, rotated, scaled, corrected = uniform[8:] < probability
    scales, slack = _sample_scales(count, zoom, stretch, probability, generator)
    slack *= (scales - 1).abs() * crop
    return TransformParams(
        offset_x=_integers(uniform[0], 0, source_size - crop),
        offset_y=_integers(uniform[1], 0, source_size - crop),
        flip=uniform[2] < flip,
        shift_x=torch.where(shifted, _integers(uniform[3], -shift, shift), 0.0) + slack[0],
        shift_y=torch.where(shifted, _integers(uniform[4], -shift, shift), 0.0) + slack[1],
        angle=torch.where(rotated, _between(uniform[5], -rotation, rotation), 0.0),
        contrast=torch.where(scaled, _between(uniform[6], *contrast), 1.0),
        gamma=torch.where(corrected, _between(uniform[7], *gamma), 1.0),
        scale_x=scales[0],
        scale_y=scales[1],
    )


def _sample_scales(
    count: int, zoom: float, stretch: float, probability: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sample factors of width and height, and where the larger of window and image is: (2, N) each.

    The latter from -0.5 to 0.5 of the difference. Without a zoom or a stretch nothing is drawn.
    """
    for name, factor in (("zoom", zoom), ("stretch", stretch)):
        if not 1 <= factor < math.inf:
            raise ValueError(f"{name} is {factor}: give the largest factor, 1 or more")
    if zoom == stretch == 1:
        return torch.ones(2, count), torch.zeros(2, count)
    uniform = torch.rand(6, count, generator=generator)
    logs = _between(uniform[:2], -1, 1) * torch.tensor([[math.log(zoom)], [math.log(stretch) / 2]])
    size, shape = torch.where(uniform[2:4] < probability, logs, 0.0)
    return torch.stack((size + shape, size - shape)).exp(), uniform[4:] - 0.5


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return uniform * (high - low) + low


def _integers(uniform: Tensor, low: int, high: int) -> Tensor:
    # The clamp matters once in millions: the largest number below 1 times a count can round up.
    return (uniform * (high - low + 1)).floor_().clamp_(max=high - low).add_(low)


def _check_crop(source_size: int, crop: int) -> None:
    if not 1 <= crop <= source_size:
        where = f"images of {source_size} pixels: choose 1 to {source_size}"
        raise ValueError(f"crop {crop} does not fit {where}")


def adjust_contrast(values: Tensor, factor: Tensor) -> Tensor:
    """Scale float values in [0, 255] about mid-gray by `factor` (broadcast), clipped."""
    scaled = ((values - MID_GRAY) * factor).add_(MID_GRAY).clamp_(0, 255)
    return torch.where(factor == 1, values, scaled)


def adjust_gamma(values: Tensor, gamma: Tensor) -> Tensor:
    """Map float values in [0, 255] to 255 * (v / 255) ** gamma (broadcast)."""
    # exp(gamma * log) takes a quarter of the time of pow on a CPU and is off by under 0.001;
    # log(0) gives 0, as it should.
    raised = (values / 255).log_().mul(gamma).exp_().mul_(255)
    return torch.where(gamma == 1, values, raised)


def apply(images: Tensor, params: TransformParams, *, crop: int) -> Tensor:
    """Transform images (B, H, W, 3) or (B, 3, H, W) in 0..255 to float32 (B, 3, crop, crop).

    Images are uint8 or float. The output is channels_last for (B, H, W, 3) images, contiguous
    otherwise. An image's result depends on its own parameters alone. On a CUDA device, where
    `params` must be too, nothing waits for the host.
    """
    channels_last = images.shape[-1] == 3
    if images.dim() != 4 or not (channels_last or images.shape[1] == 3):
        shape = tuple(images.shape)
        raise ValueError(f"images have shape {shape}: give (B, H, W, 3) or (B, 3, H, W)")
    if len(params) != len(images):
        raise ValueError(f"{len(params)} params for {len(images)} images: give one per image")
    if (device := params.angle.device) != images.device:
        raise ValueError(f"params are on {device}, images on {images.device}: move them by .to()")
    pixels = images if channels_last else images.permute(0, 2, 3, 1)
    if pixels.device.type == "cpu" and pixels.dtype == torch.uint8:
        output = _apply_in_groups(pixels.contiguous(), params, crop)
    else:
        # No value is read on the host: all images are sampled both ways, and those that move by
        # whole pixels take the exact one.
        source = _apply_tone(pixels, params)
        across, down = _source_axes(params, crop, *pixels.shape[1:3])
        nearest = _sample_source(source, across, down, "nearest")
        bilinear = _sample_source(source, across, down, "bilinear")
        output = torch.where(_is_exact(params)[:, None, None, None], nearest, bilinear)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return output.contiguous(memory_format=memory_format)


def _apply_in_groups(images: Tensor, params: TransformParams, crop: int) -> Tensor:
    """Transform uint8 (B, H, W, 3) on the CPU, each image by the cheapest way for its geometry."""
    count, height, width, _ = images.shape
    tables = _tone_tables(params)
    output = torch.empty(count, crop, crop, 3)
    exact = _is_exact(params)
    left = params.offset_x - torch.where(params.flip, -params.shift_x, params.shift_x)
    top = params.offset_y - params.shift_y
    inside = exact & (left >= 0) & (left <= width - crop) & (top >= 0) & (top <= height - crop)

    if inside.any():
        # All windows of the batch, one at every pixel, as an overlapping view: indexing it crops.
        num_windows = count * height * width - (crop - 1) * width - crop + 1
        windows = images.as_strided((num_windows, crop, crop, 3), (3, 3 * width, 3, 1))
        starts = torch.arange(count) * (height * width) + top.long() * width + left.long()
        for flipped in (False, True):
            for rows in torch.split((inside & (params.flip == flipped)).nonzero()[:, 0], _CHUNK):
                window = windows.index_select(0, starts[rows])
                window = window.flip(2) if flipped else window
                _copy_rows(_look_up(tables[rows], window), rows, output)
    for group, mode in ((exact & ~inside, "nearest"), (~exact, "bilinear")):
        group_rows = group.nonzero()[:, 0]
        across, down = _source_axes(params[group_rows], crop, height, width)
        for start in range(0, len(group_rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            rows = group_rows[part]
            source = _look_up(tables[rows], images.index_select(0, rows))
            sampled = _sample_source(source, across[:, part], down[:, part], mode)
            _copy_rows(sampled.permute(0, 2, 3, 1), rows, output)
    return output.permute(0, 3, 1, 2)


def _look_up(tables: Tensor, pixels: Tensor) -> Tensor:
    """Map bytes (n, ...) by their image's table (n, 256), faster on a CPU than `gather`."""
    offsets = torch.arange(0, tables.numel(), 256, dtype=torch.int32)
    indices = pixels.flatten(1).int().add_(offsets[:, None])
    return tables.view(-1).index_select(0, indices.view(-1)).view(pixels.shape)


def _copy_rows(images: Tensor, rows: Tensor, batch: Tensor) -> None:
    for row, image in zip(rows.tolist(), images, strict=True):  # half the time of index_copy_
        batch[row].copy_(image)


def _is_exact(params: TransformParams) -> Tensor:
    """Return whether every output pixel falls on exactly one source pixel: bool (N,)."""
    exact = (params.angle == 0) & (params.scale_x == 1) & (params.scale_y == 1)
    for value in (params.offset_x, params.offset_y, params.shift_x, params.shift_y):
        exact = exact & (value == value.round())
    return exact


def _apply_tone(pixels: Tensor, params: TransformParams) -> Tensor:
    """Apply contrast and gamma to pixels (B, H, W, 3): float32 of the same shape."""
    if pixels.dtype == torch.uint8:
        return _tone_tables(params).gather(1, pixels.flatten(1).long()).view(pixels.shape)
    contrast, gamma = params.contrast[:, None, None, None], params.gamma[:, None, None, None]
    return adjust_gamma(adjust_contrast(pixels.float(), contrast), gamma)


def _tone_tables(params: TransformParams) -> Tensor:
    """Return contrast and gamma as a table (B, 256) of the value of each byte."""
    values = torch.arange(256, device=params.gamma.device, dtype=torch.float32)
    return adjust_gamma(adjust_contrast(values, params.contrast[:, None]), params.gamma[:, None])


def _rotation(params: TransformParams) -> tuple[Tensor, Tensor, Tensor]:
    """Return cosine and sine of the angles, and -1 where flipped, else 1: float32 (B,)."""
    # double: a float32 cosine can differ with its place in the batch
    radians = torch.deg2rad(params.angle.double())
    return radians.cos().float(), radians.sin().float(), 1 - 2 * params.flip.float()


def _source_axes(
    params: TransformParams, crop: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Return the map from output to source as its column and row terms.

    They are (2, B, 1, crop) and (2, B, crop, 1). Their sum is the point (x, y) of the source where
    -1 and 1 are the image's edges, as in `grid_sample`.
    """
    cos, sin, mirror = _rotation(params)
    steps = torch.arange(crop, device=cos.device, dtype=torch.float32) - (crop - 1) / 2
    # Undo the shift, (B, crop), then the rotation, the flip, the scale and the crop.
    x, y = steps - params.shift_x[:, None], steps - params.shift_y[:, None]
    center_x = (params.offset_x + crop / 2) * (2 / width) - 1
    center_y = (params.offset_y + crop / 2) * (2 / height) - 1
    to_x, to_y = 2 / width / params.scale_x, 2 / height / params.scale_y
    across_x = torch.addcmul(center_x[:, None], (mirror * cos * to_x)[:, None], x)
    across_y = torch.addcmul(center_y[:, None], (sin * to_y)[:, None], x)
    down_x, down_y = (mirror * sin * -to_x)[:, None] * y, (cos * to_y)[:, None] * y
    across, down = torch.stack((across_x, across_y)), torch.stack((down_x, down_y))
    return across[:, :, None, :], down[:, :, :, None]


def _sample_source(source: Tensor, across: Tensor, down: Tensor, mode: str) -> Tensor:
    """Sample float (B, H, W, 3) at the sums of `_source_axes`: (B, 3, crop, crop)."""
    images, points = source.permute(0, 3, 1, 2), (across + down).permute(1, 2, 3, 0)
    return F.grid_sample(images, points, mode, padding_mode="border", align_corners=False)


def apply_to_boxes(boxes: Tensor, params: TransformParams, *, crop: int) -> tuple[Tensor, Tensor]:
    """Transform boxes (B, N, 4) with their images; return them and the shares kept (B, N).

    A rotated box becomes the axis-aligned hull of its corners. All are clipped to the crop; the
    share kept is the clipped area over the area before. Padding of NaN stays NaN; it and an empty
    box have a share of 0.
    """
    cos, sin, mirror = (value[:, None, None] for value in _rotation(params))
    scale_x, scale_y = params.scale_x[:, None, None], params.scale_y[:, None, None]
    x0, y0, x1, y1 = boxes.unbind(-1)
    x = torch.stack((x0, x1, x0, x1), -1) - (params.offset_x + crop / 2)[:, None, None]
    y = torch.stack((y0, y0, y1, y1), -1) - (params.offset_y + crop / 2)[:, None, None]
    x, y = x * scale_x, y * scale_y
    new_x = cos * mirror * x + sin * y + (params.shift_x + crop / 2)[:, None, None]
    new_y = cos * y - sin * mirror * x + (params.shift_y + crop / 2)[:, None, None]
    moved = torch.stack((new_x.amin(-1), new_y.amin(-1), new_x.amax(-1), new_y.amax(-1)), -1)
    return clip(moved, height=crop, width=crop), kept_share(moved, height=crop, width=crop)


def resize(images: Tensor, size: int) -> Tensor:
    """Resize float images (B, 3, H, W) to (B, 3, size, size), bilinear and antialiased."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


def panels(image: Tensor, crop: int | None = None) -> list[tuple[str, Tensor]]:
    """Apply each method alone to an image uint8 (S, S, 3), as Fig. 1 does: captions and images.

    Contrast and gamma take the figure's values. The images are uint8 (crop, crop, 3).
    """
    crop = image.shape[0] if crop is None else crop
    neutral, one = center(1, image.shape[0], crop), torch.ones(1)
    methods: dict[str, dict[str, Tensor]] = {"original": {}}
    methods |= {f"contrast {factor}": {"contrast": factor * one} for factor in (1.3, 0.7)}
    methods |= {f"gamma {exponent}": {"gamma": exponent * one} for exponent in (0.93, 1.06)}
    methods |= {"flipped": {"flip": one.bool()}, "rotated 10°": {"angle": 10 * one}}
    methods["translated 4 px"] = {"shift_x": 4 * one, "shift_y": 4 * one}
    result = []
    for caption, changes in methods.items():
        transformed = apply(image[None], replace(neutral, **changes), crop=crop)[0]
        result.append((caption, transformed.permute(1, 2, 0).round().byte().contiguous()))
    return result
