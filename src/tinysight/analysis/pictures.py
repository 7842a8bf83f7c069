"""Figures of images: sheets with captions and boxes, first filters, heat maps.

A sheet is laid out in pixels: saved at its own resolution (`save_figure`), each pixel of an image
is a square of whole pixels. Boxes can be distinguished without color: accepted ones are solid and
carry their confidence, rejected ones are thin and dashed, true ones are solid without a number.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from PIL import Image
from torch import Tensor

from tinysight.analysis.plots import AMBER, INK, QUIET, SKY, new_figure, style
from tinysight.data.dataset import Dataset
from tinysight.files import write_atomic
from tinysight.images import Frame
from tinysight.ops.boxes import Detections, pairwise_iou
from tinysight.text import pluralize

Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]

DPI = 100
MARGIN, GAP, LINE = 20, 14, 16  # pixels: around a sheet, between images, per line of text
TEXT_SIZE, TITLE_SIZE = 9, 12  # points
RIGHT, WRONG, REJECTED, RIM = "#1b7837", "#b2182b", "#d8d8d8", "#1a1a1a"
MIN_SIDE = 16  # pixels of a drawn photo
MIN_CONFIDENCE, MAX_REJECTED = 0.05, 8  # of the rejected boxes that are drawn
CLASS_COLORS = (AMBER, SKY, "#cc79a7", "#00a878", "#f0e442", "#e8704a")  # light: names are on them


@dataclass(frozen=True)
class _Sheet:
    """A figure with one set of axes in pixels of the canvas, y downwards."""

    figure: Figure
    axes: Axes
    scale: int
    corners: list[tuple[int, int]]  # of each image: left, top
    captions: list[tuple[int, int]]  # of each image's text: left, top
    cell_width: int

    def write(self, x: float, y: float, text: str, color: str) -> None:
        self.axes.text(x, y, text, va="top", color=color, size=TEXT_SIZE)

    def place(self, number: int, boxes: Boxes, shape: tuple[int, ...]) -> Floats:
        """Clip boxes (n, 4) of an image (H, W, 3), and place those that are visible: (m, 4)."""
        boxes = np.asarray(boxes, np.float64)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes of an image are {boxes.shape}; give (n, 4): x0, y0, x1, y1")
        clipped = np.clip(boxes[np.isfinite(boxes).all(axis=1)], 0, [shape[1], shape[0]] * 2)
        visible = clipped[(clipped[:, :2] < clipped[:, 2:]).all(axis=1)]
        return np.asarray(visible * self.scale + self.corners[number] * 2, np.float64)


def contact_sheet(
    images: Sequence[Pixels],
    *,
    captions: Sequence[str] | None = None,
    correct: Sequence[bool] | None = None,
    boxes: Sequence[Boxes] | None = None,
    box_labels: Sequence[npt.NDArray[np.int64]] | None = None,
    class_names: Sequence[str] = (),
    columns: int | None = None,
    side: int = 128,
    title: str = "",
) -> Figure:
    """Lay out N images, uint8 (H, W, 3), as a grid, the largest enlarged to `side` pixels or more.

    Captions have up to two lines; `correct` puts a tick or a cross in front. Boxes are (n, 4) per
    image, half-open pixels; with labels (n,) they have their classes' names and colors.
    Raises ValueError for no image, another form, or lists that misfit.
    """
    _check(images, captions=captions, correct=correct, boxes=boxes, box_labels=box_labels)
    lines = max((text.count("\n") + 1 for text in captions), default=0) if captions else 0
    look: dict[str, Any] = {"columns": columns, "side": side, "title": title}
    look |= {"lines": min(lines, 2), "legend": box_labels is not None}
    with style():
        sheet = _grid(images, **look)
        _write_captions(sheet, captions or (), correct)
        if boxes is not None and box_labels is not None:
            _draw_classes(sheet, images, boxes, box_labels, class_names)
        elif boxes is not None:
            _draw_boxes(sheet, images, boxes, "true")
    return sheet.figure


def augmentation_sheet(
    original: Pixels, panels: Sequence[tuple[str, Pixels]], *, title: str = ""
) -> Figure:
    """Show an image (H, W, 3) and named versions of it at one scale (Wu et al. 2017, Fig. 1)."""
    captions = ["original", *(caption for caption, _ in panels)]
    images = [original, *(image for _, image in panels)]
    return contact_sheet(images, captions=captions, columns=4, side=192, title=title)


def predictions_sheet(
    dataset: Dataset, rows: Tensor, logits: Tensor, *, count: int = 48, title: str = ""
) -> Figure:
    """Show `count` of N classified images, evenly chosen, with prediction, confidence and label."""
    chosen = _evenly(len(rows), count)
    shown = rows[chosen].tolist()
    confidence, predicted = (part.tolist() for part in logits[chosen].softmax(dim=1).max(dim=1))
    captions, correct = [], []
    for row, guess, share in zip(shown, predicted, confidence, strict=True):
        label = int(dataset.labels[row])
        correct.append(guess == label)
        expected = "" if guess == label else f"\nlabel: {dataset.class_names[label]}"
        captions.append(f"{dataset.class_names[guess]} {share:.0%}{expected}")
    images = [dataset.images[row] for row in shown]
    title = f"{title}: {sum(correct)} of these {len(shown)} correct"
    return contact_sheet(images, captions=captions, correct=correct, side=144, title=title)


def detections_sheet(
    images: Sequence[Pixels],
    boxes: Sequence[Boxes] | Tensor,
    confidence: Sequence[Floats] | Tensor,
    *,
    gt_boxes: Sequence[Boxes] | None = None,
    threshold: float = 0.5,
    captions: Sequence[str] | None = None,
    side: int = 256,
    title: str = "",
) -> Figure:
    """Show images with predicted boxes (n, 4) and confidences (n,) per image (Wu et al., Fig. 15).

    Boxes are accepted from `threshold` on; of the others the most confident are drawn, and none of
    confidence 0. Raises ValueError as `contact_sheet` does.
    """
    _check(images, boxes=boxes, confidence=confidence, gt_boxes=gt_boxes, captions=captions)
    accepted, rejected = [], []
    for number, (given, values) in enumerate(zip(boxes, confidence, strict=True)):
        own, scores = np.asarray(given, np.float64), np.asarray(values, np.float64)
        if own.shape != (len(scores), 4):
            raise ValueError(f"image {number} has boxes {own.shape} and {len(scores)} confidences")
        ranked = np.column_stack([own, scores])[np.argsort(-scores, kind="stable")]
        ranked = ranked[ranked[:, 4] > 0]
        accepted.append(ranked[ranked[:, 4] >= threshold])
        others = ranked[(ranked[:, 4] < threshold) & (ranked[:, 4] >= MIN_CONFIDENCE)]
        rejected.append(others[:MAX_REJECTED])
    if captions is None and gt_boxes is not None:
        captions = [_iou_caption(*parts) for parts in zip(boxes, confidence, gt_boxes, strict=True)]
    kinds: dict[str, Sequence[Boxes]] = {"rejected": [own[:, :4] for own in rejected]}
    kinds |= {"true": gt_boxes} if gt_boxes is not None else {}
    kinds |= {"accepted": [own[:, :4] for own in accepted]}
    lines = int(captions is not None)
    with style():
        sheet = _grid(images, columns=4, side=side, title=title, lines=lines, legend=True)
        _write_captions(sheet, captions or (), None)
        for kind, drawn in kinds.items():
            _draw_boxes(sheet, images, drawn, kind)
        accepted_name = f"prediction, confidence {threshold:.0%} or more"
        names = {"true": "true box", "accepted": accepted_name, "rejected": "less confident"}
        _draw_legend(sheet, [(names[k], _COLORS[k], k) for k in names if k in kinds])
        for number, image in enumerate(images):
            _write_confidences(sheet, number, image, accepted[number], rejected[number])
    return sheet.figure


def localization_sheet(
    dataset: Dataset,
    split: str,
    detections: Detections,
    *,
    count: int = 12,
    threshold: float = 0.5,
    title: str = "",
) -> Figure:
    """Show the detections on `count` images of a split, evenly chosen among those with true boxes.

    They are of all the split's images, in row order. Raises ValueError where they do not fit, or
    no image has a true box.
    """
    rows, boxes, confidence = dataset.rows(split), detections.boxes, detections.confidence
    if len(boxes) != len(rows):
        raise ValueError(
            f"{dataset.name} {split} has {pluralize(len(rows), 'image')}, not {len(boxes)}"
        )
    with_boxes = [row for row in rows if len(dataset.boxes_of(row))]
    if not with_boxes:
        raise ValueError(f"no image of {dataset.name} {split} has a true box to compare with")
    shown = [with_boxes[place] for place in _evenly(len(with_boxes), count)]
    places = [row - rows.start for row in shown]
    images, gt_boxes = zip(*((dataset.images[n], dataset.boxes_of(n)) for n in shown), strict=True)
    found = (boxes[places].cpu(), confidence[places].cpu())
    title = title or f"{dataset.name} {split}"
    return detections_sheet(images, *found, gt_boxes=gt_boxes, threshold=threshold, title=title)


def photo(square: Pixels, frame: Frame, boxes: Sequence[Sequence[float]]) -> tuple[Pixels, Boxes]:
    """Give a square (S, S, 3) the proportions of its frame, and move a photo's boxes (n, 4) there.

    The longer side remains S; the other has `MIN_SIDE` pixels or more.
    """
    sides, longest = (frame.width, frame.height), max(frame.width, frame.height)
    width, height = (max(MIN_SIDE, round(len(square) * side / longest)) for side in sides)
    shares = frame.to_square(np.array(boxes, np.float64).reshape(-1, 4), 1)
    if width != height:
        square = np.array(Image.fromarray(square).resize((width, height)))
    return square, shares * ((width, height) * 2)


def filters_sheet(filters: npt.NDArray[np.float32]) -> Figure:
    """Show filters (F, h, w, 3), gray for a weight of 0, each scaled to its own largest weight."""
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True).clip(min=1e-12)
    tiles = np.round((filters / largest + 1) * 127.5).astype(np.uint8)
    with style():
        return _grid(list(tiles), columns=min(16, len(tiles)), side=40, margin=0, gap=4).figure


def heat_overlay(
    image: Pixels, heat: npt.NDArray[np.floating], *, window: tuple[int, int, int, int]
) -> Pixels:
    """Light up a gray copy of an image (H, W, 3) by the positive part of a map (h, w).

    The map covers the half-open `window` of the image; its largest value is brightest.
    """
    x0, y0, x1, y1 = window
    positive = np.maximum(np.asarray(heat, np.float32), 0)
    positive /= max(float(positive.max()), 1e-12)
    inside = Image.fromarray(positive).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR)
    light = np.zeros((*image.shape[:2], 1), np.float32)
    light[y0:y1, x0:x1, 0] = inside
    gray = image.mean(axis=2, keepdims=True)
    color = colormaps["inferno"](0.25 + 0.75 * light[..., 0])[..., :3] * 255
    mixed = 0.55 * gray * (1 - 0.6 * light) + color * light * 0.9
    return np.asarray(np.clip(mixed, 0, 255), np.uint8)


def png_bytes(figure: Figure) -> bytes:
    """Return a figure as a PNG file at its own resolution."""
    file = io.BytesIO()
    with style():
        # figure.savefig would draw everything twice
        FigureCanvasAgg(figure).print_png(file)  # type: ignore[no-untyped-call]
    return file.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG at its own resolution, atomically; ValueError where it cannot be."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} is not the name of a PNG file; end it in .png")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}; make it first")
    write_atomic(path, png_bytes(figure))


def _evenly(num: int, count: int) -> list[int]:
    places: list[int] = np.linspace(0, num - 1, min(count, num)).round().astype(int).tolist()
    return places


def _check(images: Sequence[Pixels], **lists: Sequence[object] | Tensor | None) -> None:
    if not len(images):
        raise ValueError("there is no image to show; give at least one")
    for number, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            form = f"{image.dtype} {image.shape}"
            raise ValueError(f"image {number} is {form}; give uint8 (height, width, 3)")
    for name, values in lists.items():
        if values is not None and len(values) != len(images):
            raise ValueError(f"{len(values)} {name} for {len(images)} images; give one for each")


def _grid(
    images: Sequence[Pixels],
    *,
    columns: int | None,
    side: int,
    title: str = "",
    lines: int = 0,
    legend: bool = False,
    margin: int = MARGIN,
    gap: int = GAP,
) -> _Sheet:
    """Paste the enlarged images on a white canvas, smaller ones centered in their cell."""
    columns = min(columns or max(8, math.isqrt(len(images))), len(images))
    largest = max(max(image.shape[:2]) for image in images)
    scale = max(1, math.ceil(side / largest))
    height, width = (scale * max(image.shape[axis] for image in images) for axis in (0, 1))
    pitch_x, pitch_y = width + gap, height + gap + (LINE * lines + 6 if lines else 0)
    top = margin + (2 * LINE if title else 0) + (LINE + gap if legend else 0)
    total_width = max(2 * margin + columns * pitch_x - gap, 600 if legend else 0)
    total_height = top + math.ceil(len(images) / columns) * pitch_y - gap + margin
    canvas = np.full((total_height, total_width, 3), 255, np.uint8)
    corners, captions = [], []
    for number, image in enumerate(images):
        x, y = margin + number % columns * pitch_x, top + number // columns * pitch_y
        large = image.repeat(scale, axis=0).repeat(scale, axis=1)
        left, upper = x + (width - large.shape[1]) // 2, y + (height - large.shape[0]) // 2
        canvas[upper : upper + large.shape[0], left : left + large.shape[1]] = large
        corners.append((left, upper))
        captions.append((x, y + height + 4))
    figure = new_figure(total_width / DPI, total_height / DPI)
    figure.set_layout_engine("none")
    figure.set_dpi(DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(canvas, extent=(0, total_width, total_height, 0), interpolation="nearest")
    room = total_width - 2 * margin
    look: dict[str, Any] = {"va": "top", "color": INK, "weight": "bold", "size": TITLE_SIZE}
    axes.text(margin, margin, _fit(title, room, TITLE_SIZE, "bold"), **look)
    return _Sheet(figure, axes, scale, corners, captions, width)


def _fit(text: str, width: float, size: float, weight: str = "normal") -> str:
    """Blank what cannot be drawn, and cut a text with an ellipsis where it exceeds the pixels."""
    text = "".join(sign if sign.isprintable() else " " for sign in text[: int(width) + 1])
    font = FontProperties(family="DejaVu Sans", weight=weight, size=size)
    renderer: Any = RendererAgg(1, 1, DPI)  # type: ignore[no-untyped-call]
    for end in range(len(text), -1, -1):
        shown = text if end == len(text) else text[:end].rstrip() + "\u2026"
        if renderer.get_text_width_height_descent(shown, font, False)[0] <= width:
            return shown
    return ""


def _write_captions(sheet: _Sheet, captions: Sequence[str], correct: Sequence[bool] | None) -> None:
    for number, caption in enumerate(captions):
        x, y = sheet.captions[number]
        first, _, second = caption.partition("\n")
        indent = 0
        if correct is not None:
            sign, color = ("\u2713", RIGHT) if correct[number] else ("\u2717", WRONG)
            sheet.write(x, y, sign, color)
            indent = 14
        for line, (text, color) in enumerate(((first, INK), (second, QUIET))):
            if shown := _fit(text, sheet.cell_width - indent, TEXT_SIZE):
                sheet.write(x + indent, y + LINE * line, shown, color)


_COLORS = {"true": AMBER, "accepted": SKY, "rejected": REJECTED}


def _line(kind: str) -> dict[str, Any]:
    """Return the look of a box's line: two pixels with a dark rim, or thin and dashed."""
    width = (1 if kind == "rejected" else 2) * 72 / DPI
    rim = patheffects.withStroke(linewidth=width + 2 * 72 / DPI, foreground=RIM)
    dashes = (0, (5, 5)) if kind == "rejected" else "-"
    return {"linewidth": width, "linestyle": dashes, "path_effects": [rim]}


