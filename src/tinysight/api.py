"""The public functions: each does what the command of its name does, and returns the result."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tinysight import config as configs
from tinysight import recipes
from tinysight.analysis import pictures
from tinysight.analysis.boxes import evaluate_boxes
from tinysight.analysis.comparison import write_comparison
from tinysight.analysis.plots import draw_curves
from tinysight.analysis.probes import stored_probes
from tinysight.analysis.report import write_report
from tinysight.analysis.results import RunResults
from tinysight.analysis.results import read_run as read_results
from tinysight.config import Config
from tinysight.data.annotations import BoxRules
from tinysight.data.boxed_folder import source_of
from tinysight.data.build import build
from tinysight.data.dataset import Dataset, data_home, is_path
from tinysight.data.load import load_dataset as load_without_bar
from tinysight.device import Runtime, select_device
from tinysight.evaluation import evaluate as evaluations
from tinysight.evaluation.evaluate import Evaluation
from tinysight.files import expand, write_atomic
from tinysight.images import Fit
from tinysight.predict import predictor as predictors
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import WEIGHTS_SUFFIXES
from tinysight.progress import counting
from tinysight.run import Run, find_run, is_run, read_run, run_folder
from tinysight.settings import change
from tinysight.training import loop
from tinysight.training.callbacks import ProgressBar
from tinysight.training.distributed import join_processes
from tinysight.training.loop import TimeUp
from tinysight.training.scaling import scaled_as
from tinysight.training.setup import with_pretrained_network

logger = logging.getLogger("tinysight")
CHANGED = (
    "the source of %s has changed since it was prepared: what is learned from is as it was; to use "
    "the new state prepare it again"
)
Data = Dataset | str | Path
Folder = str | Path


def list_recipes() -> dict[str, str]:
    """Return the names of the recipes, each with a line on what it trains."""
    return {name: (make.__doc__ or "").partition("\n")[0] for name, make in recipes.RECIPES.items()}


def load_dataset(
    data: Data,
    *,
    data_dir: Folder | None = None,
    image_size: int | Literal["auto"] | None = None,
    fit: Fit | None = None,
) -> Dataset:
    """Return a dataset by name or folder; it is made first where its name alone defines it.

    Args:
        data: a name such as "shapes" or "tiny-imagenet", or a folder of class folders; a `Dataset`
            is returned as it is.
        data_dir: where prepared datasets are kept; None: the default.
        image_size, fit: of a folder that is imported; see `data.load.load_dataset`.
    """
    own: dict[str, Any] = {"home": data_dir, "image_size": image_size, "fit": fit}
    with counting(f"preparing {data}") as progress:
        return load_without_bar(data, progress=progress, **own)


def import_dataset(
    folder: Folder,
    name: str,
    *,
    boxes: Folder | None = None,
    image_size: int | Literal["auto"] = 64,
    fit: Fit | None = None,
    unlabeled: str = "error",
    skip_bad_boxes: bool = False,
    boxes_origin: str = "auto",
    skip_unreadable: bool = False,
    replace: bool = False,
    data_dir: Folder | None = None,
) -> Dataset:
    """Prepare your own images under a name, and return the dataset; see `tinysight data import`.

    Args:
        folder: class folders, train/ and val/ above these, or a zip; with `boxes` any images.
        boxes: annotations as CSV, COCO, Pascal VOC, YOLO, LabelMe, CVAT or VIA: a file or folder.
        image_size: pixels per side, or "auto".
        fit: "crop", "pad" or "stretch"; None: "pad" with boxes, else "crop".
        unlabeled, skip_bad_boxes, boxes_origin, skip_unreadable, replace: as the command's options.

    Raises ValueError that names what is wrong with the folder or its annotations.
    """
    rules = BoxRules(unlabeled, skip_bad_boxes, boxes_origin)
    own: dict[str, Any] = {"image_size": image_size, "fit": fit}
    source = source_of(folder, name, boxes=boxes, rules=rules, **own)
    options: dict[str, Any] = {"on_unreadable": "skip" if skip_unreadable else "stop"}
    options |= {"home": data_home() if data_dir is None else expand(data_dir), "replace": replace}
    with counting(f"preparing {name}") as progress:
        return build(source, progress=progress, **options)


def train(
    config: Config | str,
    data: Data | None = None,
    *,
    name: Folder | None = None,
    resume: bool = False,
    data_dir: Folder | None = None,
    command: str = "",
    **settings: Any,
) -> Run:
    """Train a config, or the recipe of a name, and return the run.

    Args:
        config: a `Config` or a recipe's name.
        data: a dataset, its name or folder; None: the one that the config names.
        name: of the run, or its folder. None: recipe and data, with the next free number.
        resume: continue where `name` already holds this run; return it when it is finished.
        data_dir: where prepared datasets are kept; None: the default.
        command: what run.json records as the command.
        settings: fields of the config to change, by short name where that is unique (`epochs=30`,
            `lr=0.05`), or `**{"train.epochs": 30}`.

    Raises:
        ValueError: a setting is unknown or out of range, or does not fit the data.
        Interrupted: Ctrl-C or SIGTERM came; the state was saved, and `resume=True` continues.
    """
    config = recipes.recipe(config) if isinstance(config, str) else config
    config = with_pretrained_network(change(config, _full_names(config, settings)))
    if data is not None:
        if not isinstance(data, Dataset) and is_path(data):
            data = expand(data).absolute()
        wanted = data.name if isinstance(data, Dataset) else str(data)
        config = replace(config, data=replace(config.data, name=wanted))
    if not config.data.name:
        raise ValueError(f"{config.recipe} needs data: give --data (data=...), a name or a folder")
    if resume:
        if name is None:
            raise ValueError("to resume needs the run's name; give --name (name=...), too")
        folder = run_folder(name)
        if (folder / "run.json").is_file():
            run = read_run(folder)
            config = scaled_as(config, run.config)
            if differing := run.mismatch(config):
                raise ValueError(f"{differing}; choose another --name")
            if run.is_finished:
                logger.info("%s is finished", folder)
                return run
            changed = configs.difference(config, run.config)  # of OPERATIONAL fields
            return resume_run(run, data, settings=changed, data_dir=data_dir)

    work = partial(loop.train, config, name=name, command=command)
    return _train(work, config.data.name if data is None else data, data_dir)


def resume_run(
    run: Run | Folder,
    data: Data | None = None,
    *,
    settings: Sequence[str] = (),
    data_dir: Folder | None = None,
) -> Run:
    """Continue an interrupted run from its newest checkpoint; see `tinysight resume`."""
    run = _run(run)
    work = partial(loop.resume, run, settings=settings)
    return _train(work, run.config.data.name if data is None else data, data_dir)


def _train(work: Callable[..., Run], data: Data, data_dir: Folder | None) -> Run:
    """Do `work` in every process that torchrun started; draw the curves in the main one."""
    with join_processes() as distributed:
        bar = ProgressBar(quiet=not distributed.is_main)
        try:
            dataset = load_dataset(data, data_dir=data_dir) if distributed.is_main else None
            if dataset is not None and dataset.source_state() == "changed":
                logger.warning(CHANGED, dataset.name)
            distributed.barrier()  # so that one process makes what is not there yet
            dataset = dataset or load_dataset(data, data_dir=data_dir)
            run = work(dataset, distributed=distributed, callback=bar)
        except TimeUp as stop:
            run = stop.run
        if distributed.is_main and run.is_finished:
            draw_curves(run)
        return run


def _full_names(config: Config, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give each short name its section; raise ValueError where two sections have a field of it."""
    named: dict[str, list[str]] = {}
    for section, values in asdict(config).items():
        for name in values if isinstance(values, dict) else ():
            named.setdefault(name, []).append(f"{section}.{name}")
    for name in settings:
        if len(named.get(name, ())) > 1:
            raise ValueError(f"{name} may be {' or '.join(named[name])}; give the full name")
    return {named.get(name, [name])[0]: value for name, value in settings.items()}


