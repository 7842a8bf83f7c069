"""A made-up source of tiny images, for tests of building and opening datasets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinysight.data.build import build
from tinysight.data.dataset import Dataset, DatasetIndex

SIZE = 4
# Row i is all i; importable under any start method
fill = functools.partial(np.full, (SIZE, SIZE, 3), dtype=np.uint8)


def make_toys(
    num: int = 10,
    *,
    name: str = "toys",
    decode: Callable[[int], np.ndarray] = fill,
    origin: dict[str, Any] | None = None,
    **changes: object,
) -> SimpleNamespace:
    """Make a `build.Source`: four splits, two classes, on even rows one box."""
    labels = np.arange(num) % 2
    labels[-2:] = -1
    boxed = np.arange(num) % 2 == 0
    index = DatasetIndex(
        image_size=SIZE,
        class_names=("cat's cradle", "狗"),
        class_ids=("a", "b"),
        splits={
            "train": (0, num - 5),
            "minival": (num - 5, num - 4),
            "val": (num - 4, num - 2),
            "test": (num - 2, num),
        },
        files=tuple(f"{row}.png" for row in range(num)),
        labels=labels.astype(np.int64),
        boxes=np.array([[0, 1, 2, row % 3 + 1.5] for row in range(num) if boxed[row]], np.float32),
        box_labels=np.zeros(boxed.sum(), np.int64),
        box_offsets=np.concatenate([[0], np.cumsum(boxed)]).astype(np.int64),
        notes=("drawn",),
        extra={"words": {"a": "cat's cradle, game"}},
    )
    return SimpleNamespace(
        name=name,
        origin=origin or {"kind": "toys", "path": "", "fingerprint": "1"},
        index=replace(index, **changes),  # type: ignore[arg-type]
        decode=decode,
    )


@pytest.fixture(scope="session")
def toys() -> Callable[..., SimpleNamespace]:
    return make_toys


@pytest.fixture
def leftovers() -> Callable[[Path], list[str]]:
    """List the entries of a data home but its locks."""
    return lambda home: sorted(
        entry.name for entry in home.iterdir() if not entry.name.endswith(".lock")
    )


@pytest.fixture
def built(tmp_path: Path) -> Dataset:
    """The toys, built in `tmp_path`."""
    return build(make_toys(), home=tmp_path, workers=1)  # type: ignore[arg-type]
