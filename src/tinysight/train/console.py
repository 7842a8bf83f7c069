"""How a training looks in a terminal: a bar that moves, or a line now and then where nobody
watches.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class _Console(Console):
    """A console without which the training goes on: its reader may end before it, as in `tinysight
    train ... | tee`.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class ProgressBar:
    """A `loop.Reporter` that prints. With `quiet` (every process but the main one) it says nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = _Console(stderr=True, quiet=quiet, highlight=False)
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        self._printed_at = 0.0
        self._total = 0

    def begin(self, *, step: int, total: int) -> None:
        """Show the bar, when there is a terminal to show it in."""
        self._total = total
        if self.console.is_terminal and not self.console.quiet:
            columns = (
                TextColumn("{task.percentage:>3.0f} %"),
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self.progress = Progress(*columns, console=self.console, refresh_per_second=2)
            self.task = self.progress.add_task("first step", total=total, completed=step)
            self.progress.start()

    def stepped(self, step: int, values: dict[str, Any] | None) -> None:
        """Move the bar; say how an epoch ended, and, without a terminal, how the training goes
        twice a minute.
        """
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=step)
        if values is None:
            return
        if values["kind"] == "epoch":
            found = f", boxes found {values['loc50']:.2%}" if "loc50" in values else ""
            self.say(
                f"epoch {values['epoch']:g}: minival error {values['top1_error']:.2%} top-1, "
                f"{values['top5_error']:.2%} top-5, loss {values['loss']:.3f}{found}"
            )
            return
        line = (
            f"epoch {values['epoch']:.2f}, loss {values['loss']:.3f}, error {values['top1_error']:.1%}, "
            f"{values['images_per_s']:.0f} images/s"
        )
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, description=line)
        elif time.monotonic() - self._printed_at > 30 or step == self._total:
            self._printed_at = time.monotonic()
            self.say(f"step {step}/{self._total}: {line}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def end(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
