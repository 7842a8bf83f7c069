"""A description of the paths for programs, in the form of OpenAPI 3.1, from the routes themselves.

The first paragraph of an endpoint's docstring is its summary; "Body: picture" or "Body: JSON" in
the docstring says what it takes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tinysight import __version__

PATH = "/openapi.json"
BODIES = {
    "picture": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    "JSON": {"application/json": {"schema": {"type": "object"}}},
}
_FAILURES = {
    "403": {"description": "without the token, or from another site"},
    "421": {"description": "the Host header names another server"},
    "503": {"description": "too many at once; `Retry-After` says when to ask again"},
}


def route(routes: Sequence[BaseRoute]) -> Route:
    """Return the path that answers with the description of others."""

    async def describe(request: Request) -> Response:
        """Describe all paths, as this does."""
        return JSONResponse(description(routes))

    return Route(PATH, describe)


def description(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """Describe all routes but the page and its files."""
    paths: dict[str, Any] = {}
    for each in routes:
        if isinstance(each, Route) and each.path != "/":
            for method in sorted((each.methods or set()) - {"HEAD"}):
                paths.setdefault(each.path, {})[method.lower()] = _operation(each)
    info = {"title": "tinysight", "version": __version__, "summary": "A model on this computer."}
    token = {"token": {"type": "http", "scheme": "bearer"}}
    schemes = {"securitySchemes": token}
    content = {"openapi": "3.1.0", "info": info, "paths": paths, "components": schemes}
    return content | {"security": [{"token": []}]}


def _operation(each: Route) -> dict[str, Any]:
    text = inspect.getdoc(each.endpoint) or ""
    good = {"200": {"description": 'the answer, or {"error": what is wrong, in words}'}}
    found: dict[str, Any] = {"summary": text.partition("\n\n")[0].replace("\n", " ")}
    found["responses"] = good | _FAILURES
    names = [("path", name) for name in re.findall(r"{(\w+)}", each.path)]
    names += [("query", name) for name in re.findall(r"\?(\w+)=", text)]
    if names:
        text_schema = {"type": "string"}
        found["parameters"] = [
            {"name": name, "in": place, "required": place == "path", "schema": text_schema}
            for place, name in names
        ]
    for kind, content in BODIES.items():
        if f"Body: {kind}" in text:
            found["requestBody"] = {"required": True, "content": content}
    return found
