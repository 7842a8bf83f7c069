"""The batcher: each item gets its own answer, in batches that never grow beyond the limit."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence

import pytest

from tinysight.server.batching import Batcher


def test_each_of_many_items_gets_its_own_answer_in_batches() -> None:
    sizes: list[int] = []
    all_have_come = threading.Event()

    def compute(items: Sequence[int]) -> list[int]:
        assert all_have_come.wait(30)
        sizes.append(len(items))
        return [item * item for item in items]

    async def ask_all() -> list[int]:
        batcher = Batcher(compute, max_batch=8)
        order = random.Random(0).sample(range(1000), 1000)

        async def ask(item: int) -> int:
            return await batcher.answer(item) - item * item

        tasks = [asyncio.create_task(ask(item)) for item in order]
        await asyncio.sleep(0.05)
        all_have_come.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(ask_all()) == [0] * 1000
    assert sizes == [8] * 125


def test_an_idle_model_answers_at_once_and_what_comes_meanwhile_is_the_next_batch() -> None:
    batches: list[list[int]] = []
    first_has_begun, others_have_come = threading.Event(), threading.Event()

    def compute(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        first_has_begun.set()
        assert others_have_come.wait(5)
        return list(items)

    async def ask_all() -> None:
        batcher = Batcher(compute)
        first = asyncio.create_task(batcher.answer(0))
        await asyncio.to_thread(first_has_begun.wait, 5)
        others = [asyncio.create_task(batcher.answer(item)) for item in (1, 2, 3)]
        await asyncio.sleep(0)
        others_have_come.set()
        assert await asyncio.gather(first, *others) == [0, 1, 2, 3]

    asyncio.run(ask_all())
    assert batches == [[0], [1, 2, 3]]


def test_an_error_reaches_its_batch_and_the_next_one_is_answered() -> None:
    def compute(items: Sequence[int]) -> list[float]:
        return [1 / item for item in items]

    async def ask_all() -> None:
        batcher = Batcher(compute)
        with pytest.raises(ZeroDivisionError):
            await batcher.answer(0)
        assert await batcher.answer(4) == 0.25

    asyncio.run(ask_all())


def test_an_item_whose_client_has_gone_is_not_computed() -> None:
    seen: list[int] = []
    go_on = threading.Event()

    def compute(items: Sequence[int]) -> list[int]:
        seen.extend(items)
        assert go_on.wait(5)
        return list(items)

    async def ask_all() -> None:
        batcher = Batcher(compute)
        first = asyncio.create_task(batcher.answer(1))
        await asyncio.sleep(0.05)
        gone, kept = (asyncio.create_task(batcher.answer(item)) for item in (2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.gather(first, kept) == [1, 3]

    asyncio.run(ask_all())
    assert seen == [1, 3]
