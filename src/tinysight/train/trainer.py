"""A training between two steps: model, optimizer, average, rate and batches; a step; its state out
and in.

Loader are functions of their number and the learning rate is a function of the step, so a state
holds weights, average, optimizer, random state, the running sums of the log and a few numbers,
and a restored training takes the very steps that an uninterrupted one takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tinysight import models
from tinysight.config import Config
from tinysight.data.batches import Batch, Loader, chosen_rows, derived_seed
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.models.init import INITIALIZATIONS
from tinysight.models.localizer import Localizer, LocalizerOutput
from tinysight.ops import mixing
from tinysight.train import augmentation, checkpoint, losses, optimizers
from tinysight.train import localizer as localizing
from tinysight.train.augmentation import AugmentParams
from tinysight.train.distributed import DistributedContext
from tinysight.train.ema import EMA
from tinysight.train.losses import Losses
from tinysight.train.optimizers import optimizer_tensors, restore_optimizer, set_lr
from tinysight.train.recording import Recorder, check_layers
from tinysight.train.schedules import LRSchedule

_WEIGHTS, _RANDOM = 3, 4  # what a random stream is for; 1 and 2 are in data.batches


class Trainer:
    """A run in progress: everything that a step reads or changes."""

    def __init__(
        self, run: Config, pack: Dataset, runtime: Runtime, distributed: DistributedContext
    ) -> None:
        self.run, self.pack, self.runtime, self.distributed = run, pack, runtime, distributed
        self.crop = run.augment.crop or pack.image_size
        rows = training_rows(run, pack, distributed)
        unit = (
            2 * distributed.size if run.augment.mixes else distributed.size
        )  # mixing takes images in pairs
        batch_size = min(run.train.batch_size, len(rows) // unit * unit)
        # The true boxes (N, G, 4) of all rows, padded with NaN.
        self.gt_boxes = (
            torch.from_numpy(pack.padded_boxes(range(len(pack)))) if run.localizer.finds else None
        )
        self.batches = Loader(
            pack.images,
            pack.labels,
            rows,
            draw=self._draw,
            batch_size=batch_size,
            seed=run.train.seed,
            shard=distributed.shard(batch_size),
            device=runtime.device,
            boxes=self.gt_boxes,
        )
        self.total = self.batches.epoch_end(run.train.epochs - 1)

        classifier = models.create_model(run.model.name, len(pack.class_names), **run.model.options)
        generator = torch.Generator().manual_seed(derived_seed(_WEIGHTS, run.train.seed))
        INITIALIZATIONS[run.model.init](classifier, generator=generator)
        classifier.normalize.set_statistics(*channel_statistics(pack.images, rows))
        model: nn.Module = classifier
        if run.localizer.finds:
            model = localizing.with_head(classifier, run.localizer, pack, rows, generator=generator)
        model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model.train()
        self.forward: nn.Module = self.model
        if distributed.size > 1:
            ids = [runtime.device.index] if runtime.device.type == "cuda" else None
            self.forward = DistributedDataParallel(
                self.forward, device_ids=ids, gradient_as_bucket_view=True
            )
        if run.train.compile:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]

        self.optimizer = optimizers.build(self.model, run.optimizer, bf16=runtime.bf16)
        self.average = EMA(self.model, run.train.ema_decay) if run.train.ema_decay else None
        self.rate = LRSchedule(
            name=run.schedule.name,
            total=self.total,
            epoch=self.batches.num_rows / self.batches.batch_size,
            warmup=round(run.schedule.warmup * self.batches.num_rows / self.batches.batch_size),
            factor=run.schedule.factor,
            patience=run.schedule.patience,
            cycles=run.schedule.cycles,
        )
        self.recorder = Recorder(self.model, run.train.record, every=run.train.record_every)
        self.step_number = 0
        self.epochs_done = 0
        self.best_step: int | None = None
        self.best_error: float | None = None
        # Loss, wrong images and images since the last line of the log; then the box's and the
        # confidence's loss.
        self.sums = torch.zeros(5 if run.localizer.finds else 3, device=runtime.device)
        torch.manual_seed(
            derived_seed(_RANDOM, run.train.seed, distributed.rank)
        )  # for dropout; `train` restores it

    def _draw(self, count: int, generator: torch.Generator) -> AugmentParams:
        return augmentation.draw(
            count,
            settings=self.run.augment,
            source_size=self.pack.image_size,
            crop=self.crop,
            generator=generator,
        )

    def size_at(self, step: int) -> int:
        """Return the pixels that the network sees at `step`: growing resolution, or the crop."""
        sizes = [pixels for start, pixels in self.run.train.sizes if start * self.total <= step]
        return sizes[-1] if sizes else self.crop

    @property
    def final_size(self) -> int:
        """The pixels that the network sees last; evaluation at another size costs 9 points."""
        return self.run.train.sizes[-1][1] if self.run.train.sizes else self.crop

    def step(self, batch: Batch[AugmentParams]) -> Tensor:
        """Take one step, unless loss or gradient is not finite; return whether both are, as a
        device's bool.
        """
        images, targets = augmentation.apply(
            batch.images,
            batch.labels,
            batch.draws,
            crop=self.crop,
            size=self.size_at(self.step_number),
            mixing_on=self.step_number < self.run.augment.mix_until * self.total,
        )
        with self.runtime.autocast():
            with self.recorder.watch(self.step_number + 1):
                output = self.forward(images)
            logits, terms = self._terms(output, batch, targets)
        loss = terms.loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        finite = torch.isfinite(loss.detach() + nn.utils.get_total_norm(gradients))
        if self.runtime.device.type == "cuda":
            self._skip_unless(
                finite
            )  # the host does not wait: the optimizer looks at the flag on the device
        elif not finite:
            return finite
        set_lr(self.optimizer, self.run.optimizer.lr * self.rate.at(self.step_number))
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, self.step_number)
        wrong = (
            logits.detach().argmax(dim=1) != (batch.labels if targets is None else targets.main)
        ).sum()
        count = len(batch.labels)
        sums = [loss.detach() * count, wrong, torch.full_like(wrong, count)]
        if terms.box is not None and terms.confidence is not None:
            sums += [terms.box * count, terms.confidence * count]
        self.sums += torch.stack(sums)
        self.step_number += 1
        return finite

    def _terms(
        self,
        output: Tensor | LocalizerOutput,
        batch: Batch[AugmentParams],
        targets: mixing.Targets | None,
    ) -> tuple[Tensor, Losses]:
        """Return the logits (B, K) within a network's output, and the loss."""
        smoothing = self.run.train.label_smoothing
        if isinstance(output, Tensor):
            loss = losses.classification(output, batch.labels, targets, label_smoothing=smoothing)
            return output, Losses(loss)
        assert batch.boxes is not None
        gt_boxes, whole = augmentation.apply_to_boxes(batch.boxes, batch.draws, crop=self.crop)
        terms = losses.localization(
            output,
            batch.labels,
            gt_boxes,
            whole,
            settings=self.run.localizer,
            label_smoothing=smoothing,
        )
        return output.logits, terms

    def _skip_unless(self, finite: Tensor) -> None:
        """Make this and all later updates empty once something was not finite; fused optimizers
        know the attribute.
        """
        broken = (~finite).float()
        if (previous := getattr(self.optimizer, "found_inf", None)) is not None:
            broken = torch.maximum(previous, broken)
        self.optimizer.found_inf = broken  # type: ignore[attr-defined]

    def broken(self) -> bool:
        """Whether a non-finite step was met on a GPU (this waits for the device)."""
        flag = getattr(self.optimizer, "found_inf", None)
        return flag is not None and bool(flag)

    def take_sums(self) -> dict[str, float]:
        """Return mean loss and error of the training images since the last call, over all
        processes.
        """
        parts = self.distributed.all_gather(self.sums.tolist())
        self.sums.zero_()
        loss, wrong, count, *found = (sum(values) for values in zip(*parts, strict=True))
        figures = {"loss": loss / count, "top1_error": wrong / count}
        return figures | {
            name: value / count
            for name, value in zip(("box_loss", "confidence_loss"), found, strict=False)
        }

    def begin(self) -> None:
        """Take a new training's starting weights from another run, where `localizer.encoder` names
        one.
        """
        if self.run.localizer.encoder and isinstance(self.model, Localizer):
            weights = localizing.encoder_weights(Path(self.run.localizer.encoder), self.run.model)
            own = self.model.encoder.state_dict()
            fitting = {
                name: value for name, value in weights.items() if value.shape == own[name].shape
            }
            self.model.encoder.load_state_dict(
                own | fitting
            )  # other classes: the last layer begins anew
            if self.average is not None:
                self.average.model.load_state_dict(self.model.state_dict())

    def judged_model(self) -> nn.Module:
        """The model that is evaluated and kept: the average where there is one."""
        return self.model if self.average is None else self.average.model

    def state(self, *, log_bytes: int) -> checkpoint.State:
        """Gather everything that the next step depends on; every process must call this."""
        random_states = self.distributed.all_gather(_random_state(self.runtime.device))
        sums = self.distributed.all_gather(self.sums.tolist())
        tensors = {f"model|{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {
            f"optimizer|{name}": value
            for name, value in optimizer_tensors(self.optimizer, self.model).items()
        }
        if self.average is not None:
            tensors |= {
                f"average|{name}": value for name, value in self.average.model.state_dict().items()
            }
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
        part = parts(state.tensors)
        self.model.load_state_dict(part["model"])
        restore_optimizer(self.optimizer, self.model, part.get("optimizer", {}))
        if self.average is not None:
            self.average.model.load_state_dict(part["average"])
        self.step_number = state.scalars["step"]
        self.epochs_done = state.scalars["epochs_done"]
        self.best_step, self.best_error = state.scalars["best_step"], state.scalars["best_error"]
        self.rate.restore(state.scalars["rate"])
        sums = state.tensors["sums"]
        self.sums.copy_(
            sums[self.distributed.rank]
            if len(sums) == self.distributed.size
            else sums.sum(0) / self.distributed.size
        )
        own = {
            name: value
            for name, value in part["random"].items()
            if name.startswith(f"{self.distributed.rank}|")
        }
        if own:  # a run that goes on with more processes than before has none for the new ones
            _restore_random_state(own, self.runtime.device)


