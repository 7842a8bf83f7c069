"""Gather single pictures into batches while the model is busy with the batch before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Answer items one by one, computed in batches of up to `max_batch` in a thread.

    Nothing waits for a batch to fill: an item that finds the model idle is computed at once, and
    those that come in the meantime are the next batch.
    """

    def __init__(
        self, compute: Callable[[Sequence[Item]], Sequence[Answer]], *, max_batch: int = 32
    ) -> None:
        self.compute, self.max_batch = compute, max_batch
        self.waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self.worker: asyncio.Task[None] | None = None

    async def answer(self, item: Item) -> Answer:
        """Return the item's own answer; raises what `compute` raises for its batch."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.waiting.append((item, future))
        if self.worker is None or self.worker.done():
            self.worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self.waiting:
            batch = self.waiting[: self.max_batch]
            del self.waiting[: self.max_batch]
            batch = [pair for pair in batch if not pair[1].done()]  # its client has gone
            items = [item for item, _ in batch]
            try:
                answers = await asyncio.to_thread(self.compute, items) if items else []
                assert len(answers) == len(items)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
