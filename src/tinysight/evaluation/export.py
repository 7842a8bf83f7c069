"""Export: one weights file of a finished run, with the errors measured with that very file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import (
    Evaluation,
    Progress,
    default_split,
    evaluate,
    evaluate_run,
)
from tinysight.files import write_atomic
from tinysight.ops.detection_metrics import Localization
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import load_weights, weights_bytes
from tinysight.run import Run


@dataclass(frozen=True)
class Exported:
    """The file that was written, and its errors on val next to the run's own."""

    path: Path
    num_bytes: int
    val: Evaluation
    localization: Localization | None  # of a localizer's most confident boxes
    run_top1_error: float  # as `tinysight evaluate` measured its weights; NaN without labels


def export(
    run: Run,
    path: Path,
    dataset: Dataset,
    *,
    runtime: Runtime | None = None,
    half: bool = False,
    progress: Progress = lambda done, total: None,
) -> Exported:
    """Write the weights of a finished, evaluated run to `path`, measured on val as written there.

    The metadata's `results["val"]` holds the fields of `Metrics`, the dataset's name and, of a
    localizer, `loc50` and `mean_iou` of the most confident boxes.

    A cross-validated run on data without val has its error in the metadata already.

    With `half`, matrices and kernels are stored as float16. Raises ValueError when the run is not
    finished or not evaluated on val, or of another dataset.
    """
    predictor = Predictor(run.folder)
    if dataset.name != predictor.metadata.data:
        raise ValueError(
            f"the run learned from {predictor.metadata.data}, not from {dataset.name}; "
            "export it with its own data"
        )
    split = default_split(run, dataset)
    if split != "val":
        return _as_cross_validated(run, path, dataset, split, half)
    run_top1_error = _run_top1_error(run)
    model, metadata = load_weights(predictor.path)
    with TemporaryDirectory() as folder:
        written = Path(folder) / path.name
        written.write_bytes(weights_bytes(model, metadata, half=half))
        val = evaluate(Predictor(written, runtime=runtime), dataset, "val", progress=progress)
    metrics = asdict(val.metrics) if val.is_labeled else {}
    measured: dict[str, object] = {"data": dataset.name, **metrics}
    found = None
    if val.detections is not None:
        found = val.localization(torch.from_numpy(dataset.padded_boxes(range(len(dataset)))))
        measured |= {"loc50": found.loc50, "mean_iou": found.mean_iou}
    metadata = replace(metadata, results={**metadata.results, "val": measured})
    content = weights_bytes(model, metadata, half=half)
    write_atomic(path, content)
    return Exported(path, len(content), val, found, run_top1_error)


def _as_cross_validated(run: Run, path: Path, dataset: Dataset, split: str, half: bool) -> Exported:
    """Write the weights of a run on data without val; their metadata has the error already."""
    content = weights_bytes(*load_weights(run.weights_path), half=half)
    write_atomic(path, content)
    known = evaluate_run(run, dataset, split)
    return Exported(path, len(content), known, None, known.top1_error)


def _run_top1_error(run: Run) -> float:
    try:
        content = json.loads(run.evaluation_path("val").read_bytes())
        return float(content.get("top1_error", math.nan))
    except (OSError, ValueError, AttributeError, TypeError):
        raise ValueError(
            f"{run.folder} was not evaluated on val; run `tinysight evaluate {run.folder}` first: "
            "weights are exported with their error"
        ) from None
