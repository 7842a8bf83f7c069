"""Measure `tinysight finetune` on draws of some images per class from a folder of class folders.

    python benchmarks/transfer.py FOLDER --counts 10 30 100 --draws 3

Each draw learns from so many images of every class and is judged on all others: the accuracy of
each encoder, of the one that cross-validation chooses, and how often the intervals of the
cross-validated error, and of the forecast for twice as many images, contain the error there.
Features are computed once, for all images."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinysight.data.dataset import data_home
from tinysight.data.load import load_at_size
from tinysight.finetuning.encoders import find_encoder
from tinysight.finetuning.features import features_of
from tinysight.finetuning.finetune import learned_rows
from tinysight.finetuning.lda import fit_views
from tinysight.finetuning.validation import (
    CurvePoint,
    crossvalidate,
    forecast,
    learning_curve,
    mean_distances,
)
from tinysight.predict.inference import CPU
from tinysight.predict.pretrained import at_hand

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """What one encoder gave on one draw; errors are on images not learned from."""

    encoder: str
    per_class: int
    seed: int
    error: float
    crossvalidated: float
    covered: bool
    forecast_held: bool | None  # None: too few images for twice as many
    seconds: float  # without the features


def draw(labels: Ints, per_class: int, seed: int) -> Ints:
    """Choose images of each class (K x per_class), in order."""
    generator = np.random.default_rng(seed)
    classes = range(labels.max() + 1)
    chosen = [generator.permutation(np.flatnonzero(labels == k))[:per_class] for k in classes]
    return np.sort(np.concatenate(chosen))


def error_of(views: Tensor, labels: Tensor, learned: Ints) -> float:
    """Fit to the rows `learned`, and return the error on all others."""
    num_classes = int(labels.max()) + 1
    others = np.setdiff1d(np.arange(len(labels)), learned)
    found = fit_views(views[learned], labels[learned], num_classes)
    wrong = mean_distances(found, views[others]).argmax(dim=1) != labels[others]
    return float(wrong.double().mean())


def measure(name: str, views: Tensor, labels: Tensor, per_class: int, seed: int) -> Draw:
    """Do what `tinysight finetune` does with a draw, and compare it with the images left."""
    num_classes, learned = int(labels.max()) + 1, draw(labels.numpy(), per_class, seed)
    own, groups = (views[learned], labels[learned]), np.arange(len(learned))
    begun = time.process_time()
    judged = crossvalidate(*own, groups, num_classes)
    assert judged is not None
    curve = learning_curve(*own, groups, num_classes, below=per_class)
    ahead = forecast((*curve, CurvePoint(per_class, judged.error)), len(learned))
    seconds = time.process_time() - begun
    held = None
    if ahead is not None and 2 * per_class < 0.8 * int(np.bincount(labels).min()):
        # the draw of twice as many begins with the same images
        later = error_of(views, labels, draw(labels.numpy(), 2 * per_class, seed))
        held = ahead.low <= later <= ahead.high
    error = error_of(views, labels, learned)
    covered = judged.low <= error <= judged.high
    return Draw(name, per_class, seed, error, judged.error, covered, held, seconds)


def summary(draws: list[Draw]) -> str:
    """Format the draws of one encoder and number of images."""
    errors = np.array([one.error for one in draws])
    held = [one.forecast_held for one in draws if one.forecast_held is not None]
    text = f"{draws[0].per_class:>5} per class  {draws[0].encoder:<8} "
    text += f"accuracy {100 * (1 - errors.mean()):.1f} +- {100 * errors.std():.1f} %, "
    text += f"interval held {sum(one.covered for one in draws)} of {len(draws)}"
    return text + (f", forecast {sum(held)} of {len(held)}" if held else "")


def main() -> None:
    """Print a line for each number of images and encoder, and the chosen one; write the draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoders", nargs="+", default=at_hand())
    parser.add_argument("--counts", nargs="+", type=int, default=[10, 30, 100])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    known: dict[str, tuple[Tensor, Tensor]] = {}
    for name in given.encoders:
        encoder, begun = find_encoder(name), time.perf_counter()
        dataset = load_at_size(given.folder, encoder.image_size, home=data_home())
        rows = learned_rows(dataset)
        views = features_of(encoder, dataset, rows, home=data_home(), runtime=CPU)
        known[name] = views, torch.from_numpy(dataset.labels[rows])
        print(f"{name}: {len(rows)} images in {time.perf_counter() - begun:.0f} s")
    results = []
    for per_class in given.counts:
        own = {
            name: [measure(name, *data, per_class, seed) for seed in range(given.draws)]
            for name, data in known.items()
        }
        for draws in own.values():
            print(summary(draws), flush=True)
            results += draws
        chosen = [
            min(group, key=lambda one: one.crossvalidated)
            for group in zip(*own.values(), strict=True)
        ]
        errors = np.array([one.error for one in chosen])
        print(f"{per_class:>5} per class  auto     accuracy {100 * (1 - errors.mean()):.1f} %")
    if given.out is not None:
        given.out.write_text(json.dumps([vars(one) for one in results], indent=1))


if __name__ == "__main__":
    main()
