"""Training losses: of the class, and of a localizer's boxes."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from tinysight.config import LocalizerConfig
from tinysight.models.localizer import LocalizerOutput
from tinysight.ops import detection_losses, mixing
from tinysight.ops.boxes import BoxTargets, HeadOutput
from tinysight.ops.detection_losses import DetectionLosses


class Losses(NamedTuple):
    """The loss of a batch, a scalar with a gradient; and a localizer's parts, without one."""

    loss: Tensor
    box: Tensor | None = None
    confidence: Tensor | None = None


def classification(
    logits: Tensor,
    labels: Tensor,
    targets: mixing.Targets | None,
    *,
    label_smoothing: float,
    soft_labels: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of logits (B, K) with labels (B,) or mixed images' targets.

    `soft_labels` (B, K) are the shares of the classes per image, in place of its label; `weights`
    (K,) are those of each label's losses in the mean over the images.
    """
    logits, smoothing = logits.float(), label_smoothing
    if targets is not None:
        own: dict[str, Any] = {"weights": weights, "label_smoothing": smoothing}
        return mixing.cross_entropy(logits, targets, soft_labels=soft_labels, **own)
    target = labels if soft_labels is None else soft_labels
    if weights is None:
        return F.cross_entropy(logits, target, label_smoothing=smoothing)
    each = F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
    return (each * weights[labels]).mean()


def localization(
    output: LocalizerOutput,
    labels: Tensor,
    targets: BoxTargets,
    *,
    settings: LocalizerConfig,
    mixed: mixing.Targets | None = None,
    label_smoothing: float,
    soft_labels: Tensor | None = None,
    weights: Tensor | None = None,
) -> Losses:
    """Return the weighted sum of classification, confidence and box losses.

    Args:
        labels: (B,); images without one (-1) have no classification loss.
        targets: see `augmentation.apply_to_boxes`.
        mixed: takes the place of `labels` where images were mixed.
        soft_labels: (B, K), weights: (K,), of each class; see `classification`.
    """
    losses = _detection_losses(output.candidates, targets, settings)
    loss = settings.loss_weight * (losses.confidence + settings.box_weight * losses.box)
    if settings.box_classes:
        loss = loss + settings.loss_weight * settings.class_loss_weight * losses.classes
    labeled = labels >= 0
    own: dict[str, Any] = {"label_smoothing": label_smoothing, "weights": weights}
    if settings.classifies and mixed is not None:
        of_class = classification(output.logits, labels, mixed, soft_labels=soft_labels, **own)
        loss = loss + settings.class_loss_weight * of_class
    elif settings.classifies and not bool(labeled.any()):
        loss = loss + 0 * output.logits.sum()  # several processes wait for a gradient from each
    elif settings.classifies:
        own["soft_labels"] = None if soft_labels is None else soft_labels[labeled]
        of_class = classification(output.logits[labeled], labels[labeled], None, **own)
        loss = loss + settings.class_loss_weight * labeled.float().mean() * of_class
    return Losses(loss, losses.box.detach(), losses.confidence.detach())


def _detection_losses(
    candidates: HeadOutput, targets: BoxTargets, settings: LocalizerConfig
) -> DetectionLosses:
    how: dict[str, Any] = {"giou_weight": settings.giou_weight}
    if settings.head == "mlp":
        return detection_losses.single_box_loss(candidates, targets, **how)
    if settings.head == "centernet":
        return detection_losses.centernet_loss(candidates, targets, **how)
    how |= {"overlap": settings.overlap, "cell_scale": settings.cell_scale}
    return detection_losses.hungarian_loss(candidates, targets, **how)
