"""Golden loss curves: draws, order, initialization and arithmetic of a training stay as they are."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from tinysight.config import Config, override
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.train.distributed import DistributedContext
from tinysight.train.trainer import Trainer

BASE = {
    "model.name": "resnet",
    "model.options": {"n": 1, "filters": (8, 16)},
    "train.epochs": 2,
    "train.batch_size": 16,
    "train.ema_decay": 0.9,
    "train.device": "cpu",
    "train.precision": "fp32",
    "schedule.name": "cosine",
    "schedule.warmup": 0.5,
}
CLASSIFIER = {
    "optimizer.name": "muon",
    "optimizer.lr": 0.02,
    "augment.crop": 24,
    "augment.trivial_augment": True,
    "augment.erase": 0.5,
    "augment.mixup": 0.4,
    "augment.cutmix": 1.0,
    "augment.mix_until": 0.6,
    "train.label_smoothing": 0.1,
    "train.sizes": ((0.0, 16), (0.5, 24)),
}
LOCALIZER = {
    "optimizer.lr": 0.02,
    "augment.crop": 0,
    "augment.rotation": 5.0,
    "localizer.head": "lstm",
    "localizer.grid": 4,
    "localizer.giou_weight": 0.5,
}
# Loss and share of wrong images per step; last, the sum of the averaged weights' absolute values.
CURVES = {
    "classifier": [
        *(2.4448709, 0.75, 1.7006049, 0.625, 2.5452588, 0.75, 1.6018723, 0.875, 1.8548658, 0.875),
        *(1.5746907, 0.75, 1.52452, 0.8125, 1.4439887, 0.6875, 1.2086383, 0.375, 1586.9312056),
    ],
    "localizer": [
        *(14.6098623, 0.6875, 13.2615166, 0.5625, 15.7337589, 0.8125, 15.7989082, 0.6875),
        *(16.5754433, 0.75, 14.8560371, 0.5625, 15.1115055, 0.6875, 14.2774906, 0.75),
        *(15.2894125, 0.8125, 21675.7141735),
    ],
}


class RandomDataset:
    """Random images of 32 pixels with one or two random boxes each, as a `Dataset` looks."""

    def __init__(self) -> None:
        generator = np.random.Generator(np.random.Philox(7))
        self.name, self.image_size, self.digest = "random", 32, "none"
        self.class_names = self.class_ids = ("a", "b", "c", "d")
        self.splits = {"train": (0, 72), "minival": (72, 96)}
        self.images = generator.integers(0, 256, (96, 32, 32, 3), dtype=np.uint8)
        self.labels = generator.integers(0, 4, 96)
        self.box_offsets = np.concatenate([[0], np.cumsum(generator.integers(1, 3, 96))])
        corner = generator.uniform(0, 16, (self.box_offsets[-1], 2))
        sides = generator.uniform(4, 16, corner.shape)
        self.boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)

    rows = Dataset.rows
    boxes_of = Dataset.boxes_of
    padded_boxes = Dataset.padded_boxes

    def __len__(self) -> int:
        return len(self.images)


def curve(changes: dict[str, Any]) -> list[float]:
    """Train to the end, and return loss and error of each step and the sum of the averaged weights."""
    config = override(Config(recipe="golden"), BASE | changes)
    with torch.random.fork_rng([]):
        trainer = Trainer(
            config,
            cast(Dataset, RandomDataset()),
            Runtime(device=torch.device("cpu"), bf16=False),
            DistributedContext(),
        )
        values = []
        for number in range(9):
            trainer.step(trainer.loader.batch(number))
            sums = trainer.take_sums()
            values += [sums["loss"], sums["top1_error"]]
    assert trainer.ema is not None
    weights = trainer.ema.model.state_dict().values()
    return [*values, float(sum(value.double().abs().sum() for value in weights))]


@pytest.mark.parametrize("changes", [CLASSIFIER, LOCALIZER])
def test_the_loss_curve_is_the_recorded_one(changes: dict[str, Any]) -> None:
    name = "localizer" if "localizer.head" in changes else "classifier"
    assert curve(changes) == pytest.approx(CURVES[name], rel=2e-6)