def _draw_boxes(
    sheet: _Sheet, images: Sequence[Pixels], boxes: Sequence[Boxes], kind: str, color: str = ""
) -> None:
    """Draw a line around each box, so that its pixels stay visible; within it where rejected."""
    parts = [sheet.place(n, own, images[n].shape) for n, own in enumerate(boxes)]
    out = -0.5 if kind == "rejected" else 2.0  # the middle of the line
    x0, y0, x1, y1 = (np.concatenate(parts) + np.array([-out, -out, out, out])).T
    corners = np.stack([x0, y0, x1, y0, x1, y1, x0, y1], axis=1).reshape(-1, 4, 2)
    look = _line(kind) | {"facecolor": "none", "joinstyle": "miter"}
    look["edgecolor"] = color or _COLORS[kind]
    sheet.axes.add_collection(PolyCollection(list(corners), snap=False, **look), autolim=False)


def _draw_classes(
    sheet: _Sheet,
    images: Sequence[Pixels],
    boxes: Sequence[Boxes],
    labels: Sequence[npt.NDArray[np.int64]],
    class_names: Sequence[str],
) -> None:
    """Draw boxes with the names of their classes; in a color each, with a legend, where few."""
    present = np.unique(np.concatenate(labels)).tolist()
    legend = []
    for place, label in enumerate(present):
        color, name = CLASS_COLORS[place % len(CLASS_COLORS)], class_names[label]
        own = [part[of == label] for part, of in zip(boxes, labels, strict=True)]
        _draw_boxes(sheet, images, own, "true", color)
        legend.append((_fit(name, 120, TEXT_SIZE), color, "true"))
        look: dict[str, Any] = {"color": INK, "size": TEXT_SIZE - 2, "va": "top", "zorder": 4}
        look["bbox"] = {"facecolor": color, "edgecolor": "none", "pad": 0.8}
        for number, part in enumerate(own):
            for x0, y0, x1, _ in sheet.place(number, part, images[number].shape).tolist():
                shown = _fit(name, max(x1 - x0 - 4, 28), TEXT_SIZE - 2)
                sheet.axes.text(x0 + 2, y0 + 2, shown, **look)
    names = "classes by name; colors repeat"
    _draw_legend(sheet, legend if len(legend) <= len(CLASS_COLORS) else [(names, INK, "true")])


