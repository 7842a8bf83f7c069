"""The options of the ResNet; test_families.py has what every family promises."""

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


def test_units_say_how_many_each_block_has() -> None:
    model = create_model("resnet", 5, units=(1, 3), filters=(4, 8))
    kernels = [name for name in model.state_dict() if name.endswith("conv1.weight")]
    assert kernels == [f"blocks.{b}.{u}.conv1.weight" for b, u in [(0, 0), (1, 0), (1, 1), (1, 2)]]
    same = create_model("resnet", 5, units=(2, 2), filters=(4, 8)).state_dict().keys()
    assert same == create_model("resnet", 5, n=2, filters=(4, 8)).state_dict().keys()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"units": (1, 2)}, r"units is \(1, 2\); allowed: 1 or more units for each block"),
        ({"units": (1, 2, 0, 1)}, "1 or more units for each block"),
        ({"squeeze": -1}, "squeeze is -1; allowed: 0, or channels per hidden value"),
    ],
)
def test_options_that_name_no_network_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        create_model("resnet", 5, **options)


def test_a_pooled_shortcut_sees_every_position() -> None:
    """An average of the windows that a strided convolution takes one position of."""
    images = torch.zeros(1, 4, 5, 5)
    images[0, 0, 1, 1] = 8.0  # dropped by a stride of 2
    images[0, 0, 4, 4] = 8.0  # alone in its window at the border
    for pooled, expected in ((False, {(2, 2): 8.0}), (True, {(0, 0): 2.0, (2, 2): 8.0})):
        model = create_model("resnet", 5, n=1, filters=(4, 4), pooled_shortcut=pooled)
        shortcut = model.blocks[1][0].shortcut.eval()
        for layer in shortcut:
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.dirac_(layer.weight)
        with torch.no_grad():
            output = shortcut(images)[0, 0]
        assert output.shape == (3, 3)
        found = {(int(y), int(x)): round(float(output[y, x]), 3) for y, x in output.nonzero()}
        assert found == expected
