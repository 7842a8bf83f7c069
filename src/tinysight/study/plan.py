"""The plan of a study (which trainings, in which folders, by which commands), and its loop.

Each training is what `tinysight train ... --resume` does in a folder of its own. They share only
the dataset, so the same plan runs here, on Ray, or as a job array; run again, it continues.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinysight import models
from tinysight import run as runs
from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.files import write_atomic
from tinysight.recipes import recipe
from tinysight.settings import change, difference, is_used, override, parse_assignments
from tinysight.study.definitions import Member, Study
from tinysight.training.distributed import DistributedContext
from tinysight.training.scaling import scaled_as
from tinysight.training.setup import check as check_config
from tinysight.training.setup import training_rows

logger = logging.getLogger("tinysight")
OVER = "the minutes are over; the study goes on by the same command"
_OPTIONS = {
    "data.name": "--data",
    "train.epochs": "--epochs",
    "train.seed": "--seeds",
    "data.fraction": "--subset",
    "train.stop_after_minutes": "--minutes",
}


@dataclass(frozen=True)
class Job:
    """One training of a study: a member with a seed, in a folder of its own."""

    member: Member
    config: Config
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether the weights are there."""
        return (self.folder / "weights.safetensors").exists()

    def arguments(self, home: Path | None = None) -> list[str]:
        """Return what follows `tinysight` on the command line of this job."""
        base = recipe(self.config.recipe)
        base = replace(base, data=replace(base.data, name=self.config.data.name))
        where = ["--data-dir", str(home.absolute())] if home else []
        named = ["--data", self.config.data.name, "--name", str(self.folder.absolute()), "--resume"]
        return ["train", self.config.recipe, *named, *where, *_changes(self.config, base)]


def plan(
    study: Study,
    folder: Path,
    *,
    data: str,
    epochs: int | None = None,
    seeds: int = 1,
    subset: float | None = None,
    settings: Sequence[str] = (),
) -> list[Job]:
    """Return a study's trainings, seed by seed, so that the first comparison is there early.

    Args:
        data: the dataset that all learn from.
        epochs: how long each trains; its warm-up keeps its share. None: as its recipe does.
        seeds: how often each is trained: with the seeds 0, 1, ...
        subset: class-balanced share of the training images, 0 to 1. None: as its recipe does.
        settings: `section.field=value`, for every member.

    Raises:
        ValueError: a value is out of range, a setting belongs to an option or does not fit, a
            member's recipe has no name, or two members have the same settings.
    """
    if seeds < 1:
        raise ValueError(f"--seeds is {seeds}; train each member with 1 or more")
    if epochs is not None and epochs < 1:
        raise ValueError(f"--epochs is {epochs}; train for 1 or more")
    if subset is not None and not 0 < subset <= 1:
        raise ValueError(f"--subset is {subset:g}; give a share above 0, at most 1")
    changes = parse_assignments(list(settings))
    for field in changes:
        if field in _OPTIONS:
            raise ValueError(f"{field} is set by the study; use {_OPTIONS[field]}")
    jobs = []
    for seed in range(seeds):
        for member in study.members:
            config = _shortened(member.config, epochs)
            shared: dict[str, Any] = {"data.name": data, "train.seed": seed}
            shared["data.fraction"] = subset or config.data.fraction
            config = _as_commanded(override(config, shared | changes), member.label)
            jobs.append(Job(member, config, folder / f"{member.slug}-seed{seed}"))
    for field in changes:
        if not any(is_used(job.config, field) for job in jobs):
            raise ValueError(f"{field} has no effect in any member of the study; leave it out")
    _check_all_differ(jobs[: len(study.members)])
    return jobs


def _shortened(config: Config, epochs: int | None) -> Config:
    if epochs is None:
        return config
    warmup = config.schedule.warmup * epochs / (config.train.epochs or epochs)
    return override(config, {"schedule.warmup": warmup, "train.epochs": epochs})


def _as_commanded(config: Config, label: str) -> Config:
    """Return `config` as its command line will give it; raise ValueError where that cannot be."""
    if not config.localizer.classifies:
        raise ValueError(
            f"{label}: no class of the image is learned, so there is no top-1 error to compare; a "
            "study is of classifiers, and of localizers that classify"
        )
    if config.data.monitor == "none":
        raise ValueError(f"{label}: data.monitor is none, so no error to compare; use minival")
    try:
        base = recipe(config.recipe)
    except ValueError as error:
        how = "make it from a named recipe: replace(recipe('quickstart'), ...)"
        raise ValueError(f"{label}: {error}; {how}") from None
    return change(base, dict(parse_assignments(_changes(config, base))))


