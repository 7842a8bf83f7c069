"""A file to hand on: measured as it lies there, refused for a run that nobody measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import evaluate_run, measure, score_split
from tinysight.evaluation.export import export
from tinysight.models import create_model
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import ModelMetadata, load_weights, weights_bytes
from tinysight.run import Run

CPU = Runtime(device=torch.device("cpu"), bf16=False)


@pytest.fixture
def run(pack: Dataset, make_run: Callable[..., Config], tmp_path: Path) -> Run:
    """A folder with the weights of an untrained model."""
    metadata = ModelMetadata(
        model="small",
        options={},
        class_names=pack.class_names,
        class_ids=pack.class_ids,
        image_size=32,
        crop=24,
        input_size=28,
        flip_average=True,
        recipe="test",
        data="small",
        version="0",
        commit="abc",
        results={"steps": 3},
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(weights_bytes(create_model("small", 24), metadata))
    return Run(folder=folder, config=make_run(), data_digest=pack.digest, machine={})


@pytest.mark.parametrize("half", [True, False])
def test_the_card_tells_the_error_of_the_file_itself(
    half: bool, run: Run, pack: Dataset, tmp_path: Path
) -> None:
    _, _, own = evaluate_run(run, "val", pack=pack, runtime=CPU)
    made = export(run, tmp_path / "out.safetensors", pack=pack, runtime=CPU, half=half)
    assert made.num_bytes == made.path.stat().st_size
    assert made.run_top1_error == own.top1_error
    predictor = Predictor(made.path)
    again = measure(score_split(predictor, pack, "val", lambda done: None))
    assert again == made.val
    results = predictor.metadata.results
    assert (results["steps"], results["val"]["data"]) == (3, "small")
    assert (results["val"]["top1_error"], results["val"]["loss"]) == (again.top1_error, again.loss)
    before = load_weights(run.weights_path)[1]
    assert replace(predictor.metadata, results=before.results) == before
    assert (again.loss == own.loss) is not half, "half precision is another model, measured anew"


def test_a_run_without_an_evaluation_is_refused(run: Run, pack: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for content in (None, "{", json.dumps({"top1_error": None})):
        if content is not None:
            run.evaluation_path("val").write_text(content)
        with pytest.raises(ValueError, match="was not evaluated on val"):
            export(run, out, pack=pack, runtime=CPU)
    assert not out.exists()


def test_other_data_are_refused(run: Run, pack: Dataset, tmp_path: Path) -> None:
    evaluate_run(run, "val", pack=pack, runtime=CPU)
    other = replace(load_weights(run.weights_path)[1], data="another")
    (run.weights_path).write_bytes(weights_bytes(create_model("small", 24), other))
    with pytest.raises(ValueError, match="learned from another, not from small"):
        export(run, tmp_path / "out.safetensors", pack=pack, runtime=CPU)
