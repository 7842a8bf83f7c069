"""Loader by number: the same batches in any order and with any number of processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pytest
import torch

from tinysight.data.batches import (
    Batch,
    Loader,
    balanced_subset,
    derived_seed,
    epoch_order,
    prefetch,
)
from tinysight.ops.augment import TransformParams, sample

SIZE = 8


def _batches(
    num_rows: int = 23,
    batch_size: int = 6,
    *,
    seed: int = 0,
    shard: slice | None = None,
    first: int = 5,
) -> Loader:
    """Load `num_rows` rows from `first` on; images and labels are the row's number."""
    num_all = first + num_rows + 3
    images = np.broadcast_to(
        np.arange(num_all, dtype=np.uint8)[:, None, None, None], (num_all, SIZE, SIZE, 3)
    )
    return Loader(
        images,
        np.arange(num_all, dtype=np.int64),
        np.arange(first, first + num_rows, dtype=np.int64),
        draw=lambda count, generator: sample(count, source_size=SIZE, crop=4, generator=generator),
        batch_size=batch_size,
        seed=seed,
        shard=shard or slice(0, min(batch_size, num_rows)),
        device=torch.device("cpu"),
    )


def _parts(batch: Batch) -> list[torch.Tensor]:
    return [
        batch.images,
        batch.labels,
        *(getattr(batch.draws, field.name) for field in fields(TransformParams)),
    ]


def _same(one: Batch, other: Batch) -> bool:
    return all(map(torch.equal, _parts(one), _parts(other)))


@pytest.mark.parametrize(
    ("num_rows", "batch_size"), [(23, 6), (24, 6), (7, 7), (9, 8), (2, 2), (3, 16), (40, 3)]
)
def test_each_epoch_has_each_row_once(num_rows: int, batch_size: int) -> None:
    batches = _batches(num_rows, batch_size)
    taken = torch.cat([batches.batch(k).labels for k in range(batches.epoch_end(3))]).tolist()
    for epoch in range(4):
        assert sorted(taken[epoch * num_rows : (epoch + 1) * num_rows]) == list(
            range(5, 5 + num_rows)
        )
    assert all(
        len(batches.batch(k).labels) == min(batch_size, num_rows)
        for k in range(batches.epoch_end(3))
    )


def test_epochs_differ_and_end_where_they_say() -> None:
    batches = _batches(23, 6)
    assert [batches.epoch_end(epoch) for epoch in range(5)] == [4, 8, 12, 16, 20]
    assert [batches.epoch_of(k) for k in (0, 3, 4, 7, 8, 11, 12)] == [0, 0, 1, 1, 2, 2, 3]
    assert [_batches(24, 6).epoch_end(epoch) for epoch in range(3)] == [4, 8, 12]
    orders = [epoch_order(50, seed=0, epoch=epoch).tolist() for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2] and sorted(orders[1]) == list(range(50))


def test_images_labels_and_draws_belong_together() -> None:
    batches = _batches()
    for k in range(9):
        batch = batches.batch(k)
        assert batch.images.dtype == torch.uint8 and batch.images.shape == (6, SIZE, SIZE, 3)
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.labels)
        assert len(batch.draws) == 6


def test_a_batch_is_a_function_of_seed_and_number_alone() -> None:
    reference = [_batches().batch(k) for k in range(16)]  # each by a loader of its own
    one = _batches()
    for k in [15, 0, 3, 4, 3, 11, 7, 1, 15, 2]:
        assert _same(one.batch(k), reference[k]), k
    assert not _same(_batches(seed=1).batch(0), reference[0])


