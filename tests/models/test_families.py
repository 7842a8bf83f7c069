"""What every family promises, on narrow members: shapes, learning, precision, layout, processes,
files.
"""

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

from tinysight.data.shapes import Shapes
from tinysight.models import MODELS, create_model
from tinysight.models.init import variance_scaling
from tinysight.predict.weights import ModelMetadata, load_weights, weights_bytes

VGG = {"filters": (8, 16, 32, 32, 32), "hidden": 64}
FAMILIES: dict[
    str, tuple[str, dict[str, Any], int]
] = {  # model, options, what the features' size is divided by
    "resnet": ("resnet", {"n": 1, "filters": (16, 32)}, 4),
    "inception_resnet": ("inception_resnet", {"n": 1, "width": 0.125}, 8),
    "inception_resnet-v4": ("inception_resnet", {"n": 1, "width": 0.125, "stem": "v4"}, 8),
    "vgg16": ("vgg", VGG, 16),
    "vgg19": ("vgg", {**VGG, "depth": 19, "linear_convolutions": False}, 16),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def _build(family: str, num_classes: int = 5, **changes: Any) -> Any:
    name, options, _ = FAMILIES[family]
    model = create_model(name, num_classes, **{**options, **changes})
    variance_scaling(model, generator=torch.Generator().manual_seed(0))
    return model.eval()


def _images(count: int, size: int = 32, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def test_every_model_is_here() -> None:
    assert set(MODELS) == {name for name, _, _ in FAMILIES.values()}


@every_family
@pytest.mark.parametrize("size", [32, 56, 64, 100, 128])
def test_features_and_logits_have_the_promised_shapes(family: str, size: int) -> None:
    model, images = _build(family), _images(2, size)
    with torch.no_grad():
        features, logits = model.forward_features(images), model(images)
    side = math.ceil(size / FAMILIES[family][2])
    assert features.shape == (2, model.num_features, side, side)
    assert logits.shape == (2, 5) and logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


@every_family
@pytest.mark.parametrize("num_classes", [1, 2, 1000])
def test_any_number_of_classes(family: str, num_classes: int) -> None:
    with torch.no_grad():
        assert _build(family, num_classes)(_images(1)).shape == (1, num_classes)


@every_family
def test_bytes_and_floats_are_normalized_alike(family: str) -> None:
    images, model = _images(2), _build(family)
    model.normalize.set_statistics(
        torch.tensor([100.0, 120.0, 140.0]), torch.tensor([50.0, 0.0, 60.0])
    )
    normalized = model.normalize(images)
    assert torch.equal(normalized, model.normalize(images.float()))
    assert torch.allclose(normalized[:, 0], (images[:, 0].float() - 100) / 50)
    assert torch.allclose(
        normalized[:, 1], images[:, 1].float() - 120
    )  # a deviation of 0 does not divide
    assert {"normalize.mean", "normalize.std"} <= model.state_dict().keys()
    seen: list[torch.Tensor] = []
    model.normalize.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model(images)
    assert len(seen) == 1 and torch.equal(seen[0], normalized)


@every_family
def test_bf16_and_channels_last_give_nearly_the_same_logits(family: str) -> None:
    model, images = _build(family), _images(8).float()
    with torch.no_grad():
        plain = model(images)
        model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        same = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            close = model(images).float()
    assert torch.allclose(same, plain, atol=1e-4 * float(plain.abs().max()))
    assert close.isfinite().all()
    assert (close - plain).abs().max() < 0.05 * plain.abs().max()


@every_family
def test_channels_last_is_kept_to_the_features(family: str) -> None:
    model = _build(family).to(memory_format=torch.channels_last)
    with torch.no_grad():
        features = model.forward_features(_images(2).contiguous(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)


@every_family
def test_it_overfits_64_drawn_images(family: str) -> None:
    shapes = Shapes(num_train=64, image_size=32)
    images = torch.from_numpy(np.stack([shapes.decode(row) for row in range(64)])).permute(
        0, 3, 1, 2
    )
    labels = torch.arange(64) % 24
    model = _build(family, 24, **({} if family == "resnet" else {"dropout": 0.0})).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        assert (model.eval()(images).argmax(dim=1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "resnet"])
def test_dropout_strikes_in_training_only(family: str) -> None:
    images = _images(2)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = _build(family)
        assert torch.equal(model(images), model(images))
        _still(model.train())
        assert not torch.equal(model(images), model(images))
        without = _still(_build(family, dropout=0).train())
        assert torch.equal(without(images), without(images))


def _still(model: nn.Module) -> nn.Module:
    """Put batch norms on their running statistics: dropout is then all that training does
    differently.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    return model


@every_family
def test_a_step_of_processes_reaches_every_parameter(family: str) -> None:
    model = _build(family).train().to(memory_format=torch.channels_last)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        forward = DistributedDataParallel(model, gradient_as_bucket_view=True)
        for _ in range(2):  # the second pass complains when the first left a parameter out
            loss = nn.functional.cross_entropy(forward(_images(4)), torch.arange(4))
            model.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
    finally:
        dist.destroy_process_group()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@every_family
def test_a_file_of_weights_gives_the_model_back(family: str, tmp_path: Path) -> None:
    name, options, _ = FAMILIES[family]
    model = _build(family, 3)
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
    found, read = load_weights(path)
    with torch.no_grad():
        assert read == metadata and torch.equal(found(_images(2)), model(_images(2)))


@pytest.mark.parametrize("name", MODELS)
def test_it_is_built_without_memory(name: str) -> None:
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
