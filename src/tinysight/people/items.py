"""Which images a person is shown, in which order: by a seed and the person's number in the game."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinysight.people.answers import Ints, Kind

CORE = 20  # images that all people are shown, or a fifth of few
CATCH_EVERY = 20
REPEATS = 0.03
REPEAT_AFTER = 10  # images between the first and the second time, where there are as many


@dataclass(frozen=True)
class Item:
    """An image to show: its row in the dataset, and why it is shown."""

    row: int
    kind: Kind


def stratified_order(rows: Sequence[int], labels: Ints, rng: np.random.Generator) -> list[int]:
    """Order rows so that each class comes once before any comes twice, as far as they last."""
    by_class: dict[int, list[int]] = {}
    for row in rng.permutation(np.asarray(rows, np.int64)).tolist():
        if labels[row] >= 0:
            by_class.setdefault(int(labels[row]), []).append(row)
    order: list[int] = []
    for turn in range(max(map(len, by_class.values()), default=0)):
        classes = [name for name in sorted(by_class) if turn < len(by_class[name])]
        order += [by_class[name][turn] for name in rng.permutation(classes).tolist()]
    return order


def plan_items(
    order: Sequence[int], catches: Sequence[int], *, number: int, num_images: int, seed: int
) -> list[Item]:
    """Plan the items of the person with a number in the game, 0 for the first.

    Of `num_images`, a fifth and at most 20 are the core that all are shown; the others are this
    person's own until all images were shown to somebody, and then begin again. A catch image comes
    in each block of 20, and 3 % of the images come again later.

    Args:
        order: the rows of the study in a `stratified_order`, the same for all.
        catches: rows of images that people of the game are shown with their class.

    Raises ValueError where there are too few images.
    """
    core = order[: min(CORE, num_images // 5)]
    others, own = order[len(core) :], num_images - len(core)
    if num_images < 1 or len(order) < num_images:
        raise ValueError(
            f"{num_images} images per person, of {len(order)} with a label; ask for 1 to"
            f" {len(order)}"
        )
    start = number * own
    mine = [others[(start + i) % len(others)] for i in range(own)]
    rng = np.random.default_rng([seed, 1, number])
    shown = [Item(row, "core") for row in core] + [Item(row, "main") for row in mine]
    shown = [shown[i] for i in rng.permutation(len(shown))]
    again = rng.permutation(max(len(shown) - REPEAT_AFTER, 0))[: round(REPEATS * len(shown))]
    for first in sorted(again.tolist(), reverse=True):  # from the end, so that places hold
        place = int(rng.integers(first + REPEAT_AFTER, len(shown))) + 1
        shown.insert(place, Item(shown[first].row, "repeat"))
    known = rng.permutation(np.asarray(catches, np.int64)).tolist()
    blocks = range(0, len(shown), CATCH_EVERY - 1)
    for block, row in reversed(list(zip(blocks, known, strict=False))):
        place = int(rng.integers(block, min(block + CATCH_EVERY - 1, len(shown)) + 1))
        shown.insert(place, Item(row, "catch"))
    return shown