def training_rows(
    run: Config, pack: Dataset, distributed: DistributedContext
) -> npt.NDArray[np.int64]:
    """Return the rows of `pack` that `run` learns from; raise ValueError when it does not fit them
    or the processes.
    """
    if run.augment.crop > pack.image_size:
        raise ValueError(
            f"augment.crop is {run.augment.crop}, but the images of {pack.name} have {pack.image_size} pixels; "
            f"set augment.crop to {pack.image_size} or less"
        )
    if run.augment.mixes and run.train.batch_size % (2 * distributed.size):
        raise ValueError(
            f"train.batch_size {run.train.batch_size} gives each of {distributed.size} processes an odd share or none, and "
            f"mixing takes images in pairs; set a multiple of {2 * distributed.size}"
        )
    if run.train.batch_size % distributed.size:
        raise ValueError(
            f"train.batch_size {run.train.batch_size} cannot be shared evenly by {distributed.size} processes; "
            f"set a multiple of {distributed.size}"
        )
    if run.localizer.finds and run.augment.crop not in (0, pack.image_size):
        raise ValueError(
            f"augment.crop is {run.augment.crop}, but boxes are sought on the whole image; set augment.crop=0"
        )
    monitored = list(pack.rows(run.data.monitor)) if run.data.monitor in pack.splits else []
    if run.data.monitor != "none" and not (pack.labels[monitored] >= 0).any():
        raise ValueError(
            f"{pack.name} has no labeled image in {run.data.monitor}, so there is no error to watch; set "
            "data.monitor=none, with train.keep_weights=last and a schedule other than plateau"
        )
    num_boxes = np.diff(pack.box_offsets)
    if run.localizer.finds and monitored and not num_boxes[monitored].any():
        raise ValueError(
            f"no image of {run.data.monitor} of {pack.name} has a box, so there is nothing to watch; "
            "set data.monitor=none, with train.keep_weights=last and a schedule other than plateau"
        )
    rows = chosen_rows(pack, run.data.train, run.data.fraction)
    if len(rows) < 2 * distributed.size:
        raise ValueError(
            f"{pack.name} has {len(rows)} training images; a training needs at least {2 * distributed.size}"
        )
    if run.localizer.finds and not num_boxes[rows].any():
        raise ValueError(
            f"no training image of {pack.name} has a box, so there is nothing to learn to find; use data with boxes "
            "(tiny-imagenet, shapes, your own by --boxes), or localizer.head=none"
        )
    return rows


