"""The commands that train."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from tinysight.cli.arguments import DataDir, Minutes, RunName, Settings
from tinysight.text import pluralize

if TYPE_CHECKING:
    from tinysight.run import Run

STOPPED_BY_TIME = 75  # exit status while work is left: "try again" of sysexits.h


def recipes(
    name: Annotated[str | None, Argument(help="Show everything about this one.")] = None,
) -> None:
    """List the recipes, or describe one: what it trains, on what, how long, and its results.

    \b
    Examples:
      tinysight recipes
      tinysight recipes small
    """
    import inspect
    import shutil
    import textwrap

    from tinysight.recipes import RECIPES, labeled, recipe

    if name is not None:
        recipe(name)  # an error for a name that there is not
        print(inspect.getdoc(RECIPES[name]))
        return
    for known, function in RECIPES.items():
        trains = (inspect.getdoc(function) or "").partition("\n")[0].removeprefix("Train ")
        parts = labeled(known)
        needs = f"images: {parts['Images'].rstrip('.')}; {parts['Hardware'].rstrip('.')}"
        for text, indent in ((trains.rstrip("."), ""), (needs, "  ")):
            label = known if not indent else ""
            width = shutil.get_terminal_size().columns
            lines = textwrap.wrap(indent + text, width - 26, subsequent_indent="  ")
            print("\n".join(f"{label if not i else '':<25} {line}" for i, line in enumerate(lines)))
    print("\nyour own pictures   tinysight train small --data FOLDER")
    print("more about one      tinysight recipes NAME")


def train(
    recipe: Annotated[str, Argument(help="See `tinysight recipes`.")],
    settings: Settings = None,
    data: Annotated[str | None, Option(help="Name or folder.", show_default="the recipe's")] = None,
    name: Annotated[str | None, Option(help="Name or folder.", show_default="RECIPE-DATA")] = None,
    pretrained: Annotated[
        str | None, Option("--from", help="Weights to start from: bundled, lite0, a run, a file.")
    ] = None,
    resume: Annotated[bool, Option("--resume", help="With --name: continue if begun.")] = False,
    show: Annotated[bool, Option("--show", help="Print the resolved config only.")] = False,
    minutes: Minutes = 0.0,
    data_dir: DataDir = None,
) -> None:
    """Train a recipe on a dataset; every setting can be changed by field=value.

    Ctrl-C saves, and `tinysight resume` continues to exactly the same result. For several
    processes, prefix the command with torchrun.

    \b
    Examples:
      tinysight train quickstart --data shapes
      tinysight train resnet18-modern --data pets train.epochs=30 optimizer.lr=0.05
      tinysight train resnet18-modern --data pets --name pets-1 --resume
      tinysight train localizer-small --data birds
      tinysight train small --data pets --from bundled
      torchrun --nproc-per-node 2 -m tinysight train resnet18-report --data tiny-imagenet
    """
    from tinysight.recipes import recipe as recipe_named
    from tinysight.settings import change, parse_assignments

    if pretrained == "":  # of a variable that is not set
        raise ValueError("--from is empty; give bundled, lite0, a run or a file, or leave it out")
    changes: dict[str, Any] = dict(parse_assignments(settings or []))
    for option, setting, value in (
        ("--data", "data.name", data),
        ("--minutes", "train.stop_after_minutes", minutes or None),
        ("--from", "model.pretrained", pretrained),
    ):
        if value is not None and str(changes.setdefault(setting, value)) != str(value):
            what = f"{option} is {value}, {setting} is {changes[setting]}"
            raise ValueError(f"{what}; give one of them")
    config = change(recipe_named(recipe), changes)
    if show:
        if config.model.pretrained:
            from tinysight.training.setup import with_pretrained_network

            config = with_pretrained_network(config)
        if any(setting.startswith("model.") for setting in changes):
            from tinysight.models import num_parameters

            num_parameters(config.model.name, 2, config.model.options)  # refuses what is unknown
        print(json.dumps(asdict(config), indent=1))
        return
    import tinysight as ts

    options: dict[str, Any] = {"name": name, "resume": resume, "data_dir": data_dir}
    options["command"] = shlex.join(["tinysight", *sys.argv[1:]])
    _print_outcome(lambda: ts.train(config, **options))


def resume(
    run: RunName, settings: Settings = None, minutes: Minutes = 0.0, data_dir: DataDir = None
) -> None:
    """Continue an interrupted run from its newest checkpoint, to the result it would have had.

    A few settings may change from here on, the learning rate among them; run.json records from
    which step.

    \b
    Examples:
      tinysight resume quickstart-shapes
      tinysight resume pets-1 optimizer.lr=0.02
      tinysight resume pets-1 train.epochs=60 --minutes 30
    """
    from tinysight.api.train import resume_run

    changes = [*(settings or ()), *([f"train.stop_after_minutes={minutes}"] if minutes else ())]
    _print_outcome(lambda: resume_run(run, settings=changes, data_dir=data_dir))


def _print_outcome(work: Callable[[], Run]) -> None:
    """Train, and print what came of it in the main process; exit as the interruption demands."""
    from tinysight.run import duration

    main = os.environ.get("RANK", "0") == "0"
    run = work()
    if not run.is_finished:
        raise SystemExit(STOPPED_BY_TIME)
    if not main:
        return
    summary = run.summary()
    assert summary is not None
    steps = f"{pluralize(summary['epochs'], 'epoch')}, {pluralize(summary['steps'], 'step')}"
    print(f"trained {steps} in {duration(summary['seconds'])}")
    if error := run.monitored_error():
        print(error)
    print(f"weights {run.weights_path}\ncurves  {run.curves_path}")
    print(f"next    tinysight evaluate {run.folder}")
