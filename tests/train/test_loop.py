"""The loop: interrupted and resumed is uninterrupted to the byte, faults stop it cleanly, a seed
decides everything.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tinysight import run as runs
from tinysight.config import Config, override, parse_assignments
from tinysight.data.batches import Batch
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import Evaluation, evaluate_run
from tinysight.files import write_atomic
from tinysight.predict.weights import load_weights
from tinysight.run import read_lines
from tinysight.train import checkpoint, loop
from tinysight.train.callbacks import NullReporter
from tinysight.train.distributed import DistributedContext
from tinysight.train.log import RunLogger
from tinysight.train.loop import Interrupted, NonFinite, TimeUp
from tinysight.train.schedules import LRSchedule
from tinysight.train.setup import channel_statistics, check
from tinysight.train.trainer import Trainer

CPU = Runtime(device=torch.device("cpu"), bf16=False)
MakeConfig = Callable[..., Config]
Whole = Callable[[Config], dict[str, Any]]


@contextmanager
def signalled(step: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """Send a signal amid the step that ends as number `step`."""
    real = Trainer.step

    def take(self: Trainer, batch: Batch) -> torch.Tensor:
        if self.step_number == step - 1:
            os.kill(os.getpid(), number)
        return real(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", take)
        yield


def handle(folder: Path, config: Config, dataset: Dataset) -> runs.Run:
    """Make the handle of a run in `folder`."""
    versions = {"tinysight": "0"}
    return runs.Run(
        folder=folder, config=config, data_digest=dataset.digest, machine={}, versions=versions
    )


def go(
    config: Config, dataset: Dataset, folder: Path, reporter: NullReporter | None = None
) -> None:
    """Train in `folder`, from where it stands."""
    folder.mkdir(exist_ok=True)
    loop.run_loop(
        handle(folder, config, dataset), dataset, runtime=CPU, callback=reporter or NullReporter()
    )


def stop_at(config: Config, dataset: Dataset, folder: Path, step: int) -> None:
    """Train up to `step`, where a signal comes."""
    with pytest.raises(Interrupted), signalled(step):
        go(config, dataset, folder)
    assert checkpoint.saved(folder / "checkpoints")[-1].name == f"step-{step:08d}"


def traces(folder: Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on interruptions, by name."""
    last = checkpoint.load(checkpoint.saved(folder / "checkpoints")[-1])
    found: dict[str, Any] = {
        f"state {name}": value.numpy().tobytes() for name, value in last.tensors.items()
    }
    found |= {f"scalar {name}": value for name, value in last.scalars.items()}
    found["log"] = (folder / "log.jsonl").read_bytes()
    found |= {
        name: value.numpy().tobytes()
        for name, value in load_file(folder / "weights.safetensors").items()
    }
    found["weights"] = (folder / "weights.safetensors").read_bytes()
    found |= {path.name: path.read_bytes() for path in sorted((folder / "snapshots").glob("*"))}
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name what differs between two runs' traces."""
    return [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, dict[str, Any]]:
    """Traces of runs that were not interrupted, each trained once."""
    return {}


@pytest.fixture
def whole(uninterrupted: dict[str, dict[str, Any]], dataset: Dataset, tmp_path: Path) -> Whole:
    """Give the traces of a run that was not interrupted."""

    def train(config: Config) -> dict[str, Any]:
        key = repr(config)
        if key not in uninterrupted:
            folder = tmp_path / f"whole-{len(uninterrupted)}"
            go(config, dataset, folder)
            uninterrupted[key] = traces(folder)
        return uninterrupted[key]

    return train


# ---------------------------------------------------------------- resuming


# 5 + 4 + 5 steps. 1: in the warm-up; 3, 6, 11: amid an epoch and between lines of the log; 5, 9: at
# an epoch's end, before its evaluation; 8: right behind a line of the log; 14: the last step
@pytest.mark.parametrize("step", [1, 3, 5, 6, 8, 9, 11, 14])
def test_resume_after_a_signal_is_bitwise_identical(
    step: int, make_config: MakeConfig, dataset: Dataset, whole: Whole, tmp_path: Path
) -> None:
    config = make_config()
    stop_at(config, dataset, tmp_path / "run", step)
    go(config, dataset, tmp_path / "run")
    assert differences(traces(tmp_path / "run"), whole(config)) == []


