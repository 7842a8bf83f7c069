"""Interrupted and resumed is uninterrupted to the byte, whatever ends a training and whenever."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tinysight.files import write_atomic
from tinysight.models import create_model
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.weights import weights_bytes
from tinysight.settings import override, parse_assignments
from tinysight.training import checkpoint, loop
from tinysight.training.callbacks import Callback
from tinysight.training.log import RunLogger
from tinysight.training.loop import Interrupted, TimeUp
from tinysight.training.schedules import LRSchedule
from tinysight.training.trainer import Trainer


# 5 + 4 + 5 steps. 1: in the warm-up; 3, 6, 11: within an epoch and between lines of the log; 5, 9:
# at an epoch's end, before its evaluation; 8: right after a line of the log; 14: the last step
@pytest.mark.parametrize("step", [1, 3, 5, 6, 8, 9, 11, 14])
def test_resume_after_a_signal_is_bitwise_identical(step: int, trial: Any) -> None:
    trial.stop_at(step)
    trial.go()
    assert trial.differences() == []


@pytest.fixture
def start(make_metadata: Callable[..., ModelMetadata], small_models: Any, tmp_path: Path) -> Path:
    """Weights to start from."""
    model = create_model("small", 24, dropout=0.3)
    path = tmp_path / "start.safetensors"
    path.write_bytes(weights_bytes(model, make_metadata(options={"dropout": 0.3})))
    return path


@pytest.mark.parametrize(
    "settings",
    [
        "schedule.name=cosine train.ema_decay=0",
        "train.keep_weights=best train.sizes=((0,0.5),(0.5,0.75)) data.fraction=0.5",
        "data.train=train+minival data.monitor=none schedule.name=linear data.prefetch=0",
        "model.options={'norm':False} optimizer.decay_all=True train.flip_average=False",
        "optimizer.name=rmsprop optimizer.epsilon=1 schedule.name=exponential schedule.factor=0.9 "
        "augment.trivial_augment=True",
        "optimizer.name=adam optimizer.lr=0.001 schedule.name=cyclic schedule.cycles=3 "
        "train.snapshots=3 augment.mixup=0.4 augment.cutmix=1 augment.mix_until=0.6",
        "model.pretrained=START model.frozen_norms=True optimizer.encoder_ratio=0.1 "
        "optimizer.name=adam optimizer.lr=0.001 schedule.name=cosine",
        "localizer.head=lstm localizer.grid=4 localizer.giou_weight=0.5 augment.crop=1 "
        "augment.rotation=5 optimizer.name=muon optimizer.lr=0.02 train.keep_weights=best "
        "augment.mosaic=0.5 augment.mix_until=0.6",
    ],
)
def test_runs_of_every_kind_resume_bitwise_after_several_stops(
    settings: str, trial: Any, start: Path
) -> None:
    settings = settings.replace("START", str(start))
    trial.config = override(trial.config, dict(parse_assignments(settings.split())))
    for step in (2, 5, 7):
        trial.stop_at(step)
    trial.go()
    assert trial.differences() == []


def test_resume_after_a_signal_during_evaluation_is_bitwise_identical(trial: Any) -> None:
    class Late(Callback):
        def on_step(self, step: int, values: dict[str, Any] | None) -> None:
            if step == 9:  # the report of an epoch's last step comes right before the evaluation
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        trial.go(Late())
    state = trial.newest()
    assert (state.step, state.scalars["epochs_done"]) == (9, 1)
    assert trial.lines()[-1]["kind"] == "train"
    trial.go()
    assert trial.differences() == []


def test_checkpoints_within_an_epoch_change_nothing(trial: Any) -> None:
    often = trial.at(train__checkpoint_minutes=1e-9)
    often.go()
    assert often.differences(trial.whole()) == [] and len(often.saved()) == 2


def test_resume_after_stop_after_minutes_is_bitwise_identical(
    trial: Any, messages: list[str]
) -> None:
    stopped, steps = trial.at(train__stop_after_minutes=1e-9), []
    while not stopped.weights_path.exists():
        try:
            stopped.go()
        except TimeUp as stop:
            assert stop.run.folder == stopped.folder and not stop.run.is_finished
            assert "state saved" in messages[-1]
            steps.append(stopped.saved()[-1])
    assert len(steps) == 14 and steps == sorted(set(steps)), "every sitting takes a step"
    assert stopped.differences(trial.whole()) == []


def _forget(name: str, trainer: Trainer, restore: Callable[[], None]) -> None:
    """Restore all but one thing, which stays as it was before."""
    random_state, rate = torch.get_rng_state(), vars(trainer.lr_schedule).copy()
    assert trainer.ema is not None
    average, model = (
        {key: value.clone() for key, value in module.state_dict().items()}
        for module in (trainer.ema.model, trainer.model)
    )
    restore()
    match name:
        case "random state":
            torch.set_rng_state(random_state)
        case "average":
            trainer.ema.model.load_state_dict(average)
        case "momentum":
            trainer.optimizer.state.clear()
        case "schedule":
            trainer.lr_schedule = LRSchedule(**rate)
        case "norm buffers":
            buffers = {key: value for key, value in model.items() if "running" in key}
            trainer.model.load_state_dict({**trainer.model.state_dict(), **buffers})
        case "sums":
            trainer.sums.zero_()
        case "position in the epoch":
            trainer.step_number = trainer.loader.epoch_end(trainer.epochs_done - 1)
        case "one batch more":
            trainer.step_number += 1
        case "one batch less":
            trainer.step_number -= 1
        case "best step":
            trainer.best_step = trainer.best_error = None
        case _:
            assert name == "nothing"


FORGOTTEN = (
    "random state,average,momentum,schedule,norm buffers,sums,position in the epoch,"
    "one batch more,one batch less,best step,nothing"
)


@pytest.mark.parametrize("forgotten", FORGOTTEN.split(","))
def test_the_comparison_finds_whatever_a_faulty_resume_forgets(
    forgotten: str, trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.stop_at(11)
    real = Trainer.restore
    monkeypatch.setattr(
        Trainer, "restore", lambda self, state: _forget(forgotten, self, lambda: real(self, state))
    )
    trial.go()
    assert bool(trial.differences()) == (forgotten != "nothing")


def test_resume_from_the_older_of_two_states_is_bitwise_identical(
    trial: Any, messages: list[str]
) -> None:
    trial.stop_at(11)
    newest = trial.folder / "checkpoints" / "step-00000011" / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[-3] ^= 16
    newest.write_bytes(content)
    trial.go()
    (warning,) = [text for text in messages if "is damaged" in text]
    assert "step-00000011/state.safetensors is damaged" in warning and "state before it" in warning
    assert trial.differences() == [] and trial.saved() == ["step-00000009", "step-00000014"]


def test_a_setting_is_changed_where_the_newest_state_is_damaged(trial: Any) -> None:
    trial.start(stop=11)
    (trial.folder / "checkpoints" / "step-00000011" / "state.safetensors").write_bytes(b"")
    trial.resume(settings=["train.stop_after_minutes=0"])
    assert trial.saved() == ["step-00000009", "step-00000014"] and trial.run.is_finished


def test_a_change_that_cannot_be_trained_leaves_the_run_as_it_was(trial: Any) -> None:
    trial.start()
    before = {path: path.read_bytes() for path in trial.folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"would see \d pixels"):
        trial.resume(settings=["train.epochs=9", "train.sizes=((0,0.05),)"])
    after = {path: path.read_bytes() for path in trial.folder.rglob("*") if path.is_file()}
    assert after == before


def test_a_run_whose_states_are_all_damaged_is_not_restarted(trial: Any) -> None:
    trial.stop_at(3)
    log = (trial.folder / "log.jsonl").read_bytes()
    (trial.folder / "checkpoints" / "step-00000003" / "state.json").unlink()
    with pytest.raises(ValueError, match=r"no state .* is intact"):
        trial.go()
    assert (trial.folder / "log.jsonl").read_bytes() == log


# ---------------------------------------------------------------- killed


class Crash(BaseException):
    """The process ends here."""


def test_a_crash_before_any_line_or_file_is_written_changes_nothing(
    trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.whole()
    left = 0

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Crash
            return work(*arguments, **options)

        return call

    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and no power is cut here
    for owner, names in ((RunLogger, ("write", "sync")), (checkpoint, ("save", "prune"))):
        for name in names:
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    monkeypatch.setattr(loop, "write_atomic", counted(write_atomic))
    # 6 + 3 lines, 3 times a log synced, a state saved and old ones removed, 2 last files
    for number in range(1, 21):
        left, crashed = number, trial.at(f"run-{number}")
        with pytest.raises(Crash):
            crashed.go()
        crashed.go()
        assert crashed.differences() == [], number
    left = 21
    trial.go()
    assert left == 1


def _kill_again_and_again(trial: Any, fork: Any, expected: dict[str, Any], kills: int) -> None:
    """Train in child processes until `kills` were killed at random times; compare every run."""
    chance = random.Random(kills)
    killed, number = 0, 0
    while killed < kills:
        number += 1
        run, status = trial.at(f"run-{number}"), -1
        while status != 0:
            run.config = override(run.config, {"data.prefetch": chance.choice([0, 1, 2, 5])})
            pid = fork(run.go)
            timer = threading.Timer(chance.uniform(0.02, 0.6), os.kill, (pid, signal.SIGKILL))
            timer.start()
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            timer.cancel()
            timer.join()
            assert status in (0, -signal.SIGKILL), "a child failed by itself"
            killed += status == -signal.SIGKILL
        assert run.differences(expected) == [], number


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.reliability)])
def test_resume_after_sigkills_is_bitwise_identical(kills: int, trial: Any, fork: Any) -> None:
    often = trial.at(train__checkpoint_minutes=0.0005)
    _kill_again_and_again(often, fork, trial.whole(), kills)
