"""Fit a last layer to the features of the best encoder, judge it, and write it as a run.

Source: Chen et al. 2019 (arXiv:1904.04232), for few images a linear layer on fixed features is
hard to beat; Kumar et al. 2022 (arXiv:2202.10054), training on begins best from that layer.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinysight.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import Evaluation
from tinysight.files import write_atomic
from tinysight.finetuning.encoders import Encoder
from tinysight.finetuning.features import Progress, features_of
from tinysight.finetuning.lda import Discriminant, fit_views
from tinysight.finetuning.validation import (
    CrossValidation,
    CurvePoint,
    Forecast,
    Ints,
    crossvalidate,
    forecast,
    learning_curve,
)
from tinysight.models.classifier import Classifier
from tinysight.models.distance_head import DistanceHead
from tinysight.ops.metrics import majority_error, topk_correct
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.weights import weights_bytes
from tinysight.run import Run, new_folder, versions

RECIPE = "finetune"
# of a training of the entire network
NUM_STEPS, MIN_EPOCHS, BATCH_SIZE, LR = 300, 3, 32, 1e-3


@dataclass(frozen=True, eq=False)
class Candidate:
    """An encoder with the features of the images that are learned from."""

    encoder: Encoder
    dataset: Dataset
    features: Tensor  # (N, 2, F)
    labels: Tensor  # (N,)
    judged: CrossValidation | None  # None: one image per class

    @property
    def split(self) -> str:
        return learned_split(self.dataset)

    @property
    def groups(self) -> Ints:
        """A number for each image (N,); identical images have the same."""
        digests = self.dataset.digests[learned_rows(self.dataset)]
        return np.unique(digests, axis=0, return_inverse=True)[1].reshape(-1)


@dataclass(frozen=True, eq=False)
class Finetuned:
    """The run that was written, and what is known of its error."""

    run: Run
    num_images: int
    num_held_out: int  # labeled images of val
    num_classes: int
    errors: dict[str, float]  # cross-validated, by encoder; of several encoders the best is used
    encoder: str
    judged: CrossValidation | None
    baseline: float  # the error of always naming the most frequent class
    most_frequent: str
    curve: tuple[CurvePoint, ...]
    forecast: Forecast | None
    full: Run | None = None  # of the entire network, trained from there
    val_errors: tuple[float, float] | None = None  # then, before and after
    is_better: bool = False  # by more than the noise; else `full` has the weights before


def learned_split(dataset: Dataset) -> str:
    """Name the rows that are learned from: all but val and test, as nothing is chosen by them."""
    return "train+minival" if "minival" in dataset.splits else "train"


def learned_rows(dataset: Dataset) -> Ints:
    """Return the labeled rows that are learned from (N,)."""
    rows = np.array(dataset.rows(learned_split(dataset)), np.int64)
    return rows[dataset.labels[rows] >= 0]


def judge(
    encoder: Encoder, dataset: Dataset, *, home: Path, runtime: Runtime, progress: Progress
) -> Candidate:
    """Compute an encoder's features, and cross-validate a last layer for them.

    Raises ValueError where the dataset has fewer than two classes with images.
    """
    rows = learned_rows(dataset)
    present = np.unique(dataset.labels[rows])
    if len(present) < 2:
        only = f"{len(present)} class with images" if len(present) else "no labeled image"
        raise ValueError(f"{dataset.name} has {only}; a classifier needs at least two classes")
    own: dict[str, Any] = {"home": home, "runtime": runtime, "progress": progress}
    features = features_of(encoder, dataset, rows, **own)
    labels = torch.from_numpy(dataset.labels[rows])
    candidate = Candidate(encoder, dataset, features, labels, None)
    num_classes = len(dataset.class_names)
    judged = crossvalidate(features, labels, candidate.groups, num_classes)
    return replace(candidate, judged=judged)


def finetune(
    candidates: Sequence[Candidate], *, name: str | Path | None = None, command: str = ""
) -> Finetuned:
    """Write the run of the candidate with the lowest cross-validated error.

    Raises ValueError when the run's folder is taken.
    """
    begun = time.monotonic()
    best = min(candidates, key=lambda one: 0.0 if one.judged is None else one.judged.error)
    dataset, labels, judged = best.dataset, best.labels, best.judged
    num_classes = len(dataset.class_names)
    discriminant = fit_views(best.features, labels, num_classes)
    curve: tuple[CurvePoint, ...] = ()
    ahead = None
    if judged is not None:
        discriminant = replace(discriminant, temperature=judged.temperature)
        per_class = len(labels) / num_classes
        own = (best.features, labels, best.groups, num_classes)
        counts = torch.bincount(labels)
        smallest = float(counts[counts > 0].min())
        curve = learning_curve(*own, below=min(per_class, smallest))
        if smallest >= per_class / 2:  # else no class-by-class number describes all images
            curve = (*curve, CurvePoint(per_class, judged.error))
            ahead = forecast(curve, len(labels))
    errors = {one.encoder.name: one.judged.error for one in candidates if one.judged is not None}
    run = _write(
        best,
        discriminant,
        name,
        command,
        {
            "encoder": best.encoder.name,
            "errors": errors,
            "num_images": len(labels),
            "curve": [asdict(point) for point in curve],
            "forecast": ahead and asdict(ahead),
        },
        begun,
    )
    frequent = dataset.class_names[int(torch.bincount(labels).argmax())]
    found = (errors, best.encoder.name, judged, majority_error(labels), frequent, curve, ahead)
    val = dataset.rows("val") if "val" in dataset.splits else ()
    num_held_out = int((dataset.labels[list(val)] >= 0).sum())
    return Finetuned(run, len(labels), num_held_out, num_classes, *found)


def full_config(start: Run, dataset: Dataset, device: str = "auto") -> Config:
    """Return a training of the entire network that begins with a finetuned run's weights.

    The encoder learns a tenth as fast as the head; its batch norms keep their statistics, and
    pictures are changed little: few images would teach it other ones.
    """
    config, count = start.config, len(learned_rows(dataset))
    batch_size = min(BATCH_SIZE, max(2, count // 2))
    epochs = max(MIN_EPOCHS, round(NUM_STEPS * batch_size / count))
    side = config.crop_side(dataset.image_size)
    return replace(
        config,
        recipe=f"{RECIPE}-full",
        augment=replace(config.augment, shift=max(1, side // 16)),
        model=replace(config.model, pretrained=str(start.folder.absolute()), frozen_norms=True),
        optimizer=OptimizerConfig(name="adam", lr=LR, encoder_ratio=0.1, weight_decay=0.0),
        schedule=ScheduleConfig(name="cosine", warmup=epochs / 10),
        train=replace(
            config.train, epochs=epochs, batch_size=batch_size, ema_decay=0.98, device=device
        ),
    )


def is_better(before: Evaluation, after: Evaluation) -> bool:
    """Return whether errors of the same images got fewer by more than a standard error."""
    labeled = before.labels >= 0
    first, second = (
        topk_correct(one.logits[labeled], one.labels[labeled], 1) for one in (before, after)
    )
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    return gained - lost > math.sqrt(gained + lost)


def restore_start(full: Run, start: Run) -> None:
    """Give a training the weights that it began with, and note it in its summary."""
    write_atomic(full.weights_path, start.weights_path.read_bytes())
    summary = (full.summary() or {}) | {"kept": "the weights before, as these were not better"}
    write_atomic(full.summary_path, json.dumps(summary, indent=1).encode())


def _config(best: Candidate) -> Config:
    """Describe the run as a training of no epochs, so that all that takes runs takes it."""
    encoder, size = best.encoder, best.dataset.image_size
    how = encoder.preprocessing(size)
    return Config(
        recipe=RECIPE,
        data=DataConfig(name=best.dataset.name, train=best.split, monitor="none"),
        augment=AugmentConfig(crop=how.crop / size),
        model=ModelConfig(name=encoder.model, options=encoder.options),
        schedule=ScheduleConfig(name="constant"),
        train=TrainConfig(
            epochs=0, batch_size=0, flip_average=True, sizes=((0.0, how.input_size / size),)
        ),
    )


def _write(
    best: Candidate,
    discriminant: Discriminant,
    name: str | Path | None,
    command: str,
    summary: dict[str, Any],
    begun: float,
) -> Run:
    dataset, config = best.dataset, _config(best)
    network = best.encoder.network(len(dataset.class_names))
    assert isinstance(network.head, DistanceHead)
    discriminant.fill(network.head)
    machine = {"device": "cpu", "bf16": False, "threads": torch.get_num_threads(), "processes": 1}
    own: dict[str, Any] = {"data_digest": dataset.digest, "machine": machine, "command": command}
    run = Run(folder=new_folder(config, name), config=config, **own)
    try:
        _fill(run, best, network, summary, begun)
    except BaseException:  # as of a full disk: a run without weights is of no use
        shutil.rmtree(run.folder, ignore_errors=True)
        raise
    return run


def _fill(
    run: Run, best: Candidate, network: Classifier, summary: dict[str, Any], begun: float
) -> None:
    dataset, judged, config = best.dataset, best.judged, run.config
    how = best.encoder.preprocessing(dataset.image_size)
    run.write()
    results: dict[str, Any] = {"encoder": best.encoder.name}
    if judged is not None:
        crossed = _held_out(best, judged)
        results["cross_validation"] = asdict(crossed.metrics)
        crossed.save(run.scores_path(best.split))
        content = {"split": best.split, "data": dataset.name, "cross_validated": True}
        content |= results["cross_validation"]
        write_atomic(run.evaluation_path(best.split), json.dumps(content, indent=1).encode())
    done: dict[str, Any] = {"steps": 0, "epochs": 0, "best_monitored_error": None}
    done |= {"seconds": round(time.monotonic() - begun, 1), **results, RECIPE: summary}
    write_atomic(run.summary_path, json.dumps(done, indent=1).encode())
    now = versions()
    metadata = ModelMetadata(
        model=config.model.name,
        options=config.model.options,
        class_names=dataset.class_names,
        class_ids=dataset.class_ids,
        image_size=dataset.image_size,
        fit=dataset.fit,
        crop=how.crop,
        input_size=how.input_size,
        flip_average=True,
        recipe=RECIPE,
        data=dataset.name,
        version=now["tinysight"],
        commit=now.get("commit", ""),
        results=results,
        none_below=None if judged is None else judged.none_below,
    )
    write_atomic(run.weights_path, weights_bytes(network, metadata))


def _held_out(best: Candidate, judged: CrossValidation) -> Evaluation:
    """Return what models that had not learned from an image make of it; zeros without a label."""
    rows = torch.tensor(list(best.dataset.rows(best.split)))
    labels = torch.from_numpy(np.array(best.dataset.labels))[rows]
    logits = torch.zeros(len(rows), judged.logits.shape[1])
    logits[labels >= 0] = judged.logits
    return Evaluation(best.dataset.name, best.split, logits, labels, rows, cross_validated=True)
