"""The report's ResNet for 64x64 images (Wu et al. 2017, section 3.2, Fig. 2).

A 7x7 stem of stride 1 without max-pooling; four building blocks of 2n 3x3 convolutions; option B
shortcuts. Read literally, "down-sampling is performed at the first layer of each building block"
means stride 2 in all four blocks (11,283,336 parameters at n = 2 and 200 classes); `first_stride=1`
is the other reading (11,279,112). Both round to the published 11.28 M.

Deliberate difference: options for another stem. The report's stem works at full resolution, and its
64 channels take a third of a training step on a CPU; a 5x5 stem of stride 2 with `first_stride=1`
leaves the sizes of all later feature maps as they were.

Two options found since cost next to nothing: squeeze-and-excitation (Hu et al. 2018,
arXiv:1709.01507), and shortcuts that average before they subsample (He et al. 2019,
arXiv:1812.01187, ResNet-D). experiments/011 has what they bring.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.models.classifier import Classifier, check_option
from tinysight.models.layers import SqueezeExcitation, convolution, unit


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions and a shortcut; batch norm on both branches, ReLU after their sum."""

    def __init__(
        self, num_in: int, num_out: int, stride: int, *, squeeze: int, pooled_shortcut: bool
    ) -> None:
        super().__init__()
        self.conv1 = convolution(num_in, num_out, 3, stride)
        self.norm1 = nn.BatchNorm2d(num_out)
        self.conv2 = convolution(num_out, num_out, 3)
        self.norm2 = nn.BatchNorm2d(num_out)
        self.scale: nn.Module = SqueezeExcitation(num_out, squeeze) if squeeze else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            pooled = stride != 1 and pooled_shortcut
            layers: list[nn.Module] = [convolution(num_in, num_out, 1, 1 if pooled else stride)]
            if pooled:  # windows at an odd border hold fewer positions, as the strided 3x3 has them
                layers.insert(0, nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
            self.shortcut = nn.Sequential(*layers, nn.BatchNorm2d(num_out))

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.norm1(self.conv1(x)), inplace=True)
        residual = self.scale(self.norm2(self.conv2(residual)))
        return F.relu(residual + self.shortcut(x), inplace=True)


class ResNet(Classifier):
    """The report's ResNet.

    Args:
        n: residual units per block; 1 gives 10 layers, 2 gives 18.
        filters: channels of the four blocks; the stem has the first number.
        first_stride: stride of the first block, 2 (the report's text) or 1.
        stem_kernel: side of the stem's kernel, odd.
        stem_stride: stride of the stem, 1 (the report's) or 2.
        features: number of last blocks whose maps, pooled to the last's size, are the features.
        units: residual units of each block, where they differ; (0,): n of each.
        squeeze: channels per hidden value of each unit's squeeze-and-excitation; 0: none.
        pooled_shortcut: average 2x2 positions before a shortcut's convolution, not drop three.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        n: int = 2,
        filters: tuple[int, ...] = (64, 128, 256, 512),
        first_stride: int = 2,
        stem_kernel: int = 7,
        stem_stride: int = 1,
        features: int = 1,
        units: tuple[int, ...] = (0,),
        squeeze: int = 0,
        pooled_shortcut: bool = False,
    ) -> None:
        super().__init__()
        check_option("n", n, n >= 1, "1 or more units per block")
        channels = "the channels of each block, such as 64,128,256,512"
        check_option("filters", filters, bool(filters) and min(filters) >= 1, channels)
        check_option("first_stride", first_stride, first_stride in (1, 2), "1, 2")
        odd = stem_kernel > 0 and stem_kernel % 2 == 1
        check_option("stem_kernel", stem_kernel, odd, "1, 3, 5, 7, ...")
        check_option("stem_stride", stem_stride, stem_stride in (1, 2), "1, 2")
        some = 1 <= features <= len(filters)
        check_option("features", features, some, f"1 to {len(filters)}, the number of blocks")
        units = (n,) * len(filters) if units == (0,) else units
        one_each = len(units) == len(filters) and min(units) >= 1
        check_option("units", units, one_each, "1 or more units for each block, such as 1,2,2,1")
        check_option("squeeze", squeeze, squeeze >= 0, "0, or channels per hidden value")
        self.stem = unit(3, filters[0], stem_kernel, stem_stride)
        make = partial(ResidualUnit, squeeze=squeeze, pooled_shortcut=pooled_shortcut)
        blocks = []
        num_in = filters[0]
        for index, (num_out, count) in enumerate(zip(filters, units, strict=True)):
            first = make(num_in, num_out, first_stride if index == 0 else 2)
            others = [make(num_out, num_out, 1) for _ in range(count - 1)]
            blocks.append(nn.Sequential(first, *others))
            num_in = num_out
        self.blocks = nn.Sequential(*blocks)
        self.num_kept = features
        self.num_features = sum(filters[-features:])
        self.head = nn.Linear(self.num_features, num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in 0..255 -> features after the last ReLU of a block, or several."""
        x = self.stem(self.normalize(images))
        maps: list[Tensor] = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        if self.num_kept == 1:
            return maps[-1]
        kept = [F.adaptive_avg_pool2d(m, x.shape[-2:]) for m in maps[-self.num_kept : -1]]
        return torch.cat((*kept, x), dim=1)
