"""Plans of items: shares, strata and seeds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tinysight.people.items import Item, plan_items, stratified_order

LABELS = np.concatenate([np.repeat(np.arange(10), 60), np.repeat(np.arange(10), 5), [-1]])
ROWS, CATCHES = range(600), range(600, 650)


def plan(number: int = 0, num_images: int = 100, seed: int = 7) -> list[Item]:
    order = stratified_order(ROWS, LABELS, np.random.default_rng(seed))
    return plan_items(order, CATCHES, number=number, num_images=num_images, seed=seed)


def rows(items: list[Item], kind: str) -> list[int]:
    return [item.row for item in items if item.kind == kind]


def test_shares_of_a_plan() -> None:
    people = [plan(number) for number in range(7)]
    for items in people:
        assert Counter(item.kind for item in items) == Counter(core=20, main=80, repeat=3, catch=6)
        for block in range(0, 95, 19):  # about one in twenty, wherever one begins to count
            assert 1 <= sum(item.kind == "catch" for item in items[block : block + 40]) <= 4
    cores = {tuple(sorted(rows(items, "core"))) for items in people}
    assert len(cores) == 1
    own = [row for items in people for row in rows(items, "main")]
    assert len(own) == len(set(own)) == 560 and not set(own) & set(next(iter(cores)))
    assert len({tuple(item.kind for item in items) for items in people}) == 7
    assert set(rows(people[0], "catch")) <= set(CATCHES)


def test_repeats_come_later_and_of_the_same_image() -> None:
    for number in range(30):
        items = plan(number)
        for place, item in enumerate(items):
            if item.kind == "repeat":
                first = [other.row for other in items].index(item.row)
                assert items[first].kind in ("core", "main") and place - first >= 10


def test_classes_are_balanced_and_images_begin_again_when_all_were_shown() -> None:
    counts = Counter(LABELS[rows(plan(), "core") + rows(plan(), "main")].tolist())
    assert set(counts.values()) == {10}
    far = plan(8)  # 580 images are not in the core: the eighth person begins again
    assert len(set(rows(far, "main"))) == 80
    assert set(rows(far, "main")) & set(rows(plan(0), "main"))


def test_a_plan_is_a_function_of_its_seed() -> None:
    assert plan() == plan()
    assert set(rows(plan(seed=8), "core")) != set(rows(plan(), "core"))


@pytest.mark.parametrize(("number", "core"), [(5, 1), (50, 10), (200, 20)])
def test_few_images_have_a_core_of_a_fifth(number: int, core: int) -> None:
    items = plan(num_images=number)
    assert len(rows(items, "core")) == core and len(rows(items, "main")) == number - core


def test_three_catch_images_take_38_images() -> None:
    """With fewer, nobody is excluded by them, as docs/people.md states."""
    assert [len(rows(plan(num_images=each), "catch")) for each in (37, 38, 100)] == [2, 3, 6]


@pytest.mark.parametrize("number", [0, 601])
def test_too_few_images_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="1 to 600"):
        plan(num_images=number)
    with pytest.raises(ValueError, match="of 0"):
        order = stratified_order([650], LABELS, np.random.default_rng(0))
        plan_items(order, [], number=0, num_images=1, seed=0)
