"""Figures of images: sheets with captions and boxes, first filters, heat maps.

A sheet is laid out in pixels: saved at its own resolution (`save_figure`), each pixel of an image
is a square of whole pixels. Accepted boxes are solid and carry their confidence, rejected ones are
thin and dashed, true ones are solid in another color without a number: told apart without color.
"""

from __future__ import annotations

import base64
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
from torch import Tensor, nn

from tinysight.analysis.plots import AMBER, INK, QUIET, SKY, new_figure, style
from tinysight.data.dataset import Dataset
from tinysight.files import write_atomic
from tinysight.ops.boxes import pairwise_iou

Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.floating]

DPI = 100
MARGIN, GAP, LINE = 20, 14, 16  # pixels: around a sheet, between images, per line of text
TEXT_SIZE, TITLE_SIZE = 9, 12  # points
RIGHT, WRONG, REJECTED, RIM = "#1b7837", "#b2182b", "#d8d8d8", "#1a1a1a"
MIN_CONFIDENCE, MAX_REJECTED = 0.05, 8  # of the rejected boxes that are drawn


@dataclass(frozen=True)
class _Sheet:
    """A figure with one set of axes in pixels of the canvas, y downwards."""

    figure: Figure
    axes: Axes
    scale: int
    corners: list[tuple[int, int]]  # of each image: left, top
    captions: list[tuple[int, int]]  # of each image's text: left, top
    cell_width: int


def contact_sheet(
    images: Sequence[Pixels],
    *,
    captions: Sequence[str] | None = None,
    correct: Sequence[bool] | None = None,
    boxes: Sequence[Boxes] | None = None,
    columns: int | None = None,
    side: int = 128,
    title: str = "",
) -> Figure:
    """Lay out N images, uint8 (H, W, 3), as a grid, the largest enlarged to `side` pixels or more.

    Captions have up to two lines; `correct` puts a tick or a cross in front. Boxes are (n, 4) per
    image, half-open pixels. Raises ValueError for no image, another form, or lists that misfit.
    """
    _check(images, captions=captions, correct=correct, boxes=boxes)
    lines = max((text.count("\n") + 1 for text in captions), default=0) if captions else 0
    with style():
        sheet = _grid(images, columns=columns, side=side, title=title, lines=min(lines, 2))
        _write_captions(sheet, captions or (), correct)
        if boxes is not None:
            _draw_boxes(sheet, images, boxes, AMBER)
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
    confidence, predicted = logits[chosen].softmax(dim=1).max(dim=1)
    names = dataset.class_names
    labels = [int(dataset.labels[row]) for row in shown]
    correct = [guess == label for guess, label in zip(predicted.tolist(), labels, strict=True)]
    captions = [
        f"{names[guess]} {share:.0%}" + ("" if right else f"\nlabel: {names[label]}")
        for guess, share, label, right in zip(
            predicted.tolist(), confidence.tolist(), labels, correct, strict=True
        )
    ]
    return contact_sheet(
        [dataset.images[row] for row in shown],
        captions=captions,
        correct=correct,
        side=144,
        title=f"{title}: {sum(correct)} of these {len(shown)} correct",
    )


