"""What depends on the number of training images, decided in one place."""

from __future__ import annotations

from dataclasses import replace

from tinysight.config import Config
from tinysight.recipes import RECIPES, recipe

# Images that a training sees in all, and the limits of its epochs, where `train.epochs` is 0:
# 21 epochs of 1,442 hand signs, 300 of a hundred photographs, 10 of 12,500 drawings
NUM_SEEN = 30_000
EPOCHS = (10, 1000)
# of trained weights, which need to learn less, and of localizers, where more was not measured
MAX_EPOCHS_ELSE = 100
# Batches, where `train.batch_size` is 0: large enough for batch norm, small enough for many steps
BATCH_SIZES = (8, 16, 32)
MIN_BATCHES = 20  # per epoch, where the batch may get smaller
MAX_WARMUP = 0.25  # share of the steps; a longer warm-up is shortened


def scaled(config: Config, num_images: int) -> Config:
    """Return a config with the automatic epochs and batch size decided for a number of images.

    The learning rate is meant for the largest of `BATCH_SIZES`, and shrinks with the batch.
    """
    train, optimizer = config.train, config.optimizer
    if not train.epochs:
        low, high = EPOCHS
        if config.model.pretrained or config.localizer.finds:
            high = MAX_EPOCHS_ELSE
        epochs = min(max(round(NUM_SEEN / max(1, num_images)), low), high)
        train = replace(train, epochs=epochs)
    if not train.batch_size:
        fitting = [size for size in BATCH_SIZES if size * MIN_BATCHES <= num_images]
        train = replace(train, batch_size=max(fitting, default=BATCH_SIZES[0]))
        optimizer = replace(optimizer, lr=_lr(optimizer.lr, train.batch_size))
    return replace(config, train=train, optimizer=optimizer)


def scaled_as(config: Config, known: Config) -> Config:
    """Return a config with what is automatic in it as in `known`, its scaled form."""
    train, optimizer = config.train, config.optimizer
    if not train.epochs:
        train = replace(train, epochs=known.train.epochs)
    if not train.batch_size:
        train = replace(train, batch_size=known.train.batch_size)
        optimizer = replace(optimizer, lr=_lr(optimizer.lr, train.batch_size))
    return replace(config, train=train, optimizer=optimizer)


def _lr(lr: float, batch_size: int) -> float:
    return lr * batch_size / BATCH_SIZES[-1]


def lower_rate(config: Config) -> str:
    """Advise a fifth of a scaled config's learning rate, by settings as commands take them."""
    lr = config.optimizer.lr
    lower = f"a lower learning rate than {lr:g}, such as optimizer.lr={lr / 5:g}"
    if config.recipe in RECIPES and recipe(config.recipe).train.batch_size:
        return lower
    return f"{lower} train.batch_size={config.train.batch_size}"  # else it would shrink once more


def warmup_steps(warmup: float, *, per_epoch: float, total: int) -> int:
    """Return the steps of a warm-up of so many epochs, at most `MAX_WARMUP` of the training."""
    return min(round(warmup * per_epoch), int(total * MAX_WARMUP))
