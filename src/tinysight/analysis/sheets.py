"""Pictures of data: a grid of enlarged images with captions and boxes, white and quiet enough to
print.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.floating]
Mark = Literal["right", "wrong"]
Caption = str | tuple[str, Mark]

PAPER, INK, QUIET, RIM = "#ffffff", "#222222", "#6b6b6b", "#1a1a1a"
MARKS: dict[Mark, tuple[str, str]] = {
    "right": ("\u2713", "#1b7837"),
    "wrong": ("\u2717", "#b2182b"),
}
TRUE_BOX, PREDICTED_BOX = (
    "#ffb000",
    "#4cc3ff",
)  # told apart by dashes too, for readers who do not see the colors
MARGIN, GAP, TEXT_GAP = 24, 14, 6
TEXT_SIZE, TITLE_SIZE = 12, 17
MAX_LINES = 2


def contact_sheet(
    images: Sequence[Pixels],
    *,
    captions: Sequence[Caption] | None = None,
    boxes: Sequence[Boxes] | None = None,
    predicted_boxes: Sequence[Boxes] | None = None,
    columns: int = 8,
    scale: int = 2,
    title: str | None = None,
) -> Image.Image:
    """Lay out N images, uint8 (H, W, 3), as a grid, each enlarged `scale` times without smoothing.

    Captions have up to two lines, cut with an ellipsis where they do not fit; a tick or a cross
    goes before a pair (text, "right") or (text, "wrong"). Boxes are (n, 4) for each image,
    half-open pixels; the line runs round exactly those pixels, predicted ones dashed. Boxes are
    cut at the image's edge; those that are empty or not finite are left out. Smaller images are
    centered. Raises ValueError for no image, another form of image, or lists of another length."""
    _check(images, columns, scale, captions=captions, boxes=boxes, predicted_boxes=predicted_boxes)
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    cell_height, cell_width = (
        scale * max(image.shape[axis] for image in images) for axis in (0, 1)
    )
    texts = [_caption_lines(caption) for caption in captions or []]
    line_height = sum(font_of(TEXT_SIZE).getmetrics()) + 1
    num_lines = max((len(lines) for lines, _ in texts), default=0)
    text_height = TEXT_GAP + num_lines * line_height if num_lines else 0
    pitch_x, pitch_y = cell_width + GAP, cell_height + text_height + GAP
    width = 2 * MARGIN + columns * pitch_x - GAP
    legend = predicted_boxes is not None
    top = MARGIN + _heading_height(title, legend)
    sheet = Image.new("RGB", (width, top + rows * pitch_y - GAP + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    _draw_heading(pen, width - 2 * MARGIN, title, legend)
    for number, image in enumerate(images):
        left, upper = MARGIN + number % columns * pitch_x, top + number // columns * pitch_y
        height, image_width = scale * image.shape[0], scale * image.shape[1]
        corner = (left + (cell_width - image_width) // 2, upper + (cell_height - height) // 2)
        sheet.paste(
            Image.fromarray(image).resize((image_width, height), Image.Resampling.NEAREST), corner
        )
        for boxes_of, color, dashed in (
            (boxes, TRUE_BOX, False),
            (predicted_boxes, PREDICTED_BOX, True),
        ):
            for box in visible_boxes(boxes_of[number], image.shape) if boxes_of is not None else ():
                draw_box(
                    pen,
                    [offset + scale * edge for offset, edge in zip(corner * 2, box, strict=True)],
                    color,
                    dashed,
                )
        if texts:
            _draw_caption(
                pen, (left, upper + cell_height + TEXT_GAP), cell_width, line_height, *texts[number]
            )
    return sheet


def augmentation_figure(
    original: Pixels,
    panels: Sequence[tuple[str, Pixels]],
    *,
    columns: int = 4,
    scale: int = 3,
    title: str | None = None,
) -> Image.Image:
    """Show one image (H, W, 3) and what each augmentation makes of it, after Wu et al. 2017, Fig.
    1.

    A panel is (caption with the value drawn, image); crops keep their scale, so that what they
    lose can be seen."""
    captions = ["original", *(caption for caption, _ in panels)]
    images = [original, *(image for _, image in panels)]
    return contact_sheet(images, captions=captions, columns=columns, scale=scale, title=title)


def _check(
    images: Sequence[Pixels], columns: int, scale: int, **lists: Sequence[object] | None
) -> None:
    if not len(images):
        raise ValueError("there is no image to show; give at least one")
    for number, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"image {number} is {image.dtype} {image.shape}; give uint8 (height, width, 3)"
            )
    for name, values in lists.items():
        if values is not None and len(values) != len(images):
            raise ValueError(f"{len(values)} {name} for {len(images)} images; give one for each")
    for name, value in (("columns", columns), ("scale", scale)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give 1 or more")


# Captions


@functools.cache
def font_of(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load matplotlib's DejaVu Sans: wide in letters, and there on every machine. A letter it lacks
    becomes a box.
    """
    import matplotlib  # slow to import, and only its folder is needed

    path = (
        Path(matplotlib.get_data_path())
        / "fonts"
        / "ttf"
        / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    )
    # Basic layout: the other one depends on libraries that a machine may lack, and pictures would
    # differ
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _caption_lines(caption: Caption) -> tuple[list[str], Mark | None]:
    text, mark = (caption, None) if isinstance(caption, str) else caption
    if mark is not None and mark not in MARKS:
        raise ValueError(f"a caption is marked {mark!r}; give 'right' or 'wrong'")
    lines = [_printable(line) for line in text.split("\n")]
    return [*lines[: MAX_LINES - 1], " ".join(lines[MAX_LINES - 1 :])] if len(
        lines
    ) > MAX_LINES else lines, mark


