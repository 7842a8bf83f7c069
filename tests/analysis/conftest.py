"""A run folder made up without training: a record, a log, scores of chosen quality, and, where
wanted, weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinysight.config import AugmentConfig, Config, DataConfig, ModelConfig
from tinysight.data.build import build
from tinysight.data.dataset import Dataset, DatasetIndex
from tinysight.evaluation.evaluate import Evaluation
from tinysight.models import create_model
from tinysight.predict.weights import ModelMetadata, weights_bytes
from tinysight.run import Run

MakeFolder = Callable[..., Path]


@dataclass(frozen=True)
class Stripes:
    """The source of a made-up dataset: stripes whose direction and color tell rows apart."""

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
def make_pack(tmp_path: Path) -> Callable[..., Dataset]:
    """Write a pack of striped images: `counts` of each class in val, four of each in train and one
    in minival.
    """

    def make(
        names: Sequence[str] = ("disc", "ring", "star"),
        counts: Sequence[int] = (6, 6, 6),
        *,
        boxes: bool = True,
    ) -> Dataset:
        size, num = 16, len(names)
        labels = np.concatenate(
            [np.repeat(np.arange(num), 4), np.arange(num), np.repeat(np.arange(num), counts)]
        )
        starts = (0, 4 * num, 5 * num, len(labels))
        rows = len(labels)
        index = DatasetIndex(
            image_size=size,
            class_names=tuple(names),
            class_ids=tuple(f"c{index}" for index in range(num)),
            files=tuple(f"{index}.png" for index in range(rows)),
            labels=labels.astype(np.int64),
            boxes=np.tile(
                np.array([[4, 4, 10, 10]], np.float32), (rows if boxes else 0, 1)
            ).reshape(-1, 4),
            box_labels=(labels if boxes else labels[:0]).astype(np.int64),
            box_offsets=np.arange(rows + 1) if boxes else np.zeros(rows + 1, np.int64),
            splits={"train": starts[:2], "minival": starts[1:3], "val": starts[2:4]},
        )
        return build(Stripes(index), home=tmp_path / "packs", workers=1)

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write a run's folder for a pack: scores that are right for `accuracy` of the images, a log,
    maybe weights.
    """

    def make(
        pack: Dataset,
        name: str = "run",
        *,
        accuracy: float | None = 0.5,
        weights: bool = True,
        log: bool = True,
        seed: int = 0,
        split: str = "val",
        extra_lines: Sequence[dict[str, Any]] = (),
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        num_classes = len(pack.class_names)
        model = ModelConfig(name="resnet", options={"n": 1, "filters": (4, 8)})
        run = Config(
            recipe="test",
            data=DataConfig(name=pack.name),
            augment=AugmentConfig(crop=12),
            model=model,
        )
        machine = {"device": "cpu", "bf16": False, "threads": 1, "processes": 1}
        record = Run(
            folder=folder,
            config=run,
            data_digest=pack.digest,
            machine=machine,
            versions={"tinysight": "0"},
            command="c",
        )
        record.write()
        if log:
            train = {"kind": "train", "loss": 2.0, "top1_error": 0.9, "lr": 0.1, "size": 12}
            lines = [train | {"step": step, "epoch": step / 10} for step in (10, 20)]
            lines += [
                {
                    "kind": "epoch",
                    "step": 10,
                    "epoch": 1,
                    "loss": 1.0,
                    "top1_error": 0.7,
                    "top5_error": 0.1,
                }
            ]
            text = "".join(json.dumps(line) + "\n" for line in [*lines, *extra_lines])
            (folder / "log.jsonl").write_text(text)
        if accuracy is not None:
            rows = pack.rows(split)
            labels = torch.from_numpy(np.array(pack.labels[rows.start : rows.stop]))
            generator = torch.Generator().manual_seed(seed)
            logits = torch.randn(len(labels), num_classes, generator=generator)
            right = torch.rand(len(labels), generator=generator) < accuracy
            logits[right, labels[right]] += 8
            Evaluation(
                data=pack.name,
                split=split,
                logits=logits,
                labels=labels,
                rows=torch.arange(rows.start, rows.stop),
            ).save(record.scores_path(split))
        if weights:
            network = create_model("resnet", num_classes, **model.options)
            metadata = ModelMetadata(
                model="resnet", options=dict(model.options), class_names=pack.class_names, class_ids=pack.class_ids,
                image_size=pack.image_size, crop=12, input_size=12, flip_average=True, recipe="test", data=pack.name,
                version="0",
            )  # fmt: skip
            (folder / "weights.safetensors").write_bytes(weights_bytes(network, metadata))
            summary = {"steps": 20, "epochs": 2, "best_monitored_error": 0.7, "seconds": 61.0}
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return make
