"""Configs: validation, changes by field=value, differences, and JSON."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinysight.config import (
    OPERATIONAL,
    AugmentConfig,
    Config,
    DataConfig,
    Interval,
    LocalizerConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from tinysight.recipes import RECIPES, recipe
from tinysight.settings import difference, from_dict, override, parse_assignments, retired

CONFIG = Config(
    recipe="any",
    model=ModelConfig(options={"n": 1, "filters": (4, 8)}),
    train=TrainConfig(sizes=((0.0, 0.5), (0.5, 0.75))),
)
PATHS = [f"{section}.{name}" for section, v in asdict(CONFIG).items() if v != "any" for name in v]


OUT_OF_RANGE: dict[type, list[tuple[str, object]]] = {
    DataConfig: [
        *(("train", "val"), ("monitor", "val"), ("train", "train+minival")),
        *(("fraction", 0.0), ("fraction", 1.01), ("prefetch", -1)),
    ],
    AugmentConfig: [
        *(("crop", 0), ("flip", 1.5), ("probability", -0.1), ("shift", -1), ("rotation", 181.0)),
        *(("contrast", (1.1, 0.9)), ("gamma", (0.0, 1.0)), ("gamma", (1.0,))),
        *(("mix_probability", -0.5), ("mix_until", 2.0), ("mixup", -1.0), ("cutmix", 1e9)),
    ],
    ModelConfig: [("init", "ones")],
    LocalizerConfig: [
        *(("head", "detr"), ("grid", 0), ("grid", 33), ("num_steps", 51), ("overlap", "l1")),
        *(("cell_scale", 0.9), ("loss_weight", 0.0), ("box_weight", 0.0), ("giou_weight", -1.0)),
        *(("class_loss_weight", -1.0), ("decoding", "all"), ("threshold", 1.0), ("nms_iou", 0.0)),
    ],
    OptimizerConfig: [
        *(("name", "sdg"), ("lr", 0.0), ("lr", math.nan), ("momentum", 1.0), ("momentum", 0.0)),
        *(("weight_decay", -1e-4), ("decay", 1.0), ("betas", (0.9, 1.0)), ("epsilon", 0.0)),
    ],
    ScheduleConfig: [
        *(("name", "cosinus"), ("warmup", -1.0), ("factor", 1.0), ("patience", -1), ("cycles", 0))
    ],
    TrainConfig: [
        *(("epochs", -1), ("batch_size", 1), ("label_smoothing", 1.0), ("ema_decay", 1.0)),
        *(("sizes", ((0.1, 0.5),)), ("sizes", ((0.0, 0.5), (0.0, 1))), ("sizes", ((0.0, 40),))),
        *(("sizes", ((0.0, 0.5), (1.0, 1.0))), ("keep_weights", "first"), ("snapshots", -1)),
        *(("snapshot_every", 0), ("seed", -1), ("seed", 2**31), ("precision", "fp16")),
        *(("log_every", 0), ("checkpoint_minutes", 0.0), ("stop_after_minutes", -1.0), ("keep", 1)),
    ],
}


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [(section, *fault) for section, faults in OUT_OF_RANGE.items() for fault in faults],
)
def test_a_value_out_of_range_is_refused_with_field_value_and_what_is_allowed(
    section: type, name: str, value: object
) -> None:
    path = rf"{section.__name__.removesuffix('Config').lower()}\.\w+"
    with pytest.raises(ValueError, match=rf"^{path} is .*; allowed: ") as error:
        section(**{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("interval", "inside", "outside", "text"),
    [
        ("[0, 1]", (0, 0.5, 1, (0, 1)), (-0.1, 1.1, math.nan, (0, 2)), "at least 0, at most 1"),
        ("(0, 1)", (0.5,), (0, 1), "above 0, below 1"),
        ("[1, inf)", (1, 10**30), (0, math.inf), "at least 1"),
    ],
)
def test_intervals(
    interval: str, inside: tuple[object, ...], outside: tuple[object, ...], text: str
) -> None:
    assert all(value in Interval(interval) for value in inside)
    assert not any(value in Interval(interval) for value in outside)
    assert str(Interval(interval)) == text


@pytest.mark.parametrize(
    ("image_size", "crop", "sizes"), [(64, 56, (32, 48)), (128, 112, (64, 96)), (32, 28, (16, 24))]
)
def test_shares_of_the_image_become_pixels(
    image_size: int, crop: int, sizes: tuple[int, int]
) -> None:
    """The recipes' shares give the pixels that they were measured with at 64."""
    assert CONFIG.crop_side(image_size) == crop
    assert CONFIG.input_sizes(image_size) == ((0.0, sizes[0]), (0.5, sizes[1]))
    assert Config(recipe="any").input_sizes(image_size) == ((0.0, crop),)


