"""Plots of a study, in the style of the other reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tinysight.analysis.plots import (
    BLUE,
    DASHES,
    MARKERS,
    SERIES,
    new_figure,
    reliability_figure,
    short,
    style,
)
from tinysight.people.breakdowns import Bin, Calibration
from tinysight.people.statistics import Estimate

PEOPLE = "people"
WIDTH = 5.2  # inches: readable on a telephone, too
Series = Mapping[str, Sequence[Estimate]]


@style()
def accuracies_figure(rows: Sequence[tuple[str, Estimate, str]]) -> Figure:
    """Plot accuracies with intervals, first on top; each is a name, an estimate and its kind."""
    figure = new_figure(WIDTH, 1.1 + 0.26 * len(rows))
    axes = figure.subplots()
    kinds = list(dict.fromkeys(kind for _, _, kind in rows))
    for number, kind in enumerate(kinds):
        places = [i for i, row in enumerate(rows) if row[2] == kind]
        _points(axes, places, [rows[i][1] for i in places], number, kind, across=True)
    _name_rows(axes, [name for name, _, _ in rows])
    return figure


@style()
def groups_figure(names: Sequence[str], series: Series) -> Figure:
    """Plot accuracies of people and networks per group of classes, with intervals."""
    step = 0.14 + 0.1 * len(series)
    figure = new_figure(WIDTH, 1.2 + step * len(names))
    axes = figure.subplots()
    for number, (name, values) in enumerate(series.items()):
        places = np.arange(len(names)) + 0.22 * (number - (len(series) - 1) / 2)
        _points(axes, places.tolist(), values, number, name, across=True)
    _name_rows(axes, names)
    return figure


@style()
def bins_figure(names: Sequence[str], series: Series, xlabel: str) -> Figure:
    """Plot accuracies by bin with intervals, one line per series."""
    figure = new_figure(WIDTH, 3.6)
    axes = figure.subplots()
    for number, (name, values) in enumerate(series.items()):
        places = np.arange(len(names)) + 0.06 * (number - (len(series) - 1) / 2)
        _points(axes, places.tolist(), values, number, name)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel=xlabel, ylabel="accuracy (%)", xlim=(-0.5, len(names) - 0.5), ylim=(0, 103))
    if len(series) > 1:
        axes.legend()
    return figure


def bin_series(bins: Sequence[Bin]) -> dict[str, list[Estimate]]:
    """Return the accuracies of people and networks by bin."""
    found = {PEOPLE: [each.people for each in bins]}
    return found | {name: [each.networks[name] for each in bins] for name in bins[0].networks}


@style()
def calibration_figure(calibrations: Mapping[str, Calibration]) -> Figure:
    """Plot the share of people's answers that are the network's, by its confidence."""
    figure = reliability_figure([(name, own.bins) for name, own in calibrations.items()])
    figure.axes[0].set(xlabel="network's confidence (%)", ylabel="people who say the same (%)")
    figure.axes[0].legend(loc="best")
    return figure


@style()
def times_figure(seconds: Sequence[float]) -> Figure:
    """Plot how many answers took how long, the longest hundredth left out."""
    figure = new_figure(WIDTH, 3.0)
    axes = figure.subplots()
    limit = float(np.percentile(seconds, 99))
    axes.hist([value for value in seconds if value <= limit], 30, color=BLUE, alpha=0.6)
    axes.set(xlabel="seconds per answer", ylabel="answers", xlim=(0, None))
    return figure


def _points(
    axes: Axes, places: Sequence[float], values: Sequence[Estimate], number: int, label: str,
    *, across: bool = False,
) -> None:  # fmt: skip
    """Draw estimates as points with intervals: across along the horizontal axis, else in a line."""
    middle, low, high = (
        100 * np.array([getattr(v, n) for v in values]) for n in ("value", "low", "high")
    )
    spread = np.maximum(0, [middle - low, high - middle])
    look: dict[str, Any] = {"color": SERIES[number % 6], "marker": MARKERS[number % 6], "ms": 5}
    look |= {"label": label, "elinewidth": 1.4}
    if across:
        axes.errorbar(middle, places, xerr=spread, ls="none", **look)
    else:
        axes.errorbar(places, middle, yerr=spread, ls=DASHES[number % 6], capsize=2, **look)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [short(name, 30) for name in names])
    low = 10 * math.floor(axes.dataLim.x0 / 10)
    axes.set(xlabel="accuracy (%)", ylim=(len(names) - 0.4, -0.6), xlim=(max(low, 0) - 1, 101))
    handles, labels = axes.get_legend_handles_labels()
    columns = 3 if sum(len(label) + 6 for label in labels) < 60 else 1
    axes.figure.legend(handles, labels, loc="outside upper left", ncols=columns)