def test_a_batch_that_straddles_two_epochs_is_the_end_of_one_and_the_start_of_the_next() -> None:
    batches = _batches(23, 6)
    batch = batches.batch(3)
    last, first = (5 + epoch_order(23, seed=0, epoch=epoch) for epoch in (0, 1))
    assert batch.labels.tolist() == [*last[18:], *first[:1]]
    generator = torch.Generator().manual_seed(derived_seed(2, 0, 1))
    assert torch.equal(
        batch.draws.angle[5:], sample(23, source_size=SIZE, crop=4, generator=generator).angle[:1]
    )


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_shards_of_all_processes_make_the_batch(world: int) -> None:
    full = _batches()
    shares = [
        _batches(shard=slice(6 * rank // world, 6 * (rank + 1) // world)) for rank in range(world)
    ]
    for k in range(9):
        expected = _parts(full.batch(k))
        pieces = [_parts(share.batch(k)) for share in shares]
        for index, value in enumerate(expected):
            assert torch.equal(torch.cat([piece[index] for piece in pieces]), value)


@pytest.mark.parametrize("depth", [0, 1, 2, 7, 64])
def test_prefetch_depth_changes_nothing(depth: int) -> None:
    reference = [_batches().batch(k) for k in range(2, 13)]
    batches = _batches()
    found = list(prefetch(batches.batch, range(2, 13), depth))
    assert len(found) == 11 and all(map(_same, found, reference))


def test_a_balanced_subset_is_fixed_and_balanced() -> None:
    labels = np.repeat(np.arange(4), 10)
    rows = np.arange(100, 140)
    kept = balanced_subset(rows, labels, 0.3)
    assert np.array_equal(kept, np.sort(kept)) and np.array_equal(
        kept, balanced_subset(rows, labels, 0.3)
    )
    assert np.bincount(labels[kept - 100]).tolist() == [3, 3, 3, 3]
    assert balanced_subset(rows, labels, 1.0) is rows
    assert np.bincount(labels[balanced_subset(rows, labels, 0.001) - 100]).tolist() == [1, 1, 1, 1]
    assert not np.array_equal(kept[:3] % 10, kept[3:6] % 10)  # each class by an order of its own


def test_of_unlabeled_rows_a_fraction_is_kept_and_of_others_the_same_as_without() -> None:
    labels = np.repeat([-1, 0, 1], 10)
    rows = np.arange(100, 130)
    kept = balanced_subset(rows, labels, 0.3)
    assert np.bincount(labels[kept - 100] + 1).tolist() == [3, 3, 3]
    assert kept[3:].tolist() == balanced_subset(rows[10:], labels[10:], 0.3).tolist()
    assert kept[3:].tolist() == [112, 113, 114, 124, 128, 129]  # an earlier version's


def test_an_error_in_the_thread_reaches_the_reader() -> None:
    def make(number: int) -> int:
        if number == 3:
            raise ValueError("number 3")
        return number

    for depth in (0, 1, 5):
        found: list[int] = []
        with pytest.raises(ValueError, match="number 3"):
            for number in prefetch(make, range(10), depth):
                found.append(number)
        assert found == [0, 1, 2]
    _no_thread_is_left()


def test_a_reader_that_stops_early_stops_the_thread() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number

    for depth in (1, 3, 64):
        made.clear()
        reading = prefetch(make, range(10_000), depth)
        assert next(reading) == 0
        reading.close()
        _no_thread_is_left()
        assert len(made) < 10_000 or depth == 64
        reading.close()  # twice does no harm
    unread = prefetch(make, range(3), 2)
    unread.close()
    _no_thread_is_left()


def test_no_more_is_made_in_advance_than_asked_for() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number

    reading = prefetch(make, range(50), 3)
    for taken in range(5):
        assert next(reading) == taken
        time.sleep(0.02)
        assert len(made) <= taken + 1 + 3 + 1  # taken, in the queue, and one that waits for a place
    reading.close()
    assert len(made) < 12


def test_stopping_while_something_is_being_made_waits_for_it() -> None:
    going_on = threading.Event()

    def make(number: int) -> int:
        if number == 1:
            going_on.wait(5)
        return number

    reading: Iterator[int] = prefetch(make, range(5), 1)
    assert next(reading) == 0
    threading.Timer(0.1, going_on.set).start()
    started = time.perf_counter()
    reading.close()  # type: ignore[attr-defined]
    assert time.perf_counter() - started < 3
    _no_thread_is_left()


def _no_thread_is_left() -> None:
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
