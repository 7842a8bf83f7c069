"""Progress bars on the error stream: in a terminal, or in a notebook that can show them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Count(Protocol):
    """Shows how much is done, and of what, where that changes."""

    def __call__(self, done: int, total: int, what: str = "") -> None: ...


def can_animate(console: Console) -> bool:
    """Whether a bar can move there; a notebook needs ipywidgets for that."""
    return console.is_terminal and (not console.is_jupyter or find_spec("ipywidgets") is not None)


@contextmanager
def counting(what: str) -> Iterator[Count]:
    """Show a bar for work that reports `(done, total)`; nothing where no bar can move."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = not can_animate(console)
    with Progress(
        *columns, console=console, refresh_per_second=4, transient=True, disable=hidden
    ) as bar:
        task = bar.add_task(what, total=None)

        def count(done: int, total: int, what: str = what) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield count
