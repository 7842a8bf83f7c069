"""One file holds the model: it comes back equal, or it is refused."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tinysight.models import create_model
from tinysight.models.localizer import Localizer
from tinysight.predict import metadata as metadata_module
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.weights import load_weights, weights_bytes

CARD = ModelMetadata(
    model="resnet",
    options={"n": 1, "filters": (4, 8)},
    class_names=("ladybird", "été", "狗"),
    class_ids=("n1", "n2", "n3"),
    image_size=64,
    crop=56,
    input_size=48,
    flip_average=True,
    recipe="test",
    data="small",
    version="0.1.0",
    commit="abc",
    results={"steps": 12, "best_monitored_error": 0.25},
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = create_model("resnet", 3, **CARD.options)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weights_bytes(model.to(memory_format=torch.channels_last), CARD))  # type: ignore[call-overload]
    return path


def test_a_model_and_its_card_come_back_equal(tmp_path: Path) -> None:
    model = create_model("resnet", 3, **CARD.options)
    model.normalize.set_statistics(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0]))  # type: ignore[union-attr,operator]
    path = tmp_path / "any.safetensors"
    path.write_bytes(weights_bytes(model, CARD))
    found, metadata = load_weights(path)
    assert metadata == CARD
    assert found.state_dict().keys() == model.state_dict().keys()
    for name, value in found.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())


@pytest.mark.parametrize("width", [8, None])
def test_a_head_has_its_width_and_that_of_older_files_is_128(
    tmp_path: Path, width: int | None
) -> None:
    own = {"head": "mlp", "grid": 1, "num_steps": 5, "feedback": False, "shared": False}
    decoding = {"decoding": "filter", "threshold": 0.5, "nms_iou": 0.5}
    head = own | {"width": width or 128}
    model = Localizer(create_model("resnet", 3, **CARD.options), **head)
    path = tmp_path / "weights.safetensors"
    written = own | ({"width": width} if width else {})
    path.write_bytes(weights_bytes(model, replace(CARD, localizer=written | decoding)))
    found, metadata = load_weights(path)
    assert metadata.localizer["width"] == (width or 128)
    assert found.head.cells.num_features == 16 * (width or 128)  # type: ignore[union-attr]
    assert torch.equal(found.head.hidden.weight, model.head.hidden.weight)  # type: ignore[union-attr]


def test_a_model_without_measured_errors_is_described_without_them(
    make_metadata: Callable[..., ModelMetadata],
) -> None:
    assert make_metadata().describe() == "test, 24 classes of small"
    measured = make_metadata(results={"val": {"top1_error": 0.25, "loc50": 0.5}})
    assert measured.describe() == (
        "test, 24 classes of small, 25.0% top-1 error on val, surest box right in 50.0% of images"
    )


def test_half_precision_halves_matrices_and_kernels_and_nothing_else(tmp_path: Path) -> None:
    model = create_model("resnet", 3, n=1, filters=(32, 64))
    model.normalize.set_statistics(torch.tensor([1.1, 2.2, 3.3]), torch.tensor([4.4, 5.5, 6.6]))  # type: ignore[union-attr,operator]
    metadata = replace(CARD, options={"n": 1, "filters": (32, 64)})
    whole, half = weights_bytes(model, metadata), weights_bytes(model, metadata, half=True)
    assert 0.5 < len(half) / len(whole) < 0.6
    path = tmp_path / "half.safetensors"
    path.write_bytes(half)
    found, _ = load_weights(path)
    parameters = dict(model.named_parameters())
    for name, value in found.state_dict().items():
        original = model.state_dict()[name]
        assert value.dtype == original.dtype, "computed in float32"
        rounded = name in parameters and original.ndim >= 2
        assert torch.equal(value, original.half().float() if rounded else original), name
    assert not torch.equal(found.state_dict()["head.weight"], model.state_dict()["head.weight"])
    assert len(weights_bytes(found, metadata)) == len(whole)


def test_a_weight_that_half_precision_cannot_hold_is_refused() -> None:
    model = create_model("resnet", 3, **CARD.options)
    with torch.no_grad():
        model.get_parameter("head.weight")[0, 0] = 70_000.0
    weights_bytes(model, CARD)
    with pytest.raises(ValueError, match=r"head\.weight .*float16"):
        weights_bytes(model, CARD, half=True)


def test_the_same_model_gives_the_same_bytes() -> None:
    model = create_model("resnet", 3, **CARD.options)
    assert weights_bytes(model, CARD) == weights_bytes(model.eval(), CARD)
    assert weights_bytes(model, replace(CARD, input_size=56)) != weights_bytes(model, CARD)


def _header_bytes(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def test_a_flipped_byte_anywhere_is_refused_by_name(file: Path) -> None:
    whole = file.read_bytes()
    header = _header_bytes(whole)
    choices = random.Random(0)
    head, tail = range(8, header), range(header, len(whole))
    for position in (*range(8), *choices.sample(head, 150), *choices.sample(tail, 50)):
        content = bytearray(whole)
        content[position] ^= choices.randrange(1, 256)
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights\.safetensors") as error:
            load_weights(file)
        assert "\n" not in str(error.value), position
    file.write_bytes(whole)
    load_weights(file)


def test_every_word_of_the_card_is_under_the_checksum(file: Path) -> None:
    whole = file.read_bytes()
    changes = {b"ladybird": b"ladyburd", b"56": b"48", b"n1": b"n9", b"0.25": b"0.15"}
    for old, new in changes.items():
        assert old in whole[: _header_bytes(whole)]
        file.write_bytes(whole.replace(old, new, 1))
        with pytest.raises(ValueError, match="SHA-256"):
            load_weights(file)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_cut_file_is_refused(length: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        load_weights(file)


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="no metadata of tinysight"):
        load_weights(path)
    empty = json.dumps({"format": metadata_module.FORMAT, "metadata": {}, "sha256": ""})
    for description in ("", "{", "[]", "null", "{}", empty):
        save_file({"weight": torch.zeros(3)}, path, metadata={"tinysight": description})
        with pytest.raises(ValueError, match=r"other\.safetensors"):
            load_weights(path)


def test_another_format_is_refused_as_such(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_module, "FORMAT", 99)
    with pytest.raises(ValueError, match=r"has format \d+; this version reads format 99"):
        load_weights(file)


def test_weights_that_do_not_fit_their_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model = create_model("resnet", 3, **CARD.options)
    path.write_bytes(weights_bytes(model, replace(CARD, class_names=("a",), class_ids=("b",))))
    with pytest.raises(ValueError, match="does not fit model resnet") as error:
        load_weights(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ValueError, match="expected a run folder or a weights file"):
            load_weights(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop", "x"),
        ("crop", 65),
        ("image_size", 0),
        ("input_size", 1 << 20),
        ("class_names", 5),
        ("class_names", ("a", "b")),
        ("class_ids", ("a", "b", 3)),
        ("options", []),
        ("flip_average", 1),
        ("model", 3),
        ("fit", "squash"),
    ],
)
def test_a_card_that_no_training_writes_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        replace(CARD, **{name: value})


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("best.pt", b"PK", "PyTorch or pickle file"),
        ("a.safetensors", b"PK\3\4" + b"\0" * 60, "PyTorch or zip file by its content"),
        ("a.safetensors", pickle.dumps({"a": 1}), "PyTorch or pickle file by its content"),
        ("a.safetensors", b"\x80\2\0\0\0\0\0\0{}", "not a readable safetensors file"),
        ("a.onnx", b"\x89HDF\r\n\x1a\n", "Keras or HDF5 file by its content"),
        ("net.ONNX", b"", "ONNX file"),
        ("model.h5", None, "Keras or TensorFlow file"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    ],
)
def test_files_of_others_are_named(
    tmp_path: Path, name: str, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=expected):
        load_weights(tmp_path / name)
