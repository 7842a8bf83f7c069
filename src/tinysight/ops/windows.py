"""Windows of images in shares of their sides, and the pixels that they cover."""

from __future__ import annotations

import torch
from torch import Tensor


def around(center_x: Tensor, center_y: Tensor, *, width: Tensor, height: Tensor) -> Tensor:
    """Return windows (N, 4) as (x0, y0, x1, y1) in shares of the image's sides, clipped to it; all
    arguments (N,).
    """
    edges = (
        center_x - width / 2,
        center_y - height / 2,
        center_x + width / 2,
        center_y + height / 2,
    )
    return torch.stack(edges, -1).clamp(0, 1)


def mask(windows: Tensor, *, height: int, width: int) -> Tensor:
    """Tell which pixels windows (N, 4), rounded to whole pixels, cover: bool (N, height, width)."""
    x0, y0, x1, y1 = windows.unbind(-1)
    x0, x1 = (x0 * width).round(), (x1 * width).round()
    y0, y1 = (y0 * height).round(), (y1 * height).round()
    columns = torch.arange(width, device=windows.device)
    rows = torch.arange(height, device=windows.device)
    across = (columns >= x0[:, None]) & (columns < x1[:, None])
    down = (rows >= y0[:, None]) & (rows < y1[:, None])
    return down[:, :, None] & across[:, None, :]
