"""The training loop: the only one, for every model, every data set, one process or many.

A training is a state that `Training.step` moves on by one batch. Batches are functions of their number, the learning
rate is a function of the step, so a checkpoint holds weights, average, optimiser, random state, the running sums of
the log and a few numbers, and a resumed training takes the very steps that an uninterrupted one takes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from tinysight import models
from tinysight.config import Run
from tinysight.data.batches import Batch, Batches, balanced_subset, derived_seed, read_ahead
from tinysight.data.pack import Pack
from tinysight.deploy.weights import Card, weights_bytes
from tinysight.device import Placement
from tinysight.models.initialisation import INITIALISATIONS
from tinysight.ops import augment
from tinysight.ops.resize import resize
from tinysight.train import checkpoint
from tinysight.train.averaging import Average
from tinysight.train.evaluate import Metrics, Stopped, measure, run_model
from tinysight.train.log import Journal
from tinysight.train.optimisers import optimiser_tensors, restore_optimiser, set_lr, sgd
from tinysight.train.schedules import LearningRate
from tinysight.train.world import World

_WEIGHTS, _RANDOM = 3, 4  # what a random stream is for; 1 and 2 are in data.batches
_NON_FINITE = 1000  # above every signal's number: it is the graver news


class Interrupted(Exception):  # noqa: N818 (news, not an error)
    """The training was asked to stop, and has saved its state; `signal_number` says by what."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class NonFinite(ValueError):  # noqa: N818
    """A loss or gradient was infinite or not a number; the step was not taken."""


class Reporter(Protocol):
    """Who is told how the training goes."""

    def begin(self, *, step: int, total: int) -> None: ...
    def stepped(self, step: int, values: dict[str, Any] | None) -> None: ...
    def say(self, text: str) -> None: ...


class Quiet:
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


