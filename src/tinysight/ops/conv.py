"""Convolution by matrix products, for small volumes of many channels: a CPU trains them faster than
by its own.

oneDNN's gradient of a kernel (torch 2.13, bf16, AMX) reaches 50 GFLOP/s on a volume of 512
channels of 3x3 pixels, where the product of the same numbers, laid out as a matrix, reaches 500
(benchmarks/README.md). Laying them out costs kh x kw times the volume's memory; so few images at
a time are laid out that they stay in the caches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

PART_BYTES = 16 * 2**20  # of images laid out at a time


class _ByProducts(torch.autograd.Function):
    """The convolution and its gradient; memory layout is channels last throughout."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, kernel: Tensor, stride: int, padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(images, kernel)
        ctx.stride, ctx.padding = stride, padding
        matrix = _as_matrix(kernel)
        height, width = _size_after(images, kernel, stride, padding)
        outputs = images.new_empty(len(images), height, width, len(kernel))
        for part, output in _parts(images, outputs, matrix):
            rows = windows(part, kernel.shape[2:], stride=stride, padding=padding)
            torch.mm(rows, matrix.T, out=output.view(-1, len(kernel)))
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        images, kernel = ctx.saved_tensors
        matrix = _as_matrix(kernel)
        gradient = gradient.permute(0, 2, 3, 1).contiguous()
        of_matrix = torch.zeros_like(matrix, dtype=torch.float32)
        of_images = []
        for part, output in _parts(images, gradient, matrix):
            output_rows = output.view(-1, len(kernel))
            of_matrix += output_rows.T @ windows(
                part, kernel.shape[2:], stride=ctx.stride, padding=ctx.padding
            )
            if ctx.needs_input_grad[0]:
                rows = (output_rows @ matrix).view(*output.shape[:3], *kernel.shape[2:], -1)
                of_images.append(
                    spread(rows, part.shape[2:], stride=ctx.stride, padding=ctx.padding)
                )
        of_kernel = (
            of_matrix.to(kernel.dtype).view(len(kernel), *kernel.shape[2:], -1).permute(0, 3, 1, 2)
        )
        return torch.cat(of_images) if of_images else None, of_kernel, None, None


def convolve(
    images: Tensor, kernel: Tensor, *, stride: int = 1, padding: tuple[int, int] = (0, 0)
) -> Tensor:
    """Convolve images (B, C, H, W) with a kernel (O, C, kh, kw) as `torch.nn.functional.conv2d`
    does.

    Images, kernel and result (B, O, h, w) have one dtype; the result lies in channels_last. Can be
    differentiated once.

    Args:
        stride: of both directions.
        padding: rows above and below, columns left and right, of zeros.
    """
    outputs: Tensor = _ByProducts.apply(images, kernel, stride, padding)  # type: ignore[no-untyped-call]
    return outputs


def windows(
    images: Tensor, sides: tuple[int, ...], *, stride: int, padding: tuple[int, int]
) -> Tensor:
    """Return images (B, C, H, W) as the rows (B x h x w, kh x kw x C) that a kernel with these
    sides sees in turn.
    """
    rows, columns = padding
    padded = images.permute(0, 2, 3, 1)
    if rows or columns:
        padded = F.pad(padded, (0, 0, columns, columns, rows, rows))
    seen = padded.unfold(1, sides[0], stride).unfold(2, sides[1], stride)  # (B, h, w, C, kh, kw)
    num_images, height, width = seen.shape[:3]
    return seen.permute(0, 1, 2, 4, 5, 3).reshape(num_images * height * width, -1)


def spread(rows: Tensor, size: tuple[int, ...], *, stride: int, padding: tuple[int, int]) -> Tensor:
    """Return the adjoint of `windows`: each row's numbers (B, h, w, kh, kw, C) summed where they
    were taken from.

    The sum is formed in float32 and rounded once, to the rows' dtype; (B, C, *size) in
    channels_last."""
    num_images, height, width, kernel_height, kernel_width, num_channels = rows.shape
    if (height, width) == size and kernel_height == kernel_width == 1:
        return rows.view(num_images, height, width, num_channels).permute(0, 3, 1, 2)
    above, left = padding
    total = torch.zeros(
        (num_images, size[0] + 2 * above, size[1] + 2 * left, num_channels),
        dtype=torch.float32,
        device=rows.device,
    )
    for i in range(kernel_height):
        for j in range(kernel_width):
            total[:, i : i + stride * height : stride, j : j + stride * width : stride] += rows[
                :, :, :, i, j
            ]
    inside = total[:, above : above + size[0], left : left + size[1]]
    return inside.permute(0, 3, 1, 2).to(rows.dtype, memory_format=torch.channels_last)


def _as_matrix(kernel: Tensor) -> Tensor:
    """A kernel (O, C, kh, kw) as (O, kh x kw x C); without a copy if it lies in channels_last."""
    return kernel.permute(0, 2, 3, 1).reshape(len(kernel), -1)


def _size_after(
    images: Tensor, kernel: Tensor, stride: int, padding: tuple[int, int]
) -> tuple[int, int]:
    height = (images.shape[2] + 2 * padding[0] - kernel.shape[2]) // stride + 1
    return height, (images.shape[3] + 2 * padding[1] - kernel.shape[3]) // stride + 1


def _parts(images: Tensor, outputs: Tensor, matrix: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Give images (B, C, H, W) and outputs (B, h, w, O), so many at a time as are laid out
    together.
    """
    bytes_of_one = outputs[0, :, :, 0].numel() * matrix.shape[1] * matrix.element_size()
    num = max(1, PART_BYTES // bytes_of_one)
    for start in range(0, len(images), num):
        yield images[start : start + num], outputs[start : start + num]
