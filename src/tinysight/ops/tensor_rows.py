"""A batch of records as a dataclass of tensors: one value, or one vector, for each of N images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class TensorRows:
    """Base of frozen dataclasses whose fields are tensors (N, ...), `TensorRows` of N, or None."""

    def __post_init__(self) -> None:
        lengths = {len(value) for value in self._used().values()}
        assert len(lengths) == 1, f"fields have different numbers of rows: {lengths}"

    def __len__(self) -> int:
        return len(next(iter(self._used().values())))

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Select rows by a slice, a boolean mask or a tensor of indices."""
        return self._with({name: value[rows] for name, value in self._used().items()})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the rows on `device`."""
        used = self._used().items()
        return self._with({name: v.to(device, non_blocking=non_blocking) for name, v in used})

    def tensors(self) -> list[Tensor]:
        """Return all tensors that there are, in the order of the fields."""
        nested = (v.tensors() if isinstance(v, TensorRows) else [v] for v in self._used().values())
        return [tensor for own in nested for tensor in own]

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Concatenate parts that use the same fields."""
        joined: dict[str, Any] = {}
        for name, first in parts[0]._used().items():
            values = [getattr(part, name) for part in parts]
            joined[name] = first.cat(values) if isinstance(first, TensorRows) else torch.cat(values)
        return parts[0]._with(joined)

    def _used(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def _with(self, values: dict[str, Any]) -> Self:
        return dataclasses.replace(self, **values)
