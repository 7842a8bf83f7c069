"""The report's Inception-ResNet for 64x64 images (Wu et al. 2017, section 3.3, Fig. 3).

It follows Inception-ResNet-v2 (Szegedy et al. 2016, arXiv:1602.07261, section 3.2). Deliberate
differences:

- Two kinds of module and one reduction, n x A and 2n x B, where the paper has three kinds, two
  reductions and 5 x A, 10 x B, 5 x C. At 200 classes n = 1, 2, 3 give 5,617,192, 8,101,256 and
  10,585,320 parameters without the stem; the published 8.3 M leaves n = 2.
- A batch norm after every convolution, including the linear 1x1 at a module's end.
- B has 1152 channels, the sum of what the reduction gives (384 + 384 + 384); the paper prints 1154.
- The residual is scaled by 0.1 in A and B; the last dropout keeps 0.5, the paper's 0.8.
- Three halvings in place of five: the first convolution has stride 1. Convolutions and pools pad
  both sides alike, so that a size is halved and rounded up: 56 -> 28 -> 14 (A) -> 7 (B).
- `stem="v4"` is the paper's stem with those strides and paddings (8,706,984 parameters).
  `stem="report"` drops its first pooled step and its last convolution (8,307,048): the report's
  words and count leave no weights for the step from 192 channels to the 384 of A, so that the
  branches' last convolutions (96 + 96) do the second halving and are concatenated with the
  max-pooled maps that they and the stem's trunk start from (3 x 64). That is our reading.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.models.classifier import Classifier, check_option
from tinysight.models.layers import convolution, unit

STEMS = ("report", "v4")


class Concatenate(nn.Module):
    """Branches that see the same maps, their outputs concatenated by channel."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class InceptionUnit(nn.Module):
    """A or B: branches, a linear 1x1 convolution to the input's channels, the scaled sum, ReLU."""

    def __init__(
        self, num_channels: int, num_inside: int, branches: Concatenate, scale: float
    ) -> None:
        super().__init__()
        self.branches = branches
        layer = convolution(num_inside, num_channels, 1)
        self.linear = nn.Sequential(layer, nn.BatchNorm2d(num_channels))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.add(x, self.linear(self.branches(x)), alpha=self.scale), inplace=True)


class InceptionResNet(Classifier):
    """The report's Inception-ResNet.

    Args:
        n: modules of kind A; there are 2n of kind B.
        stem: "report" or "v4", see above.
        scale: what a residual is multiplied by before it is added, above 0, at most 1.
        dropout: probability that a pooled feature is dropped in training.
        width: factor on the channels of every layer; 1 is the report's.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        n: int = 2,
        stem: str = "report",
        scale: float = 0.1,
        dropout: float = 0.5,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        check_option("n", n, n >= 1, "1 or more modules of kind A")
        check_option("stem", stem, stem in STEMS, ", ".join(STEMS))
        check_option("scale", scale, 0 < scale <= 1, "above 0, at most 1")
        check_option("dropout", dropout, 0 <= dropout < 1, "0 to below 1")
        check_option("width", width, 1 / 32 <= width <= 8, "1/32 to 8")
        self.stem, num_a = (_report_stem if stem == "report" else _v4_stem)(width)
        self.blocks_a = nn.Sequential(*[_module_a(num_a, width, scale) for _ in range(n)])
        self.reduction, num_b = _reduction(num_a, width)
        self.blocks_b = nn.Sequential(*[_module_b(num_b, width, scale) for _ in range(2 * n)])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(num_b, num_classes)
        self.num_features = num_b

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in 0..255 -> features after the last module's ReLU."""
        x = self.blocks_a(self.stem(self.normalize(images)))
        features: Tensor = self.blocks_b(self.reduction(x))
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """Features (B, num_features, h, w) -> logits (B, K)."""
        logits: Tensor = self.head(self.dropout(features.mean(dim=(2, 3))))
        return logits


