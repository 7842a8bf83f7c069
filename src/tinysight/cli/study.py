"""The commands that compare trainings."""

from __future__ import annotations

import functools
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinysight.cli.arguments import Home, Settings
from tinysight.cli.datasets import open_or_draw, packs_home
from tinysight.cli.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinysight.study.jobs import Work
    from tinysight.study.plan import Job

PROGRAM = (sys.executable, "-m", "tinysight")  # what trains a member
GO_ON = 75  # exit status when the minutes are over and work is left: sysexits' "try again"


def studies() -> None:
    """List the studies: the question, where it comes from, and what is compared.

    \b
    Examples:
      tinysight studies
    """
    from tinysight.study.definitions import STUDIES

    for name, make in STUDIES.items():
        study = make()
        print(f"{name}: {study.question}\n    {study.source}")
        print("\n".join(f"    - {member.label}" for member in study.members) + "\n")
    print("Run one with: tinysight study NAME --data D [--epochs E --seeds K --subset F --jobs J]")


def study(
    name: Annotated[
        str,
        typer.Argument(metavar="STUDY", help="See `tinysight studies`; or your own Python file."),
    ],
    data: Annotated[str, typer.Option(help="The pack that all members learn from.")],
    settings: Settings = None,
    epochs: Annotated[
        int | None, typer.Option(help="How long each trains.", show_default="as its recipe says")
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many times each is trained.")] = 1,
    recipes: Annotated[
        str | None,
        typer.Option(help="Of the study `models`: published or modern.", show_default="published"),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Minutes for one training of each member: measure their speed and shorten all alike to fit.",
            show_default="no limit",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Save and stop after so many, with status 75; the same command goes on.",
            show_default="no limit",
        ),
    ] = None,
    subset: Annotated[
        float | None, typer.Option(help="Class-balanced share of the training images, 0 to 1.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(help="How many train at once, sharing the cores or GPUs.")
    ] = 1,
    folder_name: Annotated[
        str | None,
        typer.Option("--name", help="The study's name or folder.", show_default="study-STUDY-DATA"),
    ] = None,
    print_commands: Annotated[
        bool, typer.Option(help="Print a command a training, for a job array.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Report what is there; train nothing.")
    ] = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="Train on a Ray cluster, a member a GPU (extra: ray).")
    ] = False,
    home: Home = None,
) -> None:
    """Compare trainings: a table with the published figures, errors by epoch, and whether a
    difference beats the noise.

    Ctrl-C saves; the same command again goes on where it stopped, and more seeds may be added to
    what is there.

    \b
    Examples:
      tinysight study depth --data shapes --epochs 4 --seeds 3
      tinysight study weight-decay --data tiny-imagenet --epochs 10 --subset 0.2 --seeds 3 --jobs 2
      tinysight study models --data tiny-imagenet --print-commands > commands.txt
      tinysight study models --recipes modern --data tiny-imagenet --budget 90 --minutes 9
      tinysight study my_study.py --data pets train.batch_size=64
    """
    from tinysight import run as runs
    from tinysight.study import plan
    from tinysight.study.definitions import study as study_named

    begun = time.monotonic()
    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}; train 1 or more at once")
    for option, value in (("--budget", budget), ("--minutes", minutes)):
        if value is not None and not value > 0:
            raise ValueError(f"{option} is {value:g}; give minutes above 0")
    if budget is not None and epochs is not None:
        raise ValueError("--budget plans the epochs, and --epochs sets them; give one of them")
    chosen = study_named(_with_recipes(name, recipes))
    folder = runs.run_folder(folder_name or f"study-{chosen.name}-{Path(data).name}")
    plan_whole = functools.partial(
        plan.plan, chosen, folder, data=data, subset=subset, settings=settings or []
    )
    lengths = epochs if budget is None else _epochs_within(budget, plan_whole(), data, home)
    plan_for = functools.partial(plan_whole, epochs=lengths)
    planned = plan_for(seeds=seeds)
    if print_commands:
        for job in planned:
            print(shlex.join(["tinysight", *job.arguments(home)]))
        return
    pack = open_or_draw(data, home)
    plan.check(planned, pack)
    if report_only and not any(job.finished for job in planned):
        raise ValueError(f"no training of {folder} is finished yet, so there is nothing to report")
    reported = plan_for(
        seeds=max(seeds, plan.seeds_planned(folder))
    )  # seeds trained before stay in the report
    plan.check(reported, pack)
    command = shlex.join(["tinysight", *sys.argv[1:]])
    if report_only:
        command = plan.last_command(folder) or command
    plan.write_plan(chosen, reported, pack, command=command)
    until = None if minutes is None else begun + 60 * minutes
    failed = 0 if report_only else _train(planned, folder, jobs, ray, home, until)
    _report(folder)
    if failed:
        raise typer.Exit(1)


