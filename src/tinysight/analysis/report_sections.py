"""Sections of the report: each returns what the template shows, and writes figures and tables."""

from __future__ import annotations

import base64
import math
from collections import Counter
from typing import Any

import numpy as np
import torch

from tinysight.analysis import errors, plots
from tinysight.analysis.boxes import evaluate_boxes, remarks
from tinysight.analysis.errors import NUM_EXTREME, PerClass
from tinysight.analysis.page import Page, data_uri
from tinysight.analysis.pictures import filters_sheet, heat_overlay, png_bytes
from tinysight.analysis.probes import SIMILAR, Probes, explain_confusions, first_filters
from tinysight.analysis.results import EvalResults, RunResults
from tinysight.data.dataset import Dataset
from tinysight.data.summary import caption
from tinysight.ops import detection_metrics
from tinysight.ops.boxes import Detections
from tinysight.predict.predictor import Predictor

SEED = 0  # of the draws of rank intervals: the same run gives the same page
NUM_SUSPECTED, NUM_DUPLICATES, NUM_NEIGHBORS, NUM_DETECTIONS = 12, 8, 3, 12  # shown

CAUSE_COLUMNS = (
    *("true", "predicted", "mistakes", "reverse", "similarity", "less_similar_pairs"),
    *("tested_with_box", "kept_by_object", "kept_by_background", "cause"),
)

Section = dict[str, Any]


def curves_section(run: RunResults, page: Page) -> Any:
    error = run.results.metrics.top1_error if run.results else None
    alt = "Training error, loss and learning rate by epoch."
    if epochs := [line for line in run.log if line["kind"] == "epoch"]:
        first, last = (100 * epochs[index]["top1_error"] for index in (0, -1))
        if not math.isnan(last):
            alt = f"Curves by epoch: the minival error goes from {first:.1f} % to {last:.1f} %."
    figure = plots.curves_figure(run.log, final_error=error, split=run.split)
    return page.add_figure(figure, "curves", alt=alt)


def classes_section(results: EvalResults, page: Page) -> Section:
    names = results.class_names
    classes = errors.per_class(results, generator=np.random.default_rng(SEED))
    rows = [_class_row(classes, names, index) for index in classes.order.tolist()]
    columns = [key for key in rows[0] if not key.startswith("among")]
    page.add_table("classes", columns, [[row[key] for key in columns] for row in rows])
    best, worst = rows[:NUM_EXTREME], rows[::-1][:NUM_EXTREME]
    for row in (*best, *worst):
        row["examples"] = _examples(results, names.index(row["name"]))
    first, last = rows[0], rows[-1]
    alt = (
        f"Error of each of {len(rows)} classes with 95 % intervals, from {first['name']} at "
        f"{100 * first['error']:.1f} % to {last['name']} at {100 * last['error']:.1f} %."
    )
    num_extreme = classes.ranks.num_extreme
    return {
        "rows": rows,
        "best": best,
        "worst": worst,
        "without": [names[index] for index in np.flatnonzero(classes.counts == 0)],
        "figure": page.add_figure(plots.class_errors_figure(classes, names), "classes", alt=alt),
        "clearly_separated": classes.clearly_separated,
        "fewest": int(classes.counts[classes.order].min()),
        "most": int(classes.counts.max()),
        "num_extreme": num_extreme,
        "expected_worst": float(classes.ranks.among_worst[classes.order[-num_extreme:]].sum()),
        "candidates": int((classes.ranks.among_worst > 0.05).sum()),
    }


def _class_row(classes: PerClass, names: tuple[str, ...], index: int) -> Section:
    ranks, other = classes.ranks, int(classes.most_confused_with[index])
    columns: dict[str, Any] = {"count": classes.counts}
    columns |= {name: getattr(classes, name) for name in ("errors", "error", "low", "high")}
    columns |= {"rank_low": ranks.low, "rank_high": ranks.high}
    columns |= {"among_worst": ranks.among_worst, "among_best": ranks.among_best}
    columns |= {
        name: getattr(classes, name) for name in ("confidence", "most_confused_with", "times")
    }
    row = {"name": names[index], **{name: own[index].item() for name, own in columns.items()}}
    return row | {"most_confused_with": names[other] if other >= 0 else ""}


