"""Random erasing (Zhong et al. 2020, arXiv:1708.04896): a window of each image is painted over.

Deliberate differences: the window is filled with one random color, not with noise a pixel (one
draw an image, not thousands), and it is clipped at the image's edges, where the paper draws anew
until it fits; so that it may be smaller."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tinysight.ops import windows
from tinysight.ops.tensor_rows import TensorRows

AREAS, ASPECTS = (
    (0.02, 0.33),
    (0.3, 1 / 0.3),
)  # the paper's ranges: share of the image; height over width


@dataclass(frozen=True)
class EraseParams(TensorRows):
    """What is painted over in each of N images."""

    # float32 (N, 4): (x0, y0, x1, y1) in shares of the side, empty where nothing is erased
    window: Tensor
    color: Tensor  # float32 (N, 3) in 0..255


def draw(count: int, *, generator: torch.Generator, probability: float) -> EraseParams:
    """Draw a window and a color for each of `count` images, on the CPU; each is erased with
    `probability`.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}: give a share from 0 to 1")
    uniform = torch.rand(8, count, generator=generator)
    area = AREAS[0] + (AREAS[1] - AREAS[0]) * uniform[0]
    aspect = torch.exp(math.log(ASPECTS[0]) + math.log(ASPECTS[1] / ASPECTS[0]) * uniform[1])
    window = windows.around(
        uniform[2], uniform[3], width=(area / aspect).sqrt(), height=(area * aspect).sqrt()
    )
    window = torch.where((uniform[4] < probability)[:, None], window, 0.0)
    return EraseParams(window=window, color=255 * uniform[5:].T.contiguous())


def apply(images: Tensor, erasures: EraseParams) -> Tensor:
    """Paint over the windows of float images (B, 3, H, W) in 0..255; return images of the same
    shape.
    """
    covered = windows.mask(erasures.window, height=images.shape[2], width=images.shape[3])
    return torch.where(covered[:, None], erasures.color[:, :, None, None], images)
