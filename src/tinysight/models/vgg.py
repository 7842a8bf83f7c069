"""The report's VGG for 64x64 images (Wu et al. 2017, section 3.4, Fig. 4).

Configurations D (16 layers) and E (19 layers) of Simonyan and Zisserman 2014 (arXiv:1409.1556),
with these differences:

- A batch norm and a PReLU, one slope per channel (He et al. 2015, arXiv:1502.01852), after every
  convolution, which keeps its bias, and after both hidden linear layers.
- The hidden layers have 2048 units, and the last max-pool is gone. The others halve the size and
  round it up, as TensorFlow's padding "SAME" does: 56 -> 28 -> 14 -> 7 -> 4.
- Dropout on the input of each of the three linear layers.
- `linear_convolutions` adds a 1x1 convolution, with norm and PReLU, at the end of blocks 3, 4, 5.
- The first linear layer takes 4x4 maps; others are resized by adaptive average pooling.

Parameters at 200 classes: 16 layers 36,720,008, the published 36.7 M; without the 1x1
convolutions 36,125,064; 19 layers without them 41,438,600, with them 42,033,544. No reading we
know gives the published 40.2 M of VGG-19.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.models.classifier import Classifier, check_option
from tinysight.models.layers import Convolution

CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # depth -> 3x3 convolutions of each block
GRID = 4  # the maps that the first linear layer takes are GRID x GRID


class VGG(Classifier):
    """The report's VGG.

    Args:
        depth: 16 or 19 layers with weights, the 1x1 convolutions not counted.
        linear_convolutions: whether blocks 3, 4 and 5 end with a 1x1 convolution.
        dropout: probability that an input of a linear layer is dropped in training.
        filters: channels of the five blocks.
        hidden: units of the two hidden linear layers.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        depth: int = 16,
        linear_convolutions: bool = True,
        dropout: float = 0.5,
        filters: tuple[int, ...] = (64, 128, 256, 512, 512),
        hidden: int = 2048,
    ) -> None:
        super().__init__()
        check_option("depth", depth, depth in CONVOLUTIONS, ", ".join(map(str, CONVOLUTIONS)))
        check_option("dropout", dropout, 0 <= dropout < 1, "0 to below 1")
        channels = "the channels of each block, such as 64,128,256,512,512"
        check_option("filters", filters, len(filters) == 5 and min(filters) >= 1, channels)
        check_option("hidden", hidden, hidden >= 1, "1 or more units")
        blocks = []
        num_in = 3
        for index, (count, num_out) in enumerate(zip(CONVOLUTIONS[depth], filters, strict=True)):
            kernels = [3] * count + [1] * (linear_convolutions and index >= 2)
            inputs = (num_in, *[num_out] * (len(kernels) - 1))
            units = [_unit(n, num_out, kernel) for n, kernel in zip(inputs, kernels, strict=True)]
            pool = [nn.MaxPool2d(2, ceil_mode=True)] if index < 4 else []
            blocks.append(nn.Sequential(*units, *pool))
            num_in = num_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Flatten(),
            *_hidden(num_in * GRID * GRID, hidden, dropout),
            *_hidden(hidden, hidden, dropout),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        self.num_features = num_in

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in 0..255 -> features after the last PReLU."""
        features: Tensor = self.blocks(self.normalize(images))
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """Features (B, num_features, h, w) -> logits (B, K)."""
        if features.shape[-2:] != (GRID, GRID):  # else pooling costs a pass and changes nothing
            features = F.adaptive_avg_pool2d(features, GRID)
        logits: Tensor = self.head(features)
        return logits


def _unit(num_in: int, num_out: int, kernel: int) -> nn.Sequential:
    layer = Convolution(num_in, num_out, kernel, padding=kernel // 2)
    return nn.Sequential(layer, nn.BatchNorm2d(num_out), nn.PReLU(num_out))


def _hidden(num_in: int, num_out: int, dropout: float) -> list[nn.Module]:
    layers = (nn.Dropout(dropout), nn.Linear(num_in, num_out))
    return [*layers, nn.BatchNorm1d(num_out), nn.PReLU(num_out)]
