"""At which canvas a localizer finds objects of which size, on walls of photographs.

    python benchmarks/canvas.py RUN --data kangaroo384.fold0 --split val [--plot FILE.png]

A wall is k x k images of a split that the run has not learned from, side by side, so that an object
of known place gets as small as the smallest in a photograph of a pond or a shelf. Every wall is
looked at on every canvas. Printed is the recall (IoU of 0.5 or more, the model's threshold) by the
size of objects, the root of the area as a share of the picture's side, and all wrong boxes for each
object that there is."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import tinysight as ts
from tinysight.data.dataset import Dataset
from tinysight.ops.boxes import pairwise_iou
from tinysight.predict.predictor import Predictor

WALLS = (1, 2, 3, 4, 6, 8)
SIDE = 768  # pixels of a wall
MIN_WALLS = 2  # of each kind
EDGES = (0.02, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 1.0)  # of the objects' sizes
Boxes = npt.NDArray[np.float32]


def walls(dataset: Dataset, split: str, count: int) -> Iterator[tuple[Image.Image, Boxes]]:
    """Yield walls of count x count images with their boxes (n, 4), in pixels."""
    rows, tile = np.array(dataset.rows(split)), SIDE // count
    numbers, rng = max(MIN_WALLS, len(rows) // count**2), np.random.default_rng(count)
    orders = [rng.permutation(rows) for _ in range(numbers * count**2 // len(rows) + 1)]
    stream = np.concatenate(orders)  # every image once before any comes again
    for tiles in stream[: numbers * count**2].reshape(numbers, -1).tolist():
        wall, boxes = Image.new("RGB", (SIDE, SIDE)), []
        for place, row in enumerate(tiles):
            down, right = divmod(place, count)
            image = Image.fromarray(dataset.images[row])
            wall.paste(
                image.resize((tile, tile), Image.Resampling.LANCZOS), (right * tile, down * tile)
            )
            corner = np.array([right, down, right, down], np.float32) * tile
            boxes.append(dataset.boxes_of(row) * (tile / dataset.image_size) + corner)
        yield wall, np.concatenate(boxes)


def found_of(found: Sequence[Any], truth: Boxes) -> npt.NDArray[np.bool_]:
    """Return which true boxes (n, 4) are found: each box, surest first, takes its best free one."""
    taken = np.zeros(len(truth), bool)
    if not len(found) or not len(truth):
        return taken
    overlaps = pairwise_iou(torch.tensor(found), torch.from_numpy(truth)).numpy()
    for own in overlaps:
        best = int(np.where(taken, -1, own).argmax())
        taken[best] |= own[best] >= 0.5
    return taken


def measure(predictor: Predictor, dataset: Dataset, split: str, canvases: Sequence[int]) -> Any:
    """Return sizes (n,), whether found (canvases, n), and the wrong boxes (canvases,)."""
    sizes, found, wrong = [], [], np.zeros(len(canvases))
    for count in WALLS:
        for wall, truth in walls(dataset, split, count):
            sides = truth[:, 2:] - truth[:, :2]
            sizes.append(np.sqrt(sides.prod(axis=1)) / SIDE)
            hits = []
            for index, canvas in enumerate(canvases):
                prediction = predictor.predict(wall, canvas=canvas)
                hits.append(found_of(prediction.boxes, truth))
                wrong[index] += len(prediction.boxes) - hits[-1].sum()
            found.append(np.stack(hits))
    return np.concatenate(sizes), np.concatenate(found, axis=1), wrong


def plot(path: Path, recall: npt.NDArray[np.float64], canvases: Sequence[int]) -> None:
    """Draw the recall by the size of objects, a line for each canvas."""
    from matplotlib.figure import Figure

    figure = Figure((6.4, 3.6), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    centers = [100 * (a * b) ** 0.5 for a, b in itertools.pairwise(EDGES)]
    for own, canvas in zip(recall, canvases, strict=True):
        axes.plot(centers, 100 * own, marker="o", label=f"{canvas} pixels")
    axes.set(xscale="log", xlabel="object's size, % of the picture's side", ylabel="found, %")
    axes.set_xticks([3, 6, 12, 24, 48], labels=["3", "6", "12", "24", "48"])
    axes.minorticks_off()
    axes.set_ylim(-2, 102)
    axes.grid(alpha=0.3)
    axes.legend(title="canvas", frameon=False)
    figure.savefig(path)


def main() -> None:
    """Print a row for each range of sizes, and the wrong boxes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--canvas", type=int, nargs="+", default=[96, 192, 288, 384, 576])
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    predictor, dataset = ts.load_model(given.run), ts.load_dataset(given.data)
    sizes, found, wrong = measure(predictor, dataset, given.split, given.canvas)
    rows = []
    print("size, % of side   objects  " + "".join(f"{canvas:>8}" for canvas in given.canvas))
    for low, high in itertools.pairwise(EDGES):
        own = (sizes >= low) & (sizes < high)
        rows.append(found[:, own].mean(axis=1) if own.any() else np.full(len(found), np.nan))
        shares = "".join(f"{100 * share:>6.0f} %" for share in rows[-1])
        print(f"{100 * low:4.0f} to {100 * high:3.0f}{int(own.sum()):>16}  {shares}")
    print("wrong boxes for each object  " + "".join(f"{n / len(sizes):>8.2f}" for n in wrong))
    if given.plot:
        plot(given.plot, np.array(rows).T, given.canvas)


if __name__ == "__main__":
    main()
