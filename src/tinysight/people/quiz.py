"""The quiz as it is asked over HTTP; an answer is acknowledged once it is committed.

GET    /                        the page
GET    /api/quiz                what is asked: classes in groups, images per person, networks
POST   /api/people              {game} -> {code} of a new person
GET    /api/people/CODE         the items, which of them are answered, and the classes
GET    /api/people/CODE/KEY     the picture of an item
POST   /api/people/CODE/KEY     an answer -> the answer that is kept
POST   /api/people/CODE/KEY/also  {name, fits}: whether another class is right, too
GET    /api/people/CODE/result  when all is answered: a person and networks on the same images
DELETE /api/people/CODE         all that is kept of a person
GET    /api/gallery/ROW         a training image of the gallery; ROW/small has fewer pixels
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from PIL import Image
from scipy import stats
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tinysight.people.answers import RULES, exclusions, gather, shown_name
from tinysight.people.material import Material
from tinysight.people.store import Game, Given, Person, Store, UnavailableError
from tinysight.server import site
from tinysight.server.guard import Guard

logger = logging.getLogger("tinysight")
PAGE = Path(__file__).with_name("page")
SIDE = 320  # pixels of a picture as it is shown, enlarged by one filter for all
SMALL = 128  # of an example in the list of classes
DRAWING = 2  # pictures that are enlarged at once
MAX_BODY = 4096  # bytes of an answer
MAX_TEXT = 64
INSTRUCTIVE = 5


class Quiz:
    """A study that people take part in: what it shows, and where answers go."""

    def __init__(
        self, material: Material, store: Store, guesses: int = 1, preview: bool = False
    ) -> None:
        self.material, self.store, self.guesses = material, store, guesses
        self.preview = preview  # the page says that nothing is kept
        self.picture = lru_cache(1024)(self._picture)
        self.choices = lru_cache(1024)(self._choices)  # they stay, and each answer is checked
        self.done: set[int] = set()  # numbers of people whose end was said
        self.drawing = ThreadPoolExecutor(DRAWING)  # of their own: answers do not wait for pictures

    def routes(self) -> list[Route]:
        """Return the paths of the quiz."""
        person, item = "/api/people/{code}", "/api/people/{code}/{key}"
        return [
            Route("/api/quiz", _answered(self._show)),
            Route("/api/people", _answered(self._register), methods=["POST"]),
            Route(person, _answered(self._person), methods=["GET"]),
            Route(person, _answered(self._delete), methods=["DELETE"]),
            Route(f"{person}/result", _answered(self._result), methods=["GET"]),
            Route(item, _answered(self._show_picture), methods=["GET"]),
            Route(item, _answered(self._answer), methods=["POST"]),
            Route(f"{item}/also", _answered(self._mark), methods=["POST"]),
            Route("/api/gallery/{row:int}", _answered(self._show_known), methods=["GET"]),
            Route("/api/gallery/{row:int}/small", _answered(self._show_known), methods=["GET"]),
        ]

    async def _show(self, request: Request) -> dict[str, Any]:
        material = self.material
        data = material.dataset
        games: tuple[Game, ...] = ("full", "quick")
        classes = {game: await asyncio.to_thread(self._classes, game) for game in games}
        practice = {
            game: [(row, data.class_names[data.labels[row]]) for row in material.practice(own)]
            for game, own in classes.items()
        }
        return {
            "data": data.name,
            "num_images": material.num_images,
            "guesses": self.guesses,
            "preview": self.preview,
            "rules": RULES,
            "networks": list(material.networks),
            "groups": [
                [name, [data.class_names[i] for i in own]] for name, own in material.groups.items()
            ],
            "synonyms": material.synonyms,
            "gallery": {data.class_names[i]: rows for i, rows in material.gallery.items()},
            "practice": practice,
        }

    async def _register(self, request: Request) -> dict[str, Any]:
        game = (await _body(request)).get("game")
        if game not in ("full", "quick"):
            raise ValueError("the game is full or quick")
        return {"code": await asyncio.to_thread(self.enter, game)}

    def enter(self, game: Game) -> str:
        """Enter a new person into the store; return the code."""
        names, classes = self.material.dataset.class_names, self._classes(game)
        guesses = self.guesses if game == "full" else 1
        plan = partial(self.material.plan, game, classes)
        code, number = self.store.register(game, [names[i] for i in classes], plan, guesses)
        logger.info("%s began the %s game", shown_name(number), game)
        return code

    def _classes(self, game: Game) -> tuple[int, ...]:
        """Return the classes of a game: of the people before, so that all are asked the same."""
        if game == "full" or (known := self.store.classes(game)) is None:
            return self.material.classes(game)
        return tuple(map(self.material.dataset.class_names.index, known))

    def _choices(self, code: str) -> tuple[str, ...]:
        return self.store.person(code).classes

    async def _find(self, request: Request) -> Person:
        return await asyncio.to_thread(self.store.person, request.path_params["code"])

    async def _person(self, request: Request) -> dict[str, Any]:
        person = await self._find(request)
        items = [{"key": key, "answered": kept is not None} for key, _, kept in person.items]
        own = {"game": person.game, "classes": person.classes, "guesses": person.guesses}
        return own | {"items": items}

    async def _delete(self, request: Request) -> dict[str, Any]:
        code = request.path_params["code"]
        return {"deleted": await asyncio.to_thread(self.store.delete, code)}

    async def _answer(self, request: Request) -> dict[str, Any]:
        code, key = request.path_params["code"], request.path_params["key"]
        body = await _body(request)
        given = _read(body, await asyncio.to_thread(self.choices, code))
        kept = await asyncio.to_thread(self.store.answer, code, key, given)
        return {"response": kept.response}

    async def _mark(self, request: Request) -> dict[str, Any]:
        code, key = request.path_params["code"], request.path_params["key"]
        body = await _body(request)
        name, fits = body.get("name"), body.get("fits")
        choices = await asyncio.to_thread(self.choices, code)
        if name not in choices or not isinstance(fits, bool):
            raise ValueError("expected one of the person's classes, and whether it is right, too")
        await asyncio.to_thread(self.store.mark, code, key, name, fits)
        return {"fits": fits}

    async def _show_picture(self, request: Request) -> Response:
        code, key = request.path_params["code"], request.path_params["key"]
        row = await asyncio.to_thread(self.store.image_row, code, key)
        if row is None:
            raise HTTPException(404, "no such image was shown to this person")
        return await self._draw(row, SIDE)

    async def _show_known(self, request: Request) -> Response:
        row = request.path_params["row"]
        if row not in self.material.dataset.rows("train"):  # images of the study are not shown
            raise HTTPException(404, "this is not a training image")
        return await self._draw(row, SMALL if request.url.path.endswith("small") else SIDE)

    async def _draw(self, row: int, side: int) -> Response:
        loop = asyncio.get_running_loop()
        content = await loop.run_in_executor(self.drawing, self.picture, row, side)
        return Response(content, media_type="image/png")

    def _picture(self, row: int, side: int) -> bytes:
        image = Image.fromarray(self.material.dataset.images[row])
        content = io.BytesIO()
        # Level 6, the usual one, takes four times as long and saves a tenth
        image.resize((side, side), Image.Resampling.BICUBIC).save(content, "png", compress_level=1)
        return content.getvalue()

    async def _result(self, request: Request) -> dict[str, Any]:
        person, code = await self._find(request), request.path_params["code"]
        names = self.material.dataset.class_names
        classes = [names.index(name) for name in person.classes]
        counted = [each for each in person.items if each[1].kind in ("core", "main")]
        if not counted or any(kept is None for _, _, kept in person.items):
            raise ValueError("the result comes when all images are answered")
        if person.number not in self.done:
            self.done.add(person.number)
            name = shown_name(person.number)
            logger.info("%s has answered all of the %s game", name, person.game)
        said = {
            network: [names[self.material.network_answer(network, item.row, classes)]
                      for _, item, _ in counted]
            for network in self.material.networks
        }  # fmt: skip
        own = [kept.response for _, _, kept in counted if kept is not None]
        targets = [item.target for _, item, _ in counted]
        shares = {"you": _share(own, targets)}
        shares |= {network: _share(given, targets) for network, given in said.items()}
        order = []
        for i, target in enumerate(targets):
            right = [given[i] == target for given in said.values()]
            if own[i] != target or not all(right):  # most instructive: where only one is right
                order.append((-abs(len(right) * (own[i] == target) - sum(right)), i))
        marks = await asyncio.to_thread(self.store.marks_of, code)
        instructive = [
            {"key": counted[i][0], "target": targets[i], "you": own[i],
             "networks": {network: given[i] for network, given in said.items()},
             "marks": marks.get(counted[i][0], {})}
            for _, i in sorted(order)[:INSTRUCTIVE]
        ]  # fmt: skip
        excluded = next(iter(exclusions(gather(person.answers, names)).values()), None)
        return {"shares": shares, "instructive": instructive, "excluded": excluded}


def create_app(quiz: Quiz, *, token: str, hosts: Sequence[str], port: int) -> Guard:
    """Return the ASGI application of a quiz; see `Guard`."""
    routes = [*site.routes(PAGE), *quiz.routes()]
    app = Starlette(routes=routes, exception_handlers=site.HANDLERS)
    return Guard(app, token=token, hosts=hosts, port=port)


def _share(given: Sequence[str | None], targets: Sequence[str]) -> list[float]:
    """Return the share that is right, with Wilson's interval."""
    right = sum(one == other for one, other in zip(given, targets, strict=True))
    interval = stats.binomtest(right, len(targets)).proportion_ci(method="wilson")
    return [right / len(targets), float(interval.low), float(interval.high)]


