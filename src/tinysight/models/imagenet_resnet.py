"""ResNet-18, 34 and 50 for ImageNet (He et al. 2015, arXiv:1512.03385), encoders trained elsewhere.

Layers have the names that torchvision and timm give them, so that their weights fit as they are.
The stride of a bottleneck is in its 3x3 convolution, as in both ("v1.5").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.models.classifier import Classifier, check_option
from tinysight.models.layers import convolution

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
EXPANSION = 4  # of a bottleneck's channels


class Residual(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1, and a shortcut; ReLU last."""

    def __init__(self, num_in: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        num_out = width * EXPANSION if bottleneck else width
        self.conv1 = convolution(num_in, width, *((1, 1) if bottleneck else (3, stride)))
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride if bottleneck else 1)
        self.bn2 = nn.BatchNorm2d(width)
        if bottleneck:
            self.conv3 = convolution(width, num_out, 1)
            self.bn3 = nn.BatchNorm2d(num_out)
        self.bottleneck, self.downsample = bottleneck, nn.Sequential()
        if stride != 1 or num_in != num_out:
            layer = convolution(num_in, num_out, 1, stride)
            self.downsample = nn.Sequential(layer, nn.BatchNorm2d(num_out))

    def forward(self, x: Tensor) -> Tensor:
        inside = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.bottleneck:
            inside = self.bn3(self.conv3(F.relu(inside, inplace=True)))
        return F.relu(inside + self.downsample(x), inplace=True)


class ImageNetResNet(Classifier):
    """ResNet-18, 34 or 50 with ImageNet's stem: 7x7 of stride 2, then max-pooling of stride 2.

    Args:
        depth: 18, 34 or 50.
        width: channels of the stem, 64 of the published weights.
        features: 1, or 2 for the maps of the third stage, too, pooled to the last one's size.
    """

    def __init__(
        self, num_classes: int, *, depth: int = 18, width: int = 64, features: int = 1
    ) -> None:
        super().__init__()
        check_option("depth", depth, depth in BLOCKS, "18, 34, 50")
        check_option("width", width, width >= 1, "1 or more channels")
        check_option("features", features, features in (1, 2), "1, 2")
        bottleneck, num_in, stages = depth >= 50, width, []
        self.conv1 = convolution(3, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)
        for number, repetitions in enumerate(BLOCKS[depth]):
            units, inside = [], width * 2**number
            for index in range(repetitions):
                stride = 2 if number and not index else 1
                units.append(Residual(num_in, inside, stride, bottleneck=bottleneck))
                num_in = inside * EXPANSION if bottleneck else inside
            stages.append(nn.Sequential(*units))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.num_kept = features
        self.num_features = num_in + num_in // 2 * (features - 1)
        self.head = nn.Linear(self.num_features, num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in 0..255 -> features after the last ReLU of a stage, or of two."""
        x = F.relu(self.bn1(self.conv1(self.normalize(images))), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        before = self.layer3(self.layer2(self.layer1(x)))
        last: Tensor = self.layer4(before)
        if self.num_kept == 1:
            return last
        kept = F.adaptive_avg_pool2d(before, (last.shape[2], last.shape[3]))
        return torch.cat((kept, last), dim=1)