def test_choices_by_an_error_that_is_not_monitored_are_refused() -> None:
    nothing = DataConfig(monitor="none")
    for fault in (
        {"schedule": ScheduleConfig(name="plateau")},
        {"schedule": ScheduleConfig(name="cosine"), "train": TrainConfig(keep_weights="best")},
    ):
        with pytest.raises(ValueError, match=r"data\.monitor"):
            Config(recipe="any", data=nothing, **fault)
    assert (
        Config(recipe="any", data=nothing, schedule=ScheduleConfig(name="cosine")).data == nothing
    )


def test_snapshots_are_at_the_ends_of_the_last_epochs_or_cycles() -> None:
    def config(schedule: str = "cosine", **train: int) -> Config:
        cyclic = ScheduleConfig(name=schedule, cycles=3)
        return Config(recipe="any", schedule=cyclic, train=TrainConfig(**train))

    assert config(epochs=10, snapshots=3, snapshot_every=2).snapshot_epochs() == [6, 8, 10]
    assert config("cyclic", epochs=12, snapshots=2).snapshot_epochs() == [8, 12]
    assert config().snapshot_epochs() == []
    with pytest.raises(ValueError, match=r"train\.snapshots is 6; .*train\.epochs=10"):
        config(epochs=10, snapshots=6, snapshot_every=2)
    with pytest.raises(ValueError, match=r"train\.snapshot_every is 2; allowed: 1 "):
        config("cyclic", epochs=6, snapshot_every=2)
    with pytest.raises(ValueError, match=r"train\.epochs is 10; .*schedule\.cycles, which is 3"):
        config("cyclic", epochs=10)


def test_a_config_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        CONFIG.train.epochs = 3  # type: ignore[misc]


def test_a_config_survives_json() -> None:
    changed = override(
        CONFIG, {"augment.contrast": "0.5,1.5", "train.seed": "7", "optimizer.decay_all": "false"}
    )
    assert from_dict(json.loads(json.dumps(asdict(changed)))) == changed
    assert from_dict(asdict(changed)) == changed


@pytest.mark.parametrize(
    ("setting", "path", "expected"),
    [
        ("train.epochs=8", "train.epochs", 8),
        ("optimizer.lr=1", "optimizer.lr", 1.0),
        ("optimizer.lr=5e-2", "optimizer.lr", 0.05),
        ("optimizer.nesterov=False", "optimizer.nesterov", False),
        ("data.name=8", "data.name", "8"),
        ("augment.gamma=1,1.5", "augment.gamma", (1.0, 1.5)),
        ("train.sizes=((0,0.5),(0.7,1))", "train.sizes", ((0.0, 0.5), (0.7, 1.0))),
        ("train.sizes=()", "train.sizes", ()),
        ("model.options={}", "model.options", {}),
        ("model.options.n=2", "model.options", {"n": 2, "filters": (4, 8)}),
        ("model.options.filters=(1,2)", "model.options", {"n": 1, "filters": (1, 2)}),
        ("model.options.stem=v4", "model.options", {"n": 1, "filters": (4, 8), "stem": "v4"}),
        ("data.name=a=b", "data.name", "a=b"),
    ],
)
def test_settings_are_parsed_by_the_type_of_the_field(
    setting: str, path: str, expected: object
) -> None:
    section, name = path.split(".")
    value = getattr(getattr(override(CONFIG, parse_assignments([setting])), section), name)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epoch=8", "did you mean train.epochs"),
        ("trian.epochs=8", "did you mean train"),
        ("epochs=8", "did you mean train.epochs"),
        ("recipe=other", "no field is named recipe"),
        ("train.=8", "no field"),
        ("train.epochs.x=8", "a level too deep"),
        ("train.epochs=8.5", "expected a whole number"),
        ("train.epochs=true", "expected a whole number"),
        ("train.epochs=", "expected a whole number"),
        ("optimizer.lr=nan", "expected a number"),
        ("optimizer.lr=1e999", "expected a number"),
        ("optimizer.nesterov=1", "expected true or false"),
        ("augment.gamma=1", "expected two numbers, as 0.9,1.08"),
        ("train.sizes=(0,40)", "expected pairs of shares, as ((0,0.625),(0.7,0.875))"),
        ("train.sizes=32", "expected pairs of shares, as ((0,0.625),(0.7,0.875))"),
        ("train.epochs={[]:1}", "expected a whole number"),
        ("train.epochs=-1", "allowed: at least 0"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        override(CONFIG, parse_assignments([setting]))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("setting", ["train.epochs", "=8", ""])
def test_what_is_not_a_setting_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"section\.field=value"):
        parse_assignments([setting])


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse_assignments(["train.epochs=1", "train.epochs=2"])


