"""Begin a run, or go on with one: folder, lock, machine and data around the loop."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from tinysight import run as runs
from tinysight.config import OPERATIONAL, Config, override, parse_assignments
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime, select_device
from tinysight.train import checkpoint
from tinysight.train.distributed import DistributedContext
from tinysight.train.localizer import caution
from tinysight.train.loop import Outcome, Reporter, train
from tinysight.train.trainer import check


def start(
    run: Config,
    pack: Dataset,
    *,
    distributed: DistributedContext,
    reporter: Reporter,
    name: str | None = None,
    command: str = "",
) -> tuple[Path, Outcome]:
    """Train a new run in a folder of its own, on every process of `distributed`; return the folder
    and how it ended.

    Raises:
        ValueError: the folder is taken, or the run does not fit the data or the machine.
    """
    runtime = distributed.broadcast_object(
        select_device(run.train.device, run.train.precision, local_rank=distributed.local_rank)
    )
    if runtime.device.type == "cuda":
        runtime = select_device(
            run.train.device, "bf16" if runtime.bf16 else "fp32", local_rank=distributed.local_rank
        )
    check(run, pack, distributed)  # whatever does not fit shows before anything is written
    folder: Path = distributed.broadcast_object(
        runs.new_folder(run, name) if distributed.is_main else None
    )
    record = runs.Run(
        folder=folder,
        config=run,
        data_digest=pack.digest,
        machine=_machine(runtime, distributed),
        command=command,
    )
    with _only_one(folder, distributed):
        if distributed.is_main:
            record.write()
        reporter.say(f"{folder}: {run.recipe} on {pack.name}, {runtime.describe()}")
        if text := caution(run.localizer, pack, run.data.train):
            reporter.say(f"warning: {text}")
        return folder, train(
            record, pack, runtime=runtime, distributed=distributed, reporter=reporter
        )


# What may change amid a training: nothing that the order of images or the shape of its state
# follows from.
CHANGEABLE = (
    *(
        "optimizer.lr",
        "optimizer.weight_decay",
        "optimizer.sgd_ratio",
        "train.sizes",
        "train.label_smoothing",
    ),
    *(
        "train.epochs",
        "train.flip_average",
        "train.log_every",
        "train.checkpoint_minutes",
        "train.keep",
    ),
    "data.prefetch",
)


def resume(
    record: runs.Run,
    pack: Dataset,
    *,
    distributed: DistributedContext,
    reporter: Reporter,
    settings: Sequence[str] = (),
) -> Outcome:
    """Go on with the run in `folder` from its newest whole checkpoint.

    Args:
        settings: changes from here on, `section.field=value`; run.json then holds them, and its
            command tells the step.

    Raises:
        ValueError: it is finished, another process works on it, its data have changed since, or
            a setting is not one of CHANGEABLE."""
    folder = record.folder
    began_with = record.command
    changed = _changed(record, settings)  # says what is wrong before anything is touched
    if record.is_finished:
        raise ValueError(
            f"{folder} is finished; `tinysight evaluate {folder}` tells how good it is"
        )
    if pack.digest != record.data_digest:
        raise ValueError(
            f"the data {pack.name} are not those that {folder} began with; prepare those again, or train a new run"
        )
    precision = "bf16" if record.machine["bf16"] else "fp32"
    runtime = select_device(
        record.config.train.device, precision, local_rank=distributed.local_rank
    )
    now = _machine(runtime, distributed)
    now_versions = runs.versions()
    began = {**record.machine, **record.versions}
    differing = [
        f"{key} {began.get(key)} -> {value}"
        for key, value in {**now, **now_versions}.items()
        if key not in ("python", "pillow", "safetensors") and began.get(key) != value
    ]
    if differing:
        reporter.say(
            f"warning: not as it began ({'; '.join(differing)}): the result will be alike, not the same bytes"
        )
    states = checkpoint.saved(record.checkpoints_path)
    begins = f"after {states[-1].name}" if states else "at the start: no state had been saved"
    reporter.say(f"{folder}: going on {begins}, {runtime.describe()}")
    with _only_one(folder, distributed):
        if changed is not record:
            record = changed
            if distributed.is_main and record.command != began_with:
                record.write()
            distributed.barrier()
        return train(
            replace(record, versions=now_versions),
            pack,
            runtime=runtime,
            distributed=distributed,
            reporter=reporter,
        )


def _changed(record: runs.Run, settings: Sequence[str]) -> runs.Run:
    """Return a run's record with some settings changed, and in its command since when."""
    if not settings:
        return record
    changes = parse_assignments(list(settings))
    if fixed := [name for name in changes if name not in (*CHANGEABLE, *OPERATIONAL)]:
        raise ValueError(
            f"{fixed[0]} cannot change amid a training; what can: {', '.join(CHANGEABLE)}; for all else train a new run"
        )
    states = checkpoint.saved(record.checkpoints_path)
    scalars = checkpoint.load(states[-1]).scalars if states else {"step": 0, "epochs_done": 0}
    run = override(record.config, dict(changes))
    if run.train.epochs <= scalars["epochs_done"]:
        raise ValueError(
            f"train.epochs is {run.train.epochs}, but {scalars['epochs_done']} are done; set more"
        )
    if set(changes) <= set(OPERATIONAL):
        return replace(record, config=run)  # for this time only
    words = shlex.join(["tinysight", "resume", record.folder.name, *settings])
    return replace(
        record,
        config=run,
        command=f"{record.command}  # stopped at step {scalars['step']}\n{words}",
    )


def _machine(runtime: Runtime, distributed: DistributedContext) -> dict[str, object]:
    name = (
        torch.cuda.get_device_name(runtime.device)
        if runtime.device.type == "cuda"
        else runtime.device.type
    )
    return {
        "device": name,
        "bf16": runtime.bf16,
        "threads": torch.get_num_threads(),
        "processes": distributed.size,
    }


@contextmanager
def _only_one(folder: Path, distributed: DistributedContext) -> Iterator[None]:
    """Hold the run's lock; raise ValueError on every process when somebody else does."""
    lock = FileLock(folder / ".lock")
    taken = 0
    if distributed.is_main:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            taken = 1
    if distributed.all_reduce_max(taken):
        raise ValueError(f"another process is training {folder}; wait for it, or stop it first")
    try:
        yield
    finally:
        lock.release()
