"""A training on a GPU: captured steps, what is not finite, and resuming."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.recipes import recipe
from tinysight.run import read_run
from tinysight.settings import override
from tinysight.training import loop
from tinysight.training.distributed import DistributedContext
from tinysight.training.graph import WARMUP_STEPS
from tinysight.training.loop import NonFinite, TimeUp
from tinysight.training.trainer import Trainer

MakeConfig = Callable[..., Config]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
GPU = {"train__device": "cuda", "model__name": "resnet"}
MODEL = {"n": 1, "filters": (8, 16)}


def _trainer(config: Config, dataset: Dataset, *, bf16: bool = False) -> Trainer:
    runtime = Runtime(device=torch.device("cuda", 0), bf16=bf16)
    return Trainer(config, dataset, runtime, DistributedContext())


def _weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten().double().cpu() for p in trainer.model.parameters()])


@pytest.fixture
def config(make_config: MakeConfig) -> Config:
    return make_config(**GPU, model__options=MODEL, train__epochs=6)


@pytest.mark.parametrize("optimizer", ["sgd", "muon", "adam", "rmsprop"])
def test_captured_steps_are_the_steps_taken_one_by_one(
    config: Config, dataset: Dataset, optimizer: str
) -> None:
    trained = {}
    for captured in (True, False):
        own = {"optimizer.name": optimizer, "optimizer.epsilon": 1.0, "optimizer.lr": 0.02}
        own["train.sizes"] = ((0.0, 0.5), (0.5, 0.75))
        changed = override(config, own | {"train.cuda_graph": captured})
        trainer = _trainer(changed, dataset)
        assert (trainer.graphed is not None) is captured
        start = _weights(trainer)
        assert trainer.total_steps // 2 > WARMUP_STEPS + 2
        for number in range(trainer.total_steps):
            trainer.step(trainer.loader.batch(number))
        trained[captured] = _weights(trainer), trainer.take_sums()
        moved = float((_weights(trainer) - start).norm())
    (weights, sums), (others, other_sums) = trained[True], trained[False]
    assert float((weights - others).norm()) < 0.02 * moved
    assert sums["loss"] == pytest.approx(other_sums["loss"], rel=1e-2)


def test_dropout_and_mixing_are_drawn_anew_in_captured_steps(
    config: Config, dataset: Dataset
) -> None:
    own: dict[str, Any] = {"augment.mixup": 1.0, "augment.mix_until": 0.7}
    own |= {"augment.trivial_augment": True, "optimizer.lr": 1e-9, "train.ema_decay": 0.0}
    changed = override(config, own)
    changed = replace(changed, model=recipe("vgg16-report").model)
    changed = override(changed, {"model.options.filters": (8, 8, 8, 8, 8), "augment.crop": 1.0})
    trainer = _trainer(changed, dataset, bf16=True)
    losses = []
    batch = trainer.loader.batch(0)
    for _ in range(8):
        trainer.step(batch)
        losses.append(trainer.take_sums()["loss"])
    assert len(set(losses[WARMUP_STEPS:])) > 1


def test_a_step_that_is_not_finite_ends_the_training_and_saves_nothing(
    config: Config, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trainer.step

    def step(self: Trainer, batch: Any) -> torch.Tensor:
        if self.step_number == 7:
            next(self.model.parameters()).data[0] = float("nan")
        return real(self, batch)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(NonFinite, match=r"at step 5 to 8 .*step-00000005"):
        loop.train(config, dataset, name=tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert newest.name == "step-00000005"


def test_a_resumed_training_ends_alike(config: Config, dataset: Dataset, tmp_path: Path) -> None:
    whole = loop.train(config, dataset, name=tmp_path / "whole")
    parts = override(config, {"train.stop_after_minutes": 1e-4})
    with pytest.raises(TimeUp):
        loop.train(parts, dataset, name=tmp_path / "parts")
    loop.resume(read_run(tmp_path / "parts"), dataset, settings=["train.stop_after_minutes=0"])
    last = [
        json.loads((run / "log.jsonl").read_text().splitlines()[-1])
        for run in (whole.folder, tmp_path / "parts")
    ]
    assert last[0]["step"] == last[1]["step"]
    assert last[0]["loss"] == pytest.approx(last[1]["loss"], rel=0.05)
