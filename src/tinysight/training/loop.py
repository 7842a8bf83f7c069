"""The training loop: the only one, for every model, every dataset, one process or many.

Steps to an epoch's end, an evaluation, a checkpoint, until all epochs are done; then the weights.
Around that: the run's folder and its lock, signals, and resuming from a checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from tinysight import recipes
from tinysight.config import Config
from tinysight.data.batches import chosen_rows, prefetch
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime, prepare_training, select_device
from tinysight.evaluation.evaluate import Metrics, Stopped
from tinysight.files import write_atomic
from tinysight.ops.metrics import majority_error
from tinysight.predict.weights import weights_bytes
from tinysight.run import Run, new_folder, versions
from tinysight.training import checkpoint, health, setup
from tinysight.training.callbacks import Callback
from tinysight.training.distributed import DistributedContext
from tinysight.training.log import RunLogger
from tinysight.training.scaling import lower_rate, scaled
from tinysight.training.trainer import Trainer

logger = logging.getLogger("tinysight")
ALONE = DistributedContext()
SILENT = Callback()
# between checkpoints at the ends of epochs that nothing was measured after
SECONDS_BETWEEN_SAVES = 15.0


class Interrupted(KeyboardInterrupt):
    """The training was asked to stop by a signal, and has saved its state.

    A KeyboardInterrupt, so that `except Exception` in a loop over trainings does not swallow it.
    """

    def __init__(self, signal_number: int, run: Run) -> None:
        super().__init__(
            f"{signal.Signals(signal_number).name}: the state of {run.folder} is saved; continue "
            f"by resume=True, or `tinysight resume {run.folder}`"
        )
        self.signal_number = signal_number


class TimeUp(Exception):  # noqa: N818
    """The training of `run` reached `train.stop_after_minutes`, and has saved its state."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"the minutes of {run.folder} are over; its state is saved")
        self.run = run


class NonFinite(ValueError):  # noqa: N818
    """A loss or gradient was infinite or not a number; no state since then was saved."""


def train(
    config: Config,
    dataset: Dataset,
    *,
    name: str | Path | None = None,
    command: str = "",
    distributed: DistributedContext = ALONE,
    callback: Callback = SILENT,
) -> Run:
    """Train a new run in a folder of its own, on every process of `distributed`.

    Args:
        name: of the run, or its folder; None: recipe and data, with the next free number.
        command: what run.json records as the command.

    Raises ValueError when the folder is taken, or the config does not fit the data or the machine;
    and what `run_loop` raises.
    """
    wanted, rank = config.train, distributed.local_rank
    num_images = len(chosen_rows(dataset, config.data.train, config.data.fraction))
    config = scaled(config, num_images)
    if better := recipes.better_for(config.recipe, num_images, len(dataset.class_names)):
        logger.info("%s has %d training images; %s", dataset.name, num_images, better)
    own = select_device(wanted.device, wanted.precision, local_rank=rank)
    runtime: Runtime = distributed.broadcast_object(own)
    if runtime.device.type == "cuda":  # each process has its own
        precision = "bf16" if runtime.bf16 else "fp32"
        runtime = select_device(wanted.device, precision, local_rank=rank)
    setup.check(config, dataset, distributed)  # before anything is written
    folder = distributed.broadcast_object(new_folder(config, name) if distributed.is_main else None)
    machine = setup.machine(runtime, distributed)
    about: dict[str, Any] = {"data_digest": dataset.digest, "machine": machine}
    run = Run(folder=folder, config=config, command=command, **about)
    with setup.locked(run, distributed):
        if distributed.is_main:
            run.write()
        logger.info("%s: %s on %s, %s", folder, config.recipe, dataset.name, runtime.describe())
        setup.warn_of_what_is_not_learned(config, dataset)
        run_loop(run, dataset, runtime=runtime, distributed=distributed, callback=callback)
    return run


