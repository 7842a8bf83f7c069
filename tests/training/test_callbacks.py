"""The progress bar: it fits in 80 columns; without a terminal, lines with the times."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence

import pytest
from rich.console import Console

from tinysight.training.callbacks import ProgressBar

VALUES = {"kind": "train", "epoch": 123.45, "loss": 12.345, "top1_error": 1.0, "images_per_s": 9999}


def test_the_bar_shows_the_remaining_time_at_80_columns() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, legacy_windows=False)
    bar = ProgressBar(console=console)
    bar.on_start(step=0, total=10_000)
    bar.on_step(9_000, VALUES)
    assert bar.progress is not None
    plain = Console(file=io.StringIO(), width=80)
    plain.print(bar.progress.get_renderable())
    bar.on_end()
    (line,) = plain.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert re.search(
        r"90 % .* epoch 123\.45, loss 12\.345, error 100\.0% \d:\d\d:\d\d left (\d|-):", line
    )
    assert re.search(r"left (\d:\d\d:\d\d|-:--:--)$", line.rstrip()) and len(line) <= 80


def test_without_a_terminal_lines_have_elapsed_and_remaining_time() -> None:
    out = io.StringIO()
    bar = ProgressBar(console=Console(file=out, width=80))
    bar.on_start(step=100, total=200)
    bar._started_at -= 60
    for step in (125, 150, 200):  # at most two per minute, and the last
        bar.on_step(step, VALUES)
        bar.on_step(step, None)
    bar.on_step(200, {"kind": "epoch", "epoch": 2, "loss": 1, "top1_error": 0.5, "top5_error": 0.2})
    bar.on_end()
    first, last, epoch = out.getvalue().splitlines()
    assert first.startswith("step 125/200: epoch 123.45, loss 12.345, error 100.0%, 9999 images/s")
    assert first.endswith("1 min 0 s elapsed, 3 min 0 s left")
    assert last.endswith("1 min 0 s elapsed, 0 s left")
    assert epoch.endswith("error 50.00% top-1, 20.00% top-5, loss 1.000")


def test_the_remaining_time_knows_that_later_steps_take_longer() -> None:
    out = io.StringIO()
    bar = ProgressBar(console=Console(file=out, width=80))
    bar.on_start(step=10, total=100, work=lambda step: step + 2.0 * max(0, step - 50))
    bar._started_at -= 60
    bar.on_step(50, VALUES)
    left = "1 min 0 s elapsed, 3 min 45 s left"  # 40 done, 150 left
    assert out.getvalue().rstrip().endswith(left)


def test_steps_of_before_do_not_count_as_the_bars_speed() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, legacy_windows=False)
    bar = ProgressBar(console=console)
    bar.on_start(step=9_000, total=10_000)
    bar.on_step(9_001, VALUES)
    assert bar.progress is not None
    (task,) = bar.progress.tasks
    bar.on_end()
    assert task.completed == 9_001 and sum(each.completed for each in task._progress) <= 1


@pytest.mark.parametrize(
    ("error", "step", "epoch"),
    [
        (
            0.5,
            "loss 12.345, error 50.0%, 9999",
            "epoch 2: monitored error 50.00% top-1, loss 1.000",
        ),
        (math.nan, "loss 12.345, 9999", "epoch 2: surest box right 75.00%"),
    ],
)
def test_errors_that_mean_nothing_are_left_out(error: float, step: str, epoch: str) -> None:
    out = io.StringIO()
    bar = ProgressBar(console=Console(file=out, width=80))
    bar.on_start(step=0, total=1)
    bar.on_step(1, VALUES | {"top1_error": error})
    found = {"loss": math.nan, "loc50": 0.75} if math.isnan(error) else {"loss": 1.0}
    found |= {"top1_error": error, "top5_error": None}  # of five classes, or of one
    bar.on_step(1, {"kind": "epoch", "epoch": 2, **found})
    first, last = out.getvalue().splitlines()
    assert step in first and last == epoch


@pytest.mark.parametrize(
    ("total", "printed"), [(100, range(1, 101)), (103, [*range(10, 101, 10), 103])]
)
def test_of_many_epochs_each_tenth_and_the_last_are_printed(
    total: int, printed: Sequence[int]
) -> None:
    out = io.StringIO()
    bar = ProgressBar(console=Console(file=out, width=80))
    bar.on_start(step=0, total=2 * total)
    values = {"kind": "epoch", "loss": 1.0, "top1_error": 0.5, "top5_error": None}
    for epoch in range(1, total + 1):
        bar.on_step(2 * epoch, {**values, "epoch": epoch})
    shown = [int(line.split()[1][:-1]) for line in out.getvalue().splitlines()]
    assert shown == list(printed)


def test_a_quiet_bar_prints_nothing() -> None:
    bar = ProgressBar(quiet=True)
    bar.console.file = io.StringIO()
    bar.on_start(step=0, total=1)
    bar.on_step(1, VALUES)
    bar.on_end()
    assert bar.console.file.getvalue() == ""
