"""What the analyses read of a run: its config, log and dataset, and its evaluation on a split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinysight.analysis.statistics import Bools, Floats, Ints
from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.evaluation.evaluate import Evaluation, Metrics, check_judged
from tinysight.ops.boxes import Detections
from tinysight.run import Run
from tinysight.run import read_run as open_run


@dataclass(frozen=True)
class EvalResults:
    """A model's predictions on the N labeled images of a split with K classes."""

    dataset: Dataset
    split: str
    evaluation: Evaluation  # without detections
    crop: int  # pixels of the center window that the network saw

    @cached_property
    def labels(self) -> Ints:  # (N,)
        return self.evaluation.labels.numpy()

    @cached_property
    def rows(self) -> Ints:  # (N,), of the dataset
        return self.evaluation.rows.numpy()

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float32]:  # (N, K)
        return self.evaluation.logits.softmax(dim=1).numpy()

    @cached_property
    def predicted(self) -> Ints:  # (N,)
        return np.asarray(self.evaluation.logits.argmax(dim=1))

    @cached_property
    def confidence(self) -> Floats:  # (N,), the probability of the prediction
        return np.asarray(self.probabilities.max(axis=1), dtype=np.float64)

    @cached_property
    def correct(self) -> Bools:  # (N,)
        return np.equal(self.predicted, self.labels)

    @cached_property
    def metrics(self) -> Metrics:
        return self.evaluation.metrics

    @property
    def window(self) -> tuple[int, int, int, int]:
        """The half-open window of an image that the network saw."""
        start = (self.dataset.image_size - self.crop) // 2
        return (start, start, start + self.crop, start + self.crop)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.dataset.class_names

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class RunResults:
    """One run as the analyses see it; `results` is None where no error was measured."""

    run: Run
    log: list[dict[str, Any]]
    summary: dict[str, Any] | None  # None before the training has ended
    dataset: Dataset
    learned: Dataset | None  # what it was trained on; None where that is not here
    split: str
    results: EvalResults | None
    detections: Detections | None  # of a localizer, for all rows of the split
    threshold: float  # confidence from which its boxes are accepted

    @property
    def config(self) -> Config:
        return self.run.config

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def scores_path(self) -> Path:
        return self.run.scores_path(self.run.label(self.dataset.name, self.split))


def read_run(
    folder: Path, dataset: Dataset, *, split: str = "val", learned: Dataset | None = None
) -> RunResults:
    """Read a run's folder with the dataset that it was evaluated on.

    Args:
        learned: what it was trained on, where that is another dataset and here.

    Raises ValueError when a file is damaged, the split does not exist, or the evaluation is not of
    it, or of the dataset as it was.
    """
    dataset.rows(split)
    run = open_run(folder)
    path = run.scores_path(run.label(dataset.name, split))
    evaluation = _read_evaluation(run, path, dataset, split) if path.exists() else None
    results = None
    if evaluation is not None and not evaluation.is_labeled and evaluation.detections is None:
        raise ValueError(f"no image in {path} has a label; there is nothing to analyze")
    if evaluation is not None and evaluation.is_labeled:
        kept = evaluation.labels >= 0
        own = {name: getattr(evaluation, name)[kept] for name in ("logits", "labels", "rows")}
        crop = run.config.crop_side(dataset.image_size)
        results = EvalResults(dataset, split, replace(evaluation, detections=None, **own), crop)
    found = (None, 0.5) if evaluation is None else (evaluation.detections, evaluation.threshold)
    known = next((d for d in (dataset, learned) if d and d.digest == run.data_digest), None)
    return RunResults(run, run.log(), run.summary(), dataset, known, split, results, *found)


def _read_evaluation(run: Run, path: Path, dataset: Dataset, split: str) -> Evaluation:
    evaluation = Evaluation.load(path)
    if evaluation.cross_validated:
        check_judged(run, dataset)
    labels, rows = evaluation.labels.numpy(), evaluation.rows.numpy()
    num_classes, own = len(dataset.class_names), dataset.rows(split)
    fault = None
    if evaluation.logits.shape[1] != num_classes:
        fault = f"{evaluation.logits.shape[1]} logits per image in place of {num_classes}"
    elif not np.array_equal(rows, own) or not np.array_equal(dataset.labels[rows], labels):
        fault = f"images or labels are not those of {dataset.name} {split}"
    if fault is not None:
        command = f"tinysight evaluate {path.parent.parent}"
        raise ValueError(f"{path} does not fit ({fault}); compute it again by `{command}`")
    return evaluation
