"""How well boxes with confidences answer the true boxes of images: one box an image, or a set of
them.

Predictions of N images are `boxes` (N, M, 4), half-open pixels, with `confidence` (N, M) in
0..1; a confidence of 0 is no box, only padding. Truths are `gt_boxes` (N, G, 4), padded with
NaN; an image may have none. Images without a truth never count towards a share of images found:
a "nothing here" that is right would hide that nothing is ever found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tinysight.ops.boxes import pairwise_iou
from tinysight.ops.metrics import topk_correct, wilson_interval

FOUND = 0.5  # the IoU from which a box has found its object
COCO_IOUS = tuple(0.5 + 0.05 * step for step in range(10))
_SLACK = (
    1e-10  # an IoU of exactly the threshold counts, whatever the rounding, as in COCO's evaluation
)


@dataclass(frozen=True, kw_only=True)
class Localization:
    """How well one box an image lies, over `num_images` images that have gt_boxes: shares, and mean
    IoU in 0..1.
    """

    num_images: int
    loc30: float
    loc50: float
    loc70: float
    loc50_low: float  # 95 % Wilson interval
    loc50_high: float
    box_acc_v2: float  # the mean of loc30, loc50 and loc70 (Choe et al. 2020)
    mean_iou: float


@dataclass(frozen=True, kw_only=True)
class DetectionCounts:
    """How well a set of boxes an image answers a set of gt_boxes, over `num_images` images with
    `num_objects` gt_boxes.

    `threshold` is the confidence from which a box is accepted. Where there is no image (or no
    truth) to count, a figure is NaN."""

    num_images: int
    num_objects: int
    threshold: float
    count_accuracy: (
        float  # share of images in which as many boxes are accepted as there are gt_boxes
    )
    duplicates: (
        float  # an image: accepted boxes whose best truth a more confident one has already found
    )
    false_positives: float  # an image: accepted boxes that match no truth, duplicates among them
    recall: float  # share of gt_boxes that an accepted box matches
    recall_at_1_fppi: float  # the same, accepted from `threshold_at_1_fppi` on
    threshold_at_1_fppi: (
        float  # the lowest threshold with at most one false positive an image, over all images
    )


def check_predictions(boxes: Tensor, confidence: Tensor, gt_boxes: Tensor) -> None:
    """Raise ValueError where the three do not fit together, or a box that counts is not a number."""
    num = len(boxes)
    fits = boxes.ndim == 3 and gt_boxes.ndim == 3 and boxes.shape[-1] == gt_boxes.shape[-1] == 4
    if not fits or confidence.shape != boxes.shape[:2] or len(gt_boxes) != num:
        raise ValueError(
            f"boxes {tuple(boxes.shape)}, confidence {tuple(confidence.shape)} and gt_boxes {tuple(gt_boxes.shape)} do not "
            "fit; give (N, M, 4), (N, M) and (N, G, 4)"
        )
    if not bool(((confidence >= 0) & (confidence <= 1)).all()):
        raise ValueError(
            "confidences reach outside 0..1 or hold a NaN; give probabilities, 0 for no box"
        )
    if not bool(boxes[confidence > 0].isfinite().all()):
        raise ValueError("a box with a confidence above 0 is not finite; the model is broken")


def has_gt_box(gt_boxes: Tensor) -> Tensor:
    """Tell which places of gt_boxes (N, G, 4) hold a box: bool (N, G)."""
    return gt_boxes.isfinite().all(-1)


def top_boxes(boxes: Tensor, confidence: Tensor) -> Tensor:
    """Return the most confident box (N, 4) of each image; NaN where an image has none. Of equals
    the first.
    """
    if boxes.shape[1] == 0:
        return boxes.new_full((len(boxes), 4), torch.nan)
    best, place = confidence.max(1)
    top = boxes.gather(1, place[:, None, None].expand(-1, 1, 4))[:, 0]
    return top.masked_fill((best <= 0)[:, None], torch.nan)


def top_box_iou(boxes: Tensor, confidence: Tensor, gt_boxes: Tensor) -> Tensor:
    """Return the IoU (N,) of each image's most confident box with the truth it fits best.

    0 where an image has gt_boxes and no box; NaN where it has no truth. Float64.
    """
    check_predictions(boxes, confidence, gt_boxes)
    there = has_gt_box(gt_boxes)
    top = top_boxes(boxes, confidence).nan_to_num(0)  # an empty box, which overlaps nothing
    ious = pairwise_iou(top[:, None].double(), gt_boxes.double())[:, 0].masked_fill(~there, 0)
    best = ious.amax(1) if gt_boxes.shape[1] else ious.new_zeros(len(ious))
    return best.masked_fill(~there.any(1), torch.nan)


def localization(ious: Tensor) -> Localization:
    """Summarize the IoUs (N,) of `top_box_iou`; NaN are left out. Raises ValueError where nothing
    is left.
    """
    ious = ious[~ious.isnan()].double()
    if not len(ious):
        raise ValueError("no image has a true box; there is nothing to localizer")
    num = len(ious)
    hits = [int((ious >= threshold - _SLACK).sum()) for threshold in (0.3, FOUND, 0.7)]
    missed_low, missed_high = wilson_interval(num - hits[1], num)
    return Localization(
        num_images=num,
        loc30=hits[0] / num,
        loc50=hits[1] / num,
        loc70=hits[2] / num,
        loc50_low=1 - missed_high,
        loc50_high=1 - missed_low,
        box_acc_v2=sum(hits) / (3 * num),
        mean_iou=float(ious.mean()),
    )


def localization_error(logits: Tensor, labels: Tensor, ious: Tensor, k: int) -> float:
    """Return ILSVRC's top-k localization error: the share of images wrong in class or box.

    `logits` (N, K), `labels` (N,), `ious` (N,) of `top_box_iou`. An image is right when its
    label is among the k highest logits and its box overlaps a truth by an IoU of 0.5 or more.
    The box is class-agnostic, one for all classes. Images with NaN (no truth) are left out;
    raises ValueError where none is left."""
    counts = ~ious.isnan()
    if not bool(counts.any()):
        raise ValueError("no image has a true box; there is nothing to localizer")
    right = topk_correct(logits, labels, min(k, logits.shape[1])) & (ious >= FOUND - _SLACK)
    return 1 - int(right[counts].sum()) / int(counts.sum())


def average_precision(
    boxes: Tensor, confidence: Tensor, gt_boxes: Tensor, thresholds: tuple[float, ...] = COCO_IOUS
) -> Tensor:
    """Return the average precision (T,) at each IoU threshold, as COCO counts it, all boxes of one
    class.

    Boxes are matched by falling confidence, each to the free truth it overlaps most; precision,
    made monotonous, is read at 101 recalls. AP50 is `average_precision(..., (0.5,))`, COCO's AP
    the mean over the default. NaN without a truth. Of equally confident boxes the earlier
    image's goes first."""
    check_predictions(boxes, confidence, gt_boxes)
    num_gt_boxes = int(has_gt_box(gt_boxes).sum())
    if num_gt_boxes == 0:
        return torch.full((len(thresholds),), torch.nan, dtype=torch.float64)
    boxes, confidence = _by_confidence(boxes, confidence)
    matched = _match(boxes, confidence, gt_boxes, thresholds).flatten(1)  # (T, N * M)
    counts = confidence.flatten() > 0
    order = confidence.flatten()[counts].argsort(descending=True, stable=True)
    hits = matched[:, counts][:, order].double()
    true = hits.cumsum(1)
    recall = true / num_gt_boxes
    precision = true / torch.arange(1, len(order) + 1, device=true.device)
    precision = torch.cat(
        (precision.flip(1).cummax(1).values.flip(1), precision.new_zeros(len(hits), 1)), 1
    )
    wanted = (
        torch.linspace(0, 1, 101, dtype=torch.float64, device=true.device)
        .expand(len(hits), -1)
        .contiguous()
    )
    return precision.gather(1, torch.searchsorted(recall, wanted)).mean(1).cpu()


