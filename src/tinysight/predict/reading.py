"""Image files read ahead, in threads: Pillow decodes and resizes without Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tinysight.images import Fit, Source, load_square_of, quiet_pillow
from tinysight.predict.decoding import UInt8

READ_AHEAD = 16  # images per thread


@dataclass(frozen=True)
class Square:
    """An image as a model takes it."""

    source: Source
    pixels: UInt8  # (S, S, 3)
    size: tuple[int, int]  # width and height of the upright image


def read_squares(images: Iterable[Source], side: int, fit: Fit) -> Iterator[Square | ValueError]:
    """Read images in order; yield the ValueError of one that cannot be read.

    Memory holds so many images as the threads decode, and squares of READ_AHEAD for each.
    """

    def read(source: Source) -> Square | ValueError:
        try:
            pixels, size = load_square_of(source, side, fit)
        except ValueError as error:
            return error
        return Square(source, pixels, size)

    threads = os.cpu_count() or 1
    waiting: deque[Future[Square | ValueError]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        with quiet_pillow():
            for source in images:
                waiting.append(pool.submit(read, source))
                if len(waiting) >= READ_AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
