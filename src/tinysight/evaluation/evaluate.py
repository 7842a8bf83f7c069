"""Evaluation of a model on a split; the outputs for each image are kept for later analyses."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.config import Config
from tinysight.data.batches import chosen_rows
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.files import expand, write_atomic
from tinysight.models.localizer import Localizer
from tinysight.ops.boxes import Detections
from tinysight.ops.detection_metrics import Localization, localization, top_box_iou
from tinysight.ops.metrics import (
    expected_calibration_error,
    majority_error,
    topk_correct,
    topk_error,
)
from tinysight.predict.decoding import Decoding
from tinysight.predict.inference import Network, Preprocessing, classify, detect
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.predictor import Predictor
from tinysight.run import Run
from tinysight.text import pluralize

logger = logging.getLogger("tinysight")
Progress = Callable[[int, int], None]  # (done, total) images; what it raises ends the evaluation
NO_LABEL = (
    "no image of {} has a label, so there is no error to measure; "
    "`tinysight submit` writes predictions"
)
NO_CLASS = (
    "{} finds boxes, but did not learn the class of an image, which is needed here; "
    "name a run that did"
)


class Stopped(Exception):  # noqa: N818 (not an error)
    """An evaluation was ended because the training is asked to stop."""


@dataclass(frozen=True)
class Metrics:
    """Metrics of a split: errors as shares with 95 % intervals, loss in nats.

    Intervals are Wilson's, those of a cross-validated error of `error_interval`. There is no top-5
    error of five classes or fewer.
    """

    num_images: int
    loss: float
    top1_error: float
    top1_low: float
    top1_high: float
    top5_error: float | None
    top5_low: float | None
    top5_high: float | None
    calibration_error: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model's outputs for the N images of a split, on the CPU."""

    data: str
    split: str
    logits: Tensor  # float32 (N, K)
    labels: Tensor  # int64 (N,), -1 where there is none
    rows: Tensor  # int64 (N,), of the dataset
    detections: Detections | None = None  # of a localizer: (N, M), in stored pixels
    threshold: float = 0.5  # confidence from which the model accepts boxes
    classifies: bool = True  # whether the logits were trained; a localizer's need not be
    cross_validated: bool = False  # by models of several folds, none of which learned the image

    @property
    def is_labeled(self) -> bool:
        """Whether trained logits meet labels of several classes: there is an error to measure."""
        several = self.classifies and self.logits.shape[1] > 1
        return several and bool((self.labels >= 0).any())

    @cached_property
    def metrics(self) -> Metrics:
        """Metrics over the labeled images.

        When there is no error to measure, a localizer's are NaN; a classifier's are a ValueError.
        """
        labeled = self.labels >= 0
        logits, labels = self.logits[labeled], self.labels[labeled]
        if not self.is_labeled:
            if self.detections is not None:
                nan = math.nan
                return Metrics(0, nan, nan, nan, nan, None, None, None, nan)
            raise ValueError(NO_LABEL.format(self.split))
        if wrong := int((~logits.isfinite()).any(dim=1).sum()):
            found = f"the outputs for {wrong:,} of {len(labels):,} images of {self.split}"
            why = "the training has gone astray; train again with a lower optimizer.lr"
            raise ValueError(f"{found} are not finite: {why}")
        count, loss = len(labels), float(F.cross_entropy(logits.double(), labels))
        confidence, correct = logits.softmax(dim=1).amax(dim=1), topk_correct(logits, labels, 1)
        top5: tuple[float | None, float | None, float | None] = (None, None, None)
        measure = partial(topk_error, logits, labels, cross_validated=self.cross_validated)
        if logits.shape[1] > 5:
            top5 = measure(5)
        calibration_error = expected_calibration_error(confidence, correct)
        return Metrics(count, loss, *measure(1), *top5, calibration_error)

    @property
    def top1_error(self) -> float:
        """The share of labeled images whose most probable class is wrong."""
        return self.metrics.top1_error

    @property
    def majority_error(self) -> float:
        """The error of always predicting the most frequent class."""
        return majority_error(self.labels)

    def localization(self, gt_boxes: Tensor) -> Localization:
        """Measure the most confident boxes against those of all rows of the dataset (N_all, G, 4).

        Raises ValueError when no image of the split has a true box.
        """
        assert self.detections is not None
        return localization(top_box_iou(self.detections, gt_boxes[self.rows]))

    def save(self, path: str | Path) -> None:
        """Write everything into one safetensors file."""
        path = expand(path)
        path.parent.mkdir(exist_ok=True)
        tensors = {"logits": self.logits, "labels": self.labels, "rows": self.rows}
        if self.detections is not None:
            tensors["boxes"] = self.detections.boxes.contiguous()
            tensors["confidence"] = self.detections.confidence.contiguous()
            if self.detections.labels is not None:
                tensors["box_labels"] = self.detections.labels.contiguous()
        names = ("data", "split", "threshold", "classifies", "cross_validated")
        header = json.dumps({name: getattr(self, name) for name in names})
        write_atomic(path, save_tensors(tensors, metadata={"tinysight": header}))

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save` wrote; raise ValueError that names the file when it is damaged."""
        path = expand(path)
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["tinysight"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            own = [tensors.pop(name, None) for name in ("boxes", "confidence", "box_labels")]
            detections = None if own[0] is None or own[1] is None else Detections(*own)
            evaluation = cls(**header, **tensors, detections=detections)
            if fault := _misfit(evaluation):
                raise ValueError(fault)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a file of an evaluation ({error}); `tinysight evaluate` writes it"
            ) from None
        return evaluation

    @classmethod
    def join(cls, parts: Sequence[Evaluation]) -> Evaluation:
        """Join evaluations of consecutive rows; parts of no rows add nothing."""
        parts = [part for part in parts if len(part.rows)] or parts[:1]
        boxes = [part.detections for part in parts if part.detections is not None]
        names = ("logits", "labels", "rows")
        own: dict[str, Any] = {n: torch.cat([getattr(part, n) for part in parts]) for n in names}
        return replace(parts[0], **own, detections=Detections.cat(boxes) if boxes else None)


def _misfit(evaluation: Evaluation) -> str | None:
    logits, labels, detections = evaluation.logits, evaluation.labels, evaluation.detections
    one_each = labels.shape == evaluation.rows.shape == logits.shape[:1]
    if logits.ndim != 2 or not one_each:
        return f"logits {tuple(logits.shape)} for {len(labels)} images"
    if not bool(logits.isfinite().all()):
        return "some logits are not finite"
    if detections is None:
        return None
    boxes, confidence = detections.boxes, detections.confidence
    if len(boxes) != len(labels):
        return f"boxes {tuple(boxes.shape)} for {len(labels)} images"
    return None if bool(boxes[confidence > 0].isfinite().all()) else "some boxes are not finite"


def evaluate_model(
    model: nn.Module,
    dataset: Dataset,
    split: str,
    preprocessing: Preprocessing,
    *,
    runtime: Runtime,
    decoding: Decoding | None = None,
    rows: range | None = None,
    batch_size: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Evaluate a model, in eval mode meanwhile, on a split or consecutive rows of it.

    With `decoding`, a localizer sees uncropped images.
    """

    def compute(images: Tensor) -> tuple[Tensor, Detections | None]:
        if decoding is not None and isinstance(model, Localizer):
            return detect(model, images, preprocessing, decoding, runtime)
        return classify(model, images, preprocessing, runtime), None

    if batch_size is None:  # a GPU needs more images at a time to be busy
        batch_size = 1000 if runtime.device.type == "cuda" else 250
    was_training = model.training
    model.eval()
    try:
        rows = dataset.rows(split) if rows is None else rows
        own = (rows, batch_size, decoding, progress)
        return _evaluate_rows(compute, dataset, split, *own)
    finally:
        model.train(was_training)


def _evaluate_rows(
    compute: Callable[[Tensor], tuple[Tensor, Detections | None]],
    dataset: Dataset,
    split: str,
    rows: range,
    batch_size: int,
    decoding: Decoding | None,
    progress: Progress,
) -> Evaluation:
    logits: list[Tensor] = []
    found: list[Detections] = []
    for start in range(rows.start, rows.stop, batch_size):
        stop = min(start + batch_size, rows.stop)
        output, detections = compute(torch.from_numpy(np.array(dataset.images[start:stop])))
        logits.append(output)
        found += [] if detections is None else [detections]
        progress(stop - rows.start, len(rows))
    output = torch.cat(logits).cpu() if logits else torch.empty(0, 0)
    labels = torch.from_numpy(np.array(dataset.labels[rows.start : rows.stop]))
    boxes = Detections.cat(found).to("cpu") if found else None
    places = torch.arange(rows.start, rows.stop)
    threshold = 0.5 if decoding is None else decoding.threshold
    return Evaluation(dataset.name, split, output, labels, places, boxes, threshold)


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    split: str = "val",
    *,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Evaluate a trained model on a split; nothing is written.

    Raises ValueError when the weights are for other classes or another image size.
    """
    check_data(predictor.metadata, dataset)
    check_side(predictor.metadata, dataset, predictor.engine.max_side)
    if not isinstance(network := predictor.engine, Network):
        own = (dataset.rows(split), 64, predictor.decoding, progress)
        evaluation = _evaluate_rows(partial(_computed, predictor), dataset, split, *own)
    else:
        model, way = network.localizer or network.model, network.preprocessing
        how: dict[str, Any] = {"runtime": network.runtime, "decoding": predictor.decoding}
        evaluation = evaluate_model(model, dataset, split, way, progress=progress, **how)
    return replace(evaluation, classifies=predictor.metadata.classifies)


def _computed(predictor: Predictor, images: Tensor) -> tuple[Tensor, Detections | None]:
    found = predictor.outputs(images.numpy())
    logits = torch.from_numpy(found.logits)
    if found.boxes is None or found.confidence is None:
        return logits, None
    labels = None if found.labels is None else torch.from_numpy(found.labels)
    boxes, confidence = torch.from_numpy(found.boxes), torch.from_numpy(found.confidence)
    return logits, Detections(boxes, confidence, labels)


def default_split(run: Run, dataset: Dataset) -> str:
    """Return val, or without one what a cross-validated run learned from."""
    learned = run.config.data.train
    crossed = "val" not in dataset.splits and run.is_cross_validated(learned)
    return learned if crossed else "val"


def evaluate_run(
    run: Run,
    dataset: Dataset,
    split: str = "val",
    *,
    runtime: Runtime | None = None,
    decoding_changes: dict[str, Any] | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Evaluate a run's final weights; write `run.scores_path(label)` and `evaluation_path(label)`.

    Of a split that a run was cross-validated on, what was stored then is returned.

    Args:
        decoding_changes: of a localizer, `threshold` and `decoding` in place of its own.

    Raises ValueError when the run has no weights, they do not fit the dataset, or there is nothing
    to measure: no image is labeled or, for a localizer, has a box; or as `check_judged`.
    """
    predictor = Predictor(run.folder, runtime=runtime, **decoding_changes or {})
    check_truth(predictor, dataset, split)
    label = run.label(dataset.name, split)
    if run.is_cross_validated(label):
        check_judged(run, dataset)
        return Evaluation.load(run.scores_path(label))
    evaluation = evaluate(predictor, dataset, split, progress=progress)
    evaluation.save(run.scores_path(label))
    metrics = asdict(evaluation.metrics) if evaluation.is_labeled else {}
    content = {"split": split, "data": dataset.name, **metrics}
    write_atomic(run.evaluation_path(label), json.dumps(content, indent=1).encode())
    return evaluation


def check_judged(run: Run, dataset: Dataset) -> None:
    """Raise ValueError where a dataset is not the one that a run was cross-validated on."""
    if dataset.digest != run.data_digest:
        raise ValueError(
            f"{dataset.name} has changed since {run.name} was cross-validated on it, and what was "
            "stored then is not of these images; finetune again"
        )


def check_truth(predictor: Predictor, dataset: Dataset, split: str) -> None:
    """Raise ValueError where nothing can be measured: no label or, of a localizer, true box."""
    rows = dataset.rows(split)
    boxes = predictor.decoding is not None and has_boxes(dataset, split)
    if not boxes and not (dataset.labels[rows] >= 0).any():
        raise ValueError(NO_LABEL.format(split))


def has_boxes(dataset: Dataset, split: str) -> bool:
    """Whether an image of a split has a true box."""
    return bool(np.diff(dataset.box_offsets)[dataset.rows(split)].any())


def submit(
    run: Run,
    path: Path,
    dataset: Dataset,
    *,
    runtime: Runtime | None = None,
    progress: Progress = lambda done, total: None,
) -> int:
    """Write `<file> <class id>` per test image in the dataset's order, and return their number.

    The file is its name, or its path below the split's folder where names are not unique. Raises
    ValueError when the run has no weights or learned no class of an image, or the dataset has other
    classes or no test images.
    """
    predictor = Predictor(run.folder, runtime=runtime)
    if not predictor.metadata.classifies:
        raise ValueError(NO_CLASS.format(run.folder))
    if not len(dataset.rows("test")):
        raise ValueError(f"{dataset.name} has no test images")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}; create it first")
    evaluation = evaluate(predictor, dataset, "test", progress=progress)
    evaluation.save(run.scores_path(run.label(dataset.name, "test")))
    files = [dataset.files[row] for row in evaluation.rows.tolist()]
    ids = [dataset.class_ids[best] for best in evaluation.logits.argmax(dim=1).tolist()]
    lines = [f"{name} {id_}\n" for name, id_ in zip(_short_names(files), ids, strict=True)]
    write_atomic(path, "".join(lines).encode())
    return len(lines)


def _short_names(files: list[str]) -> list[str]:
    names = [PurePosixPath(file).name for file in files]
    if Counter(names).most_common(1)[0][1] == 1:
        return names
    folder = os.path.commonpath(files)
    return [str(PurePosixPath(file).relative_to(folder)) for file in files]


def num_learned(config: Config, learned: Dataset, judged: Dataset, split: str) -> int:
    """Count a split's images that are, by their pixels, among the training images of `config`."""
    rows = chosen_rows(learned, config.data.train, config.data.fraction)
    seen = {digest.tobytes() for digest in learned.digests[rows]}
    part = judged.rows(split)
    return sum(digest.tobytes() in seen for digest in judged.digests[part.start : part.stop])


def check_data(metadata: ModelMetadata, dataset: Dataset) -> None:
    """Raise ValueError unless a dataset has a model's classes, in that order, and image size."""
    if tuple(dataset.class_ids) != metadata.class_ids:
        raise ValueError(
            f"the model knows {pluralize(len(metadata.class_ids), 'class')}, and {dataset.name} "
            f"has {len(dataset.class_ids)} others; use the data it was trained on"
        )
    if dataset.fit != metadata.fit:
        message = "%s was imported with --fit %s, and the model learned from images with --fit %s"
        logger.warning(message, dataset.name, dataset.fit, metadata.fit)
    size = metadata.image_size
    if dataset.image_size < size or (dataset.image_size > size and not metadata.localizer):
        raise ValueError(
            f"the model takes images of {size} pixels, and {dataset.name} has "
            f"{dataset.image_size}; import them at {size} (tinysight data import ... --size {size})"
        )


def check_side(metadata: ModelMetadata, dataset: Dataset, max_side: int) -> None:
    """Raise ValueError where a localizer's images are larger than what computes them takes."""
    side, largest = dataset.image_size, max(metadata.image_size, max_side)
    if side > largest:
        what = f"this file takes images of up to {largest} pixels, and {dataset.name} has {side}"
        ways = f"import them at {metadata.image_size}, or in place of an ONNX file give the run"
        raise ValueError(f"{what}; {ways}")