def count_detections(
    boxes: Tensor, confidence: Tensor, gt_boxes: Tensor, *, threshold: float = 0.5
) -> tuple[DetectionCounts, dict[int, DetectionCounts]]:
    """Count what a set of boxes an image finds: over the images with gt_boxes, and by number of
    gt_boxes (0 too).

    Boxes of a confidence of `threshold` or more are accepted. The threshold of "recall at one
    false positive an image" is chosen once over all N images, those without a truth among them,
    and serves every row. Raises ValueError for predictions that do not fit, and where there is
    no image."""
    check_predictions(boxes, confidence, gt_boxes)
    if not len(boxes):
        raise ValueError("there is no image to count boxes in")
    boxes, confidence = _by_confidence(boxes, confidence)
    matched = _match(boxes, confidence, gt_boxes, (FOUND,))[0]
    at_one = _threshold_at_one(confidence, matched)
    accepted = (confidence >= threshold) & (confidence > 0)
    num_gt_boxes = has_gt_box(gt_boxes).sum(1)
    duplicates = _duplicates(boxes, accepted, gt_boxes)
    found_at_one = (matched & (confidence >= at_one)).sum(1)

    def over(images: Tensor) -> DetectionCounts:
        num, num_objects = int(images.sum()), int(num_gt_boxes[images].sum())

        def share(values: Tensor, of: int) -> float:
            return float(values[images].sum()) / of if of else float("nan")

        return DetectionCounts(
            num_images=num,
            num_objects=num_objects,
            threshold=threshold,
            count_accuracy=share(accepted.sum(1) == num_gt_boxes, num),
            duplicates=share(duplicates, num),
            false_positives=share((accepted & ~matched).sum(1), num),
            recall=share((accepted & matched).sum(1), num_objects),
            recall_at_1_fppi=share(found_at_one, num_objects),
            threshold_at_1_fppi=at_one,
        )

    return over(num_gt_boxes > 0), {
        count: over(num_gt_boxes == count) for count in sorted(set(num_gt_boxes.tolist()))
    }


