"""The listing and the pack of drawn shapes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinysight.data import shapes
from tinysight.data.index import check_index
from tinysight.data.scenes import boxes

SMALL: dict[str, Any] = {"num_train": 50, "num_minival": 24, "num_val": 26, "num_test": 10}


def test_a_listing_is_balanced_and_whole() -> None:
    listing, _ = shapes.listing(**SMALL)
    check_index(listing)
    assert listing.splits == {
        "train": (0, 50),
        "minival": (50, 74),
        "val": (74, 100),
        "test": (100, 110),
    }
    for split in ("train", "minival", "val"):
        start, stop = listing.splits[split]
        counts = np.bincount(listing.labels[start:stop], minlength=24)
        assert counts.max() - counts.min() <= 1
    assert listing.class_names[4] == "striped square" and listing.class_ids[4] == "striped-square"
    assert listing.files[0] == "train/00000" and listing.files[-1] == "test/00009"
    assert listing.boxes.shape == (100, 4)
    assert (listing.box_labels == listing.labels[:100]).all()


def test_test_rows_are_unlabeled_but_their_truth_is_known() -> None:
    listing, decode = shapes.listing(**SMALL, seed=4)
    assert (listing.labels[100:] == -1).all()
    assert (listing.box_offsets[100:] == 100).all()
    truth = shapes.truth("test", 10, seed=4)
    assert [scene.label for scene in truth] == list(range(10))
    for row, scene in enumerate(truth, start=100):
        assert (decode(row) == shapes.draw(scene)).all()


def test_labels_and_boxes_of_a_listing_are_those_of_the_scenes_drawn() -> None:
    listing, decode = shapes.listing(**SMALL, objects=(1, 4), image_size=48)
    assert len(listing.boxes) > 150
    for split, (start, stop) in list(listing.splits.items())[:3]:
        for row, scene in enumerate(
            shapes.truth(split, stop - start, objects=(1, 4), image_size=48), start=start
        ):
            mine = slice(listing.box_offsets[row], listing.box_offsets[row + 1])
            assert (listing.boxes[mine] == boxes(scene)).all()
            assert listing.box_labels[mine].tolist() == [thing.label for thing in scene.things]
            assert listing.labels[row] == listing.box_labels[mine][0]
            if row % 10 == 0:
                assert (decode(row) == shapes.draw(scene)).all()


def test_a_scene_does_not_depend_on_how_many_are_drawn() -> None:
    few, draw_few = shapes.listing(num_train=3, num_minival=0, num_val=30, num_test=0)
    many, draw_many = shapes.listing(num_train=30, num_minival=2, num_val=40, num_test=1)
    assert (draw_few(3 + 7) == draw_many(32 + 7)).all()
    assert (few.boxes[3 + 7] == many.boxes[32 + 7]).all()
    assert few.splits["minival"] == (3, 3)


def test_no_image_comes_twice() -> None:
    listing, decode = shapes.listing(**SMALL)
    assert len({decode(row).tobytes() for row in range(len(listing.files))}) == 110


def test_decode_survives_pickling_and_refuses_a_row_that_is_not_there() -> None:
    _, decode = shapes.listing(**SMALL, seed=2**64 - 1)
    assert (pickle.loads(pickle.dumps(decode))(60) == decode(60)).all()
    for row in (-1, 110):
        with pytest.raises(IndexError, match=f"row {row} of 110"):
            decode(row)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_val": -1}, "num_val is -1; give a number of scenes, 0 or more"),
        ({"num_train": 0, "num_minival": 0, "num_val": 0, "num_test": 0}, "no scene to draw"),
        ({"seed": -1}, "seed is -1; give a whole number from 0"),
        ({"seed": 2**64}, "give a whole number from 0"),
        ({"image_size": 31}, "image_size is 31; give 32 to 512 pixels"),
        ({"image_size": 513}, "image_size is 513"),
        ({"objects": (0, 1)}, r"objects is \(0, 1\); give \(fewest, most\)"),
        ({"objects": (3, 2)}, r"objects is \(3, 2\)"),
        ({"objects": (1, 9)}, "most <= 8"),
    ],
)
def test_numbers_out_of_range_are_refused(
    wrong: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        shapes.listing(**wrong)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        shapes.prepare(home=tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_pack_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = shapes.prepare(home=tmp_path, **SMALL, workers=1)
    _, decode = shapes.listing(**SMALL)
    assert drawn.name == "shapes" and drawn.class_names == shapes.CLASS_NAMES
    assert drawn.images.shape == (110, 64, 64, 3)
    assert all((drawn.images[row] == decode(row)).all() for row in range(0, 110, 7))
    drawn.verify()
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "listing", lambda **_: pytest.fail("drawn again"))
        again = shapes.prepare(home=tmp_path, **SMALL, workers=1, say=said.append)
    assert (again.images[0] == drawn.images[0]).all() and said == []


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"num_val": 27}, {"image_size": 48}, {"objects": (1, 2)}]
)
def test_other_scenes_replace_a_pack(change: dict[str, Any], tmp_path: Path) -> None:
    shapes.prepare(home=tmp_path, **SMALL, workers=1)
    said: list[str] = []
    changed = shapes.prepare(home=tmp_path, **{**SMALL, **change}, workers=1, say=said.append)
    listing, decode = shapes.listing(**{**SMALL, **change})
    assert (changed.images[-1] == decode(len(listing.files) - 1)).all()
    assert len(said) == 1 and "shapes" in said[0]


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    many = {"num_train": 500, "num_minival": 30, "num_val": 30, "num_test": 0}
    one, two = (shapes.prepare(home=tmp_path / str(num), **many, workers=num) for num in (1, 2))
    assert (one.path / "digests.npy").read_bytes() == (two.path / "digests.npy").read_bytes()
