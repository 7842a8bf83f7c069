"""All box arithmetic.

Boxes are (x0, y0, x1, y1), half-open, in pixels of the image that goes with them: a box covers
the pixels x0 <= x < x1, so that widths are plain differences. Every function takes any leading
shape (..., 4), none of it included. A box whose far edge does not lie beyond its near edge
covers nothing. GIoU is that of Rezatofighi et al. 2019, arXiv:1902.09630."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert boxes (..., 4) to (center x, center y, width, height)."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack(((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), -1)


def from_cxcywh(boxes_cxcywh: Tensor) -> Tensor:
    """Convert (center x, center y, width, height) (..., 4) to boxes."""
    center_x, center_y, width, height = boxes_cxcywh.unbind(-1)
    half_width, half_height = width / 2, height / 2
    return torch.stack(
        (
            center_x - half_width,
            center_y - half_height,
            center_x + half_width,
            center_y + half_height,
        ),
        -1,
    )


def area(boxes: Tensor) -> Tensor:
    """Return the area (...) of boxes (..., 4) in square pixels; 0 for an inverted box."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return (x1 - x0).clamp(min=0) * (y1 - y0).clamp(min=0)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union (...) of boxes (..., 4) and others, one by one; 0 for two
    empty boxes.
    """
    intersection, union = _intersection_and_union(boxes, others)
    return _share(intersection, union)


def giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalized IoU (...) in -1..1: the IoU less the share of the hull that neither
    box covers.
    """
    intersection, union = _intersection_and_union(boxes, others)
    hull = area(
        torch.cat(
            (torch.minimum(boxes, others)[..., :2], torch.maximum(boxes, others)[..., 2:]), -1
        )
    )
    return _share(intersection, union) - _share(hull - union, hull)


def ciou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the complete IoU (...): the IoU less penalties for the centers' distance and for
    another aspect ratio.

    Zheng et al. 2020, arXiv:1911.08287, equations 7 to 11; of boxes that are not empty.
    """
    overlap = iou(boxes, others)
    hull = torch.cat(
        (torch.minimum(boxes, others)[..., :2], torch.maximum(boxes, others)[..., 2:]), -1
    )
    first, second = to_cxcywh(boxes), to_cxcywh(others)
    apart = (first[..., :2] - second[..., :2]).square().sum(-1) / (
        hull[..., 2:] - hull[..., :2]
    ).square().sum(-1)
    slants = torch.atan(second[..., 2] / second[..., 3]) - torch.atan(first[..., 2] / first[..., 3])
    aspect = 4 / math.pi**2 * slants.square()
    weight = _share(aspect, 1 - overlap + aspect)
    return overlap - apart - weight * aspect


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the IoU (..., N, M) of each of boxes (..., N, 4) with each of others (..., M, 4)."""
    return iou(boxes[..., :, None, :], others[..., None, :, :])


def pairwise_giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalized IoU (..., N, M) of each of boxes (..., N, 4) with each of others (...,
    M, 4).
    """
    return giou(boxes[..., :, None, :], others[..., None, :, :])


def clip(boxes: Tensor, *, height: float, width: float) -> Tensor:
    """Clip boxes (..., 4) to an image; one that lies wholly outside becomes empty, on the edge."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack(
        (x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height)), -1
    )


def kept_share(boxes: Tensor, *, height: float, width: float) -> Tensor:
    """Return the share (...) of each box's area that clipping to an image leaves; 0 for an empty
    box and for NaN.
    """
    return _share(area(clip(boxes, height=height, width=width)), area(boxes))


def flip(boxes: Tensor, *, width: float) -> Tensor:
    """Mirror boxes (..., 4) left and right with their image of `width` pixels."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack((width - x1, y0, width - x0, y1), -1)


def shift(boxes: Tensor, *, x: float, y: float) -> Tensor:
    """Move boxes (..., 4) by x pixels to the right and y pixels down."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack((x0 + x, y0 + y, x1 + x, y1 + y), -1)


def scale(boxes: Tensor, *, x: float, y: float) -> Tensor:
    """Multiply the coordinates of boxes (..., 4), as when their image is resized by the factors x
    and y.
    """
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack((x0 * x, y0 * y, x1 * x, y1 * y), -1)


def crop(
    boxes: Tensor, *, left: float, top: float, height: float, width: float
) -> tuple[Tensor, Tensor]:
    """Move boxes (..., 4) into a window of their image and clip them: boxes (..., 4) and the shares
    kept (...).
    """
    moved = shift(boxes, x=-left, y=-top)
    return clip(moved, height=height, width=width), kept_share(moved, height=height, width=width)


def _intersection_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    near = torch.maximum(boxes, others)[..., :2]
    far = torch.minimum(boxes, others)[..., 2:]
    intersection = area(torch.cat((near, far), -1))
    return intersection, area(boxes) + area(others) - intersection


def _share(part: Tensor, total: Tensor) -> Tensor:
    # The inner `where` keeps 0 / 0 out: its gradient would be NaN even where its value is not used.
    some = total > 0
    return torch.where(some, part / torch.where(some, total, 1), 0)
