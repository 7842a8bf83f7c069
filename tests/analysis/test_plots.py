"""Plots show what the log and the errors hold."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from PIL import Image

from tinysight.analysis import plots
from tinysight.analysis.plots import Curve
from tinysight.config import Config, DataConfig
from tinysight.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = Config(recipe="test", data=DataConfig(name="made"))
    return Run(folder=tmp_path, config=config, data_digest="", machine={})


def log_lines(*, epochs: int, monitored: bool) -> list[dict]:
    lines = [
        {"kind": "train", "epoch": k / 4, "loss": 5.0 / k, "top1_error": 1 / k, "lr": 0.1}
        for k in range(1, 4 * epochs + 1)
    ]
    if monitored:
        lines += [
            {"kind": "epoch", "epoch": e, "loss": 4.0, "top1_error": 0.9 / e, "top5_error": 0.5 / e}
            for e in range(1, epochs + 1)
        ]
    return lines


def write_log(run: Run, **arguments: object) -> None:
    lines = log_lines(**arguments)  # type: ignore[arg-type]
    run.log_path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def colors(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    return {tuple(pixel) for pixel in pixels.tolist()}


def test_curves_show_training_and_monitored_errors(run: Run) -> None:
    training, monitored = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
    write_log(run, epochs=3, monitored=False)
    assert plots.draw_curves(run) == run.folder / "curves.png"
    assert training in colors(run.curves_path) and monitored not in colors(run.curves_path)
    write_log(run, epochs=3, monitored=True)
    plots.draw_curves(run)
    assert {training, monitored} <= colors(run.curves_path)


@pytest.mark.parametrize(
    ("own", "names"),
    [
        ({"top5_error": None}, ["top-1"]),
        ({"top1_error": math.nan, "top5_error": None, "loc50": 0.5}, ["surest box misses"]),
    ],
)
def test_curves_leave_out_errors_that_mean_nothing(own: dict[str, Any], names: list[str]) -> None:
    lines = log_lines(epochs=2, monitored=True)
    figure = plots.curves_figure(
        [line | (own if line["kind"] == "epoch" else {}) for line in lines]
    )
    legend = figure.axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend[1:]] == [f"minival, {name}" for name in names]
    assert figure.axes[1].get_ylabel() == "cross-entropy (nats)"


def test_curves_mark_the_final_error(run: Run) -> None:
    write_log(run, epochs=2, monitored=False)
    before = plots.draw_curves(run).read_bytes()
    run.evaluation_path("val").write_text(json.dumps({"top1_error": 0.5}))
    assert plots.draw_curves(run).read_bytes() != before


def test_curves_leave_out_a_line_cut_short_by_a_kill(run: Run) -> None:
    write_log(run, epochs=2, monitored=True)
    before = plots.draw_curves(run).read_bytes()
    with run.log_path.open("a") as log:
        log.write('{"kind": "train", "st')
    assert plots.draw_curves(run).read_bytes() == before


def test_curves_of_an_empty_log_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="no line of a training yet"):
        plots.draw_curves(run)


def test_the_error_curve_of_a_log_prefers_monitored_errors() -> None:
    monitored = plots.error_curve("a", log_lines(epochs=2, monitored=True))
    assert monitored == Curve("a (minival)", [1, 2], [[0.9, 0.45]])
    plain = plots.error_curve("a", log_lines(epochs=1, monitored=False))
    assert plain is not None and plain.epochs == [0.25, 0.5, 0.75, 1]
    assert plots.error_curve("a", []) is None


def test_overlaid_curves_are_means_with_bands_over_seeds() -> None:
    figure = plots.overlaid_curves(
        [Curve("one", [1, 2], [[0.5, 0.4]]), Curve("two", [1, 2], [[0.4, 0.2], [0.6, 0.3]])]
    )
    one, two = figure.axes[0].get_lines()
    assert one.get_ydata().tolist() == [50, 40] and two.get_ydata().tolist() == [50, 25]
    (band,) = [item for item in figure.axes[0].collections if isinstance(item, PolyCollection)]
    heights = {tuple(point) for point in band.get_paths()[0].vertices.round(6).tolist()}
    assert {(1.0, 40.0), (1.0, 60.0), (2.0, 20.0), (2.0, 30.0)} <= heights
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["one", "two (2 seeds)"]


def test_each_of_many_curves_looks_like_no_other() -> None:
    figure = plots.overlaid_curves([Curve(f"{n}", [1, 2], [[0.5, 0.4]]) for n in range(14)])
    (axes,) = figure.axes
    figure.canvas.draw()
    looks = {(line.get_color(), line.get_marker()) for line in axes.get_lines()}
    dashes = {(line.get_color(), str(line._dash_pattern)) for line in axes.get_lines()}  # type: ignore[attr-defined]
    assert len(looks) == len(dashes) == 14
    legend = axes.get_legend().get_window_extent()
    assert axes.get_window_extent().x1 < legend.x0 and legend.x1 <= figure.bbox.x1


@pytest.mark.parametrize("num_classes", [2, 3, 24])
def test_confusions_are_readable_at_any_number_of_classes(num_classes: int) -> None:
    confusions = np.full((num_classes, num_classes), 3) + np.diag([17] * num_classes)
    names = [f"a class with the name {index}" for index in range(num_classes)]
    figure = plots.confusion_figure(confusions, list(range(num_classes)), names)
    figure.canvas.draw()
    axes = figure.axes[0]
    cell = axes.get_window_extent().width / figure.dpi / num_classes
    assert cell > 0.2, f"a cell is {cell:.2f} inches wide"
    texts = [text.get_text() for text in axes.texts]
    assert len(texts) == num_classes**2 and texts[0].splitlines()[0] == "20"
    shares = axes.collections[0].get_array().reshape(num_classes, num_classes)
    assert shares[0, 0] == pytest.approx(100 * 20 / (20 + 3 * (num_classes - 1)))


def test_bands_of_a_distribution_stay_within_its_extremes() -> None:
    figures = {"max": 5.0, "mean": 1.0, "std": 0.5, "min": 0.0, "sparsity": 0.25}
    log = [{"kind": "distribution", "step": step, "layers": {"a": figures}} for step in (5, 10)]
    (series,) = plots.read_distributions(log).values()
    assert series["step"].tolist() == [5, 10] and series["sparsity"].tolist() == [0.25, 0.25]
    assert plots.borders(series)[:, 0].tolist() == [5, 2.5, 2, 1.5, 1, 0.5, 0, 0, 0]
    assert len(plots.distribution_figure("a", series).axes) == 3
