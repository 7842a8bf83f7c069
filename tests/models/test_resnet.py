"""The ResNet of the report: its strides and its options; test_families.py has what every family
promises.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tinysight.models import create_model
from tinysight.models.init import variance_scaling

SMALL = {"n": 1, "filters": (4, 8)}


def _resnet(num_classes: int = 5, **options: Any) -> nn.Module:
    model = create_model("resnet", num_classes, **{**SMALL, **options})
    variance_scaling(model, generator=torch.Generator().manual_seed(0))
    return model.eval()


def test_strides_are_those_of_the_two_readings() -> None:
    images = torch.zeros(1, 3, 56, 56)
    with torch.no_grad():
        assert _resnet(filters=(4, 8, 8, 8)).forward_features(images).shape[-1] == 4  # type: ignore[operator]
        assert _resnet(filters=(4, 8, 8, 8), first_stride=1).forward_features(images).shape[-1] == 7  # type: ignore[operator]


def test_a_strided_stem_takes_the_first_blocks_stride() -> None:
    images = torch.zeros(1, 3, 56, 56)
    light = _resnet(filters=(4, 8, 8, 8), first_stride=1, stem_kernel=5, stem_stride=2)
    with torch.no_grad():
        assert light.forward_features(images).shape[-1] == 4  # type: ignore[operator]
    kernel = next(p for name, p in light.named_parameters() if name.startswith("stem"))
    assert tuple(kernel.shape) == (4, 3, 5, 5)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"m": 1}, "no option 'm'; there are n, filters, first_stride"),
        ({"n": 0}, "needs 1 unit"),
        ({"n": 1.5}, "expected a value like 2"),
        ({"n": True}, "expected a value like 2"),
        ({"filters": ()}, "give the channels"),
        ({"filters": (0, 1)}, "give the channels"),
        ({"filters": 3}, "expected a value like"),
        ({"first_stride": 3}, "allowed: 1, 2"),
        ({"stem_kernel": 4}, "allowed: 1, 3, 5, 7"),
        ({"stem_stride": 3}, "allowed: 1, 2"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        create_model("resnet", 5, **options)
