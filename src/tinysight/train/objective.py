"""What a step minimises, from what the network says: the class, or the class and where the object is."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from tinysight.config import Localise
from tinysight.models.localiser import Found
from tinysight.ops import mixing
from tinysight.ops.candidates import Candidates, Losses, first_truth_losses, heat_losses, matched_losses


class Terms(NamedTuple):
    """The loss of a batch, a scalar with a gradient; and its parts without, of boxes and their confidences."""

    loss: Tensor
    box: Tensor | None = None
    confidence: Tensor | None = None


def classification(logits: Tensor, labels: Tensor, targets: mixing.Targets | None, *, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy of logits (B, K) with labels (B,), or with the targets of mixed images."""
    if targets is None:
        return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    return mixing.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


def localisation(
    found: Found, labels: Tensor, truths_cxcywh: Tensor, whole: Tensor, *, settings: Localise, label_smoothing: float
) -> Terms:
    """Weigh classification, confidence and boxes against each other.

    Args:
        truths_cxcywh: (B, G, 4) in shares of the window, padded with NaN.
        whole: bool (B,); images that lost a box to the window teach nothing about boxes.
    """
    candidates = Candidates(*(part[whole] for part in found.candidates))
    losses = _losses(candidates, truths_cxcywh[whole], settings)
    share = len(candidates.logits) / len(labels)  # the parts are means over the images that teach
    loss = settings.weight * share * (losses.confidence + settings.box_weight * losses.box)
    if settings.classify:
        loss = loss + settings.classify * F.cross_entropy(found.logits.float(), labels, label_smoothing=label_smoothing)
    return Terms(loss, losses.box.detach() * share, losses.confidence.detach() * share)


def _losses(candidates: Candidates, truths: Tensor, settings: Localise) -> Losses:
    if not len(truths):  # all were lost: a zero that still has the graph
        zero = candidates.logits.sum() + candidates.boxes_cxcywh.sum()
        return Losses(zero, zero)
    if settings.head == "mlp":
        return first_truth_losses(candidates, truths, giou_weight=settings.giou_weight)
    if settings.head == "centernet":
        return heat_losses(candidates, truths, giou_weight=settings.giou_weight)
    return matched_losses(
        candidates, truths, overlap=settings.overlap, giou_weight=settings.giou_weight, focus=settings.focus
    )
