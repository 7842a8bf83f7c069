"""Two or more runs on the same images, side by side: errors, paired differences, and which classes
differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinysight.analysis import plots
from tinysight.analysis.calibration import reliability
from tinysight.analysis.curves import overlaid_curves
from tinysight.analysis.report import Drawing, Folder, summary
from tinysight.analysis.results import Bools, EvalResults, Floats, Ints, RunResults
from tinysight.analysis.statistics import Difference, holm, paired_difference, sign_test

LEVEL = 0.05  # of the adjusted p-values below which a class differs
NUM_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class ClassDifferences:
    """The second run's error less the first's for each class (K,), on the same images."""

    counts: Ints
    only_first_wrong: Ints
    only_second_wrong: Ints
    value: Floats
    low: Floats
    high: Floats  # 95 % interval, each class by itself
    adjusted: Floats  # Holm's p-values over all classes

    @property
    def apart(self) -> Bools:
        """Which classes differ beyond noise, all taken together."""
        return np.asarray(self.adjusted <= LEVEL)


def compare_classes(first: EvalResults, second: EvalResults) -> ClassDifferences:
    """Compare two runs class by class; classes without images differ by 0 and with certainty by
    nothing.
    """
    num_classes = len(first.class_names)
    found: list[Difference | None] = []
    for label in range(num_classes):
        own = first.labels == label
        found.append(
            paired_difference(first.correct[own], second.correct[own]) if own.any() else None
        )
    none = Difference(
        value=0.0, low=0.0, high=0.0, only_first_wrong=0, only_second_wrong=0, p_value=1.0
    )
    filled = [difference or none for difference in found]
    p_values = np.array(
        [sign_test(item.only_first_wrong, item.only_second_wrong) for item in filled]
    )
    return ClassDifferences(
        counts=np.bincount(first.labels, minlength=num_classes),
        only_first_wrong=np.array([item.only_first_wrong for item in filled]),
        only_second_wrong=np.array([item.only_second_wrong for item in filled]),
        value=np.array([item.value for item in filled]),
        low=np.array([item.low for item in filled]),
        high=np.array([item.high for item in filled]),
        adjusted=holm(p_values),
    )


def write_comparison(runs: Sequence[RunResults], out: Path) -> Path:
    """Write index.html, figures/ and tables/ under `out`; every other run is compared with the
    first.

    Raises:
        ValueError: a run has no scores, or they are of other images than the first's.
    """
    judged = _same_images(runs)
    names = distinct_names(runs)
    folder = Folder(out)
    first = judged[0]
    rows = [_run_row(name, run, item) for name, run, item in zip(names, runs, judged, strict=True)]
    _write_runs_table(folder, rows)
    pairs = [
        _pair(names[0], names[number], first, judged[number], folder, number)
        for number in range(1, len(runs))
    ]
    curves = None
    if any(run.log for run in runs):
        figure = overlaid_curves([(name, run.log) for name, run in zip(names, runs, strict=True)])
        curves = folder.draw(figure, "curves", f"Monitored error by epoch of {', '.join(names)}.")
    bins = [
        (name, reliability(item.confidence, item.correct))
        for name, item in zip(names, judged, strict=True)
    ]
    calibration = folder.draw(
        plots.reliability_figure(bins), "calibration", "Right answers by confidence, each run."
    )
    values: dict[str, Any] = {
        "runs": rows,
        "pairs": pairs,
        "curves": curves,
        "calibration": calibration,
        "split": runs[0].split,
        "data": runs[0].pack.name,
        "num_images": len(first),
        "num_classes": len(first.class_names),
        "settings": _differing_settings(names, runs),
    }
    return folder.page("comparison.html.j2", values)


def distinct_names(runs: Sequence[RunResults]) -> list[str]:
    """Name each run by its folder, with as much of the path above it as tells them apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    doubled = Counter("/".join(part) for part in parts).most_common(1)[0][0]
    raise ValueError(f"{doubled} is given twice; give each run once")


