"""Augment a batch of images: the random draws apart from the arithmetic that applies them.

The six methods of Wu et al. 2017, section 3.1 and Fig. 1: a crop of 56 pixels (at random in training, central in testing), horizontal
flip, translation, rotation, contrast scaling and gamma correction. "Every augmentation method is applied randomly to this image" is
read as: each method independently, to each image, with a probability (0.5 unless told).

Where the report leaves room:

* Contrast scales about mid-grey, 127.5, not about the image's own mean. Both methods of tone then map a value to a value, so that
  together they are one table of 256 entries an image. Contrast comes first, clipped to [0, 255]; then gamma, 255 * (v / 255) ** gamma.
* Tone is applied to the source's pixels, before the geometry.
* The report gives no bounds for translation and rotation: 4 pixels and 10 degrees here.

Geometry is ONE resampling. In the order of what is seen: cut the crop window out of the source, flip it, rotate it about its centre
(positive angles turn counter-clockwise), shift it (positive to the right and down). All four compose into one affine map from an
output pixel to a point of the source, which is read by bilinear interpolation; what a rotation or a shift brings in is therefore the
source around the window, wherever it has any. Where the map has no rotation and moves by whole pixels, source values come out exactly.

Beyond the source's edge its nearest pixel repeats: no straight black edge for a network to learn. Reflection looks a little better and
costs a fifth of the warp; with 4 spare pixels around the window on average, few output pixels see either.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

MID_GREY = 127.5
# Images warped together on a CPU: the temporaries of 16 images (under 1 MB each) stay in the second-level cache, where simple
# arithmetic runs three times as fast as on a whole batch. 8 to 32 measure alike.
_CHUNK = 16


@dataclasses.dataclass(frozen=True)
class Draws:
    """What happens to each of N images; every field is a tensor (N,), float32 but for `flip`.

    Neutral values (no flip, shift 0, angle 0, contrast 1, gamma 1) leave an image as it is; the crop window is always cut.
    """

    offset_x: Tensor  # left column of the crop window in the source, whole pixels
    offset_y: Tensor  # its top row
    flip: Tensor  # bool: mirror left and right
    shift_x: Tensor  # pixels to the right, as seen in the output
    shift_y: Tensor  # pixels down
    angle: Tensor  # degrees counter-clockwise
    contrast: Tensor  # factor about mid-grey
    gamma: Tensor  # exponent on v / 255

    def __post_init__(self) -> None:
        assert all(field.shape == (len(self),) for field in self._fields()), "every field has one value an image"

    def __len__(self) -> int:
        return self.offset_x.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Draws:
        """Return the draws of some rows: a slice, a boolean mask or a tensor of indices."""
        return Draws(*(field[rows] for field in self._fields()))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Draws:
        """Return the draws on `device`."""
        return Draws(*(field.to(device, non_blocking=non_blocking) for field in self._fields()))

    def _fields(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))


def centre(count: int, source_size: int, crop: int) -> Draws:
    """Return neutral draws for `count` images: the central crop window and nothing else."""
    _check_crop(source_size, crop)
    offset = torch.full((count,), float((source_size - crop) // 2))
    zero, one = torch.zeros(count), torch.ones(count)
    return Draws(offset, offset, torch.zeros(count, dtype=torch.bool), zero, zero, zero, one, one)


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
) -> Draws:
    """Draw what happens to each of `count` square images, on the CPU, from `generator`.

    The crop window is uniform over the source. `flip` is the probability of a flip. Shift (whole pixels, -shift..shift on each axis),
    rotation (degrees, U(-rotation, rotation)), contrast and gamma (each uniform between two bounds) are each applied with `probability`.
    Every quantity owns a row of the random numbers, so turning one method off leaves the draws of all others as they were.
    """
    _check_crop(source_size, crop)
    _check_methods(flip, shift, rotation, contrast, gamma, probability)
    uniform = torch.rand(12, count, generator=generator)
    shifted, rotated, scaled, corrected = uniform[8:] < probability
    margin = source_size - crop
    return Draws(
        offset_x=_whole(uniform[0], 0, margin),
        offset_y=_whole(uniform[1], 0, margin),
        flip=uniform[2] < flip,
        shift_x=torch.where(shifted, _whole(uniform[3], -shift, shift), 0.0),
        shift_y=torch.where(shifted, _whole(uniform[4], -shift, shift), 0.0),
        angle=torch.where(rotated, torch.lerp(*torch.tensor([-rotation, rotation]), uniform[5]), 0.0),
        contrast=torch.where(scaled, torch.lerp(*torch.tensor(contrast), uniform[6]), 1.0),
        gamma=torch.where(corrected, torch.lerp(*torch.tensor(gamma), uniform[7]), 1.0),
    )


def _whole(uniform: Tensor, low: int, high: int) -> Tensor:
    # The clamp matters once in millions: the largest number below 1, times a count, can round up to the count.
    return (uniform * (high - low + 1)).floor_().clamp_(max=high - low).add_(low)


def _check_crop(source_size: int, crop: int) -> None:
    if not 1 <= crop <= source_size:
        raise ValueError(f"crop {crop} does not fit images of {source_size} pixels: choose 1 to {source_size}")


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
            raise ValueError(f"{name} is ({low}, {high}): give two positive bounds, the lower one first")


def adjust_contrast(values: Tensor, factor: Tensor) -> Tensor:
    """Scale values in [0, 255] about mid-grey by `factor` (broadcast), clipped; a factor of 1 changes nothing."""
    scaled = ((values - MID_GREY) * factor).add_(MID_GREY).clamp_(0, 255)
    return torch.where(factor == 1, values, scaled)


def adjust_gamma(values: Tensor, gamma: Tensor) -> Tensor:
    """Map values in [0, 255] to 255 * (v / 255) ** gamma (broadcast); a gamma of 1 changes nothing."""
    # exp(gamma * log) is 4 times as fast as pow on a CPU, and off by less than 0.001; log(0) gives 0 as it should.
    raised = (values / 255).log_().mul(gamma).exp_().mul_(255)
    return torch.where(gamma == 1, values, raised)


def apply(images: Tensor, draws: Draws, *, crop: int) -> Tensor:
    """Augment images (B, H, W, 3) or (B, 3, H, W) in 0..255, uint8 or float, into float32 (B, 3, crop, crop) in 0..255.

    The output is channels_last for (B, H, W, 3) images, contiguous otherwise. An image's result depends on its own row alone. On a
    CUDA device nothing waits for the host; there `draws` must lie on the images' device.
    """
    channels_last = images.shape[-1] == 3
    if images.dim() != 4 or not (channels_last or images.shape[1] == 3):
        raise ValueError(f"images have shape {tuple(images.shape)}: give (B, H, W, 3) or (B, 3, H, W)")
    if len(draws) != images.shape[0]:
        raise ValueError(f"{len(draws)} draws for {images.shape[0]} images: give one an image")
    pixels = images if channels_last else images.permute(0, 2, 3, 1)
    if pixels.device.type == "cpu" and pixels.dtype == torch.uint8:
        augmented = _apply_in_groups(pixels.contiguous(), draws, crop)
    else:
        # No row is looked at by the host: all images are read both ways, and whole moves take the nearest pixel, which is exact.
        source = _tone(pixels, draws)
        across, down = _source_axes(draws, crop, *pixels.shape[1:3])
        nearest, bilinear = (_sample(source, across, down, mode) for mode in ("nearest", "bilinear"))
        augmented = torch.where(_is_whole(draws)[:, None, None, None], nearest, bilinear)
    return augmented.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _apply_in_groups(images: Tensor, draws: Draws, crop: int) -> Tensor:
    """Augment uint8 (B, H, W, 3) on the CPU, each image in the cheapest way that its geometry allows."""
    count, height, width, _ = images.shape
    tables = _tone_tables(draws).unbind()
    toned = ((draws.contrast != 1) | (draws.gamma != 1)).tolist()
    augmented = torch.empty(count, crop, crop, 3)
    targets = augmented.flatten(1).unbind()

    whole = _is_whole(draws)
    left = draws.offset_x - torch.where(draws.flip, -draws.shift_x, draws.shift_x)
    top = draws.offset_y - draws.shift_y
    inside = whole & (left >= 0) & (left <= width - crop) & (top >= 0) & (top <= height - crop)
    for flipped in (False, True):
        rows = (inside & (draws.flip == flipped)).nonzero()[:, 0]
        if len(rows):
            # All windows of the batch, one at every pixel, as an overlapping view: to index it is to cut.
            num_windows = count * height * width - (crop - 1) * width - crop + 1
            windows = images.as_strided((num_windows, crop, crop, 3), (3, 3 * width, 3, 1))
            cut = windows.index_select(0, rows * (height * width) + top[rows].long() * width + left[rows].long())
            for row, places in zip(rows.tolist(), (cut.flip(2) if flipped else cut).flatten(1).int().unbind(), strict=True):
                _look_up(tables[row] if toned[row] else None, places, targets[row])
    for chosen, mode in ((whole & ~inside, "nearest"), (~whole, "bilinear")):
        chosen_rows = chosen.nonzero()[:, 0]
        across, down = _source_axes(draws[chosen_rows], crop, height, width)
        for start in range(0, len(chosen_rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            rows = chosen_rows[part]
            source = torch.empty(len(rows), height, width, 3)
            for row, places, target in zip(
                rows.tolist(), images.index_select(0, rows).flatten(1).int().unbind(), source.flatten(1).unbind(), strict=True
            ):
                _look_up(tables[row] if toned[row] else None, places, target)
            sampled = _sample(source, across[:, part], down[:, part], mode).permute(0, 2, 3, 1).flatten(1)
            for row, image in zip(rows.tolist(), sampled.unbind(), strict=True):
                targets[row].copy_(image)
    return augmented.permute(0, 3, 1, 2)


def _is_whole(draws: Draws) -> Tensor:
    """Tell, for each image (N,), whether every output pixel falls on exactly one source pixel."""
    still = draws.angle == 0
    for moved in (draws.offset_x, draws.offset_y, draws.shift_x, draws.shift_y):
        still = still & (moved == moved.round())
    return still


def _tone(pixels: Tensor, draws: Draws) -> Tensor:
    """Apply contrast and gamma to pixels (B, H, W, 3): float32 of the same shape."""
    if pixels.dtype == torch.uint8:
        return _tone_tables(draws).gather(1, pixels.flatten(1).long()).view(pixels.shape)
    contrast, gamma = draws.contrast[:, None, None, None], draws.gamma[:, None, None, None]
    return adjust_gamma(adjust_contrast(pixels.float(), contrast), gamma)


def _tone_tables(draws: Draws) -> Tensor:
    """Return contrast and gamma as one table (B, 256) of the value that each byte becomes."""
    values = torch.arange(256, device=draws.gamma.device, dtype=torch.float32)
    return adjust_gamma(adjust_contrast(values, draws.contrast[:, None]), draws.gamma[:, None])


def _look_up(table: Tensor | None, values: Tensor, target: Tensor) -> None:
    if table is None:
        target.copy_(values)
    else:
        torch.index_select(table, 0, values, out=target)


def _source_axes(draws: Draws, crop: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the affine map from output to source as what a column (2, B, 1, crop) and a row (2, B, crop, 1) contribute.

    Their sum is the point of the source, (x, y) in units where -1 and 1 are the image's edges, as `grid_sample` takes it.
    """
    middle = (crop - 1) / 2
    radians = torch.deg2rad(draws.angle.double())  # double: float32 cosines differ by the place in the batch
    cos, sin = radians.cos().float(), radians.sin().float()
    mirror = 1 - 2 * draws.flip.float()
    steps = torch.arange(crop, device=draws.angle.device, dtype=torch.float32) - middle
    x, y = steps - draws.shift_x[:, None], steps - draws.shift_y[:, None]  # (B, crop): undo the shift
    # Undo the rotation, then the flip, then the crop; pixel centres lie at odd multiples of 1 / size between -1 and 1.
    to_x, to_y = 2 / width, 2 / height
    across = torch.stack((
        torch.addcmul(((draws.offset_x + (middle + 0.5)) * to_x - 1)[:, None], (mirror * cos * to_x)[:, None], x),
        torch.addcmul(((draws.offset_y + (middle + 0.5)) * to_y - 1)[:, None], (sin * to_y)[:, None], x),
    ))
    down = torch.stack(((mirror * sin * -to_x)[:, None] * y, (cos * to_y)[:, None] * y))
    return across[:, :, None, :], down[:, :, :, None]


def _sample(source: Tensor, across: Tensor, down: Tensor, mode: str) -> Tensor:
    """Read a float source (B, H, W, 3) where the axes of `_source_axes` point to: (B, 3, crop, crop)."""
    points = (across + down).permute(1, 2, 3, 0)
    return F.grid_sample(source.permute(0, 3, 1, 2), points, mode=mode, padding_mode="border", align_corners=False)
