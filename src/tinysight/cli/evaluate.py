"""The commands that measure a finished run, and hand it on with what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinysight.cli.arguments import Decoding, Device, Home, RunName, Threshold
from tinysight.cli.data import load
from tinysight.cli.predict import decoding_changes, model_named
from tinysight.cli.progress import counting

if TYPE_CHECKING:
    from tinysight.data.dataset import Dataset
    from tinysight.evaluation.evaluate import Evaluation, Metrics
    from tinysight.run import Run


def evaluate(
    run: RunName,
    split: Annotated[str, typer.Option(help="minival (for choices) or val (for reports).")] = "val",
    data: Annotated[
        str | None,
        typer.Option(help="Another pack with the same classes.", show_default="the run's"),
    ] = None,
    threshold: Threshold = None,
    decoding: Decoding = None,
    device: Device = "auto",
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a finished run: errors with 95 % intervals, loss, calibration; keep every image's
    scores and draw some.

    Of a weights file, or of the model that comes with tinysight (`bundled`), the figures are
    printed and nothing is written.

    \b
    Examples:
      tinysight evaluate quickstart-shapes
      tinysight evaluate runs/pets --split minival --json
      tinysight evaluate bundled --data tiny-imagenet
    """
    from tinysight import run as runs
    from tinysight.analysis.pictures import predictions_sheet, save_figure
    from tinysight.analysis.plots import draw_curves
    from tinysight.device import select_device
    from tinysight.evaluation.evaluate import evaluate_run

    changes = decoding_changes(threshold, decoding)
    if (source := model_named(run)).is_file():
        _evaluate_weights(source, split, data, changes, device=device, home=home, as_json=as_json)
        return
    found = runs.find_run(run)
    pack = load(data or found.config.data.name, home)
    _warn_of_learned(found, pack, split, home)
    with counting(f"scoring {split}") as progress:
        evaluation = evaluate_run(
            found,
            pack,
            split,
            runtime=select_device(device),
            decoding_changes=changes,
            progress=progress,
        )
    label = found.label(pack.name, split)
    if label == "val" and found.log_path.exists():
        draw_curves(found)
    title = f"{found.name} on {pack.name} {label}"
    sheet = predictions_sheet(pack, evaluation.rows, evaluation.logits, title=title)
    save_figure(sheet, found.predictions_path(label))
    settings = found.config.localizer
    named = settings.class_loss_weight > 0 or not settings.finds  # else the logits were not trained
    boxes = _box_figures(
        pack, split, evaluation, named, changes.get("threshold", settings.threshold)
    )
    if boxes is not None:
        _keep_boxes(found, boxes, pack, split, label, evaluation)
    _print_evaluation(
        evaluation.metrics if named else None, boxes, pack.name, split, as_json=as_json
    )
    if as_json:
        return
    if boxes is not None:
        print(f"boxes, by class and size: {found.localization_path(label)}")
        print(f"some of them drawn:       {found.boxes_path(label)}")
    print(f"every image's scores: {found.scores_path(label)}")
    print(f"some predictions:     {found.predictions_path(label)}")


def export(
    run: RunName,
    out: Annotated[Path, typer.Option(help="The file to write; one that is there is replaced.")],
    half: Annotated[
        bool, typer.Option("--half", help="Store matrices and kernels as float16.")
    ] = False,
    device: Device = "auto",
    home: Home = None,
) -> None:
    """Make one weights file of an evaluated run to hand on, with its error on val on its metadata.

    The file is measured on val as it was written, computed in float32 as `tinysight predict`
    computes.

    \b
    Examples:
      tinysight export quickstart-shapes --half --out shapes.safetensors
      tinysight predict shapes.safetensors examples/images/*.png
    """
    from tinysight import run as runs
    from tinysight.device import select_device
    from tinysight.evaluation.export import export as export_run

    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent}; make it first")
    if out.suffix != ".safetensors":
        raise ValueError(f"--out is {out}; end it in .safetensors")
    found = runs.find_run(run)
    pack = load(found.config.data.name, home)
    with counting("scoring val") as progress:
        made = export_run(
            found, out, pack, runtime=select_device(device, "fp32"), half=half, progress=progress
        )
    _print_metrics(made.val.metrics, pack.name, "val")
    if made.localization is not None:
        print(
            f"  boxes found         {100 * made.localization.loc50:5.2f} %, mean IoU {made.localization.mean_iou:.4f}"
        )
    print(f"  the run's own      {made.run_top1_error:6.2%} top-1 error")
    print(f"{made.num_bytes / 1e6:.2f} MB in {made.path}")


