"""Prediction: the logits of evaluation, in order, of any kind of image; bad files named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from tinysight.data.dataset import Dataset
from tinysight.data.tiny_imagenet import prepare
from tinysight.evaluation.evaluate import evaluate
from tinysight.exporting.page import WEB
from tinysight.images import FITS, Fit, frame_of, to_square
from tinysight.models import create_model
from tinysight.predict import predictor as predictor_module
from tinysight.predict.decoding import Decoding, Outputs
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.predictor import Prediction, Predictor, load_model
from tinysight.predict.weights import weights_bytes

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def run(make_metadata: Callable[..., ModelMetadata], tmp_path: Path) -> Path:
    """A folder with the weights of an untrained model."""
    metadata = make_metadata(model="resnet", options={"n": 1, "filters": (4, 8)}, crop=28)
    folder = tmp_path / "run"
    folder.mkdir()
    content = weights_bytes(create_model("resnet", 24, **metadata.options), metadata)
    (folder / "weights.safetensors").write_bytes(content)
    return folder


@pytest.fixture
def files(dataset: Dataset, tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{row:03d}.png" for row in dataset.rows("val")]
    for path, row in zip(paths, dataset.rows("val"), strict=True):
        Image.fromarray(np.array(dataset.images[row])).save(path)
    return paths


def test_predictions_have_the_logits_of_evaluation(
    run: Path, dataset: Dataset, files: list[Path]
) -> None:
    model = Predictor(run)
    evaluation = evaluate(model, dataset, "val")
    rows = dataset.rows("val")
    logits = model.outputs(dataset.images[rows.start : rows.stop]).logits
    assert np.array_equal(logits, evaluation.logits.numpy())
    predictions = list(model.predict_each(files, top=3, batch_size=7))
    best = evaluation.logits.softmax(dim=1).topk(3)
    for found, values, indices in zip(predictions, best.values, best.indices.tolist(), strict=True):
        assert isinstance(found, Prediction)
        assert found.class_ids == tuple(dataset.class_ids[index] for index in indices)
        assert found.class_names == tuple(dataset.class_names[index] for index in indices)
        assert found.probabilities == pytest.approx(values.tolist(), rel=1e-5)
        assert found.top[0] == (found.label, found.probability)


def test_one_image_of_any_kind_gives_one_prediction(
    run: Path, dataset: Dataset, files: list[Path]
) -> None:
    model = load_model(str(run))
    pixels = np.array(dataset.images[dataset.rows("val")[0]])
    expected = model.predict(files[0])
    assert expected.path == str(files[0])
    for source in (
        str(files[0]),
        Image.open(files[0]),
        pixels,
        dataset.images[dataset.rows("val")[0]],
    ):
        found = model.predict(source)
        assert found.probabilities == pytest.approx(expected.probabilities)
    several = model.predict([files[0], pixels])
    assert [found.label for found in several] == [expected.label] * 2
    assert [found.path for found in several] == [str(files[0]), ""]
    assert len(model.predict(np.stack([pixels, pixels]))) == 2
    gray = model.predict(Image.fromarray(pixels).convert("L"))
    assert gray.probabilities == pytest.approx(
        model.predict(pixels.mean(-1).astype(np.uint8)).probabilities, abs=0.05
    )
    for wrong in (pixels.astype(np.float32), np.zeros((4, 4, 2), np.uint8)):
        with pytest.raises(ValueError, match=r"uint8 .*\(H, W, 3\)"):
            model.predict(wrong)
    with pytest.raises(ValueError, match=r"none\.png"):
        model.predict([files[0], "none.png"])


def test_unreadable_files_are_named_and_the_others_predicted(
    run: Path, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    bad = [tmp_path / "text.jpg", tmp_path / "none.png", tmp_path]
    paths = [files[0], bad[0], files[1], bad[1], bad[2], files[2]]
    for batch_size in (1, 2, 64):
        found = list(Predictor(run).predict_each(iter(paths), batch_size=batch_size))
        for path, prediction in zip(paths, found, strict=True):
            if path in bad:
                assert isinstance(prediction, ValueError) and path.name in str(prediction)
            else:
                assert isinstance(prediction, Prediction) and prediction.path == str(path)


def test_more_classes_than_there_are_give_all(
    run: Path, dataset: Dataset, files: list[Path]
) -> None:
    found = Predictor(run / "weights.safetensors").predict(files[0], top=99)
    assert sorted(found.class_ids) == sorted(dataset.class_ids)
    assert sum(found.probabilities) == pytest.approx(1.0, abs=1e-5)
    assert list(found.probabilities) == sorted(found.probabilities, reverse=True)


@pytest.mark.parametrize("fit", FITS)
def test_a_classifier_sees_the_fit_it_learned_from(run: Path, fit: Fit) -> None:
    model = Predictor(run)
    model.metadata = replace(model.metadata, fit=fit)
    pixels = np.random.default_rng(2).integers(0, 256, (40, 70, 3), np.uint8)
    logits = model.outputs(to_square(Image.fromarray(pixels), 32, fit)[None]).logits
    expected = torch.from_numpy(logits).softmax(dim=1).amax(dim=1).tolist()
    assert [model.predict(pixels).probability] == pytest.approx(expected)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("turn", [1, 6])
def test_boxes_are_in_pixels_of_the_upright_picture_and_within_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: Fit, turn: int
) -> None:
    def outputs(self: Predictor, images: np.ndarray) -> Outputs:
        rows, columns = np.nonzero(images[0][..., 0] > 170)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        boxes = np.array([[found, [0, 0, 128, 128], [0, 0, 4, 128]]], np.float32)
        return Outputs(
            np.zeros((1, 24), np.float32), boxes, np.array([[0.9, 0.8, 0.7]], np.float32)
        )

    pixels = np.zeros((160, 90, 3), np.uint8)
    pixels[60:110, 10:70] = 255
    stored = Image.fromarray(pixels).rotate(90 if turn == 6 else 0, expand=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    stored.save(tmp_path / "photo.png", exif=exif)
    model = Predictor(run)
    model.metadata = replace(model.metadata, fit=fit)
    model.decoding = Decoding(decoding="filter", threshold=0.5, nms_iou=1.0)
    monkeypatch.setattr(Predictor, "outputs", outputs)
    found = model.predict(tmp_path / "photo.png", canvas=128)
    assert found.boxes[0] == pytest.approx((10, 60, 70, 110), abs=1.3)
    everything = (0, 35, 90, 125) if fit == "crop" else (0, 0, 90, 160)
    assert found.boxes[1] == pytest.approx(everything, abs=1e-3)
    # the third box lies in the padding alone
    assert len(found.boxes) == len(found.confidences) == (2 if fit == "pad" else 3)
    assert found.frame == frame_of(90, 160, fit)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finished; see `tinysight resume`"):
        Predictor(tmp_path)


def test_a_classifier_takes_no_canvas(run: Path, files: list[Path]) -> None:
    with pytest.raises(ValueError, match="the canvas is 16"):
        Predictor(run).predict(files[0], canvas=16)
    with pytest.raises(ValueError, match="is a classifier, which finds no boxes"):
        Predictor(run).predict(files[0], canvas=64)


def test_prediction_imports_nothing_of_training_or_data() -> None:
    code = (
        "import sys, tinysight.predict.predictor, tinysight.predict.weights\n"
        "parts = ('tinysight.train', 'tinysight.data', 'tinysight.config')\n"
        "print([name for name in sys.modules if name.startswith(parts)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- the bundled model


def test_the_bundled_model_is_small_and_its_metadata_complete() -> None:
    assert predictor_module.BUNDLED.stat().st_size <= 18e6
    assert predictor_module.BUNDLED_ONNX.stat().st_size <= 9e6
    metadata = load_model().metadata
    fp32 = Predictor(predictor_module.BUNDLED).metadata
    assert replace(metadata, results=fp32.results) == fp32
    assert metadata.results["fp32"]["top1_error"] == fp32.results["val"]["top1_error"]
    classes = (metadata.data, len(metadata.class_names), len(set(metadata.class_ids)))
    assert classes == ("tiny-imagenet", 200, 200)
    assert {"goldfish", "Egyptian cat"} <= set(metadata.class_names)
    assert metadata.recipe and metadata.commit
    val = metadata.results["val"]
    assert (val["data"], val["num_images"]) == ("tiny-imagenet", 10_000)
    assert 0 < val["top5_error"] < val["top1_low"] < val["top1_error"] < val["top1_high"] < 0.7
    assert f"{val['top1_error']:.1%}" in metadata.describe()


def test_the_bundled_model_predicts_a_drawn_image() -> None:
    pixels = np.full((90, 120, 3), 255, dtype=np.uint8)
    pixels[30:60, 40:80] = (240, 120, 0)
    found = load_model().predict(pixels, top=200)
    assert sum(found.probabilities) == pytest.approx(1, abs=1e-4)
    assert len(set(found.class_names)) == 200
    assert found.probability > 2 / 200, "it prefers some class"


def test_the_example_of_the_page_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(compile(example, "models.md", "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert 0 < float(first.split()[-1]) < 0.7
    assert re.fullmatch(r"\('.+', '.+', '.+'\) \(0\.\d+, 0\.\d+, 0\.\d+\)", second)


def test_pip_installs_the_bundled_model() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["tinysight"]
    files = (predictor_module.BUNDLED, predictor_module.BUNDLED_ONNX, *WEB.iterdir())
    for wanted in (file.relative_to(ROOT / "src" / "tinysight") for file in files):
        assert any(wanted.match(pattern) for pattern in patterns), wanted


def test_an_installation_without_the_bundled_model_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(predictor_module, "BUNDLED_ONNX", tmp_path / "none.onnx")
    with pytest.raises(ValueError, match=r"lacks none\.onnx"):
        load_model()


@pytest.mark.data
def test_the_bundled_model_has_the_errors_of_its_metadata(tmp_path: Path) -> None:
    """All 10,000 images of val; threads and processors may round otherwise, for a few images."""
    if not (source := os.environ.get("TINYSIGHT_TINY_IMAGENET")):
        pytest.skip("TINYSIGHT_TINY_IMAGENET is not set: the folder or archive of the dataset")
    dataset, model = prepare(Path(source), home=tmp_path), load_model()
    found = evaluate(model, dataset, "val")
    expected = model.metadata.results["val"]
    assert found.metrics.top1_error == pytest.approx(expected["top1_error"], abs=5e-4)
    assert found.metrics.top5_error == pytest.approx(expected["top5_error"], abs=5e-4)
    assert found.metrics.loss == pytest.approx(expected["loss"], rel=1e-3)
    boxes = found.localization(torch.from_numpy(dataset.padded_boxes(range(len(dataset)))))
    assert boxes.loc50 == pytest.approx(expected["loc50"], abs=1e-3)
    assert boxes.mean_iou == pytest.approx(expected["mean_iou"], abs=1e-3)
