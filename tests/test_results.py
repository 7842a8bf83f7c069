"""The README's table of results: what it shows of a row, that it is not stale, and how rows are
added.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tinysight import run as runs
from tinysight.config import Config, DataConfig
from tinysight.data.dataset import Dataset
from tinysight.models import create_model, num_parameters
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.weights import weights_bytes
from tinysight.recipes import RECIPES

ROOT = Path(__file__).parent.parent
ROW: dict[str, Any] = {
    "date": "2026-11-25",
    "commit": "0123456789abcdef",
    "command": "tinysight train quickstart --data tiny-imagenet",
    "data": "tiny-imagenet",
    "recipe": "quickstart",
    "parameters": 1_282_728,
    "images": 95_000,
    "hardware": "2 cores",
    "minutes": 58.1,
    "seeds": [0],
    "epochs": 10,
    "top1_error": 0.4,
    "top1_low": 0.39,
    "top1_high": 0.41,
    "top5_error": 0.2,
    "record": "experiments/001-ten-epochs-on-two-cores.md",
}
WAITING: dict[str, Any] = {
    "status": "not run",
    "recipe": "vgg16-report",
    "data": "tiny-imagenet",
    "target": "47.22 %",
    "needs": "a GPU",
    "command": "tinysight train vgg16-report --data tiny-imagenet",
}


@pytest.fixture(scope="module")
def results(load_script: Callable[[Path], ModuleType]) -> ModuleType:
    return load_script(ROOT / "benchmarks" / "results.py")


def test_the_readme_shows_what_is_recorded(results: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = results.read_rows(results.ROWS)
    assert results.with_table(readme, rows) == readme, "run python benchmarks/results.py"
    changed = [{**rows[0], "top1_error": rows[0]["top1_error"] + 0.01}, *rows[1:]]
    assert results.with_table(readme, changed) != readme
    assert all((ROOT / row["record"]).exists() for row in rows if "record" in row)
    with pytest.raises(ValueError, match="lacks the marks"):
        results.with_table("no marks", rows)


def test_what_is_not_run_yet_is_a_recipe_without_a_row(results: ModuleType) -> None:
    rows = results.read_rows(results.ROWS)
    waiting = {row["recipe"] for row in rows if row.get("status") and row.get("kind") != "speedrun"}
    measured = {
        row["recipe"] for row in rows if not row.get("status") and row.get("kind") != "speedrun"
    }
    assert waiting <= set(RECIPES)
    named = {name for name in RECIPES if name.endswith(("-report", "-modern"))} - {
        "resnet10-report"
    }
    assert named <= waiting | measured, (
        "every published recipe and its twin has a result, or stands among those to run"
    )


def test_a_row_shows_its_recipe_or_experiment_and_its_errors(results: ModuleType) -> None:
    slower = {
        **ROW,
        "top1_error": 0.5,
        "recipe": "vgg19-report",
        "seeds": [0, 1, 2],
        "top1_sd": 0.0123,
    }
    speedrun = {**ROW, "kind": "speedrun", "top1_error": 0.3, "minutes": 0.9, "top1_sd": 0.001}
    lines = results.table(
        [slower, ROW, WAITING, speedrun, {**WAITING, "recipe": "vgg16-modern"}]
    ).splitlines()
    assert lines[2].startswith(
        "| `quickstart`, speedrun | 1.28 M | **30.00 %** (+- 0.10) | 20.00 % | 95,000 | 2 cores "
        "| 54.0 s |"
    )
    assert (
        "**40.00 %** (39.0 to 41.0) | 20.00 % | 95,000 | 2 cores | 58 min | 0 | [2026-11-25]("
        in lines[3]
    )
    assert "`vgg19-report`" in lines[4] and "(+- 1.23)" in lines[4] and "| 0, 1, 2 |" in lines[4]
    own = {**ROW, "experiment": "half the filters"}
    assert "| experiment 001: half the filters | 1.28 M |" in results.table([own])
    assert "| 1.28 M (3.00 M with the box) |" in results.table([{**ROW, "with_box": 3_000_000}])
    assert (
        lines[-1]
        == f"| `vgg16-report`: 47.22 %; `vgg16-modern`: 47.22 % | a GPU | `{WAITING['command']}` |"
    )
    assert "Not run yet" not in results.table([ROW])


def test_a_row_that_lacks_something_is_named(results: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for row, name in ((ROW, "hardware"), (ROW, "commit"), (ROW, "seeds"), (WAITING, "command")):
        short = {key: value for key, value in row.items() if key != name}
        path.write_text(json.dumps(WAITING) + "\n" + json.dumps(short) + "\n")
        with pytest.raises(ValueError, match=f"line 2, lacks {name}"):
            results.read_rows(path)


def test_a_result_takes_the_place_of_the_recipe_that_waited(results: ModuleType) -> None:
    other = {**WAITING, "recipe": "vgg19-report"}
    race = {**WAITING, "kind": "speedrun"}
    rows = [ROW, WAITING, other, race]
    done = {**ROW, "recipe": "vgg16-report"}
    assert results.with_row(rows, done) == [ROW, other, race, done]
    for another in (
        {**done, "experiment": "10 epochs"},
        {**done, "data": "pets"},
        {**done, "recipe": "my-own"},
    ):
        assert results.with_row(rows, another) == [*rows, another], (
            "other settings or other data: it still waits"
        )
    fast = {**done, "kind": "speedrun"}
    assert results.with_row(rows, fast) == [ROW, WAITING, other, fast]


@pytest.fixture
def evaluated(
    make_config: Callable[..., Config], dataset: Dataset, tmp_path: Path
) -> Callable[..., Path]:
    """Write the folder of a finished, evaluated run as the commands leave it."""

    def write(seed: int, top1_error: float, **changes: Any) -> Path:
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        config = make_config(train__seed=seed, **changes)
        command = f"tinysight train test train.seed={seed}"
        versions = {"commit": "abc"}
        runs.Run(
            folder=folder,
            config=config,
            data_digest="",
            machine={},
            versions=versions,
            command=command,
        ).write()
        metadata = ModelMetadata(
            model="small",
            options={},
            class_names=dataset.class_names,
            class_ids=dataset.class_ids,
            image_size=32,
            crop=24,
            input_size=24,
            flip_average=True,
            recipe="test",
            data="small",
            version="0",
        )
        (folder / "weights.safetensors").write_bytes(
            weights_bytes(create_model("small", 24), metadata)
        )
        figures = {"top1_error": top1_error, "top1_low": 0.1, "top1_high": 0.9}
        figures |= {"top5_error": 0.2, "loss": 1.5, "calibration_error": 0.05}
        (folder / "evaluation-val.json").write_text(json.dumps(figures))
        (folder / "summary.json").write_text(json.dumps({"seconds": 60.0 + 60 * seed, "steps": 30}))
        return folder

    return write


def test_the_row_of_one_run_and_of_several_seeds(
    results: ModuleType, evaluated: Callable[..., Path]
) -> None:
    one, two = evaluated(0, 0.4), evaluated(1, 0.5)
    row = results.row_of([one], hardware="2 cores", record="page.md")
    assert row.keys() >= results.MEASURED
    assert (row["top1_error"], row["top1_low"], row["minutes"], row["seeds"]) == (
        0.4,
        0.1,
        1.0,
        [0],
    )
    assert (row["command"], row["commit"], row["hardware"]) == (
        "tinysight train test train.seed=0",
        "abc",
        "2 cores",
    )
    assert row["parameters"] == num_parameters("small", 24, {"dropout": 0.3})
    assert row["images"] == 200, "30 steps of 16 in 3 epochs, in hundreds"
    assert "with_box" not in row
    both = results.row_of([one, two], hardware="2 cores", record="page.md")
    assert both["top1_errors"] == [0.4, 0.5] and both["seeds"] == [0, 1] and both["minutes"] == 1.5
    assert both["top1_error"] == pytest.approx(0.45) and both["top1_sd"] == pytest.approx(
        0.1 / 2**0.5, abs=1e-6
    )
    assert "top1_low" not in both, "one seed's interval is not the spread of several"
    with pytest.raises(ValueError, match="give each once"):
        results.row_of([one, one], hardware="", record="")
    whole = {"augment__crop": 1.0, "augment__rotation": 0.0}
    found = evaluated(3, 0.4, localizer__head="mlp", **whole)
    finds = results.row_of([found], hardware="", record="")
    assert finds["with_box"] > finds["parameters"] == row["parameters"]
    other = evaluated(2, 0.5, optimizer__lr=0.01)
    with pytest.raises(
        ValueError, match=r"optimizer\.lr=0\.01; give runs that differ in their seed"
    ):
        results.row_of([one, other], hardware="", record="")


def test_a_run_with_other_settings_than_its_recipe_needs_a_title(
    results: ModuleType, evaluated: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.read_run(evaluated(0, 0.4)).config
    longer = replace(run, train=replace(run.train, epochs=30))
    monkeypatch.setitem(RECIPES, "test", lambda: longer)
    with pytest.raises(ValueError, match=r"train\.epochs=3.*--experiment"):
        results.row_of([evaluated(1, 0.4)], hardware="", record="")
    row = results.row_of([evaluated(2, 0.4)], hardware="", record="", experiment="3 epochs")
    assert row["experiment"] == "3 epochs"
    monkeypatch.setitem(RECIPES, "test", lambda: replace(run, data=DataConfig(name="other")))
    assert "experiment" not in results.row_of([evaluated(3, 0.4)], hardware="", record="")


def test_rows_that_name_a_recipe_have_its_network_and_length(results: ModuleType) -> None:
    for row in results.read_rows(results.ROWS):
        if row.get("status") or row.get("kind") or "experiment" in row:
            continue
        config = RECIPES[row["recipe"]]()
        parameters = num_parameters(config.model.name, 200, config.model.options)
        assert (row["epochs"], row["parameters"]) == (config.train.epochs, parameters)


def test_a_command_is_recorded_without_the_places_of_a_machine(results: ModuleType) -> None:
    member = "tinysight train resnet18-report --data d --name /a/study/seed0 --resume"
    member += " --data-dir /a/data train.seed=1"
    assert results.portable(member) == "tinysight train resnet18-report --data d train.seed=1"
    named = "tinysight train quickstart --name first --resume 'train.sizes=((0,32),)'"
    assert results.portable(named) == named


def test_a_row_is_added_to_the_record_and_to_the_page(
    results: ModuleType,
    evaluated: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "README.md").write_text("before <!-- results --> <!-- end of results --> after")
    (tmp_path / "page.md").touch()
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "ROWS", tmp_path / "results.jsonl")
    results.ROWS.write_text(json.dumps(WAITING) + "\n")

    def call(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["results.py", *words])
        results.main()

    call("--add", str(evaluated(0, 0.4)), "--hardware", "2 cores", "--record", "page.md")
    race = {**ROW, "kind": "speedrun", "split": "val", "top1_error": 0.3, "top1_sd": 0.01}
    (tmp_path / "row.json").write_text(
        json.dumps({key: value for key, value in race.items() if key != "record"})
    )
    call("--add-row", str(tmp_path / "row.json"), "--record", "page.md")
    call("--check")
    assert [row.get("kind") or row["recipe"] for row in results.read_rows(results.ROWS)] == [
        "vgg16-report",
        "test",
        "speedrun",
    ]
    page = (tmp_path / "README.md").read_text()
    assert "`quickstart`, speedrun" in page and "`test`" in page and page.endswith("after")
    (tmp_path / "row.json").write_text(json.dumps({**race, "split": "minival"}))
    with pytest.raises(SystemExit, match="reported on val"):
        call("--add-row", str(tmp_path / "row.json"), "--record", "page.md")
    (tmp_path / "README.md").write_text(page.replace("30.00 %", "20.00 %"))
    with pytest.raises(SystemExit, match="stale"):
        call("--check")
