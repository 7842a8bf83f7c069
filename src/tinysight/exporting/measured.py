"""Export: a trained model in one file, with the errors measured with that very file."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import Evaluation, Progress, check_side, evaluate, has_boxes
from tinysight.exporting.graph import trace
from tinysight.exporting.hub import write_folder
from tinysight.exporting.page import page_of
from tinysight.exporting.quantize import NUM_IMAGES, quantize
from tinysight.files import write_atomic
from tinysight.ops.detection_metrics import Localization
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.onnx_file import onnx_bytes
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import load_weights, weights_bytes

FORMS = {  # and the suffix of what is written
    "onnx": ".onnx",
    "onnx-int8": ".onnx",
    "html": ".html",
    "hub": "",
    "safetensors": ".safetensors",
}
INT8 = ("onnx-int8", "html")
logger = logging.getLogger("tinysight")


@dataclass(frozen=True)
class Exported:
    """The file that was written, and its errors on val next to those of the weights."""

    path: Path
    num_bytes: int
    metadata: ModelMetadata  # with the errors of the file
    val: Evaluation | None  # None where the data have no val
    localization: Localization | None  # of a localizer's most confident boxes, where val has true
    own_top1_error: float  # of the weights, as `tinysight evaluate` measured it, or NaN


def export(
    weights: Path,
    path: Path,
    dataset: Dataset | None,
    *,
    form: str = "safetensors",
    half: bool = False,
    runtime: Runtime | None = None,
    progress: Progress = lambda done, total: None,
) -> Exported:
    """Write a weights file in another form to `path`, measured on val as written there.

    The metadata's `results["val"]` holds the fields of `Metrics`, the dataset's name and, of a
    localizer, where val has boxes, `loc50` and `mean_iou` of the most confident; of an int8 file
    `results["fp32"]` holds the same of the file before it was quantized, on the same engine.

    Args:
        dataset: that it learned from; None: the file has the error of the weights.
        form: one of FORMS; those of INT8 measure activations on images of `dataset`'s train.
        half: of "safetensors": matrices and kernels are stored as float16.

    Raises ValueError when the dataset is not the one that was learned from.
    """
    model, metadata = load_weights(weights)
    if dataset is not None and dataset.name != metadata.data:
        raise ValueError(
            f"the model learned from {metadata.data}, not from {dataset.name}; "
            "export it with its own data"
        )
    measure = partial(_measure, dataset=dataset, runtime=runtime, progress=progress)
    results = dict(metadata.results)
    if form == "safetensors":
        content_of: Callable[[ModelMetadata], bytes] = partial(weights_bytes, model, half=half)
    else:
        body = trace(model, metadata)
        if form in INT8:
            results["fp32"] = measure("model.onnx", partial(onnx_bytes, body), metadata)[0]
            assert dataset is not None
            check_side(metadata, dataset, metadata.image_size)
            body = quantize(body, _training_images(dataset))
        content_of = partial(onnx_bytes, body)
    suffix = ".safetensors" if form == "safetensors" else ".onnx"
    found, val, boxes = measure("model" + suffix, content_of, metadata)
    metadata = replace(metadata, results={**results, "val": found} if val else results)
    content = content_of(metadata)
    if form == "hub":
        size = write_folder(path, model, content, metadata)
    else:
        size = _write(path, content, metadata, form)
    return Exported(path, size, metadata, val, boxes, _own_top1_error(weights))


def write_int8(onnx: Path, path: Path, *, form: str) -> Exported:
    """Write an int8 file that is there already to `path`, as it is or in a page."""
    content, metadata = onnx.read_bytes(), Predictor(onnx).metadata
    return Exported(path, _write(path, content, metadata, form), metadata, None, None, math.nan)


def _write(path: Path, content: bytes, metadata: ModelMetadata, form: str) -> int:
    content = page_of(content, metadata) if form == "html" else content
    write_atomic(path, content)
    return len(content)


def _measure(
    name: str,
    content_of: Callable[[ModelMetadata], bytes],
    metadata: ModelMetadata,
    *,
    dataset: Dataset | None,
    runtime: Runtime | None,
    progress: Progress,
) -> tuple[dict[str, Any], Evaluation | None, Localization | None]:
    """Measure a file of this name and content on val: what metadata holds, and all outputs."""
    if dataset is None:
        return {}, None, None
    if "val" not in dataset.splits or not len(dataset.rows("val")):
        if "cross_validation" not in metadata.results:
            logger.warning("%s has no val: the file is written without its error", dataset.name)
        return {}, None, None
    with TemporaryDirectory() as folder:
        written = Path(folder) / name
        written.write_bytes(content_of(metadata))
        predictor = Predictor(written, runtime=None if written.suffix == ".onnx" else runtime)
        val = evaluate(predictor, dataset, "val", progress=progress)
    found = {"data": dataset.name} | (asdict(val.metrics) if val.is_labeled else {})
    if val.detections is None or not has_boxes(dataset, "val"):
        return found, val, None
    boxes = val.localization(torch.from_numpy(dataset.padded_boxes(range(len(dataset)))))
    return found | {"loc50": boxes.loc50, "mean_iou": boxes.mean_iou}, val, boxes


def _training_images(dataset: Dataset) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rows = dataset.rows("train")
    chosen = np.linspace(rows.start, rows.stop - 1, min(NUM_IMAGES, len(rows))).astype(int)
    return np.take(dataset.images, chosen, axis=0)


def _own_top1_error(weights: Path) -> float:
    try:
        content = json.loads((weights.parent / "evaluation-val.json").read_bytes())
        return float(content.get("top1_error", math.nan))
    except (OSError, ValueError, AttributeError, TypeError):
        return math.nan
