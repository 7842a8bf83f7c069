"""A localizer from the command line: train, evaluate with the constant boxes beside, predict and
draw.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinysight.data.dataset import Dataset

Tinysight = Callable[..., tuple[int, str, str]]
SMALL = (
    "model.options.filters=(4,8,8,16)",
    "train.epochs=2",
    "train.device=cpu",
    "localizer.threshold=0.05",
    "localizer.grid=1",
)


@pytest.fixture(scope="module")
def runs_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def tinysight(
    pack: Dataset,
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
        status, out, err = tinysight(
            "train", "localizer-shapes", "--data", "small", "--name", "finder", *SMALL
        )
        assert (
            status == 0
            and "boxes found" in err
            and "lowest share of objects missed on minival" in out
        )
    return folder


def test_evaluate_sets_the_constant_boxes_beside(tinysight: Tinysight, trained: Path) -> None:
    status, out, _ = tinysight("evaluate", "finder")
    assert status == 0
    for line in (
        "this model",
        "baseline: whole image",
        "baseline: median",
        "top-1 localization error",
    ):
        assert line in out, out
    figures = json.loads((trained / "localization-val.json").read_text())
    assert figures["num_with_boxes"] == 24 and set(figures["localization"]) >= {
        "loc30",
        "loc50",
        "loc70",
        "mean_iou",
    }
    with Image.open(trained / "boxes-val.png") as picture:
        assert picture.width > 800
    status, out, _ = tinysight("evaluate", "finder", "--json")
    assert json.loads(out)["localization"]["localization"] == figures["localization"]


@pytest.mark.usefixtures("trained")
def test_predict_tells_boxes_in_the_photographs_pixels(
    tinysight: Tinysight, pack: Dataset, tmp_path: Path
) -> None:
    wide = np.full((64, 160, 3), 90, np.uint8)  # the square that is looked at begins at column 48
    wide[:, 48:112] = np.array(pack.images[0]).repeat(2, axis=0).repeat(2, axis=1)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    drawn = tmp_path / "boxes.png"
    status, out, _ = tinysight(
        "predict", "finder", str(tmp_path / "wide.png"), "--json", "--draw", str(drawn)
    )
    assert status == 0
    boxes = json.loads(out)[0]["boxes"]
    assert boxes, "the threshold is low enough for one"
    for found in boxes:
        x0, y0, x1, y1 = found["box"]
        assert 48 <= x0 < x1 <= 112 and 0 <= y0 < y1 <= 64
    with Image.open(drawn) as picture:
        assert picture.width > 512 and picture.height > 512
    status, out, _ = tinysight(
        "predict",
        "finder",
        *[str(tmp_path / "wide.png")] * 2,
        "--canvas",
        "64",
        "--draw",
        str(drawn),
    )
    assert status == 0 and "box (" in out
    with Image.open(drawn) as sheet:
        assert sheet.width > 1024


@pytest.mark.usefixtures("trained")
def test_what_predict_refuses(tinysight: Tinysight, pack: Dataset, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.array(pack.images[0])).save(image)
    for words, complaint in (
        (("--draw", str(tmp_path / "boxes.jpg")), "give a file .png"),
        (("--draw", str(tmp_path / "nowhere" / "boxes.png")), "in a folder that is there"),
        (("--canvas", "16"), "give 32 to 2048"),
    ):
        status, _, err = tinysight("predict", "finder", str(image), *words)
        assert status == 1 and complaint in err and err.count("\n") == 1, err
    tinysight("train", "quickstart", "--data", "small", "--name", "classifier", *SMALL[:3])
    for words in (("--draw", str(tmp_path / "boxes.png")), ("--canvas", "64")):
        status, _, err = tinysight("predict", "classifier", str(image), *words)
        assert status == 1 and "finds no boxes" in err and err.count("\n") == 1, err


def test_classes_that_were_not_taught_are_not_told(
    tinysight: Tinysight, pack: Dataset, tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.array(pack.images[0])).save(image)
    tinysight(
        "train",
        "localizer-shapes",
        "--data",
        "small",
        "--name",
        "unnamed",
        *SMALL,
        "localizer.class_loss_weight=0",
    )
    for words in (
        ("evaluate", "unnamed"),
        ("evaluate", f"{os.environ['TINYSIGHT_RUNS']}/unnamed/weights.safetensors"),
    ):
        status, out, _ = tinysight(*words)
        assert status == 0 and "this model" in out and "top-1" not in out, out
    status, out, _ = tinysight("predict", "unnamed", str(image), "--json")
    answer = json.loads(out)[0]
    assert status == 0 and answer["top"] == [] and "boxes" in answer
