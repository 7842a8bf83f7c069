"""A process that learns, so that the server goes on answering."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tinysight.processes import without_ctrl_c
from tinysight.server.reading import start_child, stop_process

Result = TypeVar("Result")
MAX_SECONDS = 600.0


class Worker:
    """One process, replaced when it dies or takes too long.

    Args:
        warm: is called in it first, to load what the others need; picklable, as they are.
    """

    def __init__(self, warm: Callable[[], Any]) -> None:
        self.warm = warm
        self.pool: ProcessPoolExecutor | None = None

    def start(self) -> ProcessPoolExecutor:
        """Start the process, if there is none."""
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=start_child)
            with without_ctrl_c():
                self.pool.submit(self.warm)
        return self.pool

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a function returns there; raises what it raises, or ValueError."""
        try:
            work = asyncio.wrap_future(self._submit(function, *arguments))
            return await asyncio.wait_for(work, MAX_SECONDS)
        except (TimeoutError, BrokenProcessPool):
            self.close()
            raise ValueError("this took too much time or memory; try fewer pictures") from None

    def _submit(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        try:
            return self.start().submit(function, *arguments)
        except BrokenProcessPool:  # it died while it had nothing to do
            self.close()
            return self.start().submit(function, *arguments)

    def close(self) -> None:
        """Stop the process; what it has not finished is not kept."""
        if self.pool is not None:
            stop_process(self.pool)
            self.pool = None
