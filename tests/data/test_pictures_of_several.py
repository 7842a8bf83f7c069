"""Mosaics and pasted scenes: every truth lies where its pixels do, and the rules they are made by hold on all."""

from __future__ import annotations

import pickle
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from tinysight.data import mosaics, pasted, shapes
from tinysight.data.pack import Pack
from tinysight.ops.boxes import iou, pairwise_iou


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    home = tmp_path_factory.mktemp("source")
    counts = {"num_train": 48, "num_minival": 0, "num_val": 240, "num_test": 0}
    return shapes.prepare(home=home, **counts, objects=(1, 2), image_size=32, name="scenes", workers=1)


def tile_rows(source: Pack, made: Pack) -> list[list[int]]:
    places = {file: row for row, file in enumerate(source.files)}
    return [[places[file] for file in canvas] for canvas in made.manifest["extra"]["tiles"]]


def test_mosaics_of_a_class(source: Pack, tmp_path: Path) -> None:
    name = source.class_names[2]
    made = mosaics.prepare(source, name, home=tmp_path, num=40)
    assert made.name == f"scenes.{source.class_ids[2]}.mosaics" and made.splits == {"val": (0, 40)}
    assert made.class_names == (name, "other") and set(made.labels.tolist()) == set(made.box_labels.tolist()) == {0}
    assert made.image_size == 64 and made.verify() == ()
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


def test_mosaics_of_all_classes(source: Pack, tmp_path: Path) -> None:
    made = mosaics.prepare(source, home=tmp_path, num=30)
    assert made.name == "scenes.mosaics" and made.class_names == source.class_names
    for row, tiles in enumerate(tile_rows(source, made)):
        assert len(set(tiles)) == 4
        own = made.boxes_of(row)
        assert len(own) == sum(source.box_offsets[tile + 1] - source.box_offsets[tile] for tile in tiles)
        areas = (own[:, 2] - own[:, 0]) * (own[:, 3] - own[:, 1])
        assert areas[0] == areas.max() and made.labels[row] == made.box_labels[made.box_offsets[row]]
    (four,) = made.manifest["extra"]["constant_boxes"].values()
    median = np.median(source.boxes[: source.box_offsets[48]], axis=0)
    assert np.array_equal(four, [median + np.array([x, y, x, y]) for y in (0, 32) for x in (0, 32)])


def test_pasted_scenes_keep_their_rules(source: Pack, tmp_path: Path) -> None:
    made = pasted.prepare(source, source.class_names[2], home=tmp_path, num=40)
    assert made.name == f"scenes.{source.class_ids[2]}.pasted" and made.splits == {"val": (0, 40)}
    assert made.class_names == (source.class_names[2], "other") and set(made.labels.tolist()) == {0}
    listing, painter = pasted.listing(source, 2, name="x", num=40)
    plans = painter.plans  # type: ignore[attr-defined]
    distractors = set()
    for row, plan in enumerate(plans):
        own = [plan.pieces[number] for number in plan.own]
        assert len(own) == len(made.boxes_of(row)) == 1 + row % 4
        assert sorted(piece.place for piece in own) == sorted(map(tuple, made.boxes_of(row).astype(int).tolist()))
        assert all(source.box_labels[piece.box] == 2 for piece in own)
        for piece in plan.pieces:
            x0, y0, x1, y1 = source.boxes[piece.box].tolist()
            assert min(x1 - x0, y1 - y0) >= 10 and (x1 - x0) * (y1 - y0) <= 0.8 * 32 * 32
        rest = [piece for number, piece in enumerate(plan.pieces) if number not in plan.own]
        distractors.add(len(rest))
        assert all(source.box_labels[piece.box] != 2 and source.labels[piece.row] != 2 for piece in rest)
        assert source.labels[plan.ground] != 2
        assert all(piece.row in source.rows("val") for piece in plan.pieces) and plan.ground in source.rows("val")
        places = torch.tensor([piece.place for piece in plan.pieces]).float()
        for one, other in combinations(places, 2):
            assert float(iou(one, other)) < 0.3
    assert distractors == {1, 2, 3}
    again = painter(7)
    assert np.array_equal(again, made.images[7]) and np.array_equal(pickle.loads(pickle.dumps(painter))(7), again)
    assert listing.source == made.manifest["source"]