def resume(
    run: Run,
    dataset: Dataset,
    *,
    settings: Sequence[str] = (),
    distributed: DistributedContext = ALONE,
    callback: Callback = SILENT,
) -> Run:
    """Continue a run from its newest intact checkpoint.

    `settings` are changes from here on, `section.field=value`; run.json then has them, and its
    command the step. With more `train.epochs` a finished run goes on; see `Run.set_aside`. Raises
    ValueError when it is finished, another process works on it, its data have changed since, or a
    setting cannot change; and what `run_loop` raises.
    """
    changed = setup.changed_run(run, settings)
    if run.is_finished:
        setup.check_longer(run, changed)
    if dataset.digest != run.data_digest:
        raise ValueError(
            f"the data {dataset.name} are not those that {run.folder} began with; "
            "prepare those again, or train a new run"
        )
    setup.training_rows(changed.config, dataset, distributed)  # raises before anything is written
    wanted, precision = run.config.train.device, "bf16" if run.machine["bf16"] else "fp32"
    runtime = select_device(wanted, precision, local_rank=distributed.local_rank)
    now = versions()
    setup.warn_of_differences(run, {**setup.machine(runtime, distributed), **now})
    states = checkpoint.saved(run.checkpoints_path)
    start = f"after {states[-1].name}" if states else "at the start: no state had been saved"
    logger.info("%s: resuming %s, %s", run.folder, start, runtime.describe())
    with setup.locked(run, distributed):
        if distributed.is_main and changed.command != run.command:
            if run.is_finished:
                logger.info("the model so far is kept in %s", run.set_aside())
            changed.write()
        distributed.barrier()
        # the weights' metadata has the versions that finish the training
        current = replace(changed, versions=now)
        run_loop(current, dataset, runtime=runtime, distributed=distributed, callback=callback)
    return changed


def run_loop(
    run: Run,
    dataset: Dataset,
    *,
    runtime: Runtime,
    distributed: DistributedContext = ALONE,
    callback: Callback = SILENT,
) -> None:
    """Train in the run's folder from the newest intact checkpoint there, or from the start.

    Raises Interrupted (SIGTERM or SIGINT) and TimeUp (`train.stop_after_minutes`) when the step was
    finished and the state saved; NonFinite, and OSError where something cannot be written, with the
    last good checkpoint kept; ValueError when the config does not fit the data.
    """
    minutes = run.config.train.stop_after_minutes
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    prepare_training(runtime.device)
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    # the caller's random state stays as it is
    with torch.random.fork_rng(devices), _signals() as received:
        trainer = Trainer(run.config, dataset, runtime, distributed)
        _TrainingLoop(trainer, run, callback, received, deadline).run_to_end()


@dataclass(frozen=True)
class _Requests:
    """What any of the processes asks for after a step; all act on the same."""

    signal_number: int
    time_is_up: int
    save: int
    non_finite: int


