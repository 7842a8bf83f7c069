"""What each application of the server has: a page with its files, and refusals in JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles


def routes(folder: Path) -> list[Any]:
    """Return the paths of the page in a folder, and the one that says that the process is there."""

    async def page(request: Request) -> Response:
        """Show the page."""
        return FileResponse(folder / "index.html")

    static = Mount("/static", StaticFiles(directory=folder))
    return [Route("/", page), Route("/healthz", _health), static]


async def _health(request: Request) -> Response:
    """Say that the process is there."""
    return Response(b"ok\n", media_type="text/plain")


def refusal(status: int, reason: str) -> Response:
    """Return the answer to what is not done, with its reason; 503 asks to try again."""
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"error": reason}, status, headers)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, error.detail)


async def _leave(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the client has gone; nobody reads this


HANDLERS: Any = {HTTPException: _refuse, ClientDisconnect: _leave}
