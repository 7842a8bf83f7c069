"""Localization metrics of a split, next to those of baseline boxes that ignore the image.

Objects of photos are large and in the middle, so that one box for all images finds more than half
of them: a share of right boxes means nothing without that of the baselines, which are fitted on
the boxes of train. Metrics are plain numbers, ready for JSON; None where there is nothing to count.
Where a localizer's boxes have classes they are measured by class, too; else only ILSVRC's
localization error also asks for the class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinysight.data.dataset import Dataset
from tinysight.ops import detection_metrics
from tinysight.ops.boxes import Detections, area
from tinysight.ops.detection_metrics import FOUND_IOU, is_found
from tinysight.text import pluralize

Boxes = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]
Numbers = dict[str, Any]

SIZES = (0.0, 0.1, 0.25, 0.5, 1.0)  # bins of the share of the image that a true box covers
_NUM_SAMPLE = 6000  # boxes that the search uses before all decide
_NUM_FINAL = 3  # best ends of the search, improved on all boxes


def evaluate_boxes(
    dataset: Dataset,
    split: str,
    detections: Detections,
    *,
    logits: Tensor | None = None,
    threshold: float = 0.5,
) -> Numbers:
    """Measure the detections of a split's N images, in row order; logits (N, K) where trained.

    Boxes are accepted from `threshold` on, where sets of boxes are counted. Raises ValueError
    where the predictions do not fit the split.
    """
    rows = dataset.rows(split)
    detections = detections.to("cpu")
    if (num := len(detections)) != len(rows) or (logits is not None and len(logits) != len(rows)):
        where = f"{dataset.name} {split} has {pluralize(len(rows), 'image')}"
        raise ValueError(f"{where}; there are predictions of {num}")
    gt_boxes = torch.from_numpy(dataset.padded_boxes(rows))
    ious = detection_metrics.top_box_iou(detections, gt_boxes)
    counted = ~ious.isnan()
    precisions = detection_metrics.average_precision(detections, gt_boxes)
    sets, by_number = detection_metrics.count_detections(detections, gt_boxes, threshold=threshold)
    baselines = _baselines(dataset, gt_boxes)
    numbers: Numbers = {
        "data": dataset.name,
        "split": split,
        "num_images": len(rows),
        "num_with_boxes": int(counted.sum()),
        "threshold": threshold,
        "localization": _localization(ious) if bool(counted.any()) else None,
        "ap": float(precisions.mean()),
        "ap50": float(precisions[0]),
        "sets": asdict(sets),
        "by_objects": [{"objects": count, **asdict(own)} for count, own in by_number.items()],
        "false_positives_on_negatives": by_number[0].false_positives if 0 in by_number else None,
        "baselines": baselines,
        **_by_kind(dataset, rows, detections, gt_boxes, threshold),
        "by_class": [],
        "by_size": [],
    }
    if bool(counted.any()):
        most = detections.confidence.amax(dim=1)
        numbers["most_confident"] = float(most.max())
        accepted = torch.where(most >= threshold, ious, torch.where(counted, 0.0, torch.nan))
        numbers["accepted_loc50"] = detection_metrics.localization(accepted).loc50
        labels = torch.from_numpy(np.array(dataset.labels[rows.start : rows.stop]))
        of_labeled = ious.masked_fill(labels < 0, torch.nan)
        if logits is not None and not of_labeled.isnan().all():
            scores = logits.detach().cpu()
            for k in (k for k in (1, 5) if k < scores.shape[1]):
                error = detection_metrics.localization_error(scores, labels, of_labeled, k)
                numbers[f"top{k}_localization_error"] = error
        best = baselines["median" if "median" in baselines else "whole image"]["boxes"]
        baseline = detection_metrics.top_box_iou(_constant(best, len(gt_boxes)), gt_boxes)
        if detections.labels is None:  # else images have no class: their boxes do
            numbers["by_class"] = _by_class(dataset, labels, ious, baseline)
        numbers["by_size"] = _by_size(dataset, gt_boxes, ious, baseline)
    plain: Numbers = _plain(numbers)
    return plain


def _by_kind(
    dataset: Dataset, rows: range, detections: Detections, gt_boxes: Tensor, threshold: float
) -> Numbers:
    """Measure the boxes of each class that is there, where predicted boxes have classes."""
    if detections.labels is None:
        return {"by_kind": [], "map50": None}
    labels = torch.from_numpy(dataset.padded_box_labels(rows))
    found: list[Numbers] = []
    for label, (class_id, name) in enumerate(
        zip(dataset.class_ids, dataset.class_names, strict=True)
    ):
        if not bool((labels == label).any()):
            continue
        own = detections.of_class(label)
        gt = gt_boxes.masked_fill((labels != label)[..., None], torch.nan)
        sets, by_number = detection_metrics.count_detections(own, gt, threshold=threshold)
        right = sum(each.count_accuracy * each.num_images for each in by_number.values())
        false = sum(each.false_positives * each.num_images for each in by_number.values())
        ap50 = float(detection_metrics.average_precision(own, gt, (FOUND_IOU,))[0])
        values = {"num_objects": sets.num_objects, "ap50": ap50, "recall": sets.recall}
        values |= {"count_accuracy": right / len(rows), "false_positives": false / len(rows)}
        found.append({"id": class_id, "name": name, **values})
    mean = sum(each["ap50"] for each in found) / len(found) if found else None
    return {"by_kind": found, "map50": mean}


def _localization(ious: Tensor) -> Numbers:
    return asdict(detection_metrics.localization(ious))


def _baselines(dataset: Dataset, gt_boxes: Tensor) -> Numbers:
    """Measure the baseline boxes, and sets of boxes that the dataset brings, on true boxes."""
    if not bool(detection_metrics.has_gt_box(gt_boxes).any()):
        return {}
    size = float(dataset.image_size)
    sets: dict[str, Any] = {"whole image": [[0.0, 0.0, size, size]]}
    train = dataset.rows("train") if "train" in dataset.splits else range(0)
    train_boxes = dataset.boxes[dataset.box_offsets[train.start] : dataset.box_offsets[train.stop]]
    if len(train_boxes):
        fitted = baseline_boxes(train_boxes, image_size=dataset.image_size)
        sets = {name: [box.tolist()] for name, box in fitted.items()}
    sets |= dataset.manifest.get("extra", {}).get("baseline_boxes", {})
    found = {}
    for name, constants in sets.items():
        constant = _constant(constants, len(gt_boxes))
        ap50 = float(detection_metrics.average_precision(constant, gt_boxes, (FOUND_IOU,))[0])
        own = _localization(detection_metrics.top_box_iou(constant, gt_boxes))
        found[name] = {"boxes": constants, **own, "ap50": ap50}
    return found


def _constant(boxes: list[list[float]], num: int) -> Detections:
    """Return the same boxes, with a confidence of 1, for `num` images."""
    expanded = torch.tensor(boxes, dtype=torch.float64).expand(num, -1, -1)
    return Detections(expanded, torch.ones(expanded.shape[:2], dtype=torch.float64))


def _group(ious: Tensor, baseline: Tensor) -> Numbers:
    """Measure the images of a group by their IoUs (n,), and those of the baseline (n,)."""
    own = detection_metrics.localization(ious)
    other = detection_metrics.localization(baseline).loc50
    found = {"count": own.num_images, "loc50": own.loc50, "low": own.loc50_low}
    return found | {"high": own.loc50_high, "mean_iou": own.mean_iou, "baseline": other}


def _by_size(dataset: Dataset, gt_boxes: Tensor, ious: Tensor, baseline: Tensor) -> list[Numbers]:
    """Group the images by the share that their largest true box covers."""
    covered = area(gt_boxes).nan_to_num(0).amax(dim=1) / dataset.image_size**2
    which = torch.bucketize(covered, torch.tensor(SIZES[1:-1]), right=True)
    found = []
    for number, (start, stop) in enumerate(pairwise(SIZES)):
        chosen = (which == number) & ~ious.isnan()
        if bool(chosen.any()):
            found.append({"start": start, "stop": stop, **_group(ious[chosen], baseline[chosen])})
    return found


def _by_class(dataset: Dataset, labels: Tensor, ious: Tensor, baseline: Tensor) -> list[Numbers]:
    found = []
    for label in sorted(set(labels[(labels >= 0) & ~ious.isnan()].tolist())):
        chosen = (labels == label) & ~ious.isnan()
        names = {"id": dataset.class_ids[label], "name": dataset.class_names[label]}
        found.append(names | _group(ious[chosen], baseline[chosen]))
    return found


def _plain(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not know, by None."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def remarks(numbers: Numbers) -> list[str]:
    """Say in words where the boxes of `evaluate_boxes` are of little use."""
    own, baselines = numbers["localization"], numbers["baselines"]
    if own is None:
        return []
    said = []
    if (most := numbers["most_confident"]) < (threshold := numbers["threshold"]):
        what = f"no box reaches the threshold of {threshold:.3g}, the most confident has {most:.3g}"
        said.append(f"{what}: train longer, or accept more by --threshold")
    name, best = max(((n, each["loc50"]) for n, each in baselines.items()), key=lambda n: n[1])
    if own["loc50_low"] <= best:
        how = "no better" if own["loc50"] <= best else "not clearly better"
        same = f"the same box for every image ({name}: {100 * best:.1f} %)"
        said.append(f"the boxes are {how} than {same}")
    return said


def boxes_table(numbers: Numbers) -> str:
    """Lay the metrics of `evaluate_boxes` out for a terminal, with the baselines."""
    number = pluralize(numbers["num_with_boxes"], "image")
    lines = [f"{numbers['data']} {numbers['split']}, boxes of {number}"]
    lines += _localization_lines(numbers) if numbers["localization"] is not None else []
    for k in (1, 5):
        if numbers.get(f"top{k}_localization_error") is not None:
            error = _percent(numbers[f"top{k}_localization_error"])
            lines.append(f"  top-{k} localization error {error}")
    if numbers["false_positives_on_negatives"] is not None:
        negatives = numbers["num_images"] - numbers["num_with_boxes"]
        wrong = numbers["false_positives_on_negatives"]
        lines.append(
            f"  on {pluralize(negatives, 'image')} without an object  {wrong:.2f} boxes per image"
        )
    if kinds := numbers["by_kind"]:
        width = max(4, *(len(kind["name"]) for kind in kinds))
        heads = "objects       AP50    recall  false per image  count right"
        lines.append(f"  {'':<{width}}  {heads}")
        for kind in kinds:
            lines.append(
                f"  {kind['name']:<{width}}  {kind['num_objects']:>7,}   {_percent(kind['ap50'])}"
                f"   {_percent(kind['recall'])}  {kind['false_positives']:>15.2f}"
                f"      {_percent(kind['count_accuracy'])}"
            )
        lines.append(f"  {'mean':<{width}}            {_percent(numbers['map50'])}")
    counts = [row for row in numbers["by_objects"] if row["objects"] > 0]
    if counts and (len(counts) > 1 or counts[0]["objects"] > 1):
        accepted = f"  accepted from {numbers['threshold']:g} on"
        lines.append(f"{accepted}; the last column at one false positive per image")
        lines.append(f"  {'':<9}  images  count right  duplicates   recall   recall")
        names = [f"{row['objects']} object" + "s" * (row["objects"] > 1) for row in counts]
        for name, row in zip([*names, "all"], [*counts, numbers["sets"]], strict=True):
            lines.append(
                f"  {name:<9}  {row['num_images']:>6,}  {_percent(row['count_accuracy']):>11}"
                f"  {row['duplicates']:>10.2f}  {_percent(row['recall']):>7}"
                f"  {_percent(row['recall_at_1_fppi']):>7}"
            )
    return "\n".join(lines)


def _localization_lines(numbers: Numbers) -> list[str]:
    rows = {"this model": numbers["localization"] | {"ap50": numbers["ap50"]}}
    rows |= {f"baseline: {name}": own for name, own in numbers["baselines"].items()}
    width = max(map(len, rows))
    heads = "   Loc@.5           95 %   Loc@.3   Loc@.7  BoxAccV2  mean IoU     AP50"
    lines = [f"  {'':<{width}}{heads}"]
    for name, own in rows.items():
        interval = f"{100 * own['loc50_low']:.1f} to {100 * own['loc50_high']:.1f}"
        lines.append(
            f"  {name:<{width}}  {_percent(own['loc50'])}  {interval:>13}  {_percent(own['loc30'])}"
            f"  {_percent(own['loc70'])}   {_percent(own['box_acc_v2'])}    {own['mean_iou']:.4f}"
            f"  {_percent(own['ap50'])}"
        )
    sets, title = numbers["sets"], f"accepted from {numbers['threshold']:.3g} on"
    lines.append(
        f"  {title:<{width}}  {_percent(numbers['accepted_loc50'])}, "
        f"{100 * sets['recall']:.1f} % of the objects, "
        f"{sets['false_positives']:.2f} false boxes per image"
    )
    lines += [f"  {remark}" for remark in remarks(numbers)]
    ap, ap50 = _percent(numbers["ap"]), _percent(numbers["ap50"]).strip()
    lines.append(f"  average precision {ap} (IoU .5 to .95), {ap50} at .5")
    if len(numbers["by_size"]) > 1:
        lines.append(f"  {'object covers':<{width}}   Loc@.5           95 %   baseline  images")
        for size in numbers["by_size"]:
            title = f"{100 * size['start']:.0f} to {100 * size['stop']:.0f} %"
            interval = f"{100 * size['low']:.1f} to {100 * size['high']:.1f}"
            lines.append(
                f"  {title:<{width}}  {_percent(size['loc50'])}  {interval:>13}"
                f"    {_percent(size['baseline'])}  {size['count']:>6,}"
            )
    return lines


def _percent(share: float | None) -> str:
    return "     --" if share is None else f"{100 * share:5.1f} %"


def baseline_boxes(train_boxes: Boxes, *, image_size: int) -> dict[str, Floats]:
    """Return the baseline boxes (4,) by name, fitted on boxes (n, 4) of train.

    The whole image, the mean and median of the coordinates, and the boxes in whole pixels with the
    highest Loc@.5 and mean IoU, found by a deterministic search. Raises ValueError for no box.
    """
    boxes = np.asarray(train_boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1:] != (4,) or not len(boxes):
        raise ValueError(f"the boxes of train are {boxes.shape}; give (n, 4) with n of 1 or more")
    return {
        "whole image": np.array([0.0, 0, image_size, image_size]),
        "mean": boxes.mean(axis=0),
        "median": np.median(boxes, axis=0),
        "best for Loc@.5": best_baseline(boxes, image_size=image_size, value=_is_found),
        "best for mean IoU": best_baseline(boxes, image_size=image_size, value=lambda ious: ious),
    }


def _is_found(ious: Floats) -> Floats:
    return is_found(ious).astype(np.float64)


def best_baseline(boxes: Boxes, *, image_size: int, value: Callable[[Floats], Floats]) -> Floats:
    """Search the box (4,) in whole pixels with the highest mean `value` of its IoUs with boxes.

    From several starts, single edges and pairs of edges move to their best place until none helps:
    on a sample first, then on all boxes. Not proven optimal: the tests compare with all boxes of a
    small image.
    """
    boxes = np.asarray(boxes, np.float32)
    unique, weights = _weighted(boxes)
    sample, sample_weights = unique, weights
    if len(unique) > _NUM_SAMPLE:
        chosen = np.random.default_rng(0).choice(len(boxes), _NUM_SAMPLE, replace=False)
        sample, sample_weights = _weighted(boxes[chosen])
    quantiles = np.quantile(sample, (0.2, 0.35, 0.5, 0.65, 0.8), axis=0).round().astype(int)
    starts = [[0, 0, image_size, image_size], *quantiles.tolist()]
    ends = {tuple(_climb(start, sample, sample_weights, image_size, value)[1]) for start in starts}
    ranked = sorted((-_mean_value(np.array([box]), unique, weights, value)[0], box) for box in ends)
    best = [list(box) for _, box in ranked[:_NUM_FINAL]]
    finals = [_climb(box, unique, weights, image_size, value, reach=3) for box in best]
    return np.array(max(finals)[1], np.float64)


def _weighted(boxes: Boxes) -> tuple[Boxes, Floats]:
    unique, counts = np.unique(boxes, axis=0, return_counts=True)
    return unique, counts / counts.sum()


def _climb(
    start: list[int],
    boxes: Boxes,
    weights: Floats,
    image_size: int,
    value: Callable[[Floats], Floats],
    reach: int | None = None,
) -> tuple[float, list[int]]:
    """Move one or two edges at a time, up to `reach` pixels, until that improves nothing."""
    box = start
    best = float(_mean_value(np.array([box]), boxes, weights, value)[0])
    reach = reach or image_size
    before = -1.0
    while best > before + 1e-9:
        before = best
        for edges in ((0,), (1,), (2,), (3,), (0, 2), (1, 3), (0, 1), (2, 3)):
            most = reach if len(edges) == 1 else min(reach, 3)
            grid = np.meshgrid(*[np.arange(-most, most + 1)] * len(edges), indexing="ij")
            moves = np.stack(grid, -1).reshape(-1, len(edges))
            tried = np.repeat(np.array([box]), len(moves), axis=0)
            tried[:, edges] += moves
            inside = ((tried >= 0) & (tried <= image_size)).all(1)
            tried = tried[inside & (tried[:, :2] < tried[:, 2:]).all(1)]
            values = _mean_value(tried, boxes, weights, value)
            if values.max() > best + 1e-9:
                best, box = float(values.max()), [int(edge) for edge in tried[values.argmax()]]
    return best, box


def _mean_value(
    tried: Boxes, boxes: Boxes, weights: Floats, value: Callable[[Floats], Floats]
) -> Floats:
    """Return the mean value (k,) of each of `tried` (k, 4) over boxes (n, 4) with weights (n,)."""
    x0, y0, x1, y1 = boxes.T
    areas = (x1 - x0) * (y1 - y0)
    found = np.empty(len(tried))
    for number, (left, top, right, bottom) in enumerate(np.asarray(tried, np.float32)):
        shared = np.maximum(np.minimum(x1, right) - np.maximum(x0, left), 0)
        shared *= np.maximum(np.minimum(y1, bottom) - np.maximum(y0, top), 0)
        found[number] = weights @ value(shared / (areas + (right - left) * (bottom - top) - shared))
    return found
