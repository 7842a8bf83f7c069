"""How a layer's activations were distributed as training went on (Wu et al. 2017, section 4.3,
Figs. 9 and 10).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tinysight.analysis.plot_style import BLUE, ORANGE, new_figure, style
from tinysight.analysis.results import Floats

QUANTITIES = ("max", "mean", "std", "min", "sparsity")
_SHADES = (
    0.16,
    0.3,
    0.5,
    0.72,
    0.72,
    0.5,
    0.3,
    0.16,
)  # from the band under the maximum to that above the minimum


def read_distributions(log: list[dict[str, Any]]) -> dict[str, dict[str, Floats]]:
    """Return for each recorded layer its series: step, max, mean, std, min and sparsity (share of
    zeros), each (T,).
    """
    layers: dict[str, list[list[float]]] = {}
    for line in log:
        if line["kind"] == "distribution":
            for name, values in line["layers"].items():
                layers.setdefault(name, []).append(
                    [line["step"], *(values[quantity] for quantity in QUANTITIES)]
                )
    columns = ("step", *QUANTITIES)
    return {
        name: dict(zip(columns, np.array(rows, float).T, strict=True))
        for name, rows in layers.items()
    }


def borders(series: dict[str, Floats]) -> Floats:
    """Return the nine lines of the report's figures, highest first (9, T): max, mu+3s ... mu-3s,
    min.

    The lines of mean and deviation are kept within what there was: no value lies above the maximum.
    """
    inner = [series["mean"] + factor * series["std"] for factor in (3, 2, 1, 0, -1, -2, -3)]
    return np.clip(np.stack([series["max"], *inner, series["min"]]), series["min"], series["max"])


def bands_figure(layer: str, series: dict[str, Floats]) -> Figure:
    """Draw one layer's bands by step, and its deviation and sparsity below."""
    step, lines = series["step"], borders(series)
    with style():
        figure = new_figure(7.2, 5.2)
        bands, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
        for upper, lower, shade in zip(lines[:-1], lines[1:], _SHADES, strict=True):
            bands.fill_between(step, lower, upper, color=BLUE, alpha=shade, lw=0)
        bands.plot(step, series["mean"], color=ORANGE, lw=1.4, label="mean (\u03bc)")
        bands.set(ylabel="activation", title=layer)
        for line, outer, name in (
            (lines[0], None, "max"),
            (lines[1], lines[0], "\u03bc+3\u03c3"),
            (lines[-2], lines[-1], "\u03bc\u22123\u03c3"),
            (lines[-1], None, "min"),
        ):
            if outer is None or abs(line[-1] - outer[-1]) > 0.05 * np.ptp(
                lines
            ):  # else the names would overlap
                bands.annotate(
                    name,
                    (step[-1], line[-1]),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    size=8,
                )
        bands.legend(loc="upper left")
        below.plot(step, series["std"], color=BLUE, label="standard deviation (left)")
        below.set(ylabel="\u03c3", xlabel="step", ylim=(0, None))
        right = below.twinx()
        right.plot(step, 100 * series["sparsity"], color=ORANGE, ls="--", label="zeros (right)")
        right.set(ylabel="zeros (%)", ylim=(0, 100))
        right.grid(visible=False)
        right.spines["right"].set_visible(True)
        handles = [*below.get_lines(), *right.get_lines()]
        below.legend(
            handles,
            [str(handle.get_label()) for handle in handles],
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=2,
        )
    return figure
