"""The speedrun: the very training of the loop, timed by the rules, and a verdict that holds to
them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import evaluate
from tinysight.predict.predictor import Predictor
from tinysight.run import Run
from tinysight.training.loop import run_loop

ROOT = Path(__file__).parent.parent
CPU = Runtime(device=torch.device("cpu"), bf16=False)


@pytest.fixture(scope="module")
def speedrun(load_script: Callable[[Path], ModuleType]) -> ModuleType:
    return load_script(ROOT / "benchmarks" / "speedrun.py")


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    """A run with dropout, batch norm, averaged weights and two sizes, that watches no error."""
    return make_config(
        data__monitor="none",
        schedule__name="linear",
        train__sizes=((0.0, 0.5), (0.5, 0.75)),
        model__options={"dropout": 0.3, "seconds": 0.01},
    )


def test_it_is_the_training_of_the_loop(
    speedrun: ModuleType, config: Config, dataset: Dataset, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    done = speedrun.attempt(config, dataset, CPU, "minival")
    assert torch.equal(torch.get_rng_state(), before)
    run_loop(
        Run(folder=tmp_path, config=config, data_digest=dataset.digest, machine={}),
        dataset,
        runtime=CPU,
    )
    expected = evaluate(Predictor(tmp_path), dataset, "minival").metrics
    assert done.metrics == expected, "warming up changes nothing of it"
    assert 14 * 0.01 < done.seconds < 30
    assert 2 * 0.01 < done.compile_seconds < 30, "one pass at each of two sizes"


def test_a_training_that_breaks_is_no_attempt(
    speedrun: ModuleType, config: Config, dataset: Dataset
) -> None:
    wild = replace(config, optimizer=replace(config.optimizer, lr=1e38))
    with pytest.raises(ValueError, match="not finite"):
        speedrun.attempt(wild, dataset, CPU, "minival")


def row(**changes: Any) -> dict[str, Any]:
    return {
        "split": "val",
        "seeds": [0, 1, 2, 3, 4],
        "top1_error": 0.37,
        "seconds": [50.0, 60.0],
        **changes,
    }


def test_a_record_needs_val_five_seeds_and_the_target(speedrun: ModuleType) -> None:
    assert speedrun.verdict(row(), 0.3756) == "55.00 s to 37.00%: by the rules."
    assert "not val's" in speedrun.verdict(row(split="minival"), 0.3756)
    assert "4 seeds, 5 are needed" in speedrun.verdict(row(seeds=[0, 1, 2, 3]), 0.3756)
    assert "above 37.56%" in speedrun.verdict(row(top1_error=0.3757), 0.3756)


@pytest.mark.parametrize("change", [{"schedule__name": "plateau"}, {"train__keep_weights": "best"}])
def test_a_run_that_watches_errors_is_refused(
    speedrun: ModuleType, change: dict[str, Any], make_config: Callable[..., Config]
) -> None:
    with pytest.raises(ValueError, match="watches no error"):
        speedrun.check_rules(make_config(**{"schedule__name": "linear", **change}))


def test_a_run_that_begins_trained_is_refused(
    speedrun: ModuleType, make_config: Callable[..., Config]
) -> None:
    config = make_config(schedule__name="linear", model__pretrained="bundled")
    with pytest.raises(ValueError, match="begins untrained"):
        speedrun.check_rules(config)


def test_the_command_writes_a_row(
    speedrun: ModuleType,
    dataset: Dataset,
    data_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TINYSIGHT_DATA", str(data_home))
    small = [
        "model.options.filters=(4,8)",
        "train.epochs=1",
        "train.batch_size=24",
        "train.device=cpu",
        "augment.crop=0.75",
    ]
    words = [
        "speedrun.py",
        "quickstart",
        *small,
        "--data",
        "small",
        "--seeds",
        "2",
        "--target",
        "100",
    ]

    def call(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        speedrun.main()
        return capsys.readouterr().out

    out = call("--out", str(tmp_path / "row.json"), "--hardware", "a core")
    assert "seed 1: " in out and "the error is not val's; 2 seeds, 5 are needed" in out
    written = json.loads((tmp_path / "row.json").read_text())
    assert (written["kind"], written["seeds"], written["hardware"], written["epochs"]) == (
        "speedrun",
        [0, 1],
        "a core",
        1,
    )
    assert written["top1_error"] == pytest.approx(sum(written["top1_errors"]) / 2)
    assert written["minutes"] == pytest.approx(sum(written["seconds"]) / 120, abs=1e-3)
    with pytest.raises(SystemExit, match="minival tells nothing"):
        call("data.train=train+minival", "data.monitor=none")
    with pytest.raises(SystemExit, match="did you mean"):
        call("train.epocs=3")