@pytest.mark.parametrize(
    "settings",
    [
        "schedule.name=cosine train.ema_decay=0",
        "train.keep_weights=best train.sizes=((0,16),(0.5,24)) data.fraction=0.5",
        "data.train=train+minival data.monitor=none schedule.name=linear data.prefetch=0",
        "model.options={'norm':False} optimizer.decay_all=True train.flip_average=False",
        "optimizer.name=rmsprop optimizer.epsilon=1 schedule.name=exponential schedule.factor=0.9 "
        "augment.trivial_augment=True augment.erase=0.5",
        "optimizer.name=adam optimizer.lr=0.001 schedule.name=cyclic schedule.cycles=3 "
        "train.snapshots=3 augment.mixup=0.4 augment.cutmix=1 augment.mix_until=0.6",
        "localizer.head=lstm localizer.grid=4 localizer.giou_weight=0.5 augment.crop=0 "
        "augment.rotation=5 optimizer.name=muon optimizer.lr=0.02 train.keep_weights=best",
    ],
)
def test_runs_of_every_kind_resume_bitwise_after_several_stops(
    settings: str, make_config: MakeConfig, dataset: Dataset, whole: Whole, tmp_path: Path
) -> None:
    config = override(make_config(), dict(parse_assignments(settings.split())))
    for step in (2, 5, 7):
        stop_at(config, dataset, tmp_path / "run", step)
    go(config, dataset, tmp_path / "run")
    assert differences(traces(tmp_path / "run"), whole(config)) == []


def test_resume_after_a_signal_during_evaluation_is_bitwise_identical(
    make_config: MakeConfig, dataset: Dataset, whole: Whole, tmp_path: Path
) -> None:
    config = make_config()

    def signal_too_late_for_the_step(step: int, values: dict[str, Any] | None) -> None:
        if step == 9:  # the report of an epoch's last step comes right before the evaluation
            os.kill(os.getpid(), signal.SIGTERM)

    reporter = NullReporter()
    reporter.on_step = signal_too_late_for_the_step  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        go(config, dataset, tmp_path / "run", reporter)
    (newest,) = checkpoint.saved(tmp_path / "run" / "checkpoints")[-1:]
    state = checkpoint.load(newest)
    assert (state.step, state.scalars["epochs_done"]) == (9, 1)
    assert read_lines(tmp_path / "run" / "log.jsonl")[-1]["kind"] == "train"
    go(config, dataset, tmp_path / "run")
    assert differences(traces(tmp_path / "run"), whole(config)) == []


def test_checkpoints_within_an_epoch_change_nothing(
    make_config: MakeConfig, dataset: Dataset, whole: Whole, tmp_path: Path
) -> None:
    go(make_config(train__checkpoint_minutes=1e-9), dataset, tmp_path / "run")
    assert differences(traces(tmp_path / "run"), whole(make_config())) == []
    assert len(checkpoint.saved(tmp_path / "run" / "checkpoints")) == 2


def test_resume_after_stop_after_minutes_is_bitwise_identical(
    make_config: MakeConfig, dataset: Dataset, whole: Whole, tmp_path: Path, messages: list[str]
) -> None:
    config = make_config(train__stop_after_minutes=1e-9)
    steps = []
    while not (tmp_path / "run" / "weights.safetensors").exists():
        try:
            go(config, dataset, tmp_path / "run")
        except TimeUp as stop:
            assert stop.run.folder == tmp_path / "run" and not stop.run.is_finished
            assert "state saved" in messages[-1]
            steps.append(checkpoint.saved(tmp_path / "run" / "checkpoints")[-1].name)
    assert len(steps) == 14 and steps == sorted(set(steps)), "every sitting takes a step"
    assert differences(traces(tmp_path / "run"), whole(make_config())) == []


def _keeping(name: str) -> Callable[[Trainer, checkpoint.State], None]:
    """A restore that forgets one thing: afterwards it is as it was before."""
    real = Trainer.restore

    def restore(self: Trainer, state: checkpoint.State) -> None:
        random_state, rate = torch.get_rng_state(), vars(self.lr_schedule).copy()
        assert self.ema is not None
        average = {key: value.clone() for key, value in self.ema.model.state_dict().items()}
        model = {key: value.clone() for key, value in self.model.state_dict().items()}
        real(self, state)
        if name == "random state":
            torch.set_rng_state(random_state)
        elif name == "average":
            self.ema.model.load_state_dict(average)
        elif name == "momentum":
            self.optimizer.state.clear()
        elif name == "schedule":
            self.lr_schedule = LRSchedule(**rate)
        elif name == "norm buffers":
            buffers = {key: value for key, value in model.items() if "running" in key}
            self.model.load_state_dict({**self.model.state_dict(), **buffers})
        elif name == "sums":
            self.sums.zero_()
        elif name == "position in the epoch":
            self.step_number = self.loader.epoch_end(self.epochs_done - 1)
        elif name == "one batch more":
            self.step_number += 1
        elif name == "one batch less":
            self.step_number -= 1
        elif name == "best step":
            self.best_step = self.best_error = None
        else:
            assert name == "nothing"

    return restore


