"""EfficientNet-Lite (Tan and Le 2019, arXiv:1905.11946; Google 2020), an encoder trained elsewhere.

EfficientNet-Lite is EfficientNet without squeeze-and-excitation, with ReLU6 in place of swish, and
with the first and last layers of the same width in all sizes. Convolutions pad as TensorFlow's
"same" does: where a side is even and the stride 2, one more at its end than at its start.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.models.classifier import Classifier, check_option

# expansion, channels, repetitions, stride of the first, kernel
STAGES = (
    *((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)),
    *((6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
)


class SameConvolution(nn.Conv2d):
    """A convolution without bias that divides the size by its stride, rounded up."""

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__(num_in, num_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]
        )
        if kernel > 1 and height == width and height % 2 == 0:
            padding = height // 2
            return F.conv2d(x, self.weight, self.bias, stride, padding, groups=self.groups)
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(x, self.weight, self.bias, stride, groups=self.groups)


def _unit(
    num_in: int, num_out: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    layer = SameConvolution(num_in, num_out, kernel, stride, groups)
    return nn.Sequential(layer, nn.BatchNorm2d(num_out, eps=1e-3))


class InvertedResidual(nn.Module):
    """1x1 to more channels, a convolution per channel, 1x1 to fewer; a shortcut where it fits."""

    def __init__(self, num_in: int, num_out: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        inside = num_in * expansion
        self.expand = _unit(num_in, inside) if expansion > 1 else None
        self.depthwise = _unit(inside, inside, kernel, stride, groups=inside)
        self.project = _unit(inside, num_out)
        self.has_shortcut = stride == 1 and num_in == num_out

    def inside(self, x: Tensor) -> Tensor:
        """Return what the last 1x1 convolution takes."""
        x = x if self.expand is None else F.relu6(self.expand(x))
        return F.relu6(self.depthwise(x))

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.project(self.inside(x))
        return projected + x if self.has_shortcut else projected


class EfficientNetLite(Classifier):
    """EfficientNet-Lite0, or a narrower or wider one.

    Args:
        width: factor on the channels of every layer; 1 is Lite0's.
        features: 1, or 2 for those inside the last block in addition to those of the last layer.
    """

    def __init__(self, num_classes: int, *, width: float = 1.0, features: int = 1) -> None:
        super().__init__()
        check_option("width", width, 1 / 16 <= width <= 8, "1/16 to 8")
        check_option("features", features, features in (1, 2), "1, 2")
        first, last, *channels = (
            max(1, round(number * width)) for number in (32, 1280, *(stage[1] for stage in STAGES))
        )
        self.stem = _unit(3, first, 3, stride=2)
        layers, num_in = [], first
        for num_out, (expansion, _, repetitions, stride, kernel) in zip(
            channels, STAGES, strict=True
        ):
            for index in range(repetitions):
                own = stride if index == 0 else 1
                layers.append(InvertedResidual(num_in, num_out, expansion, own, kernel))
                num_in = num_out
        self.layers = nn.Sequential(*layers)
        self.top = _unit(num_in, last)
        self.num_kept = features
        inside = channels[-2] * STAGES[-1][0]
        self.num_features = last + inside * (features - 1)
        self.head = nn.Linear(self.num_features, num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in 0..255 -> features after the last ReLU."""
        x = F.relu6(self.stem(self.normalize(images)))
        *layers, last = self.layers
        assert isinstance(last, InvertedResidual)
        for layer in layers:
            x = layer(x)
        inside = last.inside(x)
        features: Tensor = F.relu6(self.top(last.project(inside)))
        return features if self.num_kept == 1 else torch.cat((features, inside), dim=1)
