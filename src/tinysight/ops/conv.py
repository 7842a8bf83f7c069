"""Convolution by matrix products, which a CPU trains faster for small maps of many channels.

oneDNN's gradient of a kernel (torch 2.13, bf16, AMX) reaches 50 GFLOP/s on 512 channels of 3x3
pixels, where the matrix product of the same numbers reaches 500 (benchmarks/README.md). Unfolding
the images into a matrix takes kh x kw times their memory; it is done for so few images at a time
that they stay in the caches.

Without AMX (bf16 by AVX-512, as AMD's Zen 4 has it) oneDNN's gradient is the faster one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

PART_BYTES = 16 * 2**20  # of images unfolded at a time


class _MatmulConvolution(torch.autograd.Function):
    """The convolution and its gradient; memory layout is channels last throughout."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, kernel: Tensor, stride: int, padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(images, kernel)
        ctx.stride, ctx.padding = stride, padding
        matrix = _as_matrix(kernel)
        height = (images.shape[2] + 2 * padding[0] - kernel.shape[2]) // stride + 1
        width = (images.shape[3] + 2 * padding[1] - kernel.shape[3]) // stride + 1
        outputs = images.new_empty(len(images), height, width, len(kernel))
        for part, output in _parts(images, outputs, matrix):
            rows = unfold(part, kernel.shape[2:], stride=stride, padding=padding)
            torch.mm(rows, matrix.T, out=output.view(-1, len(kernel)))
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        images, kernel = ctx.saved_tensors
        matrix, sides = _as_matrix(kernel), kernel.shape[2:]
        options = {"stride": ctx.stride, "padding": ctx.padding}
        gradient = gradient.permute(0, 2, 3, 1).contiguous()
        of_matrix = torch.zeros_like(matrix, dtype=torch.float32)
        of_images = []
        for part, output in _parts(images, gradient, matrix):
            output_rows = output.view(-1, len(kernel))
            of_matrix += output_rows.T @ unfold(part, sides, **options)
            if ctx.needs_input_grad[0]:
                rows = (output_rows @ matrix).view(*output.shape[:3], *sides, -1)
                of_images.append(fold(rows, part.shape[2:], **options))
        of_kernel = of_matrix.to(kernel.dtype).view(len(kernel), *sides, -1).permute(0, 3, 1, 2)
        return torch.cat(of_images) if of_images else None, of_kernel, None, None


def convolve(
    images: Tensor, kernel: Tensor, *, stride: int = 1, padding: tuple[int, int] = (0, 0)
) -> Tensor:
    """Convolve images (B, C, H, W) with a kernel (O, C, kh, kw) as `F.conv2d` does.

    Images, kernel and result (B, O, h, w), which is channels_last, have one dtype; `padding` is
    rows and columns of zeros on each side. It can be differentiated once.
    """
    outputs: Tensor = _MatmulConvolution.apply(images, kernel, stride, padding)  # type: ignore[no-untyped-call]
    return outputs


def pays() -> bool:
    """Return whether this CPU trains small maps of many channels faster by `convolve`."""
    return torch.cpu._is_amx_tile_supported()


def unfold(
    images: Tensor, sides: tuple[int, ...], *, stride: int, padding: tuple[int, int]
) -> Tensor:
    """Return the windows of images (B, C, H, W) under a kernel, (B x h x w, kh x kw x C)."""
    rows, columns = padding
    padded = images.permute(0, 2, 3, 1)
    if rows or columns:
        padded = F.pad(padded, (0, 0, columns, columns, rows, rows))
    windows = padded.unfold(1, sides[0], stride).unfold(2, sides[1], stride)  # (B, h, w, C, kh, kw)
    num_images, height, width = windows.shape[:3]
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(num_images * height * width, -1)


def fold(rows: Tensor, size: tuple[int, ...], *, stride: int, padding: tuple[int, int]) -> Tensor:
    """Return the adjoint of `unfold`: windows (B, h, w, kh, kw, C) summed, (B, C, *size).

    The sum is formed in float32 and rounded once, to the dtype of `rows`. It is channels_last.
    """
    num_images, height, width, kernel_height, kernel_width, num_channels = rows.shape
    if (height, width) == size and kernel_height == kernel_width == 1:
        return rows.view(num_images, height, width, num_channels).permute(0, 3, 1, 2)
    above, left = padding
    shape = (num_images, size[0] + 2 * above, size[1] + 2 * left, num_channels)
    total = torch.zeros(shape, dtype=torch.float32, device=rows.device)
    for i in range(kernel_height):
        for j in range(kernel_width):
            window = total[:, i : i + stride * height : stride, j : j + stride * width : stride]
            window += rows[:, :, :, i, j]
    inside = total[:, above : above + size[0], left : left + size[1]]
    return inside.permute(0, 3, 1, 2).to(rows.dtype, memory_format=torch.channels_last)


def _as_matrix(kernel: Tensor) -> Tensor:
    """Return a kernel (O, C, kh, kw) as (O, kh x kw x C), a view where it is channels_last."""
    return kernel.permute(0, 2, 3, 1).reshape(len(kernel), -1)


def _parts(images: Tensor, outputs: Tensor, matrix: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Split images (B, C, H, W) and outputs (B, h, w, O) into parts to unfold at a time."""
    bytes_per_image = outputs[0, :, :, 0].numel() * matrix.shape[1] * matrix.element_size()
    size = max(1, PART_BYTES // bytes_per_image)
    for start in range(0, len(images), size):
        yield images[start : start + size], outputs[start : start + size]