def _box_figures(
    pack: Dataset, split: str, evaluation: Evaluation, named: bool, threshold: float
) -> dict[str, Any] | None:
    """Measure a localizer's boxes; None for a classifier. Logits that were not trained enter no
    figure.
    """
    from tinysight.analysis.boxes import evaluate_boxes

    if evaluation.detections is None:
        return None
    return evaluate_boxes(
        pack,
        split,
        evaluation.detections,
        logits=evaluation.logits if named else None,
        threshold=threshold,
    )


def _keep_boxes(
    run: Run, figures: dict[str, Any], pack: Dataset, split: str, label: str, evaluation: Evaluation
) -> None:
    """Write the figures as JSON, and a sheet of images with their boxes (Wu et al. 2017, Fig. 15)."""
    from tinysight.analysis.pictures import localization_sheet, save_figure
    from tinysight.files import write_atomic

    assert evaluation.detections is not None
    write_atomic(run.localization_path(label), json.dumps(figures, indent=1).encode())
    if figures["num_with_boxes"]:
        sheet = localization_sheet(
            pack, split, evaluation.detections, threshold=figures["threshold"]
        )
        save_figure(sheet, run.boxes_path(label))


def _print_evaluation(
    metrics: Metrics | None, boxes: dict[str, Any] | None, data: str, split: str, *, as_json: bool
) -> None:
    from dataclasses import asdict

    from tinysight.analysis.boxes import boxes_table

    if as_json:
        named = {} if metrics is None else asdict(metrics)
        print(json.dumps(named | ({} if boxes is None else {"localization": boxes}), indent=1))
        return
    if metrics is not None:
        _print_metrics(metrics, data, split)
    if boxes is not None:
        print(boxes_table(boxes))


def _evaluate_weights(
    source: Path,
    split: str,
    data: str | None,
    changes: dict[str, Any],
    *,
    device: str,
    home: Path | None,
    as_json: bool,
) -> None:
    from tinysight.device import select_device
    from tinysight.evaluation.evaluate import check_data
    from tinysight.evaluation.evaluate import evaluate as evaluate_split
    from tinysight.predict.predictor import Predictor

    predictor = Predictor(
        source, runtime=select_device(device, "fp32"), **changes
    )  # as `predict` computes
    pack = load(data or predictor.metadata.data, home)
    check_data(predictor.metadata, pack)
    with counting(f"scoring {split}") as progress:
        evaluation = evaluate_split(predictor, pack, split, progress=progress)
    named, decoding = predictor.metadata.classifies, predictor.decoding
    boxes = _box_figures(
        pack, split, evaluation, named, 0.5 if decoding is None else decoding.threshold
    )
    _print_evaluation(
        evaluation.metrics if named else None, boxes, pack.name, split, as_json=as_json
    )


def _warn_of_learned(run: Run, pack: Dataset, split: str, home: Path | None) -> None:
    from tinysight.evaluation.evaluate import num_learned

    config = run.config
    splits_apart = not set(split.split("+")) & set(config.data.train.split("+"))
    if pack.digest == run.data_digest and splits_apart:
        return  # of what the source itself has in two splits `tinysight data info` tells
    try:
        own = load(config.data.name, home)
    except ValueError:
        return  # it is not here any more
    if own.digest == run.data_digest and (learned := num_learned(config, own, pack, split)):
        print(
            f"warning: the run learned from {learned:,} of these {len(pack.rows(split)):,} images, which flatters it; "
            "judge it on others",
            file=sys.stderr,
        )


def _print_metrics(metrics: Metrics, data: str, split: str) -> None:
    print(f"{data} {split}, {metrics.num_images:,} images")
    for name, error, low, high in (
        ("top-1", metrics.top1_error, metrics.top1_low, metrics.top1_high),
        ("top-5", metrics.top5_error, metrics.top5_low, metrics.top5_high),
    ):
        print(
            f"  {name} error        {100 * error:6.2f} %   (95 %: {100 * low:.2f} to {100 * high:.2f} %)"
        )
    print(f"  loss               {metrics.loss:6.3f} nats")
    print(f"  calibration error  {100 * metrics.calibration_error:6.2f} %")
