"""Matching of predicted to true boxes (Stewart, Andriluka, Ng 2016, arXiv:1506.04878, section 3.2).

A decoder predicts boxes in an order. A one-to-one assignment costs, compared lexicographically
and summed over its pairs: (overlap o, precedence r, distance d). o is 1 where prediction and true
box do not overlap; r is the prediction's rank from 1; d is the L1 distance of their four numbers.
A true box is thus assigned to the first prediction that overlaps it, and distance decides only
between assignments that are equal otherwise.

The paper and its published code define overlap differently: the true box must contain the
prediction's center ("center"), or the two have an IoU of at least 0.25 ("iou").

Boxes are (center x, center y, width, height), in any one unit. Nothing here has a gradient.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tinysight.ops.boxes import from_cxcywh, iou

OVERLAPS = ("iou", "center")
MIN_IOU = 0.25


@torch.no_grad()
def overlaps(boxes_cxcywh: Tensor, gt_boxes_cxcywh: Tensor, *, rule: str = "iou") -> Tensor:
    """Return elementwise whether boxes (..., 4) overlap gt_boxes (..., 4): bool (...).

    Nothing overlaps a true box of NaN, which is padding. Raises ValueError when `rule` is not in
    OVERLAPS.
    """
    if rule == "iou":
        return iou(from_cxcywh(boxes_cxcywh), from_cxcywh(gt_boxes_cxcywh)) >= MIN_IOU
    if rule != "center":
        raise ValueError(f"the overlap rule is {rule!r}; allowed: {', '.join(OVERLAPS)}")
    distance = (boxes_cxcywh[..., :2] - gt_boxes_cxcywh[..., :2]).abs()
    return (distance <= gt_boxes_cxcywh[..., 2:] / 2).all(dim=-1)


def scalar_costs(overlapping: Tensor, distances: Tensor) -> Tensor:
    """Combine (overlap, precedence, distance) into one cost per pair, in the same order: (T, G).

    With at most M = min(T, G) pairs, distances sum to at most M times the largest and ranks differ
    by at most M (T - 1), so that each step is worth more than everything below it. Float64.

    Args:
        overlapping: bool (T, G), predictions in the decoder's order.
        distances: (T, G), finite.
    """
    num_boxes, num_gt_boxes = distances.shape
    num_pairs = min(num_boxes, num_gt_boxes)
    distances = distances.double()
    largest = distances.max() if distances.numel() else distances.new_zeros(())
    ranks = torch.arange(1, num_boxes + 1, dtype=torch.float64, device=distances.device)
    missed = (~overlapping).double() * (num_pairs * (num_boxes - 1) + 2)
    return missed + ranks[:, None] + distances / (num_pairs * largest + 1)


@torch.no_grad()
def match(boxes_cxcywh: Tensor, gt_boxes_cxcywh: Tensor, *, overlap: str = "iou") -> Tensor:
    """Match boxes (E, T, 4) to gt_boxes (E, G, 4), padded with NaN, in E examples: int64 (E, T).

    The result is the index of the true box, or -1 for none. Of more true boxes than predictions,
    the most expensive are not matched. Examples with one true box, nearly all, are matched at
    once; the others are solved one by one, on the CPU.
    """
    num_examples, num_boxes, _ = boxes_cxcywh.shape
    matched = torch.full((num_examples, num_boxes), -1, device=boxes_cxcywh.device)
    valid = ~gt_boxes_cxcywh.isnan().any(dim=-1)  # (E, G)
    counts = valid.sum(dim=1)
    single = (counts == 1).nonzero()[:, 0]
    if len(single):
        index = valid[single].int().argmax(dim=1)  # of the only true box
        gt_box = gt_boxes_cxcywh[single, index]
        hits = overlaps(boxes_cxcywh[single], gt_box[:, None], rule=overlap)
        first = hits.int().argmax(dim=1)  # 0, the first prediction, where none overlaps
        matched[single, first] = index
    several = (counts > 1).nonzero()[:, 0]
    if len(several):
        boxes, gt_boxes = (x[several].double().cpu() for x in (boxes_cxcywh, gt_boxes_cxcywh))
        matched[several] = _match_several(boxes, gt_boxes, overlap).to(matched.device)
    return matched


def _match_several(boxes: Tensor, gt_boxes: Tensor, overlap: str) -> Tensor:
    matched = torch.full(boxes.shape[:2], -1)
    distances = (boxes[:, :, None] - gt_boxes[:, None]).abs().sum(dim=-1)  # (E, T, G)
    distances = distances.nan_to_num(posinf=1e30)  # of a diverging training: its loss will show it
    hits = overlaps(boxes[:, :, None], gt_boxes[:, None], rule=overlap)
    for example, valid in enumerate(~gt_boxes.isnan().any(dim=-1)):
        indices = valid.nonzero()[:, 0]
        costs = scalar_costs(hits[example][:, indices], distances[example][:, indices])
        ranks, columns = linear_sum_assignment(costs.numpy())
        matched[example, torch.from_numpy(ranks)] = indices[torch.from_numpy(columns)]
    return matched


def cells_of(
    gt_boxes_cxcywh: Tensor, *, rows: int, columns: int, cell_scale: float = 1.0
) -> Tensor:
    """Return the true boxes with their center in each cell of a grid: (B, rows, columns, G, 4).

    The others are NaN. A cell includes its near edges and not its far ones, except in the last row
    and column: a center on a border belongs to one cell, where the strict test of the method's code
    assigns it to none.

    Args:
        gt_boxes_cxcywh: (B, G, 4) in shares of the canvas, padded with NaN.
        cell_scale: a cell also includes centers within so many times its half side of its own
            center; above 1, neighbors share objects, and learn to find them twice.
    """
    centers = gt_boxes_cxcywh[..., :2].nan_to_num(-1.0)  # (B, G, 2)
    size = torch.tensor([columns, rows], device=centers.device, dtype=centers.dtype)
    column, row = (centers * size).floor().minimum(size - 1).clamp_min(0).unbind(-1)  # (B, G)
    grid_x = torch.arange(columns, device=centers.device, dtype=centers.dtype)[None, :, None]
    grid_y = torch.arange(rows, device=centers.device, dtype=centers.dtype)[None, :, None]
    in_column = column[:, None] == grid_x  # (B, columns, G)
    in_row = row[:, None] == grid_y
    if cell_scale > 1:
        x, y = (centers * size)[:, None].unbind(-1)  # (B, 1, G), in cells
        in_column = in_column | ((x - grid_x - 0.5).abs() < cell_scale / 2)
        in_row = in_row | ((y - grid_y - 0.5).abs() < cell_scale / 2)
    inside = in_row[:, :, None] & in_column[:, None]  # (B, rows, columns, G)
    return torch.where(inside[..., None], gt_boxes_cxcywh[:, None, None], torch.nan)


def touched_cells(boxes_cxcywh: Tensor | None, *, rows: int, columns: int) -> Tensor:
    """Return which cells any of the boxes (B, G, 4) overlaps: bool (B, rows, columns).

    Boxes are in shares of the canvas, padded with NaN; for None the result is False (1, 1, 1).
    """
    if boxes_cxcywh is None:
        return torch.zeros(1, 1, 1, dtype=torch.bool)
    x0, y0, x1, y1 = from_cxcywh(boxes_cxcywh)[..., None].unbind(dim=-2)  # (B, G, 1)
    x, y = (torch.arange(num, device=boxes_cxcywh.device) for num in (columns, rows))
    across = (x0 * columns < x + 1) & (x1 * columns > x)  # (B, G, columns)
    down = (y0 * rows < y + 1) & (y1 * rows > y)
    return (down[..., :, None] & across[..., None, :]).any(dim=1)
