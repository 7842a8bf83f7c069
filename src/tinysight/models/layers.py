"""Layers that more than one family uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.ops.conv import convolve


class Normalize(nn.Module):
    """Bring images in 0..255 (B, 3, H, W), uint8 or float, to zero mean and unit deviation, by
    buffers of its own.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 127.5))
        self.register_buffer("std", torch.full((3, 1, 1), 64.0))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Take the data's per-channel mean and standard deviation (3,), in 0..255."""
        self.mean.copy_(mean.view(3, 1, 1))
        self.std.copy_(std.view(3, 1, 1).clamp_min(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.mean.dtype) - self.mean) / self.std


class Convolution(nn.Conv2d):
    """A convolution that a CPU in bf16 trains by matrix products where these are faster: see
    `ops.convolution`.

    They are, by measurement (benchmarks/README.md), from `LEAST_CHANNELS` on into volumes of at
    most `MOST_PIXELS`."""

    LEAST_CHANNELS = 128
    MOST_PIXELS = 64

    def forward(self, x: Tensor) -> Tensor:
        if not self._trains_by_products(x):
            return super().forward(x)
        assert not isinstance(self.padding, str)
        padding = (self.padding[0], self.padding[1])
        outputs = convolve(
            x.bfloat16(), self.weight.bfloat16(), stride=self.stride[0], padding=padding
        )
        return outputs if self.bias is None else outputs + self.bias.bfloat16().view(-1, 1, 1)

    def _trains_by_products(self, x: Tensor) -> bool:
        in_bf16 = (
            torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        )
        if (
            not (x.device.type == "cpu" and in_bf16 and torch.is_grad_enabled())
            or torch.compiler.is_compiling()
        ):
            return False
        down, across = self.stride
        few_pixels = -(-x.shape[2] // down) * -(-x.shape[3] // across) <= self.MOST_PIXELS
        plain = (
            down == across
            and self.dilation == (1, 1)
            and self.groups == 1
            and self.padding_mode == "zeros"
        )
        return (
            plain
            and few_pixels
            and self.in_channels >= self.LEAST_CHANNELS
            and not isinstance(self.padding, str)
        )


class SubsampledConvolution(nn.Conv2d):
    """A 1x1 convolution with a stride as what it is: every stride-th pixel, then one of stride 1.

    oneDNN's gradient of the strided form writes beyond its buffer on x86 CPUs where there are
    fewer channels than a vector has numbers, 8 or 16, which crashes or computes wrong weights
    (uxlfoundation/oneDNN issue 6035)."""

    def forward(self, x: Tensor) -> Tensor:
        across, down = self.stride
        return F.conv2d(x[:, :, ::across, ::down], self.weight, self.bias)


def convolution(
    num_in: int, num_out: int, kernel: int | tuple[int, int], stride: int = 1
) -> nn.Conv2d:
    """A convolution without bias (a batch norm follows) that keeps the size at stride 1, for odd
    kernels.
    """
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    strided_point = height == width == 1 and stride > 1
    kind = SubsampledConvolution if strided_point and num_in < 16 else Convolution
    return kind(
        num_in, num_out, (height, width), stride, padding=(height // 2, width // 2), bias=False
    )


def unit(
    num_in: int, num_out: int, kernel: int | tuple[int, int], stride: int = 1
) -> nn.Sequential:
    """A convolution, its batch norm and a ReLU."""
    return nn.Sequential(
        convolution(num_in, num_out, kernel, stride), nn.BatchNorm2d(num_out), nn.ReLU(inplace=True)
    )
