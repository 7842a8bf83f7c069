"""What do features learned from some classes of Tiny ImageNet know of its other classes?

    python benchmarks/unseen_classes.py --run DIR

160 classes, drawn by a seed, train an encoder; the other 40 judge it. Linear discriminant analysis
learns from 10, 30, 100 and 300 of their training images per class, and its error is measured on
their images of minival and val, by which nothing was chosen. The same images train the recipe
`small` from nothing, at 32 pixels like the encoder. `--run` keeps trainings and continues them."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import tinysight as ts
from tinysight.data.dataset import Dataset, data_home
from tinysight.data.selection import select
from tinysight.evaluation.evaluate import evaluate_run
from tinysight.finetuning.encoders import find_encoder
from tinysight.finetuning.features import features_of
from tinysight.finetuning.lda import fit_views
from tinysight.finetuning.validation import mean_distances
from tinysight.predict.inference import CPU

NUM_ENCODER_CLASSES, CLASS_SEED = 160, 0
# a weak encoder: a quarter of the recipe's size and a seventh of its epochs, at 32 pixels
ENCODER = "resnet10-light"
NETWORK = {"filters": (32, 64, 128, 256), "first_stride": 1, "stem_kernel": 5, "stem_stride": 2}
SETTINGS = {
    "model.options": {"n": 1, **NETWORK},
    "optimizer.lr": 0.035,
    "optimizer.sgd_ratio": 14.0,
}
Ints = npt.NDArray[np.int64]


def halves(dataset: Dataset, seed: int) -> tuple[list[int], list[int]]:
    """Divide the classes into those of the encoder and those that judge it."""
    order = np.random.default_rng(seed).permutation(len(dataset.class_names)).tolist()
    return sorted(order[:NUM_ENCODER_CLASSES]), sorted(order[NUM_ENCODER_CLASSES:])


def view(dataset: Dataset, classes: list[int], per_class: int | None, seed: int = 0) -> Dataset:
    """View classes; of `per_class` images learned from, minival and val are both val."""
    parts = {}
    for split in ("train", "minival", "val"):
        rows = np.array(dataset.rows(split), np.int64)
        parts[split] = rows[np.isin(dataset.labels[rows], classes)]
    if per_class is not None:
        drawn = draw(dataset.labels[parts["train"]], per_class, seed)
        judged = np.concatenate([parts["minival"], parts["val"]])
        parts = {"train": parts["train"][drawn], "val": judged}
    number = "all" if per_class is None else f"{per_class}-seed{seed}"
    note = f"{len(classes)} classes, {number}, of {dataset.name}"
    own = {"kind": "classes", "parameters": f"{classes}-{number}", "note": note}
    name = f"{dataset.name}-{len(classes)}-classes-{number}"
    return select(dataset, parts, classes=classes, name=name, **own)


def draw(labels: Ints, per_class: int, seed: int) -> Ints:
    """Choose places of labels (N,), `per_class` of each, ascending."""
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = [order[labels[order] == label][:per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def fixed_errors(run: Path, dataset: Dataset, counts: list[int], seeds: int) -> None:
    """Print the errors of the encoder's features, last layers learned from draws of train."""
    encoder, features, labels = find_encoder(run), {}, {}
    for split in ("train", "minival", "val"):
        rows = np.array(dataset.rows(split), np.int64)
        features[split] = features_of(encoder, dataset, rows, home=data_home(), runtime=CPU)
        labels[split] = torch.from_numpy(dataset.labels[rows])
    judged, true = (torch.cat((known["minival"], known["val"])) for known in (features, labels))
    for count in counts:
        errors = []
        for seed in range(seeds):
            rows = draw(labels["train"].numpy(), count, seed)
            own = (features["train"][rows], labels["train"][rows], len(dataset.class_names))
            wrong = mean_distances(fit_views(*own), judged).argmax(dim=1) != true
            errors.append(round(float(wrong.double().mean()), 4))
        print(f"fixed, {count} per class: {np.mean(errors):.4f} {errors}", flush=True)


def main() -> None:
    """Train the encoder and from nothing, judge both, and print a row per number of images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 30, 100, 300])
    parser.add_argument("--scratch", type=int, nargs="*", default=[10, 30, 100])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    dataset = ts.load_dataset("tiny-imagenet")
    seen, unseen = halves(dataset, CLASS_SEED)
    own = {"resume": True, "sizes": ((0.0, 0.5),)}
    settings = {"epochs": given.epochs, "warmup": 0.2, "log_every": 20, **SETTINGS}
    run = ts.train(
        ENCODER, view(dataset, seen, None), name=given.run / "encoder", **own, **settings
    )
    print(f"encoder: {run.monitored_error()} of the {NUM_ENCODER_CLASSES} classes", flush=True)
    fixed_errors(run.folder, view(dataset, unseen, None), given.counts, given.seeds)
    for count in given.scratch:
        data = view(dataset, unseen, count)
        name = given.run / f"from-nothing-{count}"
        config = {"data.monitor": "none", "keep_weights": "last"}
        scratch = ts.train("small", data, name=name, **own, **config)
        error = evaluate_run(scratch, data).top1_error
        print(f"from nothing, {count} per class: {error}", flush=True)


if __name__ == "__main__":
    main()
