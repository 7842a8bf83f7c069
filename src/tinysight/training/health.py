"""Signs that a training does not learn, and what to do about them."""

from __future__ import annotations

import math

from tinysight.evaluation.evaluate import Metrics

AT_CHANCE = 0.98  # of the error of always predicting the most frequent class
PATIENCE = 0.2  # share of the epochs, at least MIN_EPOCHS, in which an error may be at chance
MIN_EPOCHS = 3
TOO_EARLY = 0.25  # of these epochs: until then the loss of a few images may be large
FEW = 300  # training images, below which fine-tuning is better


def complaint(
    metrics: Metrics, chance: float, *, num_classes: int, num_images: int, done: float, lr: float
) -> str:
    """Describe what is wrong after an epoch, in one line; "" where nothing is.

    Args:
        chance: the `majority_error` of the monitored split.
        num_classes: K; guessing has a loss of log(K).
        num_images: of the training.
        done: epochs taken over `MIN_EPOCHS` or the share `PATIENCE` of all, whichever is more.
        lr: the peak learning rate.
    """
    advice = f"try a lower optimizer.lr (it is {lr:g}), such as {lr / 5:g}"
    if num_images < FEW:
        advice += ", or tinysight finetune, which needs fewer images"
    if done >= TOO_EARLY and metrics.loss > 5 * math.log(max(3, num_classes)) + 5:
        found = f"the monitored loss is {metrics.loss:.0f}, of guessing {math.log(num_classes):.1f}"
        return f"{found}: the training has gone astray; {advice}"
    if done >= 1 and metrics.top1_error >= AT_CHANCE * chance:
        return (
            f"the monitored error is {metrics.top1_error:.1%}, and always predicting the most "
            f"frequent class has {chance:.1%}: nothing has been learned yet; {advice}"
        )
    return ""
