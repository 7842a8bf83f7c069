"""The command line with one more model, small enough for tests: run it as `python -m tinysight` is
run.
"""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor, nn

from tinysight.models.classifier import Classifier


class Small(Classifier):
    """A few weights with all that has a state: dropout and, with `norm`, batch norm's running
    statistics.

    To try failures of one process among several, $TINYSIGHT_TEST_FAIL_RANK names a process whose
    third step fails."""

    def __init__(
        self, num_classes: int, *, dropout: float = 0.0, norm: bool = True, seconds: float = 0.0
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8 * 16, num_classes)
        self.num_features = 8
        self.seconds = seconds  # that a step takes at least
        self.num_calls = 0

    def forward_features(self, images: Tensor) -> Tensor:
        features: Tensor = torch.relu(self.norm(self.convolution(self.normalize(images))))
        return features

    def forward(self, images: Tensor) -> Tensor:
        self.num_calls += 1
        if (
            os.environ.get("TINYSIGHT_TEST_FAIL_RANK") == os.environ.get("RANK", "")
            and self.num_calls == 3
        ):
            raise ValueError("this process fails, as the test asked")
        time.sleep(self.seconds)
        return self.forward_head(self.forward_features(images))

    def forward_head(self, features: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(features, 4)
        logits: Tensor = self.head(self.dropout(pooled.flatten(1)))
        return logits


if __name__ == "__main__":
    from tinysight.cli import main
    from tinysight.models import MODELS

    MODELS["small"] = Small
    main()
