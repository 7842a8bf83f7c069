"""Read pictures from strangers' bytes, in processes that a bomb can kill without harm."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tinysight.images import JPEG_MARGIN, Fit, read_image, to_square, upright_size

MAX_MEMORY = 3 << 30  # bytes of address space; 120 megapixels take a third
MAX_SECONDS = 20.0


class Picture(NamedTuple):
    """A picture as the model takes it, uint8 (size, size, 3), and its own width and height."""

    square: npt.NDArray[np.uint8]
    width: int
    height: int


class Reader:
    """Decode pictures in `num_processes`, each for itself: only the picture at fault fails."""

    def __init__(self, size: int, fit: Fit, *, num_processes: int = 2) -> None:
        self.size, self.fit = size, fit
        self.free: asyncio.Queue[_Process] = asyncio.Queue()
        self.processes = [_Process() for _ in range(num_processes)]
        for process in self.processes:
            self.free.put_nowait(process)

    async def read(self, data: bytes) -> Picture:
        """Return the picture in a file's bytes. Raises ValueError when it cannot be read."""
        process = await self.free.get()
        try:
            return await process.run(data, self.size, self.fit)
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
        self.number: Future[int] = self.pool.submit(os.getpid)

    async def run(self, data: bytes, size: int, fit: Fit) -> Picture:
        await asyncio.wrap_future(self.number)  # starting takes longer than a picture may
        work = asyncio.wrap_future(self.pool.submit(_read, data, size, fit))
        try:
            return await asyncio.wait_for(work, MAX_SECONDS)
        except (TimeoutError, BrokenProcessPool, asyncio.CancelledError) as error:
            self.stop()
            self._start()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise ValueError("this picture takes too much time or memory to decode") from None

    def stop(self) -> None:
        with suppress(Exception):
            os.kill(self.number.result(timeout=1), signal.SIGKILL)
        self.pool.shutdown(wait=False, cancel_futures=True)


def _limit_memory() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    with suppress(ImportError, ValueError, OSError):  # not everywhere
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))


def _read(data: bytes, size: int, fit: Fit) -> Picture:
    try:
        width, height = upright_size(data)
        return Picture(
            to_square(read_image(data, at_least=JPEG_MARGIN * size), size, fit), width, height
        )
    except MemoryError:
        raise ValueError("this picture takes too much memory to decode") from None
