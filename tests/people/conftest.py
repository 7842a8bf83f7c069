"""Databases of both kinds: a file, and a PostgreSQL that is started where it is installed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest


class PostgreSQL:
    """A cluster of its own, without a password, on a port of this computer."""

    def __init__(self) -> None:
        known = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        found = shutil.which("initdb") or (str(known[-1]) if known else None)
        if found is None:
            pytest.skip("PostgreSQL is not installed (initdb)")
        self.bin = Path(found).resolve().parent
        self.folder = Path(tempfile.mkdtemp(prefix="tinysight-postgresql-"))
        self.user: dict[str, Any] = {}
        if os.getuid() == 0:  # initdb refuses root
            shutil.chown(self.folder, "postgres")
            self.user = {"user": "postgres"}
        self._run("initdb", "--auth=trust", "--username=quiz", "--no-sync")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"postgresql://quiz@127.0.0.1:{self.port}"

    def _run(self, name: str, *options: str) -> None:
        command = [str(self.bin / name), "-D", str(self.folder / "data"), *options]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=60, **self.user
        )
        assert done.returncode == 0, done.stderr + done.stdout

    def start(self) -> None:
        """Start it, as soon as what was killed has let go of its memory."""
        log = str(self.folder / "log")
        options = f"-p {self.port} -k {self.folder} -h 127.0.0.1"
        deadline = time.monotonic() + 30
        while True:
            try:
                return self._run("pg_ctl", "-w", "-l", log, "-o", options, "start")
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    @property
    def process(self) -> int:
        """The process id of the postmaster."""
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        """Kill it as a power cut would."""
        os.kill(self.process, signal.SIGKILL)

    def kill_backend(self, rng: random.Random) -> bool:
        """Kill a process that serves a study; the postmaster ends the others and recovers."""
        pid = self.process
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        serving = []
        for child in children:
            with suppress(OSError):  # it has ended
                if b" study_" in Path(f"/proc/{child}/cmdline").read_bytes():
                    serving.append(int(child))
        if not serving:
            return False
        with suppress(ProcessLookupError):
            os.kill(rng.choice(serving), signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{child}").exists() for child in serving):
            assert time.monotonic() < deadline, "PostgreSQL has not ended the other processes"
            time.sleep(0.001)  # until then it answers as if nothing had happened
        return True

    def wait(self) -> None:
        """Wait until it answers again."""
        import psycopg

        deadline = time.monotonic() + 60
        while True:
            try:
                return psycopg.connect(f"{self.address}/postgres").close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "PostgreSQL does not recover"
                time.sleep(0.1)

    def stop(self) -> None:
        """Stop it at once, and remove it."""
        self._run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(self.folder)

    def new_database(self) -> str:
        """Create an empty database; return its URL."""
        import psycopg

        name = f"study_{uuid4().hex}"
        with psycopg.connect(f"{self.address}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        return f"{self.address}/{name}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    pytest.importorskip("psycopg")
    server = PostgreSQL()
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Make an empty database of either kind; return its URL."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path}/{uuid4().hex}.db"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new_database
