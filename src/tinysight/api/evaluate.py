"""Evaluate a run or a weights file on a split."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinysight.analysis import pictures
from tinysight.analysis.boxes import evaluate_boxes
from tinysight.analysis.plots import draw_curves
from tinysight.api.data import Data, Folder, load_dataset
from tinysight.api.models import decoding_changes, find_weights, load_model
from tinysight.data.dataset import Dataset
from tinysight.data.load import load_dataset as load_without_bar
from tinysight.device import Runtime, select_device
from tinysight.evaluation import evaluate as evaluations
from tinysight.evaluation.evaluate import Evaluation
from tinysight.files import write_atomic
from tinysight.progress import counting
from tinysight.run import Run, find_run

logger = logging.getLogger("tinysight")


def evaluate(
    model: Run | Folder,
    split: str | None = None,
    *,
    data: Data | None = None,
    threshold: float | None = None,
    decoding: str | None = None,
    device: str = "auto",
    data_dir: Folder | None = None,
) -> Evaluation:
    """Evaluate a run, or a weights file, on a split.

    Of a run it writes the outputs for each image (scores/), evaluation-SPLIT.json, a sheet of
    predictions, of a localizer its box metrics, and the curves. Of a weights file, or of the
    bundled model ("bundled"), nothing is written.

    Args:
        split: "minival" for choices, "val" for reports, several as "train+minival+val"; None: val,
            or without one what a finetuned run was cross-validated on.
        data: another dataset with the same classes; None: the one that it was trained on.
        threshold, decoding, device: as for `load_model`.
    """
    given: dict[str, Any] = {"threshold": threshold, "decoding": decoding, "device": device}
    return evaluate_files(model, split, data=data, data_dir=data_dir, **given).evaluation


@dataclass(frozen=True)
class EvaluationFiles:
    """An evaluation with a localizer's box metrics, and the files that were written, by content."""

    evaluation: Evaluation
    boxes: dict[str, Any] | None
    files: dict[str, Path]


def evaluate_files(
    model: Run | Folder,
    split: str | None = None,
    *,
    data: Data | None = None,
    data_dir: Folder | None = None,
    device: str = "auto",
    **decoding: Any,
) -> EvaluationFiles:
    """Do what `evaluate` does, and return everything that the command prints."""
    source = model.folder if isinstance(model, Run) else find_weights(model)
    if source is not None and source.is_dir():
        run = find_run(source)
        dataset = load_dataset(data or run.config.data.name, data_dir=data_dir)
        named, split = split, split or evaluations.default_split(run, dataset)
        if not run.is_cross_validated(run.label(dataset.name, split)):
            warn_of_training_images(run, dataset, split, data_dir)
        evaluation = evaluate_run(
            run,
            dataset,
            split,
            select_device(device),
            decoding_changes=decoding_changes(**decoding),
        )
        if not named and dataset.digest != run.data_digest:
            _tell_of_other_splits(dataset, split)
        boxes = _box_metrics(evaluation, dataset)
        files = _write_figures(run, dataset, evaluation, boxes)
        return EvaluationFiles(evaluation, boxes, files)
    predictor = load_model(source, device=device, **decoding)
    dataset = load_dataset(data or predictor.metadata.data, data_dir=data_dir)
    named, split = split, split or "val"
    evaluations.check_truth(predictor, dataset, split)
    with counting(f"evaluating {split}") as progress:
        evaluation = evaluations.evaluate(predictor, dataset, split, progress=progress)
    if not named and dataset.name != predictor.metadata.data:
        _tell_of_other_splits(dataset, split)
    return EvaluationFiles(evaluation, _box_metrics(evaluation, dataset), {})


def _tell_of_other_splits(dataset: Dataset, split: str) -> None:
    """Say that a folder, of which no split was named, has more images than are measured."""
    measured = dataset.rows(split)
    if dataset.manifest["source"]["kind"] == "folder" and len(measured) < len(dataset):
        every = "+".join(sorted(dataset.splits, key=dataset.splits.__getitem__))
        text = "%s is measured, %d images of %s; --split %s measures all %d"
        logger.info(text, split, len(measured), dataset.name, every, len(dataset))


