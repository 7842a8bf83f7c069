"""Classes that a model proposes for the pictures of a gallery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from tinysight.predict.predictor import Predictor
from tinysight.server.gallery import Gallery
from tinysight.server.model import Model
from tinysight.server.reading import Reader

AT_ONCE = 16  # pictures that are asked about together
Proposals = tuple[list[int], list[float]]  # a class of each picture, -1 for none; its probability


class Proposing:
    """What a model says of pictures, each asked about once; no model at first."""

    def __init__(self, models: Mapping[str, Model], reader: Reader, gallery: Gallery) -> None:
        self.models, self.reader, self.gallery = models, reader, gallery
        self.name = ""
        self.predictor: Predictor | None = None  # that has answered
        self.found: dict[str, tuple[str, float]] = {}  # SHA-256 -> class and probability

    def choose(self, name: str) -> None:
        """Let another model propose; "": none. Raises ValueError where there is no such model."""
        if name and name not in self.choices():
            raise ValueError(f"there is no model {name!r} that knows classes; reload the page")
        self.name = name

    def choices(self) -> dict[str, list[str]]:
        """Return the models that know classes, with these."""
        described = {name: model.predictor.metadata for name, model in self.models.items()}
        return {name: list(own.class_names) for name, own in described.items() if own.classifies}

    def classes(self) -> list[str]:
        """Return the classes that may be proposed."""
        return self.choices()[self.name] if self.name else []

    async def ask(self, note: Callable[[int, int], None]) -> None:
        """Ask the model about pictures that it has not answered; `note` takes done and all."""
        if not self.name:
            return
        model = self.models[self.name]
        if model.predictor is not self.predictor:
            self.predictor, self.found = model.predictor, {}
        missing = [digest for digest in self.gallery.pictures if digest not in self.found]
        for start in range(0, len(missing), AT_ONCE):
            note(start, len(missing))
            group = missing[start : start + AT_ONCE]
            answers = await asyncio.gather(*(self._one(model, digest) for digest in group))
            self.found |= dict(zip(group, answers, strict=True))

    async def _one(self, model: Model, digest: str) -> tuple[str, float]:
        metadata = model.predictor.metadata
        try:
            path = self.gallery.folder / self.gallery.pictures[digest]
            data = await asyncio.to_thread(path.read_bytes)
            square = await self.reader.read(data, metadata.image_size, metadata.fit)
        except (ValueError, OSError):
            return "", 0.0  # gone since it was looked at
        answer = await model.batcher.answer(square)
        return ("", 0.0) if answer.is_none else (answer.label, answer.probability)

    def of(self, digests: Sequence[str], classes: Sequence[str]) -> Proposals | None:
        """Return what is proposed for pictures, as places in `classes`."""
        if not self.name:
            return None
        places = {name: place for place, name in enumerate(classes)}
        found = [self.found.get(digest, ("", 0.0)) for digest in digests]
        return [places.get(name, -1) for name, _ in found], [share for _, share in found]