def test_the_top_piece_shows_exactly_what_its_box_holds(source: Pack) -> None:
    """At its own size nothing is resampled: the truth lies round the very pixels that were cut out."""
    _, painter = pasted.listing(source, 2, name="x", num=40)
    seen = 0
    for row, plan in enumerate(painter.plans):  # type: ignore[attr-defined]
        piece = plan.pieces[-1]
        x0, y0, x1, y1 = source.boxes[piece.box].astype(int).tolist()
        left, top, right, bottom = piece.place
        if (right - left, bottom - top) == (x1 - x0, y1 - y0):
            cut = source.images[piece.row][y0:y1, x0:x1]
            assert np.array_equal(painter(row)[top:bottom, left:right], cut)
            seen += 1
    assert seen > 5


def test_the_edge_is_soft() -> None:
    canvas, image = np.zeros((64, 64, 3), np.float32), np.full((32, 32, 3), 200, np.uint8)
    pasted._lay(canvas, image, [8.0, 8, 20, 20], (30, 30, 42, 42))
    assert canvas[35, 24:33, 0].tolist() == [0, 0, 0, 50, 100, 150, 200, 200, 200]
    assert canvas[35, 40:47, 0].tolist() == [200, 200, 150, 100, 50, 0, 0]
    assert canvas[24:31, 35, 0].tolist() == [0, 0, 0, 50, 100, 150, 200]
    corner = np.zeros((64, 64, 3), np.float32)
    pasted._lay(corner, image, [0.0, 0, 32, 32], (0, 32, 32, 64))  # nothing round it, at the canvas's edge
    assert (corner[32:, :32] == 200).all() and corner.sum() == 3 * 32 * 32 * 200


def test_what_has_no_room_is_shrunk_and_keeps_its_shape(source: Pack) -> None:
    from tinysight.data.scenes import Stream

    filled = [(0, 0, 64, 52)]
    x0, y0, x1, y1 = pasted._place(Stream(0, "val", 0, 1), [50.0, 30.0], 64, filled)
    assert (x1 - x0) < 50 and (x1 - x0) / (y1 - y0) == pytest.approx(50 / 30, rel=0.1)
    assert pasted._shared((x0, y0, x1, y1), filled[0]) <= 0.25
    assert pasted._shared((0, 0, 10, 10), (2, 2, 4, 4)) == 1


@pytest.mark.parametrize("made", [mosaics, pasted])
def test_seeds_numbers_and_a_second_call(made: object, source: Pack, tmp_path: Path) -> None:
    prepare = made.prepare  # type: ignore[attr-defined]
    name = source.class_names[2]
    one = prepare(source, name, home=tmp_path / "one", num=6)
    assert prepare(source, name, home=tmp_path / "two", num=6).digest == one.digest
    more = prepare(source, name, home=tmp_path / "one", name="more", num=9)
    other = prepare(source, name, home=tmp_path / "one", name="other", num=6, seed=1)
    assert np.array_equal(more.images[:6], one.images), "canvas i does not depend on how many there are"
    assert not np.array_equal(other.images, one.images)
    stamp = (one.path / "manifest.json").stat().st_mtime_ns
    assert prepare(source, name, home=tmp_path / "one", num=6) == one
    assert (one.path / "manifest.json").stat().st_mtime_ns == stamp
    for arguments, message in (({"num": 0}, "num is 0"), ({"seed": -1}, "seed -1")):
        with pytest.raises(ValueError, match=message):
            prepare(source, name, home=tmp_path, **arguments)


@pytest.mark.parametrize("made", [mosaics, pasted])
def test_too_little_to_make_them_of(made: object, tmp_path: Path) -> None:
    prepare = made.prepare  # type: ignore[attr-defined]
    counts = {"num_train": 24, "num_minival": 0, "num_test": 0}
    few = shapes.prepare(home=tmp_path, num_val=48, **counts, image_size=32, name="few", workers=1)
    with pytest.raises(ValueError, match="need 4"):
        prepare(few, few.class_names[0], home=tmp_path)
    bare = Pack(few.path, {**few.manifest, "splits": {"train": [0, 72]}})
    with pytest.raises(ValueError, match="few has no val split"):
        prepare(bare, few.class_names[0], home=tmp_path)


def test_a_truth_of_a_mosaic_is_nowhere_near_another_tile(source: Pack, tmp_path: Path) -> None:
    made = mosaics.prepare(source, home=tmp_path, num=10)
    for row in range(10):
        own = torch.from_numpy(made.boxes_of(row).copy())
        corners = (own[:, :2] // 32) * 32
        assert bool((own[:, 2:] <= corners + 32).all())
        assert float(pairwise_iou(own, own).amax()) == 1
