"""Export: measured as written, refused for a run that was not evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.evaluation.evaluate import evaluate, evaluate_run
from tinysight.evaluation.export import export
from tinysight.models import create_model
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import load_weights, weights_bytes
from tinysight.run import Run


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
    made = export(run, tmp_path / "out.safetensors", dataset, half=half)
    assert made.num_bytes == made.path.stat().st_size
    assert made.run_top1_error == own.top1_error
    predictor = Predictor(made.path)
    again = evaluate(predictor, dataset, "val").metrics
    assert again == made.val.metrics
    results = predictor.metadata.results
    assert (results["steps"], results["val"]["data"]) == (3, "small")
    assert (results["val"]["top1_error"], results["val"]["loss"]) == (again.top1_error, again.loss)
    before = load_weights(run.weights_path)[1]
    assert replace(predictor.metadata, results=before.results) == before
    assert (again.loss == own.loss) is not half, "half precision is another model, measured itself"


def test_a_run_without_an_evaluation_is_refused(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for content in (None, "{", json.dumps({"top1_error": None})):
        if content is not None:
            run.evaluation_path("val").write_text(content)
        with pytest.raises(ValueError, match="was not evaluated on val"):
            export(run, out, dataset)
    assert not out.exists()


def test_other_data_are_refused(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    evaluate_run(run, dataset, "val")
    other = replace(load_weights(run.weights_path)[1], data="another")
    run.weights_path.write_bytes(weights_bytes(create_model("small", 24), other))
    with pytest.raises(ValueError, match="learned from another, not from small"):
        export(run, tmp_path / "out.safetensors", dataset)