def _examples(results: EvalResults, label: int) -> list[Section]:
    places = errors.examples_of(results, label).tolist()
    return [_labeled(results, n) | {"right": bool(results.correct[n])} for n in places]


def confusions_section(results: EvalResults, page: Page, probes: Probes | None) -> Section:
    names = results.class_names
    confusions = errors.count_confusions(results.labels, results.predicted, len(names))
    pairs = errors.confused_pairs(confusions)
    similarity = probes.class_similarity.numpy() if probes and probes.has_neighbors else None
    occlusion = probes.occlusion if probes else None
    rows = []
    for cause in explain_confusions(results, pairs, similarity=similarity, occlusion=occlusion):
        pair = cause.pair
        values = (
            *(names[pair.first], names[pair.second], pair.forth, pair.back),
            *(cause.similarity, cause.similarity_rank),
            *(cause.tested, cause.kept_by_object, cause.kept_by_background, cause.cause),
        )
        rows.append(dict(zip(CAUSE_COLUMNS, values, strict=True)))
    page.add_table("confused_pairs", CAUSE_COLUMNS, [list(row.values()) for row in rows])
    places = zip(*np.nonzero(confusions), strict=True)
    counts = [(names[i], names[j], int(confusions[i, j])) for i, j in places]
    page.add_table("confusions", ("true", "predicted", "images"), counts)
    chosen = errors.most_confused_classes(confusions)
    figure = None
    if len(chosen) >= 2:
        alt = f"Confusions among the {len(chosen)} most confused classes, as in the table."
        drawn = plots.confusion_figure(confusions, chosen, names)
        figure = page.add_figure(drawn, "confusions", alt=alt)
    return {
        "rows": rows,
        "figure": figure,
        "num_chosen": len(chosen),
        "has_boxes": any(row["tested_with_box"] for row in rows),
        "similar": SIMILAR,
        "causes": Counter(row["cause"] for row in rows),
        "mistakes": int(confusions.sum() - confusions.trace()),
        "in_pairs": sum(pair.forth + pair.back for pair in pairs),
    }


def occlusion_section(results: EvalResults, probes: Probes | None) -> Section | None:
    """Count how many right predictions and mistakes stay with a side of the box blanked."""
    if probes is None or not probes.occlusion.tested.any():
        return None
    occlusion = probes.occlusion
    found: Section = {}
    for name, kind in (("right", results.correct), ("wrong", ~results.correct)):
        chosen = kind & occlusion.tested
        predicted = results.predicted[chosen]
        found[name] = {
            "count": int(chosen.sum()),
            "by_object": _mean(occlusion.object_only[chosen] == predicted),
            "by_background": _mean(occlusion.background_only[chosen] == predicted),
        }
    return found


def mistakes_section(
    results: EvalResults, probes: Probes | None, learned: Dataset | None
) -> Section:
    dataset, items = results.dataset, []
    for number, place in enumerate(errors.choose_mistakes(results).tolist()):
        row = int(results.rows[place])
        item: Section = _labeled(results, place) | {
            "gt_boxes": dataset.boxes_of(row).tolist(),
            "boxes": [],
            "label_probability": float(results.probabilities[place, results.labels[place]]),
            "heat": None,
            "neighbors": [],
        }
        if probes is not None:
            heat = probes.maps[number].numpy()
            overlay = heat_overlay(dataset.images[row], heat, window=results.window)
            item["heat"] = data_uri(overlay)
            item["neighbors"] = _neighbors(probes, place, learned) if learned else []
        items.append(item)
    return {
        "items": items,
        "labels": sorted({item["label"] for item in items}),
        "predicted": sorted({item["predicted"] for item in items}),
        "num_mistakes": int((~results.correct).sum()),
    }


