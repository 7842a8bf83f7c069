"""The contract of an image classifier, as a base class."""

from __future__ import annotations

from torch import Tensor, nn

from tinysight.models.layers import Normalize


class Classifier(nn.Module):
    """Images (B, 3, H, W) in 0..255, uint8 or float, of any size -> logits (B, K).

    A subclass is created by `Model(num_classes, *, option=default, ...)`. It sets `head` and
    `num_features`, and implements `forward_features`, and `forward_head` where the head takes
    other input than the mean of the features.
    """

    head: nn.Module  # turns features into logits
    num_features: int  # channels of `forward_features`
    frozen_norms = False  # whether batch norms keep their running statistics in training, too

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize()

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in 0..255 -> features (B, num_features, h, w)."""
        raise NotImplementedError

    def forward_head(self, features: Tensor) -> Tensor:
        """Features (B, num_features, h, w) -> logits (B, K)."""
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in 0..255 -> logits (B, K)."""
        return self.forward_head(self.forward_features(images))

    def train(self, mode: bool = True) -> Classifier:
        """Set training or evaluation mode; frozen norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norms:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


def is_of_head(name: str) -> bool:
    """Whether a parameter of a classifier or localizer is of a head, and not of the features."""
    return name.removeprefix("encoder.").startswith("head.")


def check_option(name: str, value: object, valid: bool, allowed: str) -> None:
    """Raise ValueError unless the value of an option of `create_model` is valid."""
    if not valid:
        raise ValueError(f"model.options.{name} is {value!r}; allowed: {allowed}")
