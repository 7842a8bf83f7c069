"""Run the server: uvicorn, with a limit on how long a client may take to send its headers."""

from __future__ import annotations

import asyncio
import errno
import re
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tinysight.predict.predictor import Predictor
from tinysight.server.app import create_app
from tinysight.server.explaining import FindTrainingImages
from tinysight.server.guard import Guard
from tinysight.server.sorting import Sorter
from tinysight.server.teaching import Learn

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
ANY_HOST = ("0.0.0.0", "::")
MIN_TOKEN = 8  # characters
MAX_HEADER_SECONDS = 10.0
MAX_HEADER_BYTES = 64 << 10


class ImpatientProtocol(HttpToolsProtocol):
    """Close a connection whose headers are not complete in time, or too long; uvicorn's waits."""

    _deadline: asyncio.TimerHandle | None = None
    _head: int | None = 0  # bytes received of headers that are not complete; None: they are

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def _begin_head(self) -> None:
        """Start the clock; none runs between two requests, where uvicorn has its own."""
        self._head = 0
        if self._deadline is None:
            self._deadline = self.loop.call_later(MAX_HEADER_SECONDS, self.transport.close)

    def on_message_begin(self) -> None:
        self._begin_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head = None
        self._stop_watching()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        is_inside = self._head is not None
        super().data_received(data)
        if is_inside and self._head is not None:  # what comes before a head is not of it
            self._head += len(data)
            if self._head > MAX_HEADER_BYTES:
                self.send_400_response("The headers are too long.")

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(error)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0: any free one. Raises ValueError when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small packets at once (no Nagle delay) only where the protocol is named
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        of_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
        what = f"cannot listen on {host}:{port} ({reason})"
        raise ValueError(f"{what}; give another {'--port' if of_port else '--host'}") from None
    listener.listen(512)
    return listener


def create_server(
    predictor: Predictor,
    *,
    folder: Path,
    learn: Learn,
    sorter: Sorter,
    training_images: FindTrainingImages = lambda predictor: None,
    **address: Any,
) -> tuple[uvicorn.Server, socket.socket, str]:
    """Return a server, the socket it is to run on, and the link to its page; see `serve`."""
    own: dict[str, Any] = {"folder": folder, "learn": learn, "sorter": sorter}
    own["training_images"] = training_images
    return serving(lambda **guard: create_app(predictor, **own, **guard), **address)


def serving(
    make_app: Callable[..., Guard],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
) -> tuple[uvicorn.Server, socket.socket, str]:
    """Return a server of an application, the socket it is to run on, and the link to its page.

    `make_app` is called with token, hosts and port, once the address is known to be usable; see
    `Guard`. For the others see `serve`.
    """
    if host in ANY_HOST:
        raise ValueError(f"--host {host} names no address; give the one that others type")
    is_local = host in (*LOCAL_HOSTS, "::1")
    if not is_local and not token:
        raise ValueError(f"--host {host} lets others in; choose a --token for the link, too")
    if token is not None and len(token) < MIN_TOKEN:
        raise ValueError(f"the token has {len(token)} characters; give {MIN_TOKEN} or more")
    if token is not None and not re.fullmatch(r"[\w.~-]+", token, re.ASCII):  # for link and cookie
        raise ValueError("the token has other characters than A-Z, a-z, 0-9, '-', '_', '.' and '~'")
    listener = listen(host, port)
    port = listener.getsockname()[1]
    token = token or secrets.token_urlsafe(16)
    shown = f"[{host}]" if ":" in host else host
    names = LOCAL_HOSTS if is_local else (shown, socket.gethostname(), *LOCAL_HOSTS)
    try:
        app = make_app(token=token, hosts=names, port=port)
    except BaseException:
        listener.close()
        raise
    options: dict[str, Any] = {"log_level": "warning", "access_log": False, "ws": "none"}
    options |= {"proxy_headers": False}  # nothing here asks for the client's address
    options |= {"timeout_graceful_shutdown": 5, "server_header": False, "backlog": 512}
    server = uvicorn.Server(uvicorn.Config(app, http=ImpatientProtocol, **options))
    return server, listener, f"http://{shown}:{port}/?token={quote(token, safe='')}"


def serve(
    predictor: Predictor,
    *,
    folder: Path,
    learn: Learn,
    sorter: Sorter,
    training_images: FindTrainingImages = lambda predictor: None,
    started: Callable[[str], None] = print,
    **address: Any,
) -> None:
    """Serve a model's page until Ctrl-C or SIGTERM.

    Args:
        folder: where the classes that are taught on the page are kept.
        learn: learns such a folder; see `Teaching`.
        sorter: groups its pictures; see `Sorting`.
        training_images: see `create_app`.
        started: is called with the link.
        address: of the server, as for `create_server`:
        host: address to listen on. Others than this machine's own need a `token` that you choose:
            whoever has the link may use the server, over a connection that is not encrypted.
        port: 0: any free one.
        token: of the link; None: a random one.

    Raises ValueError when the address cannot be used.
    """
    own: dict[str, Any] = {"folder": folder, "learn": learn, "sorter": sorter}
    own["training_images"] = training_images
    run(*create_server(predictor, **own, **address), started)


def run(
    server: uvicorn.Server, listener: socket.socket, link: str, started: Callable[[str], None]
) -> None:
    """Run a server until Ctrl-C or SIGTERM; `started` is called with the link."""
    with suppress(ValueError):  # another thread than the main one has no signals
        signal.signal(signal.SIGTERM, _end)
    started(link)
    server.run(sockets=[listener])


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)  # after the server has closed; children are cleaned up on the way
