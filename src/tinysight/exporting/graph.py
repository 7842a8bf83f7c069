"""A model as an ONNX graph: crop, resizing, normalization, mirror image and boxes inside.

The graph is traced from the model's own forward pass, so that a new model or head needs nothing
here. Resizing is linear, and its matrices are taken from `ops.augment.resize` itself: two products,
which every program that runs ONNX computes alike.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from tinysight.models.classifier import Classifier
from tinysight.models.localizer import Localizer
from tinysight.ops.augment import resize
from tinysight.ops.boxes import HeadOutput, decode, flip_averaged
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.onnx_file import INPUT, outputs_of

OPSET = 18
MISSING = "exporting to ONNX needs an extra: pip install 'tinysight[export]'"


class _Graph(nn.Module):
    """Images uint8 (B, S, S, 3) -> what `predict.onnx_file` describes."""

    to_input: Tensor

    def __init__(self, model: Classifier | Localizer, metadata: ModelMetadata) -> None:
        super().__init__()
        self.model, self.metadata = model, metadata
        size = metadata.image_size
        self.crop = size if metadata.localizer else metadata.crop
        self.register_buffer("to_input", _resizing_matrix(self.crop, metadata.input_size))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        metadata, crop = self.metadata, self.crop
        start = (metadata.image_size - crop) // 2
        window = images[:, start : start + crop, start : start + crop].permute(0, 3, 1, 2).float()
        if crop != metadata.input_size:
            window = self.to_input @ window @ self.to_input.mT
        views = 1 + metadata.flip_average
        if metadata.flip_average:  # next to one another in the batch, so that weights are used once
            window = torch.stack((window, window.flip(-1)), dim=1).flatten(0, 1)
        output = self.model(window)
        is_localizer = isinstance(self.model, Localizer)
        logits = (output.logits if is_localizer else output).unflatten(0, (-1, views)).mean(dim=1)
        if not is_localizer:
            return (logits,)
        parts = [None if p is None else p.unflatten(0, (-1, views)) for p in output.candidates]
        found, *mirrored = (
            HeadOutput(*(None if part is None else part[:, view] for part in parts))  # type: ignore[arg-type]
            for view in range(views)
        )
        if mirrored and found.logits.shape[-1] == 1:
            found = flip_averaged(found, mirrored[0], width=1.0)
        size, (_, rows, columns, num_boxes) = metadata.image_size, found.logits.shape
        detections = decode(found, side=size, height=size, width=size)
        cells = (-1, rows * columns, num_boxes)
        boxes, labels = detections.boxes.reshape(*cells, 4), detections.labels
        given = (logits, boxes, detections.confidence.reshape(cells))
        return given if labels is None else (*given, labels.reshape(cells))


def _resizing_matrix(source: int, target: int) -> Tensor:
    """Return the matrix (target, source) by which `resize` maps columns of pixels."""
    # an image whose rows are alike in one direction is resized in the other alone
    columns = torch.eye(source)[:, None, :, None].expand(-1, 1, -1, source)
    return resize(columns.contiguous(), target)[:, 0, :, 0].T.contiguous()


def trace(model: Classifier | Localizer, metadata: ModelMetadata) -> bytes:
    """Return a model in eval mode as a serialized ONNX graph of any batch size, without metadata.

    Raises ValueError where the packages that write ONNX are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch needs it)
    except ImportError:
        raise ValueError(MISSING) from None
    images = torch.zeros(2, *[metadata.image_size] * 2, 3, dtype=torch.uint8)
    options: dict[str, Any] = {"dynamo": True, "verbose": False, "external_data": False}
    options["output_names"] = outputs_of(metadata)
    options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    graph, logger = _Graph(model, metadata).eval(), logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of what is not installed, and not needed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph, (images,), input_names=[INPUT], opset_version=OPSET, **options
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    simple = onnx.load_from_string(_simplified(program.model_proto.SerializeToString()))
    for part in (simple.graph, *simple.graph.node, *simple.graph.value_info):
        del part.metadata_props[:]  # lines of source files of this machine
    del simple.opset_import[:]  # the runtime names all that it knows
    simple.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    content: bytes = simple.SerializeToString(deterministic=True)
    return content


def _simplified(content: bytes) -> bytes:
    """Fold constants and batch norms, as the runtime would at every start; the ops stay ONNX's."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return path.read_bytes()
