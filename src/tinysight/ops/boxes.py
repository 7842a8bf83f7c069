"""Box arithmetic, and predicted boxes.

Boxes are (x0, y0, x1, y1), half-open, in pixels of the image that goes with them: a box covers
the pixels x0 <= x < x1, so that widths are plain differences. Functions take boxes of any leading
shape (..., 4), even an empty one. A box whose far edge is not beyond its near edge has no area.
GIoU: Rezatofighi et al. 2019, arXiv:1902.09630.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tinysight.ops.numpy_boxes import MAX_CANDIDATES
from tinysight.ops.tensor_rows import TensorRows

MIN_SIDE = 1 / 64  # of a decoded box, in sides of the training image: no box is empty or inverted
DECODINGS = ("filter", "stop")


class HeadOutput(NamedTuple):
    """Raw output of a localizer's head: T boxes in each of R x C cells.

    Coordinates are in sides of the training image, whatever the size of the canvas.
    """

    boxes_cxcywh: Tensor  # (B, R, C, T, 4)
    logits: Tensor  # (B, R, C, T), of the confidence
    class_logits: Tensor | None = None  # (B, R, C, T, K), where boxes have classes


class BoxTargets(NamedTuple):
    """What a head learns from: true boxes, in shares of the canvas, padded with NaN.

    Lost boxes are what a window has left of other objects: where they are, a prediction that is
    matched with no true box is neither right nor wrong.
    """

    boxes_cxcywh: Tensor  # (B, G, 4)
    lost_cxcywh: Tensor | None = None  # (B, L, 4)
    labels: Tensor | None = None  # (B, G), of the true boxes


@dataclass(frozen=True)
class Detections(TensorRows):
    """Predicted boxes (B, M, 4) of B images and their confidence (B, M) in 0..1; 0 is padding.

    `labels` (B, M) are the boxes' classes, where they have any.
    """

    boxes: Tensor
    confidence: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.confidence.shape
        labels = shape if self.labels is None else self.labels.shape
        if len(shape) != 2 or self.boxes.shape != (*shape, 4) or labels != shape:
            given = f"boxes {tuple(self.boxes.shape)} and confidence {tuple(shape)}"
            raise ValueError(f"{given} do not fit; give (B, M, 4) and (B, M), labels alike")

    def take(self, order: Tensor) -> Detections:
        """Return the boxes of each image at the places (B, P)."""
        boxes = self.boxes.gather(1, order[..., None].expand(-1, -1, 4))
        labels = None if self.labels is None else self.labels.gather(1, order)
        return Detections(boxes, self.confidence.gather(1, order), labels)

    def of_class(self, label: int) -> Detections:
        """Return the boxes with a confidence of 0 where they have another class."""
        assert self.labels is not None
        confidence = torch.where(self.labels == label, self.confidence, 0)
        return Detections(self.boxes, confidence, self.labels)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert boxes (..., 4) to (center x, center y, width, height)."""
    near, far = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((near + far) / 2, far - near), dim=-1)


