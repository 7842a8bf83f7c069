"""Studies carried out: interrupted and gone on with, at once, with a failing member, as a job array, on Ray."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tinysight.data.pack import Pack
from tinysight.studies import study
from tinysight.train import jobs, plan
from tinysight.train.cluster import Cluster
from tinysight.train.plan import Job

OWN = """
from dataclasses import replace

from tinysight.config import Augment, Model
from tinysight.recipes import recipe
from tinysight.studies import Member, Study


def small(**options):
    base = recipe("quickstart")
    train = replace(base.train, batch_size=16, epochs=3, device="cpu", precision="fp32", log_every=1)
    model = Model(name="small", options=options)
    return replace(base, model=model, train=train, augment=Augment(crop=24))


def study():
    members = (
        Member(label="with dropout", run=small(dropout=0.3{seconds})),
        Member(label="without", run=small(dropout=0.0{seconds})),
    )
    return Study(name="own", question="Does dropout help?", source="ours", members=members)
"""
Program = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def program(command_line: Path, data_home: Path, pack: Pack, tmp_path: Path) -> Iterator[Program]:
    """Start the tests' command line in `tmp_path`, runs below a home of the test's choice."""
    (tmp_path / "own.py").write_text(OWN.replace("{seconds}", ""))
    (tmp_path / "slow.py").write_text(OWN.replace("{seconds}", ", seconds=0.1"))
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, home: str = "runs") -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TINYSIGHT_DATA": str(data_home),
            "TINYSIGHT_RUNS": str(tmp_path / home),
        }
        process = subprocess.Popen(
            [sys.executable, str(command_line), *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    return out, err


def weights(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(folder.glob("*/weights.safetensors"))}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not begin"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_study_goes_on_to_the_same_bytes(
    number: int, status: int, program: Program, tmp_path: Path
) -> None:
    words = ("study", "slow.py", "--data", "small")
    process = program(*words)
    folder = tmp_path / "runs" / "study-own-small"
    wait_for((folder / "with-dropout-seed0" / "log.jsonl").exists, process)
    process.send_signal(number)
    _, err = finish(process, status)
    assert "the same command goes on" in err
    assert "with-dropout-seed0: stopped" in err
    assert list((folder / "with-dropout-seed0" / "checkpoints").iterdir()), "the member saved its state"
    assert not (folder / "without-seed0").exists(), "nothing more is begun"
    out, _ = finish(program(*words))
    assert "one seed cannot tell" in out
    assert "going on after step" in (folder / "with-dropout-seed0.txt").read_text()
    finish(program(*words, home="whole"))
    assert weights(folder) == weights(tmp_path / "whole" / "study-own-small")
    assert len(weights(folder)) == 2
    once = (folder / "table.csv").read_text()
    (folder / "table.csv").unlink()
    out, err = finish(program(*words, "--report-only"))
    assert "training" not in err
    assert (folder / "table.csv").read_text() == once


def test_several_at_once_and_more_seeds_later(program: Program, tmp_path: Path) -> None:
    finish(program("study", "own.py", "--data", "small", "--epochs", "1"))
    before = weights(tmp_path / "runs" / "study-own-small")
    out, err = finish(program("study", "own.py", "--data", "small", "--epochs", "1", "--seeds", "2", "--jobs", "2"))
    assert "4 trainings, 2 of them finished" in err
    assert "[4/4]" in err
    after = weights(tmp_path / "runs" / "study-own-small")
    assert len(after) == 4
    assert {name: after[name] for name in before} == before
    assert "2 seeds, 95 % interval" in out


def test_a_failing_member_is_reported_and_the_rest_finish(program: Program, tmp_path: Path) -> None:
    text = (tmp_path / "own.py").read_text()
    broken = text.replace('label="with dropout", run=small(dropout=0.3)', 'label="broken", run=broken()')
    assert broken != text
    broken += (
        "\n\ndef broken():\n    run = small()\n    return replace(run, optimiser=replace(run.optimiser, lr=1e38))\n"
    )
    (tmp_path / "broken.py").write_text(broken)
    out, err = finish(program("study", "broken.py", "--data", "small"), 1)
    assert "broken-seed0: failed with status 1: loss or gradient was not finite" in err
    assert "[2/2] without-seed0: lowest minival error" in err
    assert "no seed of both is finished" in out
    assert (tmp_path / "runs" / "study-own-small" / "table.md").exists()


def test_the_printed_commands_are_the_study(
    program: Program, command_line: Path, data_home: Path, tmp_path: Path
) -> None:
    words = ("study", "own.py", "--data", "small", "--epochs", "1", "train.log_every=2")
    out, _ = finish(program(*words, "--print-commands"))
    assert not (tmp_path / "runs").exists(), "nothing is begun"
    commands = out.splitlines()
    assert len(commands) == 2
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "tinysight"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{command_line}" "$@"\n')
    tool.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "TINYSIGHT_DATA": str(data_home),
    }
    for command in commands:
        subprocess.run(command, shell=True, check=True, env=environment, cwd=tmp_path / "bin", capture_output=True)
    _, err = finish(program(*words))
    assert "2 trainings, 2 of them finished" in err
    assert "training\n" not in err


class Fake:
    """A job that ends with a status after some looks, or at once when it is asked to."""

    def __init__(self, status: int, looks: int) -> None:
        self.status, self.looks = status, looks
        self.signals: list[int] = []

    def poll(self) -> int | None:
        self.looks -= 1
        return (128 + self.signals[0] if self.signals else self.status) if self.looks < 0 or self.signals else None

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


def fake_jobs(count: int) -> list[Job]:
    one = plan.plan(study("depth"), Path("study"), data="small", seeds=-(-count // 3))
    return one[:count]


def test_as_many_at_once_as_asked_each_in_a_place_of_its_own() -> None:
    running: dict[int, str] = {}
    places, most = [], 0

    def start(job: Job, place: int) -> Fake:
        nonlocal most
        assert place not in running
        running[place] = job.folder.name
        places.append(place)
        most = max(most, len(running))
        return Fake(len(places) % 2, looks=len(places))

    ends = []

    def ended(job: Job, status: int) -> None:
        ends.append((job.folder.name, status))
        running.pop(next(place for place, name in running.items() if name == job.folder.name))

    todo = fake_jobs(6)
    assert jobs.carry_out(todo, start, at_once=2, ended=ended, pause=0) == 0
    assert (most, set(places)) == (2, {0, 1})
    assert sorted(name for name, _ in ends) == sorted(job.folder.name for job in todo)
    assert sorted(status for _, status in ends) == [0, 0, 0, 1, 1, 1]


def test_a_signal_is_handed_on_and_nothing_more_begun() -> None:
    begun: list[Fake] = []

    def start(job: Job, place: int) -> Fake:
        begun.append(Fake(0, looks=10**9))
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return begun[-1]

    before = signal.getsignal(signal.SIGTERM)
    assert jobs.carry_out(fake_jobs(5), start, at_once=2, pause=0) == signal.SIGTERM
    assert [work.signals for work in begun] == [[signal.SIGTERM], [signal.SIGTERM]]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_fault_of_ours_leaves_nobody_behind() -> None:
    begun: list[Fake] = []

    def start(job: Job, place: int) -> Fake:
        if begun:
            raise OSError("the disk is full")
        begun.append(Fake(0, looks=10**9))
        return begun[0]

    with pytest.raises(OSError, match="the disk is full"):
        jobs.carry_out(fake_jobs(2), start, at_once=2, pause=0)
    assert begun[0].signals == [signal.SIGTERM]


def test_cores_and_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert [jobs.environment_for(count)["OMP_NUM_THREADS"] for count in (1, 3, 20)] == ["8", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert jobs.environment_for(2)["OMP_NUM_THREADS"] == "5", "the person's own wish"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert jobs.devices() == ["2", "3"]
    (job,) = plan.plan(study("depth"), tmp_path, data="small")[:1]
    program = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
    for place in range(3):
        process = jobs.start_process(job, place, program=program, environment={}, devices=jobs.devices())
        assert process.wait(timeout=30) == 0
    assert [line for line in job.output.read_text().splitlines() if not line.startswith("$")] == ["2", "3", "2"]


def test_the_last_line_says_something(tmp_path: Path) -> None:
    path = tmp_path / "output.txt"
    assert jobs.last_line(path) == ""
    path.write_bytes(b"begun\nerror: no \xff memory  \n\n")
    assert jobs.last_line(path) == "error: no \ufffd memory"


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (the extra: ray)")
@pytest.mark.reliability
def test_a_study_on_a_local_ray_is_the_study_here(program: Program, tmp_path: Path) -> None:
    words = ("study", "own.py", "--data", "small", "--epochs", "1")
    out, err = finish(program(*words, "--ray"))
    assert "[2/2]" in err
    assert "one seed cannot tell" in out
    finish(program(*words, home="here"))
    assert weights(tmp_path / "runs" / "study-own-small") == weights(tmp_path / "here" / "study-own-small")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (the extra: ray)")
@pytest.mark.reliability
def test_a_study_on_ray_saves_when_it_is_stopped(program: Program, tmp_path: Path) -> None:
    process = program("study", "slow.py", "--data", "small", "--ray")
    folder = tmp_path / "runs" / "study-own-small"
    wait_for(lambda: any(folder.glob("*/log.jsonl")), process)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 130)
    assert "the same command goes on" in err
    assert any(folder.glob("*/checkpoints/step-*")), "the member saved its state"
    finish(program("study", "slow.py", "--data", "small", "--ray"))
    assert len(weights(folder)) == 2


def test_without_ray_it_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'tinysight\[ray\]'"):
        Cluster(program=("tinysight",), environment={"OMP_NUM_THREADS": "1"})
