"""A dataset and run folders made up without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinysight.config import AugmentConfig, Config, DataConfig, LocalizerConfig, ModelConfig
from tinysight.data.build import build
from tinysight.data.dataset import Dataset, DatasetIndex
from tinysight.evaluation.evaluate import Evaluation
from tinysight.models import create_model
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.weights import weights_bytes
from tinysight.run import Run

MakeDataset = Callable[..., Dataset]
MakeFolder = Callable[..., Path]


@dataclass(frozen=True)
class Stripes:
    """The source of a made-up dataset: stripes that differ by row."""

    index: DatasetIndex
    name: str = "made"
    origin: dict[str, Any] = field(
        default_factory=lambda: {"kind": "test", "path": None, "fingerprint": "x"}
    )

    def decode(self, row: int) -> np.ndarray:
        size = self.index.image_size
        image = np.full((size, size, 3), (row * 7) % 256, np.uint8)
        image[:: 2 + row % 3, :, row % 3] = 255 - image[0, 0, 0]
        image[row // 7 % size, row % size] = (row % 251, row // 251, 77)
        return image


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Build a dataset: `counts` images per class in val, four in train and one in minival."""

    def make(
        names: Sequence[str] = ("disc", "ring", "star"),
        counts: Sequence[int] = (6, 6, 6),
        *,
        boxes: bool = True,
    ) -> Dataset:
        num, classes = len(names), np.arange(len(names))
        labels = np.concatenate([classes.repeat(4), classes, classes.repeat(counts)])
        starts, rows = (0, 4 * num, 5 * num, len(labels)), len(labels)
        index = DatasetIndex(
            image_size=16,
            class_names=tuple(names),
            class_ids=tuple(f"c{number}" for number in range(num)),
            files=tuple(f"{row}.png" for row in range(rows)),
            labels=labels.astype(np.int64),
            boxes=np.tile(np.array([[4, 4, 10, 10]], np.float32), (rows * boxes, 1)),
            box_labels=labels[: rows * boxes].astype(np.int64),
            box_offsets=np.arange(rows + 1) * boxes,
            splits={"train": starts[:2], "minival": starts[1:3], "val": starts[2:4]},
        )
        return build(Stripes(index), home=tmp_path / "data", workers=1)

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write a run's folder: predictions with an `accuracy`, a log, and weights, where wanted."""

    def make(
        dataset: Dataset,
        name: str = "run",
        *,
        accuracy: float | None = 0.5,
        weights: bool = True,
        log: bool = True,
        seed: int = 0,
        split: str = "val",
        extra_lines: Sequence[dict[str, Any]] = (),
        localizer: LocalizerConfig | None = None,
    ) -> Path:
        (tmp_path / name).mkdir()
        config = Config(
            recipe="test",
            data=DataConfig(name=dataset.name),
            augment=AugmentConfig(crop=0.75 if localizer is None else 1.0, rotation=0),
            model=ModelConfig(name="resnet", options={"n": 1, "filters": (4, 8)}),
            localizer=localizer or LocalizerConfig(),
        )
        machine = {"device": "cpu", "bf16": False, "threads": 1, "processes": 1}
        run = Run(
            folder=tmp_path / name, config=config, data_digest=dataset.digest, machine=machine,
            versions={"tinysight": "0"}, command="c",
        )  # fmt: skip
        run.write()
        if log:
            train = {"kind": "train", "loss": 2.0, "top1_error": 0.9, "lr": 0.1, "size": 12}
            lines = [train | {"step": step, "epoch": step / 10} for step in (10, 20)]
            monitored = {"loss": 1.0, "top1_error": 0.7, "top5_error": 0.1}
            lines += [{"kind": "epoch", "step": 10, "epoch": 1} | monitored, *extra_lines]
            run.log_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        if accuracy is not None:
            write_evaluation(run, dataset, split, accuracy, seed)
        if weights:
            write_weights(run, dataset)
        return run.folder

    return make


def write_evaluation(run: Run, dataset: Dataset, split: str, accuracy: float, seed: int) -> None:
    rows = dataset.rows(split)
    labels = torch.from_numpy(np.array(dataset.labels[rows.start : rows.stop]))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(labels), len(dataset.class_names), generator=generator)
    right = torch.rand(len(labels), generator=generator) < accuracy
    logits[right, labels[right]] += 8
    evaluation = Evaluation(
        data=dataset.name, split=split, logits=logits, labels=labels, rows=torch.tensor(rows)
    )
    evaluation.save(run.scores_path(split))


def write_weights(run: Run, dataset: Dataset) -> None:
    model = run.config.model
    metadata = ModelMetadata(
        model="resnet", options=dict(model.options), class_names=dataset.class_names,
        class_ids=dataset.class_ids, image_size=dataset.image_size, crop=12, input_size=12,
        flip_average=True, recipe="test", data=dataset.name, version="0",
    )  # fmt: skip
    network = create_model("resnet", len(dataset.class_names), **model.options)
    run.weights_path.write_bytes(weights_bytes(network, metadata))
    summary = {"steps": 20, "epochs": 2, "best_monitored_error": 0.7, "seconds": 61.0}
    run.summary_path.write_text(json.dumps(summary))
