"""A step's forward and backward pass as one CUDA graph.

A step on small images is thousands of short kernels. Started one by one they keep the processor
busier than the GPU; captured once, they are started together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tinysight.data.batches import Batch
from tinysight.training.augmentation import AugmentParams

# Steps taken one kernel at a time before the capture: cuDNN chooses, and torch.compile compiles
WARMUP_STEPS = 3


class StepKind(NamedTuple):
    """What a step's kernels depend on, in addition to the shapes of its batch."""

    size: int  # pixels that the network sees
    mixing_on: bool


class StepResult(NamedTuple):
    """What a forward and backward pass leaves, in addition to the gradients."""

    finite: Tensor  # bool (): whether loss and gradients are
    sums: Tensor  # float32 (3,) or (5,): what is added to the log's sums


Compute = Callable[[Batch[AugmentParams], StepKind], StepResult]


class GraphedStep:
    """Computes steps by `compute`, which must not wait for the device, and captures it meanwhile.

    The first steps of a kind are computed directly; the results are the same. Everything runs on a
    stream of its own, which waits for the current one and is waited for. Gradients stay where the
    capture put them: they must not be set to None between steps of one kind.
    """

    def __init__(self, compute: Compute, parameters: Iterable[nn.Parameter]) -> None:
        self._compute, self._parameters = compute, list(parameters)
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._kind: StepKind | None = None
        self._steps = 0  # of this kind

    def __call__(self, batch: Batch[AugmentParams], kind: StepKind) -> StepResult:
        """Compute the gradients of a batch; every batch must have the same shapes."""
        if kind != self._kind:
            self._kind, self._steps, self._graph = kind, 0, None
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            if self._steps < WARMUP_STEPS:
                self._clear_gradients()
                result = self._compute(batch, kind)
            else:
                if self._graph is None:
                    self._capture(batch, kind)
                assert self._graph is not None
                torch._foreach_copy_(_tensors(self._batch), _tensors(batch))
                self._graph.replay()
                result = self._result
        current.wait_stream(self._stream)
        self._steps += 1
        return result

    def _capture(self, batch: Batch[AugmentParams], kind: StepKind) -> None:
        draws = batch.draws.cat([batch.draws])  # a copy: a batch's draws are views of its epoch's
        self._batch = replace(batch, draws=draws)
        self._clear_gradients()
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may be copying the next batch to the device
        where: dict[str, Any] = {"stream": self._stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, **where):
            self._result = self._compute(self._batch, kind)
        self._graph = graph

    def _clear_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


def _tensors(batch: Batch[AugmentParams]) -> list[Tensor]:
    soft = [] if batch.soft_labels is None else [batch.soft_labels]
    return [batch.images, batch.labels, *soft, *batch.draws.tensors()]