def test_settings_of_one_section_are_checked_together() -> None:
    plain = replace(CONFIG, optimizer=OptimizerConfig(momentum=0.0, nesterov=False))
    assert override(CONFIG, {"optimizer.momentum": "0", "optimizer.nesterov": "false"}) == plain


@settings(max_examples=60)
@given(
    path=st.sampled_from(PATHS),
    value=st.one_of(st.text(max_size=12), st.text("0123456789.,-()[]{}'e:", max_size=9)),
)
def test_any_text_is_parsed_or_refused_by_a_value_error(path: str, value: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # Python's own, of texts like 1or2
        try:
            changed = override(CONFIG, {path: value})
        except ValueError:
            return
    assert from_dict(json.loads(json.dumps(asdict(changed)))) == changed


@pytest.mark.parametrize(
    "content", [{"recipe": "a", "trian": {}}, {"recipe": "a", "train": {"epoch": 1}}]
)
def test_an_unknown_field_in_json_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        from_dict(content)


@pytest.mark.parametrize(("value", "found"), [(0.0, {}), (0.25, {"augment.erase": 0.25})])
def test_a_retired_setting_is_left_out_and_named_where_it_had_an_effect(
    value: float, found: dict[str, float]
) -> None:
    content = asdict(CONFIG)
    content["augment"]["erase"] = value
    assert from_dict(content) == CONFIG
    assert retired(content) == found


@pytest.mark.parametrize("name", ["augment.erase", "erase"])
def test_a_retired_setting_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValueError, match=r"augment.erase is gone: .*; leave it out"):
        override(CONFIG, {name: "0.25"})


@pytest.mark.parametrize("name", RECIPES)
def test_the_difference_of_two_configs_turns_one_into_the_other(name: str) -> None:
    config = recipe(name)
    for base in map(recipe, RECIPES):
        changed = override(base, parse_assignments(difference(config, base)))
        assert replace(changed, recipe=name) == config


def test_a_difference_lists_only_what_differs() -> None:
    base = recipe("resnet18-report")
    assert difference(base, base) == []
    options = {"n": 2, "filters": (16, 32), "stem": "v4", "word": "true", "digit": "1"}
    options |= {"flag": True, "share": 1e-7}
    config = replace(
        base,
        data=replace(base.data, name="true"),
        model=replace(base.model, options=options),
        optimizer=replace(base.optimizer, nesterov=False, weight_decay=1e-05),
        train=replace(base.train, sizes=((0.0, 0.5), (0.7, 1.0))),
    )
    assignments = difference(config, base)
    assert assignments == [
        "data.name=true",
        "model.options.filters=(16, 32)",
        "model.options.stem='v4'",
        "model.options.word='true'",
        "model.options.digit='1'",
        "model.options.flag=True",
        "model.options.share=1e-07",
        "optimizer.nesterov=False",
        "optimizer.weight_decay=1e-05",
        "train.sizes=((0.0, 0.5), (0.7, 1.0))",
    ]
    changed = override(base, parse_assignments(assignments))
    assert changed == config
    types = {name: type(value) for name, value in options.items()}
    assert {name: type(value) for name, value in changed.model.options.items()} == types
    fewer = replace(base, model=replace(base.model, options={}))
    assert override(base, parse_assignments(difference(fewer, base))) == fewer


def test_a_difference_can_ignore_what_changes_no_result() -> None:
    base = recipe("quickstart")
    later = override(base, dict.fromkeys(OPERATIONAL, 3))
    assert len(difference(later, base)) == len(OPERATIONAL)
    assert difference(later, base, ignore=OPERATIONAL) == []
