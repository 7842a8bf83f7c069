"""Training losses of a localizer's boxes and confidences."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tinysight.ops.boxes import MIN_SIDE, HeadOutput, from_cxcywh, giou
from tinysight.ops.matching import cells_of, match


class DetectionLosses(NamedTuple):
    """The two parts of a localizer's loss, each a mean over images, summed over an image's cells."""

    confidence: Tensor
    box: Tensor


def hungarian_loss(
    candidates: HeadOutput,
    gt_boxes_cxcywh: Tensor,
    *,
    overlap: str,
    giou_weight: float,
    cell_scale: float = 1.0,
) -> DetectionLosses:
    """Compare candidates with gt_boxes (B, G, 4), shares of the canvas padded with NaN, after
    matching them by cells.

    The confidence's part is the cross-entropy of "answers for a truth" over all cells and steps;
    the box's is the L1 distance of the four numbers over the matched pairs alone, plus
    `giou_weight` times 1 - GIoU."""
    boxes, logits = candidates.boxes_cxcywh.float(), candidates.logits.float()
    batch, rows, columns, steps, _ = boxes.shape
    gt_boxes = cells_of(gt_boxes_cxcywh, rows=rows, columns=columns, cell_scale=cell_scale).flatten(
        0, 2
    )  # (B R C, G, 4)
    assigned = match(boxes.detach().reshape(-1, steps, 4), gt_boxes, overlap=overlap)  # (B R C, T)
    matched = assigned >= 0
    confidence = F.binary_cross_entropy_with_logits(
        logits.reshape(-1, steps), matched.float(), reduction="sum"
    )
    example, step = matched.nonzero(as_tuple=True)
    own = gt_boxes[example, assigned[example, step]]
    return DetectionLosses(
        confidence / batch,
        _box_loss(boxes.reshape(-1, steps, 4)[example, step], own, giou_weight) / batch,
    )


def single_box_loss(
    candidates: HeadOutput, gt_boxes_cxcywh: Tensor, *, giou_weight: float
) -> DetectionLosses:
    """Compare the one answer of each image with the first of its gt_boxes (B, G, 4), whatever lies
    between them.
    """
    boxes, logits = (
        candidates.boxes_cxcywh.float().flatten(1, 3),
        candidates.logits.float().flatten(1),
    )
    first = gt_boxes_cxcywh[:, 0]
    there = ~first.isnan().any(dim=-1)
    confidence = F.binary_cross_entropy_with_logits(logits[:, 0], there.float(), reduction="sum")
    return DetectionLosses(
        confidence / len(boxes), _box_loss(boxes[there, 0], first[there], giou_weight) / len(boxes)
    )


def centernet_loss(
    candidates: HeadOutput, gt_boxes_cxcywh: Tensor, *, giou_weight: float
) -> DetectionLosses:
    """Compare a map of centers with gt_boxes (B, G, 4): penalty-reduced focal loss, and the box at
    each center's cell.

    Source: Zhou, Wang, Kraehenbuehl 2019 (arXiv:1904.07850), equation 1, with Gaussians as wide
    and high as a sixth of the object; the box is read as a whole at the cell that holds its
    center."""
    boxes, logits = (
        candidates.boxes_cxcywh.float()[..., 0, :],
        candidates.logits.float()[..., 0],
    )  # (B, R, C, ...)
    batch, rows, columns = logits.shape
    there = ~gt_boxes_cxcywh.isnan().any(dim=-1)
    gt_boxes = gt_boxes_cxcywh.nan_to_num(0.5)
    middles_x = (torch.arange(columns, device=logits.device) + 0.5) / columns
    middles_y = (torch.arange(rows, device=logits.device) + 0.5) / rows
    centers, sides = gt_boxes[..., :2], gt_boxes[..., 2:].clamp_min(MIN_SIDE)
    away_x = (middles_x - centers[..., :1]) / (sides[..., :1] / 6).clamp_min(
        0.5 / columns
    )  # (B, G, C)
    away_y = (middles_y - centers[..., 1:]) / (sides[..., 1:] / 6).clamp_min(0.5 / rows)
    heat = torch.exp(
        -(away_y.square()[..., :, None] + away_x.square()[..., None, :]) / 2
    )  # (B, G, R, C)
    heat = torch.where(there[..., None, None], heat, 0).amax(dim=1)
    image, number = there.nonzero(as_tuple=True)
    row = (centers[image, number, 1] * rows).long().clamp(0, rows - 1)
    column = (centers[image, number, 0] * columns).long().clamp(0, columns - 1)
    heat[image, row, column] = 1.0
    positive = heat == 1
    probability = logits.sigmoid()
    hit = -F.logsigmoid(logits) * (1 - probability) ** 2
    miss = -F.logsigmoid(-logits) * probability**2 * (1 - heat) ** 4
    confidence = torch.where(positive, hit, miss).sum()
    box = _box_loss(boxes[image, row, column], gt_boxes[image, number], giou_weight)
    return DetectionLosses(confidence / batch, box / batch)


def _box_loss(boxes_cxcywh: Tensor, gt_boxes_cxcywh: Tensor, giou_weight: float) -> Tensor:
    """Sum the L1 distances and weighted 1 - GIoU of pairs (P, 4); exactly 0, with a gradient of 0,
    for no pair.
    """
    loss = (boxes_cxcywh - gt_boxes_cxcywh).abs().sum()
    if giou_weight:
        shaped = torch.cat(
            (boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:].clamp_min(MIN_SIDE)), dim=-1
        )
        loss = (
            loss + giou_weight * (1 - giou(from_cxcywh(shaped), from_cxcywh(gt_boxes_cxcywh))).sum()
        )
    return loss
