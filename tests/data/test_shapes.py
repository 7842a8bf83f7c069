"""The source of drawn shapes: balanced, reproducible, refused where out of range."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinysight.data.build import build, check_index
from tinysight.data.drawing import boxes
from tinysight.data.shapes import CLASS_NAMES, Shapes

SMALL: dict[str, Any] = {"num_train": 50, "num_minival": 24, "num_val": 26, "num_test": 10}


def test_the_index_is_balanced_and_complete() -> None:
    index = Shapes(**SMALL).index
    check_index("shapes", index)
    assert index.splits == {
        "train": (0, 50),
        "minival": (50, 74),
        "val": (74, 100),
        "test": (100, 110),
    }
    for split in ("train", "minival", "val"):
        counts = np.bincount(index.labels[slice(*index.splits[split])], minlength=24)
        assert counts.max() - counts.min() <= 1
    assert index.class_names[4] == "striped square" and index.class_ids[4] == "striped-square"
    assert index.files[0] == "train/00000" and index.files[-1] == "test/00009"
    assert index.boxes.shape == (100, 4) and (index.box_labels == index.labels[:100]).all()
    assert (index.labels[100:] == -1).all() and (index.box_offsets[100:] == 100).all()


def test_labels_and_boxes_are_those_of_the_scenes() -> None:
    shapes = Shapes(**SMALL, objects=(1, 4), image_size=48, seed=4)
    index = shapes.index
    assert len(index.boxes) > 150
    for row in range(100):
        scene, mine = shapes.scene(row), slice(*index.box_offsets[row : row + 2])
        assert (index.boxes[mine] == boxes(scene)).all()
        assert index.box_labels[mine].tolist() == [item.label for item in scene.objects]
        assert index.labels[row] == index.box_labels[mine][0]
    assert [shapes.scene(row).label for row in range(100, 110)] == list(range(10))  # unlabeled


def test_a_scene_does_not_depend_on_how_many_are_drawn() -> None:
    few = Shapes(num_train=3, num_minival=0, num_val=30, num_test=0)
    many = Shapes(num_train=30, num_minival=2, num_val=40, num_test=1)
    assert (few.decode(3 + 7) == many.decode(32 + 7)).all()
    assert (few.index.boxes[3 + 7] == many.index.boxes[32 + 7]).all()
    assert few.index.splits["minival"] == (3, 3)


def test_every_image_is_different() -> None:
    shapes = Shapes(**SMALL)
    assert len({shapes.decode(row).tobytes() for row in range(110)}) == 110


def test_pickles_and_refuses_rows_out_of_range() -> None:
    shapes = Shapes(**SMALL, seed=2**64 - 1)
    assert (pickle.loads(pickle.dumps(shapes)).decode(60) == shapes.decode(60)).all()
    for row in (-1, 110):
        with pytest.raises(IndexError, match=f"row {row} of 110"):
            shapes.decode(row)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_val": -1}, "num_val is -1; give a number of scenes, 0 or more"),
        ({"num_train": 0, "num_minival": 0, "num_val": 0, "num_test": 0}, "no scenes to draw"),
        ({"seed": -1}, "seed is -1; give a whole number from 0"),
        ({"seed": 2**64}, "give a whole number from 0"),
        ({"image_size": 31}, "image_size is 31; give 32 to 512 pixels"),
        ({"image_size": 513}, "image_size is 513"),
        ({"objects": (0, 1)}, r"objects is \(0, 1\); give \(fewest, most\)"),
        ({"objects": (3, 2)}, r"objects is \(3, 2\)"),
        ({"objects": (1, 9)}, "most <= 8"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Shapes(**wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"num_val": 27}, {"image_size": 48}, {"objects": (1, 2)}]
)
def test_other_scenes_replace_a_dataset(
    change: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tinysight")
    first = build(Shapes(**SMALL), home=tmp_path, workers=1)
    assert first.name == "shapes" and first.class_names == CLASS_NAMES
    assert build(Shapes(**SMALL), home=tmp_path).digest == first.digest and not caplog.messages
    shapes = Shapes(**{**SMALL, **change})
    changed = build(shapes, home=tmp_path, workers=1)
    assert (changed.images[-1] == shapes.decode(len(changed) - 1)).all()
    assert len(caplog.messages) == 1 and "shapes" in caplog.messages[0]


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    shapes = Shapes(num_train=500, num_minival=30, num_val=30, num_test=0)
    one, two = (build(shapes, home=tmp_path / str(num), workers=num) for num in (1, 2))
    assert one.digest == two.digest
