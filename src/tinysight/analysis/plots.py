"""The figures about one split: errors by class, confusions, calibration, confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from tinysight.analysis.calibration import Reliability
from tinysight.analysis.per_class import NUM_EXTREME, PerClass
from tinysight.analysis.plot_style import (
    BLUE,
    DASHES,
    INK,
    ORANGE,
    QUIET,
    SERIES,
    new_figure,
    per_cent,
    style,
)
from tinysight.analysis.results import Bools, Floats, Ints

LONGEST_NAME = 22  # letters of a class name on an axis


def short(name: str, length: int = LONGEST_NAME) -> str:
    """Cut a class name that would push a figure aside."""
    printable = "".join(sign if sign.isprintable() else " " for sign in name)
    return printable if len(printable) <= length else printable[: length - 1].rstrip() + "\u2026"


def class_errors_figure(classes: PerClass, names: Sequence[str]) -> Figure:
    """Draw each class's error with its interval, lowest first; all are named up to 30, else the
    extreme ones.
    """
    order = classes.order
    every = len(order) <= 30
    with style():
        figure = new_figure(7.2, 1.2 + 0.24 * len(order) if every else 5.6)
        axes = figure.subplots()
        place = np.arange(len(order))
        error, low, high = (
            100 * values[order] for values in (classes.share, classes.low, classes.high)
        )
        axes.hlines(
            place,
            low,
            high,
            color=BLUE,
            lw=2.2 if every else 1.0,
            alpha=0.45,
            label="95 % interval",
        )
        axes.plot(error, place, "o", color=BLUE, ms=4 if every else 2.4, label="error")
        overall = 100 * classes.errors.sum() / classes.counts.sum()
        axes.axvline(overall, color=ORANGE, ls="--", lw=1.2, label=f"all classes: {overall:.1f} %")
        if every:
            axes.set_yticks(place, [short(names[index]) for index in order])
        else:
            extreme = [*range(NUM_EXTREME), *range(len(order) - NUM_EXTREME, len(order))]
            step = len(order) / 34  # so that names do not run into each other
            heights = [k * step for k in range(NUM_EXTREME)]
            heights += [len(order) - 1 - (NUM_EXTREME - 1 - k) * step for k in range(NUM_EXTREME)]
            axes.set_yticks(heights, [short(names[order[k]]) for k in extreme])
            axes.tick_params(axis="y", length=0)
        axes.set(xlabel="error (%)", ylabel="class", ylim=(-1, len(order)))
        per_cent(axes, x=True, y=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


def confusion_figure(confusions: Ints, chosen: Sequence[int], names: Sequence[str]) -> Figure:
    """Draw the rows and columns `chosen` of the confusions (K, K) as shares of each true class's
    images.
    """
    part = confusions[np.ix_(chosen, chosen)]
    shares = 100 * part / np.maximum(confusions.sum(axis=1)[list(chosen)], 1)[:, None]
    labels = [short(names[index]) for index in chosen]
    side = 2.2 + 0.26 * len(chosen)
    with style():
        figure = new_figure(side + 0.9, side)
        axes = figure.subplots()
        image = axes.pcolormesh(
            shares, cmap="Blues", vmin=0, vmax=max(1.0, float(shares.max())), edgecolors="none"
        )
        axes.grid(visible=False)
        middle = np.arange(len(chosen)) + 0.5
        axes.set_xticks(middle, labels, rotation=90)
        axes.set_yticks(middle, labels)
        axes.set(xlabel="called", ylabel="true class")
        axes.invert_yaxis()
        if len(chosen) <= 26:
            for row, column in zip(*np.nonzero(part), strict=True):
                dark = shares[row, column] > 0.55 * shares.max()
                where = (column + 0.5, row + 0.5)
                axes.annotate(
                    str(part[row, column]),
                    where,
                    ha="center",
                    va="center",
                    size=7,
                    color="#fdfdfd" if dark else "#1a1a1a",
                )
        bar = figure.colorbar(image, ax=axes, shrink=0.6)
        bar.set_label("share of the true class's images (%)")
        bar.outline.set_visible(False)
    return figure


def reliability_figure(parts: Sequence[tuple[str, Reliability]]) -> Figure:
    """Draw accuracy by confidence with intervals, for one or more named runs; the diagonal is
    perfect calibration.
    """
    with style():
        figure = new_figure(5.2, 4.6)
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=QUIET, lw=1, ls=":", label="as sure as right")
        for number, (name, bins) in enumerate(parts):
            some = bins.counts > 0
            x, y = 100 * bins.confidence[some], 100 * bins.accuracy[some]
            spread = np.maximum(0, [y - 100 * bins.low[some], 100 * bins.high[some] - y])
            axes.errorbar(
                x,
                y,
                spread,
                color=SERIES[number],
                ls=DASHES[number % 6],
                marker="o",
                ms=4,
                lw=1.2,
                label=name,
            )
        axes.set(
            xlabel="confidence in the prediction (%)",
            ylabel="right (% of those images)",
            aspect="equal",
        )
        per_cent(axes, x=True)
        axes.legend(loc="upper left")
    return figure


def confidence_figure(confidence: Floats, correct: Bools) -> Figure:
    """Draw how many right and wrong predictions (N,) were made with which confidence."""
    borders = np.linspace(0, 100, 21)
    with style():
        figure = new_figure(6.2, 3.4)
        axes = figure.subplots()
        for wanted, color, hatch, label in (
            (True, BLUE, "", "right"),
            (False, ORANGE, "///", "wrong"),
        ):
            chosen = 100 * confidence[correct == wanted]
            look = {"color": color, "alpha": 0.55, "hatch": hatch, "edgecolor": color}
            axes.hist(chosen, borders, label=f"{label} ({len(chosen):,})", **look)  # type: ignore[arg-type]
        axes.set(xlabel="confidence in the prediction (%)", ylabel="images", xlim=(0, 100))
        axes.legend()
    return figure


def difference_figure(
    difference: Floats, low: Floats, high: Floats, labels: Sequence[str], apart: Bools
) -> Figure:
    """Draw the change of error of some classes in points, with intervals; those beyond noise are
    filled.
    """
    with style():
        figure = new_figure(7.2, 1.2 + 0.26 * len(labels))
        axes = figure.subplots()
        place = np.arange(len(labels))
        axes.axvline(0, color=INK, lw=0.8)
        axes.hlines(place, 100 * low, 100 * high, color=BLUE, lw=2, alpha=0.45)
        axes.plot(
            100 * difference[apart], place[apart], "o", color=BLUE, ms=5, label="beyond noise"
        )
        axes.plot(
            100 * difference[~apart],
            place[~apart],
            "o",
            mfc="none",
            color=BLUE,
            ms=5,
            label="within noise",
        )
        axes.set_yticks(place, [short(label) for label in labels])
        axes.invert_yaxis()
        axes.set(xlabel="difference of error (percentage points)", ylabel="class")
        axes.legend()
    return figure
