"""Matching equals cases worked by hand, and the brute force that its cost stands for."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tinysight.ops.matching import OVERLAPS, cells_of, match, overlaps, scalar_costs

Box = tuple[float, float, float, float]

A, B = (16.0, 16.0, 16.0, 16.0), (44.0, 44.0, 16.0, 16.0)
FIGURE_5: list[Box] = [
    *((18.0, 16.0, 16.0, 16.0), (17.0, 16.0, 16.0, 16.0)),
    *((44.0, 26.0, 16.0, 16.0), (46.0, 45.0, 16.0, 16.0)),
]
LARGE = (32.0, 32.0, 40.0, 40.0)


def matched(boxes: list[Box], gt_boxes: list[Box], overlap: str = "iou") -> dict[int, int]:
    """Match one example; return {true box: prediction}, both from 1."""
    matches = match(torch.tensor([boxes]), torch.tensor([gt_boxes]), overlap=overlap)[0].tolist()
    return {index + 1: rank + 1 for rank, index in enumerate(matches) if index >= 0}


def total_cost(
    boxes: list[Box], gt_boxes: list[Box], pairs: dict[int, int], overlap: str = "iou"
) -> tuple[int, int, float]:
    """Sum (overlap, precedence, distance) of pairs by definition."""
    pred = torch.tensor([boxes[rank - 1] for rank in pairs.values()])
    true = torch.tensor([gt_boxes[index - 1] for index in pairs])
    missed = int((~overlaps(pred, true, rule=overlap)).sum())
    return missed, sum(pairs.values()), float((pred - true).abs().sum())


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_figure_5_of_the_method(overlap: str) -> None:
    totals = {(1, 4): (0, 5, 5), (2, 4): (0, 6, 4), (1, 3): (1, 4, 20), (2, 3): (1, 5, 19)}
    for (first, second), total in totals.items():
        assert total_cost(FIGURE_5, [A, B], {1: first, 2: second}, overlap) == total
    assert matched(FIGURE_5, [A, B], overlap) == {1: 1, 2: 4}
    assert matched(FIGURE_5, [B, A], overlap) == {1: 4, 2: 1}  # in any order of true boxes


def test_distance_alone_would_match_other_boxes() -> None:
    distances = (torch.tensor(FIGURE_5)[:, None] - torch.tensor([A, B])[None]).abs().sum(-1)
    assert distances.argmin(dim=0).tolist() == [1, 3]  # boxes 2 and 4


@pytest.mark.parametrize(
    ("boxes", "chosen"),
    [
        # The first that overlaps, although the second is exact.
        ([(32.0, 32.0, 24.0, 24.0), LARGE, (33.0, 32.0, 40.0, 40.0)], 1),
        ([(60.0, 60.0, 6.0, 6.0), (2.0, 2.0, 4.0, 4.0), (34.0, 32.0, 40.0, 40.0), LARGE], 3),
    ],
)
def test_one_true_box_is_matched_to_the_first_that_overlaps(boxes: list[Box], chosen: int) -> None:
    assert matched(boxes, [LARGE]) == {1: chosen}


def test_the_first_is_matched_where_nothing_overlaps() -> None:
    boxes = [(60.0, 60.0, 6.0, 6.0), (58.0, 58.0, 6.0, 6.0), (50.0, 50.0, 6.0, 6.0)]
    assert matched(boxes, [A]) == {1: 1}
    assert total_cost(boxes, [A], {1: 1}) == (1, 1, 108)


def test_the_two_overlap_rules_differ() -> None:
    boxes = [(32.0, 32.0, 10.0, 10.0), (40.0, 32.0, 40.0, 40.0)]
    assert matched(boxes, [LARGE], "iou") == {1: 2}
    assert matched(boxes, [LARGE], "center") == {1: 1}


def test_distance_decides_between_equal_ranks() -> None:
    gt_boxes = [(34.0, 32.0, 40.0, 40.0), (30.0, 32.0, 40.0, 40.0)]
    boxes = [gt_boxes[1], gt_boxes[0]]
    assert matched(boxes, gt_boxes) == {1: 2, 2: 1}
    assert total_cost(boxes, gt_boxes, {1: 2, 2: 1})[2] == 0


def test_three_true_boxes() -> None:
    third = (16.0, 48.0, 14.0, 14.0)
    gt_boxes: list[Box] = [B, third, A]
    near = [(17.0, 17.0, 16.0, 16.0), (16.0, 48.0, 16.0, 16.0), (44.0, 45.0, 16.0, 16.0)]
    boxes: list[Box] = [A, near[0], B, near[1], near[2]]
    pairs = matched(boxes, gt_boxes)
    assert pairs == {1: 3, 2: 4, 3: 1}
    assert total_cost(boxes, gt_boxes, pairs) == (0, 8, 4)


def test_of_more_true_boxes_than_predictions_some_are_not_matched() -> None:
    pairs = matched([A, B], [A, B, (16.0, 48.0, 14.0, 14.0)])
    assert pairs == {1: 1, 2: 2}


def test_padding_and_examples_without_true_boxes_match_nothing() -> None:
    nan = (math.nan,) * 4
    boxes = torch.tensor([FIGURE_5] * 3)
    gt_boxes = torch.tensor([[nan, nan], [nan, A], [B, A]])
    assert match(boxes, gt_boxes).tolist() == [[-1] * 4, [1, -1, -1, -1], [1, -1, -1, 0]]
    assert match(boxes, torch.empty(3, 0, 4)).tolist() == [[-1] * 4] * 3


def test_boxes_of_nan_are_matched() -> None:
    nan = torch.full((1, 3, 4), math.nan)
    assert sorted(match(nan, torch.tensor([[A, B]]))[0].tolist()) == [-1, 0, 1]


def test_an_unknown_overlap_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed: iou, center"):
        overlaps(torch.tensor(A), torch.tensor(B), rule="l1")


def brute_force(hits: Tensor, distances: Tensor) -> tuple[int, int, float]:
    """Return the lowest (o, r, d) of every one-to-one assignment."""
    num_boxes, num_gt_boxes = distances.shape
    best = (10**9, 10**9, math.inf)
    for ranks in itertools.permutations(range(num_boxes), num_gt_boxes):
        o = sum(not bool(hits[rank, index]) for index, rank in enumerate(ranks))
        r = sum(rank + 1 for rank in ranks)
        d = sum(float(distances[rank, index]) for index, rank in enumerate(ranks))
        best = min(best, (o, r, d))
    return best


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
    st.sampled_from([1, 8, 64, 5000]),
    st.integers(0, 2**31),
)
def test_scalar_costs_order_assignments_as_the_triples_do(
    sizes: tuple[int, int], scale: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hits = torch.rand(sizes, generator=generator) < 0.5
    # Quarters of whole numbers add up exactly, so that equal sums are equal.
    distances = torch.randint(0, 4 * scale, sizes, generator=generator).double() / 4
    ranks, gt_boxes = linear_sum_assignment(scalar_costs(hits, distances).numpy())
    o = int((~hits)[ranks, gt_boxes].sum())
    r = int(ranks.sum()) + len(ranks)
    assert (o, r, float(distances[ranks, gt_boxes].sum())) == brute_force(hits, distances)


def test_a_center_on_a_border_belongs_to_one_cell() -> None:
    for center in ((0.5, 0.5), (0.25, 0.1), (0.0, 1.0), (1.0, 1.0), (0.999, 0.75)):
        gt_boxes = torch.tensor([[[*center, 0.2, 0.2]]])
        held = ~cells_of(gt_boxes, rows=4, columns=4).isnan().any(-1)[0, ..., 0]
        row, column = (min(3, int(4 * value)) for value in (center[1], center[0]))
        assert held.nonzero().tolist() == [[row, column]], center


def test_neighboring_cells_share_objects_at_a_large_cell_scale() -> None:
    gt_boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2]]])
    held = ~cells_of(gt_boxes, rows=4, columns=4, cell_scale=1.8).isnan().any(-1)[0, ..., 0]
    assert held.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    at_middle = torch.tensor([[[0.625, 0.625, 0.2, 0.2]]])
    assert int((~cells_of(at_middle, rows=4, columns=4, cell_scale=1.8).isnan().any(-1)).sum()) == 1
    padding = torch.full((1, 1, 4), torch.nan)
    assert cells_of(padding, rows=4, columns=4, cell_scale=1.8).isnan().all()
