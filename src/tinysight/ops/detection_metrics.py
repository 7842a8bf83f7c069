"""Localization and detection metrics: of the most confident box per image, and of all boxes.

True boxes are `gt_boxes` (N, G, 4), padded with NaN; an image may have none. Images without a true
box never count in a share of images found: it would hide that nothing is ever found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tinysight.ops.boxes import Detections, pairwise_iou
from tinysight.ops.metrics import topk_correct, wilson_interval

FOUND_IOU = 0.5  # the IoU from which a box has found an object
COCO_IOUS = tuple(0.5 + 0.05 * step for step in range(10))
_ROUNDING = 1e-10  # an IoU of exactly the threshold counts, as in COCO's evaluation
_Array = TypeVar("_Array", Tensor, npt.NDArray[np.float64])


@dataclass(frozen=True)
class Localization:
    """Metrics of one box per image over `num_images` images with true boxes; all in 0..1."""

    num_images: int
    loc30: float  # share of images whose IoU is 0.3 or more
    loc50: float
    loc70: float
    loc50_low: float  # 95 % Wilson interval
    loc50_high: float
    box_acc_v2: float  # the mean of loc30, loc50 and loc70 (Choe et al. 2020)
    mean_iou: float


@dataclass(frozen=True)
class DetectionCounts:
    """Metrics of all boxes accepted from confidence `threshold` on; NaN where nothing counts."""

    num_images: int
    num_objects: int
    threshold: float
    count_accuracy: float  # share of images with as many accepted boxes as true ones
    duplicates: float  # per image: accepted boxes on an object that a more confident one has found
    false_positives: float  # per image: accepted boxes that match no object, duplicates included
    recall: float  # share of objects that an accepted box matches
    recall_at_1_fppi: float  # the same, accepted from `threshold_at_1_fppi` on
    # the lowest with at most 1 false positive per image, over all images
    threshold_at_1_fppi: float


def is_found(ious: _Array, threshold: float = FOUND_IOU) -> _Array:
    """Return whether IoUs reach a threshold; one of exactly the threshold does."""
    return ious >= threshold - _ROUNDING  # type: ignore[return-value]


def check_detections(detections: Detections, gt_boxes: Tensor) -> None:
    """Raise ValueError where shapes do not fit, or a box or confidence is not a valid number."""
    boxes, confidence, num = detections.boxes, detections.confidence, len(detections)
    if gt_boxes.ndim != 3 or (len(gt_boxes), gt_boxes.shape[-1]) != (num, 4):
        given = f"gt_boxes {tuple(gt_boxes.shape)}"
        raise ValueError(f"{given} do not fit detections of {num} images; give ({num}, G, 4)")
    if not bool(((confidence >= 0) & (confidence <= 1)).all()):
        raise ValueError("confidences reach outside 0..1 or hold a NaN; give probabilities")
    if not bool(boxes[confidence > 0].isfinite().all()):
        raise ValueError("a box with a confidence above 0 is not finite; the model is broken")


def has_gt_box(gt_boxes: Tensor) -> Tensor:
    """Return which of gt_boxes (N, G, 4) are boxes, not padding: bool (N, G)."""
    return gt_boxes.isfinite().all(-1)


def top_boxes(detections: Detections) -> Tensor:
    """Return each image's most confident box (N, 4), of equals the first; NaN where none."""
    boxes, confidence = detections.boxes, detections.confidence
    if boxes.shape[1] == 0:
        return boxes.new_full((len(boxes), 4), torch.nan)
    best, index = confidence.max(1)
    top = boxes.gather(1, index[:, None, None].expand(-1, 1, 4))[:, 0]
    return top.masked_fill((best <= 0)[:, None], torch.nan)


def top_box_iou(detections: Detections, gt_boxes: Tensor) -> Tensor:
    """Return the best IoU of each image's most confident box with a true box: float64 (N,).

    0 where an image has true boxes and no prediction; NaN where it has no true box.
    """
    check_detections(detections, gt_boxes)
    valid = has_gt_box(gt_boxes)
    top = top_boxes(detections).nan_to_num(0)  # an empty box, which overlaps nothing
    ious = pairwise_iou(top[:, None].double(), gt_boxes.double())[:, 0].masked_fill(~valid, 0)
    best = ious.amax(1) if gt_boxes.shape[1] else ious.new_zeros(len(ious))
    return best.masked_fill(~valid.any(1), torch.nan)


