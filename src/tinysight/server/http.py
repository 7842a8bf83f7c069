"""Run the server: uvicorn, with a limit on how long a client may take to send its headers."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tinysight.predict.predictor import Predictor
from tinysight.server.app import create_app
from tinysight.server.teaching import Learn

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
ANY_HOST = ("0.0.0.0", "::")
MIN_TOKEN = 8  # characters
MAX_HEADER_SECONDS = 10.0


class ImpatientProtocol(H11Protocol):
    """Close a connection whose headers are not complete in time; uvicorn itself waits for ever."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(error)

    def _watch(self) -> None:
        """Start the clock where a request has begun, or none has come; stop it otherwise."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(MAX_HEADER_SECONDS, self.transport.close)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0: any free one. Raises ValueError when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        what = f"cannot listen on {host}:{port} ({reason}); give another --port"
        raise ValueError(what) from None
    listener.listen(512)
    return listener


def create_server(
    predictor: Predictor,
    *,
    folder: Path,
    learn: Learn,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
) -> tuple[uvicorn.Server, socket.socket, str]:
    """Return a server, the socket it is to run on, and the link to its page; see `serve`."""
    if host in ANY_HOST:
        raise ValueError(f"--host {host} names no address; give the one that others type")
    is_local = host in (*LOCAL_HOSTS, "::1")
    if not is_local and not token:
        raise ValueError(f"--host {host} lets others in; choose a --token for the link, too")
    if token is not None and len(token) < MIN_TOKEN:
        raise ValueError(f"the token has {len(token)} characters; give {MIN_TOKEN} or more")
    listener = listen(host, port)
    port = listener.getsockname()[1]
    token = token or secrets.token_urlsafe(16)
    shown = f"[{host}]" if ":" in host else host
    names = LOCAL_HOSTS if is_local else (shown, socket.gethostname(), *LOCAL_HOSTS)
    own: dict[str, Any] = {"folder": folder, "learn": learn}
    app = create_app(predictor, token=token, hosts=names, port=port, **own)
    options: dict[str, Any] = {"log_level": "warning", "access_log": False, "ws": "none"}
    options |= {"timeout_graceful_shutdown": 5, "server_header": False, "backlog": 512}
    server = uvicorn.Server(uvicorn.Config(app, http=ImpatientProtocol, **options))
    return server, listener, f"http://{shown}:{port}/?token={quote(token, safe='')}"


def serve(
    predictor: Predictor,
    *,
    folder: Path,
    learn: Learn,
    started: Callable[[str], None] = print,
    **address: Any,
) -> None:
    """Serve a model's page until Ctrl-C or SIGTERM.

    Args:
        folder: where the classes that are taught on the page are kept.
        learn: learns such a folder; see `Teaching`.
        started: is called with the link.
        address: of the server, as for `create_server`:
        host: address to listen on. Others than this machine's own need a `token` that you choose:
            whoever has the link may use the server, over a connection that is not encrypted.
        port: 0: any free one.
        token: of the link; None: a random one.

    Raises ValueError when the address cannot be used.
    """
    server, listener, link = create_server(predictor, folder=folder, learn=learn, **address)
    with suppress(ValueError):  # another thread than the main one has no signals
        signal.signal(signal.SIGTERM, _end)
    started(link)
    server.run(sockets=[listener])


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)  # after the server has closed; children are cleaned up on the way