def load_model(
    source: Run | Folder | None = None,
    *,
    device: str = "cpu",
    threshold: float | None = None,
    decoding: str | None = None,
) -> Predictor:
    """Load a trained model: a run or its name, a weights file, or (None) the bundled model.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N"; the CPU suits a few images.
        threshold: of a localizer, the confidence from which a box is accepted; None: its own.
        decoding: of a localizer, "filter" or "stop"; None: its own.
    """
    runtime, changes = select_device(device, "fp32"), _decoding(threshold, decoding)
    return predictors.load_model(find_weights(source), runtime=runtime, **changes)


def find_weights(source: Run | Folder | None) -> Path | None:
    """Return a run's folder or a weights file; None for the bundled model."""
    if source is None:
        return None
    if not isinstance(source, str | Path):
        return _run(source).folder
    path = expand(source)
    if path.is_file() or is_run(path) or path.suffix.lower() in WEIGHTS_SUFFIXES:
        return path
    return None if source == "bundled" else find_run(source).folder


def _decoding(threshold: float | None, decoding: str | None) -> dict[str, Any]:
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold:g}; give a confidence between 0 and 1")
    if decoding not in (None, "filter", "stop"):
        raise ValueError(f"decoding is {decoding!r}; allowed: filter, stop")
    given = {"threshold": threshold, "decoding": decoding}
    return {name: value for name, value in given.items() if value is not None}


