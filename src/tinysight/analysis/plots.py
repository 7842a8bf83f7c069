"""Plots of one style: training curves, errors per class, confusions, calibration, activations.

Colors are those of Okabe and Ito, which color-blind readers can tell apart; lines also differ in
dashes or markers, so that a print in gray can be read.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tinysight.analysis.errors import NUM_EXTREME, PerClass, Reliability
from tinysight.analysis.statistics import Bools, Floats, Ints
from tinysight.run import Run

BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SKY, AMBER = "#56b4e9", "#e69f00"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
MARKERS = "os^Dv*"
INK, QUIET, GRID, PAPER = "#222222", "#5f5f5f", "#dcdcdc", "#ffffff"
MAX_NAME = 22  # letters of a class name on an axis

_STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # a class may be named "$"
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), QUIET),
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor"), PAPER),
    **dict.fromkeys(("axes.axisbelow", "axes.grid"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.linewidth": 0.8,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.fontsize": 9,
    "grid.color": GRID,
    "svg.fonttype": "none",  # text stays text, which can be searched and read aloud
    "svg.hashsalt": "tinysight",  # the same figure is the same file
}


@contextmanager
def style() -> Iterator[None]:
    """Provide the context (also a decorator) in which every figure is created and written."""
    with rc_context(_STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        # A class may be named in a script that DejaVu lacks; the page's own font has it
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        yield


def new_figure(width: float = 7.2, height: float = 4.0) -> Figure:
    """Create an empty figure, in inches, laid out so that nothing is cut off."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def short(name: str, length: int = MAX_NAME) -> str:
    """Shorten a class name for an axis; characters that cannot be drawn become spaces."""
    printable = "".join(sign if sign.isprintable() else " " for sign in name)
    return printable if len(printable) <= length else printable[: length - 1].rstrip() + "\u2026"


Lines = list[dict[str, Any]]


def draw_curves(run: Run) -> Path:
    """Draw curves.png in a run's folder from its log; raise ValueError where the log is empty."""
    lines = run.log()
    if not any(line["kind"] == "train" for line in lines):
        raise ValueError(f"{run.log_path} has no line of a training yet; there is nothing to draw")
    evaluation = run.evaluation_path("val")
    error = json.loads(evaluation.read_bytes()).get("top1_error") if evaluation.exists() else None
    with style():
        figure = curves_figure(lines, final_error=error, title=run.name)
        figure.savefig(run.curves_path, dpi=110)
    return run.curves_path


@style()
def curves_figure(
    lines: Lines, *, final_error: float | None = None, split: str = "val", title: str = ""
) -> Figure:
    """Plot errors, loss and learning rate of a log (Wu et al. 2017, Fig. 6).

    `final_error` of `split`, 0..1, is a star.
    """
    train, epochs = _of(lines, "train"), _of(lines, "epoch")
    figure = new_figure(8, 6.4)
    error, loss, rate = figure.subplots(3, 1, sharex=True, height_ratios=(4, 2.4, 1.2))
    plain: dict[str, Any] = {"color": BLUE, "lw": 1, "label": "training images, augmented"}
    error.plot(*_series(train, "top1_error", 100), **plain)
    loss.plot(*_series(train, "loss"), **plain)
    boxes_too = "box_loss" in train[-1]
    drawn: list[tuple[str, list[float], dict[str, Any]]] = []
    if epochs and not math.isnan(epochs[-1]["top1_error"]):  # NaN: no image is labeled
        top1: dict[str, Any] = {"color": ORANGE, "lw": 1.8, "marker": "o", "ms": 4}
        top5: dict[str, Any] = {"color": ORANGE, "lw": 1.2, "ls": "--", "marker": "s", "ms": 3}
        loss.plot(
            *_series(epochs, "loss"), **top1, label="minival, classes" if boxes_too else "minival"
        )
        drawn.append(("top-1", _series(epochs, "top1_error", 100)[1], top1))
        if epochs[-1]["top5_error"] is not None:
            drawn.append(("top-5", _series(epochs, "top5_error", 100)[1], top5))
    if epochs and "loc50" in epochs[-1]:
        missed: dict[str, Any] = {"color": GREEN, "lw": 1.8, "marker": "^", "ms": 4}
        values = [100 - found for found in _series(epochs, "loc50", 100)[1]]
        drawn.append(("surest box misses", values, missed))
    labeled: list[float] = []
    for name, values, look in drawn:
        error.plot([line["epoch"] for line in epochs], values, **look, label=f"minival, {name}")
        if all(abs(values[-1] - other) >= 8 for other in labeled):  # else labels overlap
            labeled.append(values[-1])
            where: dict[str, Any] = {"xytext": (0, 7), "textcoords": "offset points"}
            place, color = (epochs[-1]["epoch"], values[-1]), look["color"]
            error.annotate(f"{values[-1]:.1f} %", place, **where, ha="right", color=color)
    if final_error is not None:
        label = f"{split}, top-1, at the end: {100 * final_error:.1f} %"
        star: dict[str, Any] = {"color": INK, "marker": "*", "ms": 11, "ls": "none"}
        error.plot([train[-1]["epoch"]], [100 * final_error], **star, label=label)
    rate.plot(*_series(train, "lr"), color=QUIET, lw=1.2)
    error.set(ylabel="error (%)", ylim=(0, 102), title=title)
    # The monitored loss of an early epoch can be a hundred times higher
    what = "loss, box included" if boxes_too else "cross-entropy (nats)"
    loss.set(ylabel=what, ylim=(0, 1.15 * max(line["loss"] for line in train)))
    rate.set(ylabel="learning rate", xlabel="epoch", ylim=(0, None))
    error.legend()
    loss.legend()
    return figure


