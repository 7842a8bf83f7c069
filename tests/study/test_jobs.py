"""Studies carried out: interrupted and gone on with, at once, with a failing member, as a job
array, on Ray.
"""

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

from tinysight.cli import study as cli_study
from tinysight.data.dataset import Dataset
from tinysight.study import budget, jobs, plan
from tinysight.study.cluster import Cluster
from tinysight.study.definitions import study
from tinysight.study.plan import Job

OWN = """
from dataclasses import replace

from tinysight.config import AugmentConfig, ModelConfig
from tinysight.recipes import recipe
from tinysight.study.definitions import Member, Study


def small(**options):
    base = recipe("quickstart")
    train = replace(base.train, batch_size=16, epochs=3, device="cpu", precision="fp32", log_every=1)
    model = ModelConfig(name="small", options=options)
    return replace(base, model=model, train=train, augment=AugmentConfig(crop=24))


def study():
    members = (
        Member(label="with dropout", run=small(dropout=0.3{seconds})),
        Member(label="without", run=small(dropout=0.0{seconds})),
    )
    return Study(name="own", question="Does dropout help?", source="ours", members=members)
"""
Tinysight = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tinysight(
    small_models: object,
    command_line: Path,
    data_home: Path,
    pack: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Tinysight,
) -> Tinysight:
    """Run a command line in this process, the members of a study in others; return exit status,
    output and errors.
    """
    (tmp_path / "own.py").write_text(OWN.replace("{seconds}", ""))
    (tmp_path / "slow.py").write_text(OWN.replace("{seconds}", ", seconds=0.1"))
    monkeypatch.setenv("TINYSIGHT_DATA", str(data_home))
    monkeypatch.setenv("TINYSIGHT_RUNS", "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_study, "PROGRAM", (sys.executable, str(command_line)))
    return run_command


def weights(folder: Path) -> dict[str, bytes]:
    return {
        path.parent.name: path.read_bytes() for path in sorted(folder.glob("*/weights.safetensors"))
    }


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
def test_an_interrupted_study_goes_on_to_the_same_bytes(
    number: int, status: int, tinysight: Tinysight, tmp_path: Path
) -> None:
    words = ("study", "slow.py", "--data", "small")
    folder = tmp_path / "runs" / "study-own-small"
    signal_when((folder / "with-dropout-seed0" / "log.jsonl").exists, number)
    found, _, err = tinysight(*words)
    assert found == status, err
    assert "the same command goes on" in err
    assert "with-dropout-seed0: stopped" in err
    assert list((folder / "with-dropout-seed0" / "checkpoints").iterdir()), (
        "the member saved its state"
    )
    assert not (folder / "without-seed0").exists(), "nothing more is begun"

    found, out, err = tinysight(*words)
    assert found == 0, err
    assert "one seed cannot tell" in out
    assert "going on after step" in (folder / "with-dropout-seed0.txt").read_text()
    for command in tinysight(*words, "--name", "whole", "--print-commands")[1].splitlines():
        assert tinysight(*shlex.split(command)[1:])[0] == 0
    assert weights(folder) == weights(tmp_path / "runs" / "whole")
    assert len(weights(folder)) == 2

    once = (folder / "table.csv").read_text()
    (folder / "table.csv").unlink()
    found, _, err = tinysight(*words, "--report-only")
    assert (found, err) == (0, "")
    assert (folder / "table.csv").read_text() == once


def test_a_study_is_made_in_pieces_of_some_minutes(
    tinysight: Tinysight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.3)
    words = ("study", "slow.py", "--data", "small", "--budget", "0.5")
    folder = tmp_path / "runs" / "study-own-small"
    status, out, err = tinysight(*words, "--minutes", "0.07")  # 4 seconds for what takes 6 and more
    assert (status, out) == (75, ""), err
    assert "with dropout: " in err and "images/s, cpu" in err and "3 of 3 epochs" in err
    assert err.endswith("the minutes are over; the same command goes on\n")
    assert not (folder / "without-seed0" / "weights.safetensors").exists()
    planned = (folder / "budget.json").read_text()
    status, out, err = tinysight(*words, "--minutes", "9")
    assert status == 0, err
    assert "images/s" not in err, "measured and planned once"
    assert "one seed cannot tell" in out
    assert (folder / "budget.json").read_text() == planned
    assert len(weights(folder)) == 2


def test_minutes_that_end_with_the_last_training_leave_nothing_to_go_on_with(
    tinysight: Tinysight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the clock had struck just when the last member wrote its weights."""
    words = ("study", "own.py", "--data", "small", "--epochs", "1")
    for command in tinysight(*words, "--print-commands")[1].splitlines():
        assert tinysight(*shlex.split(command)[1:])[0] == 0
    monkeypatch.setattr(jobs, "carry_out", lambda todo, start, **options: signal.SIGALRM)
    status, out, err = tinysight(*words, "--minutes", "9")
    assert (status, "one seed cannot tell" in out) == (0, True), err
    (tmp_path / "runs" / "study-own-small" / "without-seed0" / "weights.safetensors").unlink()
    assert tinysight(*words, "--minutes", "9")[0] == 75


def test_the_recipes_choose_the_study(tinysight: Tinysight) -> None:
    for words, recipe in (
        (("--recipes", "modern"), "modern"),
        (("--recipes", "published"), "report"),
        ((), "report"),
    ):
        status, out, err = tinysight(
            "study", "models", "--data", "small", "--print-commands", *words
        )
        assert status == 0, err
        commands = [shlex.split(line)[2] for line in out.splitlines()]
        assert commands == [
            f"{name}-{recipe}" for name in ("inception-resnet", "resnet18", "vgg19", "vgg16")
        ]


def test_printed_commands_are_the_study_to_which_seeds_are_added_at_once(
    tinysight: Tinysight, tmp_path: Path
) -> None:
    words = ("study", "own.py", "--data", "small", "--epochs", "1", "train.log_every=2")
    folder = tmp_path / "runs" / "study-own-small"
    commands = tinysight(*words, "--print-commands")[1].splitlines()
    assert not folder.exists(), "nothing is begun"
    assert len(commands) == 2
    for command in commands:
        assert shlex.split(command)[0] == "tinysight"
        assert tinysight(*shlex.split(command)[1:])[0] == 0
    before = weights(folder)
    status, out, err = tinysight(*words, "--seeds", "2", "--jobs", "2")
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
        "and the command that trained them"
    )
    assert {name: after[name] for name in before} == before


def test_a_failing_member_is_reported_and_the_rest_finish(
    tinysight: Tinysight, tmp_path: Path
) -> None:
    text = (tmp_path / "own.py").read_text()
    broken = text.replace(
        'label="with dropout", run=small(dropout=0.3)', 'label="broken", run=broken()'
    )
    assert broken != text
    broken += "\n\ndef broken():\n    run = small()\n    return replace(run, optimizer=replace(run.optimizer, lr=1e38))\n"
    (tmp_path / "broken.py").write_text(broken)
    status, out, err = tinysight("study", "broken.py", "--data", "small", "--epochs", "1")
    assert status == 1
    assert "broken-seed0: failed with status 1: loss or gradient was not finite" in err
    assert "[2/2] without-seed0: lowest error on minival" in err
    assert "no seed of both is finished" in out
    assert (tmp_path / "runs" / "study-own-small" / "table.md").exists()


class Fake:
    """A job that ends with a status after some looks, or at once when it is asked to."""

    def __init__(self, status: int, looks: int) -> None:
        self.status, self.looks = status, looks
        self.signals: list[int] = []

    def poll(self) -> int | None:
        self.looks -= 1
        return (
            (128 + self.signals[0] if self.signals else self.status)
            if self.looks < 0 or self.signals
            else None
        )

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


@pytest.mark.parametrize(
    ("number", "handed_on"),
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGHUP, signal.SIGTERM),
    ],
)
def test_a_signal_is_handed_on_and_nothing_more_begun(number: int, handed_on: int) -> None:
    begun: list[Fake] = []

    def start(job: Job, place: int) -> Fake:
        begun.append(Fake(0, looks=10**9))
        if len(begun) == 2:
            os.kill(os.getpid(), number)
        return begun[-1]

    before = signal.getsignal(number)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert jobs.carry_out(fake_jobs(5), start, at_once=2, pause=0) == number
    assert [work.signals for work in begun] == [[handed_on], [handed_on]]
    if number != signal.SIGHUP:
        assert signal.getsignal(number) == before


def test_after_so_many_seconds_what_runs_is_asked_to_save_and_nothing_more_begun() -> None:
    begun: list[Fake] = []

    def start(job: Job, place: int) -> Fake:
        begun.append(Fake(0, looks=10**9))
        return begun[-1]

    before = signal.getsignal(signal.SIGALRM)
    assert (
        jobs.carry_out(fake_jobs(5), start, at_once=2, pause=0.01, seconds=0.05) == signal.SIGALRM
    )
    assert [work.signals for work in begun] == [[signal.SIGTERM]] * 2
    assert (
        jobs.carry_out(fake_jobs(5), start, at_once=2, pause=0.01, seconds=-3) == signal.SIGALRM
    ), "no time at all"
    assert signal.getsignal(signal.SIGALRM) == before
    assert (
        jobs.carry_out(
            fake_jobs(1), lambda job, place: Fake(0, looks=1), at_once=1, pause=0.01, seconds=9
        )
        == 0
    )
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0, "the clock is stopped"


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
    assert [jobs.environment_for(count)["OMP_NUM_THREADS"] for count in (1, 3, 20)] == [
        "8",
        "2",
        "1",
    ]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert jobs.environment_for(2)["OMP_NUM_THREADS"] == "5", "the person's own wish"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert jobs.devices() == ["2", "3"]
    (job,) = plan.plan(study("depth"), tmp_path, data="small")[:1]
    program = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
    for place in range(3):
        process = jobs.start_process(
            job, place, program=program, environment={}, devices=jobs.devices()
        )
        assert process.wait(timeout=30) == 0
    assert [line for line in job.output.read_text().splitlines() if not line.startswith("$")] == [
        "2",
        "3",
        "2",
    ]


def test_the_last_line_says_something(tmp_path: Path) -> None:
    path = tmp_path / "output.txt"
    assert jobs.last_line(path) == ""
    path.write_bytes(b"begun\nerror: no \xff memory  \n\n")
    assert jobs.last_line(path) == "error: no \ufffd memory"


needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="ray is not installed (pip install 'tinysight[ray]')",
)


@needs_ray
@pytest.mark.reliability  # starting a local Ray takes long
def test_a_study_on_a_local_ray_saves_when_stopped_and_is_the_study_here(
    tinysight: Tinysight, tmp_path: Path
) -> None:
    import ray

    words = ("study", "slow.py", "--data", "small")
    folder = tmp_path / "runs" / "study-own-small"
    try:
        signal_when(lambda: any(folder.glob("*/log.jsonl")), signal.SIGINT)
        status, _, err = tinysight(*words, "--ray")
        assert status == 130, err
        assert any(folder.glob("*/checkpoints/step-*")), "the member saved its state"
        status, out, err = tinysight(*words, "--ray")
        assert (status, "one seed cannot tell" in out) == (0, True), err
    finally:
        ray.shutdown()
    for command in tinysight(*words, "--name", "here", "--print-commands")[1].splitlines():
        assert tinysight(*shlex.split(command)[1:])[0] == 0
    assert weights(folder) == weights(tmp_path / "runs" / "here")
    assert len(weights(folder)) == 2


def test_without_ray_it_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'tinysight\[ray\]'"):
        Cluster(program=("tinysight",), environment={"OMP_NUM_THREADS": "1"})
