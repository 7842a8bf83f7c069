"""The server over real HTTP: its answers are the predictor's, and nothing sent stops it."""

from __future__ import annotations

import http.client
import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinysight.predict.output import plain
from tinysight.predict.predictor import Predictor
from tinysight.server import app as app_module
from tinysight.server import http as http_module
from tinysight.server.http import create_server


def picture(seed: int, form: str = "PNG") -> bytes:
    generator = np.random.default_rng(seed)
    height, width = generator.integers(20, 90, 2)
    pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """Draw a black picture of more than 120 megapixels: a PNG of less than 50 kB."""
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_answer_is_the_predictors(client: Any, predictor: Predictor) -> None:
    for form in ("PNG", "BMP"):
        data = picture(1, form)
        status, found = client.predict(data)
        width, height = found.pop("width"), found.pop("height")
        assert (status, (width, height)) == (200, Image.open(io.BytesIO(data)).size)
        expected = plain(predictor.predict(data), predictor.metadata)
        probabilities = [item.pop("probability") for item in found["top"]]
        assert probabilities == pytest.approx(
            [item.pop("probability") for item in expected["top"]], abs=2e-6
        )
        assert found == expected
    assert client.ask("/api/predict?model=taught", data)[0] == 404  # nothing was taught here


def test_many_pictures_at_once_each_get_their_own_answer(
    client: Any, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "MAX_WAIT", 60.0)
    pictures = [picture(seed) for seed in range(40)]
    alone = {data: predictor.predict(data) for data in pictures}
    order = [pictures[index] for index in np.random.default_rng(0).integers(0, 40, 200)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(client.predict, order))
    for data, (status, found) in zip(order, answers, strict=True):
        assert status == 200
        assert [item["class"] for item in found["top"]] == list(alone[data].class_names)
        probabilities = [item["probability"] for item in found["top"]]
        assert probabilities == pytest.approx(alone[data].probabilities, abs=1e-5)


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", 400, "no picture"),
        (b"<html>" + b" " * 50, 200, "HTML"),
        (picture(1)[:60], 200, "cannot be decoded|damaged"),
        (bomb(20_000), 200, "bomb"),
        (bomb(11_500), 200, "megapixels|120"),
        (b"\0" * ((20 << 20) + 1), 413, "20 MB"),
    ],
    ids=["empty", "a page", "cut short", "a bomb", "a small bomb", "too large"],
)
def test_what_is_no_picture_is_refused_in_words(
    client: Any, data: bytes, status: int, words: str
) -> None:
    found, answer = client.predict(data)
    assert found == status
    assert any(word in answer["error"] for word in words.split("|")), answer