@dataclass(frozen=True)
class Curve:
    """Errors (S, T), 0..1, of S seeds at T epochs."""

    name: str
    epochs: Sequence[float]
    errors: Sequence[Sequence[float]]


def error_curve(name: str, lines: Lines) -> Curve | None:
    """Return the monitored top-1 error of a log, else the training error; None for an empty log."""
    for kind, what in (("epoch", "minival"), ("train", "training images")):
        if found := _of(lines, kind):
            epochs, errors = _series(found, "top1_error")
            return Curve(f"{name} ({what})", epochs, [errors])
    return None


@style()
def overlaid_curves(
    curves: Sequence[Curve], *, ylabel: str = "top-1 error (%)", title: str = "", counts: str = ""
) -> Figure:
    """Plot the mean of each curve's seeds, with a band from the lowest to the highest.

    With `counts`, a label, the horizontal axis has numbers of images, logarithmic, for epochs.
    """
    is_many = len(curves) > len(SERIES) + 1
    figure = new_figure(10.5 if is_many else 8, 4.6)
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        errors = 100 * np.asarray(curve.errors)
        seeds = f" ({len(errors)} seeds)" if len(errors) > 1 else ""
        look = _look(number) | ({} if len(curve.epochs) <= 20 else {"marker": ""})
        axes.plot(curve.epochs, errors.mean(axis=0), **look, label=curve.name + seeds)
        if len(errors) > 1:
            low, high = errors.min(axis=0), errors.max(axis=0)
            axes.fill_between(curve.epochs, low, high, color=look["color"], alpha=0.18, lw=0)
    axes.set(xlabel=counts or "epoch", ylabel=ylabel, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if counts:
        shown = sorted({number for curve in curves for number in curve.epochs})
        axes.set_xscale("log")
        axes.set_xticks(shown, [f"{number:g}" for number in shown])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
    aside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    axes.legend(handlelength=3.2, **(aside if is_many else {}))
    return figure


def _look(number: int) -> dict[str, Any]:
    """Return a line's color, dashes and marker; a color that comes again has other ones."""
    count = len(SERIES)
    color, turn = number % count, number // count
    dashes, marker = DASHES[(color + turn) % count], MARKERS[(color + 2 * turn) % count]
    return {"ms": 4, "color": SERIES[color], "ls": dashes, "marker": marker}


def _of(lines: Lines, kind: str) -> Lines:
    return [line for line in lines if line["kind"] == kind]


def _series(lines: Lines, name: str, scale: float = 1.0) -> tuple[list[float], list[float]]:
    return [line["epoch"] for line in lines], [scale * line[name] for line in lines]


@style()
def class_errors_figure(classes: PerClass, names: Sequence[str]) -> Figure:
    """Plot each class's error with its interval; above 30 classes only the extreme are named."""
    order = classes.order
    all_named = len(order) <= 30
    figure = new_figure(7.2, 1.2 + 0.24 * len(order) if all_named else 5.6)
    axes = figure.subplots()
    place = np.arange(len(order))
    error, low, high = (100 * part[order] for part in (classes.error, classes.low, classes.high))
    width = 2.2 if all_named else 1.0
    axes.hlines(place, low, high, color=BLUE, lw=width, alpha=0.45, label="95 % interval")
    axes.plot(error, place, "o", color=BLUE, ms=4 if all_named else 2.4, label="error")
    overall = 100 * classes.errors.sum() / classes.counts.sum()
    axes.axvline(overall, color=ORANGE, ls="--", lw=1.2, label=f"all classes: {overall:.1f} %")
    if all_named:
        axes.set_yticks(place, [short(names[index]) for index in order])
    else:
        step = len(order) / 34  # keeps the names apart
        heights = [k * step for k in range(NUM_EXTREME)]
        extreme = [*order[:NUM_EXTREME], *order[: -NUM_EXTREME - 1 : -1]]
        labels = [short(names[index]) for index in extreme]
        axes.set_yticks([*heights, *(len(order) - 1 - height for height in heights)], labels)
        axes.tick_params(axis="y", length=0)
    axes.set(xlabel="error (%)", ylabel="class", ylim=(-1, len(order)), xlim=(0, 100))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


@style()
def confusion_figure(confusions: Ints, chosen: Sequence[int], names: Sequence[str]) -> Figure:
    """Plot rows and columns `chosen` of confusions (K, K) as shares of each true class's images."""
    part = confusions[np.ix_(chosen, chosen)]
    shares = 100 * part / np.maximum(confusions.sum(axis=1)[list(chosen)], 1)[:, None]
    labels = [short(names[index]) for index in chosen]
    few = len(chosen) <= 8  # then cells have room for the share, and need no color bar
    room = 0.6 + 0.08 * max(map(len, labels))
    side = room + (0.26 * len(chosen) if len(chosen) > 12 else max(0.45 * len(chosen), 1.8))
    figure = new_figure(side if few else side + 0.9, side)
    axes = figure.subplots()
    top = max(1.0, float(shares.max()))
    image = axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=top, edgecolors="none")
    axes.grid(visible=False)
    middle = np.arange(len(chosen)) + 0.5
    axes.set_xticks(middle, labels, rotation=90)
    axes.set_yticks(middle, labels)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.invert_yaxis()
    for row, column in zip(*np.nonzero(part), strict=True):
        text = f"{part[row, column]}" + (f"\n{shares[row, column]:.0f} %" if few else "")
        dark = shares[row, column] > 0.55 * top
        look: dict[str, Any] = {"size": 8 if few else 7, "color": "#fdfdfd" if dark else "#1a1a1a"}
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", **look)
    if not few:
        bar = figure.colorbar(image, ax=axes, shrink=0.6)
        bar.set_label("share of the true class's images (%)")
        bar.outline.set_visible(False)
    return figure