def false_positives_on_negatives(
    confidence: Tensor, gt_boxes: Tensor, threshold: float = 0.5
) -> float:
    """Return how many boxes an image are accepted where there is nothing to find; NaN without such
    an image.
    """
    negatives = ~has_gt_box(gt_boxes).any(1)
    accepted = (confidence >= threshold) & (confidence > 0)
    return (
        float(accepted[negatives].sum()) / int(negatives.sum())
        if bool(negatives.any())
        else float("nan")
    )


def _by_confidence(boxes: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
    """Order the boxes of each image by falling confidence; equals stay in their order."""
    confidence, order = confidence.sort(dim=1, descending=True, stable=True)
    return boxes.gather(1, order[..., None].expand(-1, -1, 4)), confidence


def _match(
    boxes: Tensor, confidence: Tensor, gt_boxes: Tensor, thresholds: tuple[float, ...]
) -> Tensor:
    """Match boxes, ordered by falling confidence, each to the free truth it overlaps most: bool (T,
    N, M).
    """
    num, num_boxes = confidence.shape
    num_gt_boxes = gt_boxes.shape[1]
    matched = torch.zeros(len(thresholds), num, num_boxes, dtype=torch.bool, device=boxes.device)
    if num_gt_boxes == 0:
        return matched
    least = torch.tensor(thresholds, dtype=torch.float64, device=boxes.device)[:, None] - _SLACK
    free = has_gt_box(gt_boxes).expand(len(thresholds), -1, -1).clone()  # (T, N, G)
    gt_boxes = gt_boxes.double()
    for place in range(num_boxes):
        iou = pairwise_iou(boxes[:, place, None].double(), gt_boxes)[:, 0]  # (N, G)
        best, which = torch.where(free, iou, -1.0).max(2)  # (T, N)
        matched[:, :, place] = (best >= least) & (confidence[:, place] > 0)
        taken = torch.nn.functional.one_hot(which, num_gt_boxes).bool() & matched[:, :, place, None]
        free &= ~taken
    return matched


def _duplicates(boxes: Tensor, accepted: Tensor, gt_boxes: Tensor) -> Tensor:
    """Count the accepted boxes (N, M) whose best truth (IoU 0.5 or more) another accepted one has,
    too: (N,).
    """
    if gt_boxes.shape[1] == 0 or boxes.shape[1] == 0:
        return torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    iou = pairwise_iou(boxes.double(), gt_boxes.double()).masked_fill(
        ~has_gt_box(gt_boxes)[:, None], -1
    )
    best, which = iou.max(2)  # (N, M)
    on_truth = (
        torch.nn.functional.one_hot(which, gt_boxes.shape[1])
        * (accepted & (best >= FOUND - _SLACK))[..., None]
    )
    return (on_truth.sum(1) - 1).clamp(min=0).sum(1)


def _threshold_at_one(confidence: Tensor, matched: Tensor) -> float:
    """Choose the lowest confidence from which on at most one box an image, on average, matches
    nothing.

    Infinity where even the most confident boxes, all equally so, are too many.
    """
    scores, order = confidence.flatten().sort(descending=True, stable=True)
    counts = int((scores > 0).sum())
    wrong = (~matched.flatten()[order]).cumsum(0)[:counts]
    scores = scores[:counts]
    # Only where the next box is less confident can a threshold pass
    last = torch.ones(counts, dtype=torch.bool, device=scores.device)
    last[:-1] = scores[1:] < scores[:-1]
    possible = scores[last & (wrong <= len(confidence))]
    return float(possible[-1]) if len(possible) else float("inf")
