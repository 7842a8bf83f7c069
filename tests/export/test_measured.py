"""Export: measured as written, in every form."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.evaluation.evaluate import evaluate, evaluate_run
from tinysight.exporting.measured import export, write_int8
from tinysight.models import create_model
from tinysight.models.localizer import Localizer
from tinysight.predict.metadata import HEAD_SETTINGS, ModelMetadata
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import load_weights, weights_bytes
from tinysight.run import Run

from .conftest import metadata_of, randomize


@pytest.fixture
def run(
    dataset: Dataset,
    make_config: Callable[..., Config],
    make_metadata: Callable[..., ModelMetadata],
    tmp_path: Path,
) -> Run:
    """A run with the weights of an untrained model."""
    run = Run(folder=tmp_path / "run", config=make_config(), data_digest=dataset.digest, machine={})
    run.folder.mkdir()
    metadata = make_metadata(commit="abc", results={"steps": 3})
    run.weights_path.write_bytes(weights_bytes(create_model("small", 24), metadata))
    return run


@pytest.mark.parametrize("half", [True, False])
def test_the_metadata_has_the_error_of_the_file_itself(
    half: bool, run: Run, dataset: Dataset, tmp_path: Path
) -> None:
    own = evaluate_run(run, dataset, "val").metrics
    made = export(run.weights_path, tmp_path / "out.safetensors", dataset, half=half)
    assert made.num_bytes == made.path.stat().st_size
    assert made.own_top1_error == own.top1_error and made.val is not None
    predictor = Predictor(made.path)
    again = evaluate(predictor, dataset, "val").metrics
    assert again == made.val.metrics
    results = predictor.metadata.results
    assert (results["steps"], results["val"]["data"]) == (3, "small")
    assert (results["val"]["top1_error"], results["val"]["loss"]) == (again.top1_error, again.loss)
    before = load_weights(run.weights_path)[1]
    assert replace(predictor.metadata, results=before.results) == before
    assert (again.loss == own.loss) is not half, "half precision is another model, measured itself"


def test_a_run_without_an_evaluation_is_compared_with_nothing(
    run: Run, dataset: Dataset, tmp_path: Path
) -> None:
    for content in (None, "{", json.dumps({"top1_error": None})):
        if content is not None:
            run.evaluation_path("val").write_text(content)
        made = export(run.weights_path, tmp_path / "out.safetensors", dataset)
        assert math.isnan(made.own_top1_error)


def test_an_int8_file_has_its_own_error_and_that_of_float32(
    run: Run, dataset: Dataset, tmp_path: Path
) -> None:
    options = {"n": 1, "filters": (8, 16)}
    metadata = replace(load_weights(run.weights_path)[1], model="resnet", options=options)
    run.weights_path.write_bytes(weights_bytes(create_model("resnet", 24, **options), metadata))
    made = export(run.weights_path, tmp_path / "out.onnx", dataset, form="onnx-int8")
    predictor = Predictor(made.path)
    results = predictor.metadata.results
    assert (results["fp32"]["num_images"], results["steps"]) == (24, 3)
    own = evaluate(predictor, dataset, "val").metrics
    assert (results["val"]["top1_error"], results["val"]["loss"]) == (own.top1_error, own.loss)
    assert results["val"]["loss"] == pytest.approx(results["fp32"]["loss"], abs=0.05)
    assert results["val"]["loss"] != results["fp32"]["loss"]
    assert "int8; measured against float32: " in predictor.metadata.describe()
    graph = onnx.load(made.path).graph
    kinds = {each.name: each.data_type for each in graph.initializer}
    kernels = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    stored = {node.output[0]: node.input[0] for node in graph.node}
    assert kernels and all(kinds[stored[name]] == onnx.TensorProto.INT8 for name in kernels)
    copy = write_int8(made.path, tmp_path / "copy.onnx", form="onnx-int8")
    assert copy.path.read_bytes() == made.path.read_bytes()


def test_data_without_val_are_written_without_an_error(
    run: Run, dataset: Dataset, tmp_path: Path, messages: list[str]
) -> None:
    splits = {**dataset.manifest["splits"], "val": [96, 96]}
    bare = replace(dataset, manifest={**dataset.manifest, "splits": splits})
    made = export(run.weights_path, tmp_path / "out.safetensors", bare)
    assert made.val is None and "val" not in Predictor(made.path).metadata.results
    assert messages == ["warning: small has no val: the file is written without its error"]


def test_other_data_are_refused(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    other = replace(load_weights(run.weights_path)[1], data="another")
    run.weights_path.write_bytes(weights_bytes(create_model("small", 24), other))
    with pytest.raises(ValueError, match="learned from another, not from small"):
        export(run.weights_path, tmp_path / "out.safetensors", dataset)


def write_localizer(kind: str, dataset: Dataset, path: Path) -> Path:
    """Write the weights of a localizer for a dataset, not trained."""
    names = {"class_names": dataset.class_names, "class_ids": dataset.class_ids}
    metadata = replace(metadata_of(kind), **names)
    head = {name: metadata.localizer[name] for name in HEAD_SETTINGS}
    classifier = create_model("resnet", len(dataset.class_names), **metadata.options)
    model = Localizer(classifier, **head)
    with torch.no_grad():
        randomize(model)
    path.write_bytes(weights_bytes(model, metadata))
    return path


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_a_localizers_onnx_and_int8_files_are_measured(
    kind: str, dataset: Dataset, tmp_path: Path
) -> None:
    weights = write_localizer(kind, dataset, tmp_path / "model.safetensors")
    gt_boxes = torch.from_numpy(dataset.padded_boxes(range(len(dataset))))
    own = evaluate(Predictor(weights), dataset)
    made = export(weights, tmp_path / "out.onnx", dataset, form="onnx-int8")
    as_float, as_int8 = made.metadata.results["fp32"], made.metadata.results["val"]
    assert as_float["top1_error"] == own.top1_error
    assert as_float["loss"] == pytest.approx(own.metrics.loss, rel=1e-4)
    boxes = own.localization(gt_boxes)
    assert as_float["loc50"] == boxes.loc50
    assert as_float["mean_iou"] == pytest.approx(boxes.mean_iou, abs=1e-4)
    again = evaluate(Predictor(made.path), dataset)
    assert again.detections is not None and again.detections.labels is None
    assert as_int8["loss"] == again.metrics.loss
    assert made.localization == again.localization(gt_boxes)
    assert made.localization.mean_iou == pytest.approx(boxes.mean_iou, abs=0.05)
    larger = replace(dataset, manifest=dataset.manifest | {"image_size": 64})
    with pytest.raises(ValueError, match="takes images of up to 32 pixels, and small has 64"):
        evaluate(Predictor(made.path), larger)


def test_a_localizer_is_exported_where_val_has_no_boxes(dataset: Dataset, tmp_path: Path) -> None:
    weights = write_localizer("mlp", dataset, tmp_path / "model.safetensors")
    bare = replace(dataset)
    bare.__dict__["box_offsets"] = np.zeros_like(dataset.box_offsets)
    made = export(weights, tmp_path / "out.safetensors", bare)
    val = Predictor(made.path).metadata.results["val"]
    assert made.val is not None and val["top1_error"] == made.val.top1_error
    assert made.localization is None and not {"loc50", "mean_iou"} & val.keys()
    assert "surest box" not in made.metadata.describe()