@style()
def reliability_figure(parts: Sequence[tuple[str, Reliability]]) -> Figure:
    """Plot accuracy by confidence of named models; the diagonal is perfect calibration."""
    figure = new_figure(5.2, 4.6)
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=QUIET, lw=1, ls=":", label="perfect calibration")
    for number, (name, bins) in enumerate(parts):
        some = bins.counts > 0
        x, y = 100 * bins.confidence[some], 100 * bins.accuracy[some]
        spread = np.maximum(0, [y - 100 * bins.low[some], 100 * bins.high[some] - y])
        axes.errorbar(x, y, spread, **_look(number), lw=1.2, label=name)
    axes.set(xlabel="confidence (%)", ylabel="accuracy (%)", xlim=(0, 100), ylim=(0, 100))
    axes.set_aspect("equal")
    axes.legend(loc="upper left")
    return figure


@style()
def confidence_figure(confidence: Floats, correct: Bools) -> Figure:
    """Plot how many right and wrong predictions (N,) have which confidence."""
    figure = new_figure(6.2, 3.4)
    axes = figure.subplots()
    looks: dict[str, dict[str, Any]] = {
        "right": {"facecolor": BLUE, "alpha": 0.55},
        "wrong": {"facecolor": "none", "edgecolor": ORANGE, "hatch": "////"},
    }
    for (name, look), chosen in zip(looks.items(), (correct, ~correct), strict=True):
        label = f"{name} ({int(chosen.sum()):,})"
        axes.hist(100 * confidence[chosen], range(0, 101, 5), label=label, **look)
    axes.set(xlabel="confidence (%)", ylabel="images", xlim=(0, 100))
    axes.legend()
    return figure


