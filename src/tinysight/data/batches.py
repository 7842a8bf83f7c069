"""Training batches by number. Batch k is a function of (seed, k): a loader has no state to save.

The rows of all epochs form one endless stream: epoch e's order is a permutation drawn from
(seed, e), and batch k holds the stream's positions [k B, (k + 1) B). So every epoch sees every row
exactly once, no batch is short, and a batch may straddle two epochs.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from tinysight.data.dataset import Dataset
from tinysight.ops.tensor_rows import TensorRows

Item = TypeVar("Item")
Drawn = TypeVar("Drawn", bound=TensorRows)
Ints = npt.NDArray[np.int64]
_ORDER, _DRAWS = 1, 2  # purposes of random streams
_NO_CLASS = 2**32 - 1  # the number of unlabeled images in a stream


def derived_seed(*numbers: int) -> int:
    """Return a well-mixed 63-bit seed for a tuple of numbers, the same everywhere."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def epoch_order(count: int, *, seed: int, epoch: int) -> Ints:
    """Return the permutation of range(count) in which an epoch visits its rows."""
    return _permutation(count, seed, epoch)


def _permutation(count: int, *numbers: int) -> Ints:
    generator = np.random.Generator(np.random.Philox(derived_seed(_ORDER, *numbers)))
    return generator.permutation(count).astype(np.int64)


def balanced_subset(rows: Ints, labels: Ints, fraction: float) -> Ints:
    """Keep `fraction` of the rows of each class (at least one), always the same ones, ascending.

    Unlabeled rows (-1) count as a class.
    """
    if fraction == 1.0:
        return rows
    kept = []
    for label in np.unique(labels):
        members = rows[labels == label]
        order = _permutation(len(members), int(label) if label >= 0 else _NO_CLASS)
        kept.append(members[order[: max(1, round(fraction * len(members)))]])
    return np.sort(np.concatenate(kept))


def chosen_rows(dataset: Dataset, split: str, fraction: float) -> Ints:
    """Return the rows of a split, or a class-balanced `fraction` of them, ascending."""
    rows = np.asarray(dataset.rows(split), dtype=np.int64)
    return balanced_subset(rows, dataset.labels[rows], fraction)


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[Drawn]):
    """One process's shard (b images) of a batch, and how each image is augmented.

    Boxes (b, G, 4), if they are learned from: half-open pixels of the stored images, NaN-padded;
    their labels (b, G), if those are, padded with -1.
    """

    images: torch.Tensor  # uint8 (b, S, S, 3)
    labels: torch.Tensor  # (b,)
    draws: Drawn
    boxes: torch.Tensor | None = None
    box_labels: torch.Tensor | None = None
    soft_labels: torch.Tensor | None = None  # (b, K), the share of each class, if given


