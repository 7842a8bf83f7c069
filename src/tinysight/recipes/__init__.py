"""Named configs. A recipe is a function that returns a `Config`; a variant is `replace(base, ...)`.

The first line of each docstring is what the recipe trains; `tinysight recipes` shows Images and
Hardware of its labeled lines, `recipes NAME` all. "Result" is what was measured (see experiments/),
or states that nothing has been yet.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

from tinysight.config import Config
from tinysight.files import suggest
from tinysight.recipes import classifiers, localizers

FEWEST_OF_A_CLASS = 30  # from which `small` was as good as fixed features, see experiments/014
FEWEST_IMAGES = 10_000  # for which the recipes made for Tiny ImageNet are a good choice

RECIPES: dict[str, Callable[[], Config]] = {
    name.replace("_", "-"): make
    for module in (classifiers, localizers)
    for name, make in vars(module).items()
    if inspect.isfunction(make) and make.__module__ == module.__name__
}


def recipe(name: str) -> Config:
    """Return the config of a recipe; raise ValueError with the nearest name if there is none."""
    if name not in RECIPES:
        raise ValueError(f"no recipe is named {name!r}; {suggest(name, RECIPES)}")
    return RECIPES[name]()


def labeled(name: str) -> dict[str, str]:
    """Return the labeled lines of a recipe's docstring: Source, Images, Hardware, Time, Result."""
    text = inspect.getdoc(RECIPES[name]) or ""
    found = re.split(r"^([A-Z]\w+): ", text, flags=re.MULTILINE)[1:]
    return {
        key: " ".join(value.split()) for key, value in zip(found[::2], found[1::2], strict=True)
    }


def better_for(name: str, num_images: int, num_classes: int) -> str:
    """Return a phrase that names what is better for so few images; "" where `name` is as good."""
    if name == "small" and num_images < FEWEST_OF_A_CLASS * num_classes:
        return (
            f"below {FEWEST_OF_A_CLASS} of a class `finetune` is likely better, and takes seconds"
        )
    made_for_many = name in RECIPES and recipe(name).data.name == "tiny-imagenet"
    if not made_for_many or num_images >= FEWEST_IMAGES or recipe(name).localizer.finds:
        return ""
    return f"{name} is made for {FEWEST_IMAGES:,} and more: `small` is quicker and likely better"
