"""The commands that train."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinysight.cli.arguments import Home, RunName, Settings
from tinysight.cli.datasets import open_or_draw

if TYPE_CHECKING:
    from tinysight.config import Config
    from tinysight.data.dataset import Dataset


def recipes() -> None:
    """List the recipes: what each trains, on what, how long, and what came of it.

    \b
    Examples:
      tinysight recipes
    """
    import inspect

    from rich.console import Console
    from rich.table import Table

    from tinysight.recipes import RECIPES

    table = Table("recipe", "what", show_lines=True)
    for name, function in RECIPES.items():
        table.add_row(name, inspect.getdoc(function))
    Console().print(table)
    print("Train one with: tinysight train RECIPE --data NAME [field=value ...]")


def train(
    recipe: Annotated[str, typer.Argument(help="See `tinysight recipes`.")],
    settings: Settings = None,
    data: Annotated[
        str | None, typer.Option(help="A pack's name.", show_default="the recipe's")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The run's name or folder.", show_default="RECIPE-DATA")
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--resume", help="With --name: go on when the folder already holds this very run."
        ),
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print the resolved run, and train nothing.")
    ] = False,
    home: Home = None,
) -> None:
    """Train a recipe on a data set; everything about it can be changed by field=value.

    Ctrl-C saves; `tinysight resume` goes on, to the very same result. Several processes: prefix
    with torchrun.

    \b
    Examples:
      tinysight train quickstart --data shapes
      tinysight train resnet18-modern --data pets train.epochs=30 optimizer.lr=0.05
      tinysight train resnet18-modern --data pets --name pets-1 --resume
      torchrun --nproc-per-node 2 -m tinysight train resnet18-report --data tiny-imagenet
    """
    from dataclasses import replace

    from tinysight import config
    from tinysight.recipes import recipe as recipe_named

    changes = config.parse_assignments(settings or [])
    run = config.override(recipe_named(recipe), dict(changes))
    if data is not None:
        if changes.get("data.name", data) != data:
            raise ValueError(
                f"--data says {data} and data.name says {changes['data.name']}; give one of them"
            )
        run = replace(run, data=replace(run.data, name=data))
    if show:
        print(json.dumps(config.to_dict(run), indent=1))
        return
    if again and _go_on(run, name, home):
        return
    from tinysight.train import launch

    _train(
        run.data.name,
        home,
        lambda pack, distributed, reporter: launch.start(
            run,
            pack,
            distributed=distributed,
            reporter=reporter,
            name=name,
            command=shlex.join(["tinysight", *sys.argv[1:]]),
        )[0],
    )


def _go_on(run: Config, name: str | None, home: Path | None) -> bool:
    """Go on with `run` in the folder `name`; return False when none has begun there."""
    from tinysight import run as runs

    if name is None:
        raise ValueError("--resume goes on with the run of a name; give --name, too")
    folder = runs.run_folder(name)
    if not (folder / "run.json").is_file():
        return False
    existing = runs.read_run(folder)
    if existing.config != run:
        raise ValueError(f"{existing.mismatch(run)}; choose another --name")
    if existing.is_finished:
        print(f"{folder} is finished")
    else:
        resume(str(folder), home=home)
    return True


def resume(run: RunName, settings: Settings = None, home: Home = None) -> None:
    """Go on with an interrupted run from its newest whole checkpoint, to the result it would have
    had.

    A few settings may change from here on, the learning rate among them; run.json tells from which
    step.

    \b
    Examples:
      tinysight resume quickstart-shapes
      tinysight resume pets-1 optimizer.lr=0.02
    """
    from tinysight import run as runs
    from tinysight.train import launch

    found = runs.find_run(run)

    def go_on(pack: Dataset, distributed: Any, reporter: Any) -> Path:
        launch.resume(
            found, pack, distributed=distributed, reporter=reporter, settings=settings or ()
        )
        return found.folder

    _train(found.config.data.name, home, go_on)


def _train(data: str, home: Path | None, work: Callable[[Dataset, Any, Any], Path]) -> None:
    from tinysight.analysis.curves import draw_curves
    from tinysight.run import duration, read_run
    from tinysight.train.console import ProgressBar
    from tinysight.train.distributed import join_processes
    from tinysight.train.loop import Interrupted

    with join_processes() as distributed:
        reporter = ProgressBar(quiet=not distributed.is_main)
        try:
            pack = open_or_draw(data, home) if distributed.is_main else None
            distributed.barrier()
            folder = work(pack or open_or_draw(data, home), distributed, reporter)
        except Interrupted as interruption:
            reporter.end()
            number = interruption.signal_number
            os._exit(128 + number) if distributed.size > 1 else sys.exit(128 + number)
        finally:
            reporter.end()
        if distributed.is_main:
            draw_curves(folder)
            done = read_run(folder)
            summary = done.summary() or {}
            print(
                f"trained {summary['epochs']} epochs, {summary['steps']} steps in {duration(summary['seconds'])}"
            )
            if lowest := done.lowest_monitored():
                print(lowest)
            print(f"weights {done.weights_path}\ncurves  {done.curves_path}")
            print(f"next    tinysight evaluate {folder}")
