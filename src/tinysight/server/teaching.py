"""Teach: a person's own classes, filled on the page and learned in seconds.

    GET    /api/project                           classes with their pictures, and what was learned
    PUT    /api/project/CLASS                     create a class; ?from=OLD renames one
    DELETE /api/project/CLASS                     take an empty class out
    POST   /api/project/CLASS                     a picture's bytes -> its file's name
    GET    /api/project/CLASS/FILE                a small image of it
    DELETE /api/project/CLASS/FILE                take it out
    PUT    /api/project/CLASS/FILE?from=OTHER     put it back, or move it from another class
    POST   /api/learn                             learn the classes; the taught model answers then

What is kept is a folder of class folders and a run: `tinysight finetune FOLDER` does the same.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tinysight.predict.predictor import Predictor
from tinysight.server.project import Project
from tinysight.server.reading import Reader, start_child, stop_process

Learn = Callable[[Path | None], dict[str, Any]]
Body = Callable[[Request], Awaitable[bytes]]
MAX_LEARN_SECONDS = 600.0


class Teaching:
    """A project, and the process that learns it.

    Args:
        learn: learns a folder in a process of its own; returns `run` (the run's folder) and what
            the page shows. None for the folder: loads what it needs.
        use: is called with the predictor of what was learned.
        body: returns a request's bytes, as many as are allowed.
    """

    def __init__(
        self,
        project: Project,
        reader: Reader,
        learn: Learn,
        *,
        use: Callable[[Predictor], None],
        body: Body,
    ) -> None:
        self.project, self.reader, self.learn = project, reader, learn
        self.use, self.body = use, body
        self.pool: ProcessPoolExecutor | None = None
        self.busy = asyncio.Lock()
        self.learned: dict[str, Any] | None = None
        self.files: set[str] = set()  # of the run that was learned, as it was then

    def routes(self) -> list[Route]:
        """Return the paths of Teach."""
        one, picture = "/api/project/{name}", "/api/project/{name}/{file}"
        return [
            Route("/api/project", self._show),
            Route(one, _answered(self._put_class), methods=["PUT"]),
            Route(one, _answered(self._delete_class), methods=["DELETE"]),
            Route(one, _answered(self._add), methods=["POST"]),
            Route(picture, self._picture, methods=["GET"]),
            Route(picture, _answered(self._remove), methods=["DELETE"]),
            Route(picture, _answered(self._put_picture), methods=["PUT"]),
            Route("/api/learn", _answered(self._learn), methods=["POST"]),
        ]

    def close(self) -> None:
        """Stop the process that learns; what it has not finished is not kept."""
        if self.pool is not None:
            stop_process(self.pool)

    def _process(self) -> ProcessPoolExecutor:
        """Return the process that learns; it is started when the classes are first looked at."""
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=start_child)
            self.pool.submit(self.learn, None)
        return self.pool

    async def _show(self, request: Request) -> Response:
        self._process()
        classes = [asdict(each) for each in await asyncio.to_thread(self.project.classes)]
        return JSONResponse(
            {
                "folder": str(self.project.folder),
                "classes": classes,
                "learned": self.learned,
                "command": f"tinysight finetune {self.project.folder}",
            }
        )

    async def _put_class(self, request: Request) -> dict[str, Any]:
        name, old = request.path_params["name"], request.query_params.get("from")
        if old is None:
            self.project.create(name)
        else:
            self.project.rename(old, name)
        return {}

    async def _delete_class(self, request: Request) -> dict[str, Any]:
        self.project.delete(request.path_params["name"])
        return {}

    async def _add(self, request: Request) -> dict[str, Any]:
        data = await self.body(request)
        await self.reader.thumbnail(data)  # what cannot be learned from is not kept
        name = request.path_params["name"]
        return {"file": await asyncio.to_thread(self.project.add, name, data)}

    async def _picture(self, request: Request) -> Response:
        try:
            path = self.project.picture(request.path_params["name"], request.path_params["file"])
            small = await self.reader.thumbnail(await asyncio.to_thread(path.read_bytes))
        except (ValueError, OSError) as error:
            raise HTTPException(404, str(error)) from None
        return Response(small, media_type="image/jpeg")

    async def _remove(self, request: Request) -> dict[str, Any]:
        self.project.remove(request.path_params["name"], request.path_params["file"])
        return {}

    async def _put_picture(self, request: Request) -> dict[str, Any]:
        name, file = request.path_params["name"], request.path_params["file"]
        other = request.query_params.get("from")
        if other is None:
            self.project.restore(name, file)
        else:
            self.project.move(other, file, name)
        return {}

    async def _learn(self, request: Request) -> dict[str, Any]:
        if self.busy.locked():
            raise ValueError("the classes are being learned already")
        async with self.busy:
            work = asyncio.wrap_future(self._process().submit(self.learn, self.project.folder))
            try:
                found = await asyncio.wait_for(work, MAX_LEARN_SECONDS)
            except (TimeoutError, BrokenProcessPool):
                self.close()
                self.pool = None
                raise ValueError("learning took too much time or memory; try fewer") from None
            predictor = await asyncio.to_thread(Predictor, found["run"])
            self.use(predictor)
            self._drop_last()
            self.learned, self.files = found, _files_of(found["run"])
            return found

    def _drop_last(self) -> None:
        """Remove the run before, unless a report or the like was made of it."""
        if self.learned is not None and _files_of(self.learned["run"]) == self.files:
            shutil.rmtree(self.learned["run"], ignore_errors=True)


def _files_of(folder: str) -> set[str]:
    return {path.as_posix() for path in Path(folder).rglob("*")}


def _answered(
    act: Callable[[Request], Awaitable[dict[str, Any]]],
) -> Callable[[Request], Awaitable[Response]]:
    """Turn what a person can put right into an answer with `error`."""

    async def answer(request: Request) -> Response:
        try:
            return JSONResponse(await act(request))
        except ValueError as error:
            return JSONResponse({"error": str(error)})
        except OSError as error:  # a full disk, a folder that may not be written
            return JSONResponse({"error": f"{error.strerror}: {error.filename}"})

    return answer