def _read(body: dict[str, Any], names: Sequence[str]) -> Given:
    """Check what a page sent as an answer among the person's classes; raise ValueError where it
    is not one.
    """
    response, seconds = body.get("response"), body.get("seconds")
    further, screen = body.get("further", []), body.get("screen", "")
    if "response" not in body or not (response is None or response in names):
        raise ValueError("the answer is not one of this game's classes; load the page again")
    timed = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (timed and 0 <= seconds < 1e6):
        raise ValueError("the time of an answer is not a number of seconds")
    known = isinstance(further, list) and all(guess in names for guess in further)
    if not known or (further and len({response, *further} - {None}) <= len(further)):
        raise ValueError("further guesses are classes, each another one, after a first")
    if not isinstance(screen, str) or len(screen) > MAX_TEXT:
        raise ValueError("the size of the screen is not a short text")
    return Given(response, seconds, tuple(further), screen)


async def _body(request: Request) -> dict[str, Any]:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise HTTPException(413, "an answer is shorter")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object")
    return found


def _answered(
    act: Callable[[Request], Awaitable[dict[str, Any] | Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Answer, in JSON; `error` where it was not done, which a 503 asks to try again."""

    async def answer(request: Request) -> Response:
        try:
            found = await act(request)
            return found if isinstance(found, Response) else JSONResponse(found)
        except UnavailableError as error:
            return site.refusal(503, str(error))
        except ValueError as error:
            return site.refusal(400, str(error))

    return answer
