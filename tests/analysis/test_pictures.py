"""Sheets of images: pixels, lines of boxes, captions, and the data they are drawn from."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from tinysight.analysis import pictures
from tinysight.analysis.pictures import (
    CLASS_COLORS,
    GAP,
    MARGIN,
    REJECTED,
    RIGHT,
    WRONG,
    contact_sheet,
    detections_sheet,
    localization_sheet,
    png_bytes,
)
from tinysight.analysis.plots import AMBER, SKY
from tinysight.data.dataset import Dataset
from tinysight.images import Frame
from tinysight.ops.boxes import Detections

BOX = np.array([[4.0, 5, 10, 11]])
NONE = np.zeros((0, 4))


def flat(value: int = 128, height: int = 16, width: int = 16) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def noise(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pixels(figure: Figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png_bytes(figure))).convert("RGB"))


def marked(figure: Figure, color: str) -> np.ndarray:
    """Return which pixels (H, W) have a color, the antialiased edges of lines among them."""
    difference = pixels(figure).astype(int) - ImageColor.getrgb(color)
    return np.abs(difference).max(axis=2) < 12


def extent(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_pixels_are_enlarged_unchanged_and_nothing_else_is_drawn(scale: int) -> None:
    images = [noise(seed) for seed in range(5)]
    sheet = pixels(contact_sheet(images, columns=3, side=16 * scale)).copy()
    side = 16 * scale
    assert sheet.shape == (2 * MARGIN + 2 * side + GAP, 2 * MARGIN + 3 * side + 2 * GAP, 3)
    for number, image in enumerate(images):
        top, left = (MARGIN + place * (side + GAP) for place in divmod(number, 3))
        enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
        assert (sheet[top : top + side, left : left + side] == enlarged).all()
        sheet[top : top + side, left : left + side] = 255
    assert (sheet == 255).all()


def test_smaller_images_are_centered() -> None:
    sheet = pixels(contact_sheet([flat(10), flat(20, 8, 12)], side=32))
    left, top = MARGIN + 32 + GAP + 4, MARGIN + 8
    assert extent((sheet == 20).all(axis=2)) == [left, top, left + 24, top + 16]


@pytest.mark.parametrize("box", [[3, 5, 9, 6], [0, 0, 16, 16], [4, 4, 5, 5], [15, 0, 16, 16]])
@pytest.mark.parametrize("scale", [1, 3])
def test_the_line_of_a_box_is_around_its_pixels(box: list[int], scale: int) -> None:
    figure = contact_sheet([flat()], side=16 * scale, boxes=[np.array([box], np.float32)])
    x0, y0, x1, y1 = (MARGIN + scale * edge for edge in box)
    assert (pixels(figure)[y0:y1, x0:x1] == 128).all()
    line = marked(figure, AMBER)
    assert extent(line) == [x0 - 3, y0 - 3, x1 + 3, y1 + 3]
    assert line.sum() == 2 * 2 * (x1 - x0 + y1 - y0 + 8)


def test_boxes_of_several_classes_have_a_color_a_name_and_a_legend() -> None:
    boxes = [np.array([[1.0, 1, 15, 15], [4, 4, 12, 12]]), BOX]
    given = {"boxes": boxes, "class_names": ["red cell", "none", "plate"], "side": 160}
    labels = [np.array([2, 0]), np.array([2])]
    figure = contact_sheet([flat(), flat()], box_labels=labels, **given)
    lines, texts = figure.axes[0].collections, figure.axes[0].texts
    assert [len(part.get_paths()) for part in lines] == [1, 2]  # of red cell, of plate
    colors = [ImageColor.getrgb(color) for color in CLASS_COLORS[:2]]
    assert [tuple(np.round(255 * part.get_edgecolor()[0, :3])) for part in lines] == colors
    names = [text.get_text() for text in texts if text.get_text()]
    assert names == ["red cell", "plate", "plate"]
    legend = figure.axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["red cell", "plate"]
    many = [np.arange(7), np.arange(7)]
    boxes = [np.repeat(BOX, 7, axis=0)] * 2
    given |= {"boxes": boxes, "class_names": "abcdefg", "box_labels": many}
    legend = contact_sheet([flat(), flat()], **given).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["classes by name; colors repeat"]


def test_boxes_are_clipped_and_empty_ones_left_out() -> None:
    nan, inf = float("nan"), float("inf")
    nothing = [
        [nan] * 4,
        [5, 5, 5, 9],
        [9, 9, 4, 4],
        [-9, 0, 0, 4],
        [0, 0, inf, 4],
        [20, 20, 30, 30],
    ]
    bare = pixels(contact_sheet([flat()]))
    for boxes in (np.array(nothing), NONE):
        assert np.array_equal(pixels(contact_sheet([flat()], boxes=[boxes])), bare)
    clipped, inner = (
        pixels(contact_sheet([flat()], boxes=[np.array([box])]))
        for box in ([-7, 3, 99, 40], [0, 3, 16, 16])
    )
    assert np.array_equal(clipped, inner) and not np.array_equal(inner, bare)


@pytest.mark.parametrize(
    "text",
    [
        "plain disc",
        "a name much too long for a narrow image, and then some more of it",
        "日本語 ниндзя عربي 🐟 ẞ ñ",
        "tab\there, bell\a, zero\0, escape\x1b[31m, line\u2028separator",
        "half a pair \udcff of surrogates",
        "$a_b$ <b>&amp;</b> {0} %s \\n",
        "x" * 10_000,
        "",
        "\n",
    ],
)
@pytest.mark.parametrize("correct", [None, True, False])
def test_captions_stay_below_their_image(text: str, correct: bool | None) -> None:
    image = flat(128, 16, 40)
    marks = None if correct is None else [correct] * 3
    figure = contact_sheet([image] * 3, captions=["", text, ""], correct=marks, side=80, title=text)
    sheet = pixels(figure)
    left, right = MARGIN + 80 + GAP, MARGIN + 80 + GAP + 80
    top = int(np.flatnonzero((sheet[:, MARGIN] == 128).all(axis=1))[0])
    below = sheet[top + 32 :]
    if marks is None:
        assert (np.delete(below, np.s_[left - 2 : right + 2], axis=1) == 255).all()
    assert (below[:, left:right] < 128).any() == bool(text.strip() or marks)
    assert (sheet[:, -MARGIN:] == 255).all() and (sheet[-MARGIN:] == 255).all()


def test_only_what_does_not_fit_is_cut() -> None:
    name = "striped crescent"
    assert pictures._fit(name, 1000, 9) == name
    widths = [len(pictures._fit(name, width, 9)) for width in range(0, 130, 2)]
    assert widths == sorted(widths) and widths[0] == 0 and widths[-1] == len(name)
    assert pictures._fit(name, 100, 9).endswith("…") and len(set(widths)) > 10


def test_right_and_wrong_differ_in_mark_and_color() -> None:
    bare, right, wrong = (
        contact_sheet([flat()], captions=["disc"], correct=correct)
        for correct in (None, [True], [False])
    )
    found = [[marked(figure, c).any() for c in (RIGHT, WRONG)] for figure in (bare, right, wrong)]
    assert found == [[False, False], [True, False], [False, True]]
    dark = [pixels(figure).min(axis=2) < 200 for figure in (right, wrong)]
    assert (dark[0] != dark[1]).any(), "without color they look alike"


def test_accepted_rejected_and_true_boxes_differ() -> None:
    accepted = detections_sheet([flat()], [BOX], [np.array([0.8])])
    rejected = detections_sheet([flat()], [BOX], [np.array([0.3])])
    true = detections_sheet([flat()], [NONE], [np.zeros(0)], gt_boxes=[BOX])
    bare = detections_sheet([flat()], [NONE], [np.zeros(0)], gt_boxes=[NONE])
    top = MARGIN + 30  # below the legend, which has all three
    counts = {}
    for name, figure in (("accepted", accepted), ("rejected", rejected), ("true", true)):
        masks = [marked(figure, color)[top:] for color in (SKY, REJECTED, AMBER)]
        counts[name] = [int(mask.sum()) for mask in masks]
    assert counts["accepted"][0] > 700 and counts["accepted"][1:] == [0, 0]
    assert counts["rejected"][0] == counts["rejected"][2] == 0 < counts["rejected"][1] < 450
    assert counts["true"][2] > 700 and counts["true"][0] == 0
    edge = marked(rejected, REJECTED)[top:].sum(axis=1).max()
    assert 0.3 * 96 < edge < 0.7 * 96, "dashed"
    assert not marked(bare, SKY)[top:].any()


def test_the_threshold_decides() -> None:
    for threshold, accepted in ((0.79, True), (0.8, True), (0.81, False)):
        figure = detections_sheet([flat()], [BOX], [np.array([0.8])], threshold=threshold)
        assert marked(figure, SKY)[MARGIN + 30 :].any() == accepted


def test_confidences_do_not_cover_each_other() -> None:
    one, two = (
        detections_sheet([flat()], [BOX.repeat(n, axis=0)], [np.full(n, 0.9)]) for n in (1, 2)
    )
    label = marked(one, SKY).sum() - 4 * 2 * (6 * 16 + 4)
    assert marked(two, SKY).sum() > marked(one, SKY).sum() + 0.4 * label > 0


def test_padding_and_low_confidences_are_not_drawn() -> None:
    boxes = np.array([[np.nan] * 4, [4, 4, 12, 12], [9, 9, 9, 15], [8, 8, 15, 15]])
    bare = pixels(detections_sheet([flat()], [NONE], [np.zeros(0)]))
    for confidence, threshold in (([0.0, 0, 0.9, 0.01], 0.5), ([0.0] * 4, 0.0)):
        figure = detections_sheet([flat()], [boxes], [np.array(confidence)], threshold=threshold)
        if threshold:
            assert np.array_equal(pixels(figure), bare)
        assert not marked(figure, SKY)[MARGIN + 30 :].any()


def test_a_sheet_shows_a_split_whatever_was_found(make_dataset: Callable[..., Dataset]) -> None:
    dataset = make_dataset()
    rows = dataset.rows("val")
    boxes, confidence = torch.zeros(len(rows), 2, 4), torch.zeros(len(rows), 2)
    boxes[:, 0] = torch.tensor([4.0, 4, 10, 10])
    confidence[-1, 0] = 0.9
    mask = marked(localization_sheet(dataset, "val", Detections(boxes, confidence), count=3), SKY)[
        80:
    ]
    place = MARGIN + 2 * (256 + GAP) - 4
    assert mask[:, place:].any() and not mask[:, :place].any(), "boxes go with their image"
    with pytest.raises(ValueError, match="18 images, not 1"):
        localization_sheet(dataset, "val", Detections(boxes[:1], confidence[:1]))


def test_a_split_without_boxes_cannot_be_shown(make_dataset: Callable[..., Dataset]) -> None:
    dataset = make_dataset(("bare",), (3,), boxes=False)
    with pytest.raises(ValueError, match="no image of"):
        localization_sheet(dataset, "val", Detections(torch.zeros(3, 2, 4), torch.zeros(3, 2)))


def test_a_photo_has_its_own_proportions_and_its_boxes_with_it() -> None:
    square = np.zeros((512, 512, 3), np.uint8)
    square[:, 256:] = 200
    shown, boxes = pictures.photo(square, Frame(0, 0, 400, 100), [[200, 0, 400, 100]])
    assert shown.shape == (128, 512, 3) and boxes.tolist() == [[256, 0, 512, 128]]
    assert (shown[:, :250] == 0).all() and (shown[:, 262:] == 200).all()
    same, boxes = pictures.photo(square, Frame(100, 0, 512, 512), [[120, 20, 300, 200]])
    assert same is square and boxes.tolist() == [[20, 20, 200, 200]]
    thin, boxes = pictures.photo(square, Frame(0, 0, 1, 5000), [])
    assert thin.shape == (512, 16, 3) and boxes.shape == (0, 4)


def test_filters_are_gray_at_zero_and_scaled_to_their_largest_weight() -> None:
    filters = np.zeros((2, 3, 3, 3), np.float32)
    filters[0, 1, 1, 0], filters[1, 0, 0, 2] = 0.5, -8.0
    sheet = pixels(pictures.filters_sheet(filters))
    scale = (sheet.shape[1] - 4) // 6
    assert sheet.shape == (3 * scale, 6 * scale + 4, 3)
    assert sheet[scale + 1, scale + 1].tolist() == [255, 128, 128]
    assert sheet[0, 3 * scale + 4].tolist() == [128, 128, 0]


def test_heat_lights_the_window_where_the_map_is_positive() -> None:
    heat = np.array([[-1.0, 1.0], [-1.0, 0.0]])
    light = pictures.heat_overlay(flat(), heat, window=(4, 4, 12, 12)).astype(int).sum(axis=2)
    assert light[4, 11] == light.max() > 2 * light[0, 0] and light[11, 4] == light[0, 0]
    assert (pictures.heat_overlay(flat(), -heat[:, 1:], window=(4, 4, 12, 12)) < 128).all()


def test_arguments_are_left_unchanged() -> None:
    image, box = noise(0), np.array([[-1.5, 2, 30, 9]])
    image.flags.writeable = box.flags.writeable = False
    contact_sheet([image], boxes=[box])
    detections_sheet([image], [box], [np.ones(1)], gt_boxes=[box])


@pytest.mark.parametrize(
    ("images", "arguments", "message"),
    [
        ([], {}, "no image"),
        ([flat().astype(float)], {}, r"image 0 is float64 \(16, 16, 3\)"),
        ([flat(), flat()[..., 0]], {}, r"image 1 is uint8 \(16, 16\)"),
        ([flat()[:0]], {}, r"image 0 is uint8 \(0, 16, 3\)"),
        ([flat()] * 2, {"captions": ["one"]}, "1 captions for 2 images"),
        ([flat()], {"correct": [True, False]}, "2 correct for 1 images"),
        ([flat()], {"boxes": []}, "0 boxes for 1 images"),
        ([flat()], {"boxes": [np.zeros(4)]}, r"boxes of an image are \(4,\)"),
    ],
)
def test_other_forms_are_refused(images: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contact_sheet(images, **arguments)


@pytest.mark.parametrize(
    ("confidence", "message"),
    [
        ([np.ones(2)], r"boxes \(1, 4\) and 2 confidences"),
        ([np.ones(1)] * 2, "2 confidence for 1 images"),
    ],
)
def test_boxes_and_confidences_must_match(confidence: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detections_sheet([flat()], [BOX], confidence)


@pytest.mark.parametrize(
    ("name", "message"), [("a.gif", r"end it in \.png"), ("none/a.png", "there is no folder")]
)
def test_a_picture_that_cannot_be_written(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pictures.save_figure(contact_sheet([flat()]), tmp_path / name)