def _printable(text: str) -> str:
    """Blank what cannot be drawn: control characters, and halves of surrogate pairs, which file
    names can hold.
    """
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Cut a text with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    cuts = (text[:end].rstrip() + "\u2026" for end in range(min(len(text), int(width)), 0, -1))
    return next((cut for cut in cuts if font.getlength(cut) <= width), "")


def _draw_caption(
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    width: int,
    line_height: int,
    lines: list[str],
    mark: Mark | None,
) -> None:
    font = font_of(TEXT_SIZE)
    x, y = corner
    indent = 0
    if mark is not None:
        sign, color = MARKS[mark]
        pen.text((x, y), sign, color, font)
        indent = math.ceil(font.getlength(sign)) + 4
    for number, line in enumerate(lines):
        color = INK if number == 0 else QUIET
        pen.text(
            (x + indent, y + number * line_height), _fit(line, font, width - indent), color, font
        )


def _heading_height(title: str | None, legend: bool) -> int:
    title_height = sum(font_of(TITLE_SIZE, bold=True).getmetrics()) + GAP if title else 0
    return title_height + (sum(font_of(TEXT_SIZE).getmetrics()) + GAP if legend else 0)


def _draw_heading(pen: ImageDraw.ImageDraw, width: int, title: str | None, legend: bool) -> None:
    if title:
        font = font_of(TITLE_SIZE, bold=True)
        pen.text((MARGIN, MARGIN), _fit(_printable(title), font, width), INK, font)
    if legend:
        font, x, y = font_of(TEXT_SIZE), MARGIN, MARGIN + _heading_height(title, False)
        for text, color, dashed in (
            ("true box", TRUE_BOX, False),
            ("predicted box", PREDICTED_BOX, True),
        ):
            draw_box(pen, [x + 3, y + 3, x + 21, y + 12], color, dashed)
            pen.text((x + 30, y), text, QUIET, font)
            x += 30 + math.ceil(font.getlength(text)) + 18


# Boxes


def visible_boxes(boxes: Boxes, shape: tuple[int, ...]) -> list[list[float]]:
    """Cut boxes (n, 4) at the edge of an image (H, W, 3) and leave out those of which nothing can
    be drawn.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"the boxes of an image are {boxes.shape}; give (n, 4): x0, y0, x1, y1 of each"
        )
    boxes = np.clip(boxes[np.isfinite(boxes).all(axis=1)], 0, [shape[1], shape[0]] * 2)
    kept: list[list[float]] = boxes[(boxes[:, :2] < boxes[:, 2:]).all(axis=1)].tolist()
    return kept


def draw_box(pen: ImageDraw.ImageDraw, box: Sequence[float], color: str, dashed: bool) -> None:
    """Run a line of two pixels and a dark rim round the half-open box, so that what is inside stays
    as it is.
    """
    x0, y0, x1, y1 = (round(edge) for edge in box)
    for distance, ink in (
        (3, RIM),
        (2, color),
        (1, color),
    ):  # PIL's rectangles include both corners
        pen.rectangle(
            (x0 - distance, y0 - distance, x1 + distance - 1, y1 + distance - 1), outline=ink
        )
    if dashed:
        _draw_gaps(lambda start, stop: pen.rectangle((start, y0 - 2, stop, y0 - 1), RIM), x0, x1)
        _draw_gaps(lambda start, stop: pen.rectangle((start, y1, stop, y1 + 1), RIM), x0, x1)
        _draw_gaps(lambda start, stop: pen.rectangle((x0 - 2, start, x0 - 1, stop), RIM), y0, y1)
        _draw_gaps(lambda start, stop: pen.rectangle((x1, start, x1 + 1, stop), RIM), y0, y1)


def _draw_gaps(draw: Callable[[int, int], None], start: int, stop: int) -> None:
    """Darken every other stretch of a side, about five pixels each, so that all its corners stay
    light.
    """
    num_stretches = max(3, 2 * round((stop - start) / 10) + 1)
    edges = np.linspace(start, stop, num_stretches + 1).round().astype(int).tolist()
    for number in range(1, num_stretches, 2):
        if edges[number] < edges[number + 1]:
            draw(edges[number], edges[number + 1] - 1)
