"""Exact parameters of every model at 200 classes, and multiply-adds per image of 56 pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tinysight.models import MODELS, count_multiply_adds, count_parameters, create_model

# Wu et al. 2017 print 11.28 M (ResNet, 18 layers), 8.3 M (Inception-ResNet), 36.7 M (VGG-16) and
# 40.2 M (VGG-19, which no reading gives).
GOLDEN: list[tuple[str, dict[str, Any], int, int]] = [
    ("resnet", {"n": 2}, 11_283_336, 488_161_280),
    ("resnet", {"n": 2, "first_stride": 1}, 11_279_112, 1_725_153_280),
    ("resnet", {"n": 1}, 5_012_616, 239_255_552),
    ("resnet", {"n": 1, "first_stride": 1}, 5_008_392, 800_309_248),
    ("resnet", {"n": 2, "filters": (16, 32, 64, 128)}, 728_184, 36_061_184),
    ("resnet", {"n": 1, "filters": (16, 32, 64, 128)}, 335_544, 20_504_576),
    ("inception_resnet", {}, 8_307_048, 645_393_408),
    ("inception_resnet", {"stem": "v4"}, 8_706_984, 871_787_520),
    ("inception_resnet", {"n": 1}, 5_822_984, 503_997_440),
    ("inception_resnet", {"n": 3}, 10_791_112, 786_789_376),
    ("inception_resnet", {"width": 0.25}, 566_640, 40_888_320),
    ("vgg", {}, 36_720_008, 1_036_972_032),
    ("vgg", {"linear_convolutions": False}, 36_125_064, 1_007_087_616),
    ("vgg", {"depth": 19}, 42_033_544, 1_305_931_776),
    ("vgg", {"depth": 19, "linear_convolutions": False}, 41_438_600, 1_276_047_360),
    ("efficientnet_lite", {}, 3_627_208, 29_275_072),
    ("efficientnet_lite", {"width": 0.25}, 317_056, 2_468_992),
    # torchvision's 11,689,512, 21,797,672 and 25,557,032, whose last layers have 1,000 classes
    ("imagenet_resnet", {}, 11_689_512 - 800 * 513, 129_178_624),
    ("imagenet_resnet", {"depth": 34}, 21_797_672 - 800 * 513, 266_902_528),
    ("imagenet_resnet", {"depth": 50}, 25_557_032 - 800 * 2049, 297_389_056),
]


@pytest.mark.parametrize(("name", "options", "num_parameters", "multiply_adds"), GOLDEN)
def test_parameters_and_multiply_adds_are_exact(
    name: str, options: dict[str, Any], num_parameters: int, multiply_adds: int
) -> None:
    with torch.device("meta"):
        model = create_model(name, 200, **options)
    assert count_parameters(model) == num_parameters
    assert count_multiply_adds(model, 56) == multiply_adds


def test_every_model_has_a_row() -> None:
    assert set(MODELS) == {name for name, *_ in GOLDEN}


def test_inception_resnet_without_its_stem_is_the_report_s() -> None:
    for n, count in ((1, 5_617_192), (2, 8_101_256), (3, 10_585_320)):
        for stem in ("report", "v4"):
            with torch.device("meta"):
                model = create_model("inception_resnet", 200, n=n, stem=stem)
            assert count_parameters(model) - count_parameters(model.stem) == count  # type: ignore[arg-type]


def test_counting_leaves_a_model_as_it_was() -> None:
    model = create_model("resnet", 200, n=1, filters=(4, 8)).train()
    count_multiply_adds(model, 56)
    assert model.training and not model.stem[0]._forward_hooks  # type: ignore[union-attr,index]
