"""Write what there is to know of a run as one page, with its figures and tables beside it.

`write_report` gathers sections, each from functions of this package that can be used alone, and
fills a template; the sentences are in the template, the numbers come from here."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from markupsafe import Markup
from matplotlib.figure import Figure

from tinysight import __version__, models
from tinysight.analysis import plots
from tinysight.analysis.calibration import reliability
from tinysight.analysis.confusions import confused_pairs, count_confusions, most_confused_classes
from tinysight.analysis.curves import curves_figure
from tinysight.analysis.distributions import bands_figure, read_distributions
from tinysight.analysis.evidence import ALIKE, NEAR, PairEvidence, weigh
from tinysight.analysis.localization import by_size, overlaps, read_boxes
from tinysight.analysis.mistakes import choose_mistakes, examples_of, suspected_labels
from tinysight.analysis.observations import Observations
from tinysight.analysis.per_class import PerClass, per_class
from tinysight.analysis.pictures import (
    data_uri,
    filters_sheet,
    first_filters,
    heat_overlay,
    png_bytes,
)
from tinysight.analysis.plot_style import write_figure
from tinysight.analysis.results import EvalResults, Ints, RunResults
from tinysight.analysis.tables import write_table
from tinysight.config import Config
from tinysight.ops.detection_metrics import is_found
from tinysight.predict.predictor import Predictor
from tinysight.run import duration

SEED = 0  # of the draws behind the intervals: the same run gives the same page
NUM_DUPLICATES_SHOWN = 8


@dataclass(frozen=True)
class Drawing:
    """A figure as it stands in the page."""

    name: str
    svg: Markup


@dataclass
class Folder:
    """Where a report goes: index.html, figures/ and tables/."""

    path: Path
    figures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("figures", "tables"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def draw(self, figure: Figure, name: str, alt: str) -> Drawing:
        """Write a figure as PNG and SVG, and return it for the page."""
        svg = write_figure(figure, self.path / "figures", name, alt=alt)
        return Drawing(name, Markup(svg))  # made by matplotlib, which escapes

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Write a table as CSV."""
        write_table(self.path / "tables" / f"{name}.csv", header, rows)

    def page(self, template: str, values: dict[str, Any]) -> Path:
        """Fill a template and write index.html."""
        text = environment().get_template(template).render(version=__version__, **values).lstrip()
        path = self.path / "index.html"
        path.write_text(
            text, encoding="utf-8", errors="replace"
        )  # half a surrogate pair, as file names can hold
        return path