def _neighbors(probes: Probes, place: int, learned: Dataset) -> list[Section]:
    near = probes.neighbors[place].tolist(), probes.neighbor_similarity[place].tolist()
    return [
        {
            "name": learned.class_names[learned.labels[row]],
            "similarity": similarity,
            "image": data_uri(learned.images[row]),
        }
        for row, similarity in list(zip(*near, strict=True))[:NUM_NEIGHBORS]
    ]


def calibration_section(results: EvalResults, page: Page) -> Section:
    confidence, correct = results.confidence, results.correct
    bins = errors.reliability(confidence, correct)
    header = ("above", "up_to", "images", "mean_confidence", "accuracy", "low", "high")
    columns = (bins.borders[:-1], bins.borders[1:], bins.counts, bins.confidence, bins.accuracy)
    rows = zip(*(column.tolist() for column in (*columns, bins.low, bins.high)), strict=True)
    page.add_table("calibration", header, list(rows))
    sure = confidence >= 0.9
    means = [100 * _mean(confidence[chosen]) for chosen in (correct, ~correct)]
    error = results.metrics.calibration_error
    alt = f"Accuracy by confidence; calibration error {100 * error:.1f} %."
    whose = "cross-validated" if results.evaluation.cross_validated else "this model"
    figure = page.add_figure(plots.reliability_figure([(whose, bins)]), "calibration", alt=alt)
    alt = "Mean confidence: right {:.0f} %, wrong {:.0f} %.".format(*means)
    histogram = plots.confidence_figure(confidence, correct)
    return {
        "error": error,
        "confidence": _mean(confidence),
        "accuracy": _mean(correct),
        "num_sure": int(sure.sum()),
        "sure_accuracy": _mean(correct[sure]),
        "figure": figure,
        "histogram": page.add_figure(histogram, "confidence", alt=alt),
    }


def suspected_labels_section(
    results: EvalResults, page: Page, probes: Probes | None, learned: Dataset | None
) -> Section:
    dataset, near = results.dataset, None
    if probes is not None and learned is not None and probes.has_neighbors:
        near = np.array(learned.labels)[probes.neighbors.numpy()]
    places = errors.suspected_labels(results, near).tolist()
    header = ("label", "predicted", "confidence")
    items = [_labeled(results, place) for place in places]
    table = [
        (dataset.files[results.rows[place]], *(item[name] for name in header))
        for place, item in zip(places, items, strict=True)
    ]
    page.add_table("suspected_labels", ("file", *header), table)
    return {"items": items[:NUM_SUSPECTED], "total": len(places)}


def duplicates_section(results: EvalResults, page: Page) -> Section:
    """List identical images with other labels or in other splits, as an import found them.

    The number in train and this split is None where the split has train itself.
    """
    dataset, parts = results.dataset, set(results.split.split("+"))
    names = dict(zip(dataset.class_ids, dataset.class_names, strict=True))
    groups = []
    for group in dataset.manifest.get("duplicates", []):
        members = zip(group["files"], group["labels"], group["splits"], strict=True)
        groups.append(
            [{"file": f, "label": names.get(id_, "no label"), "split": s} for f, id_, s in members]
        )
    rows = {file: row for row, file in enumerate(dataset.files)} if groups else {}
    table = [(n, *member.values()) for n, group in enumerate(groups, start=1) for member in group]
    page.add_table("duplicates", ("group", "file", "label", "split"), table)
    splits = [{member["split"] for member in group} for group in groups]
    labels = [{member["label"] for member in group} - {"no label"} for group in groups]
    shown = sorted(range(len(groups)), key=lambda n: not parts & splits[n])
    leaked = [own for own in splits if "train" in own and own & parts]
    return {
        "groups": [
            {"image": data_uri(dataset.images[rows[groups[n][0]["file"]]]), "members": groups[n]}
            for n in shown[:NUM_DUPLICATES]
        ],
        "total": len(groups),
        "num_conflicts": sum(len(own) > 1 for own in labels),
        "num_across": sum(len(own) > 1 for own in splits),
        "num_leaked": None if "train" in parts else len(leaked),
        "base": None if dataset.view is None else dataset.view.base.name,
    }