class Training:
    """A run in progress: everything that a step reads or changes."""

    def __init__(self, run: Run, pack: Pack, placement: Placement, world: World) -> None:
        self.run, self.pack, self.placement, self.world = run, pack, placement, world
        self.crop = run.augment.crop or pack.image_size
        rows = training_rows(run, pack, world)
        batch_size = min(run.train.batch_size, len(rows) // world.size * world.size)
        self.batches = Batches(
            pack.images,
            pack.labels,
            rows,
            draw=self._draw,
            batch_size=batch_size,
            seed=run.train.seed,
            share=world.share(batch_size),
            device=placement.device,
        )
        self.total = self.batches.epoch_end(run.train.epochs - 1)

        model = models.build(run.model.name, len(pack.class_names), run.model.options)
        generator = torch.Generator().manual_seed(derived_seed(_WEIGHTS, run.train.seed))
        INITIALISATIONS[run.model.initialisation](model, generator=generator)
        model.normalise.set_statistics(*channel_statistics(pack.images, rows))  # type: ignore[operator, union-attr]
        model.to(placement.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model.train()
        self.forward: nn.Module = self.model
        if world.size > 1:
            ids = [placement.device.index] if placement.device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.forward, device_ids=ids, gradient_as_bucket_view=True)
        if run.train.compile:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]

        settings = run.optimiser
        self.optimiser = sgd(
            self.model,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            decay_all=settings.decay_all,
        )
        self.average = Average(self.model, run.train.average_decay) if run.train.average_decay else None
        self.rate = LearningRate(
            name=run.schedule.name,
            total=self.total,
            warmup=round(run.schedule.warmup * self.batches.num_rows / self.batches.batch_size),
            factor=run.schedule.factor,
            patience=run.schedule.patience,
        )
        self.step_number = 0
        self.epochs_done = 0
        self.best_step: int | None = None
        self.best_error: float | None = None
        self.sums = torch.zeros(3, device=placement.device)  # loss, wrong images, images since the last line of the log
        torch.manual_seed(derived_seed(_RANDOM, run.train.seed, world.rank))  # for dropout; `train` restores it

    def _draw(self, count: int, generator: torch.Generator) -> augment.Draws:
        settings = self.run.augment
        return augment.draw(
            count,
            source_size=self.pack.image_size,
            crop=self.crop,
            generator=generator,
            flip=settings.flip,
            shift=settings.shift,
            rotation=settings.rotation,
            contrast=settings.contrast,
            gamma=settings.gamma,
            probability=settings.probability,
        )

    def size_at(self, step: int) -> int:
        """Return the pixels that the network sees at `step`: growing resolution, or the crop."""
        sizes = [pixels for start, pixels in self.run.train.sizes if start * self.total <= step]
        return sizes[-1] if sizes else self.crop

    @property
    def final_size(self) -> int:
        """The pixels that the network sees last; evaluation at another size costs 9 points."""
        return self.run.train.sizes[-1][1] if self.run.train.sizes else self.crop

    def step(self, batch: Batch) -> Tensor:
        """Take one step, unless loss or gradient is not finite; return whether both are, as a device's bool."""
        images = augment.apply(batch.images, batch.draws, crop=self.crop)
        images = resize(images, self.size_at(self.step_number))
        with self.placement.autocast():
            logits = self.forward(images)
            loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.run.train.label_smoothing)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        finite = torch.isfinite(loss.detach() + nn.utils.get_total_norm(gradients))
        if self.placement.device.type == "cuda":
            self._skip_unless(finite)  # the host does not wait: the optimiser looks at the flag on the device
        elif not finite:
            return finite
        set_lr(self.optimiser, self.run.optimiser.lr * self.rate.at(self.step_number))
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.model, self.step_number)
        wrong = (logits.detach().argmax(dim=1) != batch.labels).sum()
        count = len(batch.labels)
        self.sums += torch.stack([loss.detach() * count, wrong, torch.full_like(wrong, count)])
        self.step_number += 1
        return finite

    def _skip_unless(self, finite: Tensor) -> None:
        """Make this and all later updates empty once something was not finite; fused optimisers know the attribute."""
        broken = (~finite).float()
        if (previous := getattr(self.optimiser, "found_inf", None)) is not None:
            broken = torch.maximum(previous, broken)
        self.optimiser.found_inf = broken  # type: ignore[attr-defined]

    def broken(self) -> bool:
        """Whether a non-finite step was met on a GPU (this waits for the device)."""
        flag = getattr(self.optimiser, "found_inf", None)
        return flag is not None and bool(flag)

    def take_sums(self) -> dict[str, float]:
        """Return mean loss and error of the training images since the last call, over all processes."""
        parts = self.world.gather(self.sums.tolist())
        self.sums.zero_()
        loss, wrong, count = (sum(part[i] for part in parts) for i in range(3))
        return {"loss": loss / count, "top1_error": wrong / count}

    def judged_model(self) -> nn.Module:
        """The model that is evaluated and kept: the average where there is one."""
        return self.model if self.average is None else self.average.model

    def state(self, *, log_bytes: int) -> checkpoint.State:
        """Gather everything that the next step depends on; every process must call this."""
        random_states = self.world.gather(_random_state(self.placement.device))
        sums = self.world.gather(self.sums.tolist())
        tensors = {f"model|{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimiser|{name}": value for name, value in optimiser_tensors(self.optimiser, self.model).items()}
        if self.average is not None:
            tensors |= {f"average|{name}": value for name, value in self.average.model.state_dict().items()}
        for rank, states in enumerate(random_states):
            tensors |= {f"random|{rank}|{name}": value for name, value in states.items()}
        tensors["sums"] = torch.tensor(sums)
        scalars = {
            "step": self.step_number,
            "epochs_done": self.epochs_done,
            "best_step": self.best_step,
            "best_error": self.best_error,
            "rate": self.rate.state(),
            "log_bytes": log_bytes,
        }
        return checkpoint.State(step=self.step_number, tensors=tensors, scalars=scalars)

    def restore(self, state: checkpoint.State) -> None:
        """Take `state()` back, random state last: making anything before may draw from it."""
        part = _parts(state.tensors)
        self.model.load_state_dict(part["model"])
        restore_optimiser(self.optimiser, self.model, part.get("optimiser", {}))
        if self.average is not None:
            self.average.model.load_state_dict(part["average"])
        self.step_number = state.scalars["step"]
        self.epochs_done = state.scalars["epochs_done"]
        self.best_step, self.best_error = state.scalars["best_step"], state.scalars["best_error"]
        self.rate.restore(state.scalars["rate"])
        sums = state.tensors["sums"]
        self.sums.copy_(sums[self.world.rank] if len(sums) == self.world.size else sums.sum(0) / self.world.size)
        own = {name: value for name, value in part["random"].items() if name.startswith(f"{self.world.rank}|")}
        if own:  # a run that goes on with more processes than before has none for the new ones
            _restore_random_state(own, self.placement.device)


