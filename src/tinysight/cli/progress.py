"""Bars and lines on the error stream while a command works."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """Print a line to the error stream."""
    print(line, file=sys.stderr)


class Count(Protocol):
    """Tells how much of a work is done; `what` it is, when that changes."""

    def __call__(self, done: int, total: int, what: str = "") -> None: ...


@contextmanager
def counting(what: str) -> Iterator[Count]:
    """Show a bar on a terminal for work of which (done, total) is told."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = _console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal
    with Progress(
        *columns, console=console, refresh_per_second=4, transient=True, disable=hidden
    ) as bar:
        task = bar.add_task(what, total=None)

        def count(done: int, total: int, what: str = what) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield count