def localization_section(run: RunResults, page: Page) -> Section | None:
    assert run.detections is not None
    dataset, threshold = run.dataset, run.threshold
    numbers = evaluate_boxes(dataset, run.split, run.detections, threshold=threshold)
    if numbers["localization"] is None:
        return None
    for name in ("by_size", "by_class", "by_kind"):
        if rows := numbers[name]:  # no class where no image is labeled
            table = [tuple(row.values()) for row in rows]
            page.add_table(f"boxes_{name}", tuple(rows[0]), table)
    models = {"this model": numbers["localization"] | {"ap50": numbers["ap50"]}}
    models |= {f"baseline: {name}": own for name, own in numbers["baselines"].items()}
    examples = _detection_examples(run, run.detections, threshold)
    return numbers | {"models": models, "examples": examples, "remarks": remarks(numbers)}


def _detection_examples(run: RunResults, detections: Detections, threshold: float) -> list[Section]:
    """Choose images evenly from the best IoU to the worst."""
    dataset, rows = run.dataset, run.dataset.rows(run.split)
    gt_boxes = torch.from_numpy(dataset.padded_boxes(rows))
    boxes, confidence = detections.boxes, detections.confidence
    ious = detection_metrics.top_box_iou(detections, gt_boxes).numpy()
    order = np.argsort(-ious, kind="stable")[: int((~np.isnan(ious)).sum())]
    num = min(NUM_DETECTIONS, len(order))
    examples = []
    for place in order[np.linspace(0, len(order) - 1, num).round().astype(int)].tolist():
        row = rows[place]
        accepted = (confidence[place] >= threshold) & (confidence[place] > 0)
        accepted[0] = confidence[place, 0] > 0  # the most confident box counts
        name, gt = caption(dataset, row), dataset.boxes_of(row).tolist()
        example = {"image": data_uri(dataset.images[row]), "name": name, "gt_boxes": gt}
        example |= {"boxes": boxes[place][accepted].tolist(), "iou": float(ious[place])}
        examples.append(example)
    return examples


def filters_section(predictor: Predictor, page: Page) -> Section:
    try:
        filters = first_filters(predictor.network.model)
    except ValueError as error:
        return {"reason": str(error)}
    content = png_bytes(filters_sheet(filters))
    (page.path / "figures" / "filters.png").write_bytes(content)
    uri = "data:image/png;base64," + base64.b64encode(content).decode()
    return {"image": uri, "num": len(filters), "size": filters.shape[1:3]}


def distributions_section(run: RunResults, page: Page) -> list[Section]:
    found = []
    for number, (layer, series) in enumerate(plots.read_distributions(run.log).items()):
        name = f"distribution-{number}"
        alt = f"Distribution of {layer} by step: maximum, mean, three deviations, minimum."
        figure = page.add_figure(plots.distribution_figure(layer, series), name, alt=alt)
        columns = [values.tolist() for values in series.values()]
        rows = [(layer, *row) for row in zip(*columns, strict=True)]
        page.add_table(name, ("layer", *series), rows)
        first, last = ({key: float(v[n]) for key, v in series.items()} for n in (0, -1))
        found.append({"layer": layer, "figure": figure, "first": first, "last": last})
    return found


def _labeled(results: EvalResults, place: int) -> Section:
    return {
        "image": data_uri(results.dataset.images[results.rows[place]]),
        "label": results.class_names[results.labels[place]],
        "predicted": results.class_names[results.predicted[place]],
        "confidence": float(results.confidence[place]),
    }


def _mean(values: Any) -> float:
    return float(values.mean()) if len(values) else 0.0
