"""Teach: a person's own classes, filled on the page and learned in seconds.

    GET    /api/project                           classes with their pictures, and what was learned
    PUT    /api/project/CLASS                     create a class; ?from=OLD renames one
    DELETE /api/project/CLASS                     take an empty class out
    POST   /api/project/CLASS                     a picture's bytes -> its file's name
    GET    /api/project/CLASS/FILE                a small image of it
    DELETE /api/project/CLASS/FILE                take it out
    PUT    /api/project/CLASS/FILE?from=OTHER     put it back, or move it from another class
    POST   /api/learn                             learn the classes; the taught model answers then

What is kept is a folder of class folders and a run: `tinysight finetune FOLDER --from bundled` does
the same.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tinysight.predict.predictor import Predictor
from tinysight.server.project import Project
from tinysight.server.reading import Reader
from tinysight.server.worker import Worker

FROM = ("--from", "bundled")  # whose features are learned from
Learn = Callable[[Path | None], dict[str, Any]]
Body = Callable[[Request], Awaitable[bytes]]


class Teaching:
    """A project, and how it is learned.

    Args:
        learn: learns a folder, run by the worker; returns `run` (the run's folder) and what
            the page shows. None for the folder: loads what it needs.
        use: is called with the predictor of what was learned.
        body: returns a request's bytes, as many as are allowed.
    """

    def __init__(
        self,
        project: Project,
        reader: Reader,
        worker: Worker,
        learn: Learn,
        *,
        use: Callable[[Predictor], None],
        body: Body,
    ) -> None:
        self.project, self.reader, self.learn = project, reader, learn
        self.taught, self.body, self.worker = Taught(use), body, worker
        self.busy = asyncio.Lock()

    def routes(self) -> list[Route]:
        """Return the paths of Teach."""
        one, picture = "/api/project/{name}", "/api/project/{name}/{file}"
        return [
            Route("/api/project", self._show),
            Route(one, answered(self._put_class), methods=["PUT"]),
            Route(one, answered(self._delete_class), methods=["DELETE"]),
            Route(one, answered(self._add), methods=["POST"]),
            Route(picture, self._picture, methods=["GET"]),
            Route(picture, answered(self._remove), methods=["DELETE"]),
            Route(picture, answered(self._put_picture), methods=["PUT"]),
            Route("/api/learn", answered(self._learn), methods=["POST"]),
        ]

    async def _show(self, request: Request) -> Response:
        """List the classes with their pictures, and what was learned."""
        self.worker.start()
        classes = [asdict(each) for each in await asyncio.to_thread(self.project.classes)]
        return JSONResponse(
            {
                "folder": str(self.project.folder),
                "classes": classes,
                "learned": self.taught.found,
                "command": shlex.join(["tinysight", "finetune", str(self.project.folder), *FROM]),
            }
        )

    async def _put_class(self, request: Request) -> dict[str, Any]:
        """Create a class, or rename it from ?from=."""
        name, old = request.path_params["name"], request.query_params.get("from")
        if old is None:
            self.project.create(name)
        else:
            self.project.rename(old, name)
        return {}

    async def _delete_class(self, request: Request) -> dict[str, Any]:
        """Take an empty class out."""
        self.project.delete(request.path_params["name"])
        return {}

    async def _add(self, request: Request) -> dict[str, Any]:
        """Keep a picture in a class; return its file's name.

        Body: picture, as bytes.
        """
        data = await self.body(request)
        await self.reader.thumbnail(data)  # what cannot be learned from is not kept
        name = request.path_params["name"]
        return {"file": await asyncio.to_thread(self.project.add, name, data)}

    async def _picture(self, request: Request) -> Response:
        """Show a picture, small."""
        try:
            path = self.project.picture(request.path_params["name"], request.path_params["file"])
            small = await self.reader.thumbnail(await asyncio.to_thread(path.read_bytes))
        except (ValueError, OSError) as error:
            raise HTTPException(404, str(error)) from None
        return Response(small, media_type="image/jpeg")

    async def _remove(self, request: Request) -> dict[str, Any]:
        """Take a picture out."""
        self.project.remove(request.path_params["name"], request.path_params["file"])
        return {}

    async def _put_picture(self, request: Request) -> dict[str, Any]:
        """Put a picture back, or move it from the class ?from=."""
        name, file = request.path_params["name"], request.path_params["file"]
        other = request.query_params.get("from")
        if other is None:
            self.project.restore(name, file)
        else:
            self.project.move(other, file, name)
        return {}

    async def _learn(self, request: Request) -> dict[str, Any]:
        """Learn the classes; the taught model answers from then on."""
        if self.busy.locked():
            raise ValueError("the classes are being learned already")
        async with self.busy:
            found = await self.worker.run(self.learn, self.project.folder)
            return await self.taught.adopt(found)


class Taught:
    """What was learned last, by which the page answers from then on."""

    def __init__(self, use: Callable[[Predictor], None]) -> None:
        self.use = use
        self.found: dict[str, Any] | None = None
        self.files: set[str] = set()  # of the run that was learned, as it was then

    async def adopt(self, found: dict[str, Any]) -> dict[str, Any]:
        """Use a run, in place of the one before unless something was made of that; return it."""
        if self.found is not None and _files_of(self.found["run"]) == self.files:
            with suppress(OSError):
                found = found | {"run": _replace(Path(self.found["run"]), by=Path(found["run"]))}
        self.use(await asyncio.to_thread(Predictor, found["run"]))
        self.found, self.files = found, _files_of(found["run"])
        return found


def _replace(old: Path, *, by: Path) -> str:
    """Give a run's folder the name of another, which goes; return it."""
    aside = old.with_name(f".{old.name}.{os.getpid()}")
    old.rename(aside)
    by.rename(old)
    shutil.rmtree(aside, ignore_errors=True)
    return str(old)


def _files_of(folder: str) -> set[str]:
    return {path.as_posix() for path in Path(folder).rglob("*")}


def answered(
    act: Callable[[Request], Awaitable[dict[str, Any]]],
) -> Callable[[Request], Awaitable[Response]]:
    """Turn what a person can put right into an answer with `error`."""

    @wraps(act)
    async def answer(request: Request) -> Response:
        try:
            return JSONResponse(await act(request))
        except ValueError as error:
            return JSONResponse({"error": str(error)})
        except OSError as error:  # a full disk, a folder that may not be written
            return JSONResponse({"error": f"{error.strerror}: {error.filename}"})

    return answer
