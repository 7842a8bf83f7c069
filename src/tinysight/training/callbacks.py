"""Callbacks of the training loop: none, or a progress bar."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from rich import progress
from rich.console import Console

from tinysight.progress import can_animate
from tinysight.run import duration


class Callback:
    """What the training loop calls, doing nothing; `values` are those of a line of the log."""

    def on_start(self, *, step: int, total: int, work: Callable[[int], float] = float) -> None:
        """Called before the first step; `work` is the relative cost of the steps before one."""

    def on_step(self, step: int, values: dict[str, Any] | None) -> None:
        """Called after each step and each epoch."""

    def on_end(self) -> None:
        """Called at the end, however the training ends."""


class _Console(Console):
    """A console that goes quiet when its reader has ended, as in `tinysight train ... | tee`."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class ProgressBar(Callback):
    """A bar on the error stream, or a line twice a minute where no bar can move.

    With `quiet` (every process but the main one) it prints nothing.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or _Console(stderr=True, quiet=quiet, highlight=False)
        self.progress: progress.Progress | None = None
        self.task = progress.TaskID(0)
        self._start_step = self._total = 0
        self._work: Callable[[int], float] = float
        self._started_at = self._printed_at = 0.0

    def on_start(self, *, step: int, total: int, work: Callable[[int], float] = float) -> None:
        """Show the bar, where it can move."""
        self._start_step, self._total, self._work = step, total, work
        self._started_at, self._printed_at = time.monotonic(), 0.0
        if can_animate(self.console) and not self.console.quiet:
            columns = (  # 80 columns wide with the longest description
                progress.TextColumn("{task.percentage:>3.0f} %"),
                progress.BarColumn(bar_width=10),
                progress.TextColumn("{task.description}"),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
            )
            self.progress = progress.Progress(*columns, console=self.console, refresh_per_second=2)
            self.task = self.progress.add_task(
                "first step", total=work(total), completed=int(work(step))
            )
            self.progress.start()

    def on_step(self, step: int, values: dict[str, Any] | None) -> None:
        """Move the bar; print how an epoch ended and, without a bar, how the training goes.

        Of more than a hundred epochs, each tenth and the last are printed.
        """
        if self.progress is not None:
            self.progress.update(self.task, completed=self._work(step))
        if values is None:
            return
        if values["kind"] == "epoch":
            many = values["epoch"] * self._total > 100 * step
            if many and values["epoch"] % 10 and step < self._total:
                return
            found = [f"surest box right {values['loc50']:.2%}"] if "loc50" in values else []
            if not math.isnan(values["loss"]):  # NaN: no image is labeled, or there is one class
                errors = f"{values['top1_error']:.2%} top-1"
                if values["top5_error"] is not None:
                    errors += f", {values['top5_error']:.2%} top-5"
                found = [f"monitored error {errors}, loss {values['loss']:.3f}", *found]
            self._print(f"epoch {values['epoch']:g}: {', '.join(found)}")
            return
        line = f"epoch {values['epoch']:.2f}, loss {values['loss']:.3f}"
        if not math.isnan(values["top1_error"]):
            line += f", error {values['top1_error']:.1%}"
        if self.progress is not None:
            self.progress.update(self.task, description=line)
        elif time.monotonic() - self._printed_at > 30 or step == self._total:
            self._printed_at = time.monotonic()
            speed = f"{values['images_per_s']:.0f} images/s"
            elapsed = time.monotonic() - self._started_at
            done = self._work(step) - self._work(self._start_step)
            left = elapsed * (self._work(self._total) - self._work(step)) / (done or math.inf)
            times = f"{duration(elapsed)} elapsed, {duration(left)} left"
            self._print(f"step {step}/{self._total}: {line}, {speed}, {times}")

    def on_end(self) -> None:
        """Remove the bar."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)
