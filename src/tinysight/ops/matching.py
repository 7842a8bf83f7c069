"""Which candidate box answers for which true one (Stewart, Andriluka, Ng 2016, arXiv:1506.04878,
section 3.2).

A decoder emits candidates in an order. A one-to-one assignment costs, compared lexicographically
and summed over its pairs: (overlap o, precedence r, distance d). o is 1 where the candidate does
not overlap the truth; r is the candidate's rank from 1; d is the L1 distance of their four numbers.
So a truth goes to the first candidate that finds it, and distance decides only between assignments
that are equal otherwise.

Two things follow. With one truth the distance never decides: the first candidate that overlaps is
taken, however well a later one fits, and every later one is taught that nothing more is there. And
the paper's own code and its best-known successor differ in what overlaps: the truth's box must hold
the candidate's center ("center"), or the two have an IoU of at least 0.25 ("iou"). Both are here.

Boxes here are (center x, center y, width, height), in any one unit. Nothing here has a gradient.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tinysight.ops.boxes import from_cxcywh, iou

OVERLAPS = ("iou", "center")
LEAST_IOU = 0.25


@torch.no_grad()
def overlaps(candidates_cxcywh: Tensor, gt_boxes_cxcywh: Tensor, *, rule: str = "iou") -> Tensor:
    """Tell whether each of candidates (..., 4) overlaps the truth (..., 4) at its place: bool
    (...).

    A truth of NaN, which pads, is overlapped by nothing.

    Raises:
        ValueError: `rule` is not in OVERLAPS.
    """
    if rule == "iou":
        return iou(from_cxcywh(candidates_cxcywh), from_cxcywh(gt_boxes_cxcywh)) >= LEAST_IOU
    if rule != "center":
        raise ValueError(f"the overlap rule is {rule!r}; allowed: {', '.join(OVERLAPS)}")
    away = (candidates_cxcywh[..., :2] - gt_boxes_cxcywh[..., :2]).abs()
    return (away <= gt_boxes_cxcywh[..., 2:] / 2).all(dim=-1)


def scalar_costs(overlapping: Tensor, distances: Tensor) -> Tensor:
    """Turn (overlap, precedence, distance) into one number a pair that orders assignments alike:
    float64 (T, G).

    With at most M = min(T, G) pairs, distances sum to at most M times the largest and ranks differ
    by at most M (T - 1), so that each step is worth more than everything below it.

    Args:
        overlapping: bool (T, G), candidates in the decoder's order.
        distances: (T, G), finite.
    """
    num_candidates, num_gt_boxes = distances.shape
    pairs = min(num_candidates, num_gt_boxes)
    distances = distances.double()
    largest = distances.max() if distances.numel() else distances.new_zeros(())
    ranks = torch.arange(1, num_candidates + 1, dtype=torch.float64, device=distances.device)[
        :, None
    ]
    missed = (~overlapping).double() * (pairs * (num_candidates - 1) + 2)
    return missed + ranks + distances / (pairs * largest + 1)


@torch.no_grad()
def match(candidates_cxcywh: Tensor, gt_boxes_cxcywh: Tensor, *, overlap: str = "iou") -> Tensor:
    """Assign gt_boxes (E, G, 4), padded with NaN, to candidates (E, T, 4) in each of E examples:
    int64 (E, T).

    An entry is the truth's number, or -1 for a candidate that answers for none. Of more gt_boxes
    than candidates, the costliest go without. Examples with one truth, nearly all, are done at
    once; the others are solved one by one, on the CPU."""
    num_examples, num_candidates, _ = candidates_cxcywh.shape
    assigned = torch.full(
        (num_examples, num_candidates), -1, dtype=torch.int64, device=candidates_cxcywh.device
    )
    real = ~gt_boxes_cxcywh.isnan().any(dim=-1)  # (E, G)
    counts = real.sum(dim=1)
    single = (counts == 1).nonzero()[:, 0]
    if len(single):
        place = real[single].int().argmax(dim=1)  # where the only truth stands
        truth = gt_boxes_cxcywh[single, place]
        hit = overlaps(candidates_cxcywh[single], truth[:, None], rule=overlap)
        first = hit.int().argmax(dim=1)  # 0, the first candidate, where none overlaps
        assigned[single, first] = place
    several = (counts > 1).nonzero()[:, 0].tolist()
    if several:
        candidates, gt_boxes = (
            candidates_cxcywh[several].double().cpu(),
            gt_boxes_cxcywh[several].double().cpu(),
        )
        solved = torch.full((len(several), num_candidates), -1, dtype=torch.int64)
        distances = (candidates[:, :, None] - gt_boxes[:, None]).abs().sum(dim=-1)  # (E', T, G)
        distances = distances.nan_to_num(
            posinf=1e30
        )  # of a diverging training, which the loop notices by its loss
        hits = overlaps(candidates[:, :, None], gt_boxes[:, None], rule=overlap)
        there = ~gt_boxes.isnan().any(dim=-1)
        for example in range(len(several)):
            own = there[example].nonzero()[:, 0]
            costs = scalar_costs(hits[example][:, own], distances[example][:, own])
            ranks, places = linear_sum_assignment(costs.numpy())
            solved[example, torch.from_numpy(ranks)] = own[torch.from_numpy(places)]
        assigned[several] = solved.to(assigned.device)
    return assigned


def cells_of(
    gt_boxes_cxcywh: Tensor, *, rows: int, columns: int, cell_scale: float = 1.0
) -> Tensor:
    """Give each cell of a grid over the unit square the gt_boxes whose center it holds: (B, rows,
    columns, G, 4).

    The others are NaN there. A cell holds its near edges and not its far ones, but for the last row
    and column: a center on a border belongs to one cell, where the strict test of the method's code
    leaves it to none.

    Args:
        gt_boxes_cxcywh: (B, G, 4) in shares of the canvas, padded with NaN.
        cell_scale: a cell also holds the centers within this many times its half side of its
            middle; above 1, neighbors share gt_boxes, and learn to find them twice."""
    centers = gt_boxes_cxcywh[..., :2].nan_to_num(-1.0)  # (B, G, 2)
    sides = torch.tensor([columns, rows], device=centers.device, dtype=centers.dtype)
    own = (centers * sides).floor().minimum(sides - 1).clamp_min(0)  # (B, G, 2): the cell by floor
    grid_y = torch.arange(rows, device=centers.device, dtype=centers.dtype)
    grid_x = torch.arange(columns, device=centers.device, dtype=centers.dtype)
    along_x, along_y = (
        centers[:, None, :, 0] * columns,
        centers[:, None, :, 1] * rows,
    )  # (B, 1, G), in cells
    in_column = own[:, None, :, 0] == grid_x[None, :, None]  # (B, columns, G)
    in_row = own[:, None, :, 1] == grid_y[None, :, None]
    if cell_scale > 1:
        in_column = in_column | ((along_x - grid_x[None, :, None] - 0.5).abs() < cell_scale / 2)
        in_row = in_row | ((along_y - grid_y[None, :, None] - 0.5).abs() < cell_scale / 2)
    held = in_row[:, :, None] & in_column[:, None]  # (B, rows, columns, G)
    return torch.where(held[..., None], gt_boxes_cxcywh[:, None, None], torch.nan)