def _channels(width: float, *numbers: int) -> list[int]:
    return [max(1, round(number * width)) for number in numbers]


def _pool() -> nn.MaxPool2d:
    """Halve the size, rounded up, as a padded 3x3 convolution of stride 2 does."""
    return nn.MaxPool2d(3, stride=2, padding=1)


def _report_stem(width: float) -> tuple[nn.Module, int]:
    """Size S -> S / 4, 3 -> 384 channels: 32, 32, 64, then two branches."""
    c32, c64, c96 = _channels(width, 32, 64, 96)
    flat = unit(c64, c64, 1)
    wide = nn.Sequential(unit(c64, c64, 1), unit(c64, c64, (7, 1)), unit(c64, c64, (1, 7)))
    stem = nn.Sequential(
        unit(3, c32, 3),
        unit(c32, c32, 3),
        unit(c32, c64, 3, stride=2),
        Concatenate(
            _pool(),
            nn.Sequential(flat, Concatenate(_pool(), unit(c64, c96, 3, stride=2))),
            nn.Sequential(wide, Concatenate(_pool(), unit(c64, c96, 3, stride=2))),
        ),
    )
    return stem, 3 * c64 + 2 * c96


def _v4_stem(width: float) -> tuple[nn.Module, int]:
    """Size S -> S / 4, 3 -> 384 channels: Szegedy et al. 2016, Fig. 3, but first with stride 1."""
    c32, c64, c96 = _channels(width, 32, 64, 96)
    joined = c64 + c96
    wide = [unit(joined, c64, 1), unit(c64, c64, (7, 1)), unit(c64, c64, (1, 7)), unit(c64, c96, 3)]
    stem = nn.Sequential(
        unit(3, c32, 3),
        unit(c32, c32, 3),
        unit(c32, c64, 3),
        Concatenate(_pool(), unit(c64, c96, 3, stride=2)),
        Concatenate(nn.Sequential(unit(joined, c64, 1), unit(c64, c96, 3)), nn.Sequential(*wide)),
        Concatenate(_pool(), unit(2 * c96, 2 * c96, 3, stride=2)),
    )
    return stem, 4 * c96


def _module_a(num_channels: int, width: float, scale: float) -> InceptionUnit:
    """Szegedy et al. 2016, Fig. 16."""
    c32, c48, c64 = _channels(width, 32, 48, 64)
    branches = Concatenate(
        unit(num_channels, c32, 1),
        nn.Sequential(unit(num_channels, c32, 1), unit(c32, c32, 3)),
        nn.Sequential(unit(num_channels, c32, 1), unit(c32, c48, 3), unit(c48, c64, 3)),
    )
    return InceptionUnit(num_channels, 2 * c32 + c64, branches, scale)


def _reduction(num_channels: int, width: float) -> tuple[Concatenate, int]:
    """Szegedy et al. 2016, Fig. 7, with (k, l, m, n) = (256, 256, 384, 384); the size is halved."""
    k, l, m, n = _channels(width, 256, 256, 384, 384)  # noqa: E741 (the paper's letters)
    branches = Concatenate(
        _pool(),
        unit(num_channels, n, 3, stride=2),
        nn.Sequential(unit(num_channels, k, 1), unit(k, l, 3), unit(l, m, 3, stride=2)),
    )
    return branches, num_channels + n + m


def _module_b(num_channels: int, width: float, scale: float) -> InceptionUnit:
    """Szegedy et al. 2016, Fig. 17."""
    c128, c160, c192 = _channels(width, 128, 160, 192)
    flat = unit(num_channels, c192, 1)
    wide = (unit(num_channels, c128, 1), unit(c128, c160, (1, 7)), unit(c160, c192, (7, 1)))
    branches = Concatenate(flat, nn.Sequential(*wide))
    return InceptionUnit(num_channels, 2 * c192, branches, scale)