def localization(ious: Tensor) -> Localization:
    """Summarize the IoUs (N,) of `top_box_iou` without NaN; raise ValueError if none is left."""
    ious = ious[~ious.isnan()].double()
    if not len(ious):
        raise ValueError("no image has a true box; there is nothing to localize")
    num = len(ious)
    found = [int(is_found(ious, threshold).sum()) for threshold in (0.3, FOUND_IOU, 0.7)]
    low, high = (1 - missed for missed in reversed(wilson_interval(num - found[1], num)))
    loc30, loc50, loc70 = (count / num for count in found)
    mean_iou = float(ious.mean())
    return Localization(num, loc30, loc50, loc70, low, high, sum(found) / (3 * num), mean_iou)


def localization_error(logits: Tensor, labels: Tensor, ious: Tensor, k: int) -> float:
    """Return ILSVRC's top-k localization error: the share of images with a wrong class or box.

    An image is right when its label (N,) is among the k highest logits (N, K) and its IoU (N,) of
    `top_box_iou` is 0.5 or more: one box for all classes. Images with NaN are left out; raises
    ValueError where none is left.
    """
    valid = ~ious.isnan()
    if not bool(valid.any()):
        raise ValueError("no image has a true box; there is nothing to localize")
    right = topk_correct(logits, labels, min(k, logits.shape[1])) & is_found(ious)
    return 1 - int(right[valid].sum()) / int(valid.sum())


def average_precision(
    detections: Detections, gt_boxes: Tensor, thresholds: tuple[float, ...] = COCO_IOUS
) -> Tensor:
    """Return COCO's average precision (T,) at each IoU threshold, all boxes of one class.

    Boxes are matched by falling confidence, each to the free true box it overlaps most; precision,
    made monotonic, is read at 101 recalls. AP50 is `average_precision(..., (0.5,))`, COCO's AP the
    mean over the default. NaN without a true box. Of equally confident boxes the earlier image's
    comes first.
    """
    check_detections(detections, gt_boxes)
    num_objects = int(has_gt_box(gt_boxes).sum())
    if num_objects == 0:
        return torch.full((len(thresholds),), torch.nan, dtype=torch.float64)
    detections = _sorted(detections)
    confidence = detections.confidence.flatten()
    matched = _match(detections, gt_boxes, thresholds).flatten(1)  # (T, N * M)
    valid = confidence > 0
    order = confidence[valid].argsort(descending=True, stable=True)
    hits = matched[:, valid][:, order].double().cumsum(1)
    recall = hits / num_objects
    precision = hits / torch.arange(1, len(order) + 1, device=hits.device)
    precision = precision.flip(1).cummax(1).values.flip(1)
    precision = torch.cat((precision, precision.new_zeros(len(hits), 1)), 1)
    levels = torch.linspace(0, 1, 101, dtype=torch.float64, device=hits.device)
    levels = levels.expand(len(hits), -1).contiguous()
    return precision.gather(1, torch.searchsorted(recall, levels)).mean(1).cpu()


def count_detections(
    detections: Detections, gt_boxes: Tensor, *, threshold: float = 0.5
) -> tuple[DetectionCounts, dict[int, DetectionCounts]]:
    """Count over images with true boxes, and over images by their number of true boxes (0 too).

    `threshold_at_1_fppi` is chosen once over all N images, those without a true box included, and
    is used for every count. Raises ValueError for predictions that do not fit, and for no image.
    """
    check_detections(detections, gt_boxes)
    if not len(gt_boxes):
        raise ValueError("there is no image to count boxes in")
    detections = _sorted(detections)
    confidence = detections.confidence
    matched = _match(detections, gt_boxes, (FOUND_IOU,))[0]
    threshold_at_1 = _threshold_at_1_fppi(confidence, matched)
    accepted = (confidence >= threshold) & (confidence > 0)
    num_objects = has_gt_box(gt_boxes).sum(1)
    duplicates = _count_duplicates(detections.boxes, accepted, gt_boxes)
    of_images = (accepted.sum(1) == num_objects, duplicates, (accepted & ~matched).sum(1))
    found_at_1 = (matched & (confidence >= threshold_at_1)).sum(1)
    of_objects = ((accepted & matched).sum(1), found_at_1)

    def over(images: Tensor) -> DetectionCounts:
        totals = (int(images.sum()), int(num_objects[images].sum()))
        per_image, per_object = (
            [float(part[images].sum()) / total if total else math.nan for part in parts]
            for total, parts in zip(totals, (of_images, of_objects), strict=True)
        )
        values: list[Any] = [*totals, threshold, *per_image, *per_object, threshold_at_1]
        return DetectionCounts(*values)

    by_number = {n: over(num_objects == n) for n in sorted(set(num_objects.tolist()))}
    return over(num_objects > 0), by_number