def training_rows(run: Run, pack: Pack, world: World) -> npt.NDArray[np.int64]:
    """Return the rows of `pack` that `run` learns from; raise ValueError when it does not fit them or the processes."""
    if run.augment.crop > pack.image_size:
        raise ValueError(
            f"augment.crop is {run.augment.crop}, but the images of {pack.name} have {pack.image_size} pixels; "
            f"set augment.crop to {pack.image_size} or less"
        )
    if run.train.batch_size % world.size:
        raise ValueError(
            f"train.batch_size {run.train.batch_size} cannot be shared evenly by {world.size} processes; "
            f"set a multiple of {world.size}"
        )
    if run.data.monitor != "none" and not (pack.labels[list(pack.rows(run.data.monitor))] >= 0).any():
        raise ValueError(
            f"{pack.name} has no labelled image in {run.data.monitor}, so there is no error to watch; set "
            "data.monitor=none, with train.final=last and a schedule other than plateau"
        )
    rows = np.asarray(pack.rows(run.data.train), dtype=np.int64)
    rows = balanced_subset(rows, pack.labels[rows], run.data.fraction)
    if len(rows) < 2 * world.size:
        raise ValueError(f"{pack.name} has {len(rows)} training images; a training needs at least {2 * world.size}")
    return rows


def check(run: Run, pack: Pack, world: World) -> None:
    """Raise ValueError when `run` cannot be trained on `pack` by these processes; this costs no memory or time."""
    training_rows(run, pack, world)
    with torch.device("meta"):
        models.build(run.model.name, len(pack.class_names), run.model.options)


def train(
    run: Run,
    pack: Pack,
    folder: Path,
    *,
    placement: Placement,
    world: World,
    reporter: Reporter,
    versions: dict[str, str],
) -> Outcome:
    """Train `run` in `folder` from the newest whole checkpoint there, or from the start, to the end.

    Raises:
        Interrupted: SIGTERM or SIGINT came; the step was finished and the state saved.
        NonFinite: loss or gradient was not finite; the last good checkpoint stays.
        ValueError: the run does not fit the data.
        OSError: something could not be written; the last good checkpoint stays.
    """
    devices = [placement.device] if placement.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _signals() as asked:  # the caller's random state stays as it is
        training = Training(run, pack, placement, world)
        return _Sitting(training, folder, reporter, asked, versions).go()


