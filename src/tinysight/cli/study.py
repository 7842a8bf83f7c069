"""The commands that compare trainings."""

from __future__ import annotations

import functools
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from tinysight.cli.arguments import DataDir, Minutes, Settings
from tinysight.cli.train import STOPPED_BY_TIME
from tinysight.files import folder_names

if TYPE_CHECKING:
    from tinysight.config import Config
    from tinysight.data.dataset import Dataset
    from tinysight.run import Run
    from tinysight.study.definitions import Study
    from tinysight.study.plan import Job

Recipes = Annotated[
    str | None, Option(help="Of study `models`: published or modern.", show_default="published")
]
FolderName = Annotated[
    str | None, Option("--name", help="Name or folder.", show_default="study-STUDY-DATA")
]
Epochs = Annotated[
    int | None, Option(help="How long each trains.", show_default="as its recipe does")
]
Counts = Annotated[
    str | None, Option(help="Of study `transfer`: images per class.", show_default="10,30,100,300")
]
PrintCommands = Annotated[bool, Option("--print-commands", help="Print each training's command.")]
Ray = Annotated[bool, Option("--ray", help="Train on a Ray cluster, a member per GPU.")]


def studies() -> None:
    """List the studies: the question, its source, and what is compared.

    \b
    Examples:
      tinysight studies
    """
    from tinysight.study.definitions import STUDIES, TRANSFER
    from tinysight.study.transfer import QUESTION

    for name, make in STUDIES.items():
        study = make()
        print(f"{name}: {study.question}\n    {study.source}")
        print("\n".join(f"    - {member.label}" for member in study.members) + "\n")
    print(f"{TRANSFER}: {QUESTION}\n    ours; any folder of class folders, or a dataset\n")
    print("Run one with: tinysight study NAME --data DATASET [--epochs E --seeds K --subset F]")


def study(
    name: Annotated[str, Argument(metavar="STUDY", help="Of `tinysight studies`, or a .py file.")],
    data: Annotated[str, Option(help="The dataset that all members learn from.")],
    settings: Settings = None,
    epochs: Epochs = None,
    seeds: Annotated[int, Option(help="How many times each is trained.")] = 1,
    subset: Annotated[float | None, Option(help="Class-balanced share of train, 0 to 1.")] = None,
    recipes: Recipes = None,
    counts: Counts = None,
    minutes: Minutes = 0.0,
    folder_name: FolderName = None,
    print_commands: PrintCommands = False,
    report_only: Annotated[bool, Option("--report-only", help="Report; train nothing.")] = False,
    ray: Ray = False,
    data_dir: DataDir = None,
) -> None:
    """Compare trainings: errors by epoch, published errors, and which differences are significant.

    Ctrl-C saves. The same command again continues, and --seeds may be raised later.

    \b
    Examples:
      tinysight study depth --data shapes --epochs 4 --seeds 3
      tinysight study models --data tiny-imagenet --print-commands > commands.txt
      tinysight study models --recipes modern --data tiny-imagenet --minutes 9
      tinysight study my_study.py --data pets train.batch_size=64
      tinysight study transfer --data ~/Pictures/pets --counts 10,30 --seeds 3
    """
    import tinysight as ts
    from tinysight import run as runs
    from tinysight.study import plan

    if name == "transfer":
        unused: dict[str, Any] = {"--epochs": epochs, "--subset": subset, "--recipes": recipes}
        unused |= {"--ray": ray, "--print-commands": print_commands, "settings": settings}
        _transfer(data, counts, seeds, minutes, folder_name, report_only, data_dir, unused)
        return
    if ray and minutes:
        raise ValueError("--minutes does not go with --ray; give one of them")
    chosen = _chosen(name, recipes, counts)
    folder = runs.run_folder(folder_name or f"study-{chosen.name}-{folder_names(data)[0]}")
    options: dict[str, Any] = {"data": data, "epochs": epochs, "subset": subset}
    plan_for = functools.partial(plan.plan, chosen, folder, settings=settings or [], **options)
    planned = plan_for(seeds=seeds)
    if print_commands:
        for job in planned:
            print(shlex.join(["tinysight", *job.arguments(data_dir)]))
        return
    if report_only and not any(job.finished for job in planned):
        raise ValueError(f"no training of {folder} is finished yet, so there is nothing to report")
    seeds_before, command = plan.previous(folder)
    reported = plan_for(seeds=max(seeds, seeds_before))  # seeds trained before stay in the report
    dataset = ts.load_dataset(data, data_dir=data_dir)
    plan.check(reported, dataset)
    command = command if seeds < seeds_before + report_only else _this_command()
    plan.write_plan(chosen, reported, dataset, command=command)
    failed = 0 if report_only else _train(planned, minutes, ray, data_dir)
    _print_report(folder)
    if failed:
        raise typer.Exit(1)


