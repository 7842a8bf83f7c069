"""Predicted boxes on pictures: where the lines run, what is told apart, and the sheet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import ImageColor

from tinysight.analysis.box_pictures import REJECTED_BOX, box_sheet, draw_boxes, localization_figure
from tinysight.analysis.sheets import PREDICTED_BOX, RIM, TRUE_BOX
from tinysight.data.dataset import Dataset

ONE = np.array([[16.0, 20, 40, 44]])


def flat(height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def marked(picture: np.ndarray, color: str) -> np.ndarray:
    return (picture == ImageColor.getrgb(color)).all(axis=2)


def extent(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def test_accepted_rejected_and_true_boxes_differ() -> None:
    accepted = draw_boxes(flat(), ONE, np.array([0.8]))
    rejected = draw_boxes(flat(), ONE, np.array([0.3]))
    true = draw_boxes(flat(), np.zeros((0, 4)), np.zeros(0), gt_boxes=ONE)
    for picture, color, others in (
        (accepted, PREDICTED_BOX, (REJECTED_BOX, TRUE_BOX)),
        (rejected, REJECTED_BOX, (PREDICTED_BOX, TRUE_BOX)),
        (true, TRUE_BOX, (PREDICTED_BOX, REJECTED_BOX)),
    ):
        assert marked(picture, color).any()
        assert not any(marked(picture, other).any() for other in others)
    solid = marked(true, TRUE_BOX)
    assert extent(solid) == [6 * 16 - 2, 6 * 20 - 2, 6 * 40 + 2, 6 * 44 + 2]
    assert extent(marked(accepted, PREDICTED_BOX)) == extent(solid)
    assert extent(marked(rejected, REJECTED_BOX)) == [6 * 16, 6 * 20, 6 * 40, 6 * 44]
    edge = marked(rejected, REJECTED_BOX)[6 * 44 - 1, 6 * 16 : 6 * 40]
    assert 0.4 < edge.mean() < 0.6, "dashed"
    assert marked(accepted, PREDICTED_BOX).sum() > 2 * marked(rejected, REJECTED_BOX).sum(), "thin"


def test_the_threshold_decides() -> None:
    for threshold, color in ((0.79, PREDICTED_BOX), (0.8, PREDICTED_BOX), (0.81, REJECTED_BOX)):
        assert marked(draw_boxes(flat(), ONE, np.array([0.8]), threshold), color).any()


def test_confidences_are_written_where_none_hides_another() -> None:
    bare = marked(draw_boxes(flat(), np.zeros((0, 4)), np.zeros(0), gt_boxes=ONE), RIM).sum()
    one = draw_boxes(flat(), ONE, np.array([0.9]))
    other = draw_boxes(flat(), ONE, np.array([0.7]))
    differing = extent((one != other).any(axis=2))
    assert differing[0] >= 6 * 16 and differing[1] >= 6 * 20, "in the box's corner"
    assert differing[2] < 6 * 40 and differing[3] < 6 * 44 and bare > 0

    def painted(picture: np.ndarray) -> int:
        return int(marked(picture, PREDICTED_BOX).sum())

    label = painted(one) - 4 * 2 * (6 * 24 + 2)
    both = draw_boxes(flat(), np.concatenate([ONE, ONE]), np.array([0.9, 0.9]))
    assert painted(both) > painted(one) + 0.6 * label, "the second figure covers the first"


def test_padding_and_what_is_next_to_nothing_leave_no_line() -> None:
    boxes = np.array([[np.nan] * 4, [4, 4, 20, 20], [9, 9, 9, 30], [8, 8, 30, 30]])
    picture = draw_boxes(flat(), boxes, np.array([0.0, 0.0, 0.9, 0.01]))
    assert (picture == 128).all()
    assert (draw_boxes(flat(), boxes[3:], np.zeros(1), 0.0) == 128).all(), (
        "padding is never accepted"
    )
    many = np.tile(ONE, (20, 1)) + np.arange(20)[:, None]
    few, all_of_them = (
        marked(draw_boxes(flat(), many, np.full(20, 0.2), most_rejected=most), REJECTED_BOX).sum()
        for most in (1, 20)
    )
    assert 0 < few < all_of_them / 5


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (32, 32), (128, 128), (64, 200), (500, 400), (5, 7)]
)
def test_any_canvas_is_enlarged_by_a_whole_number(height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (height, width, 3), np.uint8)
    whole = np.array([[0.0, 0, width, height], [-5, -5, width + 9, height / 2]])
    picture = draw_boxes(image, whole, np.array([0.9, 0.3]))
    scale = picture.shape[0] // height
    assert picture.shape == (scale * height, scale * width, 3) and min(picture.shape[:2]) >= 384
    assert min(height, width) * (scale - 1) < 384 or scale == 1
    assert marked(picture, PREDICTED_BOX).any() and marked(picture, REJECTED_BOX).any(), (
        "a line on the very edge"
    )
    line = marked(draw_boxes(image, whole[:1], np.array([0.9])), PREDICTED_BOX)
    top, left, bottom, right = (
        side.mean() for side in (line[2], line[:, 2], line[-3], line[:, -3])
    )
    assert min(top, left, bottom, right) > 0.8, "a line on the very edge is seen whole"
    plain = draw_boxes(image, whole[:0], np.zeros(0), scale=2)
    assert np.array_equal(plain, image.repeat(2, axis=0).repeat(2, axis=1))


def test_a_sheet_has_every_image_in_its_place() -> None:
    colors = ([50, 90, 50], [100, 140, 100], [150, 190, 150])  # none that a letter could have
    images = [np.tile(np.array(color, np.uint8), (64, 64, 1)) for color in colors]
    confidence = [np.array([0.9]), np.array([0.2]), np.zeros(1)]
    sheet = np.asarray(
        box_sheet(
            images,
            [ONE] * 3,
            confidence,
            gt_boxes=[ONE, ONE, ONE[:0]],
            columns=2,
            title="LocalizerOutput",
        )
    )
    corners = [extent((sheet == color).all(axis=2)) for color in colors]
    assert (
        corners[0][:2] < corners[1][:2]
        and corners[0][1] == corners[1][1]
        and corners[2][1] > corners[0][3]
    )
    assert all(x1 - x0 == 256 for x0, _, x1, _ in corners)
    first, second = ((slice(y0, y1), slice(x0, x1)) for x0, y0, x1, y1 in corners[:2])
    assert (
        marked(sheet[first], PREDICTED_BOX).any() and not marked(sheet[second], PREDICTED_BOX).any()
    )
    assert marked(sheet[second], REJECTED_BOX).any() and marked(sheet[second], TRUE_BOX).any()


def test_the_figure_shows_a_split_whatever_was_found(make_pack: Callable[..., Dataset]) -> None:
    pack = make_pack()
    rows = pack.rows("val")
    boxes, confidence = torch.zeros(len(rows), 2, 4), torch.zeros(len(rows), 2)
    boxes[:, 0], confidence[:, 0] = torch.tensor([4.0, 4, 10, 10]), 0.9
    found = np.asarray(localization_figure(pack, "val", boxes, confidence, count=3))
    nothing = np.asarray(localization_figure(pack, "val", boxes, 0 * confidence, count=3))
    assert found.shape == nothing.shape
    assert (
        marked(found, PREDICTED_BOX).sum() > 3 * 4 * 2 * 90 > marked(nothing, PREDICTED_BOX).sum()
    )
    sure = torch.zeros(len(rows), 2)
    sure[-1, 0] = 0.9
    boxes[:-1] = 0
    last = marked(np.asarray(localization_figure(pack, "val", boxes, sure, count=3)), PREDICTED_BOX)
    left = last.shape[1] // 3
    assert last[100:, -left:].any() and not last[100:, : left * 2].any(), (
        "boxes go with their image"
    )
    with pytest.raises(ValueError, match="boxes are"):
        localization_figure(pack, "val", boxes[:1], confidence[:1])


@pytest.mark.parametrize(
    ("image", "boxes", "confidence", "message"),
    [
        (flat().astype(float), ONE, np.ones(1), r"the image is float64 \(64, 64, 3\)"),
        (flat()[..., 0], ONE, np.ones(1), "give uint8"),
        (flat(), ONE[0], np.ones(1), r"boxes are \(4,\)"),
        (flat(), ONE, np.ones(2), r"confidences \(2,\)"),
    ],
)
def test_other_forms_are_refused(
    image: np.ndarray, boxes: np.ndarray, confidence: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_boxes(image, boxes, confidence)


def test_lists_must_go_together() -> None:
    with pytest.raises(ValueError, match="2 confidences for 1 images"):
        box_sheet([flat()], [ONE], [np.ones(1)] * 2)
    with pytest.raises(ValueError, match="no image to show"):
        box_sheet([], [], [])
