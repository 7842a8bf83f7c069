"""Measure `tinysight quiz` while many people answer at once.

    python benchmarks/quiz.py [--db postgresql] [--people 50] [--think 0] [--mixed]

Each person registers, loads the pictures as the page does, and answers one after the other, at once
or after a time of thinking. Prints median and 99 % quantile of the time until an answer was
acknowledged, errors, and the processor time of server and clients. Exits with status 1 unless no
answer failed or was lost, and p99 is at most 250 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from tinysight.data.build import build
from tinysight.data.shapes import Shapes
from tinysight.people.store import Store

MAX_P99 = 250  # milliseconds
IDLE_SECONDS = 2.0  # after which a connection is not used again; the server closes it after 5


@dataclass
class Times:
    """Seconds per kind of request, and what was answered with another status than 200."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)


class Client:
    """One person's connection."""

    def __init__(self, link: str, times: Times) -> None:
        parts = urlsplit(link)
        self.address, self.times = (parts.hostname, parts.port), times
        token = parse_qs(parts.query)["token"][0]
        self.head = f"Host: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.used = 0.0

    async def ask(self, kind: str, method: str, path: str, body: Any = None) -> Any:
        """Ask; return the content, JSON where it is."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self.head}Content-Length: {len(content)}\r\n\r\n"
        begun = time.perf_counter()
        if self.streams and begun - self.used > IDLE_SECONDS:
            self.streams[1].close()
            self.streams = None
        self.streams = self.streams or await asyncio.open_connection(*self.address)
        reader, writer = self.streams
        writer.write(head.encode() + content)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        found = re.search(rb"content-length: (\d+)", answer)
        assert found is not None, answer
        data = await reader.readexactly(int(found[1]))
        self.used = time.perf_counter()
        self.times.seconds.setdefault(kind, []).append(self.used - begun)
        if (status := int(answer[9:12])) != 200:
            self.times.failed[f"{kind}: {status}"] += 1
        return json.loads(data) if b"application/json" in answer else data


async def person(
    link: str, times: Times, seed: int, options: argparse.Namespace, start: asyncio.Barrier
) -> int:
    """Play one game; return how many answers were acknowledged."""
    client, rng, kept = Client(link, times), random.Random(seed), 0
    code = (await client.ask("register", "POST", "/api/people", {"game": "full"}))["code"]
    own = await client.ask("items", "GET", f"/api/people/{code}")
    keys = [item["key"] for item in own["items"]]
    pictures = [f"/api/people/{code}/{key}" for key in keys]
    for path in [] if options.mixed else pictures:
        await client.ask("picture", "GET", path)
    await start.wait()
    for key, path in zip(keys, pictures, strict=True):
        if options.mixed:
            await client.ask("picture", "GET", path)
        if options.think:
            await asyncio.sleep(rng.expovariate(1 / options.think))
        said = rng.choice(own["classes"])
        given = {"response": said, "seconds": 1.5, "further": [], "screen": "1400x900@1"}
        found = await client.ask("answer", "POST", f"/api/people/{code}/{key}", given)
        kept += found == {"response": said}
    return kept


def processor_seconds(process: int) -> float:
    """Return what a process has computed so far."""
    own = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(own[11]) + int(own[12])) / os.sysconf("SC_CLK_TCK")


async def measure(link: str, options: argparse.Namespace, process: int) -> dict[str, Any]:
    """Let people play on a running server."""
    times, start = Times(), asyncio.Barrier(options.people + 1)
    tasks = [
        asyncio.create_task(person(link, times, seed, options, start))
        for seed in range(options.people)
    ]
    begun = time.perf_counter()
    ready = asyncio.create_task(start.wait())  # all have loaded their pictures
    await asyncio.wait([ready, *tasks], return_when=asyncio.FIRST_COMPLETED)
    first, server, clients = time.perf_counter(), processor_seconds(process), time.process_time()
    kept = sum(await asyncio.gather(*tasks))
    wall = time.perf_counter() - first
    server, clients = processor_seconds(process) - server, time.process_time() - clients
    found: dict[str, Any] = {"people": options.people, "acknowledged": kept}
    found |= {"failed": dict(times.failed), "loading s": round(first - begun, 1)}
    for kind, seconds in times.seconds.items():
        p50, p99 = (round(1000 * float(np.quantile(seconds, q)), 1) for q in (0.5, 0.99))
        found[kind] = {"count": len(seconds), "p50 ms": p50, "p99 ms": p99}
    found["answers per s"] = round(kept / wall, 1)
    found["cores"] = {
        "server": round(server / wall, 2),
        "clients": round(clients / wall, 2),
        "computer": os.cpu_count(),
    }
    return found


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL as the tests do; give the URL of an empty database."""
    path = Path(__file__).parents[1] / "tests" / "people" / "conftest.py"
    server = runpy.run_path(str(path))["PostgreSQL"]()
    server.start()
    try:
        yield server.new_database()
    finally:
        server.stop()


def serve_and_measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure a server of its own process, on drawn shapes."""
    with tempfile.TemporaryDirectory() as folder:
        counts = {"num_train": 240, "num_minival": 24, "num_val": 2400, "num_test": 0}
        dataset = build(Shapes(**counts, name="drawn"), home=Path(folder), workers=1)
        url = options.db or f"sqlite:///{folder}/answers.db"
        command = [sys.executable, "-m", "tinysight", "quiz", "drawn", "--data-dir", folder]
        command += ["--db", url, "--images", str(options.images)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                link = next(line for line in server.stdout if "http" in line).strip()
                found = asyncio.run(measure(link, options, server.pid))
            finally:
                server.terminate()
        about = {"split": "val", "num_images": options.images, "seed": 0}
        with closing(Store(url, digest=dataset.digest, about=about)) as store:
            kept = len(store.answers("full"))
        return found | {"lost": found["acknowledged"] - kept}


def failures(found: dict[str, Any]) -> Sequence[str]:
    """Name what is not as promised."""
    checks = {
        "no request failed": not found["failed"],
        "what was acknowledged is kept": found["lost"] == 0,
        f"p99 of an answer is {MAX_P99} ms at most": found["answer"]["p99 ms"] <= MAX_P99,
    }
    return [what for what, holds in checks.items() if not holds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", help="URL of an empty database, or postgresql: one that is started")
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--images", type=int, default=40, help="per person")
    parser.add_argument("--mixed", action="store_true", help="each picture before its answer")
    parser.add_argument("--think", type=float, default=0.0, help="mean seconds before an answer")
    options = parser.parse_args()
    with postgresql() if options.db == "postgresql" else nullcontext(options.db) as options.db:
        found = serve_and_measure(options)
    print(json.dumps(found, indent=1))
    failed = failures(found)
    print("\n".join(f"FAILED: {what}" for what in failed) or "all as promised")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
