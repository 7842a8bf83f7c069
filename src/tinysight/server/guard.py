"""Who may ask the server what: hosts, a token, origins, and headers that bind the browser.

A page of another site can make a browser send requests here. Three things stop it: the Host header
must name this server (a site whose name is made to resolve to 127.0.0.1 sends its own), the cookie
that the printed link sets is not sent along from other sites (SameSite=Strict), and a request that
writes must come from this server's own page, by its Origin.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = ("/healthz", "/readyz")  # without the token; they tell nothing
SAFE_METHODS = ("GET", "HEAD")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src 'self' blob:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Guard:
    """Answer only requests that name this server and hold its token; an ASGI middleware.

    Args:
        token: that the printed link holds; a browser gets it as a cookie, a program gives it as
            `Authorization: Bearer TOKEN`.
        hosts: names that the Host header may have, without port.
        port: of the server; cookies are shared between ports, so its name is the cookie's.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: Sequence[str], port: int) -> None:
        self.app, self.token, self.port = app, token, port
        names = {host.lower() for host in hosts}
        self.authorities = {f"{name}:{port}" for name in names}
        self.authorities |= names if port in (80, 443) else set()
        self.cookie = f"tinysight-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no web sockets
        given = _token_in_link(scope)
        refused = self._refusal(scope, given)
        app = self.app if refused is None else PlainTextResponse(refused[1], refused[0])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if refused is None and given:
                    value = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                    headers.append("Set-Cookie", value)
                message["headers"] = headers.raw
            await send(message)

        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, given: str) -> tuple[int, str] | None:
        """Return the status and the reason of a refusal; None: the request is good."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self.authorities:
            names = ", ".join(sorted(self.authorities))
            return 421, f"This server answers to {names} only; allow another name by --host.\n"
        if scope["path"] in OPEN_PATHS:
            return None
        by_program = _equal(headers.get("authorization", ""), f"Bearer {self.token}")
        if not (by_program or _equal(given, self.token) or self._has_cookie(headers)):
            return 403, "Open the complete link that was printed at the start: it holds the key.\n"
        if scope["method"] in SAFE_METHODS or by_program:
            return None
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        if origin not in (f"http://{hosts[0]}", f"https://{hosts[0]}") or site != "same-origin":
            return 403, "This request comes from another site.\n"
        return None

    def _has_cookie(self, headers: Headers) -> bool:
        found = re.findall(rf"(?:^|;\s*){self.cookie}=([^;\s]*)", headers.get("cookie", ""))
        return any(_equal(value, self.token) for value in found)


def _token_in_link(scope: Scope) -> str:
    """Return the token of the printed link, `/?token=...`; "" without one."""
    if scope["path"] != "/" or scope["method"] not in SAFE_METHODS:
        return ""
    query: str = scope["query_string"].decode("latin-1")
    return parse_qs(query).get("token", [""])[0]


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
