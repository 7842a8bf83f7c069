"""What every family of classifiers promises, tried on narrow members."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tinysight.data import shapes
from tinysight.models import MODELS, create_model
from tinysight.models.classifier import Classifier
from tinysight.models.init import variance_scaling
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.weights import load_weights, weights_bytes

VGG = {"filters": (8, 16, 32, 32, 32), "hidden": 64}
# model, options, by what the size of the features is divided
FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "resnet": ("resnet", {"n": 1, "filters": (16, 32)}, 4),
    "resnet-squeezed": (
        "resnet",
        {"units": (1, 2), "filters": (16, 32), "squeeze": 4, "pooled_shortcut": True},
        4,
    ),
    "inception_resnet": ("inception_resnet", {"n": 1, "width": 0.125}, 8),
    "inception_resnet-v4": ("inception_resnet", {"n": 1, "width": 0.125, "stem": "v4"}, 8),
    "vgg16": ("vgg", VGG, 16),
    "efficientnet_lite": ("efficientnet_lite", {"width": 0.125}, 32),
    "imagenet_resnet": ("imagenet_resnet", {"width": 8}, 32),
    "imagenet_resnet50": ("imagenet_resnet", {"depth": 50, "width": 4}, 32),
    "vgg19": ("vgg", {**VGG, "depth": 19, "linear_convolutions": False}, 16),
}
ELSEWHERE = [f for f in FAMILIES if FAMILIES[f][0] in ("efficientnet_lite", "imagenet_resnet")]
every_family = pytest.mark.parametrize("family", FAMILIES)


def create(family: str, num_classes: int = 5, **changes: Any) -> Classifier:
    name, options, _ = FAMILIES[family]
    model = create_model(name, num_classes, **{**options, **changes})
    variance_scaling(model, generator=torch.Generator().manual_seed(0))
    return model.eval()


def random_images(count: int, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def test_every_model_is_tested() -> None:
    assert set(MODELS) == {name for name, _, _ in FAMILIES.values()}


@every_family
@pytest.mark.parametrize("size", [32, 56, 64, 100, 128])
def test_features_and_logits_have_the_promised_shapes(family: str, size: int) -> None:
    model, images = create(family), random_images(2, size)
    with torch.no_grad():
        features, logits = model.forward_features(images), model(images)
        assert torch.equal(model.forward_head(features), logits)
    side = math.ceil(size / FAMILIES[family][2])
    assert features.shape == (2, model.num_features, side, side)
    assert logits.shape == (2, 5) and logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


@every_family
@pytest.mark.parametrize("num_classes", [1, 2, 1000])
def test_any_number_of_classes(family: str, num_classes: int) -> None:
    with torch.no_grad():
        assert create(family, num_classes)(random_images(1)).shape == (1, num_classes)


@every_family
def test_images_of_bytes_and_floats_are_normalized_alike_and_once(family: str) -> None:
    images, model = random_images(2), create(family)
    mean, std = torch.tensor([100.0, 120.0, 140.0]), torch.tensor([50.0, 0.0, 60.0])
    model.normalize.set_statistics(mean, std)
    normalized = model.normalize(images)
    assert torch.equal(normalized, model.normalize(images.float()))
    assert torch.allclose(normalized[:, 0], (images[:, 0].float() - 100) / 50)
    # A deviation of 0 does not divide.
    assert torch.allclose(normalized[:, 1], images[:, 1].float() - 120)
    assert {"normalize.mean", "normalize.std"} <= model.state_dict().keys()
    outputs: list[torch.Tensor] = []
    model.normalize.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        model(images)
    assert len(outputs) == 1 and torch.equal(outputs[0], normalized)


@every_family
def test_bf16_and_channels_last_give_nearly_the_same_logits(family: str) -> None:
    model, images = create(family), random_images(8).float()
    with torch.no_grad():
        plain = model(images)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.contiguous(memory_format=torch.channels_last)
        assert model.forward_features(images).is_contiguous(memory_format=torch.channels_last)
        same = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            close = model(images).float()
    assert torch.allclose(same, plain, atol=1e-4 * float(plain.abs().max()))
    assert (close - plain).abs().max() < 0.05 * plain.abs().max()


# not ImageNet's: one position of features at 32 pixels is too little to begin from nothing
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ELSEWHERE])
def test_it_overfits_64_drawn_images(family: str) -> None:
    source = shapes.Shapes(num_train=64, num_minival=0, num_val=0, num_test=0, image_size=32)
    images = torch.from_numpy(np.stack([source.decode(row) for row in range(64)]))
    images, labels = images.permute(0, 3, 1, 2), torch.arange(64) % 24
    model = create(family, 24, **({} if family.startswith("resnet") else {"dropout": 0.0})).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        assert (model.eval()(images).argmax(dim=1) == labels).float().mean() > 0.95


def freeze_norms(model: nn.Module) -> nn.Module:
    """Put batch norms in evaluation mode: dropout alone then differs between the modes."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    return model