@pytest.mark.parametrize("limits", [{"MAX_IN_WORK": 0}, {"MIN_IN_WORK": 0, "MAX_WAIT": -1.0}])
def test_a_full_or_slow_server_says_when_to_come_back(
    client: Any, monkeypatch: pytest.MonkeyPatch, limits: dict[str, float]
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(app_module, name, value)
    connection = http.client.HTTPConnection(*client.address, timeout=10)
    connection.putrequest("POST", "/api/predict")
    connection.putheader("Authorization", f"Bearer {client.token}")
    connection.putheader("Content-Length", "99")
    connection.endheaders()  # refused before anything is sent
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Retry-After")) == (503, "1")
    connection.close()
    monkeypatch.undo()
    assert client.predict(picture(1))[0] == 200


def test_what_is_being_sent_is_limited_in_all_and_forgotten_after(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = picture(1, "BMP")
    monkeypatch.setattr(app_module, "MAX_BUFFERED", len(data) - 1)
    assert client.predict(data)[0] == 503
    monkeypatch.setattr(app_module, "MAX_BUFFERED", len(data) + 1)
    for _ in range(3):
        assert client.predict(data)[0] == 200


@pytest.mark.parametrize("length", [None, "30000000"])
def test_too_many_bytes_are_refused_announced_or_not(client: Any, length: str | None) -> None:
    host = f"Host: {client.address[0]}:{client.address[1]}\r\nAuthorization: Bearer {client.token}"
    how = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    with socket.create_connection(client.address, timeout=20) as connection:
        connection.sendall(f"POST /api/predict HTTP/1.1\r\n{host}\r\n{how}\r\n\r\n".encode())
        if length is None:
            chunk = b"100000\r\n" + b"\0" * (1 << 20) + b"\r\n"
            with suppress(ConnectionError):  # it is closed as soon as there are too many
                for _ in range(21):
                    connection.sendall(chunk)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/hosts"]
)
def test_no_file_outside_the_page_is_served(client: Any, path: str) -> None:
    status, content = client.ask(path)
    assert status == 404
    assert b"import" not in content


def test_without_the_token_there_is_no_answer(client: Any) -> None:
    assert client.ask("/api/predict", picture(1), headers={})[0] == 403
    assert client.ask("/api/models", headers={})[0] == 403
    assert client.ask("/healthz", headers={}) == (200, b"ok\n")
    for name in ("evil.example", socket.gethostname()):  # a local server has local names only
        assert client.ask("/healthz", headers={"Host": f"{name}:{client.address[1]}"})[0] == 421


def test_slow_clients_are_dropped_and_do_not_stop_others(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "MAX_HEADER_SECONDS", 0.4)
    monkeypatch.setattr(app_module, "MAX_BODY_SECONDS", 0.4)
    silent, halves = [], []
    for _ in range(30):
        silent.append(socket.create_connection(client.address))
        silent[-1].sendall(b"POST /api/predict HTTP/1.1\r\nHost: ")
        halves.append(socket.create_connection(client.address))
        head = (
            f"Host: {client.address[0]}:{client.address[1]}\r\nAuthorization: Bearer {client.token}"
        )
        request = f"POST /api/predict HTTP/1.1\r\n{head}\r\nContent-Length: 999\r\n\r\nabc"
        halves[-1].sendall(request.encode())
    start = time.monotonic()
    assert client.predict(picture(1))[0] == 200
    assert time.monotonic() - start < 5
    for connection in silent:
        connection.settimeout(10)
        assert connection.recv(100) == b""
        connection.close()
    for connection in halves:
        connection.settimeout(10)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
        connection.close()


def test_a_second_request_on_a_connection_is_under_the_same_clock(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "MAX_HEADER_SECONDS", 0.4)
    host = f"{client.address[0]}:{client.address[1]}"
    connection = socket.create_connection(client.address, timeout=10)
    connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert b"200" in connection.recv(2000)
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
    start = time.monotonic()
    while connection.recv(2000):
        pass
    assert time.monotonic() - start < 3
    connection.close()


def test_headers_without_an_end_are_refused(client: Any) -> None:
    connection = socket.create_connection(client.address, timeout=10)
    connection.sendall(b"GET /healthz HTTP/1.1\r\n")
    start, received = time.monotonic(), b""
    with suppress(ConnectionError):
        for _ in range(200):  # 200 kB; a client of a browser sends 2
            connection.sendall(b"X: " + b"y" * 997 + b"\r\n")
            time.sleep(0.001)
    with suppress(ConnectionError):
        received = connection.recv(2000)
    assert b"400" in received[:20] or not received
    with suppress(ConnectionError):
        assert connection.recv(2000) == b""  # closed
    connection.close()
    assert time.monotonic() - start < http_module.MAX_HEADER_SECONDS / 2
    assert client.ask("/healthz")[0] == 200


def test_a_request_may_begin_behind_a_long_body(client: Any) -> None:
    """Bytes of the body before it are not counted as its headers."""
    host = f"Host: {client.address[0]}:{client.address[1]}"
    head = f"{host}\r\nAuthorization: Bearer {client.token}\r\n"
    body = b"x" * (http_module.MAX_HEADER_BYTES + 1000)
    first = f"POST /api/predict HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(client.address, timeout=10) as connection:
        connection.sendall(first)
        time.sleep(0.1)
        connection.sendall(body + b"GET /healthz HTTP/1.1\r\n")
        time.sleep(0.1)
        connection.sendall(f"{host}\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while part := connection.recv(4096):
            received += part
    assert received.count(b"HTTP/1.1 200") == 2 and received.endswith(b"ok\n")


def test_answers_are_sent_at_once(client: Any) -> None:
    """A head and a body that wait for one another's acknowledgment cost 40 ms each time."""
    host = f"{client.address[0]}:{client.address[1]}"
    request = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    connection = socket.create_connection(client.address, timeout=10)
    took = []
    for _ in range(20):
        start = time.monotonic()
        connection.sendall(request)
        while not connection.recv(2000).endswith(b"ok\n"):
            pass
        took.append(time.monotonic() - start)
    connection.close()
    assert sorted(took)[3] < 0.03, took


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "0.0.0.0"}, "no address"),
        ({"host": "203.0.113.7"}, "--token"),
        ({"host": "203.0.113.7", "token": "short"}, "8 or more"),
        ({"host": "203.0.113.7", "token": "long enough"}, "other characters"),
        ({"host": "203.0.113.7", "token": "long-enough"}, "cannot listen"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(
    predictor: Predictor, options: dict[str, str], words: str
) -> None:
    make: Callable[..., object] = create_server
    with pytest.raises(ValueError, match=words):
        make(predictor, folder=Path("none"), learn=dict, sorter=None, **options)


def processes_of(parent: int) -> set[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return {int(child) for child in children}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux lists children")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_server_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "tinysight", "serve", "--folder", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # CI may ignore it
        start_new_session=True,
    )
    assert server.stdout and server.stderr
    link = next(line for line in server.stdout if "http" in line).strip()
    with urllib.request.urlopen(link, timeout=20) as answer:
        assert b"<title>tinysight" in answer.read()
    children = processes_of(server.pid)
    assert len(children) >= 2
    if number is signal.SIGINT:
        os.killpg(server.pid, number)  # as a terminal sends it, to all processes
    else:
        server.send_signal(number)
    status = server.wait(20)
    assert status == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}/exe").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if number is not signal.SIGKILL:
        assert server.stderr.read() == ""
    server.stdout.close()
    server.stderr.close()
