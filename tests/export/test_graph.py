"""The graph that is written computes what torch does, for any number of images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tinysight.exporting import graph
from tinysight.models import create_model
from tinysight.ops.augment import resize
from tinysight.predict.onnx_file import onnx_bytes
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import weights_bytes

from .conftest import HEADS, Written, metadata_of, randomize

Write = Callable[[str], Written]
KINDS = ("classifier", *HEADS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_written_file_equals_torch_at_every_batch_size(kind: str, written: Write) -> None:
    files = written(kind)
    model, torch_model = Predictor(files.onnx), Predictor(files.weights)
    assert model.metadata == torch_model.metadata
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    for count in (1, 2, 5, 64):
        own, torchs = (each.outputs(images[:count]) for each in (model, torch_model))
        assert torchs.logits.std() > 0
        for found, expected in zip(own, torchs, strict=True):
            if expected is None:
                assert found is None and kind != "centernet"
            else:
                assert found.shape == expected.shape
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_written_file_names_its_inputs_and_has_a_dynamic_batch(
    kind: str, written: Write
) -> None:
    content = written(kind).onnx.read_bytes()
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    (images,) = model.graph.input
    assert (images.name, images.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    batch, *sides = images.type.tensor_type.shape.dim
    assert batch.dim_param == "batch" and [side.dim_value for side in sides] == [32, 32, 3]
    outputs = {each.name: each.type.tensor_type.shape.dim for each in model.graph.output}
    expected = {"logits"} if kind == "classifier" else {"logits", "boxes", "confidences"}
    assert set(outputs) == expected | ({"labels"} if kind == "centernet" else set())
    assert {dims[0].dim_param for dims in outputs.values()} == {"batch"}
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Loop", "LSTM", "If", "Scan"}
    assert [(each.domain, each.version) for each in model.opset_import] == [("", graph.OPSET)]
    assert b"site-packages" not in content and b".py" not in content


def test_squeezed_units_and_shortcuts_that_average_odd_maps_are_written(tmp_path: Path) -> None:
    """Of 28 pixels the blocks leave 14, 7 and 4: the last windows at the borders hold one row."""
    options = {"n": 1, "filters": (4, 8, 8), "squeeze": 2, "pooled_shortcut": True}
    metadata = replace(metadata_of("classifier"), options=options, input_size=28)
    model = create_model("resnet", 3, **options).eval()
    with torch.no_grad():
        randomize(model)
    paths = tmp_path / "model.safetensors", tmp_path / "model.onnx"
    paths[0].write_bytes(weights_bytes(model, metadata))
    paths[1].write_bytes(onnx_bytes(graph.trace(model, metadata), metadata))
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    expected, found = (Predictor(path).outputs(images).logits for path in paths)
    assert expected.std(axis=0).min() > 1e-3  # the images are told apart
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("source", "target"), [(28, 32), (64, 48), (7, 7), (5, 13)])
def test_resizing_by_matrices_is_the_resizing_of_torch(source: int, target: int) -> None:
    images = torch.rand(2, 3, source, source, generator=torch.Generator().manual_seed(0)) * 255
    matrix = graph._resizing_matrix(source, target)
    torch.testing.assert_close(matrix @ images @ matrix.mT, resize(images, target))


def test_without_the_extra_its_name_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    metadata = replace(metadata_of("classifier"), options={"n": 1, "filters": (4, 8)})
    with pytest.raises(ValueError, match=r"pip install 'tinysight\[export\]'"):
        graph.trace(create_model("resnet", 3, n=1, filters=(4, 8)), metadata)
