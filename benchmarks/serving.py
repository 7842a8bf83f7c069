"""Measure `tinysight serve` under load, with the bundled model.

    python benchmarks/serving.py [--requests 10000] [--model RUN]

Requests come at times of their own, whether or not those before are answered (open loop), as
Poisson arrivals; a latency counts from the moment at which a request was due. Exits with status 1
unless what docs/page.md promises holds.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

IDLE_SECONDS = 2.0  # after which a connection is not used again; the server closes it after 5
NUM_PICTURES = 100
NUM_SLOW = 60
TOLERANCE = 1e-5  # of probabilities: sums of a batch may be made in another order


@dataclass(frozen=True)
class Answer:
    """What came back: the status, the seconds since the request was due, and the content."""

    status: int
    seconds: float
    content: bytes


class Connections:
    """Persistent connections to a server, as many as are needed at once."""

    def __init__(self, link: str) -> None:
        parts = urlsplit(link)
        self.address = (parts.hostname, parts.port)
        token = parse_qs(parts.query)["token"][0]
        host = f"Host: {parts.hostname}:{parts.port}"
        self.start = f"POST /api/predict HTTP/1.1\r\n{host}\r\nAuthorization: Bearer {token}\r\n"
        self.idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, body: bytes, due: float | None = None) -> Answer:
        begun = time.perf_counter() if due is None else due
        reader, writer = await self._connect()
        writer.write(f"{self.start}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        found = re.search(rb"content-length: (\d+)", head)
        assert found is not None, head
        content = await reader.readexactly(int(found[1]))
        if b"connection: close" in head:
            writer.close()
        else:
            self.idle.append((time.perf_counter(), reader, writer))
        return Answer(int(head[9:12]), time.perf_counter() - begun, content)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self.idle:
            used, reader, writer = self.idle.pop()
            if time.perf_counter() - used < IDLE_SECONDS and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self.address)

    def close(self) -> None:
        for _, _, writer in self.idle:
            writer.close()


def draw_pictures(count: int = NUM_PICTURES) -> list[bytes]:
    """Draw JPEGs and PNGs of 100 to 400 pixels, each of them another one."""
    pictures = []
    for number in range(count):
        rng = np.random.default_rng(number)
        height, width = rng.integers(100, 400, 2)
        small = rng.integers(0, 256, (6, 6, 3), np.uint8)
        buffer = io.BytesIO()
        image = Image.fromarray(small).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        image.save(buffer, "PNG" if number % 4 == 0 else "JPEG")
        pictures.append(buffer.getvalue())
    return pictures


async def closed_loop(
    connections: Connections, bodies: Sequence[bytes], count: int, clients: int
) -> tuple[list[Answer], float]:
    """Ask `count` times, `clients` at a time, again after a 503; return answers and seconds."""
    answers: list[Answer | None] = [None] * count
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            while (found := await connections.ask(bodies[number % len(bodies)])).status == 503:
                await asyncio.sleep(0.02)
            answers[number] = found

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return [each for each in answers if each], time.perf_counter() - begun


async def open_loop(
    connections: Connections, bodies: Sequence[bytes], count: int, rate: float
) -> list[Answer]:
    """Ask `count` times at a mean of `rate` a second, whatever is answered."""
    gaps = random.Random(0)
    begun = time.perf_counter()
    times = accumulate(gaps.expovariate(rate) for _ in range(count))

    async def one(number: int, due: float) -> Answer:
        await asyncio.sleep(due - time.perf_counter())
        return await connections.ask(bodies[number % len(bodies)], due)

    return list(await asyncio.gather(*(one(n, begun + at) for n, at in enumerate(times))))


def summarize(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the statuses, and median and 99 % quantile of the accepted, in milliseconds."""
    accepted = [each.seconds for each in answers if each.status == 200]
    p50, p99 = (round(1000 * float(np.quantile(accepted or [np.inf], q)), 1) for q in (0.5, 0.99))
    return {"statuses": dict(Counter(each.status for each in answers)), "p50": p50, "p99": p99}


async def slow_connections(connections: Connections, number: int) -> list[Any]:
    """Open connections that send one byte of a head or of a body each second."""
    host, port = connections.address
    writers = []
    for index in range(number):
        _, writer = await asyncio.open_connection(host, port)
        head = f"{connections.start}Content-Length: 9999\r\n\r\n" if index % 2 else "POST /api"
        writer.write(head.encode())
        writers.append(writer)
    return writers


async def drip(writers: Sequence[Any]) -> None:
    while True:
        await asyncio.sleep(1)
        for writer in writers:
            with suppress(ConnectionError):
                writer.write(b"x")


