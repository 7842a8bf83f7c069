"""What a model said of each image of a split, as it is stored, and the figures that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from tinysight.ops.detection_metrics import Localization, localization, top_box_iou
from tinysight.ops.metrics import expected_calibration_error, topk_correct, wilson_interval


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model said of each image: logits (N, K), labels (N,) and rows of the pack (N,).

    Of a localizer also boxes (N, M, 4), half-open in stored pixels, by falling confidence (N,
    M), 0 where is none."""

    logits: Tensor
    labels: Tensor
    rows: Tensor
    boxes: Tensor | None = None
    confidence: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures over a split; errors are shares with 95 % Wilson intervals, the loss a mean
    cross-entropy in nats.
    """

    num_images: int
    loss: float
    top1_error: float
    top1_low: float
    top1_high: float
    top5_error: float
    top5_low: float
    top5_high: float
    calibration_error: float


def measure(scores: Scores) -> Metrics:
    """Turn scores into figures (with under 5 classes, top-5 means all); raise ValueError when no
    image is labeled.
    """
    labeled = scores.labels >= 0
    logits, labels = scores.logits[labeled], scores.labels[labeled]
    count = len(labels)
    if not count:
        raise ValueError(
            "no image of this split has a label, so there is no error to measure; see `tinysight submit`"
        )
    top1 = topk_correct(logits, labels, 1)
    top5 = topk_correct(logits, labels, min(5, logits.shape[1]))
    probabilities = logits.softmax(dim=1).max(dim=1).values
    wrong1, wrong5 = count - int(top1.sum()), count - int(top5.sum())
    (low1, high1), (low5, high5) = wilson_interval(wrong1, count), wilson_interval(wrong5, count)
    return Metrics(
        num_images=count,
        loss=float(F.cross_entropy(logits.double(), labels)),
        top1_error=wrong1 / count,
        top1_low=low1,
        top1_high=high1,
        top5_error=wrong5 / count,
        top5_low=low5,
        top5_high=high5,
        calibration_error=float(expected_calibration_error(probabilities, top1)),
    )


def top_overlaps(scores: Scores, gt_boxes: Tensor) -> Localization:
    """Measure a localizer's most confident boxes against the true ones of all rows of the pack,
    (N_all, G, 4).

    Raises:
        ValueError: no image has a true box.
    """
    assert scores.boxes is not None and scores.confidence is not None
    return localization(top_box_iou(scores.boxes, scores.confidence, gt_boxes[scores.rows]))


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` wrote; raise ValueError when it is missing or no scores file."""
    try:
        with safe_open(path, framework="pt") as file:
            return Scores(**{name: file.get_tensor(name) for name in ("logits", "labels", "rows")})
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} holds no scores ({error}); `tinysight evaluate` writes them"
        ) from None
