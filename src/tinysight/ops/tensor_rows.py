"""Tensors that go by rows: one value, or one vector, for each of N images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class TensorRows:
    """A base for frozen dataclasses whose fields are tensors (N, ...), `TensorRows` of N
    themselves, or None where unused.
    """

    def __post_init__(self) -> None:
        lengths = {len(value) for value in self._used().values()}
        assert len(lengths) == 1, f"every field has one value an image, but there are {lengths}"

    def __len__(self) -> int:
        return len(next(iter(self._used().values())))

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Return some of the rows: by a slice, a boolean mask or a tensor of indices."""
        return self._with({name: value[rows] for name, value in self._used().items()})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the rows on `device`."""
        moved = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in self._used().items()
        }
        return self._with(moved)

    @classmethod
    def join(cls, pieces: Sequence[Self]) -> Self:
        """Put pieces that use the same fields one behind the other."""
        joined: dict[str, Any] = {}
        for name in pieces[0]._used():
            values = [getattr(piece, name) for piece in pieces]
            joined[name] = (
                type(values[0]).join(values)
                if isinstance(values[0], TensorRows)
                else torch.cat(values)
            )
        return pieces[0]._with(joined)

    def _used(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def _with(self, values: dict[str, Any]) -> Self:
        return dataclasses.replace(self, **values)
