"""Mosaics: every ground-truth box is where its pixels are."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tinysight.data.build import build
from tinysight.data.composites import mosaics
from tinysight.data.dataset import Dataset
from tinysight.data.shapes import Shapes
from tinysight.ops.boxes import pairwise_iou


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    home = tmp_path_factory.mktemp("source")
    counts = {"num_train": 48, "num_minival": 0, "num_val": 240, "num_test": 0}
    scenes = Shapes(**counts, objects=(1, 2), image_size=32, name="scenes")
    return build(scenes, home=home, workers=1)


def tile_rows(source: Dataset, made: Dataset) -> list[list[int]]:
    places = {file: row for row, file in enumerate(source.files)}
    return [[places[file] for file in canvas] for canvas in made.manifest["extra"]["tiles"]]


def test_mosaics_of_a_class(source: Dataset) -> None:
    name = source.class_names[2]
    made = mosaics(source, name, num=40)
    assert made.name == f"scenes.{source.class_ids[2]}.mosaics" and made.splits == {"val": (0, 40)}
    assert made.class_names == (name, "other") and set(made.labels.tolist()) == set(
        made.box_labels.tolist()
    ) == {0}
    assert made.image_size == 64 and made.verify() == ()
    padded = Dataset(source.path, source.manifest | {"extra": {"fit": "pad"}})
    assert (made.fit, mosaics(padded, name, num=4).fit) == ("crop", "pad")
    where = set()
    for row, tiles in enumerate(tile_rows(source, made)):
        assert all(tile in source.rows("val") for tile in tiles)
        own = [place for place, tile in enumerate(tiles) if source.labels[tile] == 2]
        assert len(own) == 1 + row % 4 and len(set(tiles)) == 4
        where.add(tuple(own))
        expected = []
        for place, tile in enumerate(tiles):
            y, x = 32 * (place // 2), 32 * (place % 2)
            assert np.array_equal(made.images[row][y : y + 32, x : x + 32], source.images[tile])
            span = slice(source.box_offsets[tile], source.box_offsets[tile + 1])
            mine = source.boxes[span][source.box_labels[span] == 2] + [x, y, x, y]
            assert (place in own) == bool(len(mine))
            expected += mine.tolist()
        assert made.boxes_of(row).tolist() == expected
    assert {(0,), (1,), (2,), (3,)} <= where, "single ones should lie anywhere"


def test_mosaics_of_all_classes(source: Dataset) -> None:
    made = mosaics(source, num=30)
    assert made.name == "scenes.mosaics" and made.class_names == source.class_names
    for row, tiles in enumerate(tile_rows(source, made)):
        assert len(set(tiles)) == 4
        own = made.boxes_of(row)
        assert len(own) == sum(
            source.box_offsets[tile + 1] - source.box_offsets[tile] for tile in tiles
        )
        areas = (own[:, 2] - own[:, 0]) * (own[:, 3] - own[:, 1])
        assert (
            areas[0] == areas.max() and made.labels[row] == made.box_labels[made.box_offsets[row]]
        )
    (four,) = made.manifest["extra"]["baseline_boxes"].values()
    median = np.median(source.boxes[: source.box_offsets[48]], axis=0)
    assert np.array_equal(four, [median + np.array([x, y, x, y]) for y in (0, 32) for x in (0, 32)])


def test_seeds_and_numbers(source: Dataset) -> None:
    name = source.class_names[2]
    one = mosaics(source, name, num=6)
    assert mosaics(source, name, num=6).digest == one.digest
    more = mosaics(source, name, num=9)
    assert np.array_equal(more.images[:6], one.images), "canvas i depends on how many there are"
    other = mosaics(source, name, num=6, seed=1)
    assert not np.array_equal(other.images, one.images) and other.digest != one.digest
    assert mosaics(source, name, num=6, name="a").name == "a"
    copy = pickle.loads(pickle.dumps(one))
    assert copy.digest == one.digest and np.array_equal(copy.images, one.images)
    for arguments, message in (({"num": 0}, "num is 0"), ({"seed": -1}, "seed -1")):
        with pytest.raises(ValueError, match=message):
            mosaics(source, name, **arguments)


def test_too_few_images_with_boxes(tmp_path: Path) -> None:
    counts = {"num_train": 24, "num_minival": 0, "num_val": 48, "num_test": 0}
    few = build(Shapes(**counts, image_size=32, name="few"), home=tmp_path, workers=1)
    with pytest.raises(ValueError, match="need 4"):
        mosaics(few, few.class_names[0])
    bare = Dataset(few.path, {**few.manifest, "splits": {"train": [0, 72]}})
    with pytest.raises(ValueError, match="few has no val split"):
        mosaics(bare, few.class_names[0])


def test_boxes_of_a_mosaic_stay_inside_their_tiles(source: Dataset) -> None:
    made = mosaics(source, num=10)
    for row in range(10):
        own = torch.from_numpy(made.boxes_of(row).copy())
        corners = (own[:, :2] // 32) * 32
        assert bool((own[:, 2:] <= corners + 32).all())
        assert float(pairwise_iou(own, own).amax()) == 1
