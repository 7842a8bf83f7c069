"""Sort: the pictures of a folder, labeled in groups; none of them is moved or changed.

    GET  /api/sort               classes, and how far it is; the folder is looked at from then on
    POST /api/sort/groups        groups of pictures without a label, as the labels so far give them
    POST /api/sort/judge         how good a model the labels make
    POST /api/sort/labels        {"labels": {PICTURE: class, or null}} -> {"old": {...}}
    POST /api/sort/propose       ?model= proposes classes from then on; without: none does
    POST /api/sort/folders       sort pictures in folders, too: folders are not classes
    POST /api/sort/learn         learn the labels; the taught model answers then
    GET  /api/sort/class/CLASS   the pictures with a label, the latest first
    GET  /api/sort/picture/ID    a small image
    GET  /api/sort/file/ID       the picture's file
    POST /api/corrections        ?name=&old=&new= of a picture's bytes, wherever it comes from
    POST /api/boxes              ?name=&label=&boxes= of a picture's bytes, wherever it comes from

A picture is named by the SHA-256 of its file. Labels are kept in `corrections.jsonl` in the folder:
`tinysight data import FOLDER --corrections FILE` takes them in.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tinysight.corrections import LabeledBox, current_boxes, parse_boxes
from tinysight.data.corrected_folder import class_folders
from tinysight.data.tree import Folder, images_below
from tinysight.images import Fit
from tinysight.predict.decoding import UInt8
from tinysight.predict.predictor import Predictor
from tinysight.server.gallery import Gallery
from tinysight.server.model import Model
from tinysight.server.project import checked
from tinysight.server.proposing import Proposals, Proposing
from tinysight.server.reading import Reader
from tinysight.server.teaching import FROM, Body, Taught, answered
from tinysight.server.worker import Worker

AT_ONCE = 16  # pictures that are looked at together
FEW = 35  # classes; each has a key
MAX_FILE = 200 << 20  # bytes of a picture in the folder
MAX_PATH, MAX_LABEL = 400, 200  # letters that a browser gives
MAX_LOOK = 5.0  # seconds that a request waits until all pictures have been looked at
MIN_SIDE = 2  # pixels of a box
NAMED = 5  # pictures that could not be read
THUMBNAIL_HEADERS = {"Cache-Control": "private, max-age=86400, immutable"}  # by content


class Sorter(Protocol):
    """What the worker computes; see `api.sort`."""

    @property
    def begin(self) -> Callable[[Path], tuple[int, Fit, set[str]]]: ...
    @property
    def look(self) -> Callable[[Path, Sequence[str], UInt8], None]: ...
    @property
    def arrange(
        self,
    ) -> Callable[
        [Path, Sequence[str], Sequence[int], Proposals | None], list[tuple[int, list[int]]]
    ]: ...
    @property
    def judge(self) -> Callable[[Path, Sequence[str], Sequence[int]], dict[str, float]]: ...
    @property
    def learn(self) -> Callable[[Path], dict[str, Any]]: ...
    @property
    def dataset_name(self) -> Callable[[Path], str]: ...


class Sorting:
    """A gallery on the page, looked at in the background."""

    def __init__(
        self,
        folder: Path,
        reader: Reader,
        worker: Worker,
        sorter: Sorter,
        *,
        models: Mapping[str, Model],
        use: Callable[[Predictor], None],
        body: Body,
    ) -> None:
        self.gallery, self.reader, self.worker = Gallery(folder), reader, worker
        self.sorter, self.proposing = sorter, Proposing(models, reader, self.gallery)
        self.taught, self.body, self.turn = Taught(use), body, asyncio.Lock()
        self.task: asyncio.Task[None] | None = None
        self.done = self.total = 0
        self.failed: list[tuple[str, str]] = []  # path, and why
        self.hashes: dict[str, tuple[object, str]] = {}  # path -> (size and time, SHA-256)

    def routes(self) -> list[Route]:
        """Return the paths of Sort."""
        writing: dict[str, Any] = {"methods": ["POST"]}
        return [
            Route("/api/sort", answered(self._show)),
            Route("/api/sort/groups", answered(self._groups), **writing),
            Route("/api/sort/judge", answered(self._judge), **writing),
            Route("/api/sort/labels", answered(self._label), **writing),
            Route("/api/sort/propose", answered(self._propose), **writing),
            Route("/api/sort/folders", answered(self._leave_folders), **writing),
            Route("/api/sort/learn", answered(self._learn), **writing),
            Route("/api/corrections", answered(self._correct), **writing),
            Route("/api/boxes", answered(self._box), **writing),
            Route("/api/sort/class/{name}", answered(self._class)),
            Route("/api/sort/picture/{digest}", self._picture),
            Route("/api/sort/file/{digest}", self._file),
        ]

    def close(self) -> None:
        """Stop looking."""
        if self.task is not None:
            self.task.cancel()

    async def _show(self, request: Request) -> dict[str, Any]:
        """Return classes and how far it is; the folder is looked at from then on, ?look= again."""
        if self.task is None or (self.task.done() and "look" in request.query_params):
            self.done = self.total = 0
            self.task = asyncio.create_task(self._look())
        if not self.task.done():
            return {"looking": True, "done": self.done, "total": self.total}
        self.task.result()
        gallery = self.gallery
        await asyncio.to_thread(gallery.read)
        labels = [gallery.label(digest) for digest in gallery.pictures]
        counts = Counter(label for label in labels if label)
        name = await asyncio.to_thread(self.sorter.dataset_name, gallery.folder)
        words = ["tinysight", "data", "import", str(gallery.folder), "--name", name]
        words += ["--skip-unreadable"] * bool(self.failed)  # as learning here leaves them out
        words += ["--corrections", str(gallery.path)]
        words += ["--only-labels"] * any(current_boxes(gallery.lines).values())
        imported = shlex.join(words)
        return {
            "looking": False,
            "folder": str(gallery.folder),
            "pictures": len(labels),
            "labeled": sum(counts.values()),
            "in_folders": sum(map(bool, gallery.by_folder.values())) * gallery.folders_count,
            "failed": [f"{path[:200]}: {why}" for path, why in self.failed[:NAMED]],
            "num_failed": len(self.failed),
            "classes": [{"name": own, "count": counts[own]} for own in self._classes()],
            "models": self.proposing.choices(),
            "proposing": self.proposing.name,
            "commands": [imported, shlex.join(["tinysight", "finetune", name, *FROM])],
            "learned": self.taught.found,
        }

    async def _look(self) -> None:
        """Find the pictures, and compute the features of those that are not known."""
        tree = Folder(self.gallery.folder, any_name=True)
        found: dict[str, str] = {}
        self.failed = []
        images: list[str] = []
        if self.gallery.folder.is_dir():
            images = sorted(await asyncio.to_thread(images_below, tree, "", only_images=True))
        self.total, folders = len(images), class_folders(images)
        size, fit, known = await self.worker.run(self.sorter.begin, self.gallery.folder)
        for start in range(0, len(images), AT_ONCE):
            group = images[start : start + AT_ONCE]
            seen = await asyncio.gather(*(self._one(each, size, fit, known) for each in group))
            fresh = {digest: square for digest, square in seen if square is not None}
            if fresh:
                squares = np.stack(list(fresh.values()))
                own = (self.gallery.folder, list(fresh), squares)
                await self.worker.run(self.sorter.look, *own)
                known |= set(fresh)
            for path, (digest, _) in zip(group, seen, strict=True):
                if digest and (folders[path] or digest not in found):
                    found[digest] = path  # of equal files one in a class folder
        await asyncio.to_thread(self.gallery.set_pictures, found)
        await self.proposing.ask(self._note)

    def _note(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def _classes(self) -> list[str]:
        """List the classes: a model's few ones first, so that each keeps its key."""
        own, proposed = self.gallery.classes(), self.proposing.classes()
        order = (proposed, own) if len(proposed) <= FEW else (own, proposed)
        return list(dict.fromkeys(name for names in order for name in names))

    async def _propose(self, request: Request) -> dict[str, Any]:
        """Let a model, ?model=, propose classes; without one, labels alone do."""
        await self._looked()
        self.proposing.choose(request.query_params.get("model", ""))
        self.done = self.total = 0
        self.task = asyncio.create_task(self.proposing.ask(self._note))
        return {}

    async def _one(
        self, image: str, size: int, fit: Fit, known: set[str]
    ) -> tuple[str, UInt8 | None]:
        """Return a file's SHA-256 and, where it is not known, its square; "" if unreadable."""
        path, square = self.gallery.folder / image, None
        try:
            status = await asyncio.to_thread(path.stat)
            mark: object = (status.st_size, status.st_mtime_ns)
            if status.st_size > MAX_FILE:
                raise ValueError(f"it has more than {MAX_FILE >> 20} MB")
            cached, digest = self.hashes.get(image, (None, ""))
            if cached != mark or digest not in known:
                data = await asyncio.to_thread(path.read_bytes)
                digest = (await asyncio.to_thread(hashlib.sha256, data)).hexdigest()
                if digest not in known:
                    square = (await self.reader.read(data, size, fit)).square
            self.hashes[image] = (mark, digest)
            return digest, square
        except (ValueError, OSError) as error:
            self.failed.append((image, getattr(error, "strerror", None) or str(error)))
            return "", None
        finally:
            self.done += 1

    async def _state(self) -> tuple[list[str], list[str], list[int]]:
        """Return the pictures, the classes, and the pictures' labels as places in these."""
        await self._looked()
        gallery = self.gallery
        await asyncio.to_thread(gallery.read)
        classes = self._classes()
        places = {name: place for place, name in enumerate(classes)}
        labels = [places.get(gallery.label(digest) or "", -1) for digest in gallery.pictures]
        return list(gallery.pictures), classes, labels

    async def _groups(self, request: Request) -> dict[str, Any]:
        """Group pictures without a label, as the labels so far give them."""
        digests, classes, labels = await self._state()
        found: list[tuple[int, list[int]]] = []
        if -1 in labels:
            own = (self.gallery.folder, digests, labels, self.proposing.of(digests, classes))
            found = await self.worker.run(self.sorter.arrange, *own)
        return {
            "groups": [
                {
                    "class": classes[label] if label >= 0 else None,
                    "pictures": self._named([digests[place] for place in places]),
                }
                for label, places in found
            ]
        }

    async def _judge(self, request: Request) -> dict[str, Any]:
        """Cross-validate a model of the labels."""
        digests, _, labels = await self._state()
        return dict(await self.worker.run(self.sorter.judge, self.gallery.folder, digests, labels))

    async def _label(self, request: Request) -> dict[str, Any]:
        """Keep labels. Body: JSON, {"labels": {PICTURE: class, or null}}."""
        await self._looked()
        await asyncio.to_thread(self.gallery.read)
        known = self.gallery.known_names() | set(self._classes())
        try:
            wanted = json.loads(await self.body(request))["labels"]
            labels = {str(digest): _class_name(name, known) for digest, name in wanted.items()}
        except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError):
            raise ValueError('expected {"labels": {PICTURE: class, or null}}') from None
        if set(labels) - set(self.gallery.pictures):
            raise ValueError("a picture is not in the folder any more; open this view again")
        async with self.turn:
            return {"old": await asyncio.to_thread(self.gallery.correct, labels)}

    async def _correct(self, request: Request) -> dict[str, Any]:
        """Keep the label ?new= of a picture of ?name=, whose answer was ?old=. Body: picture."""
        query = request.query_params
        old, new, name = (query.get(key) for key in ("old", "new", "name"))
        _check_label(new)
        data = await self.body(request)
        async with self.turn:
            own = ((name or "")[:MAX_PATH], old and old[:MAX_LABEL], new)
            await asyncio.to_thread(self.gallery.note, data, *own)
        return {}

    async def _box(self, request: Request) -> dict[str, Any]:
        """Keep the boxes of a picture, ?boxes= (null: no more), whose class is ?label=.

        Body: picture. ?name= is its name. Boxes are JSON, as in `corrections.jsonl`.
        """
        query, boxes = request.query_params, None
        data = await self.body(request)
        try:
            given = json.loads(query.get("boxes", ""))
        except (ValueError, RecursionError):
            raise ValueError('expected ?boxes=[{"box": [x0, y0, x1, y1], "label": ...}]') from None
        if given is not None:
            boxes = parse_boxes(given)
            picture = await self.reader.read(data, MIN_SIDE, "pad")
            for number, each in enumerate(boxes, 1):
                _check_box(each, number, picture.width, picture.height)
        async with self.turn:
            label = query.get("label", "")[:MAX_LABEL] or None
            own = (query.get("name", "")[:MAX_PATH], label, boxes)
            await asyncio.to_thread(self.gallery.note_boxes, data, *own)
        return {}

    async def _leave_folders(self, request: Request) -> dict[str, Any]:
        """Sort pictures in class folders, too; with ?are_classes= do not."""
        self.gallery.folders_count = "are_classes" in request.query_params
        self.gallery.seen = None
        return {}

    async def _learn(self, request: Request) -> dict[str, Any]:
        """Learn the labels; the taught model answers then."""
        await self._looked()
        await asyncio.to_thread(self.gallery.keep_choice)
        found = await self.worker.run(self.sorter.learn, self.gallery.folder)
        return await self.taught.adopt(found)

    async def _class(self, request: Request) -> dict[str, Any]:
        """List the pictures with a label, the latest first."""
        await self._looked()
        gallery, name = self.gallery, request.path_params["name"]
        latest = {line.sha256: place for place, line in enumerate(gallery.lines)}
        own = [digest for digest in gallery.pictures if gallery.label(digest) == name]
        own.sort(key=lambda digest: -latest.get(digest, -1))
        return {"pictures": self._named(own)}

    async def _picture(self, request: Request) -> Response:
        """Return a small image."""
        try:
            small = await self.reader.thumbnail(await self._content(request))
        except ValueError as error:
            raise HTTPException(404, str(error)) from None
        return Response(small, media_type="image/jpeg", headers=THUMBNAIL_HEADERS)

    async def _file(self, request: Request) -> Response:
        """Return a picture's file."""
        return Response(await self._content(request), media_type="application/octet-stream")

    async def _content(self, request: Request) -> bytes:
        path = self.gallery.pictures.get(request.path_params["digest"])
        if path is None:
            raise HTTPException(404, "there is no such picture")
        try:
            return await asyncio.to_thread((self.gallery.folder / path).read_bytes)
        except OSError as error:
            raise HTTPException(404, f"{path}: {error.strerror}") from None

    async def _looked(self) -> None:
        if self.task is None:  # the server was started again, and a page is still open
            self.task = asyncio.create_task(self._look())
        done, _ = await asyncio.wait({self.task}, timeout=MAX_LOOK)
        if not done:
            raise ValueError("the pictures are still being looked at")
        self.task.result()

    def _named(self, digests: Sequence[str]) -> list[dict[str, str]]:
        return [{"id": digest, "name": self.gallery.pictures[digest]} for digest in digests]


def _class_name(name: Any, known: set[str]) -> str | None:
    """Return a class's name, null as None; names that are there already need not be good ones."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"{name!r} is not a class")
    return name if name is None or name in known else checked(name)


def _check_label(name: str | None) -> None:
    if name is not None and not (name.strip() and name.isprintable() and len(name) <= MAX_LABEL):
        raise ValueError(f"a class's name has 1 to {MAX_LABEL} letters, in one line")


def _check_box(each: LabeledBox, number: int, width: int, height: int) -> None:
    x0, y0, x1, y1 = each.box
    _check_label(each.label)
    if not (x0 >= 0 <= y0 and x1 <= width and y1 <= height and min(x1 - x0, y1 - y0) >= MIN_SIDE):
        raise ValueError(
            f"box {number} is {list(each.box)}; expected {MIN_SIDE} pixels or more per side, "
            f"within the picture's {width} x {height}"
        )