def environment() -> jinja2.Environment:
    """Return the templates' surroundings: everything is escaped but what is marked as made here."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("tinysight.analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    folder = resources.files("tinysight.analysis") / "templates"
    found.globals["css"] = Markup((folder / "style.css").read_text("utf-8"))
    found.globals["js"] = Markup((folder / "page.js").read_text("utf-8"))
    found.filters["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f}\u00a0%"
    found.filters["number"] = lambda value: f"{value:,}"
    found.filters["duration"] = duration
    return found


def write_report(
    run: RunResults,
    out: Path,
    *,
    observations: Observations | None = None,
    predictor: Predictor | None = None,
    distances: Ints | None = None,
) -> Path:
    """Write index.html, figures/ and tables/ under `out`, and return the page's path.

    Args:
        observations: what the model was asked; without it those parts say that they are missing.
        predictor: the model, for its filters.
        distances: of the classes in WordNet, (K, K).

    Raises:
        ValueError: the run has neither a line in its log nor scores.
    """
    if run.judged is None and not any(line["kind"] == "train" for line in run.log):
        raise ValueError(
            f"{run.folder} holds neither scores nor a line of a training yet; there is nothing to report"
        )
    folder = Folder(out)
    values: dict[str, Any] = {
        "run": run,
        "summary": summary(run),
        "curves": None,
        "judged": run.judged,
    }
    if any(line["kind"] == "train" for line in run.log):
        error = run.judged.metrics.top1_error if run.judged else None
        figure = curves_figure(run.log, final_error=error, split=run.split)
        values["curves"] = folder.draw(figure, "curves", _curves_alt(run))
    values |= judged_sections(run.judged, folder, observations, distances) if run.judged else {}
    values["localization"] = _localization(run, folder)
    values["filters"] = _filters(predictor, folder) if predictor else None
    values["distributions"] = _distributions(run, folder)
    return folder.page("report.html.j2", values)


# Sections


def summary(run: RunResults) -> dict[str, Any]:
    """Gather what the run is: model, parameters, time, data, configuration."""
    config, pack = run.record.config, run.pack
    parameters, multiply_adds = _size_of(config, len(pack.class_names), pack.image_size)
    seconds = run.summary["seconds"] if run.summary else None
    trained = [line for line in run.log if line["kind"] == "train"]
    return {
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "seconds": seconds,
        "epochs_done": trained[-1]["epoch"] if trained else 0.0,
        "steps": trained[-1]["step"] if trained else 0,
        "finished": run.has_weights,
        "config": _settings(config),
        "num_train": len(pack.rows(config.data.train)),
    }


def judged_sections(
    judged: EvalResults, folder: Folder, observations: Observations | None, distances: Ints | None
) -> dict[str, Any]:
    """Gather every section that follows from the scores, with what the observations add."""
    generator = np.random.default_rng(SEED)
    classes = per_class(judged, generator=generator)
    confusions = count_confusions(judged.labels, judged.predictions, len(judged.class_names))
    return {
        "classes": _classes(judged, classes, folder),
        "confusion": _confusion(judged, confusions, folder, observations, distances),
        "gallery": _gallery(judged, observations),
        "calibration": _calibration(judged, folder),
        "labels": _labels(judged, folder, observations),
        "blanking": _blanking(judged, observations),
        "names": judged.class_names,
        "observations": observations,
    }


def _classes(judged: EvalResults, classes: PerClass, folder: Folder) -> dict[str, Any]:
    names = judged.class_names
    rows = [_class_row(classes, names, int(index)) for index in classes.order]
    header = (
        "class",
        "images",
        "errors",
        "error",
        "low",
        "high",
        "place_low",
        "place_high",
        "mean_confidence",
    )
    keys = (
        "name",
        "count",
        "errors",
        "share",
        "low",
        "high",
        "place_low",
        "place_high",
        "confidence",
        "rival",
    )
    folder.table(
        "classes",
        (*header, "most_often_called", "times"),
        [[row[k] for k in (*keys, "times")] for row in rows],
    )
    worst, best = classes.worst(), classes.best()
    chosen = {int(index) for index in (*worst, *best)}
    examples = {index: _examples(judged, index) for index in chosen}
    return {
        "rows": rows,
        "best": [
            _class_row(classes, names, int(index)) | {"examples": examples[int(index)]}
            for index in best
        ],
        "worst": [
            _class_row(classes, names, int(index)) | {"examples": examples[int(index)]}
            for index in worst
        ],
        "without": [names[index] for index in np.flatnonzero(classes.counts == 0)],
        "figure": folder.draw(
            plots.class_errors_figure(classes, names),
            "classes",
            f"Error of each of {len(rows)} classes with 95 % intervals, from {rows[0]['name']} at "
            f"{100 * rows[0]['share']:.1f} % to {rows[-1]['name']} at {100 * rows[-1]['share']:.1f} %.",
        ),
        "sure": classes.clearly_separated,
        "fewest": int(classes.counts[classes.order].min()),
        "most": int(classes.counts.max()),
        "num_extreme": classes.ranks.num_extreme,
        "expected_worst": float(classes.ranks.among_worst[worst].sum()),
        "candidates": int((classes.ranks.among_worst > 0.05).sum()),
    }


def _class_row(classes: PerClass, names: Sequence[str], index: int) -> dict[str, Any]:
    rival = int(classes.rival[index])
    return {
        "name": names[index],
        "count": int(classes.counts[index]),
        "errors": int(classes.errors[index]),
        "share": float(classes.share[index]),
        "low": float(classes.low[index]),
        "high": float(classes.high[index]),
        "place_low": int(classes.ranks.low[index]),
        "place_high": int(classes.ranks.high[index]),
        "among_worst": float(classes.ranks.among_worst[index]),
        "among_best": float(classes.ranks.among_best[index]),
        "confidence": float(classes.confidence[index]),
        "rival": names[rival] if rival >= 0 else "",
        "times": int(classes.rival_count[index]),
    }


def _examples(judged: EvalResults, label: int) -> list[dict[str, Any]]:
    found = []
    for place in examples_of(judged, label).tolist():
        called = judged.class_names[judged.predictions[place]]
        found.append(
            {"image": _image(judged, place), "called": called, "right": bool(judged.correct[place])}
        )
    return found


def _confusion(
    judged: EvalResults,
    confusions: Ints,
    folder: Folder,
    observations: Observations | None,
    distances: Ints | None,
) -> dict[str, Any]:
    names = judged.class_names
    pairs = confused_pairs(confusions)
    evidence = weigh(
        judged,
        pairs,
        similarity=observations.class_similarity.numpy() if observations else None,
        survival=observations.survival if observations else None,
        distances=distances,
    )
    header = (
        "true",
        "called",
        "mistakes",
        "reverse",
        "similarity",
        "share_of_pairs_less_similar",
        "wordnet_distance",
    )
    rows = [_evidence_row(item, names) for item in evidence]
    keys = (
        "first",
        "second",
        "forth",
        "back",
        "similarity",
        "rank",
        "distance",
        "tested",
        "by_object",
        "by_background",
    )
    folder.table(
        "confused_pairs",
        (*header, "tested_with_box", "kept_by_object", "kept_by_background", "verdict"),
        [[row[key] for key in (*keys, "verdict")] for row in rows],
    )
    everywhere = zip(*np.nonzero(confusions), strict=True)
    folder.table(
        "confusions",
        ("true", "called", "images"),
        [(names[i], names[j], int(confusions[i, j])) for i, j in everywhere],
    )
    chosen = most_confused_classes(confusions)
    figure = None
    if len(chosen) >= 2:
        alt = f"Confusions among the {len(chosen)} classes most often mistaken for each other, as in the table."
        figure = folder.draw(plots.confusion_figure(confusions, chosen, names), "confusions", alt)
    return {
        "rows": rows,
        "figure": figure,
        "num_chosen": len(chosen),
        "has_boxes": any(row["tested"] for row in rows),
        "has_distances": distances is not None,
        "near": NEAR,
        "alike": ALIKE,
        "verdicts": Counter(row["verdict"] for row in rows),
        "mistakes": int(confusions.sum() - confusions.trace()),
        "in_pairs": sum(pair.total for pair in pairs),
    }


def _evidence_row(item: PairEvidence, names: Sequence[str]) -> dict[str, Any]:
    return {
        "first": names[item.pair.first],
        "second": names[item.pair.second],
        "forth": item.pair.forth,
        "back": item.pair.back,
        "similarity": item.similarity,
        "rank": item.similarity_rank,
        "distance": item.distance,
        "tested": item.tested,
        "by_object": item.kept_by_object,
        "by_background": item.kept_by_background,
        "verdict": item.verdict,
    }


def _blanking(judged: EvalResults, observations: Observations | None) -> dict[str, Any] | None:
    """How far right answers and mistakes survive when object or background is blanked."""
    if observations is None or not observations.survival.tested.any():
        return None
    survival = observations.survival
    found: dict[str, Any] = {}
    for name, kind in (("right", judged.correct), ("wrong", ~judged.correct)):
        chosen = kind & survival.tested
        said = judged.predictions[chosen]
        found[name] = {
            "count": int(chosen.sum()),
            "by_object": float((survival.object_only[chosen] == said).mean())
            if chosen.any()
            else 0.0,
            "by_background": float((survival.background_only[chosen] == said).mean())
            if chosen.any()
            else 0.0,
        }
    return found


def _gallery(judged: EvalResults, observations: Observations | None) -> dict[str, Any]:
    names = judged.class_names
    shown = choose_mistakes(judged)
    items = []
    for number, place in enumerate(shown.tolist()):
        item = {
            "image": _image(judged, place),
            "boxes": judged.pack.boxes_of(judged.rows[place]).tolist(),
            "truth": names[judged.labels[place]],
            "called": names[judged.predictions[place]],
            "confidence": float(judged.confidence[place]),
            "truth_probability": float(judged.probabilities[place, judged.labels[place]]),
            "file": judged.pack.files[judged.rows[place]],
            "predicted": [],
            "heat": None,
            "near": [],
        }
        if observations is not None:
            item["heat"] = _heat(judged, place, observations.maps[number].numpy())
            item["near"] = _neighbors(judged, observations, place)
        items.append(item)
    return {
        "items": items,
        "labels": sorted({item["truth"] for item in items}),
        "calleds": sorted({item["called"] for item in items}),
        "num_mistakes": int((~judged.correct).sum()),
    }


def _neighbors(
    judged: EvalResults, observations: Observations, place: int, limit: int = 3
) -> list[dict[str, Any]]:
    pack = judged.pack
    near = zip(
        observations.neighbors[place].tolist(),
        observations.neighbor_similarity[place].tolist(),
        strict=True,
    )
    return [
        {
            "image": data_uri(pack.images[row]),
            "name": judged.class_names[pack.labels[row]],
            "similarity": similarity,
        }
        for row, similarity in list(near)[:limit]
    ]


def _heat(judged: EvalResults, place: int, heat: Any) -> str:
    return data_uri(
        heat_overlay(judged.pack.images[judged.rows[place]], heat, window=judged.window)
    )


def _calibration(judged: EvalResults, folder: Folder) -> dict[str, Any]:
    bins = reliability(judged.confidence, judged.correct)
    header = ("above", "up_to", "images", "mean_confidence", "right", "low", "high")
    columns = (
        bins.borders[:-1],
        bins.borders[1:],
        bins.counts,
        bins.confidence,
        bins.accuracy,
        bins.low,
        bins.high,
    )
    folder.table(
        "calibration",
        header,
        [[_plain(value) for value in row] for row in zip(*columns, strict=True)],
    )
    mean, right = float(judged.confidence.mean()), float(judged.correct.mean())
    text = f"Share of right predictions by confidence; calibration error {100 * bins.error:.1f} %."
    sure = judged.confidence >= 0.9
    return {
        "error": bins.error,
        "mean": mean,
        "right": right,
        "sure": int(sure.sum()),
        "sure_right": float(judged.correct[sure].mean()) if sure.any() else None,
        "figure": folder.draw(plots.reliability_figure([("this run", bins)]), "calibration", text),
        "histogram": folder.draw(
            plots.confidence_figure(judged.confidence, judged.correct),
            "confidence",
            f"Confidence: right predictions average {100 * _mean(judged.confidence[judged.correct]):.0f} %, "
            f"wrong ones {100 * _mean(judged.confidence[~judged.correct]):.0f} %.",
        ),
    }


def _labels(
    judged: EvalResults, folder: Folder, observations: Observations | None
) -> dict[str, Any]:
    pack, names = judged.pack, judged.class_names
    near = np.array(pack.labels)[observations.neighbors.numpy()] if observations else None
    every = suspected_labels(judged, near, limit=len(judged))
    table = [
        (
            pack.files[judged.rows[place]],
            names[judged.labels[place]],
            names[judged.predictions[place]],
            float(judged.confidence[place]),
        )
        for place in every.tolist()
    ]
    folder.table("suspected_labels", ("file", "label", "called", "confidence"), table)
    items = [
        {
            "image": _image(judged, place),
            "truth": names[judged.labels[place]],
            "called": names[judged.predictions[place]],
            "confidence": float(judged.confidence[place]),
        }
        for place in every[:12].tolist()
    ]
    return {"items": items, "total": len(every), **_duplicates(judged, folder)}


def _duplicates(judged: EvalResults, folder: Folder) -> dict[str, Any]:
    pack = judged.pack
    groups = pack.manifest.get("duplicates", [])
    name_of = dict(zip(pack.class_ids, pack.class_names, strict=True))
    rows = {file: row for row, file in enumerate(pack.files)} if groups else {}
    described = [
        [
            {"file": file, "label": name_of.get(label, "no label"), "split": split}
            for file, label, split in zip(
                group["files"], group["labels"], group["splits"], strict=True
            )
        ]
        for group in groups
    ]
    folder.table(
        "duplicates",
        ("group", "file", "label", "split"),
        [(n, *member.values()) for n, group in enumerate(described, start=1) for member in group],
    )
    conflicts = [
        group for group in described if len({m["label"] for m in group} - {"no label"}) > 1
    ]
    across = [group for group in described if len({m["split"] for m in group}) > 1]
    first = sorted(described, key=lambda group: judged.split not in {m["split"] for m in group})[
        :NUM_DUPLICATES_SHOWN
    ]
    return {
        "groups": [
            {"image": data_uri(pack.images[rows[group[0]["file"]]]), "members": group}
            for group in first
        ],
        "num_groups": len(described),
        "num_conflicts": len(conflicts),
        "num_across": len(across),
        "num_leaked": sum(
            {"train", judged.split} <= {m["split"] for m in group} for group in described
        ),
    }


def _localization(run: RunResults, folder: Folder) -> dict[str, Any] | None:
    found = read_boxes(
        run.record.scores_path(run.record.label(run.pack.name, run.split)), run.pack, run.split
    )
    if found is None:
        return None
    pack = run.pack
    rows, best = overlaps(pack, run.split, found)
    sizes = by_size(pack, rows, best)
    header = ("from_share", "to_share", "images", "mean_iou", "found", "low", "high")
    folder.table("boxes_by_size", header, [tuple(size.values()) for size in sizes])
    order = np.argsort(-best, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(12, len(order))).round().astype(int)]
    examples = []
    for row, value in zip(rows[chosen].tolist(), best[chosen].tolist(), strict=True):
        shown = found.boxes_of(row, threshold=run.record.config.localizer.threshold)
        examples.append(
            {
                "image": data_uri(pack.images[row]),
                "boxes": pack.boxes_of(row).tolist(),
                "predicted": shown.tolist(),
                "iou": value,
                "name": pack.class_names[pack.labels[row]],
            }
        )
    return {
        "count": len(rows),
        "mean": float(best.mean()),
        "found": float(is_found(best).mean()),
        "sizes": sizes,
        "examples": examples,
    }


def _filters(predictor: Predictor, folder: Folder) -> dict[str, Any]:
    try:
        filters = first_filters(predictor.model)
    except ValueError as error:
        return {"why_not": str(error)}
    content = png_bytes(filters_sheet(filters))
    (folder.path / "figures" / "filters.png").write_bytes(content)
    return {
        "image": "data:image/png;base64," + base64.b64encode(content).decode(),
        "num": len(filters),
        "size": filters.shape[1:3],
    }


def _distributions(run: RunResults, folder: Folder) -> list[dict[str, Any]]:
    found = []
    for number, (layer, series) in enumerate(read_distributions(run.log).items()):
        last = {name: float(values[-1]) for name, values in series.items()}
        first = {name: float(values[0]) for name, values in series.items()}
        alt = f"Distribution of {layer} by step: maximum, mean and three deviations on either side, minimum."
        figure = folder.draw(bands_figure(layer, series), f"distribution-{number}", alt)
        header = tuple(series)
        folder.table(
            f"distribution-{number}",
            ("layer", *header),
            [(layer, *row) for row in zip(*(v.tolist() for v in series.values()), strict=True)],
        )
        found.append({"layer": layer, "figure": figure, "first": first, "last": last})
    return found


# Parts of sections


def _image(judged: EvalResults, place: int) -> str:
    return data_uri(judged.pack.images[judged.rows[place]])


def _settings(config: Config) -> list[tuple[str, list[tuple[str, object]]]]:
    return [
        (section, list(values.items()))
        for section, values in asdict(config).items()
        if isinstance(values, dict)
    ]


def _size_of(config: Config, num_classes: int, image_size: int) -> tuple[int, int]:
    """Return parameters and multiply-adds an image without making the model's tensors."""
    sizes = config.train.sizes
    with torch.device("meta"):
        model = models.create_model(config.model.name, num_classes, **config.model.options)
    size = sizes[-1][1] if sizes else config.augment.crop or image_size
    return models.count_parameters(model), models.count_multiply_adds(model, size)


def _curves_alt(run: RunResults) -> str:
    epochs = [line for line in run.log if line["kind"] == "epoch"]
    if not epochs:
        return "Trainer error, loss and learning rate by epoch."
    first, last = (100 * epochs[index]["top1_error"] for index in (0, -1))
    return f"Errors, loss and learning rate by epoch: the minival error goes from {first:.1f} % to {last:.1f} %."


def _plain(value: Any) -> float | int:
    return value.item()  # type: ignore[no-any-return]


def _mean(values: Any) -> float:
    return float(values.mean()) if len(values) else 0.0
