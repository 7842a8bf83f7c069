"""What scenes hold, and that their boxes are exact."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest

from tinysight.data.outlines import CLASS_NAMES, EDGES, SHAPES, TEXTURES
from tinysight.data.scenes import Scene, Stream, boxes, distance_to_edge, mask, plan, window_of


def scenes(num: int, objects: tuple[int, int] = (1, 1), image_size: int = 64) -> list[Scene]:
    return [plan(5, "val", index, objects=objects, image_size=image_size) for index in range(num)]


def box_of_mask(inside: np.ndarray) -> list[int]:
    """The plainest reference: walk over every pixel."""
    marked = [
        (x, y) for y in range(inside.shape[0]) for x in range(inside.shape[1]) if inside[y, x]
    ]
    xs, ys = [x for x, _ in marked], [y for _, y in marked]
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def test_what_a_scene_holds_never_changes() -> None:
    held = repr([plan(0, "train", 0), plan(3, "test", 1), plan(7, "val", 2, objects=(2, 5))])
    assert (
        hashlib.sha256(held.encode()).hexdigest()
        == "809f2ad84dbe737c2b0385f0da9eee1cccfdb0d007b66455ee5ab7874d51731a"
    )


def test_a_scene_depends_on_seed_split_and_index() -> None:
    found = {
        replace(plan(seed, split, index), seed=0, split="train", index=0)
        for seed, split, index in itertools.product(
            (0, 1), ("train", "minival", "val", "test"), (0, 24, 48)
        )
    }
    assert len(found) == 2 * 4 * 3
    assert plan(1, "val", 24) == plan(1, "val", 24)


@pytest.mark.parametrize("objects", [(1, 1), (2, 6)])
@pytest.mark.parametrize("image_size", [32, 64, 96])
def test_boxes_are_those_of_the_masks_to_the_pixel(
    objects: tuple[int, int], image_size: int
) -> None:
    for scene in scenes(25, objects, image_size):
        expected = [box_of_mask(mask(thing, image_size)) for thing in scene.things]
        assert boxes(scene).tolist() == expected


def test_a_mask_is_the_shape_where_it_should_be() -> None:
    scene = plan(0, "train", CLASS_NAMES.index("plain disc"))
    disc = replace(scene.things[0], x=30.5, y=20.0, radius=10.0)
    rows, columns = np.mgrid[:64, :64] + 0.5
    expected = np.hypot(columns - 30.5, rows - 20) < 9.2
    assert (mask(disc, 64) == expected).all()
    assert boxes(replace(scene, things=(disc,))).tolist() == [[21, 11, 40, 29]]


def test_a_window_holds_all_of_its_thing() -> None:
    canvas = window_of(32, 32, 64, 64)
    assert (canvas.rows, canvas.columns) == (slice(0, 64), slice(0, 64))
    for scene in scenes(120, objects=(1, 4)):
        for thing in scene.things:
            shifted = replace(canvas, dx=canvas.dx + (32 - thing.x), dy=canvas.dy + (32 - thing.y))
            assert (
                mask(thing, 64) != (distance_to_edge(thing, shifted) < 0)
            ).sum() <= 1  # rounding


def test_things_lie_mostly_on_the_canvas() -> None:
    shares = []
    for scene in scenes(300):
        thing = scene.things[0]
        whole = mask(replace(thing, x=thing.x + 64, y=thing.y + 64), 192).sum()
        shares.append(mask(thing, 64).sum() / whole)
    assert min(shares) > 0.8
    assert np.mean(np.array(shares) < 1) > 0.05, "none is ever cut: positions do not vary enough"


def test_sizes_and_places_vary() -> None:
    found = np.concatenate([boxes(scene) for scene in scenes(600)])
    width, height = (found[:, 2:] - found[:, :2]).T
    longest = np.maximum(width, height)
    assert longest.min() >= 10 and longest.max() <= 54
    assert np.percentile(longest, 10) < 22 and np.percentile(longest, 90) > 38
    centers = (found[:, :2] + found[:, 2:]) / 2
    assert (centers.min(axis=0) < 12).all() and (centers.max(axis=0) > 52).all()
    assert (abs(centers.mean(axis=0) - 32) < 2).all()


def test_several_things_hardly_overlap_and_the_largest_comes_first() -> None:
    counts = set()
    for scene in scenes(150, objects=(2, 6)):
        counts.add(len(scene.things))
        radii = [thing.radius for thing in scene.things]
        assert radii[0] == max(radii) and min(radii) >= 7
        assert scene.label == scene.things[0].label
        inside = [mask(thing, 64) for thing in scene.things]
        for one, other in itertools.combinations(inside, 2):
            assert (one & other).sum() <= 0.1 * min(one.sum(), other.sum())
    assert counts == {2, 3, 4, 5, 6}


def test_classes_come_in_turn() -> None:
    assert [scene.label for scene in scenes(50)] == [index % 24 for index in range(50)]
    others = [thing.label for scene in scenes(300, objects=(3, 3)) for thing in scene.things[1:]]
    assert set(others) == set(range(24))


def test_names_and_edges_agree() -> None:
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) == len(EDGES) == 24
    for name, (shape, texture) in zip(CLASS_NAMES, EDGES, strict=True):
        assert SHAPES[name.split()[1]] is shape and TEXTURES[name.split()[0]] is texture


def test_shapes_and_textures_differ() -> None:
    v, u = (np.mgrid[-64:65, -64:65] / 64 * 1.1).astype(np.float32)
    drawn = [shape(u, v) < 0 for shape in SHAPES.values()]
    for one, other in itertools.combinations(drawn, 2):
        assert (one & other).sum() < 0.87 * (one | other).sum()
    for inside in drawn:
        assert np.hypot(u, v)[inside].max() < 1.08, "a shape leaves its window"
    shares = {name: (texture(10 * u, 10 * v) < 0).mean() for name, texture in TEXTURES.items()}
    assert shares["plain"] == 0
    assert shares["striped"] == pytest.approx(0.5, abs=0.03)
    assert shares["dotted"] == pytest.approx(np.pi * 0.31**2, abs=0.03)


def test_shapes_never_change() -> None:
    """A changed shape is another data set: raise `shapes.VERSION`, then these areas."""
    v, u = (np.mgrid[-64:65, -64:65] / 60).astype(np.float32)
    areas = {name: int((shape(u, v) < 0).sum()) for name, shape in SHAPES.items()}
    golden = {
        "disc": 9577,
        "square": 7921,
        "triangle": 5090,
        "star": 4474,
        "ring": 9060,
        "cross": 7449,
        "heart": 7373,
        "crescent": 6170,
    }
    assert areas == pytest.approx(golden, abs=4)


def test_shapes_stand_upright_and_do_not_lie() -> None:
    """Mirrored left to right a shape is itself, but for the crescent, so that flipping an image is
    harmless.
    """
    v, u = (np.mgrid[-64:65, -64:65] / 64).astype(np.float32)
    for name, shape in SHAPES.items():
        inside = shape(u, v) < 0
        assert ((inside == inside[:, ::-1]).mean() > 0.999) == (name != "crescent")
    for pointed_up, name in ((True, "triangle"), (True, "star"), (False, "heart")):
        inside = SHAPES[name](u, v) < 0
        tip = np.flatnonzero(inside.any(axis=1))[0 if pointed_up else -1]
        assert abs(u[tip, inside[tip]]).max() < 0.05


def test_a_stream_is_uniform_and_stays_in_range() -> None:
    stream = Stream(2**64 - 1, "test", 2**40, 3)
    numbers = stream.array(200, 100)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.01) and numbers.var() == pytest.approx(
        1 / 12, abs=0.005
    )
    integers = [stream.integer(2, 5) for _ in range(400)]
    assert [integers.count(value) > 60 for value in range(1, 7)] == [
        False,
        True,
        True,
        True,
        True,
        False,
    ]
    values = np.bincount(stream.bytes(100_001), minlength=256)
    assert values.sum() == 100_001 and values.min() > 300
    assert Stream(0, "train", 0, 0).uniform() != Stream(0, "train", 0, 1).uniform()
