"""Images inside a page: data addresses, with boxes, with the map of what a decision rests on."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from tinysight.analysis.sheets import PREDICTED_BOX, TRUE_BOX, Boxes, draw_box, visible_boxes

Pixels = npt.NDArray[np.uint8]
LARGEST_SIDE = 224  # pixels of an image in a page
FRAME = "#888888"


def data_uri(image: Pixels | Image.Image, *, quality: int = 88) -> str:
    """Return an image, uint8 (H, W, 3), as a `data:` address holding a WebP file."""
    picture = (
        image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    )
    if max(picture.size) > LARGEST_SIDE:
        picture = picture.copy()
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def png_uri(picture: Image.Image) -> str:
    """Return a picture as a `data:` address holding a PNG file: every pixel as it is."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def with_boxes(
    image: Pixels, boxes: Boxes, predicted: Boxes | None = None, *, scale: int = 2, frame: int = 3
) -> Image.Image:
    """Enlarge an image `scale` times and run a line round each half-open box (n, 4), dashed round
    the predicted ones.

    A frame leaves room for the lines of boxes that reach the image's edge.
    """
    height, width = image.shape[:2]
    picture = Image.new("RGB", (scale * width + 2 * frame, scale * height + 2 * frame), FRAME)
    large = Image.fromarray(np.ascontiguousarray(image)).resize(
        (scale * width, scale * height), Image.Resampling.NEAREST
    )
    picture.paste(large, (frame, frame))
    pen = ImageDraw.Draw(picture)
    for kind, color, dashed in ((boxes, TRUE_BOX, False), (predicted, PREDICTED_BOX, True)):
        for box in visible_boxes(kind, image.shape) if kind is not None else ():
            draw_box(pen, [frame + scale * edge for edge in box], color, dashed)
    return picture


def with_heat(
    image: Pixels, heat: npt.NDArray[np.floating], *, window: tuple[int, int, int, int]
) -> Pixels:
    """Lay a map (h, w) over the half-open `window` of an image it was made for: bright for, dark
    against or nothing.

    The image turns gray and is lit in proportion to the map's positive part; the strongest place
    is yellow."""
    x0, y0, x1, y1 = window
    positive = np.maximum(np.asarray(heat, np.float32), 0)
    positive /= max(float(positive.max()), 1e-12)
    small = Image.fromarray(np.round(255 * positive).astype(np.uint8))
    inside = (
        np.asarray(small.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR), np.float32) / 255
    )
    light = np.zeros(image.shape[:2], np.float32)
    light[y0:y1, x0:x1] = inside
    gray = image.astype(np.float32).mean(axis=2, keepdims=True)
    color = _ramp(light)
    mixed = 0.55 * gray * (1 - 0.6 * light[..., None]) + color * light[..., None] * 0.85
    return np.asarray(np.clip(mixed, 0, 255), dtype=np.uint8)


def _ramp(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Colors (..., 3) from violet through orange to yellow, ever brighter, so that they print in
    gray too.
    """
    stops = np.array([[60, 15, 110], [220, 80, 60], [252, 240, 120]], np.float32)
    place = values * (len(stops) - 1)
    low = np.minimum(place.astype(int), len(stops) - 2)
    share = (place - low)[..., None]
    return np.asarray(stops[low] * (1 - share) + stops[low + 1] * share, np.float32)