def _draw_legend(sheet: _Sheet, lines: Sequence[tuple[str, str, str]]) -> None:
    """Explain lines above the images, each by its text, color and kind."""
    handles = [Line2D([], [], color=color, label=text, **_line(k)) for text, color, k in lines]
    top = min(y for _, y in sheet.corners) - LINE - GAP
    place: dict[str, Any] = {"loc": "upper left", "borderpad": 0, "borderaxespad": 0}
    place |= {"bbox_to_anchor": (MARGIN, top), "bbox_transform": sheet.axes.transData}
    sheet.axes.legend(handles=handles, ncols=len(handles), **place)


def _write_confidences(
    sheet: _Sheet, number: int, image: Pixels, accepted: Floats, rejected: Floats
) -> None:
    """Write each confidence at a corner of its box that is free; rejected ones only if one is."""
    taken: list[tuple[float, float]] = []
    for kind, ranked in (("accepted", accepted), ("rejected", rejected)):
        wide, high, fill = (32, 16, SKY) if kind == "accepted" else (24, 12, RIM)
        look: dict[str, Any] = {"color": REJECTED, "size": TEXT_SIZE - 2}
        if kind == "accepted":
            look = {"color": INK, "size": TEXT_SIZE, "weight": "bold"}
        for row in ranked:
            for x0, y0, x1, y1 in sheet.place(number, row[None, :4], image.shape).tolist():
                corners = [(x, y) for y in (y0, y1 - high) for x in (x0, x1 - wide)]
                free = [
                    (x, y)
                    for x, y in corners
                    if all(abs(x - left) > 32 or abs(y - top) > 16 for left, top in taken)
                ]
                if kind == "rejected" and not free:
                    continue
                x, y = (free or corners)[0]
                taken.append((x, y))
                bbox: dict[str, Any] = {"facecolor": fill, "edgecolor": "none", "pad": 1.2}
                sheet.axes.text(x + 2, y + 2, f"{row[4]:.0%}", va="top", bbox=bbox, **look)


def _iou_caption(boxes: Any, confidence: Any, gt_boxes: Boxes) -> str:
    """Describe how well the most confident box fits."""
    if not len(gt_boxes):
        return "no object"
    confidence = np.asarray(confidence)
    if not (confidence > 0).any():
        return "no box"
    top = torch.tensor(np.asarray(boxes, np.float64)[int(confidence.argmax()), None])
    ious = pairwise_iou(top, torch.tensor(np.array(gt_boxes, np.float64)))
    return f"IoU {float(ious.amax()):.2f}"
