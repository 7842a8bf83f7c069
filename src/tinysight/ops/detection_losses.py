"""Training losses of a localizer's boxes and confidences."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tinysight.ops.boxes import MIN_SIDE, BoxTargets, HeadOutput, from_cxcywh, giou
from tinysight.ops.matching import cells_of, match, touched_cells


class DetectionLosses(NamedTuple):
    """The parts of the loss, each summed over an image's cells and averaged over images."""

    confidence: Tensor
    box: Tensor
    classes: Tensor | float = 0.0  # cross-entropy, of the matched boxes


def hungarian_loss(
    output: HeadOutput,
    targets: BoxTargets,
    *,
    overlap: str,
    giou_weight: float,
    cell_scale: float = 1.0,
) -> DetectionLosses:
    """Compare a head's output with true boxes (B, G, 4) after matching them within each cell.

    The confidence's part is the cross-entropy of "is matched" over all cells and steps; the box's
    is the L1 distance of the four numbers over the matched pairs, plus `giou_weight` times
    1 - GIoU.

    `overlap` and `cell_scale`: see `ops.matching`.
    """
    batch, rows, columns, steps, _ = output.boxes_cxcywh.shape
    boxes = output.boxes_cxcywh.float().reshape(-1, steps, 4)  # (B R C, T, 4)
    logits = output.logits.float().reshape(-1, steps)
    cells = cells_of(targets.boxes_cxcywh, rows=rows, columns=columns, cell_scale=cell_scale)
    gt_boxes = cells.flatten(0, 2)  # (B R C, G, 4)
    matches = match(boxes.detach(), gt_boxes, overlap=overlap)  # (B R C, T)
    matched = matches >= 0
    lost = touched_cells(targets.lost_cxcywh, rows=rows, columns=columns).flatten()
    each = F.binary_cross_entropy_with_logits(logits, matched.float(), reduction="none")
    confidence = torch.where(matched | ~lost[:, None], each, 0).sum()
    example, step = matched.nonzero(as_tuple=True)
    own = gt_boxes[example, matches[example, step]]
    box = _box_loss(boxes[example, step], own, giou_weight)
    place = (example // (rows * columns), matches[example, step])
    classes = _class_loss(output.class_logits, (example, step), targets.labels, place)
    return DetectionLosses(confidence / batch, box / batch, classes / batch)


def single_box_loss(
    output: HeadOutput, targets: BoxTargets, *, giou_weight: float
) -> DetectionLosses:
    """Compare the one box of each image with the first of its true boxes, however far.

    What comes before it is padding: no box, of a part of a mosaic, or a lost one.
    """
    boxes = output.boxes_cxcywh.float().flatten(1, 3)[:, 0]
    logits = output.logits.float().flatten(1)[:, 0]
    there = ~targets.boxes_cxcywh.isnan().any(dim=-1)  # (B, G)
    image, first = torch.arange(len(boxes), device=boxes.device), there.int().argmax(dim=1)
    gt_box, valid = targets.boxes_cxcywh[image, first], there.any(dim=1)
    known = valid | ~touched_cells(targets.lost_cxcywh, rows=1, columns=1).flatten()
    each = F.binary_cross_entropy_with_logits(logits, valid.float(), reduction="none")
    confidence = torch.where(known, each, 0).sum()
    box, num = _box_loss(boxes[valid], gt_box[valid], giou_weight), len(boxes)
    image, first = image[valid], first[valid]
    own = (image, torch.zeros_like(image))
    classes = _class_loss(output.class_logits, own, targets.labels, (image, first))
    return DetectionLosses(confidence / num, box / num, classes / num)


def centernet_loss(
    output: HeadOutput, targets: BoxTargets, *, giou_weight: float
) -> DetectionLosses:
    """Compare a map of centers with true boxes (B, G, 4): focal loss, and the box at each center.

    Source: Zhou, Wang, Kraehenbuehl 2019 (arXiv:1904.07850), equation 1, penalty-reduced, with
    Gaussians of a sixth of the object's width and height; all four numbers of the box are read at
    the cell that contains its center.
    """
    boxes = output.boxes_cxcywh.float()[..., 0, :]  # (B, R, C, 4)
    logits = output.logits.float()[..., 0]
    batch, rows, columns = logits.shape
    valid = ~targets.boxes_cxcywh.isnan().any(dim=-1)
    gt_boxes = targets.boxes_cxcywh.nan_to_num(0.5)
    centers, sides = gt_boxes[..., :2], gt_boxes[..., 2:].clamp_min(MIN_SIDE)
    grid_x = (torch.arange(columns, device=logits.device) + 0.5) / columns
    grid_y = (torch.arange(rows, device=logits.device) + 0.5) / rows
    # Distances in standard deviations, (B, G, C) and (B, G, R)
    x = (grid_x - centers[..., :1]) / (sides[..., :1] / 6).clamp_min(0.5 / columns)
    y = (grid_y - centers[..., 1:]) / (sides[..., 1:] / 6).clamp_min(0.5 / rows)
    gaussians = torch.exp(-(y.square()[..., :, None] + x.square()[..., None, :]) / 2)
    heat = torch.where(valid[..., None, None], gaussians, 0).amax(dim=1)  # (B, R, C)
    image, index = valid.nonzero(as_tuple=True)
    row = (centers[image, index, 1] * rows).long().clamp(0, rows - 1)
    column = (centers[image, index, 0] * columns).long().clamp(0, columns - 1)
    heat[image, row, column] = 1.0
    probability = logits.sigmoid()
    positive = -F.logsigmoid(logits) * (1 - probability) ** 2
    negative = -F.logsigmoid(-logits) * probability**2 * (1 - heat) ** 4
    lost = touched_cells(targets.lost_cxcywh, rows=rows, columns=columns)
    confidence = torch.where(heat == 1, positive, torch.where(lost, 0, negative)).sum()
    box = _box_loss(boxes[image, row, column], gt_boxes[image, index], giou_weight)
    cell = (image * rows + row) * columns + column
    own = (cell, torch.zeros_like(cell))
    classes = _class_loss(output.class_logits, own, targets.labels, (image, index))
    return DetectionLosses(confidence / batch, box / batch, classes / batch)


def _class_loss(
    class_logits: Tensor | None,
    predictions: tuple[Tensor, Tensor],
    labels: Tensor | None,
    true: tuple[Tensor, Tensor],
) -> Tensor | float:
    """Sum the cross-entropies of pairs: (cell of the batch, step) and (image, its true box)."""
    if class_logits is None or labels is None:
        return 0.0
    own = class_logits.float().flatten(0, 2)[predictions]
    return F.cross_entropy(own, labels[true], reduction="sum")


def _box_loss(boxes_cxcywh: Tensor, gt_boxes_cxcywh: Tensor, giou_weight: float) -> Tensor:
    """Sum L1 distances and weighted 1 - GIoU of pairs (P, 4); 0, with a gradient of 0, for none."""
    loss = (boxes_cxcywh - gt_boxes_cxcywh).abs().sum()
    if giou_weight:
        sides = boxes_cxcywh[..., 2:].clamp_min(MIN_SIDE)
        boxes = from_cxcywh(torch.cat((boxes_cxcywh[..., :2], sides), dim=-1))
        loss = loss + giou_weight * (1 - giou(boxes, from_cxcywh(gt_boxes_cxcywh))).sum()
    return loss
