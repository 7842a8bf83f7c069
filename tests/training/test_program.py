"""Training as a program: signals, exit statuses, and several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.run import read_lines

Start = Callable[..., subprocess.Popen[bytes]]
SETTINGS = (
    "data.name=small augment.crop=0.75 model.name=small train.batch_size=16 train.log_every=4 "
    "train.device=cpu train.precision=fp32 schedule.warmup=0 train.ema_decay=0.9"
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TOGETHER = ("train.epochs=3", "model.options={'norm': False, 'seconds': 0.03}")
LOCALIZER = (
    "augment.crop=1 localizer.head=lstm localizer.grid=4 localizer.box_weight=1 optimizer.lr=0.01"
)


@pytest.fixture
def program(
    command_line: Path, data_home: Path, dataset: Dataset, tmp_path: Path
) -> Iterator[Start]:
    """Start the command line with the small models; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []
    homes = {"TINYSIGHT_DATA": str(data_home), "TINYSIGHT_RUNS": str(tmp_path)}

    def start(
        *words: str, prefix: tuple[str, ...] = (), env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, *prefix, str(command_line), *words]
        env = {**os.environ, "OMP_NUM_THREADS": "1", **homes, **(env or {})}
        options = {"stdout": subprocess.DEVNULL, "stderr": errors} | options
        started.append(subprocess.Popen(command, env=env, **options))
        return started[-1]

    with (tmp_path / "stderr").open("wb") as errors:
        yield start
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture
def train(program: Start) -> Start:
    """Start the training of a run with small settings, which arguments override."""

    def start(name: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        named = {argument.partition("=")[0] for argument in arguments}
        own = [setting for setting in SETTINGS.split() if setting.partition("=")[0] not in named]
        return program("train", "quickstart", "--name", name, *arguments, *own, **options)

    return start


def _wait_for_lines(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while len(read_lines(folder / "log.jsonl")) < count:
        assert process.poll() is None, (folder.parent / "stderr").read_text()
        assert time.monotonic() < deadline, "it does not begin"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_program_with_its_status_and_the_state_saved(
    number: int, status: int, train: Start, trial: Any
) -> None:
    # so long a step that the signal comes during the training
    options = "model.options={'dropout': 0.2, 'seconds': 0.05}"
    process = train("run", "train.epochs=2", options, stderr=subprocess.PIPE)
    assert process.stderr is not None
    _wait_for_lines(trial.folder, 1, process)
    if number == signal.SIGINT:
        # as `tinysight train ... 2>&1 | tee log`: Ctrl-C ends the reader, too
        process.stderr.close()
    process.send_signal(number)
    begun = time.monotonic()
    assert process.wait(20) == status
    assert time.monotonic() - begun < 10
    if number == signal.SIGTERM:
        errors = process.stderr.read().decode()
        assert "stopped by SIGTERM at step" in errors and "Traceback" not in errors
        process.stderr.close()
    assert 4 <= trial.newest().step < 9

    trial.config = trial.run.config
    trial.resume()
    whole = trial.at("whole")
    whole.start()
    assert trial.differences(whole.traces()) == []


def test_a_training_that_diverges_ends_the_program_with_one_line(
    make_config: Callable[..., Config],
    run_command: Callable[..., tuple[int, str, str]],
    dataset: Dataset,
    data_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tinysight import recipes

    monkeypatch.setitem(recipes.RECIPES, "test", make_config)
    monkeypatch.setenv("TINYSIGHT_DATA", str(data_home))
    words = ("train", "test", "optimizer.lr=1e30", "--name", str(tmp_path / "run"))
    status, _, errors = run_command(*words)
    assert status == 1
    assert "error: loss or gradient was not finite at step" in errors and "Traceback" not in errors
    assert not (tmp_path / "run" / "weights.safetensors").exists()


@pytest.mark.parametrize("settings", ["", LOCALIZER])
def test_two_processes_learn_what_one_does_and_stop_by_signal(
    settings: str, train: Start, trial: Any, messages: list[str], tmp_path: Path
) -> None:
    process = train("run", *TOGETHER, *settings.split(), prefix=TORCHRUN)
    _wait_for_lines(trial.folder, 4, process)  # beyond the first evaluation
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) != 0
    assert 8 <= trial.newest().step < 14, (tmp_path / "stderr").read_text()
    assert trial.run.machine["processes"] == 2

    trial.config = trial.run.config
    trial.resume()  # one process goes on for two
    assert any("processes 2 -> 1" in text for text in messages)
    alone = trial.at("alone")
    alone.start()
    # a head has batch norms, whose statistics each process takes from its own images
    tolerance = 0.01 if settings else 1e-4
    for one, other in zip(trial.lines(), alone.lines(), strict=True):
        assert one["step"] == other["step"]
        # the same images, in the same order
        assert one["loss"] == pytest.approx(other["loss"], rel=tolerance)
        assert one["top1_error"] == pytest.approx(other["top1_error"], abs=0.05)


@pytest.mark.reliability
def test_two_processes_with_batch_norm_resume_bitwise(
    program: Start, train: Start, trial: Any
) -> None:
    settings = "train.epochs=2", "model.options={'dropout': 0.2, 'seconds': 0.03}"
    arguments = (*settings, "optimizer.lr=0.5")
    assert train("whole", *arguments, prefix=TORCHRUN).wait(60) == 0
    process = train("run", *arguments, prefix=TORCHRUN)
    _wait_for_lines(trial.folder, 1, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) != 0
    assert program("resume", "run", prefix=TORCHRUN).wait(60) == 0
    assert trial.differences(trial.at("whole").traces()) == []


@pytest.mark.reliability
def test_a_process_that_fails_does_not_leave_the_others_waiting(
    train: Start, tmp_path: Path
) -> None:
    process = train("run", *TOGETHER, prefix=TORCHRUN, env={"TINYSIGHT_TEST_FAIL_RANK": "1"})
    assert process.wait(60) not in (0, None)
    assert "this process fails, as the test asked" in (tmp_path / "stderr").read_text()
