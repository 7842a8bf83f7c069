"""Does a decision rest on the object or on what surrounds it? Blank the inside or the outside of
the true box and ask.

This makes the claim of Wu et al. 2017, section 4.2, testable: "a fly lying on a flower is
recognized a bee" for the flower's sake only if it is still called a bee where the fly is
blanked, and no longer where the flower is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinysight.analysis.results import Bools, Floats, Ints
from tinysight.data.dataset import Dataset
from tinysight.predict.predictor import Predictor

SMALLEST, LARGEST = (
    0.05,
    0.75,
)  # share of the window a box may cover for both halves to hold something


@dataclass(frozen=True, kw_only=True)
class Survival:
    """What N images are called when part of them is blanked; -1 where an image could not be tested."""

    object_only: Ints  # the outside of the box blanked
    background_only: Ints  # its inside blanked

    @property
    def tested(self) -> Bools:
        return self.object_only >= 0


def share_covered(boxes: npt.NDArray[np.floating], *, image_size: int, crop: int) -> Floats:
    """Return the share (n,) of the center window that each box (n, 4) covers."""
    start = (image_size - crop) // 2
    x0, y0, x1, y1 = (np.clip(boxes[:, index], start, start + crop) for index in range(4))
    return np.asarray(np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0) / crop**2, dtype=np.float64)


def rows_with_halves(pack: Dataset, rows: Ints, *, crop: int) -> Bools:
    """Tell which rows (N,) have one box, neither too small nor too large for both halves to hold
    something.
    """
    single = pack.box_offsets[rows + 1] - pack.box_offsets[rows] == 1
    result = np.zeros(len(rows), bool)
    boxes = pack.boxes[pack.box_offsets[rows[single]]]
    share = share_covered(boxes, image_size=pack.image_size, crop=crop)
    result[single] = (share >= SMALLEST) & (share <= LARGEST)
    return result


def blank(
    image: npt.NDArray[np.uint8],
    box: npt.NDArray[np.floating],
    color: npt.NDArray[np.uint8],
    *,
    inside: bool,
) -> npt.NDArray[np.uint8]:
    """Return an image (H, W, 3) with the inside or the outside of a half-open box filled with one
    color (3,).
    """
    x0, y0 = (int(np.floor(edge)) for edge in box[:2])
    x1, y1 = (int(np.ceil(edge)) for edge in box[2:])
    within = np.zeros(image.shape[:2], bool)
    within[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return np.where((within if inside else ~within)[..., None], color, image)


def survival(
    predictor: Predictor,
    pack: Dataset,
    rows: Ints,
    *,
    batch_size: int = 125,
    each_batch: Callable[[int], None] = lambda done: None,
) -> Survival:
    """Ask the model about each testable row (N,) twice, one half blanked with the mean color it was
    trained with.
    """
    mean = predictor.model.normalize.mean.flatten().round().byte().cpu().numpy()
    found = Survival(object_only=np.full(len(rows), -1), background_only=np.full(len(rows), -1))
    places = np.flatnonzero(rows_with_halves(pack, rows, crop=predictor.metadata.crop))
    for start in range(0, len(places), batch_size):
        chosen = places[start : start + batch_size]
        for inside, answers in ((False, found.object_only), (True, found.background_only)):
            images = np.stack(
                [
                    blank(pack.images[row], pack.boxes_of(row)[0], mean, inside=inside)
                    for row in rows[chosen].tolist()
                ]
            )
            answers[chosen] = predictor.logits(images).argmax(dim=1).cpu().numpy()
        each_batch(start + len(chosen))
    return found
