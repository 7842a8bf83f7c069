"""The program in the README of a hub folder runs, and answers as `tinysight predict` does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinysight.exporting.hub import example_of, write_folder
from tinysight.images import Fit
from tinysight.predict.onnx_file import onnx_bytes
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import load_weights

from .conftest import NAMES, Written, metadata_of


def run_program_of(folder: Path) -> list[str]:
    """Run the program in a folder's README, and return the lines that it prints."""
    readme = (folder / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    command = [sys.executable, "-X", "utf8", "-c", program]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", timeout=60, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("kind", "fit"), [("classifier", "pad"), ("lstm", "crop"), ("lstm", "stretch")]
)
def test_the_program_of_the_readme_answers_as_predict_does(
    kind: str, fit: Fit, written: Callable[[str], Written], tmp_path: Path
) -> None:
    files, folder = written(kind), tmp_path / "hub"
    results = {"val": {"top1_error": 0.25}}
    metadata = replace(metadata_of(kind), fit=fit, results=results, data="pets\n---\n")
    model, onnx = load_weights(files.weights)[0], onnx_bytes(files.body, metadata)
    size = write_folder(folder, model, onnx, metadata)
    assert size == sum(path.stat().st_size for path in folder.iterdir())
    pixels = np.random.default_rng(3).integers(0, 256, (40, 70, 3), np.uint8)
    Image.fromarray(pixels).resize((140, 80)).save(folder / "photo.jpg", quality=100)
    lines = run_program_of(folder)
    for name in ("model.onnx", "model.safetensors"):
        expected = Predictor(folder / name).predict(folder / "photo.jpg")
        for line, (label, probability) in zip(lines, expected.top, strict=False):
            assert line.split("  ", 1)[1] == label
            assert float(line.split()[0]) == pytest.approx(probability, abs=0.02)
        if kind != "classifier":
            confidence, *box = map(float, re.findall(r"[\d.]+", lines[-1]))
            assert confidence == pytest.approx(expected.confidences[0], abs=0.02)
            clipped = np.clip(box, 0, (140, 80, 140, 80))
            assert clipped == pytest.approx(expected.boxes[0], abs=1.5)


@pytest.mark.parametrize(("decoding", "surest"), [("filter", "0.900"), ("stop", "0.400")])
def test_the_program_chooses_by_the_decoding(
    decoding: str, surest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = metadata_of("lstm")
    program = example_of(replace(metadata, localizer=metadata.localizer | {"decoding": decoding}))
    # a cell of two boxes, the second surer, and a cell of one that is less sure
    confidences = np.array([[[0.3, 0.9], [0.4, 0.1]]])
    found = [np.arange(16.0).reshape(1, 2, 2, 4), confidences]
    values = {"np": np, "found": found, "width": 32, "height": 32, "left": 0, "top": 0, "size": 32}
    exec(program[program.index("boxes, confidences") :], values)
    box = {"filter": [4.0, 5.0, 6.0, 7.0], "stop": [8.0, 9.0, 10.0, 11.0]}[decoding]
    assert capsys.readouterr().out == f"{surest}  box {box}\n"


def test_boxes_have_their_classes_where_the_image_has_none(
    written: Callable[[str], Written], tmp_path: Path
) -> None:
    files, folder = written("centernet"), tmp_path / "hub"
    metadata = metadata_of("centernet")
    onnx = onnx_bytes(files.body, metadata)
    write_folder(folder, load_weights(files.weights)[0], onnx, metadata)
    pixels = np.random.default_rng(3).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg", quality=100)
    (line,) = run_program_of(folder)
    expected = Predictor(folder / "model.onnx").predict(folder / "photo.jpg")
    assert line.split("  ", 1)[1].startswith(f"{expected.box_labels[0]} [")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "`labels`" in readme and "image-classification" not in readme


def test_the_files_are_those_of_a_hub(written: Callable[[str], Written], tmp_path: Path) -> None:
    files = written("classifier")
    metadata = replace(metadata_of("classifier"), results={"val": {"top1_error": 0.25}})
    write_folder(tmp_path, load_weights(files.weights)[0], files.onnx.read_bytes(), metadata)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": NAMES[0], "1": NAMES[1], "2": NAMES[2]}
    assert config["label2id"][NAMES[1]] == 1
    prepare = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert prepare == {"size": 32, "fit": "crop"}
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines() == list(NAMES)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, head, body = readme.split("---\n", 2)
    fields = {
        line.split(": ", 1)[0]: json.loads(line.split(": ", 1)[1]) for line in head.splitlines()
    }
    (model,) = fields["model-index"]
    assert model["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.75}]
    assert body.startswith("# test\n") and "<" not in body.split("```")[0]


def odd_picture(kind: str, path: Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (40, 70, 3), np.uint8)
    image = Image.fromarray(pixels)
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, "JPEG", exif=exif, quality=100)
    elif kind == "clear":
        image.putalpha(Image.fromarray(pixels[..., 0]))
        image.save(path, "PNG")
    else:
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(path, "PNG")


@pytest.mark.parametrize("kind", ["turned", "clear", "16 bits"])
@pytest.mark.parametrize("none_below", [None, 1e6])
def test_the_program_reads_odd_pictures_as_predict_does_and_says_none(
    kind: str, none_below: float | None, written: Callable[[str], Written], tmp_path: Path
) -> None:
    files, folder = written("classifier"), tmp_path / "hub"
    metadata = replace(metadata_of("classifier"), none_below=none_below)
    onnx = onnx_bytes(files.body, metadata)
    write_folder(folder, load_weights(files.weights)[0], onnx, metadata)
    odd_picture(kind, folder / "photo.jpg")
    lines = run_program_of(folder)
    assert ("none of these" in lines[0]) == (none_below is not None)
    expected = Predictor(folder / "model.onnx").predict(folder / "photo.jpg")
    shares = [float(line.split()[0]) for line in lines if "none" not in line]
    assert shares == pytest.approx(list(expected.probabilities), abs=2e-3)


def test_a_folder_of_other_files_is_not_written_into(
    written: Callable[[str], Written], tmp_path: Path
) -> None:
    files, metadata = written("classifier"), metadata_of("classifier")
    model, onnx = load_weights(files.weights)[0], files.onnx.read_bytes()
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="other files"):
        write_folder(tmp_path, model, onnx, metadata)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    for _ in range(2):  # an earlier export is replaced
        assert write_folder(tmp_path / "hub", model, onnx, metadata) > 0
