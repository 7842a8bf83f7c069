"""The application: what can be asked of the server, as paths.

GET  /             the page
GET  /api/models   what the models are: the given one, and the one that was taught
POST /api/predict  a picture's bytes -> its answer, as `tinysight predict --json` prints it, or
                   {"error"} where it cannot be read; ?model=taught asks the other model
POST /api/heat, /api/nearest   why; see `explaining`
GET  /api/runs     runs, and /api/runs/NAME with its curves; /runs/NAME/report is its report
GET  /openapi.json what all paths take and give, for programs
GET  /healthz      the process is there; /readyz: it can answer
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from tinysight.predict.output import plain
from tinysight.predict.predictor import Predictor
from tinysight.server import openapi, runs, site
from tinysight.server.explaining import Explaining, FindTrainingImages
from tinysight.server.guard import Guard
from tinysight.server.model import Model
from tinysight.server.project import Project
from tinysight.server.reading import Picture, Reader
from tinysight.server.sorting import Sorter, Sorting
from tinysight.server.teaching import Learn, Teaching
from tinysight.server.worker import Worker

ASKED = ("/api/predict", "/api/heat", "/api/nearest")  # with a picture
BUSY = "too many pictures at once; try again in a second"
PAGE = Path(__file__).with_name("page")
SHARED = PAGE.parent.parent / "web"  # with the page that an export writes
MAX_BYTES = 20 << 20  # of a picture
MAX_BUFFERED = 512 << 20  # of all pictures that are being sent, together
MAX_BODY_SECONDS = 30.0
MAX_IN_WORK = 32  # pictures that are decoded or answered
MIN_IN_WORK = 4  # as many as one page sends at once
MAX_WAIT = 0.2  # seconds that the next picture may be expected to wait for its answer


class Asking:
    """Answer pictures by a model, as many at a time as can be answered soon."""

    def __init__(
        self, predictor: Predictor, reader: Reader, training_images: FindTrainingImages
    ) -> None:
        self.models: dict[str, Model] = {}
        self.training_images, self.reader = training_images, reader
        self.in_work = self.buffered = 0
        self.pace = self.latest = 0.0  # seconds per answer, and the time of the latest
        self.use(predictor, "given")

    def use(self, predictor: Predictor, name: str = "taught") -> None:
        """Answer by a model, too."""
        self.models[name] = Model(predictor, self.training_images(predictor))

    def close(self) -> None:
        """Stop what computes for later."""
        for model in self.models.values():
            if model.comparison is not None:
                model.comparison.closed = True

    async def show_models(self, request: Request) -> Response:
        """Describe the models."""
        return JSONResponse({name: model.describe() for name, model in self.models.items()})

    async def predict(self, request: Request) -> Response:
        """Answer a picture, as `tinysight predict --json` prints it.

        Body: picture, as bytes. ?model= asks another model than the given one.
        """
        begun = time.monotonic()
        try:
            async with self.picture(request) as (model, picture):
                prediction = await model.batcher.answer(picture)
                self._measure(begun)
        except ValueError as error:
            return JSONResponse({"error": str(error)})  # an answer, too
        size = {"width": picture.width, "height": picture.height}
        return JSONResponse(plain(prediction, model.predictor.metadata) | size)

    @asynccontextmanager
    async def picture(self, request: Request) -> AsyncIterator[tuple[Model, Picture]]:
        """Give the model that is asked and the picture that was sent, which is in work meanwhile.

        Raises ValueError where the picture cannot be read, HTTPException where there are too many.
        """
        model = self.models.get(request.query_params.get("model", "given"))
        if model is None:
            raise HTTPException(404, "there is no such model; teach it first")
        data = await self.body(request)
        if self.is_busy():  # others were sent sooner
            raise HTTPException(503, BUSY)
        self.in_work += 1
        metadata = model.predictor.metadata
        try:
            yield model, await self.reader.read(data, metadata.image_size, metadata.fit)
        finally:
            self.in_work -= 1

    def is_busy(self) -> bool:
        """Whether a picture would wait too long for its answer, however fast the machine is."""
        expected = (self.in_work + 1) * self.pace
        slow = self.in_work >= MIN_IN_WORK and expected > MAX_WAIT
        return slow or self.in_work >= MAX_IN_WORK

    def _measure(self, begun: float) -> None:
        """Note how long one more answer took, where several are in work."""
        now = time.monotonic()
        if self.in_work > MIN_IN_WORK:
            self.pace += (now - max(self.latest, begun) - self.pace) / 32
        self.latest = now

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
    predictor: Predictor,
    *,
    folder: Path,
    learn: Learn,
    sorter: Sorter,
    training_images: FindTrainingImages,
    token: str,
    hosts: Sequence[str],
    port: int,
) -> Guard:
    """Return the ASGI application of a model.

    Args:
        folder: where the classes of a person's own are.
        learn: see `Teaching`.
        sorter: see `Sorting`.
        training_images: finds the images that a model was trained on; None: they are not here.
        token, hosts, port: see `Guard`.
    """
    reader = Reader()
    asking = Asking(predictor, reader, training_images)
    worker = Worker(partial(learn, None))
    own: dict[str, Any] = {"use": asking.use, "body": asking.body}
    teaching = Teaching(Project(folder), reader, worker, learn, **own)
    sorting = Sorting(folder, reader, worker, sorter, models=asking.models, **own)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        asking.close()
        sorting.close()
        reader.close()
        worker.close()

    async def ready(request: Request) -> Response:
        """Say whether pictures can be answered."""
        started = all(process.number.done() for process in reader.processes)
        return Response(b"ready\n" if started else b"starting\n", 200 if started else 503)

    routes: list[Any] = [
        *site.routes(PAGE),
        Route("/readyz", ready),
        Route("/api/models", asking.show_models),
        Route("/api/predict", asking.predict, methods=["POST"]),
        *Explaining(asking.picture).routes(),
        *runs.routes(),
        *teaching.routes(),
        *sorting.routes(),
        Mount("/web", StaticFiles(directory=SHARED)),
    ]
    routes.append(openapi.route(routes))
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=site.HANDLERS)

    async def app_unless_busy(scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what would wait too long before anything else is spent on it."""
        refused = scope["type"] == "http" and scope["path"] in ASKED and asking.is_busy()
        await (site.refusal(503, BUSY) if refused else app)(scope, receive, send)

    return Guard(app_unless_busy, token=token, hosts=hosts, port=port)
