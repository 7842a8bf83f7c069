"""The boxes that look at no image: what every localizer must beat, fitted on the boxes of train.

Objects of photographs are large and in the middle, so one box for all images finds more than
half of them. A share of images found means nothing without that figure beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tinysight.ops.detection_metrics import is_found

Boxes = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]

# boxes that the search looks at before all decide; the starts then differ by more than the sample
_SEARCHED = 6000
_CHOSEN = 3  # the best ends of the search, which all boxes then choose among and improve


def baseline_boxes(train_boxes: Boxes, *, image_size: int) -> dict[str, Floats]:
    """Return the constant boxes (4,) that stand beside every figure, by name, fitted on boxes (n,
    4) of train.

    "whole image", "mean" and "median" of the four numbers, and the whole-pixel boxes that are
    "best for Loc@.5" and "best for mean IoU" on those boxes, found by a search that is the same
    at every call. Raises ValueError for no box."""
    boxes = np.asarray(train_boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1:] != (4,) or not len(boxes):
        raise ValueError(f"the boxes of train are {boxes.shape}; give (n, 4) with n of 1 or more")
    mean, median = boxes.mean(axis=0), np.median(boxes, axis=0)
    best = {
        name: best_baseline(boxes, image_size=image_size, value=value)
        for name, value in (("best for Loc@.5", _is_found), ("best for mean IoU", _itself))
    }
    return {
        "whole image": np.array([0.0, 0, image_size, image_size]),
        "mean": mean,
        "median": median,
        **best,
    }


def best_baseline(boxes: Boxes, *, image_size: int, value: Callable[[Floats], Floats]) -> Floats:
    """Find the whole-pixel box (4,) of the highest mean `value` of its IoUs with boxes (n, 4).

    From several starts, each edge in turn, then opposite edges together, take their best place
    until none helps: on a sample first, then on all boxes. Not proven to be the best of all: the
    tests compare it with every box of a small image."""
    unique, counts = np.unique(np.asarray(boxes, np.float32), axis=0, return_counts=True)
    weights = counts / counts.sum()
    sample, sample_weights = unique, weights
    if len(unique) > _SEARCHED:
        chosen = np.random.default_rng(0).choice(len(boxes), _SEARCHED, replace=False)
        sample, counts = np.unique(
            np.asarray(boxes, np.float32)[chosen], axis=0, return_counts=True
        )
        sample_weights = counts / counts.sum()
    full = [0, 0, image_size, image_size]
    starts = [
        full,
        *np.quantile(sample, (0.2, 0.35, 0.5, 0.65, 0.8), axis=0).round().astype(int).tolist(),
    ]
    ends = {tuple(_climb(start, sample, sample_weights, image_size, value)[1]) for start in starts}
    ranked = sorted(
        ends, key=lambda box: (-_mean_value(np.array([box]), unique, weights, value)[0], box)
    )
    finals = [
        _climb(list(box), unique, weights, image_size, value, reach=3) for box in ranked[:_CHOSEN]
    ]
    return np.array(max(finals)[1], np.float64)


def _climb(
    start: list[int],
    boxes: Boxes,
    weights: Floats,
    image_size: int,
    value: Callable[[Floats], Floats],
    reach: int | None = None,
) -> tuple[float, list[int]]:
    """Move one or two edges at a time to their best place, within `reach` pixels, until that gains
    nothing.
    """
    box = start
    best = float(_mean_value(np.array([box]), boxes, weights, value)[0])
    reach = reach or image_size
    while True:
        before = best
        for edges in ((0,), (1,), (2,), (3,), (0, 2), (1, 3), (0, 1), (2, 3)):
            steps = (
                np.arange(-reach, reach + 1)
                if len(edges) == 1
                else np.arange(-min(reach, 3), min(reach, 3) + 1)
            )
            moves = np.stack(np.meshgrid(*[steps] * len(edges), indexing="ij"), -1).reshape(
                -1, len(edges)
            )
            tried = np.repeat(np.array([box]), len(moves), axis=0)
            tried[:, edges] += moves
            inside = (
                (tried >= 0).all(1)
                & (tried <= image_size).all(1)
                & (tried[:, :2] < tried[:, 2:]).all(1)
            )
            tried = tried[inside]
            values = _mean_value(tried, boxes, weights, value)
            if values.max() > best + 1e-9:
                best, box = float(values.max()), [int(edge) for edge in tried[values.argmax()]]
        if best <= before + 1e-9:
            return best, box


def _mean_value(
    tried: Boxes, boxes: Boxes, weights: Floats, value: Callable[[Floats], Floats]
) -> Floats:
    """Return the mean value (k,) of each of `tried` (k, 4) over boxes (n, 4) with weights (n,)."""
    x0, y0, x1, y1 = np.asarray(boxes, np.float32).T
    areas = (x1 - x0) * (y1 - y0)
    found = np.empty(len(tried))
    for number, (left, top, right, bottom) in enumerate(np.asarray(tried, np.float32)):
        shared = np.maximum(np.minimum(x1, right) - np.maximum(x0, left), 0)
        shared *= np.maximum(np.minimum(y1, bottom) - np.maximum(y0, top), 0)
        found[number] = weights @ value(shared / (areas + (right - left) * (bottom - top) - shared))
    return found


def _is_found(ious: Floats) -> Floats:
    return is_found(ious).astype(np.float64)


def _itself(ious: Floats) -> Floats:
    return ious
