"""Runs as values: validation, changes by field=value, and the way through JSON."""

from __future__ import annotations

import json
import warnings
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinysight.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    difference,
    from_dict,
    override,
    parse_assignments,
)
from tinysight.recipes import RECIPES, recipe

RUN = Config(
    recipe="any",
    model=ModelConfig(options={"n": 1, "filters": (4, 8)}),
    train=TrainConfig(sizes=((0.0, 16), (0.5, 24))),
)
PATHS = [
    f"{s.name}.{f.name}"
    for s in fields(Config)
    if is_dataclass(getattr(RUN, s.name))
    for f in fields(getattr(RUN, s.name))
]


@pytest.mark.parametrize("name", ["variance_scaling", "xavier", "torch"])
def test_a_model_names_its_initialization(name: str) -> None:
    assert ModelConfig(init=name).init == name


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (DataConfig, {"train": "val"}),
        (DataConfig, {"monitor": "val"}),
        (DataConfig, {"train": "train+minival"}),
        (DataConfig, {"fraction": 0.0}),
        (DataConfig, {"fraction": 1.01}),
        (DataConfig, {"prefetch": -1}),
        (AugmentConfig, {"crop": -1}),
        (AugmentConfig, {"flip": 1.5}),
        (AugmentConfig, {"probability": -0.1}),
        (AugmentConfig, {"shift": -1}),
        (AugmentConfig, {"rotation": 181.0}),
        (AugmentConfig, {"contrast": (1.1, 0.9)}),
        (AugmentConfig, {"gamma": (0.0, 1.0)}),
        (AugmentConfig, {"gamma": (1.0,)}),
        (AugmentConfig, {"erase": 1.01}),
        (AugmentConfig, {"mix_probability": -0.5}),
        (AugmentConfig, {"mix_until": 2.0}),
        (AugmentConfig, {"mixup": -1.0}),
        (AugmentConfig, {"cutmix": 1e9}),
        (ModelConfig, {"init": "ones"}),
        (OptimizerConfig, {"name": "sdg"}),
        (OptimizerConfig, {"lr": 0.0}),
        (OptimizerConfig, {"momentum": 1.0}),
        (OptimizerConfig, {"momentum": 0.0}),
        (OptimizerConfig, {"weight_decay": -1e-4}),
        (OptimizerConfig, {"name": "rmsprop", "decay": 1.0}),
        (OptimizerConfig, {"name": "adam", "betas": (0.9, 1.0)}),
        (OptimizerConfig, {"epsilon": 0.0}),
        (ScheduleConfig, {"name": "cosinus"}),
        (ScheduleConfig, {"warmup": -1.0}),
        (ScheduleConfig, {"factor": 1.0}),
        (ScheduleConfig, {"patience": -1}),
        (ScheduleConfig, {"cycles": 0}),
        (TrainConfig, {"epochs": 0}),
        (TrainConfig, {"batch_size": 1}),
        (TrainConfig, {"label_smoothing": 1.0}),
        (TrainConfig, {"ema_decay": 1.0}),
        (TrainConfig, {"sizes": ((0.1, 32),)}),
        (TrainConfig, {"sizes": ((0.0, 32), (0.0, 40))}),
        (TrainConfig, {"sizes": ((0.0, 7),)}),
        (TrainConfig, {"sizes": ((0.0, 32), (1.0, 40))}),
        (TrainConfig, {"keep_weights": "first"}),
        (TrainConfig, {"snapshots": -1}),
        (TrainConfig, {"snapshot_every": 0}),
        (TrainConfig, {"seed": -1}),
        (TrainConfig, {"precision": "fp16"}),
        (TrainConfig, {"log_every": 0}),
        (TrainConfig, {"checkpoint_minutes": 0.0}),
        (TrainConfig, {"keep": 1}),
    ],
)
def test_a_value_out_of_range_is_refused_by_field_value_and_what_is_allowed(
    section: type, values: dict[str, object]
) -> None:
    with pytest.raises(
        ValueError,
        match=rf"^{section.__name__.removesuffix('Config').lower()}\.\w+ is .*; allowed: ",
    ) as error:
        section(**values)
    assert "\n" not in str(error.value)


def test_choosing_by_an_error_that_is_not_monitored_is_refused() -> None:
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


def test_snapshots_fall_on_the_ends_of_the_last_epochs_or_cycles() -> None:
    late = Config(recipe="any", train=TrainConfig(epochs=10, snapshots=3, snapshot_every=2))
    cyclic = Config(
        recipe="any",
        schedule=ScheduleConfig(name="cyclic", cycles=3),
        train=TrainConfig(epochs=12, snapshots=2),
    )
    assert late.snapshot_epochs() == [6, 8, 10] and cyclic.snapshot_epochs() == [8, 12]
    assert Config(recipe="any").snapshot_epochs() == []
    with pytest.raises(ValueError, match=r"train\.snapshots is 6; .*train\.epochs=10"):
        Config(recipe="any", train=TrainConfig(epochs=10, snapshots=6, snapshot_every=2))
    with pytest.raises(ValueError, match=r"train\.snapshot_every is 2; allowed: 1 "):
        Config(
            recipe="any",
            schedule=ScheduleConfig(name="cyclic", cycles=2),
            train=TrainConfig(epochs=4, snapshot_every=2),
        )
    with pytest.raises(ValueError, match=r"train\.epochs is 10; .*schedule\.cycles, which is 3"):
        Config(
            recipe="any",
            schedule=ScheduleConfig(name="cyclic", cycles=3),
            train=TrainConfig(epochs=10),
        )


