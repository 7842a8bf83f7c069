"""The drawn dataset `shapes`: plain, striped and dotted shapes over clutter, with exact boxes.

Everything works, and can be taught and tested, without a download. Its 24 classes are 8 shapes x 3
textures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import SPLITS, DatasetIndex, offsets, split_ranges
from tinysight.data.drawing import CLASS_NAMES, NATURAL_SIZE, Scene, boxes, draw, plan

VERSION = 2  # of the drawing: part of the fingerprint
MAX_OBJECTS = 8
CLASS_IDS = tuple(name.replace(" ", "-") for name in CLASS_NAMES)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Drawn scenes, as a `build.Source`: classes in turn, so that they are balanced.

    With several `objects` (fewest, most) per scene, its label is that of the object of the largest
    radius, whose box comes first; `box_labels` has all. Rows of `test` have no label and no box:
    `scene(row)` knows what they show. Raises ValueError for numbers out of range.
    """

    name: str = "shapes"
    seed: int = 0
    num_train: int = 9000
    num_minival: int = 1000
    num_val: int = 2000
    num_test: int = 500
    image_size: int = NATURAL_SIZE
    objects: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        for split, count in zip(SPLITS, self.counts, strict=True):
            if count < 0:
                raise ValueError(f"num_{split} is {count}; give a number of scenes, 0 or more")
        if not any(self.counts):
            raise ValueError("there are no scenes to draw: the number of every split is 0")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}; give a whole number from 0 to 2**64 - 1")
        if not 32 <= self.image_size <= 512:
            raise ValueError(f"image_size is {self.image_size}; give 32 to 512 pixels")
        if not 1 <= self.objects[0] <= self.objects[1] <= MAX_OBJECTS:
            allowed = f"1 <= fewest <= most <= {MAX_OBJECTS}"
            raise ValueError(f"objects is {self.objects}; give (fewest, most) with {allowed}")

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of scenes per split, in the order of SPLITS."""
        return (self.num_train, self.num_minival, self.num_val, self.num_test)

    @property
    def origin(self) -> dict[str, Any]:
        """A fingerprint of everything that the scenes depend on."""
        counts, objects = ("x".join(map(str, numbers)) for numbers in (self.counts, self.objects))
        settings = f"seed{self.seed}-{counts}-{self.image_size}px-objects{objects}"
        return {"kind": "shapes", "path": "", "fingerprint": f"shapes{VERSION}-{settings}"}

    @cached_property
    def index(self) -> DatasetIndex:
        """Plan all scenes, a tenth of a millisecond each; draw none."""
        splits, unlabeled = split_ranges(dict(zip(SPLITS, self.counts, strict=True))), self.num_test
        scenes = [self.scene(row) for row in range(splits["test"][0])]
        return DatasetIndex(
            image_size=self.image_size,
            class_names=CLASS_NAMES,
            class_ids=CLASS_IDS,
            splits=splits,
            files=tuple(
                f"{split}/{index:05d}"
                for split, (start, stop) in splits.items()
                for index in range(stop - start)
            ),
            labels=np.array([*(scene.label for scene in scenes), *[-1] * unlabeled], np.int64),
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *map(boxes, scenes)]),
            box_labels=np.array([one.label for scene in scenes for one in scene.objects], np.int64),
            box_offsets=offsets([*(len(scene.objects) for scene in scenes), *[0] * unlabeled]),
            notes=("drawn scenes, not photographs: results here do not carry over to real images",),
        )

    def decode(self, row: int) -> npt.NDArray[np.uint8]:
        """Draw the scene of a row."""
        return draw(self.scene(row))

    def scene(self, row: int) -> Scene:
        """Plan the scene of a row: what it shows, and where."""
        index = row
        for split, count in zip(SPLITS, self.counts, strict=True):
            if 0 <= index < count:
                return plan(self.seed, split, index, self.image_size, self.objects)
            index -= count
        raise IndexError(f"row {row} of {sum(self.counts)} scenes")
