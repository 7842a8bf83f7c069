"""Decode once into one uint8 array with a manifest; see docs/architecture.md for the files of a pack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Decode = Callable[[int], npt.NDArray[np.uint8]]
SPLITS = ("train", "minival", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source holds before a pixel is decoded, rows in pack order (N rows, M boxes, K classes)."""

    name: str
    image_size: int
    class_names: tuple[str, ...]  # K, for people: "goldfish"
    class_ids: tuple[str, ...]  # K, stable: a wnid or a folder's name
    splits: dict[str, tuple[int, int]]  # half-open row ranges, in the order of SPLITS, together [0, N)
    files: tuple[str, ...]  # N names, relative to the source
    labels: npt.NDArray[np.int64]  # (N,), -1 where there is none
    boxes: npt.NDArray[np.float32]  # (M, 4)
    box_labels: npt.NDArray[np.int64]  # (M,)
    box_offsets: npt.NDArray[np.int64]  # (N + 1,)
    source: dict[str, Any]  # kind, path, fingerprint
    notes: tuple[str, ...] = field(default=())  # what a person should know of this data, a line each
