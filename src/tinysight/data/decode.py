"""Decode the rows of a source into one file, in worker processes that never outlive the parent."""

from __future__ import annotations

import gc
import hashlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import Decode, Progress
from tinysight.files import write_at
from tinysight.processes import exit_with_parent

logger = logging.getLogger("tinysight")
Message = tuple[int, str]  # row, and why it failed or what is odd about it
Chunk = tuple[int, int]  # rows start to stop
Result = tuple[Chunk, bytes, list[Message], list[Message]]  # rows, digests, failures, warnings

CHUNK_ROWS = 256  # rows per task of a worker
# Bytes per write: they stay in the cache, and malloc neither maps nor trims (9 % of the time)
WRITE_BYTES = 1 << 19


def decode_rows(
    decode: Decode,
    num_rows: int,
    image_size: int,
    path: Path,
    offset: int,
    *,
    workers: int | None = None,
    max_failures: int | None = None,
    progress: Progress | None = None,
) -> tuple[npt.NDArray[np.uint8], list[Message], list[Message]]:
    """Write the images of all rows into a file from byte `offset`.

    Return their SHA-256s (N, 32), failures, and what `decode` logged. A row for which it raises
    ValueError is written as zeros and is a failure; after `max_failures` of them the remaining rows
    are skipped. Any other exception of `decode` is raised here; a dead worker is a
    ChildProcessError. The data is not yet durable.
    """
    num_workers = min(workers or usable_cores(), -(-num_rows // max(1, CHUNK_ROWS // 8)))
    # Small enough that a few hundred photographs keep all cores busy
    size = max(1, min(CHUNK_ROWS, -(-num_rows // (8 * max(1, num_workers)))))
    chunks = [(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
    job = _Job(decode, path, offset, image_size)
    digests = np.zeros((num_rows, 32), np.uint8)
    failures: list[Message] = []
    logged: list[Message] = []
    done = 0
    with _results(job, chunks, num_workers) as results:
        for (start, stop), chunk_digests, chunk_failures, chunk_logged in results:
            digests[start:stop] = np.frombuffer(chunk_digests, np.uint8).reshape(-1, 32)
            failures += chunk_failures
            logged += chunk_logged
            done += stop - start
            if progress is not None:
                progress(done, num_rows)
            if max_failures is not None and len(failures) >= max_failures:
                break
    return digests, sorted(failures), sorted(logged)


def usable_cores() -> int:
    """Count the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _Job:
    decode: Decode
    path: Path
    offset: int
    image_size: int

    def open(self) -> int:
        return os.open(self.path, os.O_WRONLY | getattr(os, "O_BINARY", 0))

    def run(self, descriptor: int, chunk: Chunk, stop: Any) -> Result:
        """Decode and write the rows of a chunk, or fewer once `stop.value` is set."""
        shape = (self.image_size, self.image_size, 3)
        row_bytes = self.image_size * self.image_size * 3
        pending: list[memoryview] = []
        digests, failures, logged = [], [], []
        for row in range(*chunk):
            if stop.value:
                break
            try:
                with _held_back() as messages:
                    image = self.decode(row)
                logged += [(row, message) for message in messages]
            except ValueError as error:
                failures.append((row, str(error)))
                image = np.zeros(shape, np.uint8)
            if image.shape != shape or image.dtype != np.uint8:
                made = f"{image.dtype} {image.shape}"
                raise TypeError(f"decode({row}) returned {made}, expected uint8 {shape}")
            pixels = np.ascontiguousarray(image).data.cast("B")
            pending.append(pixels)
            digests.append(hashlib.sha256(pixels).digest())
            if len(pending) * row_bytes >= WRITE_BYTES or row + 1 == chunk[1]:
                write_at(descriptor, pending, self.offset + (row + 1 - len(pending)) * row_bytes)
                pending = []
        return chunk, b"".join(digests), failures, logged


@contextmanager
def _held_back() -> Iterator[list[str]]:
    """Collect what is logged meanwhile: a worker's messages reach nobody."""
    messages: list[str] = []

    def hold(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        return False

    logger.addFilter(hold)
    try:
        yield messages
    finally:
        logger.removeFilter(hold)


@contextmanager
def _results(job: _Job, chunks: list[Chunk], num_workers: int) -> Iterator[Iterable[Result]]:
    """Yield the results of all chunks in any order; leaving ends the workers within one image."""
    context = multiprocessing.get_context(_safe_start_method())
    stop: Any = context.RawValue("b", 0)
    if num_workers <= 1:
        descriptor = job.open()
        try:
            yield (job.run(descriptor, chunk, stop) for chunk in chunks)
        finally:
            os.close(descriptor)
        return
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (job, stop))
    try:
        with warnings.catch_warnings(), _interrupts_held_back(), _main_hidden(job.decode):
            # Python 3.12 and later warn of a fork next to ANY thread, also BLAS's own
            warnings.simplefilter("ignore", DeprecationWarning)
            futures = [pool.submit(_run_chunk, chunk) for chunk in chunks]
        with _flushing(job):
            yield (future.result() for future in as_completed(futures))
    except BrokenProcessPool:
        raise ChildProcessError(
            "a decoding process died; nothing was kept. If memory ran out, use fewer workers; "
            "if this is a script, start it under `if __name__ == '__main__':`"
        ) from None
    finally:
        stop.value = 1
        pool.shutdown(cancel_futures=True)


def _safe_start_method() -> str:
    """Choose fork only if no other thread can hold a lock: torch has thread pools."""
    if sys.platform != "linux":
        return "spawn"
    return "fork" if "torch" not in sys.modules and threading.active_count() == 1 else "forkserver"


_worker: tuple[_Job, int, Any]  # in a worker: its job, the open file, the flag that stops it


def _start_worker(job: _Job, stop: Any) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group: the parent ends us
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    gc.freeze()  # what a fork inherited stays shared: looking through it would copy its pages
    exit_with_parent()
    _worker = (job, job.open(), stop)


def _run_chunk(chunk: Chunk) -> Result:
    job, descriptor, stop = _worker
    return job.run(descriptor, chunk, stop)


@contextmanager
def _main_hidden(decode: Decode) -> Iterator[None]:
    """Keep workers from running the caller's script again, which may have no main guard.

    A spawned process imports `__main__` by its file; only a `decode` defined there needs that.
    """
    owner = getattr(decode, "__self__", decode)
    main = sys.modules["__main__"]
    if "__main__" in (getattr(decode, "__module__", ""), type(owner).__module__):
        yield
        return
    hidden: dict[str, Any] = {
        name: vars(main).pop(name) for name in ("__file__", "__spec__") if name in vars(main)
    }
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Delay Ctrl-C until every child ignores it; the parent gets it on leaving."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _flushing(job: _Job) -> Iterator[None]:
    """Push written data to the disk all along, so that the final fsync has little left to do."""
    stop = threading.Event()
    descriptor = job.open()

    def flush() -> None:
        while not stop.wait(0.25):
            os.fsync(descriptor)

    thread = threading.Thread(target=flush, name="flush", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        os.close(descriptor)