def best_threshold(detections: Detections, gt_boxes: Tensor) -> tuple[float, float]:
    """Return the confidence from which accepted boxes have the best F1, and that F1 (0 to 1).

    F1 is 2 x found / (accepted + true boxes) over all images. The threshold lies in the middle
    between the last accepted confidence and the next; of equally good ones it is the highest.
    Infinity where no box finds anything.
    """
    check_detections(detections, gt_boxes)
    detections = _sorted(detections)
    scores, hits, last = _ranked(
        detections.confidence, _match(detections, gt_boxes, (FOUND_IOU,))[0]
    )
    accepted = torch.arange(1, len(scores) + 1, device=scores.device)
    f1 = torch.where(last, 2 * hits / (accepted + has_gt_box(gt_boxes).sum()), 0.0)
    if not len(scores) or not bool(f1.any()):
        return math.inf, 0.0
    best = int(f1.argmax())
    following = scores[best + 1] if best + 1 < len(scores) else scores[best]
    return float(scores[best] + following) / 2, float(f1[best])


def _sorted(detections: Detections) -> Detections:
    """Sort each image's boxes by falling confidence, stably."""
    return detections.take(detections.confidence.sort(dim=1, descending=True, stable=True).indices)


def _match(detections: Detections, gt_boxes: Tensor, thresholds: tuple[float, ...]) -> Tensor:
    """Match sorted boxes, each to the free true box it overlaps most: bool (T, N, M)."""
    boxes, confidence = detections.boxes.double(), detections.confidence
    matched = torch.zeros(len(thresholds), *confidence.shape, dtype=torch.bool, device=boxes.device)
    if gt_boxes.shape[1] == 0:
        return matched
    minimum = torch.tensor(thresholds, dtype=torch.float64, device=boxes.device)[:, None]
    minimum = minimum - _ROUNDING
    free = has_gt_box(gt_boxes).expand(len(thresholds), -1, -1).clone()  # (T, N, G)
    gt_boxes = gt_boxes.double()
    for rank in range(boxes.shape[1]):
        iou = pairwise_iou(boxes[:, rank, None], gt_boxes)[:, 0]  # (N, G)
        best, index = torch.where(free, iou, -1.0).max(2)  # (T, N)
        matched[:, :, rank] = (best >= minimum) & (confidence[:, rank] > 0)
        free &= ~(one_hot(index, gt_boxes.shape[1]).bool() & matched[:, :, rank, None])
    return matched


def _count_duplicates(boxes: Tensor, accepted: Tensor, gt_boxes: Tensor) -> Tensor:
    """Count accepted boxes (N, M) whose best true box is also that of an earlier one: (N,)."""
    if gt_boxes.shape[1] == 0 or boxes.shape[1] == 0:
        return torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    iou = pairwise_iou(boxes.double(), gt_boxes.double())
    best, index = iou.masked_fill(~has_gt_box(gt_boxes)[:, None], -1).max(2)  # (N, M)
    on_object = one_hot(index, gt_boxes.shape[1]) * (accepted & is_found(best))[..., None]
    return (on_object.sum(1) - 1).clamp(min=0).sum(1)


def _threshold_at_1_fppi(confidence: Tensor, matched: Tensor) -> float:
    """Return the lowest confidence from which at most 1 box per image, on average, is unmatched.

    Infinity where even the most confident boxes, all equally so, are too many.
    """
    scores, hits, last = _ranked(confidence, matched)
    wrong = torch.arange(1, len(scores) + 1, device=scores.device) - hits
    possible = scores[last & (wrong <= len(confidence))]
    return float(possible[-1]) if len(possible) else math.inf


def _ranked(confidence: Tensor, matched: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rank all boxes (N, M) of a confidence above 0: (P,) each.

    The falling confidences, how many of the boxes up to each have found an object, and whether it
    is the last of its confidence: a threshold can only separate boxes of different confidence.
    """
    scores, order = confidence.flatten().sort(descending=True, stable=True)
    scores = scores[: int((scores > 0).sum())]
    hits = matched.flatten()[order].cumsum(0)[: len(scores)]
    last = torch.ones_like(scores, dtype=torch.bool)
    last[:-1] = scores[1:] < scores[:-1]
    return scores, hits, last
