"""A setting without an effect is refused; every setting of the table exists."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tinysight.config import Config
from tinysight.recipes import recipe
from tinysight.settings import USED_WITH, USED_WITH_ANY, change


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer.betas": "0.9,0.99"}, "no effect with optimizer.name=sgd; set .* to adam,"),
        ({"optimizer.decay": 0.1}, "no effect with optimizer.name=sgd; set .* to rmsprop,"),
        ({"schedule.patience": 2}, "schedule.patience has no effect with schedule.name=cosine"),
        ({"localizer.grid": 4}, "localizer.grid has no effect with localizer.head=none"),
        (
            {"localizer.head": "mlp", "localizer.overlap": "center"},
            "localizer.overlap has no effect with localizer.head=mlp; set .* to lstm",
        ),
        (
            {"augment.mix_probability": 0.3},
            "augment.mix_probability has no effect with augment.mixup=0.0 and augment.cutmix=0.0; "
            "set augment.mixup or augment.cutmix, or leave augment.mix_probability out",
        ),
        (
            {"localizer.head": "lstm", "localizer.class_loss_weight": 0, "train.class_balance": 1},
            "train.class_balance has no effect with localizer.class_loss_weight=0",
        ),
        ({"augment.mix_until": 0.9}, "set augment.mixup or augment.cutmix or augment.mosaic"),
        ({"train.snapshot_every": 2}, "with train.snapshots=0; set train.snapshots"),
        ({"train.record_every": 2}, "train.record_every has no effect with train.record="),
        (
            {"localizer.head": "mlp", "localizer.num_steps": 2},
            "localizer.num_steps has no effect with localizer.head=mlp; set .* to lstm",
        ),
    ],
)
def test_a_change_without_an_effect_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        change(recipe("quickstart"), changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.name": "adam", "optimizer.betas": "0.9,0.99"},
        {"schedule.name": "plateau", "schedule.patience": 2},
        {"localizer.head": "none"},
        {"augment.cutmix": 1.0, "augment.mix_probability": 0.3, "augment.mix_until": 0.9},
        {"train.snapshots": 2, "train.snapshot_every": 2},
        {"localizer.head": "lstm", "localizer.grid": 4, "localizer.num_steps": 2},
        {"train.epochs": 3},
    ],
)
def test_a_change_with_an_effect_is_made(changes: dict[str, object]) -> None:
    changed = change(recipe("quickstart"), changes)
    assert changed != recipe("quickstart") or changes == {"localizer.head": "none"}


def test_the_table_names_settings_and_values_that_there_are() -> None:
    base = Config(recipe="x")
    for name, (deciding, values) in USED_WITH.items():
        section, _, setting = name.partition(".")
        assert hasattr(getattr(base, section), setting or "__class__"), name
        section, _, setting = deciding.partition(".")
        (declared,) = (f for f in fields(getattr(base, section)) if f.name == setting)
        assert set(values) <= set(declared.metadata.get("allowed", (True, False))), name
    for name, needed in USED_WITH_ANY.items():
        for each in (name, *needed):
            section, _, setting = each.partition(".")
            assert hasattr(getattr(base, section), setting), each
