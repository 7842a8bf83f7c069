"""Whether a larger canvas is likely to find more: small objects are found where they look as large
as those that a localizer learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.predictor import Prediction

SMALL = 0.6  # share of the side learned from, below which objects are small
STEP = 32  # pixels that canvases differ by


def sides_on_canvas(predictions: Sequence[Prediction], canvas: int) -> list[float]:
    """Return the sides, the roots of the areas, of all accepted boxes, in pixels of the canvas."""
    return [
        ((x1 - x0) * (y1 - y0) / (each.frame.width * each.frame.height)) ** 0.5 * canvas
        for each in predictions
        for (x0, y0, x1, y1), _ in each.accepted
    ]


def suggested_canvas(
    predictions: Sequence[Prediction], metadata: ModelMetadata, max_side: int
) -> tuple[float, int] | None:
    """Return the median side of boxes found at the image size, and the canvas that would suit them.

    It is at most `max_side`, which the engine takes. None where boxes are not small, the images
    have no more pixels, or the weights do not say what sides they learned from.
    """
    learned, size = metadata.localizer.get("box_side"), metadata.image_size
    sides = sides_on_canvas(predictions, size)
    if not learned or not sides or (found := median(sides)) >= SMALL * learned:
        return None
    pixels = median(max(each.frame.width, each.frame.height) for each in predictions)
    canvas = min(size * learned / found, pixels, max_side) // STEP * STEP
    return (found, int(canvas)) if canvas > size else None