class _Sitting:
    """One process's work on a run, from a start or resumption to the end or the next interruption."""

    def __init__(
        self, training: Training, folder: Path, reporter: Reporter, asked: Callable[[], int], versions: dict[str, str]
    ) -> None:
        self.training, self.folder, self.reporter = training, folder, reporter
        self.asked, self.versions = asked, versions
        self.states = folder / "checkpoints"
        self.monitored: Metrics | None = None
        self.journal: Journal | None = None

    def go(self) -> Outcome:
        training, world = self.training, self.training.world
        log_bytes = self._resume()
        if world.is_main:
            self.journal = Journal(self.folder, step=training.step_number, log_bytes=log_bytes)
        try:
            self.reporter.begin(step=training.step_number, total=training.total)
            self._steps()
            seconds = self.journal.seconds if self.journal else 0.0
            weights = self._keep_weights(seconds)
        finally:
            if self.journal:
                self.journal.close()
        world.barrier()
        return Outcome(weights=weights, step=training.step_number, seconds=seconds, monitored=self.monitored)

    def _resume(self) -> int:
        training, world = self.training, self.training.world
        newest: Path | None = None
        if world.is_main:
            state, complaints = checkpoint.load_newest(self.states)
            for complaint in complaints:
                self.reporter.say(f"warning: {complaint}; using the state before it")
            newest = None if state is None else self.states / f"step-{state.step:08d}"
        newest = world.tell(newest)
        if newest is None:
            return 0
        if not world.is_main or state is None:
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
        on_gpu = training.placement.device.type == "cuda"
        saved_at = noted_at = time.perf_counter()
        noted_step = training.step_number
        depth = 0 if training.batches.on_device else training.run.data.prefetch
        numbers = range(training.step_number, end)
        with closing(read_ahead(training.batches.batch, numbers, depth)) as batches:  # ends its thread, whatever comes
            for batch in batches:
                finite = training.step(batch)
                step = training.step_number
                noting = step % every == 0 or step == end
                if on_gpu:
                    news = _NON_FINITE if noting and training.broken() else self.asked()
                else:
                    news = self.asked() if finite else _NON_FINITE
                news = training.world.any(news)
                if news == _NON_FINITE:
                    self._stop_non_finite()
                if noting:
                    now = time.perf_counter()
                    rate = (step - noted_step) * training.batches.batch_size / (now - noted_at)
                    noted_at, noted_step = now, step
                    self._note("train", self._train_values(), rate)
                else:
                    self.reporter.stepped(step, None)
                if news:
                    self._stop_for(news)
                due = (time.perf_counter() - saved_at) / 60 >= training.run.train.checkpoint_minutes
                if training.world.any(int(due)) and step != end:
                    self._save()
                    saved_at = time.perf_counter()

    def _train_values(self) -> dict[str, Any]:
        training = self.training
        step = training.step_number
        return {
            "epoch": round(step * training.batches.batch_size / training.batches.num_rows, 4),
            **training.take_sums(),
            "lr": training.run.optimiser.lr * training.rate.at(step - 1),
            "size": training.size_at(step - 1),
        }

    def _note(self, kind: str, values: dict[str, Any], images_per_s: float | None = None) -> None:
        step = self.training.step_number
        if self.journal:
            self.journal.write(kind, step, values, images_per_s=images_per_s)
        rate = {} if images_per_s is None else {"images_per_s": images_per_s}
        self.reporter.stepped(step, {"kind": kind, **values, **rate})

    def _end_epoch(self) -> None:
        training, run = self.training, self.training.run
        if run.data.monitor != "none":
            try:
                metrics = self._monitor()
            except Stopped:
                self._stop_for(training.world.any(self.asked()))
                raise AssertionError("unreachable") from None
            self.monitored = metrics
            training.rate.observe(metrics.top1_error)
            if training.best_error is None or metrics.top1_error < training.best_error:
                training.best_error, training.best_step = metrics.top1_error, training.step_number
            training.epochs_done += 1
            values = {
                "epoch": training.epochs_done,
                "loss": metrics.loss,
                "top1_error": metrics.top1_error,
                "top5_error": metrics.top5_error,
            }
            self._note("epoch", values)
        else:
            training.epochs_done += 1
        self._save()

    def _monitor(self) -> Metrics:
        """Evaluate the monitored split, each process its share, and return the figures of all of it."""
        training, world = self.training, self.training.world
        pack = training.pack
        rows = pack.rows(training.run.data.monitor)
        share = world.share(len(rows))

        def stop_when_asked(done: int) -> None:
            if self.asked():
                raise Stopped

        model = training.judged_model()
        world.copy_from_main(list(model.buffers()))  # each process has norm statistics of its own images
        scores = None
        with suppress(Stopped):
            scores = run_model(
                model,
                pack.images,
                pack.labels,
                range(rows.start + share.start, rows.start + share.stop),
                crop=training.crop,
                size=training.final_size,
                flip_average=training.run.train.flip_average,
                placement=training.placement,
                each_batch=stop_when_asked,
            )
        parts = world.gather(scores)
        if any(part is None for part in parts):
            raise Stopped
        whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "labels", "rows")}
        return measure(type(parts[0])(**whole))

    def _save(self) -> None:
        training = self.training
        if training.world.any(int(training.broken())):
            self._stop_non_finite()
        state = training.state(log_bytes=self.journal.sync() if self.journal else 0)
        if training.world.is_main:
            checkpoint.save(state, self.states)
            best = training.best_step if training.run.train.final == "best" else None
            checkpoint.prune(self.states, keep=training.run.train.keep, best=best)
        training.world.barrier()

    def _stop_for(self, signal_number: int) -> None:
        self._save()
        name = signal.Signals(signal_number).name
        self.reporter.say(f"stopped by {name} at step {self.training.step_number}; state saved")
        raise Interrupted(signal_number)

    def _stop_non_finite(self) -> None:
        training = self.training
        states = checkpoint.saved(self.states)
        lr = training.run.optimiser.lr * training.rate.at(training.step_number)
        kept = f"the last good state is {states[-1].name}" if states else "no state had been saved yet"
        raise NonFinite(
            f"loss or gradient was not finite at step {training.step_number + 1} "
            f"(epoch {training.batches.epoch_of(training.step_number) + 1}, lr {lr:.3g}); {kept}; "
            "try a lower optimiser.lr"
        )

    def _keep_weights(self, seconds: float) -> Path:
        """Write the final weights (the last, or the best by the monitored split), complete for use."""
        training, run, pack = self.training, self.training.run, self.training.pack
        path = self.folder / "weights.safetensors"
        if not training.world.is_main:
            return path
        model = training.judged_model()
        if run.train.final == "best" and training.best_step is not None:
            try:
                best = checkpoint.load(self.states / f"step-{training.best_step:08d}")
                model.load_state_dict(_parts(best.tensors)["model" if training.average is None else "average"])
            except ValueError as error:
                self.reporter.say(f"warning: {error}; keeping the last weights in place of the best")
        results = {
            "steps": training.step_number,
            "epochs": run.train.epochs,
            "best_monitored_error": training.best_error,
        }
        card = Card(
            model=run.model.name,
            options=run.model.options,
            class_names=tuple(pack.class_names),
            class_ids=tuple(pack.class_ids),
            image_size=pack.image_size,
            crop=training.crop,
            size=training.final_size,
            flip_average=run.train.flip_average,
            recipe=run.recipe,
            data=pack.name,
            version=self.versions.get("tinysight", ""),
            commit=self.versions.get("commit", ""),
            results=results,
        )
        summary = {**results, "seconds": round(seconds, 1)}
        checkpoint.replace_durably(self.folder / "summary.json", json.dumps(summary, indent=1).encode())
        checkpoint.replace_durably(path, weights_bytes(model, card))  # last: these make a run a finished one
        return path


def channel_statistics(images: Any, rows: Any, limit: int = 4000) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (3,) in 0..255 over an even sample of at most `limit` rows of images (N, S, S, 3)."""
    chosen = np.asarray(rows)[:: -(-len(rows) // limit)]
    pixels = np.take(images, chosen, axis=0).reshape(-1, 3)
    counts = np.stack([np.bincount(pixels[:, channel], minlength=256) for channel in range(3)])  # exact: no rounding
    values = np.arange(256)
    mean = (counts * values).sum(axis=1) / len(pixels)
    variance = (counts * values**2).sum(axis=1) / len(pixels) - mean**2
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(np.sqrt(variance), dtype=torch.float32)


def _parts(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        part, _, name = path.partition("|")
        parts.setdefault(part, {})[name] = value
    return parts


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    for path, value in states.items():
        kind = path.partition("|")[2]
        if kind == "cpu":
            torch.set_rng_state(value)
        elif device.type == "cuda":
            torch.cuda.set_rng_state(value, device)


@contextmanager
def _signals() -> Iterator[Callable[[], int]]:
    """Note SIGTERM and SIGINT while the training runs; yield what tells the first one's number, 0 for none."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            with suppress(OSError):  # no print: it fails in the middle of another, and where the terminal is gone
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
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
