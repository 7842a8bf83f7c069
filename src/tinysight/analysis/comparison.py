"""Comparison of two or more runs on the same images: errors, paired differences, classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinysight.analysis import plots
from tinysight.analysis.errors import reliability
from tinysight.analysis.page import Page
from tinysight.analysis.report import summary
from tinysight.analysis.results import EvalResults, RunResults
from tinysight.analysis.statistics import Bools, Floats, Ints, holm, paired_difference

LEVEL = 0.05  # of the adjusted p-values of significant differences
NUM_SHOWN = 20  # classes in the figure


@dataclass(frozen=True)
class ClassDifferences:
    """The second run's error minus the first's per class (K,); classes without images are 0."""

    counts: Ints
    value: Floats
    low: Floats
    high: Floats  # 95 % interval of each class by itself
    only_first_wrong: Ints
    only_second_wrong: Ints
    adjusted: Floats  # Holm's p-values over all classes with images; 1 of the others

    @property
    def significant(self) -> Bools:
        """Which classes differ significantly, corrected for the number of classes."""
        return np.asarray(self.adjusted <= LEVEL)


def compare_classes(first: EvalResults, second: EvalResults) -> ClassDifferences:
    """Compare two runs class by class on the same images."""
    num_classes = len(first.class_names)
    counts = np.bincount(first.labels, minlength=num_classes)
    columns = np.zeros((6, num_classes))
    columns[5] = 1.0
    shown = np.flatnonzero(counts)
    for label in shown.tolist():
        own = first.labels == label
        found = paired_difference(first.correct[own], second.correct[own])
        wrong = (found.only_first_wrong, found.only_second_wrong)
        columns[:, label] = (found.value, found.low, found.high, *wrong, found.p_value)
    value, low, high, first_wrong, second_wrong, p_values = columns
    only_first, only_second = (own.astype(np.int64) for own in (first_wrong, second_wrong))
    p_values[shown] = holm(p_values[shown])
    return ClassDifferences(counts, value, low, high, only_first, only_second, p_values)


def write_comparison(runs: Sequence[RunResults], out: Path) -> Path:
    """Write index.html, figures/ and tables/ in `out`; the other runs are compared with the first.

    Raises ValueError when a run has no scores, or they are of other images than the first's.
    """
    results = _same_images(runs)
    names = distinct_names(runs)
    page = Page(out)
    first = results[0]
    rows = [_run_row(*parts) for parts in zip(names, runs, results, strict=True)]
    flat = [{**row, **asdict(row["metrics"])} for row in rows]
    columns = tuple(key for key in flat[0] if key != "metrics")
    page.add_table("runs", columns, [[row[key] for key in columns] for row in flat])
    curves = [plots.error_curve(name, run.log) for name, run in zip(names, runs, strict=True)]
    drawn = None
    if logged := [curve for curve in curves if curve is not None]:
        alt = f"Error by epoch of {', '.join(names)}."
        drawn = page.add_figure(plots.overlaid_curves(logged), "curves", alt=alt)
    bins = [reliability(own.confidence, own.correct) for own in results]
    calibration = plots.reliability_figure(list(zip(names, bins, strict=True)))
    alt = "Accuracy by confidence of each run."
    values: dict[str, Any] = {
        "cross_validated": any(own.evaluation.cross_validated for own in results),
        "runs": rows,
        "pairs": [_pair(names, results, page, number) for number in range(1, len(runs))],
        "curves": drawn,
        "calibration": page.add_figure(calibration, "calibration", alt=alt),
        "split": runs[0].split,
        "data": runs[0].dataset.name,
        "num_images": len(first),
        "num_classes": len(first.class_names),
        "settings": _differing_settings(runs),
    }
    return page.write("comparison.html.j2", values)


def distinct_names(runs: Sequence[RunResults]) -> list[str]:
    """Name each run by its folder, with as much of the path above as makes the names distinct."""
    parts = [run.run.folder.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    repeated = next(part for part in parts if parts.count(part) > 1)
    raise ValueError(f"{Path(*repeated)} is given twice; give each run once")


def _same_images(runs: Sequence[RunResults]) -> list[EvalResults]:
    found: list[EvalResults] = []
    for run in runs:
        folder, results = run.run.folder, run.results
        if results is None and run.detections is not None:
            raise ValueError(f"{folder} has no error to compare; give runs that learn labels")
        if results is None:
            command = f"tinysight evaluate {folder} --split {run.split}"
            raise ValueError(f"{folder} has no scores of {run.split}; `{command}` computes them")
        first = found[0] if found else results
        same_data = results.dataset.digest == first.dataset.digest
        if not same_data or not np.array_equal(results.rows, first.rows):
            raise ValueError(
                f"{folder} was evaluated on other images ({results.dataset.name}) than "
                f"{runs[0].run.folder} ({first.dataset.name}); a comparison needs the same"
            )
        found.append(results)
    return found


def _run_row(name: str, run: RunResults, results: EvalResults) -> dict[str, Any]:
    about = summary(run)
    numbers = {key: about[key] for key in ("parameters", "multiply_adds", "seconds")}
    first = {"run": name, "recipe": run.config.recipe, "epochs": run.config.train.epochs}
    return first | numbers | {"metrics": results.metrics}


def _pair(
    runs: Sequence[str], results: Sequence[EvalResults], page: Page, number: int
) -> dict[str, Any]:
    first, second = results[0], results[number]
    names, classes = first.class_names, compare_classes(first, second)
    # The most significant first, then the largest
    order = np.lexsort((-np.abs(classes.value), classes.adjusted))
    order = order[classes.counts[order] > 0]
    kept = ("low", "high", "only_first_wrong", "only_second_wrong")
    arrays: dict[str, Any] = {"images": classes.counts, "difference": classes.value}
    arrays |= {name: getattr(classes, name) for name in kept}
    arrays |= {"holm_p_value": classes.adjusted, "significant": classes.significant}
    columns = {"class": [names[index] for index in order]}
    columns |= {name: values[order].tolist() for name, values in arrays.items()}
    rows = list(zip(*columns.values(), strict=True))
    page.add_table(f"classes-{number}", tuple(columns), rows)
    shown = order[:NUM_SHOWN]
    shown = shown[np.argsort(classes.value[shown], kind="stable")]
    figure = None
    if len(shown) > 1 and classes.value.any():
        labels = [names[index] for index in shown]
        parts = (classes.value[shown], classes.low[shown], classes.high[shown])
        drawn = plots.difference_figure(*parts, labels, classes.significant[shown])
        alt = f"Difference of error of the {len(shown)} classes that differ most, "
        alt += f"{runs[number]} minus {runs[0]}."
        figure = page.add_figure(drawn, f"classes-{number}", alt=alt)
    both_wrong = ~first.correct & ~second.correct
    return {
        "first": runs[0],
        "second": runs[number],
        "overall": paired_difference(first.correct, second.correct),
        "rows": [dict(zip(columns, row, strict=True)) for row in rows],
        "figure": figure,
        "num_shown": len(shown),
        "num_significant": int(classes.significant.sum()),
        "both_wrong": int(both_wrong.sum()),
        "same_prediction": float((first.predicted == second.predicted).mean()),
        "joint_error": float(both_wrong.mean()),
    }


def _differing_settings(runs: Sequence[RunResults]) -> list[tuple[str, list[object]]]:
    """List the settings in which the runs differ, with each run's value."""
    flat = []
    for run in runs:
        sections = summary(run)["settings"].items()
        flat.append({f"{name}.{key}": own[key] for name, own in sections for key in own})
    found = []
    for key in dict.fromkeys(key for values in flat for key in values):
        own = [values.get(key) for values in flat]
        if any(value != own[0] for value in own):
            found.append((key, own))
    return found
