"""Decode the rows of a source into one file, in worker processes, with flat memory and no orphan
left behind.
"""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinysight.files import write_at

Decode = Callable[[int], npt.NDArray[np.uint8]]
Progress = Callable[[int, int], None]
Failure = tuple[int, str]  # row, why

CHUNK_ROWS = 256  # one task of a worker
WRITE_BYTES = (
    1 << 19
    # written at once: what stays in the cache, and makes malloc neither map nor trim (9 % of the time)
)
TASKS_AHEAD = 2  # one being decoded, one waiting, so that no worker waits for the parent


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
    start_method: str | None = None,
) -> tuple[npt.NDArray[np.uint8], list[Failure]]:
    """Write the images of `num_rows` rows into an existing file from byte `offset` on; return their
    SHA-256s (N, 32).

    A row for which `decode` raises ValueError is written as zeros and returned among the
    failures, by row; past `max_failures` of them the rest is left undone. Any other exception of
    `decode` is raised here. A worker that dies is a ChildProcessError. The file's data is on its
    way to the disk while decoding goes on, but not yet durable."""
    num_workers = min(workers or usable_cores(), -(-num_rows // max(1, CHUNK_ROWS // 8)))
    share = (
        -(-num_rows // (8 * num_workers)) if num_rows else 1
    )  # a few hundred photographs still keep all cores busy
    chunk = max(1, min(CHUNK_ROWS, share))
    chunks = ((start, min(start + chunk, num_rows)) for start in range(0, num_rows, chunk))
    job = (decode, path, offset, image_size)
    results = (
        _results_from_workers(job, chunks, num_workers, start_method)
        if num_workers > 1
        else _results_here(job, chunks)
    )
    digests = np.zeros((num_rows, 32), np.uint8)
    failures: list[Failure] = []
    done = 0
    try:
        for start, stop, chunk_digests, chunk_failures in results:
            digests[start:stop] = np.frombuffer(chunk_digests, np.uint8).reshape(-1, 32)
            failures += chunk_failures
            done += stop - start
            if progress is not None:
                progress(done, num_rows)
            if max_failures is not None and len(failures) >= max_failures:
                break
    finally:
        results.close()  # ends the workers, also when Ctrl-C landed above
    return digests, sorted(failures)


def usable_cores() -> int:
    """Count the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


Job = tuple[Decode, Path, int, int]
Result = tuple[int, int, bytes, list[Failure]]  # start, stop, digests, failures


def _decode_chunk(
    decode: Decode, descriptor: int, offset: int, image_size: int, start: int, stop: int
) -> Result:
    shape = (image_size, image_size, 3)
    row_bytes = image_size * image_size * 3
    pending: list[memoryview] = []
    digests = []
    failures = []
    for row in range(start, stop):
        try:
            image = decode(row)
        except ValueError as error:
            failures.append((row, str(error)))
            image = np.zeros(shape, np.uint8)
        if image.shape != shape or image.dtype != np.uint8:
            raise TypeError(
                f"decode({row}) gave {image.dtype} {image.shape}, expected uint8 {shape}"
            )
        pixels = np.ascontiguousarray(image).data.cast("B")
        pending.append(pixels)
        digests.append(hashlib.sha256(pixels).digest())
        if len(pending) * row_bytes >= WRITE_BYTES or row + 1 == stop:
            write_at(descriptor, pending, offset + (row + 1 - len(pending)) * row_bytes)
            pending = []
    return start, stop, b"".join(digests), failures


def _results_here(job: Job, chunks: Iterator[tuple[int, int]]) -> Generator[Result, None, None]:
    decode, path, offset, image_size = job
    descriptor = os.open(path, os.O_WRONLY)
    try:
        for start, stop in chunks:
            yield _decode_chunk(decode, descriptor, offset, image_size, start, stop)
    finally:
        os.close(descriptor)


def _results_from_workers(
    job: Job, chunks: Iterator[tuple[int, int]], num_workers: int, start_method: str | None
) -> Generator[Result, None, None]:
    context = multiprocessing.get_context(start_method or _safe_start_method())
    team: dict[Connection, BaseProcess] = {}
    waiting: dict[Connection, int] = {}  # chunks sent and not answered
    try:
        for number in range(num_workers):
            connection, process = _start_worker(context, job, number)
            team[connection] = process
            waiting[connection] = sum(_send_next(connection, chunks) for _ in range(TASKS_AHEAD))
        with _flushing(job[1]):
            while any(waiting.values()):
                for connection in _ready(team):
                    answer = _receive(connection, team[connection])
                    waiting[connection] += _send_next(connection, chunks) - 1
                    yield answer
    finally:
        for process in team.values():
            # idle by now, or not wanted any more; a signal that no inherited handler can catch
            process.kill()
        for connection, process in team.items():
            process.join()
            process.close()
            connection.close()


def _safe_start_method() -> str:
    """Choose fork only where nothing but this thread can hold a lock: no torch (thread pools), no
    other thread.
    """
    if sys.platform != "linux":
        return "spawn"
    return "fork" if "torch" not in sys.modules and threading.active_count() == 1 else "forkserver"


def _start_worker(context: BaseContext, job: Job, number: int) -> tuple[Connection, BaseProcess]:
    ours, theirs = context.Pipe()
    process = context.Process(  # type: ignore[attr-defined]
        target=_work, args=(theirs, *job), name=f"decode-{number}", daemon=True
    )
    with warnings.catch_warnings(), _holding_back_interrupts():
        # Python 3.12 and later warn of a fork beside ANY thread, also those that BLAS handles
        # itself at a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()  # so that its death ends the pipe
    return ours, process


@contextmanager
def _holding_back_interrupts() -> Iterator[None]:
    """Let no Ctrl-C reach a child before it has learned to ignore it; the parent gets it right
    afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send_next(connection: Connection, chunks: Iterator[tuple[int, int]]) -> int:
    """Send one more chunk; return how many were sent (0 when there is none left, or nobody to send
    to).
    """
    task = next(chunks, None)
    if task is None:
        return 0
    with suppress(
        BrokenPipeError, ConnectionResetError
    ):  # dead: the end of its pipe says so on reading
        connection.send(task)
    return 1


def _ready(team: dict[Connection, BaseProcess]) -> list[Connection]:
    return [connection for connection in wait(list(team)) if isinstance(connection, Connection)]


def _receive(connection: Connection, process: BaseProcess) -> Result:
    try:
        answer: Any = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise ChildProcessError(
            f"a decoding process died ({_ending(process.exitcode)}); nothing was kept. If memory ran out, use fewer "
            "workers; if this is a script, start it under `if __name__ == '__main__':`"
        ) from None
    if isinstance(answer, Exception):
        raise answer
    return answer  # type: ignore[no-any-return]


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"signal {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


def _work(tasks: Connection, decode: Decode, path: Path, offset: int, image_size: int) -> None:
    """Decode chunks until the parent is gone or kills us: the whole life of a worker."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group: the parent ends us
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # what was inherited by a fork stays shared: looking through it would copy its pages
    gc.freeze()
    parent = multiprocessing.parent_process()
    assert parent is not None
    descriptor = os.open(path, os.O_WRONLY)
    while True:
        if parent.sentinel in wait([tasks, parent.sentinel]):
            return  # killed parents leave no orphans
        start, stop = tasks.recv()
        try:
            answer: object = _decode_chunk(decode, descriptor, offset, image_size, start, stop)
        except Exception as error:
            answer = _portable(error)
        tasks.send(answer)


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def _flushing(path: Path) -> Iterator[None]:
    """Push written data to the disk all along, so that the final fsync has little left to do."""
    stop = threading.Event()
    descriptor = os.open(path, os.O_WRONLY)

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