def check(run: Config, pack: Dataset, distributed: DistributedContext) -> None:
    """Raise ValueError when `run` cannot be trained on `pack` by these processes; this costs no
    memory or time.
    """
    training_rows(run, pack, distributed)
    with torch.device("meta"):
        classifier = models.create_model(run.model.name, len(pack.class_names), **run.model.options)
        model: nn.Module = classifier
        if run.localizer.finds:
            model = localizing.build(classifier, run.localizer)
    if run.localizer.encoder:
        localizing.encoder_weights(Path(run.localizer.encoder), run.model)
    check_layers(model, run.train.record)


def channel_statistics(images: Any, rows: Any, limit: int = 4000) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (3,) in 0..255 over an even sample of at most `limit` rows of
    images (N, S, S, 3).
    """
    chosen = np.asarray(rows)[:: -(-len(rows) // limit)]
    pixels = np.take(images, chosen, axis=0).reshape(-1, 3)
    counts = np.stack(
        [np.bincount(pixels[:, channel], minlength=256) for channel in range(3)]
    )  # exact: no rounding
    values = np.arange(256)
    mean = (counts * values).sum(axis=1) / len(pixels)
    variance = (counts * values**2).sum(axis=1) / len(pixels) - mean**2
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(
        np.sqrt(variance), dtype=torch.float32
    )


def parts(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
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