def _changes(config: Config, base: Config) -> list[str]:
    """Return what to type to get `config` from `base`: the settings that have an effect."""
    settings = difference(config, base)
    return [each for each in settings if is_used(config, each.partition("=")[0])]


def _check_all_differ(jobs: Sequence[Job]) -> None:
    seen: dict[str, str] = {}
    for job in jobs:
        key = repr(replace(job.config, recipe=""))
        if key in seen:
            both = f"{seen[key]!r} and {job.member.label!r}"
            raise ValueError(f"{both} have the same settings; leave out what makes them equal")
        seen[key] = job.member.label


def check(jobs: Sequence[Job], dataset: Dataset) -> None:
    """Raise ValueError when a job does not fit the data, or its folder holds another run."""
    for job in jobs:
        try:
            check_config(job.config, dataset, DistributedContext())
        except ValueError as error:
            raise ValueError(f"{job.member.label}: {error}") from None
        if not (job.folder / "run.json").is_file():
            continue
        run = runs.read_run(job.folder)
        if differing := run.mismatch(scaled_as(job.config, run.config)):
            raise ValueError(f"{differing}; choose another --name")
        if run.data_digest != dataset.digest:
            what = f"{job.folder} was trained on other data of the name {dataset.name}"
            raise ValueError(f"{what}; choose another --name")


def train_members(
    jobs: Sequence[Job], train: Callable[[Job, float], object], *, minutes: float = 0.0
) -> int:
    """Train the jobs that are not finished, one after the other; return how many failed.

    Args:
        train: trains a job, or continues it, for at most so many minutes (0: to its end). A
            ValueError or OSError fails that job alone; anything else ends the study.
        minutes: for all jobs together; 0: no limit.

    Raises:
        TimeoutError: the minutes are over, and some job is not finished.
    """
    end = time.monotonic() + 60 * minutes
    done, failed = sum(job.finished for job in jobs), 0
    logger.info("%d trainings, %d of them finished", len(jobs), done)
    for job in [job for job in jobs if not job.finished]:
        left = (end - time.monotonic()) / 60 if minutes else 0.0
        if left < 0:
            raise TimeoutError(OVER)
        done += 1
        place = f"[{done}/{len(jobs)}] {job.folder.name}"
        logger.info("%s: training", place)
        try:
            train(job, left)
        except (ValueError, OSError) as error:
            failed += 1
            logger.error("%s: failed: %s", place, error)
            continue
        if not job.finished:
            raise TimeoutError(OVER)
        logger.info("%s: %s", place, outcome(job))
    return failed


def outcome(job: Job) -> str:
    """Describe how a finished job ended: its lowest error, and how long it took."""
    run = runs.read_run(job.folder)
    summary = run.summary()
    assert summary is not None
    return f"{run.monitored_error()}, {runs.duration(summary['seconds'])}"


def previous(folder: Path) -> tuple[int, str]:
    """Return the seeds and the command of the last plan in `folder`; 0 and "" for none."""
    try:
        content = json.loads((folder / "study.json").read_bytes())
        seeds = max(len(member["runs"]) for member in content["members"])
        return seeds, str(content["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def write_plan(study: Study, jobs: Sequence[Job], dataset: Dataset, *, command: str) -> None:
    """Write study.json next to the jobs' folders: what `report` needs besides the runs."""
    members: list[dict[str, Any]] = []
    for member in study.members:
        own = [job for job in jobs if job.member.label == member.label]
        config, model = own[0].config, own[0].config.model
        described = {
            "label": member.label,
            "published": member.published,
            "parameters": models.num_parameters(
                model.name, len(dataset.class_names), model.options
            ),
            "num_train": len(training_rows(config, dataset, DistributedContext())),
            "recipe": config.recipe,
            "runs": [job.folder.name for job in own],
            "keep_weights": config.train.keep_weights,
        }
        members.append(described)
    rows = dataset.rows(jobs[0].config.data.monitor)
    content = {
        "format": 1,
        "name": study.name,
        "question": study.question,
        "source": study.source,
        "data": dataset.name,
        "command": command,
        "images": int((dataset.labels[rows.start : rows.stop] >= 0).sum()),
        "reference": study.compared_with,
        "members": members,
    }
    folder = jobs[0].folder.parent
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "study.json", json.dumps(content, indent=1).encode())
