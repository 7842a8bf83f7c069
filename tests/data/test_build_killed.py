"""Builds that are interrupted, killed, or run several times at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tinysight
from tinysight.data.dataset import open_dataset

Leftovers = Callable[[Path], list[str]]

PROGRAM = """
import os, sys, time
from pathlib import Path
import numpy as np
from tinysight.data import build, decode
from tinysight.data.dataset import DatasetIndex

home, rows, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
decode.CHUNK_ROWS = 4
log = os.open(home / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

class Source:
    name = "toys"
    origin = {"kind": "toys", "path": "here", "fingerprint": sys.argv[4]}
    index = DatasetIndex(
        image_size=8, class_names=("a", "b"), class_ids=("a", "b"), splits={"train": (0, rows)},
        files=tuple(map(str, range(rows))), labels=np.arange(rows) % 2,
        boxes=np.zeros((0, 4), np.float32), box_labels=np.zeros(0, np.int64),
        box_offsets=np.zeros(rows + 1, np.int64),
    )

    def decode(self, row):
        time.sleep(pause)
        os.write(log, b"%d %d\\n" % (row, os.getpid()))
        return np.full((8, 8, 3), row % 256, np.uint8)

print("go", flush=True)
print(build.build(Source(), home=home / "data", workers=2).digest, flush=True)
"""


def start(home: Path, rows: int, pause: float, fingerprint: str = "1") -> subprocess.Popen[str]:
    program = home / "program.py"
    if not program.exists():
        program.write_text(PROGRAM)
    environment = os.environ | {
        "PYTHONPATH": str(Path(tinysight.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(program), str(home), str(rows), str(pause), fingerprint]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # `nohup ... &` ignores it
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.split()[-1]


def decoded(home: Path) -> list[tuple[int, int]]:
    lines = (home / "log").read_text().splitlines()
    return [(int(row), int(process)) for row, process in (line.split() for line in lines)]


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("num", [3, pytest.param(8, marks=pytest.mark.reliability)])
def test_several_at_once_do_the_work_once(tmp_path: Path, leftovers: Leftovers, num: int) -> None:
    processes = [start(tmp_path, 60, 0.005) for _ in range(num)]
    assert len({finish(process) for process in processes}) == 1
    assert sorted(row for row, _ in decoded(tmp_path)) == list(range(60))
    assert leftovers(tmp_path / "data") == ["toys"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_process(
    tmp_path: Path, leftovers: Leftovers, kill: signal.Signals
) -> None:
    process = start(tmp_path, 400, 0.02)
    assert wait_until(
        lambda: (tmp_path / "log").exists() and len({p for _, p in decoded(tmp_path)}) == 2
    )
    if kill == signal.SIGINT:
        os.killpg(process.pid, kill)  # as a terminal does: to the whole group
    else:
        process.send_signal(kill)
    _, err = process.communicate(timeout=20)
    workers = {worker for _, worker in decoded(tmp_path)}
    assert wait_until(lambda: not any(map(alive, workers)))
    if kill == signal.SIGINT:
        assert (
            err.count("Traceback") == 1 and "KeyboardInterrupt" in err
        )  # the parent's, no worker's
        assert leftovers(tmp_path / "data") == []
    else:
        assert [name.split("-")[0] for name in leftovers(tmp_path / "data")] == [".toys.tmp"]


def test_workers_leave_ctrl_c_to_the_parent(tmp_path: Path) -> None:
    process = start(tmp_path, 100, 0.005)
    assert wait_until(
        lambda: (tmp_path / "log").exists() and len({p for _, p in decoded(tmp_path)}) == 2
    )
    for worker in {worker for _, worker in decoded(tmp_path)}:
        os.kill(worker, signal.SIGINT)
    assert finish(process)


@pytest.mark.parametrize("rounds", [5, pytest.param(200, marks=pytest.mark.reliability)])
def test_kills_at_any_moment_leave_the_old_dataset_the_new_one_or_none(
    tmp_path: Path, leftovers: Leftovers, rounds: int
) -> None:
    generator = random.Random(rounds)
    began = time.monotonic()
    expected = finish(start(tmp_path, 40, 0.001))
    full = time.monotonic() - began
    names = {str(number) for number in range(rounds)}
    survived = 0
    for number in range(rounds):
        process = start(
            tmp_path, 40, 0.001, fingerprint=str(number)
        )  # a changed source: replaces what is there
        assert process.stdout is not None and process.stdout.readline() == "go\n"
        time.sleep(generator.uniform(0, full * 0.6))
        process.kill()
        process.communicate()
        try:
            found = open_dataset("toys", home=tmp_path / "data")
        except ValueError:
            found = None
            assert list((tmp_path / "data").glob(".toys.old-*")), "neither dataset is there"
        if found is not None:
            assert found.digest == expected and found.verify() == ()
            survived += found.manifest["source"]["fingerprint"] == str(number)
            assert found.manifest["source"]["fingerprint"] in names
    assert finish(start(tmp_path, 40, 0.001, fingerprint="last")) == expected
    assert leftovers(tmp_path / "data") == ["toys"]
    assert rounds < 100 or 0 < survived < rounds  # the kills came before and after the renames