FORGOTTEN = [
    *(
        "random state",
        "average",
        "momentum",
        "schedule",
        "norm buffers",
        "sums",
        "position in the epoch",
    ),
    *("one batch more", "one batch less", "best step"),
]


@pytest.mark.parametrize("forgotten", [*FORGOTTEN, "nothing"])
def test_the_comparison_finds_whatever_a_faulty_resume_forgets(
    forgotten: str,
    make_config: MakeConfig,
    dataset: Dataset,
    whole: Whole,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config()
    stop_at(config, dataset, tmp_path / "run", 11)
    monkeypatch.setattr(Trainer, "restore", _keeping(forgotten))
    go(config, dataset, tmp_path / "run")
    assert bool(differences(traces(tmp_path / "run"), whole(config))) == (forgotten != "nothing")


def test_resume_from_the_older_of_two_states_is_bitwise_identical(
    messages: list[str], make_config: MakeConfig, dataset: Dataset, whole: Whole, tmp_path: Path
) -> None:
    config = make_config()
    stop_at(config, dataset, tmp_path / "run", 11)
    newest = tmp_path / "run" / "checkpoints" / "step-00000011" / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[-3] ^= 16
    newest.write_bytes(content)
    go(config, dataset, tmp_path / "run")
    (warning,) = [text for text in messages if "warning" in text]
    assert "step-00000011/state.safetensors is damaged" in warning and "state before it" in warning
    assert differences(traces(tmp_path / "run"), whole(config)) == []
    assert [path.name[-2:] for path in checkpoint.saved(tmp_path / "run" / "checkpoints")] == [
        "09",
        "14",
    ]


def test_a_run_whose_states_are_all_damaged_is_not_restarted(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    config = make_config()
    stop_at(config, dataset, tmp_path / "run", 3)
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    (tmp_path / "run" / "checkpoints" / "step-00000003" / "state.json").unlink()
    with pytest.raises(ValueError, match=r"no state .* is intact"):
        go(config, dataset, tmp_path / "run")
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log


# ---------------------------------------------------------------- killed


class Crash(BaseException):
    """The process ends here."""


def test_a_crash_before_any_line_or_file_is_written_changes_nothing(
    make_config: MakeConfig,
    dataset: Dataset,
    whole: Whole,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config()
    expected = whole(config)
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
    for owner, name in (
        (RunLogger, "write"),
        (RunLogger, "sync"),
        (checkpoint, "save"),
        (checkpoint, "prune"),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    monkeypatch.setattr(loop, "write_atomic", counted(write_atomic))
    for number in range(
        1, 21
    ):  # 6 + 3 lines, 3 times a log synced, a state saved and old ones removed, 2 last files
        left = number
        with pytest.raises(Crash):
            go(config, dataset, tmp_path / f"run-{number}")
        go(config, dataset, tmp_path / f"run-{number}")
        assert differences(traces(tmp_path / f"run-{number}"), expected) == [], number
    left = 21
    go(config, dataset, tmp_path / "uncrashed")
    assert left == 1


def _forked(work: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # newer Pythons warn of forks beside threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def _kill_again_and_again(
    config: Config, dataset: Dataset, expected: dict[str, Any], folder: Path, kills: int
) -> None:
    """Train in child processes that are killed at random times, until `kills` have been; compare
    every finished run.
    """
    chance = random.Random(kills)
    killed, number, finished = 0, 0, 0
    while killed < kills:
        number += 1
        place = folder / f"run-{number}"
        status = -1
        while status != 0:
            settings = override(config, {"data.prefetch": chance.choice([0, 1, 2, 5])})
            pid = _forked(lambda place=place, settings=settings: go(settings, dataset, place))  # type: ignore[misc]
            timer = threading.Timer(chance.uniform(0.02, 0.6), os.kill, (pid, signal.SIGKILL))
            timer.start()
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            timer.cancel()
            timer.join()
            assert status in (0, -signal.SIGKILL), "a child failed by itself"
            killed += status == -signal.SIGKILL
        finished += 1
        assert differences(traces(place), expected) == [], number
    assert finished >= 1


def test_resume_after_sigkill_is_bitwise_identical(
    make_config: MakeConfig, dataset: Dataset, whole: Whole, tmp_path: Path
) -> None:
    expected = whole(make_config())
    config = make_config(train__checkpoint_minutes=0.0005, model__options={"dropout": 0.3})
    _kill_again_and_again(config, dataset, expected, tmp_path, kills=4)


@pytest.mark.reliability
def test_resume_after_200_sigkills_is_bitwise_identical(
    make_config: MakeConfig, dataset: Dataset, whole: Whole, tmp_path: Path
) -> None:
    expected = whole(make_config())
    _kill_again_and_again(
        make_config(train__checkpoint_minutes=0.0005), dataset, expected, tmp_path, kills=200
    )


# ---------------------------------------------------------------- faults


def test_a_loss_that_is_not_finite_stops_before_the_optimizers_step(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    real = Trainer.step
    seen: list[torch.Tensor] = []

    def spoil(self: Trainer, batch: Any) -> torch.Tensor:
        if self.step_number == 7:
            self.model.normalize.mean.fill_(torch.nan)  # type: ignore[union-attr,operator]
            seen.extend(parameter.detach().clone() for parameter in self.model.parameters())
        finite = real(self, batch)
        if self.step_number == 7 and seen:
            assert all(map(torch.equal, seen, self.model.parameters())), "the step was taken"
        return finite

    monkeypatch.setattr(Trainer, "step", spoil)
    with pytest.raises(
        NonFinite,
        match=r"at step 8 \(epoch 2, lr 0\.05\); the last good state is step-00000005; try",
    ):
        go(config, dataset, tmp_path / "run")
    assert seen
    (kept,) = checkpoint.saved(tmp_path / "run" / "checkpoints")
    assert checkpoint.load(kept).step == 5
    assert all(torch.isfinite(value).all() for value in checkpoint.load(kept).tensors.values())
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_an_excessive_learning_rate_stops_the_training(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(NonFinite, match=r"no state was saved yet; try a lower optimizer\.lr"):
        go(make_config(optimizer__lr=1e30), dataset, tmp_path / "run")


def test_a_full_disk_stops_the_training_and_it_resumes_later(
    make_config: MakeConfig,
    dataset: Dataset,
    whole: Whole,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config()
    expected = whole(config)
    real = checkpoint.write_durable

    def full(path: Path, content: bytes) -> None:
        if "step-00000009" in str(path) and path.name == "state.safetensors":
            raise OSError(28, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr(checkpoint, "write_durable", full)
    with pytest.raises(OSError, match="No space left"):
        go(config, dataset, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000005"]
    monkeypatch.setattr(checkpoint, "write_durable", real)
    go(config, dataset, tmp_path / "run")
    assert differences(traces(tmp_path / "run"), expected) == []


def test_no_thread_is_left_after_a_stop_or_an_error(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    for name, changes, ending in (
        ("stopped", {}, Interrupted),
        ("diverged", {"optimizer__lr": 1e30}, NonFinite),
    ):
        with pytest.raises(ending) as kept, signalled(3):
            go(make_config(data__prefetch=1, **changes), dataset, tmp_path / name)
        assert kept.traceback and not [
            thread for thread in threading.enumerate() if thread.name == "prefetch"
        ]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"augment__crop": 40}, "augment.crop is 40, but the images of small have 32 pixels"),
        ({"model__name": "resnett"}, "did you mean resnet"),
        ({"model__options": {"nn": 1}}, "no option 'nn'"),
        ({"train__device": "cuda:77"}, "the device is .*cuda:77"),
        ({"train__device": "gpu"}, "expected auto, cpu"),
    ],
)
def test_a_misfitting_config_is_refused_before_anything_is_written(
    changes: dict[str, Any],
    complaint: str,
    make_config: MakeConfig,
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=complaint):
        loop.train(make_config(**changes), dataset, name=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_processes_cannot_share_and_a_split_without_labels_are_refused(
    make_config: MakeConfig, dataset: Dataset, data_home: Path
) -> None:
    from tinysight.data.build import build
    from tinysight.data.shapes import Shapes

    with pytest.raises(
        ValueError, match="cannot be shared evenly by 3 processes; set a multiple of 3"
    ):
        check(make_config(), dataset, DistributedContext(size=3))
    bare = build(
        Shapes(num_train=24, num_minival=0, num_val=0, num_test=0, image_size=32, name="bare"),
        home=data_home,
        workers=1,
    )
    with pytest.raises(ValueError, match=r"no labeled image in minival.*set data\.monitor=none"):
        check(make_config(), bare, DistributedContext())
    check(make_config(data__monitor="none", schedule__name="cosine"), bare, DistributedContext())


# ---------------------------------------------------------------- runs: start and resume


def _started(config: Config, dataset: Dataset, folder: Path, stop: int) -> None:
    with pytest.raises(Interrupted), signalled(stop):
        loop.train(config, dataset, name=folder, command="tinysight train")


def test_a_run_resumes_from_its_folder_alone(
    messages: list[str], make_config: MakeConfig, dataset: Dataset, whole: Whole, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    _started(make_config(), dataset, folder, stop=6)
    run = loop.resume(runs.read_run(folder), dataset)
    assert any("resuming after step-00000006" in text for text in messages)
    assert not any("warning" in text for text in messages)
    found, expected = traces(folder), whole(make_config())
    assert differences(found, expected) in ([], ["weights"])  # the metadata tells the commit
    summary = run.summary() or {}
    assert (summary["steps"], summary["epochs"]) == (14, 3) and summary["seconds"] > 0
    errors = [
        line["top1_error"] for line in read_lines(folder / "log.jsonl") if line["kind"] == "epoch"
    ]
    assert len(errors) == 3 and summary["best_monitored_error"] == min(errors)
    metrics = evaluate_run(runs.read_run(folder), dataset, "minival").metrics
    assert metrics.top1_error == pytest.approx(errors[-1])


def test_a_resumed_run_may_change_settings_and_records_since_when(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    config = make_config(schedule__name="constant", schedule__warmup=0.0)
    _started(config, dataset, folder, stop=6)
    for settings, complaint in (
        (
            ["train.batch_size=8"],
            "train.batch_size cannot change during a training; these can: optimizer.lr",
        ),
        (["train.epochs=1"], "train.epochs is 1, but 1 are done"),
        (["optimizer.lr=-1"], "optimizer.lr is -1"),
        (["optimizer.lrr=1"], "optimizer.lrr cannot change"),
    ):
        with pytest.raises(ValueError, match=complaint):
            loop.resume(runs.read_run(folder), dataset, settings=settings)
    assert runs.read_run(folder).config == config
    loop.resume(runs.read_run(folder), dataset, settings=["optimizer.lr=0.01", "train.epochs=2"])
    record = runs.read_run(folder)
    assert record.config == replace(
        config, optimizer=replace(config.optimizer, lr=0.01), train=replace(config.train, epochs=2)
    )
    assert record.command.endswith(
        "  # stopped at step 6\ntinysight resume run optimizer.lr=0.01 train.epochs=2"
    )
    rates = {
        line["step"]: line["lr"]
        for line in read_lines(folder / "log.jsonl")
        if line["kind"] == "train"
    }
    assert rates[4] == 0.05 and rates[8] == rates[9] == 0.01 and max(rates) == 9


def test_a_finished_run_changed_data_and_a_second_process_are_refused(
    make_config: MakeConfig, dataset: Dataset, data_home: Path, tmp_path: Path
) -> None:
    from tinysight.data.build import build
    from tinysight.data.shapes import Shapes

    folder = tmp_path / "run"
    _started(make_config(), dataset, folder, stop=3)
    other = build(
        Shapes(num_train=72, num_minival=24, num_val=24, num_test=11, image_size=32, name="other"),
        home=data_home,
        workers=1,
    )
    with pytest.raises(ValueError, match=r"the data other are not those that .* began with"):
        loop.resume(runs.read_run(folder), other)

    def resume_too(step: int, values: dict[str, Any] | None) -> None:
        if step == 5:
            with pytest.raises(
                ValueError, match=r"another process is training .*/run; wait for it"
            ):
                loop.resume(runs.read_run(folder), dataset)
            refused.append(step)

    refused: list[int] = []
    reporter = NullReporter()
    reporter.on_step = resume_too  # type: ignore[method-assign]
    loop.resume(runs.read_run(folder), dataset, callback=reporter)
    assert refused
    with pytest.raises(ValueError, match="is finished; `tinysight evaluate"):
        loop.resume(runs.read_run(folder), dataset)
    with pytest.raises(ValueError, match="exists; continue it by `tinysight resume"):
        loop.train(make_config(), dataset, name=folder)


def test_another_machine_or_version_is_warned_of(
    messages: list[str], make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    _started(make_config(), dataset, folder, stop=3)
    content = json.loads((folder / "run.json").read_text())
    content["machine"]["threads"] = 99
    content["versions"]["torch"] = "2.0"
    (folder / "run.json").write_text(json.dumps(content))
    loop.resume(runs.read_run(folder), dataset)
    (warning,) = [text for text in messages if "warning" in text]
    assert (
        "threads 99 -> " in warning
        and "torch 2.0 -> " in warning
        and "not the same bytes" in warning
    )


def test_a_kill_before_the_weights_are_written_can_be_resumed(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    loop.train(make_config(), dataset, name=folder)
    expected = traces(folder)
    (folder / "weights.safetensors").unlink()
    loop.resume(runs.read_run(folder), dataset)
    assert differences(traces(folder), expected) == [] and (folder / "summary.json").exists()


def test_the_best_weights_are_kept_when_asked_for(
    messages: list[str],
    make_config: MakeConfig,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(train__keep_weights="best", train__epochs=5)
    errors = iter([0.9, 0.2, 0.7, 0.2, 0.8])
    real = Evaluation.metrics.func  # type: ignore[attr-defined]
    monkeypatch.setattr(
        Evaluation, "metrics", property(lambda self: replace(real(self), top1_error=next(errors)))
    )
    go(config, dataset, tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / "step-00000009"
    assert [path.name[-2:] for path in checkpoint.saved(best.parent)] == ["09", "18", "23"]
    state = checkpoint.load(best)
    kept = load_file(tmp_path / "run" / "weights.safetensors")
    assert all(torch.equal(value, state.tensors[f"ema|{name}"]) for name, value in kept.items())

    (tmp_path / "run" / "weights.safetensors").unlink()
    (best / "state.json").write_text("{}")
    go(config, dataset, tmp_path / "run")
    assert any("keeping the last weights in place of the best" in text for text in messages)


def test_snapshots_are_the_weights_after_the_last_epochs(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    go(make_config(train__snapshots=2, train__keep_weights="last"), dataset, tmp_path / "run")
    kept = sorted((tmp_path / "run" / "snapshots").iterdir())
    assert [path.name for path in kept] == ["epoch-0002.safetensors", "epoch-0003.safetensors"]
    first, last = (load_weights(path) for path in kept)
    final, _ = load_weights(tmp_path / "run" / "weights.safetensors")
    assert (first[1].results["epochs"], last[1].results["epochs"]) == (2, 3)
    for name, value in final.state_dict().items():
        assert torch.equal(value, last[0].state_dict()[name])
    assert not torch.equal(first[0].state_dict()["head.weight"], final.state_dict()["head.weight"])


def test_mixing_ends_where_it_should_and_lowers_no_label(
    make_config: MakeConfig, dataset: Dataset
) -> None:
    """A network that is sure of the heavier label counts as right, mixed or not; mixing stops at
    `mix_until`.
    """
    config = make_config(
        augment__mixup=1.0,
        augment__mix_probability=1.0,
        augment__mix_until=0.5,
        train__ema_decay=0.0,
    )
    training = Trainer(config, dataset, CPU, DistributedContext())
    seen: list[torch.Tensor] = []
    training.forward.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    plain = Trainer(make_config(train__ema_decay=0.0), dataset, CPU, DistributedContext())
    unmixed: list[torch.Tensor] = []
    plain.forward.register_forward_pre_hook(lambda _, inputs: unmixed.append(inputs[0].clone()))
    for number in range(training.total_steps):
        training.step(training.loader.batch(number))
        plain.step(plain.loader.batch(number))
    same = [torch.equal(one, other) for one, other in zip(seen, unmixed, strict=True)]
    assert same == [False] * 7 + [True] * 7


# ---------------------------------------------------------------- what decides a training


def test_a_seed_decides_every_byte(
    make_config: MakeConfig, dataset: Dataset, whole: Whole, tmp_path: Path
) -> None:
    torch.manual_seed(12345)  # the caller's: of no influence, and left as it is
    before = torch.get_rng_state()
    for prefetch in (0, 7):
        folder = tmp_path / f"again-{prefetch}"
        loop.train(make_config(data__prefetch=prefetch), dataset, name=folder)
        assert differences(traces(folder), whole(make_config())) in ([], ["weights"])
    assert torch.equal(before, torch.get_rng_state())
    changed = differences(whole(make_config(train__seed=1)), whole(make_config()))
    assert {"log", "head.weight", "state ema|head.weight"} <= set(changed)


def test_signal_handlers_are_restored(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    stop_at(make_config(), dataset, tmp_path / "run", 2)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_ctrl_c_quits_at_once(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    class Impatient(NullReporter):
        def on_step(self, step: int, values: dict[str, Any] | None) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        go(make_config(), dataset, tmp_path / "run", Impatient())


def test_gradients_lie_in_memory_as_their_parameters_do(
    make_config: MakeConfig, dataset: Dataset
) -> None:
    training = Trainer(
        make_config(model__name="resnet", model__options={"n": 1, "filters": (4, 8)}),
        dataset,
        CPU,
        DistributedContext(),
    )
    for number in range(2):
        training.step(training.loader.batch(number))
    for parameter in training.model.parameters():
        assert parameter.grad is not None and parameter.grad.stride() == parameter.stride()


def test_the_log_has_epoch_and_size_of_each_step(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    go(make_config(train__sizes=((0.0, 16), (0.5, 24))), dataset, tmp_path)
    lines = [line for line in read_lines(tmp_path / "log.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [4, 5, 8, 9, 12, 14]
    assert [line["size"] for line in lines] == [16, 16, 24, 24, 24, 24]
    assert [line["epoch"] for line in lines] == pytest.approx(
        [s * 16 / 72 for s in (4, 5, 8, 9, 12, 14)], abs=1e-4
    )
    assert all(0 < line["loss"] < 10 and 0 <= line["top1_error"] <= 1 for line in lines)


def test_channel_statistics_are_numpys() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    mean, std = channel_statistics(images, np.arange(3, 17))
    assert np.allclose(mean, images[3:17].mean(axis=(0, 1, 2))) and np.allclose(
        std, images[3:17].std(axis=(0, 1, 2))
    )
    flat = np.full((5, 4, 4, 3), 77, dtype=np.uint8)
    assert channel_statistics(flat, range(5))[1].tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(
        channel_statistics(images, np.arange(20), limit=5)[0],
        channel_statistics(images[::4], np.arange(5))[0],
    )


# ---------------------------------------------------------------- as a program


@pytest.fixture
def program(
    command_line: Path, data_home: Path, dataset: Dataset, tmp_path: Path
) -> Iterator[Callable[..., Any]]:
    """Start the command line with the small models; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []
    files = ExitStack()
    settings = [
        *(
            "data.name=small",
            "augment.crop=24",
            "model.name=small",
            "train.batch_size=16",
            "train.log_every=4",
        ),
        *("train.device=cpu", "train.precision=fp32", "schedule.warmup=0", "train.ema_decay=0.9"),
    ]

    def start(
        command: str, *arguments: str, prefix: tuple[str, ...] = (), **options: Any
    ) -> subprocess.Popen[bytes]:
        named = {argument.partition("=")[0] for argument in arguments}
        own = [setting for setting in settings if setting.partition("=")[0] not in named]
        told = [*arguments, *(own if command == "train" else ())]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TINYSIGHT_DATA": str(data_home),
            "TINYSIGHT_RUNS": str(tmp_path),
        }
        process = subprocess.Popen(
            [sys.executable, *prefix, str(command_line), command, *told],
            env={**environment, **options.pop("env", {})},
            stdout=subprocess.DEVNULL,
            **{"stderr": files.enter_context((tmp_path / "stderr").open("wb")), **options},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
    files.close()


def _wait_for_lines(
    folder: Path, count: int, process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    deadline = time.monotonic() + 60
    while len(read_lines(folder / "log.jsonl")) < count:
        assert process.poll() is None, (tmp_path / "stderr").read_text()
        assert time.monotonic() < deadline, "it does not begin"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_program_with_its_status_and_the_state_saved(
    number: int,
    status: int,
    program: Callable[..., Any],
    dataset: Dataset,
    small_models: ModuleType,
    tmp_path: Path,
) -> None:
    # so long a step that the signal comes amid the training
    options = "model.options={'dropout': 0.2, 'seconds': 0.05}"
    process = program(
        "train", "quickstart", "--name", "run", "train.epochs=2", options, stderr=subprocess.PIPE
    )
    _wait_for_lines(tmp_path / "run", 1, process, tmp_path)
    if number == signal.SIGINT:
        # as `tinysight train ... 2>&1 | tee log`: Ctrl-C ends the reader, too
        process.stderr.close()
    process.send_signal(number)
    begun = time.monotonic()
    assert process.wait(20) == status
    assert time.monotonic() - begun < 10
    if number == signal.SIGTERM:
        said = process.stderr.read().decode()
        assert "stopped by SIGTERM at step" in said and "Traceback" not in said
        process.stderr.close()
    newest = checkpoint.saved(tmp_path / "run" / "checkpoints")[-1]
    assert 4 <= checkpoint.load(newest).step < 9

    run = runs.read_run(tmp_path / "run").config
    loop.resume(runs.read_run(tmp_path / "run"), dataset)
    loop.train(run, dataset, name=tmp_path / "whole")
    assert differences(traces(tmp_path / "run"), traces(tmp_path / "whole")) == []


def test_a_training_that_diverges_ends_the_program_with_one_line(
    make_config: MakeConfig,
    dataset: Dataset,
    data_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from tinysight import cli, recipes

    monkeypatch.setitem(recipes.RECIPES, "test", make_config)
    monkeypatch.setenv("TINYSIGHT_DATA", str(data_home))
    arguments = ["tinysight", "train", "test", "optimizer.lr=1e30", "--name", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ending:
        cli.main()
    assert ending.value.code == 1
    said = capfd.readouterr().err
    assert "error: loss or gradient was not finite at step" in said and "Traceback" not in said
    assert not (tmp_path / "run" / "weights.safetensors").exists()


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TOGETHER = (
    "train",
    "quickstart",
    "--name",
    "run",
    "train.epochs=3",
    "model.options={'norm': False, 'seconds': 0.03}",
)


FINDING = (
    "augment.crop=0",
    "localizer.head=lstm",
    "localizer.grid=4",
    "localizer.box_weight=1",
    "optimizer.lr=0.01",
)


@pytest.mark.parametrize("settings", [(), FINDING])
def test_two_processes_learn_what_one_does_and_stop_by_signal(
    messages: list[str],
    settings: tuple[str, ...],
    program: Callable[..., Any],
    dataset: Dataset,
    small_models: ModuleType,
    tmp_path: Path,
) -> None:
    process = program(*TOGETHER, *settings, prefix=TORCHRUN)
    _wait_for_lines(tmp_path / "run", 4, process, tmp_path)  # beyond the first evaluation
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) != 0
    newest = checkpoint.saved(tmp_path / "run" / "checkpoints")[-1]
    assert 8 <= checkpoint.load(newest).step < 14, (tmp_path / "stderr").read_text()
    record = runs.read_run(tmp_path / "run")
    assert record.machine["processes"] == 2

    loop.resume(runs.read_run(tmp_path / "run"), dataset)  # one process goes on for two
    assert any("processes 2 -> 1" in text for text in messages)
    loop.train(record.config, dataset, name=tmp_path / "alone")
    together, alone = (read_lines(tmp_path / name / "log.jsonl") for name in ("run", "alone"))
    assert [line["step"] for line in together] == [line["step"] for line in alone]
    exactly = (
        0.01 if settings else 1e-4
    )  # a head has batch norms, which each process takes of its own images
    for one, other in zip(together, alone, strict=True):
        assert one["loss"] == pytest.approx(
            other["loss"], rel=exactly
        )  # the same images, in the same order
        assert one["top1_error"] == pytest.approx(other["top1_error"], abs=0.05)


@pytest.mark.reliability
def test_two_processes_with_batch_norm_resume_bitwise(
    program: Callable[..., Any], tmp_path: Path
) -> None:
    arguments = (
        "train.epochs=2",
        "model.options={'dropout': 0.2, 'seconds': 0.03}",
        "optimizer.lr=0.5",
    )
    assert (
        program("train", "quickstart", "--name", "whole", *arguments, prefix=TORCHRUN).wait(60) == 0
    )
    process = program("train", "quickstart", "--name", "run", *arguments, prefix=TORCHRUN)
    _wait_for_lines(tmp_path / "run", 1, process, tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) != 0
    assert program("resume", "run", prefix=TORCHRUN).wait(60) == 0
    assert differences(traces(tmp_path / "run"), traces(tmp_path / "whole")) == []


@pytest.mark.reliability
def test_a_process_that_fails_does_not_leave_the_others_waiting(
    program: Callable[..., Any], tmp_path: Path
) -> None:
    process = program(*TOGETHER, prefix=TORCHRUN, env={"TINYSIGHT_TEST_FAIL_RANK": "1"})
    assert process.wait(60) not in (0, None)
    assert "this process fails, as the test asked" in (tmp_path / "stderr").read_text()
