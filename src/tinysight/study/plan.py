"""The plan of a study: which trainings, in which folders, by which command lines.

Each is one `tinysight train ... --resume` in a folder of its own. Members share nothing but the
images, so the same plan can be carried out here, on a cluster, or as a job array; carried out
again, it goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tinysight import config, models
from tinysight import run as runs
from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.files import write_atomic
from tinysight.recipes import recipe
from tinysight.study.definitions import Member, Study
from tinysight.train.distributed import DistributedContext
from tinysight.train.trainer import check as check_run
from tinysight.train.trainer import training_rows

_OPTIONS = {
    "data.name": "--data",
    "train.epochs": "--epochs",
    "train.seed": "--seeds",
    "data.fraction": "--subset",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training of a study: a member with a seed, in a folder of its own."""

    member: Member
    run: Config
    folder: Path

    @property
    def output(self) -> Path:
        """Where the training's output goes."""
        return self.folder.parent / f"{self.folder.name}.txt"

    @property
    def finished(self) -> bool:
        """Whether the weights are there."""
        return (self.folder / "weights.safetensors").exists()

    def arguments(self, home: Path | None = None) -> list[str]:
        """Return what follows `tinysight` on the command line that trains this job, or goes on with
        it.
        """
        base = recipe(self.run.recipe)
        base = replace(base, data=replace(base.data, name=self.run.data.name))  # given by --data
        where = ["--data-dir", str(home.absolute())] if home else []
        named = ["--data", self.run.data.name, "--name", str(self.folder.absolute()), "--resume"]
        return ["train", self.run.recipe, *named, *where, *config.difference(self.run, base)]


def plan(
    study: Study,
    folder: Path,
    *,
    data: str,
    epochs: int | Mapping[str, int] | None = None,
    seeds: int = 1,
    subset: float | None = None,
    settings: Sequence[str] = (),
) -> list[Job]:
    """Return a study's trainings, seed by seed, so that the first answer is there early.

    Args:
        data: the pack that all learn from.
        epochs: how long each trains, or each by its label; its warm-up shrinks or grows with it.
            None: as its recipe says.
        seeds: how many times each is trained: with the seeds 0, 1, ...
        subset: class-balanced share of the training images, 0 to 1. None: as its recipe says.
        settings: `section.field=value`, for every member.

    Raises:
        ValueError: a figure is out of range, a setting belongs to an option or does not fit, a
            member's recipe has no name, or two members are the same run."""
    if seeds < 1:
        raise ValueError(f"--seeds is {seeds}; train each member with 1 or more")
    if isinstance(epochs, int) and epochs < 1:
        raise ValueError(f"--epochs is {epochs}; train for 1 or more")
    if subset is not None and not 0 < subset <= 1:
        raise ValueError(f"--subset is {subset:g}; give a share above 0, at most 1")
    changes = config.parse_assignments(list(settings))
    for field in changes:
        if field in _OPTIONS:
            raise ValueError(f"{field} is the study's to set; use {_OPTIONS[field]}")
    jobs = []
    for seed in range(seeds):
        for member in study.members:
            run = _shortened(
                member.run, epochs[member.label] if isinstance(epochs, Mapping) else epochs
            )
            run = replace(
                run, data=replace(run.data, name=data, fraction=subset or run.data.fraction)
            )
            run = replace(config.override(run, dict(changes)), recipe=member.run.recipe)
            run = _as_commanded(replace(run, train=replace(run.train, seed=seed)), member.label)
            jobs.append(Job(member=member, run=run, folder=folder / f"{member.slug}-seed{seed}"))
    _all_differ(jobs[: len(study.members)])
    return jobs


def _shortened(run: Config, epochs: int | None) -> Config:
    """Return `run` with another length; its warm-up stays the same share of it."""
    if epochs is None:
        return run
    warmup = run.schedule.warmup * epochs / run.train.epochs
    return replace(
        run, schedule=replace(run.schedule, warmup=warmup), train=replace(run.train, epochs=epochs)
    )


def _as_commanded(run: Config, label: str) -> Config:
    """Return `run` as its command line will state it; raise ValueError when it watches no error or
    has no recipe.
    """
    if run.data.monitor == "none":
        raise ValueError(
            f"{label}: data.monitor is none, so there is no error to compare; leave it at minival"
        )
    try:
        base = recipe(run.recipe)
    except ValueError as error:
        raise ValueError(
            f"{label}: {error}; begin a member from a named recipe, as replace(recipe('quickstart'), ...)"
        ) from None
    return config.override(base, dict(config.parse_assignments(config.difference(run, base))))


def _all_differ(jobs: Sequence[Job]) -> None:
    seen: dict[str, str] = {}
    for job in jobs:
        key = repr(replace(job.run, recipe=""))
        if key in seen:
            raise ValueError(
                f"{seen[key]!r} and {job.member.label!r} are the same run; leave out the setting that makes them so"
            )
        seen[key] = job.member.label


def check(jobs: Sequence[Job], pack: Dataset) -> None:
    """Raise ValueError when a job does not fit the data, or its folder holds another run or one on
    other data.
    """
    for job in jobs:
        check_fits(job, pack)
        if (job.folder / "run.json").is_file():
            run = runs.read_run(job.folder)
            if run.config != job.run:
                raise ValueError(f"{run.mismatch(job.run)}; choose another --name")
            if run.data_digest != pack.digest:
                raise ValueError(
                    f"{job.folder} was trained on other data of the name {pack.name}; choose another --name"
                )


def check_fits(job: Job, pack: Dataset) -> None:
    """Raise ValueError, with the member's label, when a job does not fit the data."""
    try:
        check_run(job.run, pack, DistributedContext())
    except ValueError as error:
        raise ValueError(f"{job.member.label}: {error}") from None


def seeds_planned(folder: Path) -> int:
    """Return how many seeds the study in `folder` was last planned with, 0 for none."""
    try:
        return max(
            len(member["runs"])
            for member in json.loads((folder / "study.json").read_bytes())["members"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def last_command(folder: Path) -> str:
    """Return the command that the study in `folder` was last trained by, "" for none."""
    try:
        return str(json.loads((folder / "study.json").read_bytes())["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def write_plan(study: Study, jobs: Sequence[Job], pack: Dataset, *, command: str) -> None:
    """Write study.json beside the jobs' folders: what `analysis.study.report` needs beside the runs
    themselves.
    """
    members = []
    for member in study.members:
        own = [job for job in jobs if job.member.label == member.label]
        members.append(
            {
                "label": member.label,
                "published": member.published,
                "parameters": models.num_parameters(
                    own[0].run.model.name, len(pack.class_names), own[0].run.model.options
                ),
                "num_train": len(training_rows(own[0].run, pack, DistributedContext())),
                "recipe": own[0].run.recipe,
                "runs": [job.folder.name for job in own],
                "final": own[0].run.train.keep_weights,
            }
        )
    rows = pack.rows(jobs[0].run.data.monitor)
    content = {
        "format": 1,
        "name": study.name,
        "question": study.question,
        "source": study.source,
        "data": pack.name,
        "command": command,
        "images": int((pack.labels[rows.start : rows.stop] >= 0).sum()),
        "reference": study.compared_with,
        "members": members,
    }
    folder = jobs[0].folder.parent
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "study.json", json.dumps(content, indent=1).encode())