def _this_command() -> str:
    """Return the command line that trains what this one trains or reports."""
    return shlex.join(["tinysight", *(word for word in sys.argv[1:] if word != "--report-only")])


def _train(planned: list[Job], minutes: float, ray: bool, data_dir: Path | None) -> int:
    """Train what is not finished; return how many failed. Exit where the study was stopped."""
    from tinysight.study.plan import train_members
    from tinysight.study.ray import train_on_ray
    from tinysight.training.loop import Interrupted

    train = functools.partial(_train_member, data_dir=data_dir)
    try:
        if ray:
            return train_on_ray(planned, train)
        return train_members(planned, train, minutes=minutes)
    except Interrupted:
        print("stopped; the study goes on by the same command", file=sys.stderr)
        raise
    except TimeoutError as error:
        print(error, file=sys.stderr)
        raise SystemExit(STOPPED_BY_TIME) from None


def _train_member(job: Job, minutes: float, *, data_dir: Path | None) -> None:
    import tinysight as ts

    ts.train(
        job.config,
        name=job.folder,
        resume=True,
        data_dir=data_dir,
        command=shlex.join(["tinysight", *job.arguments(data_dir)]),
        stop_after_minutes=minutes,
    )


def _transfer(
    data: str,
    counts: str | None,
    seeds: int,
    minutes: float,
    folder_name: str | None,
    report_only: bool,
    data_dir: Path | None,
    unused: dict[str, Any],
) -> None:
    import tinysight as ts
    from tinysight import run as runs
    from tinysight.data.dataset import data_home
    from tinysight.device import select_device
    from tinysight.study import plan, transfer

    if given := [option for option, value in unused.items() if value]:
        raise ValueError(f"the study transfer takes no {given[0]}; leave it out")
    if seeds < 1:
        raise ValueError(f"--seeds is {seeds}; draw images with 1 or more")
    try:
        numbers = [int(count) for count in counts.split(",")] if counts else transfer.COUNTS
    except ValueError:
        raise ValueError(f"--counts is {counts!r}; give numbers, as 10,30,100") from None
    folder = runs.run_folder(folder_name or f"study-transfer-{folder_names(data)[0]}")
    end = time.monotonic() + 60 * minutes

    def train(config: Config, view: Dataset, place: Path) -> Run:
        if minutes and time.monotonic() > end:
            raise TimeoutError(plan.OVER)
        left = max((end - time.monotonic()) / 60, 0.01) if minutes else 0.0
        own: dict[str, Any] = {"command": command, "stop_after_minutes": left}
        return ts.train(config, view, name=place, resume=True, data_dir=data_dir, **own)

    command = _this_command()
    if not report_only:
        home = data_dir or data_home()
        runtime = select_device("auto", "fp32")
        study = transfer.Transfer.of(data, folder, home=home, runtime=runtime, train=train)
        try:
            transfer.measure(study, transfer.usable_counts(study.base, numbers), seeds)
        except TimeoutError as error:
            print(error, file=sys.stderr)
            raise SystemExit(STOPPED_BY_TIME) from None
    print(transfer.report(folder, data=folder_names(data)[0], command=command))
    print(f"table  {folder / 'table.md'}\nfigure {folder / 'figure.png'}")


def _chosen(name: str, recipes: str | None, counts: str | None) -> Study:
    from tinysight.study.definitions import study as study_named

    if counts is not None:
        raise ValueError(f"--counts belongs to the study transfer, not to {name}; leave it out")
    if recipes is not None and name != "models":
        raise ValueError(f"--recipes belongs to the study models, not to {name}; leave it out")
    if recipes not in (None, "published", "modern"):
        raise ValueError(f"--recipes is {recipes!r}; expected published or modern")
    return study_named("models-modern" if recipes == "modern" else name)


def _print_report(folder: Path) -> None:
    from tinysight.study.report import report

    results = report(folder)
    width = max(len(row.label) for row in results.rows)
    for row in results.rows:
        errors = row.errors
        text = "no run finished" if errors is None else f"{errors.mean:.2%}"
        if errors is not None and errors.sd is not None:
            text += f"  +- {100 * errors.sd:.2f} over {errors.count} seeds"
        if row.published is not None:
            text += f"  (published {row.published:.2%})"
        print(f"{row.label:<{width}}  {text}")
    print("\n".join(results.verdicts))
    print(f"table  {folder / 'table.md'}\nfigure {folder / 'figure.png'}")
