"""Make tests/golden/run, a finished run whose files every later version must read.

    python tests/golden/make.py

Only when the form of a file changes on purpose, with a new format number.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.evaluation.evaluate import Evaluation, evaluate_run
from tinysight.ops.boxes import Detections
from tinysight.predict.predictor import load_model
from tinysight.settings import override
from tinysight.training.loop import train

FOLDER = Path(__file__).parent / "run"
SETTINGS: dict[str, Any] = {
    "data.name": "random",
    "augment.crop": 0.875,
    "model.name": "resnet",
    "model.options": {"n": 1, "filters": (4, 4)},
    "optimizer.lr": 0.02,
    "train.epochs": 1,
    "train.batch_size": 16,
    "train.ema_decay": 0.9,
    "train.snapshots": 1,
    "train.device": "cpu",
    "train.precision": "fp32",
    "train.log_every": 4,
}


class RandomDataset:
    """Random images of 32 pixels with one or two random boxes each, as a `Dataset` looks."""

    def __init__(self) -> None:
        generator = np.random.Generator(np.random.Philox(7))
        self.name, self.image_size, self.fit, self.digest = "random", 32, "crop", "none"
        self.class_names = self.class_ids = ("a", "b", "c", "d")
        self.splits = {"train": (0, 72), "minival": (72, 96), "val": (72, 96)}
        self.images = generator.integers(0, 256, (96, 32, 32, 3), dtype=np.uint8)
        self.labels = generator.integers(0, 4, 96)
        self.box_offsets = np.concatenate([[0], np.cumsum(generator.integers(1, 3, 96))])
        corner = generator.uniform(0, 16, (self.box_offsets[-1], 2))
        sides = generator.uniform(4, 16, corner.shape)
        self.boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)

    rows = Dataset.rows
    boxes_of = Dataset.boxes_of
    padded_boxes = Dataset.padded_boxes
    _padded = Dataset._padded

    def __len__(self) -> int:
        return len(self.images)


def main() -> None:
    """Train, evaluate, and write down what the model predicts for a few images."""
    dataset = cast(Dataset, RandomDataset())
    shutil.rmtree(FOLDER, ignore_errors=True)
    config = override(Config(recipe="golden"), SETTINGS)
    run = train(config, dataset, name=FOLDER, command="python tests/golden/make.py")
    evaluate_run(run, dataset, "val")
    shutil.rmtree(run.tensorboard_path)
    detections = Detections(
        boxes=torch.tensor([[[1.0, 2.0, 5.0, 8.0], [0.0, 0.0, 0.0, 0.0]]]),
        confidence=torch.tensor([[0.75, 0.0]]),
    )
    one = torch.zeros(1, dtype=torch.int64)  # a localizer's evaluation; bundled weights are one's
    Evaluation(
        data="random",
        split="val",
        logits=torch.tensor([[0.5, -1.0]]),
        labels=one,
        rows=one.clone(),
        detections=detections,
    ).save(run.scores_path("boxes"))
    found = [each.top for each in load_model(run.folder).predict(list(dataset.images[:4]))]
    (FOLDER / "predictions.json").write_text(json.dumps(found, indent=1))
    (FOLDER / ".lock").unlink()


if __name__ == "__main__":
    main()
