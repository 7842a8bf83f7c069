"""The state of a training, its one step, and its evaluation on the monitored split.

Batches are functions of their number and the learning rate is a function of the step, so a state
holds weights, averaged weights, optimizer, random state, the running sums of the log and a few
numbers; a restored training takes exactly the steps that an uninterrupted one takes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tinysight.config import Config
from tinysight.data.batches import Batch, Loader, derived_seed
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import Evaluation, Metrics, Stopped, evaluate_model
from tinysight.models.localizer import LocalizerOutput
from tinysight.ops.boxes import area
from tinysight.ops.detection_metrics import Localization, best_threshold
from tinysight.predict.decoding import Decoding
from tinysight.predict.inference import Preprocessing
from tinysight.predict.metadata import ModelMetadata
from tinysight.training import augmentation, checkpoint, losses, optimizers, setup
from tinysight.training.augmentation import Augmented, AugmentParams
from tinysight.training.distributed import DistributedContext
from tinysight.training.ema import EMA
from tinysight.training.graph import GraphedStep, StepKind, StepResult
from tinysight.training.losses import Losses
from tinysight.training.recording import Recorder
from tinysight.training.scaling import warmup_steps
from tinysight.training.schedules import LRSchedule

_WEIGHTS, _RANDOM = 3, 4  # what a random stream is for; 1 and 2 are in data.batches
SIZE_POWER = 1.4  # of the side, by which a step takes longer: 14 layers from 32 to 64 pixels, a CPU


class Trainer:
    """Everything that a training step reads or changes."""

    def __init__(
        self, config: Config, dataset: Dataset, runtime: Runtime, distributed: DistributedContext
    ) -> None:
        self.config, self.dataset = config, dataset
        self.runtime, self.distributed = runtime, distributed
        self.crop = config.crop_side(dataset.image_size)
        self.input_sizes = config.input_sizes(dataset.image_size)
        rows = setup.training_rows(config, dataset, distributed)
        # the true boxes (N, G, 4) of all rows, padded with NaN
        self.gt_boxes = None
        if config.localizer.finds:
            self.gt_boxes = torch.from_numpy(dataset.padded_boxes(range(len(dataset))))
            self.box_side = float(area(self.gt_boxes[torch.from_numpy(rows)]).sqrt().nanmedian())
        self.soft_labels = setup.soft_labels(config, dataset, rows)
        content = b"" if self.soft_labels is None else self.soft_labels.numpy().tobytes()
        self.soft_digest = hashlib.sha256(content).hexdigest() if content else ""
        self.loader = self._create_loader(rows)
        self.total_steps = self.loader.epoch_end(config.train.epochs - 1)

        model = setup.create_model(config, len(dataset.class_names))
        generator = torch.Generator().manual_seed(derived_seed(_WEIGHTS, config.train.seed))
        setup.initialize(model, config, dataset, rows, generator=generator)
        self.model = model.to(runtime.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.forward = self._wrapped(self.model)
        self.optimizer = optimizers.build(self.model, config.optimizer, bf16=runtime.bf16)
        self.ema = EMA(self.model, config.train.ema_decay) if config.train.ema_decay else None
        per_epoch = self.loader.num_rows / self.loader.batch_size
        own: dict[str, Any] = asdict(config.schedule)
        own["warmup"] = warmup_steps(own["warmup"], per_epoch=per_epoch, total=self.total_steps)
        self.lr_schedule = LRSchedule(total=self.total_steps, epoch=per_epoch, **own)
        self.class_weights = self._class_weights(rows)
        self.recorder = Recorder(self.model, config.train.record, every=config.train.record_every)
        self.graphed = self._create_graphed_step()
        self.step_number = self.epochs_done = 0
        self.best_step: int | None = None
        self.best_error: float | None = None
        self.threshold = config.localizer.first_threshold  # of a localizer's boxes
        # sums since the last line of the log: loss, wrong images, images; box, confidence loss
        self.sums = torch.zeros(5 if config.localizer.finds else 3, device=runtime.device)
        self._non_finite = torch.zeros((), dtype=torch.bool, device=runtime.device)
        # for dropout; the loop restores the caller's random state
        torch.manual_seed(derived_seed(_RANDOM, config.train.seed, distributed.rank))

    def _class_weights(self, rows: setup.Rows) -> Tensor | None:
        """Return the weight of each class's images in the loss (K,), 1 on average over images."""
        if not (power := self.config.train.class_balance):
            return None
        labels = torch.from_numpy(self.dataset.labels[rows])
        counts = torch.bincount(labels[labels >= 0], minlength=len(self.dataset.class_names))
        weights = counts.clamp_min(1).double().pow(-power)
        weights *= counts.sum() / (weights * counts).sum()
        return weights.float().to(self.runtime.device)

    def _create_loader(self, rows: setup.Rows) -> Loader[AugmentParams]:
        config, distributed = self.config, self.distributed
        unit = config.augment.group * distributed.size
        size = min(config.train.batch_size, len(rows) // unit * unit)
        own: dict[str, Any] = {"device": self.runtime.device, "boxes": self.gt_boxes}
        if config.localizer.box_classes:
            every = range(len(self.dataset))
            own["box_labels"] = torch.from_numpy(self.dataset.padded_box_labels(every))
        own["soft_labels"] = self.soft_labels
        own |= {"batch_size": size, "shard": distributed.shard(size), "seed": config.train.seed}
        return Loader(self.dataset.images, self.dataset.labels, rows, draw=self._sample, **own)

    def _sample(self, count: int, generator: torch.Generator) -> AugmentParams:
        settings, size = self.config.augment, self.dataset.image_size
        return augmentation.sample(
            count, settings=settings, source_size=size, crop=self.crop, generator=generator
        )

    def _wrapped(self, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes and for compilation, as the config has it."""
        device = self.runtime.device
        if self.distributed.size > 1:
            ids = [device.index] if device.type == "cuda" else None
            model = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
        return torch.compile(model) if self.config.train.compile else model  # type: ignore[return-value]

    def _create_graphed_step(self) -> GraphedStep | None:
        """Create what captures the steps, on one GPU, of a classifier that is not recorded.

        A localizer's loss waits for the device, and gloo for the host.
        """
        config, on_gpu = self.config, self.runtime.device.type == "cuda"
        fixed = not (config.localizer.finds or config.train.record)
        if not (on_gpu and fixed and config.train.cuda_graph and self.distributed.size == 1):
            return None
        return GraphedStep(self._compute, self.model.parameters())

    def load_pretrained(self) -> str:
        """Start from the weights that `model.pretrained` names, if any; return what they give."""
        if not self.config.model.pretrained:
            return ""
        found = setup.load_pretrained(self.model, self.config, self.dataset.class_ids)
        if self.ema is not None:
            self.ema.model.load_state_dict(self.model.state_dict())
        return found

    @property
    def eval_model(self) -> nn.Module:
        """The model that is evaluated and kept: the averaged one where there is one."""
        return self.model if self.ema is None else self.ema.model

    @property
    def monitored_labels(self) -> Tensor:
        """The labels of the monitored split (N,), -1 where there is none."""
        rows = self.dataset.rows(self.config.data.monitor)
        return torch.from_numpy(np.array(self.dataset.labels[rows.start : rows.stop]))

    @property
    def final_size(self) -> int:
        """The pixels that the network sees last; evaluation at another size costs 9 points."""
        return self.input_sizes[-1][1]

    def size_at(self, step: int) -> int:
        """Return the pixels that the network sees at `step`: growing resolution, or the crop."""
        total = self.total_steps
        return next(size for start, size in self.input_sizes[::-1] if start * total <= step)

    def work(self, step: int) -> float:
        """Return what the steps before `step` cost, relative to one another, by their sizes."""
        ends = [start for start, _ in self.input_sizes[1:]] + [1.0]
        return sum(
            math.pow(side, SIZE_POWER)
            * max(0.0, min(step, end * self.total_steps) - start * self.total_steps)
            for (start, side), end in zip(self.input_sizes, ends, strict=True)
        )

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.config.optimizer.lr * self.lr_schedule.at(step)

    def step(self, batch: Batch[AugmentParams]) -> Tensor:
        """Take one step where loss and gradient are finite; return whether they are (a bool).

        A GPU takes the step in any case, so that its host need not wait: `found_non_finite` tells.
        """
        mixing_on = self.step_number < self.config.augment.mix_until * self.total_steps
        kind = StepKind(size=self.size_at(self.step_number), mixing_on=mixing_on)
        if self.graphed is None:
            self.optimizer.zero_grad(set_to_none=True)
            result = self._compute(batch, kind)
        else:
            result = self.graphed(batch, kind)
        if self.runtime.device.type == "cuda":
            self._non_finite |= ~result.finite
        elif not result.finite:
            return result.finite
        optimizers.set_lr(self.optimizer, self.lr_at(self.step_number))
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.step_number)
        self.sums += result.sums
        self.step_number += 1
        return result.finite

    def _compute(self, batch: Batch[AugmentParams], kind: StepKind) -> StepResult:
        """Go forward and backward through a batch; the gradients are the parameters'."""
        inputs, (size, mixing_on) = (batch.images, batch.labels, batch.draws), kind
        augmented = augmentation.apply(*inputs, crop=self.crop, size=size, mixing_on=mixing_on)
        with self.runtime.autocast():
            with self.recorder.watch(self.step_number + 1):
                output = self.forward(augmented.images)
            logits, terms = self._losses(output, batch, augmented, mixing_on=mixing_on)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        finite = torch.isfinite(terms.loss.detach() + nn.utils.get_total_norm(gradients))
        labels = augmented.labels
        wrong, labeled = logits.detach().argmax(dim=1) != labels, labels >= 0
        return StepResult(finite, _sums(terms, wrong & labeled, labeled))

    def _losses(
        self,
        output: Tensor | LocalizerOutput,
        batch: Batch[AugmentParams],
        augmented: Augmented,
        *,
        mixing_on: bool,
    ) -> tuple[Tensor, Losses]:
        """Return the logits (B, K) in a network's output, and the losses."""
        smoothing = self.config.train.label_smoothing
        own: dict[str, Any] = {"label_smoothing": smoothing, "weights": self.class_weights}
        own["soft_labels"] = batch.soft_labels
        if isinstance(output, Tensor):
            labels, targets = batch.labels, augmented.targets
            return output, Losses(losses.classification(output, labels, targets, **own))
        assert batch.boxes is not None
        how: dict[str, Any] = {"crop": self.crop, "mixing_on": mixing_on}
        how["labels"] = batch.box_labels
        boxes = augmentation.apply_to_boxes(batch.boxes, batch.draws, **how)
        own |= {"settings": self.config.localizer, "mixed": augmented.targets}
        return output.logits, losses.localization(output, augmented.labels, boxes, **own)

    def found_non_finite(self) -> bool:
        """Whether a step on a GPU was not finite (this waits for the device)."""
        return bool(self._non_finite)

    def take_sums(self) -> dict[str, float]:
        """Return mean losses and error since the last call, over all processes."""
        shares = self.distributed.all_gather(self.sums.tolist())
        self.sums.zero_()
        loss, wrong, count, *parts = (sum(values) for values in zip(*shares, strict=True))
        if len(self.dataset.class_names) < 2 or not self.config.localizer.classifies:
            wrong = math.nan  # there is no error
        means = [value / count for value in (loss, wrong, *parts)]
        names = ("loss", "top1_error", "box_loss", "confidence_loss")
        return dict(zip(names, means, strict=False))

    def metadata(self, versions: dict[str, str], results: dict[str, Any]) -> ModelMetadata:
        """Describe the weights, for their file."""
        config, dataset = self.config, self.dataset
        localizer: dict[str, Any] = asdict(
            replace(config.localizer, frozen=False, threshold=self.threshold)
        )
        if self.gt_boxes is not None:
            localizer["box_side"] = round(self.box_side, 2)
        return ModelMetadata(
            model=config.model.name,
            options=config.model.options,
            class_names=tuple(dataset.class_names),
            class_ids=tuple(dataset.class_ids),
            image_size=dataset.image_size,
            fit=dataset.fit,
            crop=self.crop,
            input_size=self.final_size,
            flip_average=config.train.flip_average,
            recipe=config.recipe,
            data=dataset.name,
            version=versions.get("tinysight", ""),
            commit=versions.get("commit", ""),
            results=results,
            localizer=localizer if config.localizer.finds else {},
        )

    def evaluate(self, stop: Callable[[], bool]) -> tuple[Metrics, Localization | None]:
        """Evaluate the monitored split, each process its share, and return metrics of all of it.

        Raises Stopped when `stop()` was true in some process.
        """
        split, distributed = self.config.data.monitor, self.distributed
        rows = self.dataset.rows(split)
        share = distributed.shard(len(rows))
        # each process has norm statistics of its own images
        distributed.broadcast(list(self.eval_model.buffers()))

        def check(done: int, total: int) -> None:
            if stop():
                raise Stopped

        evaluation = None
        with suppress(Stopped):
            own = range(rows.start + share.start, rows.start + share.stop)
            evaluation = self._evaluate_rows(own, progress=check)
        shares = distributed.all_gather(evaluation)
        if any(part is None for part in shares):
            raise Stopped
        joined = Evaluation.join(shares)
        joined = replace(joined, classifies=self.config.localizer.classifies)
        found = None if self.gt_boxes is None else joined.localization(self.gt_boxes)
        return joined.metrics, found

    def _evaluate_rows(self, rows: range, **options: Any) -> Evaluation:
        metadata, split = self.metadata({}, {}), self.config.data.monitor
        options |= {"runtime": self.runtime, "decoding": Decoding.of(metadata), "rows": rows}
        way = Preprocessing.of(metadata)
        return evaluate_model(self.eval_model, self.dataset, split, way, **options)

    def choose_threshold(self) -> float | None:
        """Choose the confidence from which a localizer's boxes are accepted; return its F1.

        That is the best on the monitored split. None, and nothing is chosen, where there is no such
        split, or the config names a threshold. In this process alone.
        """
        settings, split = self.config.localizer, self.config.data.monitor
        if self.gt_boxes is None or settings.threshold or split == "none":
            return None
        evaluation = self._evaluate_rows(self.dataset.rows(split))
        assert evaluation.detections is not None
        best, f1 = best_threshold(evaluation.detections, self.gt_boxes[evaluation.rows])
        self.threshold = best if f1 else self.threshold
        return f1

    def stops_early(self) -> bool:
        """Whether the monitored error has not got better for `train.early_stopping` epochs.

        They count from when the network sees its last size: it is evaluated and used at that.
        """
        patience = self.config.train.early_stopping
        if not patience or self.best_step is None:
            return False
        best = self.loader.epoch_of(self.best_step)
        at_last_size = math.ceil(self.input_sizes[-1][0] * self.config.train.epochs)
        return self.loader.epoch_of(self.step_number) - max(best, at_last_size) >= patience

    def state(self, *, log_bytes: int) -> checkpoint.State:
        """Gather everything that the next step depends on; every process must call this."""
        random_states = self.distributed.all_gather(_random_state(self.runtime.device))
        sums = self.distributed.all_gather(self.sums.tolist())
        parts = {
            "model": self.model.state_dict(),
            "optimizer": optimizers.optimizer_tensors(self.optimizer, self.model),
            "ema": {} if self.ema is None else self.ema.model.state_dict(),
        }
        parts |= {f"random|{rank}": states for rank, states in enumerate(random_states)}
        named = ((part, *item) for part, own in parts.items() for item in own.items())
        tensors = {f"{part}|{name}": value for part, name, value in named}
        tensors["sums"] = torch.tensor(sums)
        scalars: dict[str, Any] = {"step": self.step_number, "log_bytes": log_bytes}
        scalars |= {
            name: getattr(self, name) for name in ("epochs_done", "best_step", "best_error")
        }
        scalars |= {"lr_schedule": self.lr_schedule.state(), "soft_labels": self.soft_digest}
        return checkpoint.State(step=self.step_number, tensors=tensors, scalars=scalars)

    def restore(self, state: checkpoint.State) -> None:
        """Take `state()` back, random state last: creating anything may draw from it.

        Raises ValueError where the soft labels are not those of that state.
        """
        if state.scalars.get("soft_labels", "") != self.soft_digest:
            raise ValueError(
                f"{self.config.data.soft_labels} is not what the training began with; put those"
                " soft labels back, or train a new run"
            )
        self.model.load_state_dict(state.part("model"))
        optimizers.restore_optimizer(self.optimizer, self.model, state.part("optimizer"))
        if self.ema is not None:
            self.ema.model.load_state_dict(state.part("ema"))
        scalars = state.scalars
        self.step_number, self.epochs_done = scalars["step"], scalars["epochs_done"]
        self.best_step, self.best_error = scalars["best_step"], scalars["best_error"]
        self.lr_schedule.restore(scalars["lr_schedule"])
        sums, rank, size = state.tensors["sums"], self.distributed.rank, self.distributed.size
        self.sums.copy_(sums[rank] if len(sums) == size else sums.sum(0) / size)
        _restore_random_state(state.part(f"random|{rank}"), self.runtime.device)


def _sums(terms: Losses, wrong: Tensor, labeled: Tensor) -> Tensor:
    """Return loss, wrong images and images of a batch, and of a localizer box and confidence loss.

    The losses are summed over the images, so that means can be taken over batches. Images without
    a label are taken to be wrong as often as the labeled ones.
    """
    count = len(wrong)
    num_wrong = wrong.sum() * count / labeled.sum().clamp_min(1)
    sums = [terms.loss.detach() * count, num_wrong, torch.full_like(num_wrong, count)]
    if terms.box is not None and terms.confidence is not None:
        sums += [terms.box * count, terms.confidence * count]
    return torch.stack(sums)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def _restore_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Restore what there is: nothing for a process that a resumed run has in addition."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
