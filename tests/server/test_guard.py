"""The guard: who gets an answer, and with which headers. Requests are made without a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from tinysight.server.guard import Guard

TOKEN = "t0ken"
OWN = {"host": "127.0.0.1:8000"}
COOKIE = {"cookie": f"tinysight-8000={TOKEN}"}
ORIGIN = {"origin": "http://127.0.0.1:8000"}


def ask(
    method: str = "GET",
    path: str = "/",
    query: str = "",
    headers: Any = None,
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
) -> tuple[int, dict[str, str]]:
    """Return status and headers of the answer of a guarded application that says 200 to all."""
    guard = Guard(PlainTextResponse("inside"), token=TOKEN, hosts=hosts, port=8000)
    pairs = headers.items() if isinstance(headers, dict) else headers or ()
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return int(sent[0]["status"]), found


def test_a_host_is_one_in_any_case() -> None:
    for host in ("MyLaptop:8000", "mylaptop:8000"):
        assert ask(headers={"host": host} | COOKIE, hosts=("MyLaptop",))[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 421),
        ({"host": "evil.example:8000"}, 421),
        ({"host": "127.0.0.1:8001"}, 421),
        ({"host": "127.0.0.1"}, 421),
        ([("host", "127.0.0.1:8000"), ("host", "evil.example")], 421),
        (OWN, 403),
        ({"host": "LOCALHOST:8000"} | COOKIE, 200),
        (OWN | COOKIE, 200),
        (OWN | {"cookie": "a=b; tinysight-8000=t0ken; c=d"}, 200),
        (OWN | {"cookie": "tinysight-8000=t0ke"}, 403),
        (OWN | {"cookie": "xtinysight-8000=t0ken"}, 403),
        (OWN | {"cookie": "tinysight-8001=t0ken"}, 403),
        (OWN | {"cookie": "tinysight-8000=\xe9"}, 403),
        (OWN | {"authorization": "Bearer t0ken"}, 200),
        (OWN | {"authorization": "Bearer t0ken2"}, 403),
    ],
)
def test_who_may_read(headers: Any, status: int) -> None:
    assert ask(headers=headers)[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (COOKIE, 403),
        (COOKIE | ORIGIN, 200),
        (COOKIE | ORIGIN | {"sec-fetch-site": "same-origin"}, 200),
        (COOKIE | ORIGIN | {"sec-fetch-site": "cross-site"}, 403),
        (COOKIE | {"origin": "null"}, 403),
        (COOKIE | {"origin": "http://evil.example"}, 403),
        (COOKIE | {"origin": "http://127.0.0.1:8001"}, 403),
        (ORIGIN, 403),
        ({"authorization": "Bearer t0ken"}, 200),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_who_may_write(method: str, headers: dict[str, str], status: int) -> None:
    assert ask(method, "/api/predict", headers=OWN | headers)[0] == status


def test_the_printed_link_gives_the_cookie_and_a_wrong_one_does_not() -> None:
    status, headers = ask(query="token=t0ken", headers=OWN)
    assert status == 200
    cookie = headers["set-cookie"]
    assert cookie == "tinysight-8000=t0ken; Path=/; HttpOnly; SameSite=Strict"
    for given in ({"query": "token=wrong"}, {"query": "token=t0ken", "path": "/api/models"}):
        status, headers = ask(headers=OWN, **given)
        assert (status, "set-cookie" in headers) == (403, False)
    status, headers = ask(query="token=wrong", headers=OWN | COOKIE)
    assert (status, "t0ken" in headers.get("set-cookie", "")) == (200, True)
    assert ask("POST", query="token=t0ken", headers=OWN | ORIGIN)[0] == 403


def test_health_needs_no_token_but_the_right_host() -> None:
    assert ask(path="/healthz", headers=OWN)[0] == 200
    assert ask(path="/healthz", headers={"host": "evil.example"})[0] == 421


@pytest.mark.parametrize("headers", [OWN | COOKIE, OWN, {"host": "evil.example"}])
def test_every_answer_binds_the_browser(headers: dict[str, str]) -> None:
    _, found = ask(headers=headers)
    policy = dict(each.split(" ", 1) for each in found["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "media-src": "'self' blob:",
        "form-action": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    assert found["x-content-type-options"] == "nosniff"
    assert found["cross-origin-resource-policy"] == "same-origin"
    assert found["cross-origin-opener-policy"] == "same-origin"
    assert found["referrer-policy"] == "no-referrer"
    assert found["permissions-policy"] == "camera=(self), microphone=(), geolocation=()"
    assert found["cache-control"] == "no-store"


def test_web_sockets_never_reach_the_application() -> None:
    reached = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    guard = Guard(application, token=TOKEN, hosts=("127.0.0.1",), port=8000)

    async def nothing(message: Any = None) -> Any:
        return None

    for kind in ("websocket", "lifespan"):
        asyncio.run(guard({"type": kind}, nothing, nothing))
    assert reached == ["lifespan"]
