"""The commands that measure a finished run, and export it with its metrics."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from tinysight.cli.arguments import (
    AsJson,
    Data,
    DataDir,
    Decoding,
    Device,
    RunName,
    Split,
    Threshold,
)
from tinysight.text import pluralize

if TYPE_CHECKING:
    from tinysight.evaluation.evaluate import Evaluation


def evaluate(
    run: RunName,
    split: Split = None,
    data: Data = None,
    threshold: Threshold = None,
    decoding: Decoding = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Measure a finished run: errors with 95 % intervals, loss, calibration.

    The outputs for each image are kept, and some predictions drawn. Of a weights file, or of the
    bundled model (`bundled`), the metrics are printed and nothing is written.

    \b
    Examples:
      tinysight evaluate quickstart-shapes
      tinysight evaluate runs/pets --split minival --json
      tinysight evaluate bundled --data tiny-imagenet
    """
    from tinysight.analysis.boxes import boxes_table
    from tinysight.api.evaluate import evaluate_files

    options: dict[str, Any] = {"threshold": threshold, "decoding": decoding, "device": device}
    result = evaluate_files(run, split, data=data, data_dir=data_dir, **options)
    evaluation = result.evaluation
    if as_json:
        metrics = evaluation.metrics if evaluation.is_labeled else None
        boxes = {} if result.boxes is None else {"localization": result.boxes}
        crossed = {"cross_validated": True} if evaluation.cross_validated else {}
        print(json.dumps((asdict(metrics) if metrics else {}) | boxes | crossed, indent=1))
        return
    if evaluation.is_labeled:
        print_metrics(evaluation)
    if result.boxes is not None:
        print(boxes_table(result.boxes))
    for what, path in result.files.items():
        print(f"{what + ':':<25} {path}")


def export(
    run: Annotated[str, Argument(metavar="RUN", help="A run, a weights file, or bundled.")],
    to: Annotated[
        str | None,
        Option(
            help="onnx, onnx-int8, html (a page that runs it), hub (a folder) or safetensors.",
            show_default="by the suffix of --out, else onnx",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Option(help="What to write; an existing file is replaced.", show_default="./RUN.onnx"),
    ] = None,
    half: Annotated[bool, Option("--half", help="Store matrices and kernels as float16.")] = False,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Write a trained model for other programs, or as a page that runs it without a network.

    The file is measured on val as written, and has its error in the metadata.

    \b
    Examples:
      tinysight export quickstart-shapes --to onnx-int8    # a quarter of the size, much faster
      tinysight predict quickstart-shapes-int8.onnx photo.jpg
      tinysight export bundled --to html --out classifier.html
      tinysight export quickstart-shapes --half --out shapes.safetensors
    """
    from tinysight.api.export import export_files

    made = export_files(run, to, out=out, half=half, device=device, data_dir=data_dir)
    if made.val is not None and made.val.is_labeled:
        print_metrics(made.val)
        if not math.isnan(made.own_top1_error):
            print(f"  the run's own      {100 * made.own_top1_error:6.2f} % top-1 error")
    if (boxes := made.localization) is not None:
        print(f"  surest box right   {100 * boxes.loc50:6.2f} %, mean IoU {boxes.mean_iou:.4f}")
    print(f"{made.metadata.describe()}\n{made.num_bytes / 1e6:.2f} MB in {made.path}")


def print_metrics(evaluation: Evaluation) -> None:
    """Print errors with their intervals next to the simplest guess, loss and calibration error."""
    metrics = evaluation.metrics
    crossed = ", cross-validated" if evaluation.cross_validated else ""
    images = pluralize(metrics.num_images, "image")
    print(f"{evaluation.data} {evaluation.split}, {images}{crossed}")
    for name, error, low, high in (
        ("top-1", metrics.top1_error, metrics.top1_low, metrics.top1_high),
        ("top-5", metrics.top5_error, metrics.top5_low, metrics.top5_high),
    ):
        if error is None or low is None or high is None:
            continue
        interval = f"(95 %: {100 * low:.2f} to {100 * high:.2f} %)"
        print(f"  {name} error        {100 * error:6.2f} %   {interval}")
    guess = 100 * evaluation.majority_error
    print(f"  one class always   {guess:6.2f} %   (the most frequent one)")
    print(f"  loss               {metrics.loss:6.3f} nats")
    print(f"  calibration error  {100 * metrics.calibration_error:6.2f} %")