def from_cxcywh(boxes_cxcywh: Tensor) -> Tensor:
    """Convert (center x, center y, width, height) (..., 4) to boxes."""
    center, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat((center - half, center + half), dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Return the area (...) of boxes (..., 4) in square pixels; 0 for an inverted box."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the elementwise intersection over union (...); 0 for two empty boxes."""
    return _ratio(*_intersection_and_union(boxes, others))


def giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalized IoU (...) in -1..1: IoU minus the hull's uncovered share."""
    intersection, union = _intersection_and_union(boxes, others)
    near, far = torch.minimum(boxes, others)[..., :2], torch.maximum(boxes, others)[..., 2:]
    hull = area(torch.cat((near, far), dim=-1))
    return _ratio(intersection, union) - _ratio(hull - union, hull)


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the IoU (..., N, M) of each of boxes (..., N, 4) with each of others (..., M, 4)."""
    return iou(boxes[..., :, None, :], others[..., None, :, :])


def clip(boxes: Tensor, *, height: float, width: float) -> Tensor:
    """Clip boxes (..., 4) to an image; one that is entirely outside becomes empty, on the edge."""
    x, y = boxes[..., ::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack((x, y), -1).flatten(-2)


def kept_share(boxes: Tensor, *, height: float, width: float) -> Tensor:
    """Return the share (...) of each box's area left by clipping; 0 for an empty box and NaN."""
    return _ratio(area(clip(boxes, height=height, width=width)), area(boxes))


def flip_averaged(output: HeadOutput, mirrored: HeadOutput, *, width: float) -> HeadOutput:
    """Average the output for images and that for their mirror images, with one box per cell.

    `width` is that of the canvas in sides of the training image.
    """
    boxes, *others = (None if part is None else part.flip(2) for part in mirrored)
    assert boxes is not None and output.logits.shape[-1] == 1
    center = width - boxes[..., :1]
    boxes = torch.cat((center, boxes[..., 1:]), dim=-1)
    means = [
        None if own is None or other is None else (own + other) / 2
        for own, other in zip(output, (boxes, *others), strict=True)
    ]
    return HeadOutput(*means)  # type: ignore[arg-type]


@torch.no_grad()
def decode(
    output: HeadOutput, *, side: float, height: int, width: int, decoding: str = "filter"
) -> Detections:
    """Convert a head's output to boxes in pixels, clipped, in the order of the output.

    With decoding "filter" every box stands for itself. With "stop" the boxes of a cell end with
    the first below the threshold, as in the report: each gets the lowest confidence up to it, so
    that any threshold stops there.

    `side` is that of the training image, in pixels of the canvas; `height` and `width` are those of
    the canvas. Raises ValueError when `decoding` is not in DECODINGS.
    """
    if decoding not in DECODINGS:
        raise ValueError(f"the decoding is {decoding!r}; allowed: {', '.join(DECODINGS)}")
    boxes_cxcywh = output.boxes_cxcywh.float()
    centers = boxes_cxcywh[..., :2] * side
    half = boxes_cxcywh[..., 2:].clamp_min(MIN_SIDE) * side / 2
    edge, min_side = centers.new_tensor([width, height]), MIN_SIDE * side
    # What lies beyond the canvas ends at its edge, with the smallest side inside.
    near = (centers - half).clamp_min(0).minimum(edge - min_side)
    far = (centers + half).minimum(edge).maximum(near + min_side)
    confidence = output.logits.float().sigmoid()
    if decoding == "stop":
        confidence = confidence.cummin(dim=-1).values
    labels = None if output.class_logits is None else output.class_logits.argmax(-1).flatten(1)
    return Detections(torch.cat((near, far), dim=-1).flatten(1, 3), confidence.flatten(1), labels)


@torch.no_grad()
def nms(detections: Detections, *, max_iou: float, max_boxes: int) -> Detections:
    """Apply greedy non-maximum suppression per image and sort by falling confidence.

    Only the MAX_CANDIDATES most confident boxes of an image are compared: a large canvas has more,
    and memory would grow with their square. Of two boxes with an IoU above `max_iou` the less
    confident one goes, unless their classes differ; 1 keeps all. The result has the first
    `max_boxes`, or as many as there were; in place of those that go there are zeros, last.
    """
    order = detections.confidence.sort(dim=1, descending=True, stable=True).indices
    detections = detections.take(order[:, : max(MAX_CANDIDATES, max_boxes)])
    boxes, confidence, labels = detections.boxes, detections.confidence, detections.labels
    if max_iou < 1:
        kept = torch.ones_like(confidence, dtype=torch.bool)
        overlaps = pairwise_iou(boxes, boxes) > max_iou  # (B, M, M)
        if labels is not None:
            overlaps &= labels[:, :, None] == labels[:, None]
        for rank in range(boxes.shape[1] - 1):
            kept[:, rank + 1 :] &= ~(overlaps[:, rank, rank + 1 :] & kept[:, rank, None])
        order = (~kept).int().argsort(dim=1, stable=True)  # the kept ones first
        found = Detections(boxes, torch.where(kept, confidence, 0), labels).take(order)
        boxes, confidence, labels = found.boxes, found.confidence, found.labels
    boxes, confidence = boxes[:, :max_boxes], confidence[:, :max_boxes]
    if labels is not None:
        labels = torch.where(confidence > 0, labels[:, :max_boxes], 0)
    return Detections(torch.where(confidence[..., None] > 0, boxes, 0), confidence, labels)


def _intersection_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    near = torch.maximum(boxes, others)[..., :2]
    far = torch.minimum(boxes, others)[..., 2:]
    intersection = area(torch.cat((near, far), -1))
    return intersection, area(boxes) + area(others) - intersection


def _ratio(part: Tensor, total: Tensor) -> Tensor:
    # The inner `where` avoids 0 / 0: its gradient would be NaN even where its value is not used.
    positive = total > 0
    return torch.where(positive, part / torch.where(positive, total, 1), 0)
