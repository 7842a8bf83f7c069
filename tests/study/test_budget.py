"""A budget in minutes: what is measured, how it is shared out, and that it is planned once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.study import budget
from tinysight.study.budget import RESERVE, epochs_within, plan_epochs, training_rate
from tinysight.study.definitions import Member
from tinysight.study.plan import Job

CPU = Runtime(device=torch.device("cpu"), bf16=False)


def test_all_are_shortened_by_one_factor_and_none_grows() -> None:
    full = {"fast": (60, 10.0), "slow": (40, 30.0)}  # 600 + 1200 seconds
    assert epochs_within(1e6, full) == {"fast": 60, "slow": 40}
    half = 900 / 60 / (1 - RESERVE)
    assert epochs_within(half * 1.001, full) == {"fast": 30, "slow": 20}
    assert epochs_within(half * 0.99, full) == {"fast": 29, "slow": 19}
    assert epochs_within(45 / 60 / (1 - RESERVE), full) == {"fast": 1, "slow": 1}


def test_a_budget_below_an_epoch_each_is_refused_with_the_least() -> None:
    with pytest.raises(
        ValueError, match=r"--budget is 0\.5 minutes, but an epoch of each member takes 0\.78; give"
    ):
        epochs_within(0.5, {"fast": (60, 10.0), "slow": (40, 30.0)})


def test_the_rate_is_that_of_the_steps(make_run: object, pack: Dataset) -> None:
    run: Config = make_run(model__options={"seconds": 0.05})  # type: ignore[operator]
    before = torch.get_rng_state()
    rate = training_rate(run, pack, CPU, seconds=0.5)
    assert 16 / 0.05 / 20 < rate < 16 / 0.05, (
        "a step of 16 images sleeps 0.05 seconds; the machine may be busy"
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_a_growing_size_weighs_by_its_share(
    make_run: object, pack: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Config = make_run(train__sizes=((0.0, 12), (0.7, 24)))  # type: ignore[operator]
    asked = []

    def measured(training: budget.Trainer, first: int, seconds: float) -> float:
        asked.append((training.size_at(first), seconds))
        return {12: 0.1, 24: 0.4}[training.size_at(first)]

    monkeypatch.setattr(budget, "_seconds_an_image", measured)
    assert 1 / training_rate(run, pack, CPU, seconds=4) == pytest.approx(0.7 * 0.1 + 0.3 * 0.4)
    assert asked == [(12, 2.0), (24, 2.0)]


def test_it_is_planned_once(
    make_run: object, pack: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Config = make_run(train__epochs=30)  # type: ignore[operator]
    jobs = [
        Job(member=Member(label=label, run=run), run=run, folder=tmp_path / "study" / label)
        for label in "ab"
    ]
    rates = iter(
        [8.8, 17.6]
    )  # 72 images, and 24 looked at twice for a third: 10 and 5 seconds an epoch
    monkeypatch.setattr(budget, "training_rate", lambda run, pack, runtime, seconds: next(rates))
    said: list[str] = []
    minutes = 150 / 60 / (1 - RESERVE) * 1.001
    assert plan_epochs(jobs, pack, minutes=minutes, say=said.append) == {"a": 10, "b": 10}
    assert said[0].startswith("a: 9 images/s, cpu")
    assert said[2:] == [
        "a: 10 of 30 epochs, about 1.7 minutes",
        "b: 10 of 30 epochs, about 0.8 minutes",
    ]
    assert plan_epochs(jobs, pack, minutes=minutes) == {"a": 10, "b": 10}, (
        "no rate is asked for again"
    )
    kept = tmp_path / "study" / "budget.json"
    assert json.loads(kept.read_text())["images_per_s"] == {"a": 8.8, "b": 17.6}
    with pytest.raises(ValueError, match="was planned with --budget"):
        plan_epochs(jobs, pack, minutes=9)
    other = replace(jobs[0], member=Member(label="c", run=run))
    with pytest.raises(ValueError, match="plans nothing for c"):
        plan_epochs([other], pack, minutes=minutes)
    kept.write_text("{}")
    with pytest.raises(ValueError, match=r"budget\.json is damaged"):
        plan_epochs(jobs, pack, minutes=minutes)
