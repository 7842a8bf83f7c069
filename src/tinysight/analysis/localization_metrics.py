"""Every figure of a localizer on a split, and the constant boxes beside it: what `tinysight
evaluate` keeps and prints.

All of it is plain numbers, ready for JSON; None stands where there was nothing to count. The
head is class-agnostic: a box is right by its place, and only ILSVRC's localization error asks
for the class, too."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinysight.analysis.baseline_boxes import baseline_boxes
from tinysight.analysis.localization import by_size
from tinysight.data.dataset import Dataset
from tinysight.ops import detection_metrics
from tinysight.ops.boxes import Detections
from tinysight.ops.detection_metrics import FOUND_IOU, is_found
from tinysight.ops.metrics import wilson_interval

Figures = dict[str, Any]
Values = np.ndarray[Any, Any]


def evaluate_boxes(
    pack: Dataset,
    split: str,
    *,
    boxes: Tensor,
    confidence: Tensor,
    logits: Tensor | None = None,
    threshold: float = 0.5,
) -> Figures:
    """Measure the boxes (N, M, 4) with confidences (N, M) of a split's images, in row order; logits
    (N, K) if any.

    A confidence of 0 is padding; from `threshold` on a box is accepted, where sets are counted.
    The constant boxes are fitted on the pack's own train; `constants` a pack brings along
    (`extra`) stand beside them. Raises ValueError where the predictions do not fit the split."""
    rows = pack.rows(split)
    if len(boxes) != len(rows) or (logits is not None and len(logits) != len(rows)):
        raise ValueError(
            f"{pack.name} {split} has {len(rows)} images; predictions are given for {len(boxes)}"
        )
    detections = Detections(boxes.detach().cpu(), confidence.detach().cpu())
    gt_boxes = torch.from_numpy(pack.padded_boxes(rows))
    ious = detection_metrics.top_box_iou(detections, gt_boxes)
    counted = ~ious.isnan()
    precisions = detection_metrics.average_precision(detections, gt_boxes)
    sets, by_number = detection_metrics.count_detections(detections, gt_boxes, threshold=threshold)
    figures: Figures = {
        "data": pack.name,
        "split": split,
        "num_images": len(rows),
        "num_with_boxes": int(counted.sum()),
        "threshold": threshold,
        "localization": asdict(detection_metrics.localization(ious))
        if bool(counted.any())
        else None,
        "ap": float(precisions.mean()),
        "ap50": float(precisions[0]),
        "sets": asdict(sets),
        "by_objects": [{"objects": count, **asdict(own)} for count, own in by_number.items()],
        "false_positives_on_negatives": detection_metrics.false_positives_on_negatives(
            detections, gt_boxes, threshold
        ),
    }
    if logits is not None and bool(counted.any()):
        labels = torch.from_numpy(pack.labels[rows.start : rows.stop].copy())
        for k in (1, 5):
            figures[f"top{k}_localization_error"] = detection_metrics.localization_error(
                logits.detach().cpu(), labels, ious, k
            )
    own_rows = np.asarray(rows)[counted.numpy()]
    own_ious = ious[counted].numpy()
    figures["constants"] = _constants(pack, gt_boxes)
    beside = _beside(figures["constants"], gt_boxes)[counted.numpy()]
    figures["by_class"] = _by_class(pack, own_rows, own_ious, beside)
    figures["by_size"] = _by_size(pack, own_rows, own_ious, beside) if len(own_rows) else []
    plain: Figures = _plain(figures)
    return plain


def boxes_table(figures: Figures) -> str:
    """Lay the figures of `evaluate_boxes` out for a terminal, the constant boxes always among them."""
    lines = [f"{figures['data']} {figures['split']}, boxes of {figures['num_with_boxes']:,} images"]
    own = figures["localization"]
    names = [f"constant: {name}" for name in figures["constants"]]
    width = max(map(len, ["found by the run", *names]))
    if own is not None:
        lines.append(
            f"  {'':<{width}}   Loc@.5           95 %   Loc@.3   Loc@.7  BoxAccV2  mean IoU     AP50"
        )
        lines.append(_localization_line("found by the run", own | {"ap50": figures["ap50"]}, width))
        lines += [
            _localization_line(name, one, width)
            for name, one in zip(names, figures["constants"].values(), strict=True)
        ]
        lines.append(
            f"  average precision {_percent(figures['ap'])} (IoU .5 to .95), {_percent(figures['ap50']).strip()} at .5"
        )
    if len(figures["by_size"]) > 1:
        lines.append(f"  {'object covers':<{width}}   Loc@.5           95 %   constant  images")
        for size in figures["by_size"]:
            title = f"{100 * size['start']:.0f} to {100 * size['stop']:.0f} %"
            interval = f"{100 * size['low']:.1f} to {100 * size['high']:.1f}"
            lines.append(
                f"  {title:<{width}}  {_percent(size['found'])}  {interval:>13}    {_percent(size['constant'])}"
                f"  {size['count']:>6,}"
            )
    for k in (1, 5):
        if figures.get(f"top{k}_localization_error") is not None:
            lines.append(
                f"  top-{k} localization error {_percent(figures[f'top{k}_localization_error'])}"
            )
    if figures["false_positives_on_negatives"] is not None:
        negatives = figures["num_images"] - figures["num_with_boxes"]
        wrong = figures["false_positives_on_negatives"]
        lines.append(
            f"  on {negatives:,} images without an object  {wrong:.2f} boxes accepted an image"
        )
    by_objects = [row for row in figures["by_objects"] if row["objects"] > 0]
    if by_objects and (len(by_objects) > 1 or by_objects[0]["objects"] > 1):
        lines.append(
            f"  accepted from {figures['threshold']:g} on; in the last column, at one wrong box an image"
        )
        lines.append(f"  {'':<9}  images  count right  duplicates   recall   recall")
        for row in by_objects:
            title = f"{row['objects']} object" + ("s" if row["objects"] > 1 else "")
            lines.append(_set_line(title, row))
        lines.append(_set_line("all", figures["sets"]))
    return "\n".join(lines)


def _localization_line(name: str, own: Figures, width: int) -> str:
    interval = f"{100 * own['loc50_low']:.1f} to {100 * own['loc50_high']:.1f}"
    return (
        f"  {name:<{width}}  {_percent(own['loc50'])}  {interval:>13}  {_percent(own['loc30'])}  "
        f"{_percent(own['loc70'])}   {_percent(own['box_acc_v2'])}    {own['mean_iou']:.4f}  {_percent(own['ap50'])}"
    )


def _set_line(title: str, row: Figures) -> str:
    return (
        f"  {title:<9}  {row['num_images']:>6,}  {_percent(row['count_accuracy']):>11}  {row['duplicates']:>10.2f}"
        f"  {_percent(row['recall']):>7}  {_percent(row['recall_at_1_fppi']):>7}"
    )


def _percent(share: float | None) -> str:
    return "     --" if share is None else f"{100 * share:5.1f} %"


def _constants(pack: Dataset, gt_boxes: Tensor) -> Figures:
    """Measure the constant boxes on the gt_boxes of a split, and the constant sets that the pack
    brings along.
    """
    if not bool(detection_metrics.has_gt_box(gt_boxes).any()):
        return {}
    size = float(pack.image_size)
    sets: dict[str, Any] = {"whole image": [[0.0, 0.0, size, size]]}
    train = pack.rows("train") if "train" in pack.splits else range(0)
    train_boxes = pack.boxes[pack.box_offsets[train.start] : pack.box_offsets[train.stop]]
    if len(train_boxes):
        fitted = baseline_boxes(train_boxes, image_size=pack.image_size)
        sets = {name: [box.tolist()] for name, box in fitted.items()}
    sets |= pack.manifest.get("extra", {}).get("baseline_boxes", {})
    found = {}
    for name, constants in sets.items():
        boxes = torch.tensor(constants, dtype=torch.float64).expand(len(gt_boxes), -1, -1)
        constant = Detections(boxes, torch.ones(boxes.shape[:2], dtype=torch.float64))
        precision = detection_metrics.average_precision(constant, gt_boxes, (FOUND_IOU,))
        found[name] = {
            "boxes": constants,
            **asdict(
                detection_metrics.localization(detection_metrics.top_box_iou(constant, gt_boxes))
            ),
            "ap50": float(precision[0]),
        }
    return found


def _beside(constants: Figures, gt_boxes: Tensor) -> Values:
    """Return the IoU (N,) of what stands beside classes and sizes: the median box, else the whole
    image.
    """
    if not constants:
        return np.full(len(gt_boxes), np.nan)
    boxes = constants["median" if "median" in constants else "whole image"]["boxes"]
    boxes = torch.tensor(boxes, dtype=torch.float64).expand(len(gt_boxes), -1, -1)
    constant = Detections(boxes, torch.ones(boxes.shape[:2], dtype=torch.float64))
    return detection_metrics.top_box_iou(constant, gt_boxes).numpy()


def _by_size(pack: Dataset, rows: Values, ious: Values, beside: Values) -> list[Figures]:
    """Count the images found by the size of their largest box, with what the constant box finds of
    the same.
    """
    constant = {one["start"]: one["found"] for one in by_size(pack, rows, beside)}
    return [one | {"constant": constant[one["start"]]} for one in by_size(pack, rows, ious)]


def _by_class(pack: Dataset, rows: Values, ious: Values, beside: Values) -> list[Figures]:
    """Count the images found of each class that has any; classes in the pack's order."""
    labels = pack.labels[rows]
    found = []
    for label in np.unique(labels[labels >= 0]).tolist():
        own = ious[labels == label]
        hits = np.array([int(is_found(own).sum())])
        low, high = wilson_interval(hits, np.array([len(own)]))
        found.append(
            {
                "id": pack.class_ids[label],
                "name": pack.class_names[label],
                "count": len(own),
                "loc50": float(hits[0] / len(own)),
                "low": low[0],
                "high": high[0],
                "mean_iou": float(own.mean()),
                "constant": float(is_found(beside[labels == label]).mean()),
            }
        )
    return found


def _plain(value: Any) -> Any:
    """Turn what a figure can be into what JSON knows: NaN and infinity become None."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
