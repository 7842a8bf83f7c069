"""Golden files: a training has the recorded loss curve, and files written once are still read."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import Evaluation
from tinysight.predict.predictor import load_model
from tinysight.run import read_lines, read_run
from tinysight.settings import override
from tinysight.training.distributed import DistributedContext
from tinysight.training.loop import resume, run_loop
from tinysight.training.trainer import Trainer

CPU = Runtime(device=torch.device("cpu"), bf16=False)

BASE = {
    "model.name": "resnet",
    "model.options": {"n": 1, "filters": (8, 16)},
    "train.epochs": 2,
    "train.batch_size": 16,
    "train.ema_decay": 0.9,
    "train.device": "cpu",
    "train.precision": "fp32",
    "schedule.name": "cosine",
    "schedule.warmup": 0.5,
}
CLASSIFIER = {
    "optimizer.name": "muon",
    "optimizer.lr": 0.02,
    "augment.crop": 0.75,
    "augment.trivial_augment": True,
    "augment.mixup": 0.4,
    "augment.cutmix": 1.0,
    "augment.mix_until": 0.6,
    "train.label_smoothing": 0.1,
    "train.sizes": ((0.0, 0.5), (0.5, 0.75)),
}
LOCALIZER = {
    "optimizer.lr": 0.02,
    "augment.crop": 1.0,
    "augment.rotation": 5.0,
    "localizer.head": "lstm",
    "localizer.grid": 4,
    "localizer.giou_weight": 0.5,
}
# Loss and share of wrong images per step; last, the sum of the averaged weights' absolute values.
CURVES = {
    "classifier": [
        *(2.2615294, 0.6875, 1.5449225, 0.5625, 2.4528694, 0.75, 1.6206751, 0.875, 1.964614, 0.875),
        *(1.4015191, 0.625, 1.5045068, 0.8125, 1.4765872, 0.8125, 1.212603, 0.375, 1581.2870175),
    ],
    "localizer": [
        *(14.6098623, 0.6875, 13.2615166, 0.5625, 16.2742653, 0.8125, 15.8001461, 0.6875),
        *(16.5475636, 0.75, 14.8543072, 0.5625, 15.3664837, 0.6875, 14.3054857, 0.75),
        *(15.1331673, 0.8125, 21676.5378433),
    ],
}


GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """tests/golden/make.py as a module."""
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def curve(changes: dict[str, Any], dataset: Dataset) -> list[float]:
    """Train; return loss and error of each step, and the sum of the averaged weights."""
    config = override(Config(recipe="golden"), BASE | changes)
    with torch.random.fork_rng([]):
        trainer = Trainer(config, dataset, CPU, DistributedContext())
        values = []
        for number in range(9):
            trainer.step(trainer.loader.batch(number))
            sums = trainer.take_sums()
            values += [sums["loss"], sums["top1_error"]]
    assert trainer.ema is not None
    weights = trainer.ema.model.state_dict().values()
    return [*values, float(sum(value.double().abs().sum() for value in weights))]


@pytest.mark.parametrize("changes", [CLASSIFIER, LOCALIZER])
def test_the_loss_curve_is_the_recorded_one(changes: dict[str, Any], make: ModuleType) -> None:
    name = "localizer" if "localizer.head" in changes else "classifier"
    # 2e-6 on the machine that recorded it; other processors add in another order
    assert curve(changes, make.RandomDataset()) == pytest.approx(CURVES[name], rel=1e-4)


# ---------------------------------------------------------------- files written once


def test_a_run_written_once_is_read_and_predicts_the_same(make: ModuleType) -> None:
    run = read_run(GOLDEN / "run")
    then = {"localizer.threshold": 0.5}  # its default when the run was written
    assert run.config == override(Config(recipe="golden"), make.SETTINGS | then)
    assert [line["kind"] for line in run.log()] == ["train", "train", "epoch"]
    assert run.is_finished and run.monitored_error() is not None
    stored = Evaluation.load(run.scores_path("val"))
    metrics = {name: value for name, value in asdict(stored.metrics).items() if value is not None}
    assert metrics.items() <= json.loads(run.evaluation_path("val").read_text()).items()
    detections = Evaluation.load(run.scores_path("boxes")).detections
    assert detections is not None and detections.confidence.tolist() == [[0.75, 0.0]]
    assert detections.boxes[0, 0].tolist() == [1.0, 2.0, 5.0, 8.0]

    images = list(make.RandomDataset().images[:4])
    expected = json.loads((run.folder / "predictions.json").read_text())
    for weights in (run.folder, run.weights_path, *run.snapshots()):
        for found, top in zip(load_model(weights).predict(images), expected, strict=True):
            assert dict(found.top) == pytest.approx(dict(top), abs=1e-4)


def test_a_checkpoint_written_once_is_resumed(make: ModuleType, tmp_path: Path) -> None:
    golden = read_run(shutil.copytree(GOLDEN / "run", tmp_path / "run"))
    weights = load_file(golden.weights_path)
    golden.weights_path.unlink()
    resume(golden, make.RandomDataset())
    for name, value in load_file(golden.weights_path).items():
        assert torch.equal(value, weights[name]), name  # nothing was left to train

    shutil.copytree(GOLDEN / "run" / "checkpoints", tmp_path / "other" / "checkpoints")
    shutil.copy(GOLDEN / "run" / "log.jsonl", tmp_path / "other")
    longer = override(golden.config, {"train.epochs": 2})
    run_loop(
        replace(golden, folder=tmp_path / "other", config=longer), make.RandomDataset(), runtime=CPU
    )
    assert [line["step"] for line in read_lines(tmp_path / "other" / "log.jsonl")] == [
        4,
        5,
        5,
        8,
        9,
        9,
    ]
