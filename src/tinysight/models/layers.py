"""Layers that several models use."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.ops.conv import convolve, pays


class Normalize(nn.Module):
    """Images (B, 3, H, W) in 0..255, uint8 or float -> zero mean and unit deviation per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 127.5))
        self.register_buffer("std", torch.full((3, 1, 1), 64.0))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the per-channel mean and standard deviation (3,) of the data, in 0..255."""
        self.mean.copy_(mean.view(3, 1, 1))
        self.std.copy_(std.view(3, 1, 1).clamp_min(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.mean.dtype) - self.mean) / self.std


class Convolution(nn.Conv2d):
    """A convolution trained by `ops.conv.convolve` in bf16 on a CPU where that is faster."""

    MIN_CHANNELS, MAX_PIXELS = 128, 64  # of inputs and outputs, measured: benchmarks/README.md

    def forward(self, x: Tensor) -> Tensor:
        if not self._trains_by_matmul(x):
            return super().forward(x)
        assert not isinstance(self.padding, str)
        padding = (self.padding[0], self.padding[1])
        kernel = self.weight.bfloat16()
        outputs = convolve(x.bfloat16(), kernel, stride=self.stride[0], padding=padding)
        return outputs if self.bias is None else outputs + self.bias.bfloat16().view(-1, 1, 1)

    def _trains_by_matmul(self, x: Tensor) -> bool:
        in_bf16 = torch.get_autocast_dtype("cpu") == torch.bfloat16
        in_bf16 = in_bf16 and torch.is_autocast_enabled("cpu")
        training = x.device.type == "cpu" and in_bf16 and torch.is_grad_enabled()
        if not (training and pays()) or torch.compiler.is_compiling():
            return False
        down, across = self.stride
        return (
            self.in_channels >= self.MIN_CHANNELS
            and -(-x.shape[2] // down) * -(-x.shape[3] // across) <= self.MAX_PIXELS
            and down == across
            and self.dilation == (1, 1)
            and self.groups == 1
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
        )


class SubsampledConvolution(nn.Conv2d):
    """A 1x1 convolution with a stride, computed as subsampling and a convolution of stride 1.

    oneDNN's gradient of the strided form writes beyond its buffer on x86 CPUs with fewer channels
    than a vector has numbers, 8 or 16, which crashes or gives wrong weights (uxlfoundation/oneDNN
    issue 6035).
    """

    def forward(self, x: Tensor) -> Tensor:
        down, across = self.stride
        return F.conv2d(x[:, :, ::down, ::across], self.weight, self.bias)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a number from 0 to 1 that the means of all channels decide.

    Source: Hu et al. 2018, arXiv:1709.01507. `ratio` is the channels per hidden value, of which
    there are at least 8.
    """

    def __init__(self, num_channels: int, ratio: int) -> None:
        super().__init__()
        num_hidden = max(8, num_channels // ratio)
        self.squeeze = nn.Linear(num_channels, num_hidden)
        self.excite = nn.Linear(num_hidden, num_channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.squeeze(x.mean((2, 3))))
        scale = torch.sigmoid(self.excite(hidden)).to(x.dtype)
        return x * scale[:, :, None, None]


def convolution(
    num_in: int, num_out: int, kernel: int | tuple[int, int], stride: int = 1
) -> nn.Conv2d:
    """Return a convolution without bias, of odd kernel, that keeps the size at stride 1."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    strided_1x1 = height == width == 1 and stride > 1
    kind = SubsampledConvolution if strided_1x1 and num_in < 16 else Convolution
    padding = (height // 2, width // 2)
    return kind(num_in, num_out, (height, width), stride, padding=padding, bias=False)


def unit(
    num_in: int, num_out: int, kernel: int | tuple[int, int], stride: int = 1
) -> nn.Sequential:
    """Return a convolution, its batch norm and a ReLU."""
    layer = convolution(num_in, num_out, kernel, stride)
    return nn.Sequential(layer, nn.BatchNorm2d(num_out), nn.ReLU(inplace=True))
