"""Why an answer: a heat map of what it rests on, and the training images nearest to a picture.

POST /api/heat     a picture's bytes -> `heat`, rows of 0..1 over the `frame` of the picture
POST /api/nearest  a picture's bytes -> `nearest`; {"prepared": share} until features are computed

Both are asked for one picture at a time, and take ?model= as `predict` does.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tinysight.images import frame_of
from tinysight.predict.decoding import UInt8
from tinysight.predict.occlusion import Occlusion, occlusion
from tinysight.predict.predictor import Predictor
from tinysight.server.reading import Picture

if TYPE_CHECKING:
    from tinysight.server.model import Model

MAX_WAITING = 4  # pictures: each takes as long as many answers
PATIENCE = 1.0  # seconds, in which features may be ready without a second question


# file, class ("" without one), distance and image (S, S, 3) of a training image
Neighbor = tuple[str, str, float, UInt8]


class TrainingImages(Protocol):
    """Compares pictures with the images that a model was trained on, once it is prepared."""

    def prepare(self, progress: Callable[[int, int], None]) -> None: ...

    def nearest(self, image: UInt8) -> Sequence[Neighbor]: ...


FindTrainingImages = Callable[[Predictor], TrainingImages | None]


class Comparison:
    """The training images of a model, prepared when they are first asked for."""

    def __init__(self, images: TrainingImages) -> None:
        self.images, self.share, self.closed = images, 0.0, False
        self.task: asyncio.Task[None] | None = None

    async def nearest(self, picture: Picture) -> dict[str, Any]:
        """Return the nearest images, or the share of the preparation that is done."""
        if self.task is None:
            self.task = asyncio.create_task(asyncio.to_thread(self.images.prepare, self._note))
        await asyncio.wait({self.task}, timeout=PATIENCE)
        if not self.task.done():
            return {"prepared": self.share}
        if self.task.exception() is not None:
            task, self.task = self.task, None  # asked again, it is tried again
            task.result()
        found = await asyncio.to_thread(self.images.nearest, picture.square)
        return {"nearest": [_shown(neighbor) for neighbor in found]}

    def _note(self, done: int, total: int) -> None:
        self.share = done / total
        if self.closed:
            raise RuntimeError("the server has ended")  # in the thread, which ends


class Explaining:
    """Answers why.

    Args:
        picture: opens the picture of a request, and the model that is asked.
    """

    def __init__(
        self, picture: Callable[[Request], AbstractAsyncContextManager[tuple[Model, Picture]]]
    ) -> None:
        self.picture = picture
        self.waiting = 0
        self.turn = asyncio.Lock()

    def routes(self) -> list[Route]:
        """Return the paths."""
        return [
            Route("/api/heat", self._answered(_heat), methods=["POST"]),
            Route("/api/nearest", self._answered(_nearest), methods=["POST"]),
        ]

    def _answered(self, explain: Any) -> Any:
        @wraps(explain)
        async def answer(request: Request) -> Response:
            if self.waiting >= MAX_WAITING:
                raise HTTPException(503, "too many explanations at once; try again in a second")
            self.waiting += 1
            try:
                async with self.picture(request) as (model, picture), self.turn:
                    return JSONResponse(await explain(model, picture))
            except ValueError as error:
                return JSONResponse({"error": str(error)})
            finally:
                self.waiting -= 1

        return answer


async def _heat(model: Model, picture: Picture) -> dict[str, Any]:
    """Show what an answer rests on: shares of the largest effect, in rows over `frame`.

    Body: picture, as bytes. ?model= asks another model than the given one.
    """
    found: Occlusion = await asyncio.to_thread(occlusion, model.predictor, picture.square)
    frame = frame_of(picture.width, picture.height, model.predictor.metadata.fit)
    return {
        "class": found.label,
        "heat": [[round(share, 3) for share in row] for row in found.heat.tolist()],
        "frame": [frame.left, frame.top, frame.width, frame.height],
        "probability": found.probability,
        "covered": found.covered,
    }


async def _nearest(model: Model, picture: Picture) -> dict[str, Any]:
    """Show the training images nearest to a picture, or the share that is prepared.

    Body: picture, as bytes. ?model= asks another model than the given one.
    """
    if model.comparison is None:
        raise ValueError("the pictures that this model was trained on are not on this computer")
    return await model.comparison.nearest(picture)


def _shown(neighbor: Neighbor) -> dict[str, Any]:
    file, label, distance, image = neighbor
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    link = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    return {"file": file, "class": label, "distance": round(distance, 4), "image": link}
