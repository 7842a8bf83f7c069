"""Predicted boxes on pictures: one image for a person who asked, and a sheet like Wu et al. 2017,
Fig. 15.

An accepted box has a solid line and its confidence on it, a rejected one a thin gray dashed line
and a small figure, a true one a solid line in another color and no figure. So they can be told
apart without colors, too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tinysight.analysis.sheets import (
    GAP,
    INK,
    MARGIN,
    PAPER,
    PREDICTED_BOX,
    QUIET,
    RIM,
    TEXT_SIZE,
    TITLE_SIZE,
    TRUE_BOX,
    Boxes,
    draw_box,
    font_of,
    visible_boxes,
)
from tinysight.data.dataset import Dataset
from tinysight.ops.boxes import pairwise_iou

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

REJECTED_BOX = "#d8d8d8"
LEAST_SIDE = 384  # pixels of a drawn image: lines and figures need room
WORTH_A_LINE = 0.05  # the confidence from which a rejected box is drawn


def draw_boxes(
    image: Pixels,
    boxes: Boxes,
    confidence: Floats,
    threshold: float = 0.5,
    *,
    gt_boxes: Boxes | None = None,
    scale: int | None = None,
    most_rejected: int = 8,
) -> Pixels:
    """Enlarge an image, uint8 (H, W, 3), `scale` times and draw boxes (n, 4) with confidences (n,)
    on it.

    Boxes are half-open, in pixels of the image; from `threshold` on they are accepted. Of the
    others the `most_rejected` most confident are drawn, unless under 5 %. Truths (m, 4) may go
    with them. Without a scale, the shorter side gets at least 384 pixels. Returns uint8 (scale *
    H, scale * W, 3). Raises ValueError for other forms."""
    height, width = _checked(image)
    boxes, confidence = np.asarray(boxes, np.float64), np.asarray(confidence, np.float64)
    if boxes.ndim != 2 or boxes.shape[1:] != (4,) or confidence.shape != (len(boxes),):
        raise ValueError(
            f"boxes are {boxes.shape} with confidences {confidence.shape}; give (n, 4) and (n,)"
        )
    scale = scale or max(1, math.ceil(LEAST_SIDE / min(height, width)))
    large = Image.fromarray(np.ascontiguousarray(image)).resize(
        (scale * width, scale * height), Image.Resampling.NEAREST
    )
    pen = ImageDraw.Draw(large)
    order = [
        place for place in np.argsort(-confidence, kind="stable").tolist() if confidence[place] > 0
    ]
    accepted = [place for place in order if confidence[place] >= threshold]
    rejected = [place for place in order if WORTH_A_LINE <= confidence[place] < threshold][
        :most_rejected
    ]
    # What matters most is drawn last
    for place in reversed(rejected):
        for box in visible_boxes(boxes[place, None], image.shape):
            _draw_thin(pen, [scale * edge for edge in box])
    for box in visible_boxes(gt_boxes, image.shape) if gt_boxes is not None else ():
        draw_box(pen, _within([scale * edge for edge in box], large.size, 3), TRUE_BOX, False)
    for place in reversed(accepted):
        for box in visible_boxes(boxes[place, None], image.shape):
            draw_box(
                pen, _within([scale * edge for edge in box], large.size, 3), PREDICTED_BOX, False
            )
    taken: list[tuple[int, int, int, int]] = []
    for place in [*accepted, *rejected]:
        for box in visible_boxes(boxes[place, None], image.shape):
            _draw_figure(
                pen,
                [scale * edge for edge in box],
                float(confidence[place]),
                place in accepted,
                large.size,
                taken,
            )
    return np.asarray(large)


def box_sheet(
    images: Sequence[Pixels],
    boxes: Sequence[Boxes],
    confidence: Sequence[Floats],
    *,
    gt_boxes: Sequence[Boxes] | None = None,
    threshold: float = 0.5,
    captions: Sequence[str] | None = None,
    columns: int = 4,
    side: int = 256,
    title: str | None = None,
) -> Image.Image:
    """Lay out N images with their boxes as a grid, like Wu et al. 2017, Fig. 15, with a legend.

    Every image is enlarged by a whole number, to `side` pixels or more. Under each stands its
    caption; by default the IoU of its most confident box with the truth it fits best, where
    gt_boxes are given. Raises ValueError for lists of different lengths and for no image."""
    lists = {"boxes": boxes, "confidences": confidence, "gt_boxes": gt_boxes, "captions": captions}
    if not len(images):
        raise ValueError("there is no image to show; give at least one")
    for what, values in lists.items():
        if values is not None and len(values) != len(images):
            raise ValueError(f"{len(values)} {what} for {len(images)} images; give one for each")
    shown = [
        draw_boxes(
            image,
            boxes[number],
            confidence[number],
            threshold,
            gt_boxes=None if gt_boxes is None else gt_boxes[number],
            scale=max(1, math.ceil(side / min(image.shape[:2]))),
        )
        for number, image in enumerate(images)
    ]
    if captions is None and gt_boxes is not None:
        captions = [_told(*answer) for answer in zip(boxes, confidence, gt_boxes, strict=True)]
    columns = min(columns, len(images))
    wide, high = (max(picture.shape[axis] for picture in shown) for axis in (1, 0))
    font, large = font_of(TEXT_SIZE), font_of(TITLE_SIZE, bold=True)
    line = sum(font.getmetrics()) + 4
    top = MARGIN + (sum(large.getmetrics()) + GAP if title else 0)
    pitch = high + GAP + (line if captions is not None else 0)
    width = 2 * MARGIN + columns * (wide + GAP) - GAP
    legend = _legend(threshold, gt_boxes is not None)
    width = max(width, 2 * MARGIN + sum(40 + math.ceil(font.getlength(text)) for _, text in legend))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (width, top + line + GAP + rows * pitch - GAP + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((MARGIN, MARGIN), title, INK, large)
    _draw_legend(pen, legend, (MARGIN, top), font)
    for number, picture in enumerate(shown):
        left, upper = (
            MARGIN + number % columns * (wide + GAP),
            top + line + GAP + number // columns * pitch,
        )
        sheet.paste(Image.fromarray(picture), (left, upper))
        if captions is not None:
            pen.text((left, upper + picture.shape[0] + 3), captions[number], QUIET, font)
    return sheet


def localization_figure(
    pack: Dataset,
    split: str,
    boxes: Tensor,
    confidence: Tensor,
    *,
    count: int = 12,
    threshold: float = 0.5,
    title: str | None = None,
) -> Image.Image:
    """Show `count` images of a split, evenly chosen among those with true boxes, and what was
    found: Fig. 15.

    `boxes` (N, M, 4) and `confidence` (N, M) are those of all the split's images, in row order.
    Which images are shown does not depend on how well they went. Raises ValueError where the
    predictions do not fit or no image has a box."""
    rows = pack.rows(split)
    if len(boxes) != len(rows) or confidence.shape != boxes.shape[:2]:
        raise ValueError(
            f"{pack.name} {split} has {len(rows)} images; boxes are {tuple(boxes.shape)}"
        )
    able = [row for row in rows if len(pack.boxes_of(row))]
    if not able:
        raise ValueError(f"no image of {pack.name} {split} has a true box to compare with")
    shown = [
        able[place]
        for place in np.linspace(0, len(able) - 1, min(count, len(able)))
        .round()
        .astype(int)
        .tolist()
    ]
    found, sure = boxes.detach().cpu().numpy(), confidence.detach().cpu().numpy()
    return box_sheet(
        [pack.images[row] for row in shown],
        [found[row - rows.start] for row in shown],
        [sure[row - rows.start] for row in shown],
        gt_boxes=[pack.boxes_of(row) for row in shown],
        threshold=threshold,
        title=title or f"{pack.name} {split}",
    )


def photographs_with_boxes(
    squares: Sequence[Pixels],
    *,
    frames: Sequence[tuple[int, int, int]],
    boxes: Sequence[Sequence[Sequence[float]]],
    confidences: Sequence[Sequence[float]],
    captions: Sequence[str],
    threshold: float,
) -> Image.Image:
    """Draw what was found in photographs on the squares that were looked at: one picture, or a
    sheet of several.

    Args:
        squares: of each photograph, uint8 (S, S, 3).
        frames: left, top and side of each square, in pixels of the photograph.
        boxes: of each, half-open in the photograph's pixels, with `confidences`.
    """
    moved = []
    for square, (left, top, width), own in zip(squares, frames, boxes, strict=True):
        from_corner = np.array(own, np.float32).reshape(-1, 4) - np.array(
            [left, top, left, top], np.float32
        )
        moved.append(from_corner * (len(square) / width))
    sure = [np.array(values, np.float32) for values in confidences]
    if len(squares) == 1:
        return Image.fromarray(draw_boxes(squares[0], moved[0], sure[0], threshold, scale=1))
    return box_sheet(squares, moved, sure, threshold=threshold, captions=captions)


def _checked(image: Pixels) -> tuple[int, int]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"the image is {image.dtype} {image.shape}; give uint8 (height, width, 3)")
    return image.shape[0], image.shape[1]


def _told(boxes: Boxes, confidence: Floats, gt_boxes: Boxes) -> str:
    """Say how well the most confident box lies."""
    true = torch.tensor(np.asarray(gt_boxes, np.float64).reshape(-1, 4))
    counts = np.asarray(confidence) > 0
    if not len(true):
        return "nothing to find"
    if not counts.any():
        return "no box"
    top = torch.tensor(np.asarray(boxes, np.float64)[int(np.argmax(confidence)), None])
    return f"IoU {float(pairwise_iou(top, true).amax()):.2f}"


def _within(box: Sequence[float], size: tuple[int, int], room: int) -> list[float]:
    """Move the edges of a box that reach the picture's edge inwards, so that the line round it can
    be seen.
    """
    x0, y0, x1, y1 = box
    x0, y0 = max(x0, room), max(y0, room)
    x1, y1 = max(min(x1, size[0] - room), x0 + 1), max(min(y1, size[1] - room), y0 + 1)
    return [x0, y0, x1, y1]


def _draw_thin(pen: ImageDraw.ImageDraw, box: Sequence[float], dash: int = 5) -> None:
    """Run a dashed line of one light and one dark pixel just inside a box."""
    x0, y0, x1, y1 = (round(edge) for edge in box)
    x1, y1 = max(x1 - 1, x0), max(y1 - 1, y0)
    for start in range(x0, x1 + 1, 2 * dash):
        stop = min(start + dash - 1, x1)
        for y, inner in ((y0, y0 + 1), (y1, y1 - 1)):
            pen.line((start, inner, stop, inner), RIM)
            pen.line((start, y, stop, y), REJECTED_BOX)
    for start in range(y0, y1 + 1, 2 * dash):
        stop = min(start + dash - 1, y1)
        for x, inner in ((x0, x0 + 1), (x1, x1 - 1)):
            pen.line((inner, start, inner, stop), RIM)
            pen.line((x, start, x, stop), REJECTED_BOX)


def _draw_figure(
    pen: ImageDraw.ImageDraw,
    box: Sequence[float],
    confidence: float,
    accepted: bool,
    size: tuple[int, int],
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write a confidence at a corner of its box that no other figure has; a rejected one goes where
    there is room.
    """
    font = font_of(TEXT_SIZE, bold=True) if accepted else font_of(TEXT_SIZE - 2)
    text = f"{confidence:.0%}"
    wide, high = math.ceil(font.getlength(text)) + 6, sum(font.getmetrics())
    x0, y0, x1, y1 = (round(edge) for edge in box)
    corners = [
        (x0, y0),
        (x1 - wide, y0),
        (x0, y1 - high),
        (x1 - wide, y1 - high),
        (x0, y0 - high),
        (x0, y1),
    ]
    places = [(min(max(x, 0), size[0] - wide), min(max(y, 0), size[1] - high)) for x, y in corners]
    free = [
        (x, y)
        for x, y in places
        if not any(
            x < right and left < x + wide and y < low and top < y + high
            for left, top, right, low in taken
        )
    ]
    if not free and not accepted:
        return
    x, y = free[0] if free else places[0]
    taken.append((x, y, x + wide, y + high))
    pen.rectangle((x, y, x + wide - 1, y + high - 1), PREDICTED_BOX if accepted else RIM)
    pen.text((x + 3, y), text, INK if accepted else REJECTED_BOX, font)


def _legend(threshold: float, with_truths: bool) -> list[tuple[str, str]]:
    kinds = [("accepted", f"found, confidence {threshold:.0%} or more"), ("rejected", "rejected")]
    return [("true", "true box"), *kinds] if with_truths else kinds


def _draw_legend(
    pen: ImageDraw.ImageDraw,
    legend: list[tuple[str, str]],
    corner: tuple[int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    x, y = corner
    for kind, text in legend:
        if kind == "rejected":
            pen.rectangle((x, y, x + 23, y + 14), QUIET)
            _draw_thin(pen, [x + 2, y + 2, x + 22, y + 13])
        else:
            draw_box(
                pen,
                [x + 3, y + 3, x + 21, y + 12],
                TRUE_BOX if kind == "true" else PREDICTED_BOX,
                False,
            )
        pen.text((x + 30, y), text, QUIET, font)
        x += 40 + math.ceil(font.getlength(text))
