"""One ONNX file holds the model: what was changed, cut or written by others is refused."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.onnx_file import onnx_bytes
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import load_weights

METADATA = ModelMetadata(
    model="resnet", options={}, class_names=("red", "green", "blue"), class_ids=("r", "g", "b"),
    image_size=4, crop=4, input_size=4, flip_average=False, recipe="test", data="small",
    version="0", results={"val": {"top1_error": 0.25}},
)  # fmt: skip


def body_of(opset: int = 18, output: str = "logits", node: str = "ReduceMean") -> bytes:
    """A graph whose logits are the mean of each channel."""
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node(node, ["float", "axes"], [output], keepdims=0),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4, 4, 3])
    logits = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "graph", [images], [logits], [axes])
    opsets = [helper.make_opsetid("", opset)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=9
    ).SerializeToString()
    return content


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(body_of(), METADATA))
    return path


def test_a_file_predicts_and_keeps_its_metadata(file: Path) -> None:
    model = Predictor(file)
    assert model.metadata == METADATA
    pixels = np.full((4, 4, 3), (10, 30, 20), np.uint8)
    assert model.outputs(pixels[None]).logits.tolist() == [[10, 30, 20]]
    assert model.predict(pixels).class_names == ("green", "blue", "red")
    with pytest.raises(ValueError, match="only predicts"):
        _ = model.network
    with pytest.raises(ValueError, match="an ONNX file, which only predicts"):
        load_weights(file)


def test_other_programs_read_the_file(file: Path) -> None:
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert [each.key for each in model.metadata_props] == ["tinysight"]
    onnx.save(model, file)  # which writes the entry elsewhere
    assert Predictor(file).metadata == METADATA


def test_a_flipped_byte_anywhere_is_refused_by_name(file: Path) -> None:
    content, choices = file.read_bytes(), random.Random(0)
    # a space of the JSON may become another, which means the same
    positions = [at for at, byte in enumerate(content) if not chr(byte).isspace()]
    for position in choices.sample(positions, 300):
        changed = bytearray(content)
        changed[position] ^= choices.randrange(1, 256)
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=r"model\.onnx") as error:
            Predictor(file)
        assert "\n" not in str(error.value), position


@pytest.mark.parametrize("length", [0, 1, 60, -1])
def test_a_cut_file_is_refused(length: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"model\.onnx"):
        Predictor(file)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (body_of(), "no metadata of tinysight"),
        (b"not ONNX at all", "is not an ONNX file, or is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (onnx_bytes(body_of(opset=999), METADATA), "cannot load it .*opset.*; export it again"),
        (
            onnx_bytes(body_of(node="NoSuch"), METADATA),
            "cannot load it .*NoSuch.*; export it again",
        ),
        (onnx_bytes(body_of(output="other"), METADATA), r"gives \['other'\]; export it again"),
        (onnx_bytes(b"", METADATA), "cannot load it"),
    ],
)
def test_files_of_others_are_one_clear_line(
    file: Path, content: bytes, expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=expected) as error:
        Predictor(file)
    assert file.name in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # the runtime logs nothing of its own


def test_a_canvas_needs_the_safetensors_file(file: Path) -> None:
    with pytest.raises(ValueError, match="the canvas is 8 pixels; an ONNX file takes 4"):
        Predictor(file).predict(np.zeros((4, 4, 3), np.uint8), canvas=8)


def test_an_onnx_file_is_used_without_torch(file: Path) -> None:
    code = (
        "import sys, numpy, tinysight as ts\n"
        f"model = ts.load_model({str(file)!r}, device='auto')\n"
        "print(model.predict(numpy.full((9, 5, 3), (0, 0, 7), numpy.uint8)).label)\n"
        "print(sorted({'torch', 'matplotlib', 'scipy', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split("\n")[:2] == ["blue", "[]"]


def test_the_class_is_printed_where_one_is_asked_for(file: Path) -> None:
    from tinysight.cli.predict import prediction_lines

    model = Predictor(file)
    found = model.predict(np.full((4, 4, 3), (10, 30, 20), np.uint8), top=1)
    assert prediction_lines(found, model) == ["", "  100.0%  green"]
