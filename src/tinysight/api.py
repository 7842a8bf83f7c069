"""The public functions: each does what the command of its name does, and returns the result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from tinysight import config as configs
from tinysight import recipes
from tinysight.analysis.plots import draw_curves
from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.data.load import load_dataset as load_without_bar
from tinysight.progress import counting
from tinysight.run import Run, find_run, read_run, run_folder
from tinysight.train import loop
from tinysight.train.callbacks import ProgressBar
from tinysight.train.distributed import DistributedContext, join_processes
from tinysight.train.loop import TimeUp

logger = logging.getLogger("tinysight")


def list_recipes() -> dict[str, str]:
    """Return the names of the recipes, each with a line on what it trains."""
    return {name: (make.__doc__ or "").partition("\n")[0] for name, make in recipes.RECIPES.items()}


def load_dataset(data: str | Path | Dataset, *, data_dir: str | Path | None = None) -> Dataset:
    """Return a dataset by name or folder; draw or derive it where its name alone defines it."""
    if isinstance(data, Dataset):
        return data
    home = None if data_dir is None else Path(data_dir).expanduser()
    with counting(f"preparing {data}") as progress:
        return load_without_bar(data, home=home, progress=progress)


def train(
    config: Config | str,
    data: Dataset | str | Path | None = None,
    *,
    name: str | Path | None = None,
    resume: bool = False,
    data_dir: str | Path | None = None,
    command: str = "",
    **settings: Any,
) -> Run:
    """Train a config, or the recipe of a name, and return the run.

    Args:
        data: a dataset, its name or folder; None: the one that the config names.
        name: of the run, or its folder. None: recipe and data, with the next free number.
        resume: continue when `name` already holds this very run; return it when it is finished.
        data_dir: where prepared datasets are kept; None: the default.
        command: what run.json records as the command.
        settings: fields of the config to change, by short name where that is unique (`epochs=30`,
            `lr=0.05`), or `**{"train.epochs": 30}`.

    Raises:
        ValueError: a setting is unknown or out of range, or does not fit the data.
        Interrupted: Ctrl-C or SIGTERM came; the state was saved, and `resume=True` continues.
    """
    config = recipes.recipe(config) if isinstance(config, str) else config
    config = configs.override(config, _full_names(config, settings))
    if data is not None:
        wanted = data.name if isinstance(data, Dataset) else str(data)
        config = replace(config, data=replace(config.data, name=wanted))
    if resume:
        if name is None:
            raise ValueError("to resume needs the run's name; give --name (name=...), too")
        folder = run_folder(name)
        if (folder / "run.json").is_file():
            run = read_run(folder)
            if differing := run.mismatch(config):
                raise ValueError(f"{differing}; choose another --name")
            if run.is_finished:
                logger.info("%s is finished", folder)
                return run
            changed = configs.difference(config, run.config)  # of OPERATIONAL fields
            return resume_run(run, data, settings=changed, data_dir=data_dir)

    def start(dataset: Dataset, distributed: DistributedContext, bar: ProgressBar) -> Run:
        return loop.train(
            config, dataset, name=name, command=command, distributed=distributed, callback=bar
        )

    return _train(start, config.data.name if data is None else data, data_dir)


def resume_run(
    run: Run | str | Path,
    data: Dataset | str | Path | None = None,
    *,
    settings: Sequence[str] = (),
    data_dir: str | Path | None = None,
) -> Run:
    """Continue an interrupted run from its newest checkpoint; see `tinysight resume`."""
    run = run if isinstance(run, Run) else find_run(run)

    def go_on(dataset: Dataset, distributed: DistributedContext, bar: ProgressBar) -> Run:
        return loop.resume(run, dataset, settings=settings, distributed=distributed, callback=bar)

    return _train(go_on, run.config.data.name if data is None else data, data_dir)


def _train(
    work: Callable[[Dataset, DistributedContext, ProgressBar], Run],
    data: Dataset | str | Path,
    data_dir: str | Path | None,
) -> Run:
    """Do `work` in every process that torchrun started; draw the curves in the main one."""
    with join_processes() as distributed:
        bar = ProgressBar(quiet=not distributed.is_main)
        try:
            dataset = load_dataset(data, data_dir=data_dir) if distributed.is_main else None
            distributed.barrier()  # so that one process makes what is not there yet
            dataset = dataset or load_dataset(data, data_dir=data_dir)
            run = work(dataset, distributed, bar)
        except TimeUp as stop:
            run = stop.run
        if distributed.is_main and run.log_path.exists():
            draw_curves(run)
        return run


def _full_names(config: Config, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give each short name its section; raise ValueError where two sections have a field of it."""
    sections = [part.name for part in fields(config) if is_dataclass(getattr(config, part.name))]
    named: dict[str, list[str]] = {}
    for section in sections:
        for field in fields(getattr(config, section)):
            named.setdefault(field.name, []).append(f"{section}.{field.name}")
    for name in settings:
        if len(named.get(name, ())) > 1:
            raise ValueError(f"{name} may be {' or '.join(named[name])}; give the full name")
    return {named.get(name, [name])[0]: value for name, value in settings.items()}
