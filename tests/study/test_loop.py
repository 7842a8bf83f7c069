"""Studies trained: interrupted, in pieces, with a failing member, as printed commands, on Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tinysight.data.dataset import Dataset
from tinysight.study import plan
from tinysight.study.definitions import study
from tinysight.study.plan import Job
from tinysight.study.ray import train_on_ray

OWN = """
from dataclasses import replace

from tinysight.config import AugmentConfig, ModelConfig
from tinysight.recipes import recipe
from tinysight.study.definitions import Member, Study


def small(**options):
    base = recipe("quickstart")
    train = dict(batch_size=16, epochs=3, device="cpu", precision="fp32", log_every=1)
    model = ModelConfig(name="small", options=options)
    train = replace(base.train, **train)
    return replace(base, model=model, train=train, augment=AugmentConfig(crop=0.75))


def study():
    members = (
        Member(label="with dropout", config=small(dropout=0.3{seconds})),
        Member(label="without", config=small(dropout=0.0{seconds})),
    )
    return Study(name="own", question="Does dropout help?", source="ours", members=members)
"""
Tinysight = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tinysight(
    small_models: object,
    data_home: Path,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Tinysight,
) -> Tinysight:
    """Run a command line in this process; return exit status, output and errors."""
    (tmp_path / "own.py").write_text(OWN.replace("{seconds}", ""))
    (tmp_path / "slow.py").write_text(OWN.replace("{seconds}", ", seconds=0.1"))
    monkeypatch.setenv("TINYSIGHT_DATA", str(data_home))
    monkeypatch.setenv("TINYSIGHT_RUNS", "runs")
    monkeypatch.chdir(tmp_path)
    return run_command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "study-own-small"


def weights(folder: Path) -> dict[str, bytes]:
    return {
        path.parent.name: path.read_bytes() for path in sorted(folder.glob("*/weights.safetensors"))
    }


def run_commands(tinysight: Tinysight, *words: str) -> int:
    """Run the commands that the study prints, as a job array would; return their number."""
    commands = tinysight(*words, "--print-commands")[1].splitlines()
    for command in commands:
        assert shlex.split(command)[0] == "tinysight"
        assert tinysight(*shlex.split(command)[1:])[0] == 0
    return len(commands)


def signal_when(condition: Callable[[], bool], number: int) -> None:
    """Send this process a signal once a condition holds."""

    def wait() -> None:
        deadline = time.monotonic() + 240
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


INTERRUPTIONS = [
    (signal.SIGINT, 130),
    pytest.param(signal.SIGTERM, 143, marks=pytest.mark.reliability),
]


@pytest.mark.parametrize(("number", "status"), INTERRUPTIONS)
def test_an_interrupted_study_continues_to_the_same_bytes(
    number: int, status: int, tinysight: Tinysight, folder: Path
) -> None:
    words = ("study", "slow.py", "--data", "small")
    signal_when((folder / "with-dropout-seed0" / "log.jsonl").exists, number)
    code, _, err = tinysight(*words)
    assert code == status, err
    assert "the study goes on by the same command" in err
    assert list((folder / "with-dropout-seed0" / "checkpoints").iterdir()), "the state is saved"
    assert not (folder / "without-seed0").exists(), "no other member is started"

    code, out, err = tinysight(*words)
    assert code == 0, err
    assert "one seed cannot show" in out
    assert "with-dropout-seed0: resuming after step" in err
    assert run_commands(tinysight, *words, "--name", "whole") == 2
    assert weights(folder) == weights(folder.parent / "whole")
    assert len(weights(folder)) == 2

    once = (folder / "table.csv").read_text()
    (folder / "table.csv").unlink()
    code, _, err = tinysight(*words, "--report-only")
    assert (code, err) == (0, "")
    assert (folder / "table.csv").read_text() == once


def test_a_study_in_pieces_of_some_minutes_is_the_study_at_once(
    tinysight: Tinysight, folder: Path
) -> None:
    words = ("study", "slow.py", "--data", "small", "--minutes", "0.03")
    codes = []
    while (code := tinysight(*words)[0]) == 75:
        codes.append(code)
        assert len(codes) < 20
    assert code == 0 and codes, "1.8 seconds are too few for both members"
    assert tinysight("study", "slow.py", "--data", "small", "--name", "once")[0] == 0
    assert weights(folder) == weights(folder.parent / "once")
    assert len(weights(folder)) == 2


def test_recipes_option_chooses_the_study(tinysight: Tinysight) -> None:
    for words, recipe in (
        (("--recipes", "modern"), "modern"),
        (("--recipes", "published"), "report"),
        ((), "report"),
    ):
        status, out, err = tinysight(
            "study", "models", "--data", "small", "--print-commands", *words
        )
        assert status == 0, err
        assert [shlex.split(line)[2] for line in out.splitlines()] == [
            f"{name}-{recipe}" for name in ("inception-resnet", "resnet18", "vgg19", "vgg16")
        ]


def test_printed_commands_are_the_study_and_seeds_can_be_added(
    tinysight: Tinysight, folder: Path
) -> None:
    words = ("study", "own.py", "--data", "small", "--epochs", "1", "train.log_every=2")
    tinysight(*words, "--print-commands")
    assert not folder.exists(), "printing begins nothing"
    assert run_commands(tinysight, *words) == 2
    before = weights(folder)
    status, out, err = tinysight(*words, "--seeds", "2")
    assert status == 0, err
    assert "4 trainings, 2 of them finished" in err
    assert "[4/4]" in err
    assert "2 seeds, 95 % interval" in out
    after = weights(folder)
    assert len(after) == 4
    table = (folder / "table.csv").read_text()
    assert tinysight(*words, "--report-only")[0] == 0
    assert (folder / "table.csv").read_text() == table, "seeds trained before stay in the report"
    assert "--seeds 2" in json.loads((folder / "study.json").read_text())["command"], (
        "and so does the command that trained them"
    )
    for own in (("--report-only", "--seeds", "3"), ("--report-only",), ("--seeds", "1")):
        assert tinysight(*words, *own)[0] == 0  # three may have been trained by printed commands
        command = json.loads((folder / "study.json").read_text())["command"]
        assert "--seeds 3" in command and "--report-only" not in command
    assert {name: after[name] for name in before} == before


def test_a_failing_member_is_reported_and_the_others_finish(
    tinysight: Tinysight, tmp_path: Path, folder: Path
) -> None:
    text = (tmp_path / "own.py").read_text()
    broken = text.replace(
        'label="with dropout", config=small(dropout=0.3)', 'label="broken", config=broken()'
    )
    assert broken != text
    broken += "\n\ndef broken():\n    config = small()\n"
    broken += "    return replace(config, optimizer=replace(config.optimizer, lr=1e38))\n"
    (tmp_path / "broken.py").write_text(broken)
    status, out, err = tinysight("study", "broken.py", "--data", "small", "--epochs", "1")
    assert status == 1
    assert "error: [1/2] broken-seed0: failed: loss or gradient was not finite" in err
    assert "[2/2] without-seed0: last error on minival" in err
    assert "no seed of both is finished" in out
    assert (folder / "table.md").exists()


def test_minutes_left_are_given_to_each_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = plan.plan(study("depth"), tmp_path, data="small")
    given: list[float] = []
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(plan, "outcome", lambda job: "done")

    def train(job: Job, minutes: float) -> None:
        nonlocal now
        given.append(minutes)
        now += 60
        job.folder.mkdir()
        (job.folder / "weights.safetensors").touch()

    with pytest.raises(TimeoutError, match="the study goes on by the same command"):
        plan.train_members(jobs, train, minutes=1.5)
    assert given == [1.5, 0.5]
    assert plan.train_members(jobs, train, minutes=0.5) == 0, "the last one ends in time"
    assert given == [1.5, 0.5, 0.5]
    assert plan.train_members(jobs, train, minutes=0.5) == 0, "nothing is left to do"


needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="ray is not installed (pip install 'tinysight[ray]')",
)


@needs_ray
@pytest.mark.reliability  # starting a local Ray takes long
def test_a_study_on_a_local_ray_saves_when_stopped_and_is_the_study_here(
    tinysight: Tinysight, folder: Path
) -> None:
    import ray

    small = ("model.options.filters=(4,8)", "train.batch_size=16", "augment.crop=0.75")
    words = ("study", "depth", "--data", "small", "--epochs", "8", *small, "train.device=cpu")
    folder = folder.parent / "study-depth-small"
    try:
        signal_when(lambda: any(folder.glob("*/log.jsonl")), signal.SIGINT)
        status, _, err = tinysight(*words, "--ray")
        assert status == 130, err
        assert any(folder.glob("*/checkpoints/step-*")), "the member saved its state"
        status, out, err = tinysight(*words, "--ray")
        assert (status, "one seed cannot show" in out) == (0, True), err
    finally:
        ray.shutdown()
    assert tinysight(*words, "--name", "here")[0] == 0
    assert weights(folder) == weights(folder.parent / "here")
    assert len(weights(folder)) == 3


def test_without_ray_an_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'tinysight\[ray\]'"):
        train_on_ray([], lambda job, minutes: None)
