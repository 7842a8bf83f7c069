"""Every recipe is a valid run whose model can be built and whose docstring says what a person must
know.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from tinysight.config import from_dict, override, parse_assignments
from tinysight.models import create_model
from tinysight.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_run_that_goes_through_json(name: str) -> None:
    run = recipe(name)
    assert run.recipe == name
    assert from_dict(json.loads(json.dumps(asdict(run)))) == run


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_model_can_be_built(name: str) -> None:
    run = recipe(name)
    with torch.device("meta"):
        model = create_model(run.model.name, 200, **run.model.options)
    small = ("quickstart", "localizer-goldfish", "localizer-scenes", "localizer-shapes")
    assert model.num_features >= 512 or name in small


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_docstring_has_its_labelled_lines_in_order(name: str) -> None:
    text = inspect.getdoc(RECIPES[name]) or ""
    assert text.splitlines()[0].endswith(".")
    labels = re.findall(r"^(\w+): \S", text, flags=re.MULTILINE)
    assert labels == ["Source", "Hardware", "Time", "Result"]
    result = text.partition("Result:")[2]
    assert re.search(r"\d", result) or "ot yet run" in result
    assert re.search(r"\d", text.partition("Time:")[2].partition("Result:")[0])


def test_the_reports_recipes_are_as_published() -> None:
    run = recipe("resnet18-report")
    assert (run.optimizer.lr, run.optimizer.momentum, run.optimizer.nesterov) == (0.1, 0.9, True)
    assert run.optimizer.weight_decay == 2e-4 and run.optimizer.decay_all
    assert (run.schedule.name, run.schedule.factor) == ("plateau", 0.1)
    assert (run.augment.crop, run.augment.contrast, run.augment.gamma) == (
        56,
        (0.9, 1.08),
        (0.9, 1.08),
    )
    assert run.model.options == {"n": 2} and recipe("resnet10-report").model.options == {"n": 1}

    inception = recipe("inception-resnet-report")
    settings = inception.optimizer
    assert (settings.name, settings.lr, settings.decay, settings.epsilon) == (
        "rmsprop",
        0.05,
        0.9,
        1.0,
    )
    for name in ("vgg16-report", "vgg19-report"):
        assert (recipe(name).optimizer.name, recipe(name).optimizer.lr) == ("adam", 0.001)
        assert (recipe(name).schedule.name, recipe(name).schedule.factor) == ("exponential", 0.9)
    assert inception.schedule == recipe("vgg16-report").schedule
    assert inception.augment == recipe("vgg16-report").augment == run.augment


@pytest.mark.parametrize("name", ["resnet18", "inception-resnet", "vgg16", "vgg19"])
def test_a_modern_twin_is_the_same_model(name: str) -> None:
    assert recipe(f"{name}-modern").model == recipe(f"{name}-report").model
    assert recipe(f"{name}-modern").train.label_smoothing == 0.1


def test_the_light_recipe_is_what_its_row_was_trained_with() -> None:
    rows = map(
        json.loads,
        (Path(__file__).parents[1] / "benchmarks" / "results.jsonl").read_text().splitlines(),
    )
    (command,) = (row["command"] for row in rows if "--name muon14" in row["command"])
    renamed = command.replace("optimiser.", "optimizer.")  # the row keeps its command as it was run
    words = [word for word in shlex.split(renamed) if "=" in word and not word.startswith("data.")]
    trained = override(recipe("resnet10-laptop"), parse_assignments(words))
    assert replace(trained, recipe="resnet10-light") == recipe("resnet10-light")


def test_an_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean resnet18-report"):
        recipe("resnet18-reprot")