@dataclass
class _TrainingLoop:
    """The loop of one process, until the last epoch or an interruption."""

    trainer: Trainer
    run: Run
    callback: Callback
    received: Callable[[], int]
    deadline: float
    logger: RunLogger | None = None
    has_complained: bool = False
    train_error: float = math.nan  # of the steps of the last line of the log
    saved_at: float = field(default_factory=time.perf_counter)

    def run_to_end(self) -> None:
        trainer, is_main = self.trainer, self.trainer.distributed.is_main
        log_bytes = self._restore()
        if is_main:
            self.logger = RunLogger(self.run, step=trainer.step_number, log_bytes=log_bytes)
        try:
            self.callback.on_start(
                step=trainer.step_number, total=trainer.total_steps, work=trainer.work
            )
            while trainer.epochs_done < trainer.config.train.epochs and not trainer.stops_early():
                end = trainer.loader.epoch_end(trainer.epochs_done)
                if trainer.step_number < end:
                    self._steps_until(end)
                self._end_epoch()
            if self.logger:
                self._write_weights(self.logger.seconds)
        finally:
            self.callback.on_end()
            if self.logger:
                self.logger.close()
        trainer.distributed.barrier()

    def _restore(self) -> int:
        """Restore the newest intact state in every process; return the log's length then."""
        distributed, state = self.trainer.distributed, None
        if distributed.is_main:
            state, complaints = checkpoint.load_newest(self.run.checkpoints_path)
            for complaint in complaints:
                logger.warning("%s; using the state before it", complaint)
        newest = distributed.broadcast_object(None if state is None else state.step)
        if newest is None:
            if (given := self.trainer.load_pretrained()) and distributed.is_main:
                logger.info("%s %s", self.run.config.recipe, given)
            return 0
        if state is None:
            state = checkpoint.load(self.run.checkpoint_path(newest))
        self.trainer.restore(state)
        return int(state.scalars["log_bytes"])

    def _steps_until(self, end: int) -> None:
        trainer, config = self.trainer, self.trainer.config
        on_gpu = trainer.runtime.device.type == "cuda"
        logged_at = time.perf_counter()
        logged_step = trainer.step_number
        depth = 0 if trainer.loader.on_device else config.data.prefetch
        numbers = range(trainer.step_number, end)
        with closing(prefetch(trainer.loader.batch, numbers, depth)) as batches:
            for batch in batches:
                finite = trainer.step(batch)
                step = trainer.step_number
                log_is_due = step % config.train.log_every == 0 or step == end
                minutes = (time.perf_counter() - self.saved_at) / 60
                requests = self._agree(
                    save=minutes >= config.train.checkpoint_minutes and step != end,
                    # a GPU is asked when the log is due: until then no step waits for it
                    non_finite=log_is_due and trainer.found_non_finite() if on_gpu else not finite,
                )
                if requests.non_finite:
                    self._raise_non_finite()
                if log_is_due:
                    now = time.perf_counter()
                    num_images = (step - logged_step) * trainer.loader.batch_size
                    self._log("train", self._train_values(), num_images / (now - logged_at))
                    logged_at, logged_step = now, step
                else:
                    self.callback.on_step(step, None)
                self._stop_if_asked(requests)
                if requests.save:
                    self._save()

    def _agree(self, *, save: bool = False, non_finite: bool = False) -> _Requests:
        time_is_up = time.monotonic() >= self.deadline
        own = (self.received(), int(time_is_up), int(save), int(non_finite))
        return _Requests(*self.trainer.distributed.all_reduce_max(*own))

    def _train_values(self) -> dict[str, Any]:
        trainer, step = self.trainer, self.trainer.step_number
        epoch = round(step * trainer.loader.batch_size / trainer.loader.num_rows, 4)
        own = {"lr": trainer.lr_at(step - 1), "size": trainer.size_at(step - 1)}
        sums = trainer.take_sums()
        self.train_error = sums["top1_error"]
        return {"epoch": epoch, **sums, **own}

    def _log(self, kind: str, values: dict[str, Any], images_per_s: float | None = None) -> None:
        step = self.trainer.step_number
        self._log_distributions()
        if self.logger:
            self.logger.write(kind, step, values, images_per_s=images_per_s)
        speed = {} if images_per_s is None else {"images_per_s": images_per_s}
        self.callback.on_step(step, {"kind": kind, **values, **speed})

    def _log_distributions(self) -> None:
        recorded = self.trainer.recorder.take()
        if self.logger and recorded:
            self.logger.write_distributions(recorded)

    def _end_epoch(self) -> None:
        trainer, config = self.trainer, self.trainer.config
        if config.data.monitor == "none":
            trainer.epochs_done += 1
        else:
            self._evaluate()
        if trainer.epochs_done in config.snapshot_epochs() and trainer.distributed.is_main:
            path = self.run.snapshot_path(trainer.epochs_done)
            path.parent.mkdir(exist_ok=True)
            self._write_model(path, {"steps": trainer.step_number, "epochs": trainer.epochs_done})
        # saving takes longer than an epoch of a hundred images; a measured one may be the best
        due = config.data.monitor != "none" or trainer.epochs_done == config.train.epochs
        due = due or time.perf_counter() - self.saved_at >= SECONDS_BETWEEN_SAVES
        if self._agree(save=due).save:
            self._save()

    def _write_model(self, path: Path, results: dict[str, Any]) -> None:
        metadata = self.trainer.metadata(self.run.versions, results)
        write_atomic(path, weights_bytes(self.trainer.eval_model, metadata))

    def _evaluate(self) -> None:
        trainer = self.trainer
        try:
            # not when time is up: a sitting shorter than an evaluation would not get anywhere
            metrics, found = trainer.evaluate(lambda: bool(self.received()))
        except Stopped:
            self._stop_if_asked(self._agree())
            raise AssertionError("who stopped the evaluation asks to stop") from None
        # a localizer is measured by what it misses
        error = metrics.top1_error if found is None else 1 - found.loc50
        trainer.lr_schedule.observe(error)
        if trainer.best_error is None or error < trainer.best_error:
            trainer.best_error, trainer.best_step = error, trainer.step_number
        trainer.epochs_done += 1
        self._warn_of_poor_health(metrics)
        values: dict[str, Any] = {"epoch": trainer.epochs_done}
        values |= {name: getattr(metrics, name) for name in ("loss", "top1_error", "top5_error")}
        if found is not None:
            values |= {"loc50": found.loc50, "mean_iou": found.mean_iou}
        self._log("epoch", values)

    def _warn_of_poor_health(self, metrics: Metrics) -> None:
        """Say that the training does not learn, of a classifier: once, and at its end."""
        trainer, config = self.trainer, self.trainer.config
        said = self.has_complained and trainer.epochs_done < config.train.epochs
        if said or config.localizer.finds:
            return
        epochs = max(health.MIN_EPOCHS, health.PATIENCE * config.train.epochs)
        text = health.complaint(
            metrics,
            majority_error(trainer.monitored_labels),
            num_classes=len(trainer.dataset.class_names),
            num_images=trainer.loader.num_rows,
            train_error=self.train_error,
            done=trainer.epochs_done / epochs,
            lower=lower_rate(config),
        )
        if text:
            self.has_complained = True
            logger.warning("epoch %d: %s", trainer.epochs_done, text)

    def _save(self) -> None:
        trainer, config = self.trainer, self.trainer.config
        (non_finite,) = trainer.distributed.all_reduce_max(int(trainer.found_non_finite()))
        if non_finite:
            self._raise_non_finite()
        self._log_distributions()  # a restored training does not record these steps again
        state = trainer.state(log_bytes=self.logger.sync() if self.logger else 0)
        if trainer.distributed.is_main:
            checkpoint.save(state, self.run.checkpoints_path)
            best = trainer.best_step if config.train.keep_weights == "best" else None
            checkpoint.prune(self.run.checkpoints_path, keep=config.train.keep, best=best)
        trainer.distributed.barrier()
        self.saved_at = time.perf_counter()

    def _stop_if_asked(self, requests: _Requests) -> None:
        if not (requests.signal_number or requests.time_is_up):
            return
        self._save()
        step = self.trainer.step_number
        saved = f"state saved; it goes on by: tinysight resume {self.run.folder}"
        if requests.signal_number:
            name = signal.Signals(requests.signal_number).name
            logger.info("stopped by %s at step %d; %s", name, step, saved)
            raise Interrupted(requests.signal_number, self.run)
        minutes = self.run.config.train.stop_after_minutes
        saved += " (for as long again; train.stop_after_minutes=0: to the end)"
        logger.info("stopped after %.3g minutes at step %d; %s", minutes, step, saved)
        raise TimeUp(self.run)

    def _raise_non_finite(self) -> None:
        trainer, step = self.trainer, self.trainer.step_number
        states = checkpoint.saved(self.run.checkpoints_path)
        where = str(step + 1)
        if trainer.runtime.device.type == "cuda":  # found when the log was due
            where = f"{max(1, step + 1 - trainer.config.train.log_every)} to {step}"
        kept = f"the last good state is {states[-1].name}" if states else "no state was saved yet"
        what = f"epoch {trainer.loader.epoch_of(step) + 1}, lr {trainer.lr_at(step):.3g}"
        raise NonFinite(
            f"loss or gradient was not finite at step {where} ({what}); {kept}; "
            "try a lower optimizer.lr"
        )

    def _write_weights(self, seconds: float) -> None:
        """Write summary and final weights: the last, or the best on the monitored split."""
        trainer, config = self.trainer, self.trainer.config
        if config.train.keep_weights == "best" and trainer.best_step is not None:
            try:
                best = checkpoint.load(self.run.checkpoint_path(trainer.best_step))
                state = best.part("model" if trainer.ema is None else "ema")
                trainer.eval_model.load_state_dict(state)
            except ValueError as error:
                logger.warning("%s; keeping the last weights in place of the best", error)
        if (f1 := trainer.choose_threshold()) is not None:
            split, accepted = config.data.monitor, "boxes are accepted from a confidence of %.3g on"
            logger.info(f"{accepted}: F1 is %.1f %% on %s", trainer.threshold, 100 * f1, split)
        results: dict[str, Any] = {"steps": trainer.step_number, "epochs": trainer.epochs_done}
        results["best_monitored_error"] = trainer.best_error
        content = {**results, "seconds": round(seconds, 1)}
        if config.data.monitor != "none":
            content["monitored_images"] = len(trainer.monitored_labels)
        write_atomic(self.run.summary_path, json.dumps(content, indent=1).encode())
        self._write_model(self.run.weights_path, results)  # last: with weights a run is finished


@contextmanager
def _signals() -> Iterator[Callable[[], int]]:
    """Catch SIGTERM and SIGINT meanwhile; yield a function that returns the first's number or 0."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            # not print: it may fail within another print, and where the terminal is gone
            with suppress(OSError):
                os.write(2, b"\nfinishing the step and saving; Ctrl-C once more quits at once\n")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    previous = {}
    with suppress(ValueError):  # not the main thread: the caller keeps its own handling
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, receive)
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