@pytest.mark.parametrize("family", [family for family in FAMILIES if family[:3] != "vgg"])
def test_frozen_norms_keep_their_statistics_and_are_trained(family: str) -> None:
    model = create(family)
    model.frozen_norms = True
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()(random_images(4)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.frozen_norms = False
    model.train()(random_images(4))
    assert not all(torch.equal(value, before[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize("family", [f for f in FAMILIES if f[:6] in ("incept", "vgg16", "vgg19")])
def test_dropout_is_applied_in_training_only(family: str) -> None:
    images = random_images(2)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = create(family)
        assert torch.equal(model(images), model(images))
        freeze_norms(model.train())
        assert not torch.equal(model(images), model(images))
        without = freeze_norms(create(family, dropout=0).train())
        assert torch.equal(without(images), without(images))


@every_family
def test_every_parameter_gets_a_gradient_under_distributed_data_parallel(family: str) -> None:
    model = create(family).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        _two_passes(model)
        dist.barrier()
    finally:
        dist.destroy_process_group()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def _two_passes(model: nn.Module) -> None:
    """Go forward and backward twice; what holds the process group is gone before it ends.

    Held longer, the group waits for its threads while they wait for the interpreter.
    """
    forward = DistributedDataParallel(model, gradient_as_bucket_view=True)
    for _ in range(2):  # the second pass complains when the first left a parameter out
        loss = nn.functional.cross_entropy(forward(random_images(4)), torch.arange(4))
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]


@every_family
def test_a_weights_file_restores_the_model(family: str, tmp_path: Path) -> None:
    name, options, _ = FAMILIES[family]
    model = create(family, 3)
    metadata = ModelMetadata(
        model=name,
        options=options,
        class_names=("a", "b", "c"),
        class_ids=("1", "2", "3"),
        image_size=32,
        crop=32,
        input_size=32,
        flip_average=False,
        recipe="test",
        data="small",
        version="0",
    )
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weights_bytes(model, metadata))
    restored, read = load_weights(path)
    with torch.no_grad():
        assert read == metadata
        assert torch.equal(restored(random_images(2)), model(random_images(2)))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_can_be_created_without_memory(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 200)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("resnett", "resnet"), ("inception-resnet", "inception_resnet"), ("vgg16", "vgg")],
)
def test_an_unknown_model_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {nearest}\\?"):
        create_model(name, 5)


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("resnet", "m", 1, "no option 'm'; there are n, filters, first_stride"),
        ("resnet", "n", 0, "1 or more units"),
        ("resnet", "n", 1.5, "expected a whole number"),
        ("resnet", "n", True, "expected a whole number"),
        ("resnet", "filters", (), "the channels of each block"),
        ("resnet", "filters", (0, 1), "the channels of each block"),
        ("resnet", "filters", 3, "expected whole numbers with commas"),
        ("resnet", "first_stride", 3, "allowed: 1, 2"),
        ("resnet", "stem_kernel", 4, "allowed: 1, 3, 5, 7"),
        ("resnet", "stem_stride", 3, "allowed: 1, 2"),
        ("inception_resnet", "m", 1, "no option 'm'; there are n, stem, scale, dropout, width"),
        ("inception_resnet", "n", 0, "1 or more modules"),
        ("inception_resnet", "stem", "v3", "is 'v3'; allowed: report, v4"),
        ("inception_resnet", "stem", 4, "expected a word"),
        ("inception_resnet", "scale", 0.0, "above 0, at most 1"),
        ("inception_resnet", "scale", 1.5, "above 0, at most 1"),
        ("inception_resnet", "dropout", 1.0, "0 to below 1"),
        ("inception_resnet", "dropout", -0.1, "0 to below 1"),
        ("inception_resnet", "dropout", math.nan, "0 to below 1"),
        ("inception_resnet", "dropout", True, "expected a number"),
        ("inception_resnet", "width", 0.0, "1/32 to 8"),
        ("inception_resnet", "width", 100, "1/32 to 8"),
        ("vgg", "m", 1, "there are depth, linear_convolutions, dropout, filters, hidden"),
        ("vgg", "depth", 17, "is 17; allowed: 16, 19"),
        ("vgg", "depth", 16.0, "expected a whole number"),
        ("vgg", "linear_convolutions", 1, "expected true or false"),
        ("vgg", "dropout", 1.0, "0 to below 1"),
        ("vgg", "dropout", -0.1, "0 to below 1"),
        ("vgg", "filters", (64, 128), "the channels of each block"),
        ("vgg", "filters", (0, 1, 1, 1, 1), "the channels of each block"),
        ("vgg", "hidden", 0, "1 or more units"),
    ],
)
def test_a_wrong_option_is_refused(name: str, option: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        create_model(name, 5, **{option: value})
    assert option in str(error.value)
