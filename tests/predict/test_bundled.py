"""The model in the box: small enough, loads, knows its classes, and errs as often as its metadata
says.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tinysight.data.tiny_imagenet import listing
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import measure, run_model
from tinysight.evaluation.scores import top_overlaps
from tinysight.predict import bundled
from tinysight.predict.weights import ModelMetadata

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path() -> Path:
    """The bundled file."""
    return bundled.PATH


def test_it_is_small_and_its_card_tells_what_it_is(path: Path) -> None:
    assert path.stat().st_size <= 18e6
    metadata = bundled.bundled().metadata
    assert (metadata.data, len(metadata.class_names), len(set(metadata.class_ids))) == (
        "tiny-imagenet",
        200,
        200,
    )
    assert {"goldfish", "Egyptian cat"} <= set(metadata.class_names)
    assert metadata.recipe and metadata.commit
    val = metadata.results["val"]
    assert (val["data"], val["num_images"]) == ("tiny-imagenet", 10_000)
    assert 0 < val["top5_error"] < val["top1_low"] < val["top1_error"] < val["top1_high"] < 0.7
    assert f"{val['top1_error']:.1%}" in bundled.describe(metadata)


def test_it_names_what_is_in_a_drawn_picture(path: Path, tmp_path: Path) -> None:
    pixels = np.full((90, 120, 3), 255, dtype=np.uint8)
    pixels[30:60, 40:80] = (240, 120, 0)
    Image.fromarray(pixels).save(tmp_path / "drawn.png")
    (answer,) = bundled.bundled().predict([tmp_path / "drawn.png"], top=200)
    assert not isinstance(answer, ValueError)
    assert sum(answer.probabilities) == pytest.approx(1, abs=1e-4)
    assert len(set(answer.class_names)) == 200
    assert answer.probabilities[0] > 2 / 200, "it prefers some class"


def test_the_example_of_the_page_runs(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(compile(example, "models.md", "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert 0 < float(first.split()[-1]) < 0.7
    assert second.startswith("examples/images/plain-square.png (")


def test_the_package_takes_the_file_along() -> None:
    """What `pip install` copies: the pattern in pyproject.toml finds the place where `bundled`
    looks.
    """
    package = ROOT / "src" / "tinysight"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["tinysight"]
    wanted = bundled.PATH.relative_to(package)
    assert any(wanted.match(pattern) for pattern in patterns), patterns


def test_an_installation_without_the_file_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bundled, "PATH", tmp_path / "none.safetensors")
    with pytest.raises(
        ValueError, match=r"lacks none\.safetensors; install it anew, or name a run of yours"
    ):
        bundled.bundled()


def test_a_card_without_an_error_is_described_without_one() -> None:
    metadata = ModelMetadata(
        model="resnet",
        options={},
        class_names=("a", "b"),
        class_ids=("n1", "n2"),
        image_size=64,
        crop=56,
        input_size=56,
        flip_average=False,
        recipe="quickstart",
        data="pets",
        version="0",
    )
    assert bundled.describe(metadata) == "quickstart, 2 classes of pets"


@pytest.mark.data
def test_it_errs_on_val_as_its_card_says(path: Path) -> None:
    """All 10,000 images of val; threads and processors may round otherwise, which turns few of
    them.
    """
    source = os.environ.get("TINYSIGHT_TINY_IMAGENET")
    if not source:
        pytest.skip(
            "TINYSIGHT_TINY_IMAGENET is not set: the folder or archive of the published set"
        )
    made, decode = listing(Path(source))
    val = range(*made.splits["val"])
    images = np.stack([decode(row) for row in val])
    predictor = bundled.bundled()
    metadata = predictor.metadata
    assert tuple(made.class_ids) == metadata.class_ids
    scores = run_model(
        predictor.localizer or predictor.model,
        images,
        made.labels[val.start : val.stop],
        range(len(images)),
        crop=metadata.crop,
        size=metadata.input_size,
        flip_average=metadata.flip_average,
        runtime=Runtime(device=torch.device("cpu"), bf16=False),
        decoding=predictor.decoding,
    )
    found, told = measure(scores), metadata.results["val"]
    assert found.top1_error == pytest.approx(told["top1_error"], abs=5e-4)
    assert found.top5_error == pytest.approx(told["top5_error"], abs=5e-4)
    assert found.loss == pytest.approx(told["loss"], rel=1e-3)
    if predictor.localizer is not None:
        gt_boxes = np.full((len(made.files), 1, 4), np.nan, np.float32)
        gt_boxes[np.diff(made.box_offsets) > 0, 0] = made.boxes  # one an image, none in test
        scores = replace(scores, rows=torch.arange(val.start, val.stop))
        boxes = top_overlaps(scores, torch.from_numpy(gt_boxes))
        assert boxes.loc50 == pytest.approx(told["loc50"], abs=1e-3)
        assert boxes.mean_iou == pytest.approx(told["mean_iou"], abs=1e-3)
