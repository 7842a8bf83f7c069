"""Small models, each written as ONNX once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from tinysight.exporting.graph import trace
from tinysight.models import create_model
from tinysight.models.localizer import Localizer
from tinysight.predict.metadata import HEAD_SETTINGS, ModelMetadata
from tinysight.predict.onnx_file import onnx_bytes
from tinysight.predict.weights import weights_bytes

NAMES = ("ladybird", "été", "</script><img src=x onerror=alert(1)>")
DECODING = {"decoding": "filter", "threshold": 0.2, "nms_iou": 0.5, "class_loss_weight": 1.0}
HEADS: dict[str, dict[str, Any]] = {
    "mlp": {"grid": 1},
    "lstm": {"grid": 2, "num_steps": 3, "feedback": True, "shared": False},
    "centernet": {"grid": 4, "box_classes": True},
}


class Written(NamedTuple):
    """One model in two files."""

    weights: Path
    onnx: Path
    body: bytes  # of the ONNX file


def metadata_of(kind: str) -> ModelMetadata:
    """A classifier's, which crops, enlarges and averages over the mirror image, or a localizer's
    with one of HEADS.
    """
    head = {"width": 128, "num_steps": 5, "feedback": False, "shared": False, **HEADS.get(kind, {})}
    localizer = {} if kind == "classifier" else {"head": kind, **head, **DECODING}
    return ModelMetadata(
        model="resnet", options={"n": 1, "filters": (4, 8)}, class_names=NAMES,
        class_ids=("a", "b", "c"), image_size=32, crop=32 if localizer else 28,
        input_size=24 if kind == "mlp" else 32, flip_average=kind != "mlp", recipe="test",
        data="small", version="0", localizer=localizer,
    )  # fmt: skip


def randomize(model: nn.Module) -> None:
    """Draw all weights and statistics, so that no layer passes unnoticed."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if value.dtype == torch.float32 and "normalize" not in name:
            spread = torch.rand(value.shape, generator=generator)
            value.copy_(spread + 0.5 if "norm" in name or "var" in name else spread - 0.4)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Written]:
    """Write the model of a kind, "classifier" or one of HEADS, as safetensors and ONNX."""

    @cache
    def write(kind: str) -> Written:
        metadata, folder = metadata_of(kind), tmp_path_factory.mktemp(kind)
        classifier = create_model("resnet", 3, **metadata.options)
        model: Any = classifier
        if kind != "classifier":
            names = HEAD_SETTINGS
            own = {n: metadata.localizer[n] for n in names}
            model = Localizer(classifier, num_classes=3 * metadata.has_box_classes, **own)
        with torch.no_grad():
            randomize(model)
        body = trace(model.eval(), metadata)
        files = Written(folder / "model.safetensors", folder / "model.onnx", body)
        files.weights.write_bytes(weights_bytes(model, metadata))
        files.onnx.write_bytes(onnx_bytes(body, metadata))
        return files

    return write
