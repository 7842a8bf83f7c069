"""Do the jobs of a plan: one after the other or several at once, each in a process of its own,
stopped together.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from tinysight.study.plan import Job


class Work(Protocol):
    """A job being done somewhere."""

    def poll(self) -> int | None:
        """Return its exit status, None while it runs."""

    def send_signal(self, number: int) -> None:
        """Ask it to save and stop."""


def carry_out(
    jobs: Sequence[Job],
    start: Callable[[Job, int], Work],
    *,
    at_once: int,
    begun: Callable[[Job], None] = lambda job: None,
    ended: Callable[[Job, int], None] = lambda job, status: None,
    pause: float = 0.1,
    seconds: float | None = None,
) -> int:
    """Do jobs, at most `at_once` at a time; return 0, or the number of the signal that stopped it.

    SIGINT, SIGTERM and SIGHUP (as SIGTERM) are handed on to what runs, which saves; nothing more is
    begun. So it is after `seconds`, and SIGALRM's number is returned.

    Args:
        start: begins a job in a free place, 0 up to `at_once`.
        begun: called with each job that begins.
        ended: called with each job and its exit status.
        pause: seconds between two looks at what runs.
        seconds: how long at most; None: until all are done.
    """
    waiting = list(jobs)
    running: dict[int, tuple[Job, Work]] = {}
    with _signals(seconds) as came:
        handed_on = 0
        try:
            while running or (waiting and not came):
                while waiting and len(running) < at_once and not came:
                    place = min(set(range(at_once)) - set(running))
                    job = waiting.pop(0)
                    running[place] = job, start(job, place)
                    begun(job)
                for number in came[handed_on:]:
                    handed_on += 1
                    for _, work in running.values():
                        work.send_signal(number if number == signal.SIGINT else signal.SIGTERM)
                for place, (job, work) in list(running.items()):
                    status = work.poll()
                    if status is not None:
                        del running[place]
                        ended(job, status)
                if running:
                    time.sleep(pause)
        finally:
            for _, work in running.values():  # only after a fault of our own: leave nobody behind
                work.send_signal(signal.SIGTERM)
        return came[0] if came else 0


def start_process(
    job: Job,
    place: int,
    *,
    program: Sequence[str],
    environment: dict[str, str],
    home: Path | None = None,
    devices: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Train a job in a process of its own, its output behind what `job.output` already holds.

    Args:
        job: what to train.
        place: which of those at once it is; decides the GPU.
        program: the command that is `tinysight`.
        environment: variables to set.
        home: where packs are kept, when it is not the default.
        devices: the GPUs to share out, as CUDA_VISIBLE_DEVICES names them.
    """
    if len(devices) > 1:
        environment = {**environment, "CUDA_VISIBLE_DEVICES": devices[place % len(devices)]}
    return start_command([*program, *job.arguments(home)], job.output, environment)


def start_command(
    command: Sequence[str], output: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a command with its output added to a file, in a session of its own: a Ctrl-C reaches it
    through us only.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        file.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def environment_for(at_once: int) -> dict[str, str]:
    """Return the variables that share this machine's cores among `at_once` trainings; those of the
    person stay.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // at_once))}


def devices() -> list[str]:
    """Return the names of this machine's GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        visible.split(",")
        if visible
        else [str(index) for index in range(torch.cuda.device_count())]
    )


def last_line(path: Path) -> str:
    """Return the last line that says something in a file of output, "" when there is none."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


@contextmanager
def _signals(seconds: float | None) -> Iterator[list[int]]:
    """Note SIGTERM, SIGINT, SIGHUP, and SIGALRM after `seconds`, while a study runs; yield the
    numbers that came.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    numbers = [signal.SIGTERM, signal.SIGINT]
    if (
        hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    ):  # not under nohup
        numbers.append(signal.SIGHUP)  # the terminal was closed
    if seconds is not None:
        numbers.append(signal.SIGALRM)
    previous: dict[int, Any] = {number: signal.signal(number, note) for number in numbers}
    try:
        if seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))  # 0 would be never
        yield came
    finally:
        if seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
