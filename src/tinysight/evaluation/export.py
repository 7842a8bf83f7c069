"""Make one file of a finished run to hand on: smaller weights, and on their metadata the errors
measured with them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import check_data, score_split
from tinysight.evaluation.scores import Metrics, measure, top_overlaps
from tinysight.files import write_atomic
from tinysight.ops.detection_metrics import Localization
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import load_weights, weights_bytes
from tinysight.run import Run


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, and its errors on val beside the run's own."""

    path: Path
    num_bytes: int
    val: Metrics
    found: Localization | None  # of a localizer's most confident boxes
    run_top1_error: float  # as `tinysight evaluate` measured the run's own weights


def export(
    run: Run,
    path: Path,
    *,
    pack: Dataset,
    runtime: Runtime,
    half: bool = False,
    each_batch: Callable[[int], None] = lambda done: None,
) -> Exported:
    """Write the weights of a finished, evaluated run to `path`, measured on val as they lie in that
    file.

    The metadata's `results["val"]` holds the figures of `Metrics`, the name of the data and, of a
    localizer, the share of most confident boxes that find an object (`loc50`) and their `mean_iou`.

    Args:
        path: the file to write; one that is there is replaced.
        pack: the data that the run was trained on.
        runtime: where the written weights are measured.
        half: store matrices and kernels as float16.
        each_batch: called with the number of images done.

    Raises:
        ValueError: the run is not finished, or not evaluated on val; or the pack is not the one
    it was trained on."""
    predictor = Predictor(run.folder)  # says what is wrong with a run that is not finished
    if pack.name != predictor.metadata.data:
        raise ValueError(
            f"the run learned from {predictor.metadata.data}, not from {pack.name}; export it with its own data"
        )
    check_data(predictor.metadata, pack)
    own = _evaluation(run)
    model, metadata = load_weights(predictor.path)
    with TemporaryDirectory() as folder:
        written = Path(folder) / path.name
        written.write_bytes(weights_bytes(model, metadata, half=half))
        scores = score_split(Predictor(written, runtime=runtime), pack, "val", each_batch)
    metrics = measure(scores)
    found = (
        None
        if scores.boxes is None
        else top_overlaps(scores, torch.from_numpy(pack.padded_boxes(range(len(pack)))))
    )
    boxes = {} if found is None else {"loc50": found.loc50, "mean_iou": found.mean_iou}
    results = {**metadata.results, "val": {"data": pack.name, **asdict(metrics), **boxes}}
    content = weights_bytes(model, replace(metadata, results=results), half=half)
    write_atomic(path, content)
    return Exported(path=path, num_bytes=len(content), val=metrics, found=found, run_top1_error=own)


def _evaluation(run: Run) -> float:
    path = run.evaluation_path("val")
    try:
        return float(json.loads(path.read_bytes())["top1_error"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{run.folder} was not evaluated on val; weights are handed on with their error: `tinysight evaluate {run.folder}` first"
        ) from None
