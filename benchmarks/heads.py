"""One table of a localizer's heads by data set, each with the same network, images and steps.

    python benchmarks/heads.py --cells cells --kangaroo kangaroo96 [--heads lstm-4 centernet]

Trains what is not yet trained, as runs `heads-<data>-<head>`, and prints a row for each. One seed.
Goldfish are judged on fold 0's minival and on mosaics of val, drawn scenes on minival, kangaroos on
fold 0, cells on val. `mlp` learns without mosaics, as it has one box for an image."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Any

import tinysight as ts
from tinysight.api.evaluate import evaluate_files
from tinysight.recipes import recipe
from tinysight.run import Run

HEADS: dict[str, dict[str, Any]] = {
    "mlp": {"head": "mlp", "grid": 1},
    "lstm-1": {"head": "lstm", "grid": 1},
    "lstm-4": {"head": "lstm", "grid": 4},
    "lstm-8": {"head": "lstm", "grid": 8},
    "centernet": {"head": "centernet", "grid": 0},  # a cell for four pixels
}
ADAM = {"name": "adam", "lr": 0.001, "weight_decay": 1e-4, "decay_all": False}


@dataclass(frozen=True)
class Setting:
    """What is learned from, by which recipe, and where it is judged."""

    data: str
    recipe: str
    epochs: int
    size: int  # pixels
    judged: tuple[tuple[str, str], ...]  # data and split
    mosaic: float = 0.5


def settings(kangaroo: str, cells: str) -> dict[str, Setting]:
    """Return the settings, by name."""
    goldfish = "tiny-imagenet.goldfish"
    on_goldfish = ((goldfish, "minival"), (f"{goldfish}.mosaics", "val"))
    fold, scenes = f"{kangaroo}.fold0", "shapes-2-4"
    return {
        "goldfish": Setting(goldfish, "localizer-goldfish", 20, 64, on_goldfish),
        "scenes": Setting(scenes, "localizer-scenes", 2, 64, ((scenes, "minival"),), 0.0),
        "kangaroo": Setting(fold, "localizer-small", 30, 96, ((fold, "val"),), 0.0),
        "cells": Setting(cells, "localizer-many", 13, 128, ((cells, "val"),), 0.0),
    }


def trained(name: str, one: Setting, head: str) -> Run:
    """Train a head on a setting, unless it is trained."""
    config = recipe(one.recipe)
    own = dict(HEADS[head])
    own["grid"] = own["grid"] or one.size // 4
    mosaic = one.mosaic if head != "mlp" else 0.0
    config = replace(
        config,
        localizer=replace(config.localizer, **own, giou_weight=1.0),
        augment=replace(config.augment, mosaic=mosaic, zoom=max(config.augment.zoom, 1.4)),
        optimizer=replace(config.optimizer, **ADAM),
        train=replace(
            config.train,
            epochs=one.epochs,
            ema_decay=0.0,
            flip_average=head in ("mlp", "centernet"),
        ),
    )
    if one.data.endswith(".fold0") or one.recipe == "localizer-many":
        config = replace(config, data=replace(config.data, monitor="none"))
    return ts.train(config, one.data, name=f"heads-{name}-{head}", resume=True)


def main() -> None:
    """Print a row for each head, data and split."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kangaroo", default="kangaroo96")
    parser.add_argument("--cells", default="cells")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--data", nargs="+", default=["goldfish", "scenes", "kangaroo", "cells"])
    given = parser.parse_args()
    header = ("Loc@.5", "AP50", "count", "recall")  # recall at one wrong box an image
    print(f"{'':<32} {'':<10}{''.join(f'{name:>8}' for name in header)}")
    for name in given.data:
        one = settings(given.kangaroo, given.cells)[name]
        for head in given.heads:
            run = trained(name, one, head)
            for data, split in one.judged:
                boxes = evaluate_files(run, split, data=data).boxes
                assert boxes is not None
                sets, shares = boxes["sets"], [boxes["localization"]["loc50"], boxes["ap50"]]
                shares += [sets["count_accuracy"], sets["recall_at_1_fppi"]]
                line = "".join(f"{'-' if s is None else f'{100 * s:.1f}':>8}" for s in shares)
                print(f"{data:<32} {head:<10}{line}", flush=True)


if __name__ == "__main__":
    main()
