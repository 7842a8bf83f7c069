"""The ResNet of the report: exact counts, shapes, learning, and what a family promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tinysight.data import shapes
from tinysight.models import MODELS, build, count_multiply_adds, count_parameters
from tinysight.models.initialisation import variance_scaling

# name, options, trainable parameters at 200 classes (Wu et al. 2017 print 11.28 M for 18 layers)
COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("resnet", {"n": 2}, 11_283_336),
    ("resnet", {"n": 2, "first_stride": 1}, 11_279_112),
    ("resnet", {"n": 1}, 5_012_616),
    ("resnet", {"n": 1, "first_stride": 1}, 5_008_392),
    ("resnet", {"n": 2, "filters": (16, 32, 64, 128)}, 728_184),
    ("resnet", {"n": 1, "filters": (16, 32, 64, 128)}, 335_544),
]
SMALL = {"n": 1, "filters": (8, 16)}


def _resnet(num_classes: int = 5, **options: Any) -> nn.Module:
    model = build("resnet", num_classes, {**SMALL, **options})
    variance_scaling(model, generator=torch.Generator().manual_seed(0))
    return model.eval()


@pytest.mark.parametrize(("name", "options", "count"), COUNTS)
def test_parameters_are_counted_exactly(name: str, options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        model = build(name, 200, options)
    assert count_parameters(model) == count


def test_every_model_has_a_row() -> None:
    assert set(MODELS) == {name for name, _, _ in COUNTS}


def test_multiply_adds_at_56_pixels_are_those_of_the_report() -> None:
    model = build("resnet", 200, {"n": 2}).train()
    assert round(count_multiply_adds(model, 56) / 1e9, 3) == 0.488
    assert model.training and not model.stem[0]._forward_hooks  # type: ignore[union-attr,index]


@pytest.mark.parametrize("size", [32, 56, 64, 128])
def test_features_have_the_promised_shape(size: int) -> None:
    model = _resnet()
    images = torch.zeros(2, 3, size, size)
    with torch.no_grad():
        features = model.forward_features(images)  # type: ignore[operator]
        logits = model(images)
    assert features.shape == (2, model.num_features, size // 4, size // 4) and model.num_features == 16
    assert logits.shape == (2, 5)


def test_strides_are_those_of_the_two_readings() -> None:
    images = torch.zeros(1, 3, 56, 56)
    with torch.no_grad():
        assert _resnet(filters=(8, 8, 8, 8)).forward_features(images).shape[-1] == 4  # type: ignore[operator]
        assert _resnet(filters=(8, 8, 8, 8), first_stride=1).forward_features(images).shape[-1] == 7  # type: ignore[operator]


@pytest.mark.parametrize("num_classes", [1, 2, 1000])
def test_any_number_of_classes(num_classes: int) -> None:
    with torch.no_grad():
        assert _resnet(num_classes)(torch.zeros(1, 3, 32, 32)).shape == (1, num_classes)


def test_bytes_and_floats_are_normalised_alike() -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    model = _resnet()
    model.normalise.set_statistics(torch.tensor([100.0, 120.0, 140.0]), torch.tensor([50.0, 0.0, 60.0]))  # type: ignore[union-attr,operator]
    normalised = model.normalise(images)  # type: ignore[operator]
    assert torch.equal(normalised, model.normalise(images.float()))  # type: ignore[operator]
    assert torch.allclose(normalised[:, 0], (images[:, 0].float() - 100) / 50)
    assert torch.allclose(normalised[:, 1], images[:, 1].float() - 120)  # a deviation of 0 does not divide
    assert {"normalise.mean", "normalise.std"} <= model.state_dict().keys()


def test_bf16_and_channels_last_give_nearly_the_same_logits() -> None:
    model = _resnet(filters=(16, 32))
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 255
    with torch.no_grad():
        plain = model(images)
        fast = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.autocast("cpu", torch.bfloat16):
            close = fast(images.contiguous(memory_format=torch.channels_last)).float()
    assert close.isfinite().all()
    assert (close - plain).abs().max() < 0.05 * plain.abs().max()


def test_it_overfits_64_drawn_images() -> None:
    _, draw = shapes.listing(num_train=64, num_minival=0, num_val=0, num_test=0, image_size=32)
    images = torch.from_numpy(np.stack([draw(row) for row in range(64)]))[:, ::2, ::2].permute(0, 3, 1, 2)
    labels = torch.arange(64) % 24
    model = _resnet(24, filters=(16, 32)).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        assert (model.eval()(images).argmax(dim=1) == labels).float().mean() > 0.98


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"m": 1}, "no option 'm'; there are n, filters, first_stride"),
        ({"n": 0}, "needs 1 unit"),
        ({"n": 1.5}, "expected a value like 2"),
        ({"n": True}, "expected a value like 2"),
        ({"filters": ()}, "give the channels"),
        ({"filters": (0, 1)}, "give the channels"),
        ({"filters": (4, 8)}, "8 or more"),
        ({"filters": 3}, "expected a value like"),
        ({"first_stride": 3}, "allowed: 1, 2"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build("resnet", 5, options)


def test_an_unknown_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean resnet"):
        build("resnett", 5, {})
