"""What is said of a dataset after it is imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tinysight.data import summary
from tinysight.data.build import build
from tinysight.data.dataset import Dataset
from tinysight.data.summary import caption, next_command, summarize

from .conftest import make_toys


def test_classes_boxes_and_the_smallest_box_are_counted(tmp_path: Path) -> None:
    dataset = build(make_toys(), home=tmp_path, workers=1)  # type: ignore[arg-type]
    assert summarize(dataset) == (
        "images per class: cat's cradle 4, 狗 4; with several classes or none: 2",
        "boxes per class: cat's cradle 5, 狗 0",
        "boxes: 5 in 5 images, up to 1 in one; 5 images without; smallest 2.0 x 0.5 pixels",
    )


def test_without_boxes_and_of_many_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = {"boxes": np.zeros((0, 4), np.float32), "box_labels": np.zeros(0, np.int64)}
    toys = make_toys(**none, box_offsets=np.zeros(11, np.int64))
    dataset = build(toys, home=tmp_path, workers=1)  # type: ignore[arg-type]
    assert summarize(dataset) == ("images per class: cat's cradle 4, 狗 4",)
    monkeypatch.setattr(summary, "MAX_CLASSES", 1)
    assert summarize(dataset) == ("images per class: cat's cradle 4, and 1 more",)
    assert summarize(dataset, all_classes=True) == ("images per class: cat's cradle 4, 狗 4",)


def test_captions_name_the_class_else_the_boxes_else_the_file(tmp_path: Path) -> None:
    toys = make_toys()
    toys.index.labels[:2] = -1
    dataset = build(toys, home=tmp_path, workers=1)  # type: ignore[arg-type]
    captions = [caption(dataset, row) for row in range(3)]
    assert captions == ["1 cat's cradle", "1.png", "cat's cradle"]


@pytest.mark.parametrize(
    ("kind", "images", "boxes", "command"),
    [
        ("folder", 199, 0, "tinysight finetune 'my pets'"),
        ("folder", 200, 0, "tinysight train small --data 'my pets'"),
        ("folder", 20_001, 0, "tinysight recipes"),
        ("folder", 5, 1, "tinysight train localizer-small --data 'my pets'"),
        ("tiny-imagenet", 5, 1, "tinysight recipes"),
    ],
)
def test_the_next_command_fits_the_images_and_boxes(
    kind: str, images: int, boxes: int, command: str
) -> None:
    manifest = {"name": "my pets", "splits": {"train": (0, images)}, "source": {"kind": kind}}
    manifest["class_names"] = ["cat", "dog"]
    dataset = Dataset(None, manifest)
    dataset.__dict__["boxes"] = np.zeros((boxes, 4), np.float32)
    dataset.__dict__["labels"] = np.zeros(images, np.int64)
    dataset.__dict__["box_offsets"] = np.array([0] + [boxes] * images)
    assert next_command(dataset) == command


@pytest.mark.parametrize(
    ("per_image", "labels", "recipe"),
    [
        ([4, 4, 0], [0, 1, -1], "localizer-small"),  # an image without a box counts nowhere
        ([4, 5, 0], [0, 1, -1], "localizer-many"),
        ([2, 2, 1, 0], [-1, -1, 0, -1], "localizer-many"),  # most have boxes of several classes
        ([2, 2, 0], [-1, 0, 0], "localizer-small"),
    ],
)
def test_the_next_localizer_fits_the_boxes(
    per_image: list[int], labels: list[int], recipe: str
) -> None:
    manifest = {"name": "pets", "splits": {"train": (0, len(labels))}, "class_names": ["cat"]}
    dataset = Dataset(None, manifest | {"source": {"kind": "folder"}})
    dataset.__dict__["boxes"] = np.zeros((sum(per_image), 4), np.float32)
    dataset.__dict__["box_offsets"] = np.cumsum([0, *per_image])
    dataset.__dict__["labels"] = np.array(labels)
    assert next_command(dataset) == f"tinysight train {recipe} --data pets"
