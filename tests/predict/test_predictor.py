"""Prediction: the logits of evaluation, answers in order, bad files named, and nothing of the
training imported.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import evaluate_run
from tinysight.models import create_model
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import ModelMetadata, weights_bytes
from tinysight.run import Run


@pytest.fixture
def run(pack: Dataset, tmp_path: Path) -> Path:
    metadata = ModelMetadata(
        model="resnet",
        options={"n": 1, "filters": (4, 8)},
        class_names=pack.class_names,
        class_ids=pack.class_ids,
        image_size=32,
        crop=28,
        input_size=24,
        flip_average=True,
        recipe="test",
        data="small",
        version="0",
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(
        weights_bytes(create_model("resnet", 24, **metadata.options), metadata)
    )
    return folder


def _pictures(pack: Dataset, folder: Path) -> list[Path]:
    paths = [folder / f"{row:03d}.png" for row in pack.rows("val")]
    for path, row in zip(paths, pack.rows("val"), strict=True):
        Image.fromarray(pack.images[row]).save(path)
    return paths


def test_it_gives_the_logits_of_evaluation(run: Path, pack: Dataset, tmp_path: Path) -> None:
    _, scores, _ = evaluate_run(
        Run(folder=run, config=Config(recipe="test"), data_digest="", machine={}),
        "val",
        pack=pack,
        runtime=Runtime(device=torch.device("cpu"), bf16=False),
    )
    predictor = Predictor(run)
    rows = pack.rows("val")
    assert torch.equal(
        predictor.logits(np.array(pack.images[rows.start : rows.stop])), scores.logits
    )

    answers = list(predictor.predict(_pictures(pack, tmp_path), top=3, batch_size=7))
    best = scores.logits.softmax(dim=1).topk(3)
    for answer, values, indices in zip(answers, best.values, best.indices.tolist(), strict=True):
        assert not isinstance(answer, ValueError)
        assert answer.class_ids == tuple(pack.class_ids[index] for index in indices)
        assert answer.class_names == tuple(pack.class_names[index] for index in indices)
        assert answer.probabilities == pytest.approx(values.tolist(), rel=1e-5)


def test_a_file_that_cannot_be_read_is_told_and_the_others_are_answered(
    run: Path, pack: Dataset, tmp_path: Path
) -> None:
    good = _pictures(pack, tmp_path)[:3]
    (tmp_path / "text.jpg").write_text("no image")
    bad = [tmp_path / "text.jpg", tmp_path / "none.png", tmp_path]
    paths = [good[0], bad[0], good[1], bad[1], bad[2], good[2]]
    for batch_size in (1, 2, 64):
        answers = list(Predictor(run).predict(iter(paths), batch_size=batch_size))
        assert [isinstance(answer, ValueError) for answer in answers] == [
            False,
            True,
            False,
            True,
            True,
            False,
        ]
        assert [answer.path for answer in answers if not isinstance(answer, ValueError)] == [
            str(p) for p in good
        ]
        for path, answer in zip(paths, answers, strict=True):
            assert not isinstance(answer, ValueError) or path.name in str(answer)


def test_more_classes_than_there_are_give_all(run: Path, pack: Dataset, tmp_path: Path) -> None:
    (answer,) = Predictor(run / "weights.safetensors").predict(
        _pictures(pack, tmp_path)[:1], top=99
    )
    assert not isinstance(answer, ValueError)
    assert sorted(answer.class_ids) == sorted(pack.class_ids)
    assert sum(answer.probabilities) == pytest.approx(1.0, abs=1e-5)
    assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished run; see `tinysight resume`"):
        Predictor(tmp_path)


def test_it_imports_nothing_of_training_or_data() -> None:
    code = (
        "import sys, tinysight.predict.predictor, tinysight.predict.weights\n"
        "parts = ('tinysight.train', 'tinysight.data', 'tinysight.config')\n"
        "print([name for name in sys.modules if name.startswith(parts)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
