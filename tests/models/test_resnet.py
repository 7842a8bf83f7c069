"""The strides and the stem of the ResNet; test_families.py has what every family promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tinysight.models import create_model

LIGHT = {"first_stride": 1, "stem_kernel": 5, "stem_stride": 2}


@pytest.mark.parametrize(
    ("options", "side", "kernel"), [({}, 4, 7), ({"first_stride": 1}, 7, 7), (LIGHT, 4, 5)]
)
def test_strides_are_those_of_the_readings_and_the_light_stem(
    options: dict[str, Any], side: int, kernel: int
) -> None:
    model = create_model("resnet", 5, n=1, filters=(4, 8, 8, 8), **options)
    with torch.no_grad():
        features = model.eval().forward_features(torch.zeros(1, 3, 56, 56))
    assert features.shape[-1] == side
    assert model.state_dict()["stem.0.weight"].shape == (4, 3, kernel, kernel)
