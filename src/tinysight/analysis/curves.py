"""The course of a training as a picture: error and loss by epoch, learning rate below (as Wu et al.
2017, Fig. 6).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinysight.run import read_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lines = list[dict[str, Any]]


def draw_curves(folder: Path) -> Path:
    """Draw `curves.png` in a run's folder from its log; raise ValueError when nothing has been
    logged yet.
    """
    from tinysight.analysis.plot_style import style

    lines = read_lines(folder / "log.jsonl")
    if not any(line["kind"] == "train" for line in lines):
        raise ValueError(
            f"{folder / 'log.jsonl'} holds no line of a training yet; there is nothing to draw"
        )
    evaluation = folder / "evaluation-val.json"
    final_error = json.loads(evaluation.read_text())["top1_error"] if evaluation.exists() else None
    path = folder / "curves.png"
    with style():
        curves_figure(lines, final_error=final_error, title=folder.name).savefig(path, dpi=110)
    return path


def curves_figure(
    lines: Lines, *, final_error: float | None = None, split: str = "val", title: str = ""
) -> Figure:
    """Draw errors, loss and learning rate from the lines of a log; `final_error` of `split`, 0..1,
    is a star.
    """
    from tinysight.analysis.plot_style import BLUE, INK, ORANGE, QUIET, new_figure, style

    train, epochs = _of(lines, "train"), _of(lines, "epoch")
    with style():
        figure = new_figure(8, 6.4)
        error, loss, rate = figure.subplots(3, 1, sharex=True, height_ratios=(4, 2.4, 1.2))
        error.plot(
            *_series(train, "top1_error", 100),
            color=BLUE,
            lw=1,
            label="training images, augmented (top-1)",
        )
        loss.plot(*_series(train, "loss"), color=BLUE, lw=1, label="training images, as trained")
        if epochs:
            whole = {"color": ORANGE, "lw": 1.8, "marker": "o", "ms": 4}
            error.plot(*_series(epochs, "top1_error", 100), **whole, label="minival, top-1")
            top5 = {"color": ORANGE, "lw": 1.2, "ls": "--", "marker": "s", "ms": 3}
            error.plot(*_series(epochs, "top5_error", 100), **top5, label="minival, top-5")
            loss.plot(*_series(epochs, "loss"), **whole, label="minival")
            for name in ("top1_error", "top5_error"):
                place = (epochs[-1]["epoch"], 100 * epochs[-1][name])
                text = f"{place[1]:.1f} %"
                error.annotate(
                    text, place, (0, 7), textcoords="offset points", ha="right", color=ORANGE
                )
        if final_error is not None:
            label = f"{split}, top-1, at the end: {100 * final_error:.1f} %"
            end = {"color": INK, "marker": "*", "ms": 11, "ls": "none"}
            error.plot([train[-1]["epoch"]], [100 * final_error], **end, label=label)
        rate.plot(*_series(train, "lr"), color=QUIET, lw=1.2)
        error.set(ylabel="error (%)", ylim=(0, 102), title=title)
        highest = max(
            line["loss"] for line in train
        )  # an early epoch's monitored loss may be a hundred times that
        loss.set(ylabel="cross-entropy (nats)", ylim=(0, 1.15 * highest))
        rate.set(ylabel="learning rate", xlabel="epoch", ylim=(0, None))
        error.legend()
        loss.legend()
    return figure


def overlaid_curves(logs: Sequence[tuple[str, Lines]]) -> Figure:
    """Draw the monitored top-1 error by epoch of several runs (name, log) over each other, as Wu et
    al. 2017, Fig. 6.

    A run that monitors nothing shows its training error, thinner, and its legend says so.
    """
    from tinysight.analysis.plot_style import DASHES, SERIES, new_figure, style

    with style():
        figure = new_figure(8, 4.4)
        axes = figure.subplots()
        for number, (name, lines) in enumerate(logs):
            look: dict[str, Any] = {
                "color": SERIES[number % len(SERIES)],
                "ls": DASHES[number % len(DASHES)],
            }
            epochs, train = _of(lines, "epoch"), _of(lines, "train")
            if epochs:
                axes.plot(
                    *_series(epochs, "top1_error", 100),
                    **look,
                    marker="o",
                    ms=3.5,
                    label=f"{name} (minival)",
                )
            elif train:
                axes.plot(
                    *_series(train, "top1_error", 100),
                    **look,
                    lw=0.9,
                    label=f"{name} (training images)",
                )
        axes.set(xlabel="epoch", ylabel="top-1 error (%)", ylim=(0, 102))
        axes.legend()
    return figure


def _of(lines: Lines, kind: str) -> Lines:
    return [line for line in lines if line["kind"] == kind]


def _series(lines: Lines, name: str, scale: float = 1.0) -> tuple[list[float], list[float]]:
    return [line["epoch"] for line in lines], [scale * line[name] for line in lines]