@style()
def difference_figure(
    value: Floats, low: Floats, high: Floats, labels: Sequence[str], significant: Bools
) -> Figure:
    """Plot differences of error per class, -1..1, with intervals; significant ones are filled."""
    figure = new_figure(7.2, 1.2 + 0.26 * len(labels))
    axes = figure.subplots()
    place = np.arange(len(labels))
    axes.axvline(0, color=INK, lw=0.8)
    axes.hlines(place, 100 * low, 100 * high, color=BLUE, lw=2, alpha=0.45)
    for chosen, fill, name in ((significant, BLUE, ""), (~significant, "none", "not ")):
        look: dict[str, Any] = {"color": BLUE, "mfc": fill, "ms": 5, "label": f"{name}significant"}
        axes.plot(100 * value[chosen], place[chosen], "o", **look)
    axes.set_yticks(place, [short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set(xlabel="difference of error (percentage points)", ylabel="class")
    axes.legend()
    return figure


# Activations of a layer during training (Wu et al. 2017, section 4.3, Figs. 9 and 10)

QUANTITIES = ("max", "mean", "std", "min", "sparsity")
_ALPHAS = (0.16, 0.3, 0.5, 0.72)  # of the bands from the maximum to the mean


def read_distributions(log: Lines) -> dict[str, dict[str, Floats]]:
    """Return the recorded series of each layer: step, max, mean, std, min, sparsity, each (T,)."""
    layers: dict[str, list[list[float]]] = {}
    for line in _of(log, "distribution"):
        for name, values in line["layers"].items():
            row = [line["step"], *(values[quantity] for quantity in QUANTITIES)]
            layers.setdefault(name, []).append(row)
    series = {name: np.array(rows, float).T for name, rows in layers.items()}
    return {n: dict(zip(("step", *QUANTITIES), own, strict=True)) for n, own in series.items()}


def borders(series: dict[str, Floats]) -> Floats:
    """Return nine lines (9, T): max, mean + 3 std ... mean - 3 std, min, within max and min."""
    inner = [series["mean"] + factor * series["std"] for factor in (3, 2, 1, 0, -1, -2, -3)]
    return np.clip(np.stack([series["max"], *inner, series["min"]]), series["min"], series["max"])


@style()
def distribution_figure(layer: str, series: dict[str, Floats]) -> Figure:
    """Plot a layer's bands by step, and below its deviation and share of zeros."""
    step, lines = series["step"], borders(series)
    figure = new_figure(7.2, 5.2)
    bands, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
    for upper, lower, alpha in zip(lines[:-1], lines[1:], _ALPHAS + _ALPHAS[::-1], strict=True):
        bands.fill_between(step, lower, upper, color=BLUE, alpha=alpha, lw=0)
    bands.plot(step, series["mean"], color=ORANGE, lw=1.4, label="mean (\u03bc)")
    bands.set(ylabel="activation", title=layer)
    _name_borders(bands, float(step[-1]), lines)
    bands.legend(loc="upper left")
    below.plot(step, series["std"], color=BLUE, label="standard deviation (left)")
    below.set(ylabel="\u03c3", xlabel="step", ylim=(0, None))
    right = below.twinx()
    right.plot(step, 100 * series["sparsity"], color=ORANGE, ls="--", label="zeros (right)")
    right.set(ylabel="zeros (%)", ylim=(0, 100))
    right.grid(visible=False)
    right.spines["right"].set_visible(True)
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2}
    below.legend(handles=[*below.get_lines(), *right.get_lines()], **place)
    return figure


def _name_borders(axes: Axes, x: float, lines: Floats) -> None:
    last, apart = lines[:, -1], 0.05 * np.ptp(lines)
    names = {"max": last[0], "min": last[-1]}
    names |= {"\u03bc+3\u03c3": last[1]} if last[0] - last[1] > apart else {}
    names |= {"\u03bc\u22123\u03c3": last[-2]} if last[-2] - last[-1] > apart else {}
    for name, y in names.items():
        axes.annotate(name, (x, y), (4, 0), textcoords="offset points", va="center", size=8)