def _same_images(runs: Sequence[RunResults]) -> list[EvalResults]:
    judged = []
    for run in runs:
        if run.judged is None:
            raise ValueError(
                f"{run.folder} has no scores of {run.split}; `tinysight evaluate {run.folder} --split {run.split}` "
                "makes them"
            )
        judged.append(run.judged)
    for run, item in zip(runs[1:], judged[1:], strict=True):
        if item.pack.digest != judged[0].pack.digest or not np.array_equal(
            item.rows, judged[0].rows
        ):
            raise ValueError(
                f"{run.folder} was scored on other images ({item.pack.name}) than {runs[0].folder} "
                f"({judged[0].pack.name}); a comparison needs the same"
            )
    return judged


def _run_row(name: str, run: RunResults, judged: EvalResults) -> dict[str, Any]:
    about = summary(run)
    return {
        "name": name,
        "recipe": run.record.config.recipe,
        "metrics": judged.metrics,
        "parameters": about["parameters"],
        "multiply_adds": about["multiply_adds"],
        "seconds": about["seconds"],
        "epochs": run.record.config.train.epochs,
    }


def _write_runs_table(folder: Folder, rows: Sequence[dict[str, Any]]) -> None:
    figures = (
        "top1_error",
        "top1_low",
        "top1_high",
        "top5_error",
        "top5_low",
        "top5_high",
        "loss",
        "calibration_error",
    )
    others = ("parameters", "multiply_adds", "seconds", "epochs")
    table = [
        (
            row["name"],
            row["recipe"],
            *(getattr(row["metrics"], key) for key in figures),
            *(row[key] for key in others),
        )
        for row in rows
    ]
    folder.table("runs", ("run", "recipe", *figures, *others), table)


def _pair(
    first_name: str,
    second_name: str,
    first: EvalResults,
    second: EvalResults,
    folder: Folder,
    number: int,
) -> dict[str, Any]:
    names = first.class_names
    overall = paired_difference(first.correct, second.correct)
    classes = compare_classes(first, second)
    order = np.lexsort(
        (-np.abs(classes.value), classes.adjusted)
    )  # those beyond noise first, then the largest
    order = order[classes.counts[order] > 0]
    rows = [
        {
            "name": names[index],
            "count": int(classes.counts[index]),
            "value": float(classes.value[index]),
            "low": float(classes.low[index]),
            "high": float(classes.high[index]),
            "only_first": int(classes.only_first_wrong[index]),
            "only_second": int(classes.only_second_wrong[index]),
            "adjusted": float(classes.adjusted[index]),
            "apart": bool(classes.apart[index]),
        }
        for index in order
    ]
    header = (
        "class",
        "images",
        "difference",
        "low",
        "high",
        "only_first_wrong",
        "only_second_wrong",
        "holm_p_value",
    )
    folder.table(
        f"classes-{number}", (*header, "significant"), [tuple(row.values()) for row in rows]
    )
    shown = order[:NUM_SHOWN]
    shown = shown[np.argsort(classes.value[shown], kind="stable")]
    drawn: Drawing | None = None
    if len(shown) > 1 and classes.value.any():
        figure = plots.difference_figure(
            classes.value[shown],
            classes.low[shown],
            classes.high[shown],
            [names[index] for index in shown],
            classes.apart[shown],
        )
        alt = f"Difference of error of the {len(shown)} classes that differ most, {second_name} less {first_name}."
        drawn = folder.draw(figure, f"classes-{number}", alt)
    return {
        "first": first_name,
        "second": second_name,
        "overall": overall,
        "rows": rows,
        "figure": drawn,
        "num_shown": len(shown),
        "num_apart": int(classes.apart.sum()),
        "both_wrong": int((~first.correct & ~second.correct).sum()),
        "same_answer": float((first.predictions == second.predictions).mean()),
        "joint_error": float((~first.correct & ~second.correct).mean()),
    }


def _differing_settings(
    names: Sequence[str], runs: Sequence[RunResults]
) -> list[tuple[str, list[object]]]:
    """List the settings in which the runs are not the same, with each run's value."""
    flat = []
    for run in runs:
        sections = summary(run)["config"]
        flat.append(
            {f"{section}.{key}": value for section, values in sections for key, value in values}
        )
    keys = [key for key in flat[0] if any(values.get(key) != flat[0][key] for values in flat[1:])]
    return [(key, [values.get(key) for values in flat]) for key in keys]
