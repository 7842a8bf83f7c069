"""The processes of one training: a single one, or several started by torchrun."""

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
    """This process's rank among `size` processes; with one, every method is trivial."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """Return this process's contiguous part of `count` rows; parts are nearly equal."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def all_reduce_max(self, *numbers: int) -> list[int]:
        """Return each number's maximum over all processes, so that all do the same."""
        if self.size == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=_control)
        return values.tolist()

    def all_gather(self, value: Any) -> list[Any]:
        """Return every process's value, by rank, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=_control)
        return values

    def broadcast_object(self, value: Any) -> Any:
        """Return the main process's value on every process."""
        return self.all_gather(value)[0]

    def broadcast(self, tensors: list[torch.Tensor]) -> None:
        """Overwrite `tensors`, on the computing device, with the main process's."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier(group=_control)


_control: Any = None  # a gloo group: agreeing does not touch a GPU's stream


@contextmanager
def join_processes(timeout_s: float = 600.0) -> Iterator[DistributedContext]:
    """Join the processes that torchrun started, by its environment variables, and leave together.

    One that fails leaves at once, and the others end by the timeout or by torchrun.
    """
    global _control
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield DistributedContext()
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    distributed = DistributedContext(rank=rank, size=size, local_rank=local_rank)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group(backend, timeout=timeout)
    _control = dist.new_group(backend="gloo", timeout=timeout)
    logger = logging.getLogger("tinysight")
    logger.disabled = not distributed.is_main  # one process prints
    try:
        yield distributed
        distributed.barrier()
    finally:
        logger.disabled = False
        _control = None
        dist.destroy_process_group()
