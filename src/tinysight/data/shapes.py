"""The embedded data set `shapes`: plain, striped and dotted shapes over clutter, drawn from a seed,
with exact boxes.

It lets everything work, be taught and be tested without a download. Its 24 classes are 8 shapes
x 3 textures. See `scenes` for what a scene holds and `painting` for how it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinysight.data import build
from tinysight.data.decoding import Decode, Progress
from tinysight.data.index import SPLITS, DatasetIndex
from tinysight.data.outlines import CLASS_NAMES
from tinysight.data.painting import draw
from tinysight.data.scenes import NATURAL_SIZE, Scene, boxes, plan

VERSION = (
    1  # of the drawing: part of the fingerprint, so a changed scene is never taken for an old one
)
MAX_OBJECTS = 8
CLASS_IDS = tuple(name.replace(" ", "-") for name in CLASS_NAMES)


@dataclass(frozen=True)
class _Form:
    """Everything a pack of shapes follows from; called with a row, it draws that row."""

    seed: int
    counts: tuple[int, ...]  # in the order of SPLITS
    image_size: int
    objects: tuple[int, int]

    def __post_init__(self) -> None:
        for split, count in zip(SPLITS, self.counts, strict=True):
            if count < 0:
                raise ValueError(f"num_{split} is {count}; give a number of scenes, 0 or more")
        if not any(self.counts):
            raise ValueError(
                "there is no scene to draw: num_train, num_minival, num_val and num_test are all 0"
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}; give a whole number from 0 to 2**64 - 1")
        if not 32 <= self.image_size <= 512:
            raise ValueError(
                f"image_size is {self.image_size}; give 32 to 512 pixels, so that textures can be told apart"
            )
        fewest, most = self.objects
        if not 1 <= fewest <= most <= MAX_OBJECTS:
            raise ValueError(
                f"objects is {self.objects}; give (fewest, most) with 1 <= fewest <= most <= {MAX_OBJECTS}"
            )

    def __call__(self, row: int) -> npt.NDArray[np.uint8]:
        return draw(self.scene(row))

    def scene(self, row: int) -> Scene:
        split, index = self.place(row)
        return plan(self.seed, split, index, image_size=self.image_size, objects=self.objects)

    def place(self, row: int) -> tuple[str, int]:
        """Give the split of a row and its number there."""
        index = row
        for split, count in zip(SPLITS, self.counts, strict=True):
            if 0 <= index < count:
                return split, index
            index -= count
        raise IndexError(f"row {row} of {sum(self.counts)} scenes")

    def source(self) -> dict[str, object]:
        counts, objects = ("x".join(map(str, numbers)) for numbers in (self.counts, self.objects))
        fingerprint = (
            f"shapes{VERSION}-seed{self.seed}-{counts}-{self.image_size}px-objects{objects}"
        )
        return {"kind": "shapes", "path": "", "fingerprint": fingerprint}


def listing(
    *,
    seed: int = 0,
    num_train: int = 9000,
    num_minival: int = 1000,
    num_val: int = 2000,
    num_test: int = 500,
    image_size: int = NATURAL_SIZE,
    objects: tuple[int, int] = (1, 1),
    name: str = "shapes",
) -> tuple[DatasetIndex, Decode]:
    """List the scenes of a pack, classes in turn, with a picklable function that draws a row.

    With several `objects` (fewest, most) in a scene, its label is that of the object of the
    largest radius, whose box comes first; `box_labels` has all. TensorRows of `test` carry no
    label and no box: `truth` says what they show. Raises ValueError for numbers out of range. A
    tenth of a millisecond a scene."""
    form = _Form(seed, (num_train, num_minival, num_val, num_test), image_size, objects)
    ends = [sum(form.counts[: i + 1]) for i in range(len(SPLITS))]
    num_told = ends[2]  # all but test
    scenes = [form.scene(row) for row in range(num_told)]
    offsets = np.zeros(ends[3] + 1, dtype=np.int64)
    np.cumsum([len(scene.things) for scene in scenes], out=offsets[1 : num_told + 1])
    offsets[num_told + 1 :] = offsets[num_told]
    found = DatasetIndex(
        name=name,
        image_size=image_size,
        class_names=CLASS_NAMES,
        class_ids=CLASS_IDS,
        splits={
            split: (end - count, end)
            for split, end, count in zip(SPLITS, ends, form.counts, strict=True)
        },
        files=tuple(
            f"{split}/{index:05d}"
            for split, count in zip(SPLITS, form.counts, strict=True)
            for index in range(count)
        ),
        labels=np.array([scene.label for scene in scenes] + [-1] * num_test, dtype=np.int64),
        boxes=np.concatenate(
            [boxes(scene) for scene in scenes] or [np.zeros((0, 4), dtype=np.float32)]
        ),
        box_labels=np.array(
            [thing.label for scene in scenes for thing in scene.things], dtype=np.int64
        ),
        box_offsets=offsets,
        source=form.source(),
        notes=(
            "drawn scenes, not photographs: what a model scores here says nothing of real images",
        ),
    )
    return found, form


def truth(
    split: str,
    num: int,
    *,
    seed: int = 0,
    image_size: int = NATURAL_SIZE,
    objects: tuple[int, int] = (1, 1),
) -> list[Scene]:
    """Tell what the first `num` scenes of a split show, test too: see `Scene.label` and
    `scenes.boxes`.
    """
    return [
        plan(seed, split, index, image_size=image_size, objects=objects) for index in range(num)
    ]


def prepare(
    *,
    home: Path,
    seed: int = 0,
    num_train: int = 9000,
    num_minival: int = 1000,
    num_val: int = 2000,
    num_test: int = 500,
    image_size: int = NATURAL_SIZE,
    objects: tuple[int, int] = (1, 1),
    name: str = "shapes",
    workers: int | None = None,
    progress: Progress | None = None,
    replace: bool = False,
    say: Callable[[str], None] | None = None,
) -> build.Dataset:
    """Draw the pack `<home>/<name>`, or open it at once where it holds these very scenes; see
    `listing`.
    """
    form = _Form(seed, (num_train, num_minival, num_val, num_test), image_size, objects)

    def make_listing() -> tuple[DatasetIndex, Decode]:
        return listing(
            seed=seed,
            num_train=num_train,
            num_minival=num_minival,
            num_val=num_val,
            num_test=num_test,
            image_size=image_size,
            objects=objects,
            name=name,
        )

    return build.prepare(
        name,
        make_listing,
        form.source(),
        home=home,
        workers=workers,
        progress=progress,
        replace=replace,
        say=say,
    )