def test_a_run_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        RUN.train.epochs = 3  # type: ignore[misc]


def test_a_run_goes_through_json_and_comes_back_equal() -> None:
    changed = override(
        RUN, {"augment.contrast": "0.5,1.5", "train.seed": "7", "optimizer.decay_all": "false"}
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
        ("train.sizes=((0,40),(0.7,56))", "train.sizes", ((0.0, 40), (0.7, 56))),
        ("train.sizes=()", "train.sizes", ()),
        ("model.options={}", "model.options", {}),
        ("model.options.n=2", "model.options", {"n": 2, "filters": (4, 8)}),
        ("model.options.filters=(1,2)", "model.options", {"n": 1, "filters": (1, 2)}),
        ("model.options.stem=v4", "model.options", {"n": 1, "filters": (4, 8), "stem": "v4"}),
        ("data.name=a=b", "data.name", "a=b"),
    ],
)
def test_settings_are_read_by_the_fields_type(setting: str, path: str, expected: object) -> None:
    section, name = path.split(".")
    value = getattr(getattr(override(RUN, dict(parse_assignments([setting]))), section), name)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("setting", "complaint"),
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
        ("train.sizes=(0,40)", "expected pairs (share, pixels), as ((0,40),(0.7,56))"),
        ("train.sizes=32", "expected pairs (share, pixels), as ((0,40),(0.7,56))"),
        ("train.epochs={[]:1}", "expected a whole number"),
        ("train.epochs=0", "allowed: at least 1"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(setting: str, complaint: str) -> None:
    with pytest.raises(ValueError) as error:
        override(RUN, dict(parse_assignments([setting])))
    assert complaint in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("setting", ["train.epochs", "=8", ""])
def test_what_is_no_setting_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"section\.field=value"):
        parse_assignments([setting])


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse_assignments(["train.epochs=1", "train.epochs=2"])


def test_several_settings_of_one_section_are_judged_together() -> None:
    plain = replace(RUN, optimizer=OptimizerConfig(momentum=0.0, nesterov=False))
    assert override(RUN, {"optimizer.momentum": "0", "optimizer.nesterov": "false"}) == plain


@settings(max_examples=60)
@given(
    path=st.sampled_from(PATHS),
    value=st.one_of(st.text(max_size=12), st.text("0123456789.,-()[]{}'e:", max_size=9)),
)
def test_any_text_is_taken_or_refused_in_one_line(path: str, value: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # Python's own, of texts like 1or2
        try:
            changed = override(RUN, {path: value})
        except ValueError:
            return
    assert from_dict(json.loads(json.dumps(asdict(changed)))) == changed


@pytest.mark.parametrize(
    "content", [{"recipe": "a", "trian": {}}, {"recipe": "a", "train": {"epoch": 1}}]
)
def test_an_unknown_field_of_a_record_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        from_dict(content)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("other", RECIPES)
def test_the_difference_of_two_runs_makes_one_of_the_other(name: str, other: str) -> None:
    run, base = recipe(name), recipe(other)
    made = override(base, dict(parse_assignments(difference(run, base))))
    assert replace(made, recipe=name) == run


def test_a_difference_says_what_differs_and_no_more() -> None:
    base = recipe("resnet18-report")
    assert difference(base, base) == []
    options = {
        "n": 2,
        "filters": (16, 32),
        "stem": "v4",
        "word": "true",
        "figure": "1",
        "flag": True,
        "share": 1e-7,
    }
    run = replace(
        base,
        data=replace(base.data, name="true"),
        model=replace(base.model, options=options),
        optimizer=replace(base.optimizer, nesterov=False, weight_decay=1e-05),
        train=replace(base.train, sizes=((0.0, 40), (0.7, 56))),
    )
    said = difference(run, base)
    assert said == [
        "data.name=true",
        "model.options.filters=(16, 32)",
        "model.options.stem='v4'",
        "model.options.word='true'",
        "model.options.figure='1'",
        "model.options.flag=True",
        "model.options.share=1e-07",
        "optimizer.nesterov=False",
        "optimizer.weight_decay=1e-05",
        "train.sizes=((0.0, 40), (0.7, 56))",
    ]
    made = override(base, dict(parse_assignments(said)))
    assert made == run
    assert {name: type(value) for name, value in made.model.options.items()} == {
        name: type(value) for name, value in options.items()
    }
    fewer = replace(base, model=replace(base.model, options={}))
    assert override(base, dict(parse_assignments(difference(fewer, base)))) == fewer
