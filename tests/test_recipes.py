"""Recipes are valid configs whose models can be created and whose docstrings are complete."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from tinysight.models import create_model
from tinysight.recipes import RECIPES, recipe
from tinysight.settings import from_dict, override, parse_assignments


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_its_name_and_survives_json(name: str) -> None:
    config = recipe(name)
    assert config.recipe == name
    assert from_dict(json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize("name", RECIPES)
def test_the_model_of_a_recipe_can_be_created(name: str) -> None:
    config = recipe(name)
    with torch.device("meta"):
        model = create_model(config.model.name, 200, **config.model.options)
    small = (
        "quickstart",
        "small",
        *(f"localizer-{n}" for n in ("goldfish", "scenes", "shapes", "many")),
    )
    assert model.num_features >= 512 or name in small


@pytest.mark.parametrize("name", RECIPES)
def test_the_docstring_of_a_recipe_has_its_labeled_lines_in_order(name: str) -> None:
    text = inspect.getdoc(RECIPES[name]) or ""
    assert text.splitlines()[0].endswith(".")
    labels = re.findall(r"^(\w+): \S", text, flags=re.MULTILINE)
    assert labels == ["Source", "Images", "Hardware", "Time", "Result"]
    time, result = text.partition("Time:")[2].split("Result:")
    assert re.search(r"\d", time)
    assert re.search(r"\d", result) or "ot yet run" in result


def test_the_reports_recipes_are_as_published() -> None:
    resnet, inception = recipe("resnet18-report"), recipe("inception-resnet-report")
    sgd, rmsprop = resnet.optimizer, inception.optimizer
    assert (sgd.name, sgd.lr, sgd.momentum, sgd.nesterov) == ("sgd", 0.1, 0.9, True)
    assert (sgd.weight_decay, sgd.decay_all) == (2e-4, True)
    assert (resnet.schedule.name, resnet.schedule.factor) == ("plateau", 0.1)
    augment = resnet.augment
    assert (augment.crop, augment.contrast, augment.gamma) == (0.875, (0.9, 1.08), (0.9, 1.08))
    assert resnet.model.options == {"n": 2} and recipe("resnet10-report").model.options == {"n": 1}
    assert (rmsprop.name, rmsprop.lr, rmsprop.decay, rmsprop.epsilon) == ("rmsprop", 0.05, 0.9, 1)
    for vgg in map(recipe, ("vgg16-report", "vgg19-report")):
        assert (vgg.optimizer.name, vgg.optimizer.lr) == ("adam", 0.001)
        assert (vgg.schedule.name, vgg.schedule.factor) == ("exponential", 0.9)
        assert inception.schedule == vgg.schedule
        assert inception.augment == vgg.augment == augment


@pytest.mark.parametrize("name", ["resnet18", "inception-resnet", "vgg16", "vgg19"])
def test_a_modern_recipe_has_the_reports_model(name: str) -> None:
    assert recipe(f"{name}-modern").model == recipe(f"{name}-report").model
    assert recipe(f"{name}-modern").train.label_smoothing == 0.1


def test_the_light_recipe_equals_the_command_of_its_result() -> None:
    results = Path(__file__).parents[1] / "benchmarks" / "results.jsonl"
    rows = map(json.loads, results.read_text().splitlines())
    (command,) = (row["command"] for row in rows if "--name muon14" in row["command"])
    renamed = command.replace("optimiser.", "optimizer.")  # the row keeps its command as it was run
    renamed = re.sub(r",(\d\d)\)", lambda pixels: f",{int(pixels[1]) / 64})", renamed)
    words = [word for word in shlex.split(renamed) if "=" in word and not word.startswith("data.")]
    trained = override(recipe("resnet10-laptop"), parse_assignments(words))
    assert replace(trained, recipe="resnet10-light") == recipe("resnet10-light")


def test_an_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean resnet18-report"):
        recipe("resnet18-reprot")
