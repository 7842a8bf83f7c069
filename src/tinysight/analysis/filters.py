"""The first convolution's filters as color tiles (Wu et al. 2017, section 4.7, Fig. 14)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor, nn


def first_filters(model: nn.Module) -> Tensor:
    """Return the weights (F, 3, h, w) of the first convolution that sees colors.

    Raises:
        ValueError: there is none, or its filters are of one pixel, where there is no shape to see.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            if max(module.kernel_size) == 1:
                raise ValueError(
                    f"the first convolution, {name}, has filters of one pixel: there is no shape to see"
                )
            return module.weight.detach().float().cpu()
    raise ValueError(
        f"{type(model).__name__} has no convolution that sees colors: there is no filter to show"
    )


def filter_tiles(
    filters: Tensor, *, scale: int = 6, gap: int = 3, columns: int = 16
) -> Image.Image:
    """Lay filters (F, 3, h, w) out as tiles: gray is a weight of 0, each filter stretched to its
    own largest weight.
    """
    num, _, height, width = filters.shape
    largest = filters.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    tiles = ((filters / largest + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    columns = min(columns, num)
    rows = math.ceil(num / columns)
    sheet: npt.NDArray[np.uint8] = np.full(
        (rows * (scale * height + gap) - gap, columns * (scale * width + gap) - gap, 3),
        255,
        np.uint8,
    )
    for index, tile in enumerate(tiles):
        top, left = (
            index // columns * (scale * height + gap),
            index % columns * (scale * width + gap),
        )
        sheet[top : top + scale * height, left : left + scale * width] = tile.repeat(
            scale, 0
        ).repeat(scale, 1)
    return Image.fromarray(sheet)
