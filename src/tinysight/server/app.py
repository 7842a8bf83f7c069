"""The application: what can be asked of the server, as paths.

GET  /             the page
GET  /api/models   what the models are: the given one, and the one that was taught
POST /api/predict  a picture's bytes -> its answer, as `tinysight predict --json` prints it, or
                   {"error"} where it cannot be read; ?model=taught asks the other model
GET  /api/runs     runs, and /api/runs/NAME with its curves; /runs/NAME/report is its report
GET  /healthz      the process is there; /readyz: it can answer
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tinysight.predict.output import plain
from tinysight.predict.predictor import Prediction, Predictor
from tinysight.server import runs
from tinysight.server.batching import Batcher
from tinysight.server.guard import Guard
from tinysight.server.project import Project
from tinysight.server.reading import Picture, Reader
from tinysight.server.teaching import Learn, Teaching

BUSY = "too many pictures at once; try again in a second"
PAGE = Path(__file__).with_name("page")
SHARED = PAGE.parent.parent / "web"  # with the page that an export writes
MAX_BYTES = 20 << 20  # of a picture
MAX_BUFFERED = 512 << 20  # of all pictures that are being sent, together
MAX_BODY_SECONDS = 30.0
MAX_IN_WORK = 32  # pictures that are decoded or answered: more would wait too long


class Model:
    """A model that answers pictures in batches."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.batcher: Batcher[Picture, Prediction] = Batcher(self._predict)

    def _predict(self, pictures: Sequence[Picture]) -> list[Prediction]:
        squares = np.stack([picture.square for picture in pictures])
        sizes = [(picture.width, picture.height) for picture in pictures]
        return self.predictor.predict_squares(squares, sizes)

    def describe(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        metadata, decoding = self.predictor.metadata, self.predictor.decoding
        return {
            "description": metadata.describe(),
            "classes": metadata.class_names,
            "classifies": metadata.classifies,
            "finds": decoding is not None,
            "box_classes": metadata.has_box_classes,
        }


class Asking:
    """Answer pictures by a model, as many at a time as can be answered soon."""

    def __init__(self, predictor: Predictor, reader: Reader) -> None:
        self.models = {"given": Model(predictor)}
        self.reader = reader
        self.in_work = self.buffered = 0

    def use(self, predictor: Predictor) -> None:
        """Answer by a model that was taught, too."""
        self.models["taught"] = Model(predictor)

    async def show_models(self, request: Request) -> Response:
        return JSONResponse({name: model.describe() for name, model in self.models.items()})

    async def predict(self, request: Request) -> Response:
        model = self.models.get(request.query_params.get("model", "given"))
        if model is None:
            raise HTTPException(404, "there is no such model; teach it first")
        if self.in_work >= MAX_IN_WORK:
            raise HTTPException(503, BUSY)
        data = await self.body(request)
        if self.in_work >= MAX_IN_WORK:  # others were sent sooner
            raise HTTPException(503, BUSY)
        self.in_work += 1
        metadata = model.predictor.metadata
        try:
            picture = await self.reader.read(data, metadata.image_size, metadata.fit)
            prediction = await model.batcher.answer(picture)
        except ValueError as error:
            return JSONResponse({"error": str(error)})  # an answer, too
        finally:
            self.in_work -= 1
        size = {"width": picture.width, "height": picture.height}
        return JSONResponse(plain(prediction, metadata) | size)

    async def body(self, request: Request) -> bytes:
        """Return the bytes sent; raise HTTPException where they are too many, or too slow."""
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > MAX_BYTES:
            raise HTTPException(413, f"a picture may have {MAX_BYTES >> 20} MB")
        data = bytearray()
        try:
            async with asyncio.timeout(MAX_BODY_SECONDS):
                async for chunk in request.stream():
                    data += chunk
                    self.buffered += len(chunk)
                    if len(data) > MAX_BYTES:
                        raise HTTPException(413, f"a picture may have {MAX_BYTES >> 20} MB")
                    if self.buffered > MAX_BUFFERED:
                        raise HTTPException(503, BUSY)
        except TimeoutError:
            raise HTTPException(408, "the picture was sent too slowly") from None
        finally:
            self.buffered -= len(data)
        if not data:
            raise HTTPException(400, "no picture was sent")
        return bytes(data)


def create_app(
    predictor: Predictor, *, folder: Path, learn: Learn, token: str, hosts: Sequence[str], port: int
) -> Guard:
    """Return the ASGI application of a model.

    Args:
        folder: where the classes of a person's own are.
        learn: see `Teaching`.
        token, hosts, port: see `Guard`.
    """
    reader = Reader()
    asking = Asking(predictor, reader)
    teaching = Teaching(Project(folder), reader, learn, use=asking.use, body=asking.body)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        reader.close()
        teaching.close()

    async def page(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def health(request: Request) -> Response:
        return Response(b"ok\n", media_type="text/plain")

    async def ready(request: Request) -> Response:
        started = all(process.number.done() for process in reader.processes)
        return Response(b"ready\n" if started else b"starting\n", 200 if started else 503)

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = {"Retry-After": "1"} if error.status_code == 503 else None
        return JSONResponse({"error": error.detail}, error.status_code, headers)

    async def leave(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # the client has gone; nobody reads this

    routes: list[Any] = [
        Route("/", page),
        Route("/healthz", health),
        Route("/readyz", ready),
        Route("/api/models", asking.show_models),
        Route("/api/predict", asking.predict, methods=["POST"]),
        *runs.routes(),
        *teaching.routes(),
        Mount("/static", StaticFiles(directory=PAGE)),
        Mount("/web", StaticFiles(directory=SHARED)),
    ]
    handlers: Any = {HTTPException: refuse, ClientDisconnect: leave}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return Guard(app, token=token, hosts=hosts, port=port)
