"""Downloads from a faulty server: the right bytes under the name, or a clear error and nothing."""

from __future__ import annotations

import errno
import hashlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tinysight.data import download as module
from tinysight.data.download import download

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FAULTS = (
    "none", "truncate", "reset", "no range", "wrong range", "wrong bytes", "404", "416", "503",
     "slow", "no length",
    "other size", "empty", "garbage",
)  # fmt: skip


class Server(ThreadingHTTPServer):
    """Serve CONTENT; each request takes the next fault of `faults`, if one is left."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[str] = []
        self.ranges: list[str | None] = []  # as asked for
        self.content, self.etag = CONTENT, '"1"'
        self.random = random.Random(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/set.zip"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the client hung up


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        fault = server.faults.pop(0) if server.faults else "none"
        asked = self.headers["Range"]
        server.ranges.append(asked)
        if fault in ("404", "503", "416"):
            return self.send_error(int(fault))
        if fault == "garbage":
            self.wfile.write(b"this is not HTTP\r\n\r\n")
            return None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if self.headers["If-Range"] not in (None, server.etag) or fault == "no range":
            start = 0
        if start >= len(server.content):
            return self.send_error(416)
        body = server.content[start:]
        if fault == "wrong bytes":
            body = bytes(len(body))
        if fault == "other size":
            body += b"more"
        self.send_response(206 if asked and start else 200)
        if asked and start:
            claimed = start + 1 if fault == "wrong range" else start
            self.send_header(
                "Content-Range", f"bytes {claimed}-{len(server.content) - 1}/{len(server.content)}"
            )
        if fault != "no length":
            self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        if fault in ("truncate", "reset", "empty"):
            body = body[: 0 if fault == "empty" else server.random.randrange(len(body))]
        self.wfile.write(body[: len(body) // 2])
        if fault == "slow":
            threading.Event().wait(0.02)
        self.wfile.write(body[len(body) // 2 :])
        if fault == "reset":  # RST, not FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server: Server, target: Path, **options: object) -> None:
    known: dict[str, object] = {
        "size": len(CONTENT),
        "sha256": SHA256,
        "pause": 0.0,
        "timeout": 5.0,
    }
    download(server.url, target, **(known | options))  # type: ignore[arg-type]


def files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock"))


def test_a_whole_download(server: Server, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    fetch(server, tmp_path / "deep" / "set.zip", progress=lambda *step: steps.append(step))
    assert (tmp_path / "deep" / "set.zip").read_bytes() == CONTENT
    assert steps[-1] == (len(CONTENT), len(CONTENT)) and steps == sorted(steps)
    assert files(tmp_path / "deep") == ["set.zip"]


def test_what_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(CONTENT)
    fetch(server, tmp_path / "set.zip")
    assert server.ranges == []
    (tmp_path / "set.zip").write_bytes(CONTENT[:-1] + b"?")  # but what is there must be right
    fetch(server, tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "fault", ["truncate", "reset", "503", "empty", "garbage", "no length", "slow"]
)
def test_passing_faults_are_got_over(server: Server, tmp_path: Path, fault: str) -> None:
    server.faults = [fault]
    fetch(server, tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_bytes() == CONTENT and files(tmp_path) == ["set.zip"]
    assert len(server.ranges) == (1 if fault in ("no length", "slow") else 2)


def test_resumes_where_it_broke(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:100_000])  # by an earlier call
    server.faults = ["truncate"]
    fetch(server, tmp_path / "set.zip")
    starts = [int((asked or "bytes=0-").removeprefix("bytes=")[:-1]) for asked in server.ranges]
    assert starts[0] == 100_000 and len(starts) == 2 and 100_000 < starts[1] < 300_000
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["no range", "wrong range", "416"])
def test_restarts_where_the_server_will_not_resume(
    server: Server, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:100_000])
    server.faults = [fault]
    fetch(server, tmp_path / "set.zip")
    assert server.ranges == (["bytes=100000-"] if fault == "no range" else ["bytes=100000-", None])
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_part_that_is_whole_or_too_long(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    fetch(server, tmp_path / "set.zip")
    assert server.ranges == []
    (tmp_path / "two.zip.part").write_bytes(CONTENT + b"?")
    fetch(server, tmp_path / "two.zip")
    assert server.ranges == [None]
    assert (tmp_path / "two.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["404"], "the server answered 404"),
        (["wrong bytes"], "its SHA-256 is .*, expected .*; it was deleted"),
        (["other size"], "has 300004 bytes, expected 300000: it is another file"),
        (["503"] * 6, r"answered 503.*; call again to resume at 0 bytes"),
        (["garbage"] * 6, r"this is not HTTP\); call again"),
        (["empty"] * 6, r"it ended after 0 of 300000 bytes\); call again"),
    ],
)
def test_lasting_faults_are_one_clear_line(
    server: Server, tmp_path: Path, faults: list[str], message: str
) -> None:
    server.faults = faults
    with pytest.raises(ValueError, match=message) as caught:
        fetch(server, tmp_path / "set.zip")
    assert server.url in str(caught.value) and "\n" not in str(caught.value)
    assert [name for name in files(tmp_path) if name != "set.zip.part"] == []
    fetch(server, tmp_path / "set.zip")  # and the next call goes well
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_without_a_hash_only_the_same_version_is_resumed(server: Server, tmp_path: Path) -> None:
    """A part of an earlier call is dropped; within a call If-Range protects from other versions."""
    (tmp_path / "set.zip.part").write_bytes(b"of something else")
    server.faults = ["truncate"]
    fetch(server, tmp_path / "set.zip", size=None, sha256=None)
    assert server.ranges[0] is None and server.ranges[1] is not None
    assert (tmp_path / "set.zip").read_bytes() == CONTENT

    for version in (
        "",
        'W/"1"',
    ):  # none to ask for, or one that only means "much the same": from the start
        server.ranges, server.faults, server.etag = [], ["truncate"], version
        fetch(server, tmp_path / "two.zip", size=None, sha256=None)
        assert server.ranges == [None, None] and (tmp_path / "two.zip").read_bytes() == CONTENT
        (tmp_path / "two.zip").unlink()


def test_a_file_that_changes_in_between_is_not_spliced(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = bytes(reversed(CONTENT))

    def change(seconds: float) -> None:
        server.content, server.etag = newer, '"2"'

    monkeypatch.setattr(module.time, "sleep", change)
    server.faults = ["truncate"]
    fetch(server, tmp_path / "set.zip", size=None, sha256=None)
    assert (tmp_path / "set.zip").read_bytes() == newer


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/set.zip"
    with pytest.raises(ValueError, match=r"cannot download .*refused"):
        download(url, tmp_path / "set.zip", pause=0.0, attempts=2)


def test_a_server_that_stalls(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/set.zip"
        with pytest.raises(ValueError, match="timed out"):
            download(url, tmp_path / "set.zip", pause=0.0, attempts=2, timeout=0.1)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "here.zip").write_bytes(CONTENT)
    download((tmp_path / "here.zip").as_uri(), tmp_path / "set.zip", sha256=SHA256)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    with pytest.raises(ValueError, match=r"cannot read file:.*none.zip"):
        download((tmp_path / "none.zip").as_uri(), tmp_path / "two.zip")


@pytest.mark.parametrize(
    "url", ["ftp://host/set.zip", "set.zip", "data:,x", "", "javascript:1", "http//host"]
)
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="expected an address that starts with"):
        download(url, tmp_path / "set.zip")
    assert files(tmp_path) == []


def test_a_redirect_to_a_file_is_not_followed(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)

    def redirect(self: Handler) -> None:
        self.send_response(302)
        self.send_header("Location", (tmp_path / "secret").as_uri())
        self.send_header("Content-Length", "0")
        self.end_headers()

    monkeypatch.setattr(Handler, "do_GET", redirect)
    with pytest.raises(ValueError, match="not allowed"):
        fetch(server, tmp_path / "set.zip")
    assert files(tmp_path) == ["secret"]


def test_a_full_disk_is_one_clear_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_publish", full)
    with pytest.raises(ValueError, match=r"disk of .* is full"):
        fetch(server, tmp_path / "set.zip")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        fetch(server, tmp_path / "file" / "set.zip")


@pytest.mark.parametrize("rounds", [25, pytest.param(500, marks=pytest.mark.reliability)])
def test_random_faults_end_in_the_right_file_or_a_clear_error(
    server: Server, tmp_path: Path, rounds: int
) -> None:
    generator = random.Random(rounds)
    target = tmp_path / "set.zip"
    errors = 0
    for _ in range(rounds):
        server.faults = generator.choices(FAULTS, k=generator.randrange(6))
        trusted = generator.random() < 0.8
        server.etag = generator.choice(['"1"', 'W/"1"', ""])
        lie = not trusted and "wrong bytes" in server.faults  # without a hash nobody can tell
        try:
            fetch(server, target, attempts=3, **({} if trusted else {"sha256": None}))
        except ValueError as error:
            errors += 1
            assert "\n" not in str(error) and not target.exists()
        else:
            assert lie or target.read_bytes() == CONTENT
            target.unlink()
        assert set(files(tmp_path)) <= {"set.zip.part"}
        if generator.random() < 0.5:
            (tmp_path / "set.zip.part").unlink(missing_ok=True)
    assert 0 < errors < rounds * 0.8
