"""`ops.boxes.nms` in NumPy, for prediction without torch; the tests compare the two."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

MAX_CANDIDATES = 256  # boxes per image that are compared with one another


def nms(
    boxes: Float32,
    confidence: Float32,
    labels: Int64 | None = None,
    *,
    max_iou: float,
    max_boxes: int,
) -> tuple[Float32, Float32, Int64 | None]:
    """Boxes (B, N, 4), confidence and labels (B, N) -> (B, M, 4) and (B, M), M at most `max_boxes`.

    The result is the one of `ops.boxes.nms`, to the bit.
    """
    order = np.argsort(-confidence, axis=1, kind="stable")[:, : max(MAX_CANDIDATES, max_boxes)]
    boxes, confidence = _take(boxes, order), _take(confidence, order)
    labels = None if labels is None else _take(labels, order)
    if max_iou < 1:
        kept = np.ones(confidence.shape, bool)
        overlaps = _pairwise_iou(boxes) > max_iou  # (B, N, N)
        if labels is not None:
            overlaps &= labels[:, :, None] == labels[:, None]
        for rank in range(boxes.shape[1] - 1):
            kept[:, rank + 1 :] &= ~(overlaps[:, rank, rank + 1 :] & kept[:, rank, None])
        order = np.argsort(~kept, axis=1, kind="stable")  # the kept ones first
        confidence = _take(np.where(kept, confidence, np.float32(0)), order)
        boxes = _take(boxes, order)
        labels = None if labels is None else _take(labels, order)
    boxes, confidence = boxes[:, :max_boxes], confidence[:, :max_boxes]
    if labels is not None:
        labels = np.where(confidence > 0, labels[:, :max_boxes], 0)
    return np.where(confidence[..., None] > 0, boxes, np.float32(0)), confidence, labels


def _take(values: npt.NDArray[Any], order: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    return np.take_along_axis(values, order if values.ndim == 2 else order[..., None], axis=1)


def _pairwise_iou(boxes: Float32) -> Float32:
    area = _area(boxes)
    near = np.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    far = np.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    shared = _area(np.concatenate((near, far), axis=-1))
    union = area[:, :, None] + area[:, None, :] - shared
    positive = union > 0
    return np.where(positive, shared / np.where(positive, union, np.float32(1)), np.float32(0))


def _area(boxes: Float32) -> Float32:
    sides = (boxes[..., 2:] - boxes[..., :2]).clip(min=0)
    area: Float32 = sides[..., 0] * sides[..., 1]
    return area