class Loader(Generic[Drawn]):
    """The batches of a training, by number.

    Args:
        images: uint8 (N_all, S, S, 3), memory-mapped; copied to `device` if it is a GPU with room.
        labels: int64 (N_all,).
        rows: the N rows of `images` to learn from.
        draw: (count, generator) -> augmentation parameters of that many images.
        batch_size: B, over all processes.
        shard: this process's part of range(B).
        boxes: float32 (N_all, G, 4), padded with NaN; None if no box is learned from.
        box_labels: int64 (N_all, G); None if boxes have no class.
        soft_labels: float32 (N_all, K); None if there are labels alone.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: Ints,
        rows: Ints,
        *,
        draw: Callable[[int, torch.Generator], Drawn],
        batch_size: int,
        seed: int,
        shard: slice,
        device: torch.device,
        boxes: torch.Tensor | None = None,
        box_labels: torch.Tensor | None = None,
        soft_labels: torch.Tensor | None = None,
    ) -> None:
        self.num_rows = len(rows)
        self.batch_size = min(batch_size, len(rows))
        self.on_device = device.type == "cuda" and _fits(images[:1].nbytes * len(rows), device)
        self._device = device
        self._seed = seed
        self._shard = shard
        self._draw = draw
        self._epochs: dict[int, tuple[Ints, torch.Tensor, Drawn]] = {}
        self._images: Any = images
        self._rows = rows
        own_labels = torch.from_numpy(np.array(labels))
        if self.on_device:
            self._images = torch.from_numpy(np.take(images, rows, axis=0)).to(device)
            own_labels = own_labels[torch.from_numpy(rows)]
            self._rows = np.arange(len(rows))
        self._labels = own_labels.to(device)
        further = {"boxes": boxes, "box_labels": box_labels, "soft_labels": soft_labels}
        self._further = {
            name: (values[torch.from_numpy(rows)] if self.on_device else values).to(device)
            for name, values in further.items()
            if values is not None
        }

    def epoch_end(self, epoch: int) -> int:
        """Return the number of batches after which epochs 0..epoch are complete."""
        return -(-(epoch + 1) * self.num_rows // self.batch_size)

    def epoch_of(self, number: int) -> int:
        """Return the epoch that batch `number` begins in."""
        return number * self.batch_size // self.num_rows

    def batch(self, number: int) -> Batch[Drawn]:
        """Return this process's shard of batch `number`, on the device."""
        start = number * self.batch_size + self._shard.start
        stop = number * self.batch_size + self._shard.stop
        pieces = []
        while start < stop:
            epoch, first = divmod(start, self.num_rows)
            last = min(self.num_rows, first + stop - start)
            pieces.append(self._piece(epoch, slice(first, last)))
            start += last - first
        if len(pieces) == 1:
            return pieces[0]
        own = {n: torch.cat([getattr(piece, n) for piece in pieces]) for n in self._further}
        return Batch(
            images=torch.cat([piece.images for piece in pieces]),
            labels=torch.cat([piece.labels for piece in pieces]),
            draws=type(pieces[0].draws).cat([piece.draws for piece in pieces]),
            **own,
        )

    def _piece(self, epoch: int, part: slice) -> Batch[Drawn]:
        order, on_device, draws = self._epoch(epoch)
        if self.on_device:
            images = self._images.index_select(0, on_device[part])
        else:
            images = torch.from_numpy(np.take(self._images, order[part], axis=0))
            if self._device.type == "cuda":
                with torch.cuda.device(self._device):  # a thread begins with the first device
                    images = images.pin_memory().to(self._device, non_blocking=True)
            else:
                images = images.to(self._device)
        return Batch(
            images=images,
            labels=self._labels.index_select(0, on_device[part]),
            draws=draws[part],
            **{n: value.index_select(0, on_device[part]) for n, value in self._further.items()},
        )

    def _epoch(self, epoch: int) -> tuple[Ints, torch.Tensor, Drawn]:
        """Make an epoch's order and draws at once, so that no step of a GPU waits for the host."""
        if epoch not in self._epochs:
            order = self._rows[epoch_order(self.num_rows, seed=self._seed, epoch=epoch)]
            generator = torch.Generator().manual_seed(derived_seed(_DRAWS, self._seed, epoch))
            draws = self._draw(self.num_rows, generator).to(self._device)
            self._epochs = {e: kept for e, kept in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = (order, torch.from_numpy(order).to(self._device), draws)
        return self._epochs[epoch]


def prefetch(
    make: Callable[[int], Item], numbers: range, depth: int
) -> Generator[Item, None, None]:
    """Yield make(n) for each n, up to `depth` of them made ahead by a thread (0: none).

    Close it if not all are read: that ends the thread.
    """
    if depth == 0:
        yield from map(make, numbers)
        return
    made: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def work() -> None:
        try:
            for number in numbers:
                if stop.is_set():
                    return
                made.put((make(number), None))
        except BaseException as error:  # raised in the reader
            made.put((None, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in numbers:
            item, error = made.get()
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        while thread.is_alive():
            try:
                made.get(timeout=0.05)  # frees a place that the thread may be waiting for
            except queue.Empty:
                continue
        thread.join()


def _fits(num_bytes: int, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    return num_bytes < 0.5 * free
