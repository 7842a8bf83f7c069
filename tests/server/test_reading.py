"""The reader: pictures are decoded in processes of their own, and a bomb harms nothing else."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinysight.images import load_square
from tinysight.server import reading
from tinysight.server.reading import Reader


def png(width: int = 60, height: int = 40, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader(num_processes=1)
    yield reader
    reader.close()


def test_a_picture_is_read_as_everywhere_else(reader: Reader) -> None:
    picture = asyncio.run(reader.read(png(), 16, "pad"))
    assert (picture.width, picture.height) == (60, 40)
    assert np.array_equal(picture.square, load_square(png(), 16, "pad"))


def test_what_is_no_picture_is_named_and_the_process_goes_on(reader: Reader) -> None:
    async def ask() -> None:
        with pytest.raises(ValueError, match="not an image"):
            await reader.read(b"no picture, but long enough for a signature", 16, "pad")
        number = reader.processes[0].number
        assert (await reader.read(png(), 16, "pad")).width == 60
        assert reader.processes[0].number is number

    asyncio.run(ask())


def test_a_picture_that_takes_too_long_costs_its_process_and_the_next_is_read(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> None:
        first = await asyncio.wrap_future(reader.processes[0].number)
        monkeypatch.setattr(reading, "MAX_SECONDS", 0.0)
        with pytest.raises(ValueError, match="too much time or memory"):
            await reader.read(png(1500, 1500), 16, "pad")
        monkeypatch.undo()
        assert (await reader.read(png(), 16, "pad")).height == 40
        assert await asyncio.wrap_future(reader.processes[0].number) != first

    asyncio.run(ask())


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_a_process_that_hangs_is_killed(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> int:
        first = await asyncio.wrap_future(reader.processes[0].number)
        monkeypatch.setattr(reading, "MAX_SECONDS", 0.1)
        with pytest.raises(ValueError, match="too much time"):
            await reader._run(time.sleep, 60)
        return first

    deadline = time.monotonic() + 30
    first = Path(f"/proc/{asyncio.run(ask())}/exe")
    while first.exists():
        time.sleep(0.05)
    assert time.monotonic() < deadline, "it ended by itself"


def test_a_picture_beyond_the_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(data: bytes, at_least: int) -> None:
        raise MemoryError

    monkeypatch.setattr(reading, "read_image", too_large)
    with pytest.raises(ValueError, match="too much memory"):
        reading._read(png(), 16, "pad")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_memory_of_a_process_is_limited() -> None:
    assert reading.MAX_MEMORY == 3 << 30
    code = "from tinysight.server.reading import _limit_memory; _limit_memory(); bytearray({})"
    for size, failed in ((1 << 30, False), (4 << 30, True)):
        done = subprocess.run(
            [sys.executable, "-c", code.format(size)], capture_output=True, text=True
        )
        assert ("MemoryError" in done.stderr) == failed == bool(done.returncode)