def family(process: int) -> list[Path]:
    """Return the folders in /proc of a process and its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [Path(f"/proc/{each}") for each in (process, *children)]


def memory_of(process: int) -> float:
    """Return the resident megabytes of a process and its children."""
    pages = sum(int((each / "statm").read_text().split()[1]) for each in family(process))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor_seconds(process: int) -> list[float]:
    """Return what a process, its children and this one have computed so far."""
    ticks = []
    for each in family(process):
        own = (each / "stat").read_text().rpartition(")")[2].split()
        ticks.append((int(own[11]) + int(own[12])) / os.sysconf("SC_CLK_TCK"))
    return [ticks[0], sum(ticks[1:]), time.process_time()]


def differs(found: bytes, expected: bytes) -> bool:
    """Whether an answer is another one, beyond the rounding of sums."""
    one, other = json.loads(found), json.loads(expected)
    probabilities = [
        {item["class"]: item["probability"] for item in each["top"][:3]} for each in (one, other)
    ]
    names = set(probabilities[0]) | set(probabilities[1])
    return any(
        abs(probabilities[0].get(name, 0) - probabilities[1].get(name, 0)) > TOLERANCE
        for name in names
    )


async def measure(link: str, requests: int, process: int) -> dict[str, Any]:
    """Measure a running server; docs/page.md says what each number may be."""
    connections, bodies = Connections(link), draw_pictures()
    alone, _ = await closed_loop(connections, bodies, len(bodies), 1)
    rates, count, busy = [], max(100, requests // 10), processor_seconds(process)
    for _ in range(3):
        _, seconds = await closed_loop(connections, bodies, count, 16)
        rates.append(count / seconds)
    capacity = sorted(rates)[1]
    found: dict[str, Any] = {"requests": requests, "capacity": round(capacity, 1)}
    costs = zip(busy, processor_seconds(process), strict=True)
    names = ("server", "decoders", "this client")
    spent = [round(1000 * (now - then) / (3 * count), 2) for then, now in costs]
    found["processor ms per picture"] = dict(zip(names, spent, strict=True))
    found["at 0.75"] = summarize(await open_loop(connections, bodies, requests, 0.75 * capacity))
    before = memory_of(process)
    flood = await open_loop(connections, bodies, requests, 6 * capacity)
    found["at 6"] = summarize(flood)
    await asyncio.sleep(1)
    after, _ = await closed_loop(connections, bodies, 20, 1)
    found["after 1 s"] = summarize(after)
    found["memory"] = [round(before), round(memory_of(process))]
    writers = await slow_connections(connections, NUM_SLOW)
    dripping = asyncio.create_task(drip(writers))
    honest = await open_loop(connections, bodies, max(20, requests // 50), 0.25 * capacity)
    found["among slow"] = summarize(honest)
    dripping.cancel()
    for writer in writers:
        writer.close()
    mixed, _ = await closed_loop(connections, bodies, requests, 64)
    wrong = [differs(each.content, alone[n % len(bodies)].content) for n, each in enumerate(mixed)]
    found["other answers"] = sum(wrong)
    connections.close()
    return found


def failures(found: dict[str, Any]) -> list[str]:
    """Name what is not as promised."""
    normal, flood, after = found["at 0.75"], found["at 6"], found["after 1 s"]
    memory, slow = found["memory"], found["among slow"]
    checks = {
        "at 0.75 of the capacity all are answered": set(normal["statuses"]) == {200},
        "p99 at 0.75 is 200 ms at most": normal["p99"] <= 200,
        "at 6 times there is only 200 and 503": set(flood["statuses"]) <= {200, 503},
        "p99 of the accepted at 6 times is 500 ms at most": flood["p99"] <= 500,
        "then all is normal within 2 s": set(after["statuses"]) == {200} and after["p99"] <= 200,
        "memory grows by a tenth at most": memory[1] <= 1.1 * memory[0],
        "slow connections stop nobody": set(slow["statuses"]) == {200} and slow["p99"] <= 200,
        "each answer is its picture's": found["other answers"] == 0,
    }
    return [what for what, holds in checks.items() if not holds]


def serve_and_measure(requests: int, model: Sequence[str] = ()) -> dict[str, Any]:
    """Measure a server of its own process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tinysight", "serve", *model, "--folder", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                link = next(line for line in server.stdout if "http" in line).strip()
                return asyncio.run(measure(link, requests, server.pid))
            finally:
                server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--model", nargs="*", default=[], help="run or file; the bundled one")
    options = parser.parse_args()
    found = serve_and_measure(options.requests, options.model)
    print(json.dumps(found, indent=1))
    failed = failures(found)
    print("\n".join(f"FAILED: {what}" for what in failed) or "all as promised")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
