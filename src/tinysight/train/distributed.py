"""The processes of one training: one alone, or several started by torchrun."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """This process's place among `size` processes; every method is trivial when it is alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """Return this process's part of `count` rows, near equal and contiguous."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def all_reduce_max(self, *numbers: int) -> list[int]:
        """Return each number's maximum over all processes, so that all do the same."""
        if self.size == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=_control)
        return values.tolist()

    def all_gather(self, thing: Any) -> list[Any]:
        """Return every process's thing, by rank, on every process."""
        if self.size == 1:
            return [thing]
        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing, group=_control)
        return things

    def broadcast_object(self, thing: Any) -> Any:
        """Return the main process's thing on every process."""
        return self.all_gather(thing)[0]

    def broadcast(self, tensors: list[torch.Tensor]) -> None:
        """Overwrite `tensors`, on the computing device, by those of the main process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier(group=_control)


_control: Any = None  # a gloo group: turns are agreed on without touching a GPU's stream


@contextmanager
def join_processes(timeout_s: float = 600.0) -> Iterator[DistributedContext]:
    """Join the processes that torchrun started (its environment variables tell), and part from them
    orderly.

    The barrier before parting keeps a slow process from losing its peers; when one fails, it
    parts at once, and the others run into the timeout or torchrun's own termination rather than
    wait for ever."""
    global _control
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield DistributedContext()
        return
    distributed = DistributedContext(
        rank=int(os.environ["RANK"]), size=size, local_rank=int(os.environ.get("LOCAL_RANK", "0"))
    )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    _control = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
    logger = logging.getLogger("tinysight")
    logger.disabled = not distributed.is_main  # one process talks to people
    try:
        yield distributed
        distributed.barrier()
    finally:
        logger.disabled = False
        _control = None
        dist.destroy_process_group()
