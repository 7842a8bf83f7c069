"""The training loop: the only one, for every model, every data set, one process or many.

Steps up to an epoch's end, an evaluation, a checkpoint, until all epochs are done; then the
weights. Around that: signals, states that are saved on time and taken up again, and the journal."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from tinysight.data.batches import prefetch
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime, keep_freed_memory
from tinysight.evaluation.evaluate import Evaluation, Metrics, Stopped, evaluate_model
from tinysight.files import write_atomic
from tinysight.ops.detection_metrics import Localization
from tinysight.predict.predictor import Decoding, Preprocessing
from tinysight.predict.weights import ModelMetadata, weights_bytes
from tinysight.run import Run
from tinysight.train import checkpoint
from tinysight.train.distributed import DistributedContext
from tinysight.train.log import RunLogger
from tinysight.train.trainer import Trainer, parts

# What the processes tell each other after a step: nothing (0), that a state is due, a signal's
# number, or this. The largest is the gravest, and all act on it.
_SAVE_DUE, _TIME_UP, _NON_FINITE = 1, 900, 1000


class Interrupted(Exception):  # noqa: N818 (news, not an error)
    """The training was asked to stop, and has saved its state; `signal_number` says by what."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class TimeUp(Exception):  # noqa: N818
    """The training of `run` reached `train.stop_after_minutes`, and has saved its state."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"the minutes of {run.folder} are over; its state is saved")
        self.run = run


class NonFinite(ValueError):  # noqa: N818
    """A loss or gradient was infinite or not a number; the step was not taken."""


class Reporter(Protocol):
    """Who is told how the training goes."""

    def begin(self, *, step: int, total: int) -> None: ...
    def stepped(self, step: int, values: dict[str, Any] | None) -> None: ...
    def say(self, text: str) -> None: ...


class NullReporter:
    """A reporter for programs and tests."""

    def begin(self, *, step: int, total: int) -> None:
        """Ignore the start."""

    def stepped(self, step: int, values: dict[str, Any] | None) -> None:
        """Ignore a step."""

    def say(self, text: str) -> None:
        """Ignore a message."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished training leaves."""

    weights: Path
    step: int
    seconds: float
    monitored: Metrics | None


def train(
    run: Run,
    pack: Dataset,
    *,
    runtime: Runtime,
    distributed: DistributedContext,
    reporter: Reporter,
) -> Outcome:
    """Train `run` in its folder from the newest whole checkpoint there, or from the start, to the
    end.

    Raises:
        Interrupted: SIGTERM or SIGINT came; the step was finished and the state saved.
        NonFinite: loss or gradient was not finite; the last good checkpoint stays.
        ValueError: the run does not fit the data.
        OSError: something could not be written; the last good checkpoint stays.
    """
    if runtime.device.type == "cpu":
        keep_freed_memory()
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        _signals(run.config.train.stop_after_minutes) as asked,
    ):  # the caller's random state stays as it is
        training = Trainer(run.config, pack, runtime, distributed)
        return _Sitting(training, run, reporter, asked).go()


