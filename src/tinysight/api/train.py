"""Train a recipe, or go on with a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from tinysight import recipes
from tinysight.analysis.plots import draw_curves
from tinysight.api.data import Data, Folder, load_dataset
from tinysight.api.models import named_run
from tinysight.config import OPERATIONAL, Config
from tinysight.data.dataset import Dataset, is_path
from tinysight.data.load import CHANGED, is_zip_file
from tinysight.files import expand
from tinysight.run import Run, read_run, run_folder
from tinysight.settings import change, difference
from tinysight.training import loop
from tinysight.training.callbacks import ProgressBar
from tinysight.training.distributed import join_processes
from tinysight.training.loop import TimeUp
from tinysight.training.scaling import scaled_as
from tinysight.training.setup import with_pretrained_network

logger = logging.getLogger("tinysight")


def list_recipes() -> dict[str, str]:
    """Return the names of the recipes, each with a line on what it trains."""
    return {name: (make.__doc__ or "").partition("\n")[0] for name, make in recipes.RECIPES.items()}


def train(
    config: Config | str,
    data: Data | None = None,
    *,
    name: Folder | None = None,
    resume: bool = False,
    data_dir: Folder | None = None,
    command: str = "",
    **settings: Any,
) -> Run:
    """Train a config, or the recipe of a name, and return the run.

    Args:
        config: a `Config` or a recipe's name.
        data: a dataset, its name or folder; None: the one that the config names.
        name: of the run, or its folder. None: recipe and data, with the next free number.
        resume: continue where `name` already holds this run; return it when it is finished, or go
            on with it where `epochs` is more than it was trained for.
        data_dir: where prepared datasets are kept; None: the default.
        command: what run.json records as the command.
        settings: fields of the config to change, by short name where that is unique (`epochs=30`,
            `lr=0.05`), or `**{"train.epochs": 30}`.

    Raises:
        ValueError: a setting is unknown or out of range, or does not fit the data.
        Interrupted: Ctrl-C or SIGTERM came; the state was saved, and `resume=True` continues.
    """
    config = recipes.recipe(config) if isinstance(config, str) else config
    changes = _full_names(config, settings)
    config = with_pretrained_network(change(config, changes))
    if soft := config.data.soft_labels:
        absolute = str(expand(soft).absolute())
        config = replace(config, data=replace(config.data, soft_labels=absolute))
    if data is not None:
        if not isinstance(data, Dataset) and (is_path(data) or is_zip_file(expand(data))):
            data = expand(data).absolute()
        wanted = data.name if isinstance(data, Dataset) else str(data)
        config = replace(config, data=replace(config.data, name=wanted))
    if not config.data.name:
        raise ValueError(f"{config.recipe} needs data: give --data (data=...), a name or a folder")
    if resume:
        if name is None:
            raise ValueError("to resume needs the run's name; give --name (name=...), too")
        folder = run_folder(name)
        if (folder / "run.json").is_file():
            run = read_run(folder)
            config = scaled_as(config, run.config)
            longer = {"train.epochs", "train.early_stopping"} & changes.keys()
            if differing := run.mismatch(config, ignore=longer):
                raise ValueError(f"{differing}; choose another --name")
            if run.is_finished and not difference(config, run.config, ignore=OPERATIONAL):
                logger.info("%s is finished", folder)
                return run
            changed = difference(config, run.config)  # of OPERATIONAL and `longer` fields
            return resume_run(run, data, settings=changed, data_dir=data_dir)

    work = partial(loop.train, config, name=name, command=command)
    return _train(work, config.data.name if data is None else data, data_dir)


def resume_run(
    run: Run | Folder,
    data: Data | None = None,
    *,
    settings: Sequence[str] = (),
    data_dir: Folder | None = None,
) -> Run:
    """Continue an interrupted run from its newest checkpoint; see `tinysight resume`."""
    run = named_run(run)
    work = partial(loop.resume, run, settings=settings)
    return _train(work, run.config.data.name if data is None else data, data_dir)


def _train(work: Callable[..., Run], data: Data, data_dir: Folder | None) -> Run:
    """Do `work` in every process that torchrun started; draw the curves in the main one."""
    with join_processes() as distributed:
        bar = ProgressBar(quiet=not distributed.is_main)
        try:
            dataset = load_dataset(data, data_dir=data_dir) if distributed.is_main else None
            if dataset is not None and dataset.source_state() == "changed":
                logger.warning(CHANGED, dataset.name)
            distributed.barrier()  # so that one process makes what is not there yet
            dataset = dataset or load_dataset(data, data_dir=data_dir)
            run = work(dataset, distributed=distributed, callback=bar)
        except TimeUp as stop:
            run = stop.run
        if distributed.is_main and run.is_finished:
            draw_curves(run)
        return run


def _full_names(config: Config, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give each short name its section; raise ValueError where two sections have a field of it."""
    named: dict[str, list[str]] = {}
    for section, values in asdict(config).items():
        for name in values if isinstance(values, dict) else ():
            named.setdefault(name, []).append(f"{section}.{name}")
    for name in settings:
        if len(named.get(name, ())) > 1:
            raise ValueError(f"{name} may be {' or '.join(named[name])}; give the full name")
    return {named.get(name, [name])[0]: value for name, value in settings.items()}
