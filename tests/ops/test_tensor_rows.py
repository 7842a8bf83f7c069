"""Indexing, moving and concatenating reach every field, nested ones too, and leave None alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tinysight.ops.tensor_rows import TensorRows


@dataclass(frozen=True)
class Inner(TensorRows):
    value: Tensor


@dataclass(frozen=True)
class Outer(TensorRows):
    wide: Tensor
    inner: Inner | None = None
    unused: Inner | None = None


def _outer(count: int, first: int = 0) -> Outer:
    numbers = torch.arange(first, first + count)
    return Outer(wide=numbers[:, None].expand(count, 3), inner=Inner(value=numbers))


@pytest.mark.parametrize(
    "rows", [slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True, False, False])]
)
def test_indexing_takes_the_same_rows_of_every_field(rows: slice | Tensor) -> None:
    part = _outer(5)[rows]
    assert len(part) == 2 and part.unused is None and part.inner is not None
    assert part.wide[:, 0].tolist() == part.inner.value.tolist() == [1, 2]


def test_cat_is_the_inverse_of_slicing() -> None:
    full = _outer(5)
    joined = Outer.cat([full[:2], full[2:]])
    assert joined.inner is not None and full.inner is not None and joined.unused is None
    assert torch.equal(joined.wide, full.wide) and torch.equal(joined.inner.value, full.inner.value)


def test_moving_moves_every_field() -> None:
    moved = _outer(3).to("meta")
    assert (
        moved.inner is not None
        and moved.wide.device.type == moved.inner.value.device.type == "meta"
    )


def test_fields_of_unequal_length_are_refused() -> None:
    with pytest.raises(AssertionError):
        Outer(wide=torch.zeros(3, 3), inner=Inner(value=torch.zeros(2)))