def evaluate(
    model: Run | Folder,
    split: str = "val",
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
        split: "minival" for choices, "val" for reports.
        data: another dataset with the same classes; None: the one that it was trained on.
        threshold, decoding, device: as for `load_model`.
    """
    given: dict[str, Any] = {"threshold": threshold, "decoding": decoding, "device": device}
    return evaluate_files(model, split, data=data, data_dir=data_dir, **given).evaluation


@dataclass(frozen=True)
class EvaluationFiles:
    """An evaluation with a localizer's box metrics, and the files that were written, by content."""

    evaluation: Evaluation
    classifies: bool  # whether the logits were trained, and there are labels to compare them with
    boxes: dict[str, Any] | None
    files: dict[str, Path]


def evaluate_files(
    model: Run | Folder,
    split: str = "val",
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
        _warn_of_training_images(run, dataset, split, data_dir)
        evaluation = _evaluate_run(
            run, dataset, split, select_device(device), decoding_changes=_decoding(**decoding)
        )
        localizer = run.config.localizer
        classifies = localizer.class_loss_weight > 0 or not localizer.finds
        classifies &= evaluation.is_labeled
        threshold = decoding.get("threshold") or localizer.threshold
        boxes = _box_metrics(evaluation, dataset, classifies, threshold)
        return EvaluationFiles(
            evaluation, classifies, boxes, _write_figures(run, dataset, evaluation, boxes)
        )
    predictor = load_model(source, device=device, **decoding)
    dataset = load_dataset(data or predictor.metadata.data, data_dir=data_dir)
    with counting(f"evaluating {split}") as progress:
        evaluation = evaluations.evaluate(predictor, dataset, split, progress=progress)
    classifies = predictor.metadata.classifies and evaluation.is_labeled
    accepted = 0.5 if predictor.decoding is None else predictor.decoding.threshold
    boxes = _box_metrics(evaluation, dataset, classifies, accepted)
    return EvaluationFiles(evaluation, classifies, boxes, {})


def _evaluate_run(
    run: Run, dataset: Dataset, split: str, runtime: Runtime, **options: Any
) -> Evaluation:
    with counting(f"evaluating {split}") as progress:
        options |= {"runtime": runtime, "progress": progress}
        return evaluations.evaluate_run(run, dataset, split, **options)


def _box_metrics(
    evaluation: Evaluation, dataset: Dataset, classifies: bool, threshold: float
) -> dict[str, Any] | None:
    """Measure a localizer's boxes; None for a classifier. Logits count where they were trained."""
    detections, logits = evaluation.detections, evaluation.logits if classifies else None
    if detections is None:
        return None
    return evaluate_boxes(dataset, evaluation.split, detections, logits=logits, threshold=threshold)


def _write_figures(
    run: Run, dataset: Dataset, evaluation: Evaluation, boxes: dict[str, Any] | None
) -> dict[str, Path]:
    """Write what `evaluate` draws; return all files of the evaluation, by content."""
    label, detections = run.label(dataset.name, evaluation.split), evaluation.detections
    title = f"{run.name} on {dataset.name} {label}"
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


def _warn_of_training_images(run: Run, data: Dataset, split: str, data_dir: Folder | None) -> None:
    """Warn where images of the split are among those that the run was trained on."""
    config = run.config
    apart = not set(split.split("+")) & set(config.data.train.split("+"))
    if data.digest == run.data_digest and apart:
        return  # `tinysight data info` reports what a source itself has in two splits
    try:
        own = load_without_bar(config.data.name, home=data_dir)
    except ValueError:
        return  # it is not there any more
    same = own.digest == run.data_digest
    if count := same and evaluations.num_learned(config, own, data, split):
        known = f"{count:,} of these {len(data.rows(split)):,} images"
        logger.warning("the run was trained on %s: its error is too low; use others", known)


def report(
    run: Run | Folder,
    split: str = "val",
    *,
    out: Folder | None = None,
    probe: bool = True,
    data: Data | None = None,
    device: str = "auto",
    data_dir: Folder | None = None,
) -> Path:
    """Write a page on a run's errors, and return its path.

    Args:
        out: the folder; None: `report` in the run's.
        probe: evaluate the split first where that has not been done, and run the model for nearest
            neighbors, activation maps and occlusion; their results are kept for the next report.
        data: another dataset with the same classes; None: the run's.
    """
    run = _run(run)
    runtime = select_device(device) if probe else None
    results = _results(run, split, data, data_dir, runtime)
    out = run.report_path if out is None else Path(out)
    if runtime is None or not run.is_finished:
        return write_report(results, out)
    predictor = Predictor(run.folder, runtime=runtime)
    with counting("probing the model") as progress:
        probes = stored_probes(results, predictor, progress=lambda what, a, b: progress(a, b, what))
    return write_report(results, out, probes=probes, predictor=predictor)


def compare(
    runs: Sequence[Run | Folder],
    split: str = "val",
    *,
    out: Folder | None = None,
    probe: bool = True,
    data: Data | None = None,
    device: str = "auto",
    data_dir: Folder | None = None,
) -> Path:
    """Write a page on how runs differ, image by image, and return its path; see `report`."""
    found = [_run(run) for run in runs]
    if len(found) < 2:
        raise ValueError(f"{len(found)} run is given; compare 2 or more")
    runtime = select_device(device) if probe else None
    results = [_results(run, split, data, data_dir, runtime) for run in found]
    return write_comparison(results, found[0].comparison_path if out is None else Path(out))


def _results(
    run: Run, split: str, data: Data | None, data_dir: Folder | None, runtime: Runtime | None
) -> RunResults:
    """Read a run's results; with a runtime, evaluate it first where that has not been done."""
    dataset = load_dataset(data or run.config.data.name, data_dir=data_dir)
    results = read_results(run.folder, dataset, split=split)
    evaluated = results.results is not None or results.detections is not None
    if not evaluated and run.is_finished and runtime is not None:
        logger.info("%s: evaluating %s first", run.folder, split)
        _evaluate_run(run, dataset, split, runtime)
        results = read_results(run.folder, dataset, split=split)
    return results


def _run(run: object) -> Run:
    if not isinstance(run, Run | str | Path):
        kind = type(run).__name__
        raise ValueError(f"this is a {kind}, not a run: give a Run, its name or its folder")
    return run if isinstance(run, Run) else find_run(run)
