"""Read pictures from strangers' bytes, in processes that a bomb can kill without harm."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from tinysight.images import JPEG_MARGIN, Fit, read_image, to_rgb, to_square, upright_size
from tinysight.processes import exit_with_parent, without_ctrl_c

MAX_MEMORY = 3 << 30  # bytes of address space; 120 megapixels take a third
MAX_SECONDS = 20.0
THUMBNAIL = 160  # pixels
Result = TypeVar("Result")


class Picture(NamedTuple):
    """A picture as the model takes it, uint8 (size, size, 3), and its own width and height."""

    square: npt.NDArray[np.uint8]
    width: int
    height: int


class Reader:
    """Decode pictures in `num_processes`, each for itself: only the picture at fault fails."""

    def __init__(self, *, num_processes: int = 2) -> None:
        self.free: asyncio.Queue[_Process] = asyncio.Queue()
        self.processes = [_Process() for _ in range(num_processes)]
        for process in self.processes:
            self.free.put_nowait(process)

    async def read(self, data: bytes, size: int, fit: Fit) -> Picture:
        """Return the picture in a file's bytes, for a model of an image size and a fit.

        Raises ValueError when it cannot be read.
        """
        return await self._run(_read, data, size, fit)

    async def thumbnail(self, data: bytes) -> bytes:
        """Return a small JPEG of the picture; ValueError as `read`."""
        return await self._run(_thumbnail, data)

    async def _run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        process = await self.free.get()
        try:
            return await process.run(function, *arguments)
        finally:
            self.free.put_nowait(process)

    def close(self) -> None:
        """Stop the processes."""
        for process in self.processes:
            process.stop()


class _Process:
    """One process that is replaced when it dies, or takes too long."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_limit_memory)
        with without_ctrl_c():
            self.number: Future[int] = self.pool.submit(os.getpid)

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        try:
            work = await self._submit(function, *arguments)
            return await asyncio.wait_for(work, MAX_SECONDS)
        except (TimeoutError, BrokenProcessPool, asyncio.CancelledError) as error:
            self.stop()
            self._start()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise ValueError("this picture takes too much time or memory to decode") from None

    async def _submit(
        self, function: Callable[..., Result], *arguments: Any
    ) -> asyncio.Future[Result]:
        for _ in range(2):
            try:
                # starting takes longer than a picture may
                await asyncio.wrap_future(self.number)
                return asyncio.wrap_future(self.pool.submit(function, *arguments))
            except BrokenProcessPool:  # it died while it had nothing to do
                self.stop()
                self._start()
        raise BrokenProcessPool("a process for pictures cannot be started")

    def stop(self) -> None:
        stop_process(self.pool)


def stop_process(pool: ProcessPoolExecutor) -> None:
    """Kill a pool's processes, whatever they do."""
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(cancel_futures=True)


def start_child() -> None:
    """In a child: leave Ctrl-C to the server, and end with it."""
    exit_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _limit_memory() -> None:
    start_child()
    with suppress(ImportError, ValueError, OSError):  # not everywhere
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))


def _thumbnail(data: bytes) -> bytes:
    small = to_rgb(read_image(data, at_least=JPEG_MARGIN * THUMBNAIL))
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=85)
    return content.getvalue()


def _read(data: bytes, size: int, fit: Fit) -> Picture:
    try:
        width, height = upright_size(data)
        return Picture(
            to_square(read_image(data, at_least=JPEG_MARGIN * size), size, fit), width, height
        )
    except MemoryError:
        raise ValueError("this picture takes too much memory to decode") from None
