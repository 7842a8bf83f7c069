"""Shares of people's answers as training targets, in the form of CIFAR-10H (Peterson et al. 2019).

FILE.npy     float (I, K): the share of each class per image; NaN where nobody could tell
images.csv   next to it: the columns image (its name in the dataset) and category, a line per row;
             without it, the rows are the training images in their order
classes.txt  next to it, if it is there: a class per line, in the order of the columns
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import Dataset
from tinysight.files import expand

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
TOLERANCE = 1e-3  # of the sum of an image's shares
MIN_AGREEMENT = 0.5  # share of images whose most frequent answer is the label


def read_soft_labels(path: str | Path, dataset: Dataset, rows: Ints) -> tuple[Floats, Bools]:
    """Return targets (N, K) of all images of a dataset, and where they are people's shares (N,).

    Other images have 1 for their label, and 0 everywhere without one.

    Args:
        rows: to learn from.

    Raises ValueError where the file cannot be read, its classes or images are others than the
    dataset's, or none of its images is to be learned from.
    """
    path = expand(path)
    shares = _read_shares(path, dataset.class_names)
    found = _rows_of(path, dataset, rows, shares)
    if not np.isin(found, rows).any():
        raise ValueError(
            f"no image of {path} is a training image of {dataset.name}; people answer images of"
            " minival by `tinysight quiz --split minival`, and data.train=train+minival with"
            " data.monitor=none learns from them"
        )
    known = ~np.isnan(shares).any(axis=1)
    targets = np.zeros((len(dataset), len(dataset.class_names)), np.float32)
    labeled = np.flatnonzero(dataset.labels >= 0)
    targets[labeled, dataset.labels[labeled]] = 1
    targets[found[known]] = shares[known] / shares[known].sum(axis=1, keepdims=True)
    shared = np.zeros(len(dataset), bool)
    shared[found[known]] = True
    return targets, shared


def _read_shares(path: Path, class_names: tuple[str, ...]) -> Floats:
    try:
        shares = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not an .npy file of numbers"
        raise ValueError(
            f"{path} cannot be read as soft labels ({reason}); expected an .npy file of shares,"
            " such as probs.npy of `tinysight people export`"
        ) from None
    if not isinstance(shares, np.ndarray) or shares.ndim != 2 or shares.dtype.kind not in "fiu":
        raise ValueError(f"{path} is not a table of numbers; expected shares per image and class")
    if shares.shape[1] != len(class_names):
        raise ValueError(
            f"{path} has shares of {shares.shape[1]} classes, and the data {len(class_names)};"
            " expected soft labels of the same classes"
        )
    listed = path.with_name("classes.txt")
    if listed.is_file() and tuple(listed.read_text("utf-8").splitlines()) != class_names:
        raise ValueError(
            f"{listed} names other classes than the data, or in another order; expected"
            f" {class_names[0]} first, and {class_names[-1]} last"
        )
    sums = shares.sum(axis=1)
    good = np.isnan(sums) | ((np.abs(sums - 1) < TOLERANCE) & (shares >= 0).all(axis=1))
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise ValueError(
            f"row {row} of {path} has the sum {sums[row]:g}; expected shares from 0 to 1 with the"
            " sum 1 (probs.npy, not counts.npy)"
        )
    return shares.astype(np.float32)


def _rows_of(path: Path, dataset: Dataset, rows: Ints, shares: Floats) -> Ints:
    """Return the row in the dataset of each image with shares (I,)."""
    listed, names = path.with_name("images.csv"), dataset.class_names
    if not listed.is_file():
        if len(shares) != len(rows):
            raise ValueError(
                f"{path} has {len(shares)} rows, and there are {len(rows)} training images; put the"
                " images.csv of `tinysight people export` next to it, which names them"
            )
        known = ~np.isnan(shares).any(axis=1)
        agree = shares[known].argmax(axis=1) == dataset.labels[rows[known]]
        if agree.size and agree.mean() < MIN_AGREEMENT:
            raise ValueError(
                f"most rows of {path} name another class than the label of the training image in"
                " that place; expected rows in the order of the training images, or an images.csv"
            )
        return rows
    with listed.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    if len(lines) != len(shares) or not lines or not {"image", "category"} <= lines[0].keys():
        raise ValueError(
            f"{listed} does not list the {len(shares)} images of {path.name}; expected a line per"
            " row, with the columns image and category"
        )
    row_of = {name: row for row, name in enumerate(dataset.files)}
    found = [row_of.get(line["image"], -1) for line in lines]
    for line, row in zip(lines, found, strict=True):
        if row < 0 or names[dataset.labels[row]] != line["category"]:
            is_now = "is not there" if row < 0 else f"is {names[dataset.labels[row]]!r}"
            raise ValueError(
                f"{listed} has {line['image']} as {line['category']!r}, which {is_now} in"
                f" {dataset.name}; expected the answers to this dataset's images"
            )
    if len(set(found)) < len(found):
        raise ValueError(f"{listed} names an image twice; expected each once")
    return np.array(found, np.int64)
