"""The course of a training as a picture: error and loss by epoch, learning rate below (as Wu et al. 2017, Fig. 6)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinysight.runs import read_lines

TRAIN, MONITOR, RATE = "#0072b2", "#d55e00", "#555555"  # colours that survive colour blindness


def draw_curves(folder: Path) -> Path:
    """Draw `curves.png` in a run's folder from its log; raise ValueError when nothing has been logged yet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_lines(folder / "log.jsonl")
    train = [line for line in lines if line["kind"] == "train"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    if not train:
        raise ValueError(f"{folder / 'log.jsonl'} holds no line of a training yet; there is nothing to draw")
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    error, loss, rate = figure.subplots(3, 1, sharex=True, height_ratios=(4, 2.4, 1.2))

    error.plot(*_series(train, "top1_error", 100), color=TRAIN, lw=1, label="training images, augmented (top-1)")
    loss.plot(*_series(train, "loss"), color=TRAIN, lw=1, label="training images, as trained")
    if epochs:
        last = {name: f"{100 * epochs[-1][name]:.1f} %" for name in ("top1_error", "top5_error")}
        top1, top5 = f"minival, top-1: {last['top1_error']} at the end", f"minival, top-5: {last['top5_error']}"
        error.plot(*_series(epochs, "top1_error", 100), color=MONITOR, lw=1.8, marker="o", ms=4, label=top1)
        error.plot(*_series(epochs, "top5_error", 100), color=MONITOR, lw=1.2, ls="--", marker="s", ms=3, label=top5)
        loss.plot(*_series(epochs, "loss"), color=MONITOR, lw=1.8, marker="o", ms=4, label="minival")
    evaluation = folder / "evaluation-val.json"
    if evaluation.exists():
        value = 100 * json.loads(evaluation.read_text())["top1_error"]
        end = train[-1]["epoch"]
        error.plot(
            [end],
            [value],
            color="black",
            marker="*",
            ms=11,
            ls="none",
            label=f"val, top-1, once at the end: {value:.2f} %",
        )
    rate.plot(*_series(train, "lr"), color=RATE, lw=1.2)
    error.set(ylabel="error (%)", ylim=(0, 102), title=folder.name)
    highest = max(line["loss"] for line in train)  # an early epoch's monitored loss may be a hundred times that
    loss.set(ylabel="cross-entropy (nats)", ylim=(0, 1.15 * highest))
    rate.set(ylabel="learning rate", xlabel="epoch", ylim=(0, None))
    for axes in (error, loss, rate):
        axes.grid(visible=True, color="#dddddd", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    error.legend(frameon=False, fontsize=9)
    loss.legend(frameon=False, fontsize=9)
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    return path


def _series(lines: list[dict[str, Any]], name: str, scale: float = 1.0) -> tuple[list[float], list[float]]:
    return [line["epoch"] for line in lines], [scale * line[name] for line in lines]
