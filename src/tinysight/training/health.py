"""Signs that a training does not learn, and what to do about them."""

from __future__ import annotations

import math

from tinysight.evaluation.evaluate import Metrics

AT_CHANCE = 0.98  # of the error of always predicting the most frequent class
PATIENCE = 0.2  # share of the epochs, at least MIN_EPOCHS, in which an error may be at chance
MIN_EPOCHS = 3
TOO_EARLY = 0.25  # of these epochs: until then the loss of a few images may be large
SURE = 0.5  # of chance: where the error may as well be as low, too few images were monitored
MEMORIZED = 0.5  # of chance: a training error up to that, where other images are guessed
FEW = 300  # training images, below which fine-tuning is better


def complaint(
    metrics: Metrics,
    chance: float,
    *,
    train_error: float,
    num_classes: int,
    num_images: int,
    done: float,
    lower: str,
) -> str:
    """Describe what is wrong after an epoch, in one line; "" where nothing is.

    Args:
        chance: the `majority_error` of the monitored split.
        train_error: of the last steps, on training images as they were augmented; NaN: not known.
        num_classes: K; guessing has a loss of log(K).
        num_images: of the training.
        done: epochs taken over `MIN_EPOCHS` or the share `PATIENCE` of all, whichever is more.
        lower: what to try where the learning rate may be too high, see `lower_rate`.
    """
    advice = f"try {lower}"
    if num_images < FEW:
        advice = f"try tinysight finetune, which needs fewer images; or {lower}"
    if done >= TOO_EARLY and metrics.loss > 5 * math.log(max(3, num_classes)) + 5:
        found = f"the monitored loss is {metrics.loss:.0f}, of guessing {math.log(num_classes):.1f}"
        return f"{found}: the training has gone astray; {advice}"
    at_chance = metrics.top1_error >= AT_CHANCE * chance and metrics.top1_low >= SURE * chance
    if done >= 1 and at_chance and not math.isnan(train_error):  # not known after a resume
        found = f"the monitored error is {metrics.top1_error:.1%} of {metrics.num_images:,} images"
        found += f", and always predicting the most frequent class has {chance:.1%}"
        if train_error > MEMORIZED * chance:
            return f"{found}: nothing has been learned so far; {advice}"
        advice = "tinysight finetune needs fewer" if num_images < FEW else "or more augmentation"
        known = f"those of the training, with {train_error:.1%}, are memorized"
        return f"{found}; {known}: try more images; {advice}"
    return ""