def _with_recipes(name: str, recipes: str | None) -> str:
    """Return the name of the study that `--recipes` chooses."""
    if recipes is None:
        return name
    if name != "models":
        raise ValueError(f"--recipes belongs to the study models, not to {name}; leave it out")
    if recipes not in ("published", "modern"):
        raise ValueError(f"--recipes is {recipes!r}; expected published or modern")
    return "models" if recipes == "published" else "models-modern"


def _epochs_within(
    budget: float, one_each: Sequence[Job], data: str, home: Path | None
) -> dict[str, int]:
    """Plan how many epochs of each member the budget allows, and say so."""
    from tinysight.study import plan
    from tinysight.study.budget import plan_epochs

    pack = open_or_draw(data, home)
    for job in one_each:
        plan.check_fits(job, pack)
    return plan_epochs(one_each, pack, minutes=budget, say=say)


def _train(
    planned: Sequence[Job],
    folder: Path,
    at_once: int,
    on_ray: bool,
    home: Path | None,
    until: float | None,
) -> int:
    """Do what is not finished yet and tell how each ends; return how many failed."""
    from tinysight.study import jobs

    environment = jobs.environment_for(at_once)
    start: Callable[[Job, int], Work]
    if on_ray:
        from tinysight.study.cluster import Cluster

        cluster = Cluster(program=PROGRAM, environment=environment, home=packs_home(home))
        start, at_once = cluster.start, len(planned)  # Ray has its own queue
    else:
        devices = jobs.devices()
        named = {job.run.train.device for job in planned} - {"auto", "cpu", "cuda"}
        if named and len(devices) > 1:
            raise ValueError(
                f"train.device is {named.pop()}, but a study shares out the GPUs itself; leave it at auto"
            )

        def start(job: Job, place: int) -> Work:
            return jobs.start_process(
                job, place, program=PROGRAM, environment=environment, home=home, devices=devices
            )

    todo = [job for job in planned if not job.finished]
    total, done, failed = len(planned), len(planned) - len(todo), 0
    say(f"{folder}: {total} trainings, {done} of them finished; their output is in {folder}/*.txt")

    def ended(job: Job, status: int) -> None:
        nonlocal done, failed
        done += 1
        if status == 0:
            say(f"[{done}/{total}] {job.folder.name}: {_outcome(job)}")
            return
        failed += 1
        if status in (130, 143, -2, -15):
            say(f"[{done}/{total}] {job.folder.name}: stopped")
        else:
            line = jobs.last_line(job.output).removeprefix("error: ")
            say(f"[{done}/{total}] {job.folder.name}: failed with status {status}: {line}")

    number = jobs.carry_out(
        todo,
        start,
        at_once=at_once,
        begun=lambda job: say(f"{job.folder.name}: training"),
        ended=ended,
        seconds=None if until is None else until - time.monotonic(),
    )
    if number == signal.SIGALRM:
        if all(job.finished for job in planned):  # it came in the last one's last moments
            return failed
        say("the minutes are over; the same command goes on")
        raise SystemExit(GO_ON)
    if number:
        say("stopped; the same command goes on")
        raise SystemExit(128 + number)
    return failed


def _outcome(job: Job) -> str:

    from tinysight.run import duration, read_run

    run = read_run(job.folder)
    return f"{run.lowest_monitored()}, {duration((run.summary() or {})['seconds'])}"


def _report(folder: Path) -> None:
    from tinysight.study.report import report

    results = report(folder)
    width = max(len(row.label) for row in results.rows)
    for row in results.rows:
        found = row.errors
        spread = (
            ""
            if found is None or found.sd is None
            else f"  +- {100 * found.sd:.2f} over {found.count} seeds"
        )
        published = "" if row.published is None else f"  (published {row.published:.2%})"
        print(
            f"{row.label:<{width}}  {'no run finished' if found is None else f'{found.mean:.2%}'}{spread}{published}"
        )
    print("\n".join(results.verdicts))
    print(f"table  {folder / 'table.md'}\nfigure {folder / 'figure.png'}")
