"""Drawn class folders, and a small network to take features from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tinysight.models import create_model
from tinysight.models.init import variance_scaling
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.weights import weights_bytes

MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Draw striped squares, with another direction and color for each class, into class folders."""

    def make(*counts: int, name: str = "own", size: int = 40, same: bool = False) -> Path:
        folder = tmp_path / name
        for label, count in enumerate(counts):
            (folder / f"class{label}").mkdir(parents=True)
            for number in range(count):
                kind = 0 if same else label
                generator = np.random.default_rng((kind, number))
                angle = kind * np.pi / len(counts) + generator.normal(0, 0.1)
                y, x = np.mgrid[:size, :size]
                wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.8)[..., None]
                color = np.array([0.3 + 0.7 * (kind % 2), 0.6, 1.0 - 0.6 * (kind % 2)])
                pixels = 128 + 60 * wave * color + generator.normal(0, 25, (size, size, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / f"class{label}" / f"{number:03d}.png")
        return folder

    return make


@pytest.fixture(scope="session")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of a small ResNet of images of 32 pixels, with random weights."""
    options = {"n": 1, "filters": (8, 16)}
    model = create_model("resnet", 3, **options)
    variance_scaling(model, generator=torch.Generator().manual_seed(0))
    metadata = ModelMetadata(
        model="resnet", options=options, class_names=("a", "b", "c"), class_ids=("a", "b", "c"),
        image_size=32, crop=32, input_size=32, flip_average=True, recipe="test", data="x",
        version="0",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    path.write_bytes(weights_bytes(model, metadata))
    return path