def detections_sheet(
    images: Sequence[Pixels],
    boxes: Sequence[Boxes] | Tensor,
    confidence: Sequence[npt.NDArray[np.floating]] | Tensor,
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
    predicted = [np.asarray(own, np.float64).reshape(-1, 4) for own in boxes]
    scores = [np.asarray(own, np.float64).reshape(-1) for own in confidence]
    for number, (own, values) in enumerate(zip(predicted, scores, strict=True)):
        if len(own) != len(values):
            raise ValueError(f"image {number} has {len(own)} boxes and {len(values)} confidences")
    if captions is None and gt_boxes is not None:
        captions = [_iou_caption(*parts) for parts in zip(predicted, scores, gt_boxes, strict=True)]
    accepted = [_ranked(values, threshold, math.inf) for values in scores]
    rejected = [_ranked(values, MIN_CONFIDENCE, threshold)[:MAX_REJECTED] for values in scores]
    with style():
        sheet = _grid(
            images,
            columns=4,
            side=side,
            title=title,
            lines=int(captions is not None),
            legend=_legend(threshold, gt_boxes is not None),
        )
        _write_captions(sheet, captions or (), None)
        taken = [own[some] for own, some in zip(predicted, rejected, strict=True)]
        _draw_boxes(sheet, images, taken, REJECTED, accepted=False)
        if gt_boxes is not None:
            _draw_boxes(sheet, images, gt_boxes, AMBER)
        taken = [own[some] for own, some in zip(predicted, accepted, strict=True)]
        _draw_boxes(sheet, images, taken, SKY)
        for number, image in enumerate(images):
            order = np.concatenate([accepted[number], rejected[number]])
            _write_confidences(
                sheet,
                number,
                image.shape,
                predicted[number][order],
                scores[number][order],
                threshold,
            )
    return sheet.figure


def localization_sheet(
    dataset: Dataset,
    split: str,
    boxes: Tensor,
    confidence: Tensor,
    *,
    count: int = 12,
    threshold: float = 0.5,
    title: str | None = None,
) -> Figure:
    """Show the detections on `count` images of a split, evenly chosen among those with true boxes.

    `boxes` (N, M, 4) and `confidence` (N, M) are of all the split's images, in row order. Raises
    ValueError where they do not fit or no image has a box.
    """
    rows = dataset.rows(split)
    if len(boxes) != len(rows) or confidence.shape != boxes.shape[:2]:
        raise ValueError(
            f"{dataset.name} {split} has {len(rows)} images; boxes are {tuple(boxes.shape)}"
        )
    shown_rows = [row for row in rows if len(dataset.boxes_of(row))]
    if not shown_rows:
        raise ValueError(f"no image of {dataset.name} {split} has a true box to compare with")
    shown = [shown_rows[place] for place in _evenly(len(shown_rows), count)]
    places = [row - rows.start for row in shown]
    return detections_sheet(
        [dataset.images[row] for row in shown],
        boxes[places].cpu(),
        confidence[places].cpu(),
        gt_boxes=[dataset.boxes_of(row) for row in shown],
        threshold=threshold,
        title=title or f"{dataset.name} {split}",
    )


def photos_sheet(
    squares: Sequence[Pixels],
    frames: Sequence[tuple[int, int, int]],
    *,
    boxes: Sequence[Sequence[Sequence[float]]],
    confidence: Sequence[Sequence[float]],
    captions: Sequence[str],
    threshold: float,
) -> Figure:
    """Show the detections of photos on the squares (S, S, 3) of them that the model saw.

    `frames` are left, top and side of each square in pixels of the photo, as are the boxes.
    """
    moved = [
        (np.array(own, np.float64).reshape(-1, 4) - [left, top, left, top]) * len(square) / side
        for square, (left, top, side), own in zip(squares, frames, boxes, strict=True)
    ]
    scores = [np.array(own, np.float64) for own in confidence]
    return detections_sheet(
        squares, moved, scores, captions=captions, threshold=threshold, side=len(squares[0])
    )


def first_filters(model: nn.Module) -> npt.NDArray[np.float32]:
    """Return the weights (F, h, w, 3) of the first convolution of RGB images.

    Raises ValueError where there is none, or its filters are of one pixel and show no shape.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            if max(module.kernel_size) == 1:
                raise ValueError(f"the filters of the first convolution, {name}, are of one pixel")
            return module.weight.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    raise ValueError(f"{type(model).__name__} has no convolution of RGB images")


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
        FigureCanvasAgg(figure).print_png(file)  # type: ignore[no-untyped-call]  # figure.savefig would draw everything twice
    return file.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG at its own resolution, atomically; ValueError where it cannot be."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} is not the name of a PNG file; end it in .png")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}; make it first")
    write_atomic(path, png_bytes(figure))


def data_uri(image: Pixels, *, max_side: int = 224) -> str:
    """Return an image, uint8 (H, W, 3), as a `data:` address that holds a WebP file."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((max_side, max_side))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


# Layout


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
    legend: Sequence[Line2D] = (),
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
    look = {"va": "top", "color": INK, "weight": "bold", "size": TITLE_SIZE}
    axes.text(margin, margin, _fit(title, room, TITLE_SIZE, "bold"), **look)  # type: ignore[arg-type]
    if legend:
        place = {"bbox_to_anchor": (margin, top - LINE - gap), "bbox_transform": axes.transData}
        axes.legend(
            handles=legend,
            loc="upper left",
            ncols=len(legend),
            borderpad=0,
            borderaxespad=0,
            **place,
        )
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
            sheet.axes.text(x, y, sign, va="top", color=color, size=TEXT_SIZE)
            indent = 14
        for line, (text, color) in enumerate(((first, INK), (second, QUIET))):
            if shown := _fit(text, sheet.cell_width - indent, TEXT_SIZE):
                place = (x + indent, y + LINE * line)
                sheet.axes.text(*place, shown, va="top", color=color, size=TEXT_SIZE)


# Boxes


def _visible(boxes: Boxes, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Clip boxes (n, 4) to an image (H, W, 3); those that are empty or not finite become NaN."""
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"the boxes of an image are {boxes.shape}; give (n, 4): x0, y0, x1, y1")
    clipped: npt.NDArray[np.float64] = np.clip(boxes, 0, [shape[1], shape[0]] * 2)
    good = np.isfinite(boxes).all(axis=1) & (clipped[:, :2] < clipped[:, 2:]).all(axis=1)
    clipped[~good] = np.nan
    return clipped


def _on_canvas(
    sheet: _Sheet, number: int, shape: tuple[int, ...], boxes: Boxes
) -> npt.NDArray[np.float64]:
    placed = _visible(boxes, shape) * sheet.scale + np.array(sheet.corners[number] * 2)
    return np.asarray(placed, np.float64)


def _draw_boxes(
    sheet: _Sheet,
    images: Sequence[Pixels],
    boxes: Sequence[Boxes],
    color: str,
    *,
    accepted: bool = True,
) -> None:
    """Draw a line of two pixels with a dark rim around each box, or a thin dashed one within it."""
    parts = [_on_canvas(sheet, n, images[n].shape, own) for n, own in enumerate(boxes)]
    placed = np.concatenate(parts)
    placed = placed[~np.isnan(placed).any(axis=1)]
    out = 2.0 if accepted else -0.5  # the lines' middle, so that the box's pixels stay as they are
    x0, y0, x1, y1 = (placed + np.array([-out, -out, out, out])).T
    corners = np.stack([np.stack(pair, -1) for pair in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], 1)
    width = (2 if accepted else 1) * 72 / DPI
    outlines = PolyCollection(
        list(corners),
        facecolors="none",
        edgecolors=color,
        linewidths=width,
        linestyles="-" if accepted else (0, (5, 5)),
        snap=False,
        path_effects=_rim(width),
        joinstyle="miter",
    )
    sheet.axes.add_collection(outlines, autolim=False)


def _rim(width: float) -> list[patheffects.AbstractPathEffect]:
    return [patheffects.withStroke(linewidth=width + 2 * 72 / DPI, foreground=RIM)]


def _ranked(confidence: npt.NDArray[np.floating], low: float, high: float) -> npt.NDArray[np.intp]:
    """Return the places with a confidence above 0 in low <= confidence < high, highest first."""
    order = np.argsort(-confidence, kind="stable")
    values = confidence[order]
    return np.asarray(order[(values > 0) & (values >= low) & (values < high)])


def _write_confidences(
    sheet: _Sheet,
    number: int,
    shape: tuple[int, ...],
    boxes: Boxes,
    confidence: npt.NDArray[np.floating],
    threshold: float,
) -> None:
    """Write each confidence at a corner of its box that is still free; accepted ones come first."""
    taken: list[tuple[float, float]] = []
    for box, value in zip(_on_canvas(sheet, number, shape, boxes), confidence, strict=True):
        if np.isnan(box).any():
            continue
        accepted = value >= threshold
        wide, high = (32, 16) if accepted else (24, 12)
        x0, y0, x1, y1 = box.tolist()
        places = [(x, y) for y in (y0, y1 - high) for x in (x0, x1 - wide)]
        free = [
            p for p in places if all(abs(p[0] - x) > 32 or abs(p[1] - y) > 16 for x, y in taken)
        ]
        if not free and not accepted:
            continue
        x, y = (free or places)[0]
        taken.append((x, y))
        fill, ink, size = (SKY, INK, 9) if accepted else (RIM, REJECTED, 7)
        sheet.axes.text(
            x + 2,
            y + 2,
            f"{value:.0%}",
            va="top",
            color=ink,
            size=size,
            weight="bold" if accepted else "normal",
            bbox={"facecolor": fill, "edgecolor": "none", "pad": 1.2},
        )


def _iou_caption(boxes: Boxes, confidence: npt.NDArray[np.floating], gt_boxes: Boxes) -> str:
    """Describe how well the most confident box fits."""
    if not len(gt_boxes):
        return "no object"
    if not (confidence > 0).any():
        return "no box"
    top = torch.tensor(boxes[int(confidence.argmax()), None])
    return (
        f"IoU {float(pairwise_iou(top, torch.tensor(np.array(gt_boxes, np.float64))).amax()):.2f}"
    )


def _legend(threshold: float, with_truth: bool) -> list[Line2D]:
    wide, thin = 2 * 72 / DPI, 72 / DPI
    true = Line2D([], [], color=AMBER, lw=wide, path_effects=_rim(wide), label="true box")
    accepted = Line2D(
        [],
        [],
        color=SKY,
        lw=wide,
        path_effects=_rim(wide),
        label=f"prediction, confidence {threshold:.0%} or more",
    )
    dashes = (0, (5, 5))
    rejected = Line2D(
        [], [], color=REJECTED, lw=thin, ls=dashes, path_effects=_rim(thin), label="less confident"
    )
    return [true, accepted, rejected] if with_truth else [accepted, rejected]