class _Sitting:
    """One process's work on a run, from a start or resumption to the end or the next interruption."""

    def __init__(
        self, training: Trainer, run: Run, reporter: Reporter, asked: Callable[[], int]
    ) -> None:
        self.training, self.run, self.reporter = training, run, reporter
        self.asked = asked
        self.states = run.checkpoints_path
        self.monitored: Metrics | None = None
        self.journal: RunLogger | None = None

    def go(self) -> Outcome:
        training, distributed = self.training, self.training.distributed
        log_bytes = self._resume()
        if distributed.is_main:
            self.journal = RunLogger(self.run, step=training.step_number, log_bytes=log_bytes)
        try:
            self.reporter.begin(step=training.step_number, total=training.total)
            self._steps()
            seconds = self.journal.seconds if self.journal else 0.0
            weights = self._keep_weights(seconds)
        finally:
            if self.journal:
                self.journal.close()
        distributed.barrier()
        return Outcome(
            weights=weights, step=training.step_number, seconds=seconds, monitored=self.monitored
        )

    def _resume(self) -> int:
        training, distributed = self.training, self.training.distributed
        newest: Path | None = None
        if distributed.is_main:
            state, complaints = checkpoint.load_newest(self.states)
            for complaint in complaints:
                self.reporter.say(f"warning: {complaint}; using the state before it")
            newest = None if state is None else self.states / f"step-{state.step:08d}"
        newest = distributed.broadcast_object(newest)
        if newest is None:
            training.begin()
            return 0
        if not distributed.is_main or state is None:
            state = checkpoint.load(newest)
        training.restore(state)
        return int(state.scalars["log_bytes"])

    def _steps(self) -> None:
        training = self.training
        while training.epochs_done < training.run.train.epochs:
            end = training.batches.epoch_end(training.epochs_done)
            if training.step_number < end:
                self._steps_until(end)
            self._end_epoch()

    def _steps_until(self, end: int) -> None:
        training, every = self.training, self.training.run.train.log_every
        on_gpu = training.runtime.device.type == "cuda"
        saved_at = noted_at = time.perf_counter()
        noted_step = training.step_number
        depth = 0 if training.batches.on_device else training.run.data.prefetch
        numbers = range(training.step_number, end)
        with closing(
            prefetch(training.batches.batch, numbers, depth)
        ) as batches:  # ends its thread, whatever comes
            for batch in batches:
                finite = training.step(batch)
                step = training.step_number
                noting = step % every == 0 or step == end
                due = (time.perf_counter() - saved_at) / 60 >= training.run.train.checkpoint_minutes
                news = self.asked() or (_SAVE_DUE if due and step != end else 0)
                if (noting and training.broken()) if on_gpu else not finite:
                    news = _NON_FINITE
                news = training.distributed.all_reduce_max(news)
                if news == _NON_FINITE:
                    self._stop_non_finite()
                if noting:
                    now = time.perf_counter()
                    rate = (step - noted_step) * training.batches.batch_size / (now - noted_at)
                    noted_at, noted_step = now, step
                    self._note("train", self._train_values(), rate)
                else:
                    self.reporter.stepped(step, None)
                if news == _SAVE_DUE:
                    self._save()
                    saved_at = time.perf_counter()
                elif news:
                    self._stop_for(news)

    def _train_values(self) -> dict[str, Any]:
        training = self.training
        step = training.step_number
        return {
            "epoch": round(step * training.batches.batch_size / training.batches.num_rows, 4),
            **training.take_sums(),
            "lr": training.run.optimizer.lr * training.rate.at(step - 1),
            "size": training.size_at(step - 1),
        }

    def _note(self, kind: str, values: dict[str, Any], images_per_s: float | None = None) -> None:
        step = self.training.step_number
        self._note_distributions()
        if self.journal:
            self.journal.write(kind, step, values, images_per_s=images_per_s)
        rate = {} if images_per_s is None else {"images_per_s": images_per_s}
        self.reporter.stepped(step, {"kind": kind, **values, **rate})

    def _note_distributions(self) -> None:
        recorded = self.training.recorder.take()
        if self.journal and recorded:
            self.journal.write_distributions(recorded)

    def _end_epoch(self) -> None:
        training, run = self.training, self.training.run
        if run.data.monitor != "none":
            try:
                metrics, found = self._monitor()
            except Stopped:
                self._stop_for(training.distributed.all_reduce_max(self.asked()))
                raise AssertionError("unreachable") from None
            self.monitored = metrics
            error = (
                metrics.top1_error if found is None else 1 - found.loc50
            )  # a localizer is judged by what it misses
            training.rate.observe(error)
            if training.best_error is None or error < training.best_error:
                training.best_error, training.best_step = error, training.step_number
            training.epochs_done += 1
            values = {
                "epoch": training.epochs_done,
                "loss": metrics.loss,
                "top1_error": metrics.top1_error,
                "top5_error": metrics.top5_error,
            }
            boxes = {} if found is None else {"loc50": found.loc50, "mean_iou": found.mean_iou}
            self._note("epoch", values | boxes)
        else:
            training.epochs_done += 1
        if training.epochs_done in run.snapshot_epochs():
            self._keep_snapshot()
        self._save()

    def _monitor(self) -> tuple[Metrics, Localization | None]:
        """Evaluate the monitored split, each process its share, and return the figures of all of
        it.
        """
        training, distributed = self.training, self.training.distributed
        pack = training.pack
        rows = pack.rows(training.run.data.monitor)
        share = distributed.shard(len(rows))

        def stop_when_asked(done: int, total: int) -> None:
            if self.asked():
                raise Stopped

        model = training.judged_model()
        distributed.broadcast(
            list(model.buffers())
        )  # each process has norm statistics of its own images
        scores = None
        with suppress(Stopped):
            metadata = self._metadata({})
            scores = evaluate_model(
                model,
                pack,
                training.run.data.monitor,
                Preprocessing.of(metadata),
                rows=range(rows.start + share.start, rows.start + share.stop),
                runtime=training.runtime,
                decoding=Decoding.of(metadata),
                progress=stop_when_asked,
            )
        parts = distributed.all_gather(scores)
        if any(part is None for part in parts):
            raise Stopped
        whole = Evaluation.join(parts)
        found = None if training.gt_boxes is None else whole.localization(training.gt_boxes)
        return whole.metrics, found

    def _save(self) -> None:
        training = self.training
        if training.distributed.all_reduce_max(int(training.broken())):
            self._stop_non_finite()
        self._note_distributions()  # a restored training does not record these steps again
        state = training.state(log_bytes=self.journal.sync() if self.journal else 0)
        if training.distributed.is_main:
            checkpoint.save(state, self.states)
            best = training.best_step if training.run.train.keep_weights == "best" else None
            checkpoint.prune(self.states, keep=training.run.train.keep, best=best)
        training.distributed.barrier()

    def _stop_for(self, signal_number: int) -> None:
        self._save()
        if signal_number == _TIME_UP:
            minutes = f"{self.training.run.train.stop_after_minutes:g} minutes"
            self.reporter.say(
                f"stopped after {minutes} at step {self.training.step_number}; state saved"
            )
            raise TimeUp(self.run)
        name = signal.Signals(signal_number).name
        self.reporter.say(f"stopped by {name} at step {self.training.step_number}; state saved")
        raise Interrupted(signal_number)

    def _stop_non_finite(self) -> None:
        training = self.training
        states = checkpoint.saved(self.states)
        lr = training.run.optimizer.lr * training.rate.at(training.step_number)
        where = str(training.step_number + 1)
        if (
            training.runtime.device.type == "cuda"
        ):  # noticed late, when the log was due; no update was made since
            where = f"{max(1, training.step_number + 1 - training.run.train.log_every)} to {training.step_number}"
        kept = (
            f"the last good state is {states[-1].name}" if states else "no state had been saved yet"
        )
        raise NonFinite(
            f"loss or gradient was not finite at step {where} "
            f"(epoch {training.batches.epoch_of(training.step_number) + 1}, lr {lr:.3g}); {kept}; "
            "try a lower optimizer.lr"
        )

    def _keep_weights(self, seconds: float) -> Path:
        """Write the final weights (the last, or the best by the monitored split), complete for use."""
        training, run = self.training, self.training.run
        path = self.run.weights_path
        if not training.distributed.is_main:
            return path
        model = training.judged_model()
        if run.train.keep_weights == "best" and training.best_step is not None:
            try:
                best = checkpoint.load(self.states / f"step-{training.best_step:08d}")
                model.load_state_dict(
                    parts(best.tensors)["model" if training.average is None else "average"]
                )
            except ValueError as error:
                self.reporter.say(
                    f"warning: {error}; keeping the last weights in place of the best"
                )
        results = {
            "steps": training.step_number,
            "epochs": run.train.epochs,
            "best_monitored_error": training.best_error,
        }
        metadata = self._metadata(results)
        summary = {**results, "seconds": round(seconds, 1)}
        write_atomic(self.run.summary_path, json.dumps(summary, indent=1).encode())
        write_atomic(path, weights_bytes(model, metadata))  # last: these make a run a finished one
        return path

    def _keep_snapshot(self) -> None:
        """Write the weights as they are after an epoch, complete for use, to vote with others
        later.
        """
        training = self.training
        if training.distributed.is_main:
            path = self.run.snapshot_path(training.epochs_done)
            path.parent.mkdir(exist_ok=True)
            metadata = self._metadata(
                {"steps": training.step_number, "epochs": training.epochs_done}
            )
            write_atomic(path, weights_bytes(training.judged_model(), metadata))

    def _metadata(self, results: dict[str, Any]) -> ModelMetadata:
        training, run, pack = self.training, self.training.run, self.training.pack
        return ModelMetadata(
            model=run.model.name,
            options=run.model.options,
            class_names=tuple(pack.class_names),
            class_ids=tuple(pack.class_ids),
            image_size=pack.image_size,
            crop=training.crop,
            input_size=training.final_size,
            flip_average=run.train.flip_average,
            recipe=run.recipe,
            data=pack.name,
            version=self.run.versions.get("tinysight", ""),
            commit=self.run.versions.get("commit", ""),
            results=results,
            localizer=asdict(replace(run.localizer, encoder="", frozen=False))
            if run.localizer.finds
            else {},
        )


@contextmanager
def _signals(minutes: float = 0.0) -> Iterator[Callable[[], int]]:
    """Note SIGTERM and SIGINT while the training runs; yield what tells the first one's number, 0
    for none.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            with suppress(
                OSError
            ):  # no print: it fails in the middle of another, and where the terminal is gone
                os.write(2, b"\nfinishing the step and saving; Ctrl-C once more quits at once\n")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    previous = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: the caller keeps its own handling
        pass
    try:
        end = time.monotonic() + 60 * minutes if minutes else float("inf")
        yield lambda: came[0] if came else _TIME_UP if time.monotonic() >= end else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