def evaluate_run(
    run: Run, dataset: Dataset, split: str, runtime: Runtime, **options: Any
) -> Evaluation:
    """Evaluate a run with a progress bar; see `evaluation.evaluate.evaluate_run`."""
    with counting(f"evaluating {split}") as progress:
        options |= {"runtime": runtime, "progress": progress}
        return evaluations.evaluate_run(run, dataset, split, **options)


def _box_metrics(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any] | None:
    """Measure a localizer's boxes; None for a classifier. Logits count where they were trained."""
    if (detections := evaluation.detections) is None:
        return None
    own: dict[str, Any] = {"logits": evaluation.logits if evaluation.is_labeled else None}
    own["threshold"] = evaluation.threshold
    return evaluate_boxes(dataset, evaluation.split, detections, **own)


def _write_figures(
    run: Run, dataset: Dataset, evaluation: Evaluation, boxes: dict[str, Any] | None
) -> dict[str, Path]:
    """Write what `evaluate` draws; return all files of the evaluation, by content."""
    label, detections = run.label(dataset.name, evaluation.split), evaluation.detections
    crossed = ", cross-validated" if evaluation.cross_validated else ""
    title = f"{run.name} on {dataset.name} {label}{crossed}"
    files = {"outputs for each image": run.scores_path(label)}
    if evaluation.is_labeled:
        files["some predictions"] = run.predictions_path(label)
        own = evaluation.labels >= 0
        rows, logits = evaluation.rows[own], evaluation.logits[own]
        sheet = pictures.predictions_sheet(dataset, rows, logits, title=title)
        pictures.save_figure(sheet, run.predictions_path(label))
    if label == "val" and run.log_path.exists():
        draw_curves(run)
    if boxes is None or detections is None:
        return files
    files["boxes, by class and size"] = run.localization_path(label)
    write_atomic(run.localization_path(label), json.dumps(boxes, indent=1).encode())
    if boxes["num_with_boxes"]:
        files["some boxes"] = run.boxes_path(label)
        threshold, split = boxes["threshold"], evaluation.split
        sheet = pictures.localization_sheet(dataset, split, detections, threshold=threshold)
        pictures.save_figure(sheet, run.boxes_path(label))
    return files


def learned_data(run: Run, data: Dataset, data_dir: Folder | None = None) -> Dataset | None:
    """Return the dataset that a run was trained on, often `data`; None where it is not here."""
    if data.digest == run.data_digest:
        return data
    own = _data_of_its_name(run, data_dir)
    return own if own is not None and own.digest == run.data_digest else None


def _data_of_its_name(run: Run, data_dir: Folder | None) -> Dataset | None:
    """Return what has the name of a run's dataset now, which may have changed since."""
    try:
        return load_without_bar(run.config.data.name, home=data_dir)
    except ValueError:
        return None


def warn_of_training_images(
    run: Run, data: Dataset, split: str, data_dir: Folder | None = None
) -> None:
    """Warn where images of the split are, or may be, among those that the run was trained on."""
    config = run.config
    apart = not set(split.split("+")) & set(config.data.train.split("+"))
    if data.digest == run.data_digest and apart:
        return  # `tinysight data info` reports what a source itself has in two splits
    if (own := _data_of_its_name(run, data_dir)) is None:
        return
    if own.digest != run.data_digest:
        message = "%s has changed since %s was trained, which may have learned images of %s"
        logger.warning(message, own.name, run.name, split)
    elif count := evaluations.num_learned(config, own, data, split):
        known = f"{count:,} of these {len(data.rows(split)):,} images"
        message = "%s was trained on %s: its error is too low; use others"
        logger.warning(message, run.name, known)
