"""A localizer from the command line: train, evaluate with baseline boxes, predict and draw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinysight.data.dataset import Dataset

Tinysight = Callable[..., tuple[int, str, str]]
SMALL = (
    "--data",
    "small",
    "model.options.filters=(4,8,8,16)",
    "train.epochs=2",
    "train.device=cpu",
)
FINDER = ("localizer-shapes", *SMALL, "localizer.threshold=0.05", "localizer.grid=1")


@pytest.fixture(scope="module")
def runs_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def tinysight(
    dataset: Dataset,
    data_home: Path,
    runs_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Tinysight,
) -> Tinysight:
    """Run a command line in this process; return exit status, output and errors."""
    monkeypatch.setenv("TINYSIGHT_DATA", str(data_home))
    monkeypatch.setenv("TINYSIGHT_RUNS", str(runs_home))
    return run_command


@pytest.fixture
def trained(tinysight: Tinysight, runs_home: Path) -> Path:
    """A localizer's run, trained once by the command line."""
    folder = runs_home / "finder"
    if not folder.exists():
        status, out, err = tinysight("train", *FINDER, "--name", "finder")
        assert status == 0 and "surest box right" in err
        assert "share of images whose surest box misses on minival" in out
    return folder


@pytest.fixture
def image(dataset: Dataset, tmp_path: Path) -> str:
    path = tmp_path / "image.png"
    Image.fromarray(np.array(dataset.images[0])).save(path)
    return str(path)


def test_evaluate_reports_baseline_boxes_too(tinysight: Tinysight, trained: Path) -> None:
    status, out, _ = tinysight("evaluate", "finder")
    assert status == 0
    lines = ("this model", "baseline: whole image", "baseline: median", "top-1 localization error")
    assert all(line in out for line in lines), out
    metrics = json.loads((trained / "localization-val.json").read_text())
    assert metrics["num_with_boxes"] == 24
    assert set(metrics["localization"]) >= {"loc30", "loc50", "loc70", "mean_iou"}
    with Image.open(trained / "boxes-val.png") as picture:
        assert picture.width > 800
    status, out, _ = tinysight("evaluate", "finder", "--json")
    assert json.loads(out)["localization"]["localization"] == metrics["localization"]


@pytest.mark.usefixtures("trained")
def test_predict_returns_boxes_in_pixels_of_the_photograph(
    tinysight: Tinysight, dataset: Dataset, tmp_path: Path
) -> None:
    wide = np.full((64, 160, 3), 90, np.uint8)  # its center square begins at column 48
    wide[:, 48:112] = np.array(dataset.images[0]).repeat(2, axis=0).repeat(2, axis=1)
    photo, drawn = str(tmp_path / "wide.png"), tmp_path / "boxes.png"
    Image.fromarray(wide).save(photo)
    status, out, _ = tinysight("predict", "finder", photo, "--json", "--draw", str(drawn))
    assert status == 0
    boxes = json.loads(out)[0]["boxes"]
    assert boxes, "the threshold is low enough for one"
    for found in boxes:
        x0, y0, x1, y1 = found["box"]
        assert 48 <= x0 < x1 <= 112 and 0 <= y0 < y1 <= 64
    with Image.open(drawn) as picture:
        assert picture.width > 512 and picture.height > 512
    canvas = ("--canvas", "64", "--draw", str(drawn))
    status, out, _ = tinysight("predict", "finder", photo, photo, *canvas)
    assert status == 0 and "box (" in out
    with Image.open(drawn) as sheet:
        assert sheet.width > 1024


@pytest.mark.usefixtures("trained")
def test_what_predict_refuses(tinysight: Tinysight, image: str, tmp_path: Path) -> None:
    tinysight("train", "quickstart", *SMALL, "--name", "classifier")
    for run, words, complaint in (
        ("finder", ("--draw", str(tmp_path / "boxes.jpg")), "give a file .png"),
        ("finder", ("--draw", str(tmp_path / "nowhere" / "boxes.png")), "nowhere"),
        ("finder", ("--canvas", "16"), "give 32 to 2048"),
        ("classifier", ("--boxes-out", str(tmp_path / "x.json")), "--boxes-out needs a localizer"),
        ("classifier", ("--canvas", "64"), "--canvas"),
    ):
        status, _, err = tinysight("predict", run, image, *words)
        assert status == 1 and complaint in err and err.count("\n") == 1, err


def test_classes_that_were_not_learned_are_not_reported(
    tinysight: Tinysight, runs_home: Path, image: str
) -> None:
    tinysight("train", *FINDER, "--name", "unnamed", "localizer.class_loss_weight=0")
    for run in ("unnamed", str(runs_home / "unnamed" / "weights.safetensors")):
        status, out, _ = tinysight("evaluate", run)
        assert status == 0 and "this model" in out and "top-1" not in out, out
    status, out, _ = tinysight("predict", "unnamed", image, "--json")
    answer = json.loads(out)[0]
    assert status == 0 and answer["top"] == [] and "boxes" in answer


@pytest.mark.usefixtures("trained")
def test_predict_writes_files_about_a_folder(
    tinysight: Tinysight, image: str, tmp_path: Path
) -> None:
    Image.open(image).save(tmp_path / "second.bmp")
    csv, coco = tmp_path / "out.csv", tmp_path / "out.json"
    options = ("--csv", str(csv), "--boxes-out", str(coco))
    status, out, err = tinysight("predict", "finder", str(tmp_path), *options)
    assert (status, out) == (0, "") and f"2 images in {csv}" in err
    content = json.loads(coco.read_text())
    assert [entry["file_name"] for entry in content["images"]] == ["image.png", "second.bmp"]
    assert len(csv.read_text().splitlines()) == 1 + len(content["annotations"]) >= 3
