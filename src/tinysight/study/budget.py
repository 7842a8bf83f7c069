"""How long the members of a study may train: each one's speed measured here, all shortened alike to
fit the minutes.

The plan is made once and kept in the study's folder, `budget.json`: a study that goes on must
not change its length."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime, select_device, synchronize
from tinysight.files import write_atomic
from tinysight.study.plan import Job
from tinysight.train.distributed import DistributedContext
from tinysight.train.trainer import Trainer, training_rows

RESERVE = 0.15  # of the minutes: for states on disk, starting and compiling
SECONDS = 10.0  # that each member is measured for
_WARM_UP = 3  # steps of each size that are not counted


def training_rate(run: Config, pack: Dataset, runtime: Runtime, *, seconds: float) -> float:
    """Return the images a second at which `run` trains here, over its growing sizes; nothing of it
    is kept.

    Each size is trained for its part of `seconds`, and weighs by its share of the training.
    """
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        training = Trainer(run, pack, runtime, DistributedContext())
        starts = [start for start, _ in run.train.sizes] or [0.0]
        seconds_an_image = 0.0
        for start, end in zip(starts, [*starts[1:], 1.0], strict=True):
            first = math.ceil(start * training.total)
            seconds_an_image += (end - start) * _seconds_an_image(
                training, first, seconds / len(starts)
            )
    return 1 / seconds_an_image


def _seconds_an_image(training: Trainer, first: int, seconds: float) -> float:
    """Train at the size of step `first` for some seconds."""
    device, counted, number = training.runtime.device, 0, 0
    begun = deadline = time.perf_counter()
    while number < _WARM_UP or not counted or time.perf_counter() < deadline:
        if number == _WARM_UP:
            begun = time.perf_counter()
            deadline = begun + seconds
        training.step_number = (
            first  # the size, the rate and whether images are mixed stay those of this step
        )
        training.step(training.batches.batch(first + number))
        synchronize(device)
        counted += number >= _WARM_UP
        number += 1
    return (time.perf_counter() - begun) / (counted * training.batches.batch_size)


def epochs_within(minutes: float, full: Mapping[str, tuple[int, float]]) -> dict[str, int]:
    """Shorten trainings by one common factor to take `minutes` one after the other; none grows.

    Args:
        minutes: for all of them together, RESERVE included.
        full: by label, a training's epochs as its recipe says, and the seconds that one epoch takes
            here.

    Raises:
        ValueError: the minutes do not suffice for an epoch of each.
    """
    available = 60 * minutes * (1 - RESERVE)
    share = min(1.0, available / sum(epochs * seconds for epochs, seconds in full.values()))
    planned = {label: max(1, int(share * epochs)) for label, (epochs, _) in full.items()}
    needed = sum(planned[label] * seconds for label, (_, seconds) in full.items())
    if needed > available:
        least = needed / (1 - RESERVE) / 60
        raise ValueError(
            f"--budget is {minutes:g} minutes, but an epoch of each member takes {least:.2g}; give more"
        )
    return planned


def plan_epochs(
    jobs: Sequence[Job],
    pack: Dataset,
    *,
    minutes: float,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, int]:
    """Return each member's epochs, by label: as planned before in this folder, else measured and
    planned now.

    Args:
        jobs: one of each member, as long as its recipe says.
        pack: what they learn from.
        minutes: for one training of each member, one after the other.
        say: told what was measured and planned.

    Raises:
        ValueError: another budget was planned with, or this one is too small.
    """
    path = jobs[0].folder.parent / "budget.json"
    if path.exists():
        return _planned_before(path, jobs, minutes)
    rates, full = {}, {}
    for job in jobs:
        runtime = select_device(job.run.train.device, job.run.train.precision)
        rate = training_rate(job.run, pack, runtime, seconds=SECONDS)
        if runtime.device.type == "cuda":
            torch.cuda.empty_cache()  # the trainings are other processes
        rates[job.member.label] = rate
        full[job.member.label] = (job.run.train.epochs, _images_an_epoch(job.run, pack) / rate)
        say(f"{job.member.label}: {rate:,.0f} images/s, {runtime.describe()}")
    planned = epochs_within(minutes, full)
    for label, epochs in planned.items():
        say(
            f"{label}: {epochs} of {full[label][0]} epochs, about {epochs * full[label][1] / 60:.1f} minutes"
        )
    content = {"format": 1, "minutes": minutes, "images_per_s": rates, "epochs": planned}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(content, indent=1).encode())
    return planned


def _images_an_epoch(run: Config, pack: Dataset) -> float:
    """Count the images of an epoch in trained ones: evaluating one is a third of that work, twice
    with its mirror.
    """
    evaluated = len(pack.rows(run.data.monitor)) if run.data.monitor in pack.splits else 0
    return (
        len(training_rows(run, pack, DistributedContext()))
        + evaluated * (2 if run.train.flip_average else 1) / 3
    )


def _planned_before(path: Path, jobs: Sequence[Job], minutes: float) -> dict[str, int]:
    try:
        content = json.loads(path.read_bytes())
        before, planned = (
            float(content["minutes"]),
            {str(key): int(value) for key, value in content["epochs"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove it, or choose another --name"
        ) from None
    if before != minutes:
        raise ValueError(
            f"{path.parent} was planned with --budget {before:g}; give that, or choose another --name"
        )
    if missing := [job.member.label for job in jobs if job.member.label not in planned]:
        raise ValueError(f"{path} plans nothing for {missing[0]}; choose another --name")
    return planned
