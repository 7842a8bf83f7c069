"""What depends on the number of images; signs that a training does not learn; early stopping."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tinysight.config import Config
from tinysight.data.build import build
from tinysight.data.shapes import Shapes
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import Metrics
from tinysight.ops.metrics import majority_error
from tinysight.ops.mixing import Targets
from tinysight.recipes import RECIPES, better_for, labeled, recipe
from tinysight.settings import override, parse_assignments
from tinysight.training import health, losses
from tinysight.training.distributed import DistributedContext
from tinysight.training.health import complaint
from tinysight.training.scaling import lower_rate, scaled, scaled_as, warmup_steps
from tinysight.training.trainer import Trainer

CPU = Runtime(device=torch.device("cpu"), bf16=False)
METRICS = Metrics(200, 2.0, 0.5, 0.4, 0.6, 0.1, 0.0, 0.2, 0.1)


@pytest.mark.parametrize(
    ("num_images", "epochs", "batch_size", "lr"),
    [
        (20, 1000, 8, 0.025),
        (100, 300, 8, 0.025),
        (320, 94, 16, 0.05),
        (640, 47, 32, 0.1),
        (1442, 21, 32, 0.1),
        (50_000, 10, 32, 0.1),
    ],
)
def test_small_is_scaled_to_the_number_of_images(
    num_images: int, epochs: int, batch_size: int, lr: float
) -> None:
    config = scaled(recipe("small"), num_images)
    found = config.train.epochs, config.train.batch_size, config.optimizer.lr
    assert found == (epochs, batch_size, pytest.approx(lr))
    assert scaled_as(recipe("small"), config) == config
    other = override(recipe("small"), {"optimizer.lr": 0.2})
    assert scaled_as(other, config).optimizer.lr == pytest.approx(2 * lr)  # and not the known
    chosen = override(recipe("small"), {"train.epochs": 7, "train.batch_size": 64})
    assert scaled(chosen, num_images) == chosen  # what is set stays


def test_trained_weights_and_localizers_take_a_hundred_epochs_at_most() -> None:
    from_weights = override(recipe("small"), {"model.pretrained": "bundled"})
    for config in (from_weights, recipe("localizer-many"), recipe("localizer-small")):
        assert [scaled(config, number).train.epochs for number in (20, 1442)] == [100, 21]


def test_a_warmup_is_at_most_a_quarter_of_the_training() -> None:
    assert warmup_steps(0.5, per_epoch=10.0, total=100) == 5
    assert warmup_steps(3.0, per_epoch=10.0, total=30) == 7
    assert warmup_steps(0.0, per_epoch=10.0, total=30) == 0


def test_recipes_made_for_many_images_point_to_small_where_there_are_few() -> None:
    for name in RECIPES:
        many = "10,000" in labeled(name)["Images"] and not recipe(name).localizer.finds
        assert bool(better_for(name, 9_999, 10)) is many
        assert better_for(name, 10_000, 200) == ""
    assert better_for("my own", 10, 2) == ""
    assert "`finetune`" in better_for("small", 299, 10) and better_for("small", 300, 10) == ""


def test_majority_error_counts_labeled_images_only() -> None:
    assert majority_error(torch.tensor([0, 0, 0, 1, 2, -1, -1, -1, -1])) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("changes", "done", "expected"),
    [
        ({"top1_error": 0.89, "top1_low": 0.46}, 1.0, "nothing has been learned so far; try "),
        ({"top1_error": 0.89, "top1_low": 0.44}, 1.0, ""),  # of few images: cannot be told
        ({"top1_error": 0.89, "top1_low": 0.46}, 0.9, ""),  # too early to tell
        ({"top1_error": 0.87, "top1_low": 0.82}, 1.0, ""),
        ({"loss": 77.0}, 0.2, ""),
        ({"loss": 77.0}, 0.3, "loss is 77, of guessing 2.3: the training has gone astray"),
        ({"loss": 6.0}, 1.0, ""),
    ],
)
def test_a_training_that_does_not_learn_is_named(
    changes: dict[str, float], done: float, expected: str
) -> None:
    metrics = replace(METRICS, **changes)
    about: dict[str, Any] = {"num_classes": 10, "done": done, "lower": "a lower rate"}
    found = complaint(metrics, 0.9, num_images=300, train_error=0.46, **about)
    assert expected in found and bool(found) is bool(expected)
    assert not found or found.endswith("; try a lower rate")
    few = complaint(metrics, 0.9, num_images=299, train_error=0.46, **about)
    finetune = "; try tinysight finetune, which needs fewer images; or a lower"
    assert few == found.replace("; try a lower", finetune)


def test_memorized_training_images_are_not_for_want_of_a_rate() -> None:
    about: dict[str, Any] = {"num_classes": 10, "done": 1.0, "lower": "a lower rate"}
    metrics = replace(METRICS, top1_error=0.89, top1_low=0.84)
    found = complaint(metrics, 0.9, num_images=300, train_error=0.44, **about)
    assert found == (
        "the monitored error is 89.0% of 200 images, and always predicting the most frequent class "
        "has 90.0%; those of the training, with 44.0%, are memorized: try more images; or more "
        "augmentation"
    )
    assert complaint(metrics, 0.9, num_images=300, train_error=math.nan, **about) == ""
    few = complaint(metrics, 0.9, num_images=299, train_error=0.0, **about)
    assert few.endswith("memorized: try more images; tinysight finetune needs fewer")


@pytest.mark.parametrize("batch_size", [0, 8])
def test_the_lower_rate_is_what_trains_where_it_is_typed(batch_size: int) -> None:
    first = scaled(override(recipe("small"), {"train.batch_size": batch_size}), 22)
    start, _, settings = lower_rate(first).partition(", such as ")
    assert start == f"a lower learning rate than {first.optimizer.lr:g}"
    typed = override(recipe("small"), parse_assignments(settings.split()))
    second = scaled(typed, 22)
    assert second.optimizer.lr == pytest.approx(first.optimizer.lr / 5)
    assert second.train == first.train
    assert lower_rate(recipe("quickstart")).endswith("than 0.1, such as optimizer.lr=0.02")


def test_the_loop_says_once_and_at_the_end_that_nothing_is_learned(
    trial: Any, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "AT_CHANCE", 0.8)  # of 24 images one or two are right by luck
    trial.at(optimizer__lr=1e-9, train__epochs=6, train__batch_size=24).go()
    warnings = [text for text in messages if "nothing has been learned so far" in text]
    assert [text[:17] for text in warnings] == ["warning: epoch 3:", "warning: epoch 6:"]


def test_the_loop_knows_the_error_on_training_images(
    trial: Any, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "AT_CHANCE", 0.8)
    monkeypatch.setattr(health, "MEMORIZED", 2.0)
    own = {"optimizer__lr": 1e-9, "train__epochs": 3, "train__batch_size": 24}
    trial.at(**own, train__log_every=1).go()
    (found,) = (text for text in messages if "memorized" in text)
    last = trial.lines("train")[-1]["top1_error"]
    assert f"those of the training, with {last:.1%}, are memorized" in found


def test_a_training_ends_early_where_the_error_gets_no_better(trial: Any) -> None:
    own = {"optimizer__lr": 1e-9, "train__epochs": 9, "train__early_stopping": 2}
    stopped = trial.at(**own, train__ema_decay=0.0, train__keep_weights="best")
    stopped.go()
    errors = [line["top1_error"] for line in stopped.lines("epoch")]
    best = errors.index(min(errors))
    assert len(errors) == best + 3 < 9
    summary = json.loads((stopped.folder / "summary.json").read_text())
    assert summary["epochs"] == len(errors)


def test_a_training_ends_early_only_at_its_last_size(trial: Any) -> None:
    own = {"optimizer__lr": 1e-9, "train__epochs": 9, "train__early_stopping": 1}
    growing = trial.at(**own, train__ema_decay=0.0, train__sizes=((0.0, 0.5), (0.5, 0.75)))
    growing.go()
    assert len(growing.lines("epoch")) in (6, 7)  # that size from the middle of epoch 5 on


def test_balanced_classes_weigh_the_same_in_the_loss(trial: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 3, generator=generator)
    labels = torch.tensor([0] * 8 + [1] * 3 + [2])
    counts = torch.bincount(labels)
    weights = 12 / (3 * counts.float())  # what class_balance=1 gives
    found = losses.classification(logits, labels, None, label_smoothing=0.0, weights=weights)
    each = F.cross_entropy(logits, labels, reduction="none")
    by_class = torch.stack([each[labels == label].mean() for label in range(3)])
    assert float(found) == pytest.approx(float(by_class.mean()), rel=1e-5)
    partners = labels.flip(0)  # of other classes, so that each part needs its own weight
    targets = Targets(labels=labels, partners=partners, weight=torch.full((12,), 0.75))
    mixed = losses.classification(logits, labels, targets, label_smoothing=0.0, weights=weights)
    other = F.cross_entropy(logits, partners, reduction="none") * weights[partners]
    expected = (0.75 * each * weights[labels] + 0.25 * other).mean()
    assert float(mixed) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_class_weights_are_one_on_average_over_the_images(
    power: float, make_config: Any, data_home: Path
) -> None:
    sizes = {"num_train": 31, "num_minival": 24, "num_val": 0, "num_test": 0}
    dataset = build(Shapes(**sizes, image_size=32, name="uneven"), home=data_home, workers=1)
    config: Config = make_config(train__class_balance=power)
    trainer = Trainer(config, dataset, CPU, DistributedContext())
    if not power:
        assert trainer.class_weights is None
        return
    rows = dataset.rows("train")
    counts = torch.bincount(torch.from_numpy(dataset.labels[rows.start : rows.stop].copy()))
    assert trainer.class_weights is not None and len(set(counts.tolist())) > 1
    weights = trainer.class_weights.double()
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1.0)
    ratio = float(weights[counts.argmin()] / weights[counts.argmax()])
    assert ratio == pytest.approx((int(counts.max()) / int(counts.min())) ** power)
    assert math.isfinite(ratio)


def test_a_localizers_class_loss_is_weighted_too(make_config: Any, dataset: Any) -> None:
    found = {}
    for balance in (0.0, 1.0):
        config = make_config(localizer__head="lstm", augment__crop=1.0, augment__rotation=0.0)
        trainer = Trainer(config, dataset, CPU, DistributedContext())
        if balance:
            trainer.class_weights = torch.full((24,), 3.0)
        trainer.step(trainer.loader.batch(0))
        found[balance] = trainer.take_sums()
    assert found[0.0]["box_loss"] == pytest.approx(found[1.0]["box_loss"])
    gain = found[1.0]["loss"] - found[0.0]["loss"]
    assert gain == pytest.approx(2 * math.log(24), rel=0.5)  # two class losses more
