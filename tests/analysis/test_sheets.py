"""Contact sheets: boxes to the pixel, captions that fit whatever they hold, and the grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from tinysight.analysis import sheets
from tinysight.analysis.sheets import (
    GAP,
    INK,
    MARGIN,
    PREDICTED_BOX,
    QUIET,
    RIM,
    TRUE_BOX,
    augmentation_figure,
    contact_sheet,
)


def flat(value: int = 128, height: int = 16, width: int = 16) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def noise(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def is_color(sheet: Image.Image, color: str) -> np.ndarray:
    return (np.asarray(sheet) == ImageColor.getrgb(color)).all(axis=2)


def extent(marked: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_images_stand_in_their_cells_unchanged(scale: int) -> None:
    images = [noise(seed) for seed in range(5)]
    sheet = np.asarray(contact_sheet(images, columns=3, scale=scale))
    side = 16 * scale
    assert sheet.shape == (2 * MARGIN + 2 * side + GAP, 2 * MARGIN + 3 * side + 2 * GAP, 3)
    for number, image in enumerate(images):
        top, left = (MARGIN + place * (side + GAP) for place in divmod(number, 3))
        enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
        assert (sheet[top : top + side, left : left + side] == enlarged).all()
        sheet = sheet.copy()
        sheet[top : top + side, left : left + side] = 255
    assert (sheet == 255).all(), "something is drawn beside the images"


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("box", [[3, 5, 9, 6], [0, 0, 16, 16], [4, 4, 5, 5], [15, 0, 16, 16]])
@pytest.mark.parametrize(
    ("kind", "color"), [("boxes", TRUE_BOX), ("predicted_boxes", PREDICTED_BOX)]
)
def test_a_box_runs_round_exactly_its_pixels(
    kind: str, color: str, box: list[int], scale: int
) -> None:
    arguments: dict[str, Any] = {kind: [np.array([box], dtype=np.float32)]}
    sheet = contact_sheet([flat()], scale=scale, **arguments)
    top = sheet.height - MARGIN - 16 * scale  # a legend may stand above
    x0, y0, x1, y1 = (
        offset + scale * edge for offset, edge in zip([MARGIN, top] * 2, box, strict=True)
    )
    pixels = np.asarray(sheet)
    assert (pixels[y0:y1, x0:x1] == 128).all()
    line = is_color(sheet, color)
    line[: top - 4] = False
    assert extent(line) == [x0 - 2, y0 - 2, x1 + 2, y1 + 2]
    assert line[[y0 - 1, y0 - 1, y1, y1], [x0 - 1, x1, x0 - 1, x1]].all(), (
        "the corners mark the box"
    )
    around = np.zeros_like(line)
    around[y0 - 3 : y1 + 3, x0 - 3 : x1 + 3] = True
    around[y0:y1, x0:x1] = False
    assert (line | is_color(sheet, RIM))[around].all()
    if kind == "boxes":
        assert line.sum() == (x1 - x0 + 4) * (y1 - y0 + 4) - (x1 - x0) * (y1 - y0)


def test_predicted_boxes_are_dashed_and_explained() -> None:
    box = [np.array([[2.0, 2, 14, 14]])]
    plain, both = (
        contact_sheet([flat()], boxes=box, scale=4),
        contact_sheet([flat()], predicted_boxes=box, scale=4),
    )
    assert both.height > plain.height
    legend = np.asarray(both)[: both.height - plain.height + MARGIN - 4]
    assert (legend == ImageColor.getrgb(QUIET)).all(axis=2).any()
    solid = is_color(plain, TRUE_BOX).sum()
    top = both.height - plain.height
    dashed = is_color(both, PREDICTED_BOX)[top:].sum()
    assert 0.4 * solid < dashed < 0.75 * solid


def test_boxes_are_cut_at_the_edge_and_nothings_are_left_out() -> None:
    nan, inf = float("nan"), float("inf")
    boxes = np.array(
        [[nan] * 4, [5, 5, 5, 9], [9, 9, 4, 4], [-9, 0, 0, 4], [0, 0, inf, 4], [20, 20, 30, 30]]
    )
    bare = contact_sheet([flat()], scale=2)
    assert contact_sheet([flat()], boxes=[boxes], scale=2).tobytes() == bare.tobytes()
    assert contact_sheet([flat()], boxes=[np.zeros((0, 4))], scale=2).tobytes() == bare.tobytes()
    cut, whole = (
        contact_sheet([flat()], boxes=[np.array([box])])
        for box in ([-7, 3, 99, 40], [0, 3, 16, 16])
    )
    assert cut.tobytes() == whole.tobytes() != bare.tobytes()


def test_boxes_belong_to_their_image() -> None:
    boxes = [np.zeros((0, 4)), np.array([[2, 2, 6, 6], [8, 8, 12, 12]])]
    sheet = is_color(contact_sheet([flat(), flat()], boxes=boxes, scale=2), TRUE_BOX)
    second = MARGIN + 32 + GAP
    assert not sheet[:, : second - 3].any()
    assert extent(sheet) == [second + 4 - 2, MARGIN + 4 - 2, second + 24 + 2, MARGIN + 24 + 2]


@pytest.mark.parametrize(
    "text",
    [
        "plain disc",
        "a name much too long for a narrow image, and then some more of it",
        "one\ntwo\nthree\nfour",
        "日本語 ниндзя عربي 🐟 ẞ ñ",
        "tab\there, bell\a, zero\0, escape\x1b[31m, line\u2028separator",
        "half a pair \udcff of surrogates",
        "<b>&amp;</b> {0} %s \\n",
        "x" * 10_000,
        "",
        "\n",
        "   ",
    ],
)
@pytest.mark.parametrize("mark", [None, "right", "wrong"])
def test_captions_stay_under_their_image_whatever_they_hold(text: str, mark: Any) -> None:
    image = flat(128, 16, 40)
    sheet = contact_sheet(
        [image] * 3, captions=["", (text, mark) if mark else text, ""], scale=2, title=text
    )
    pixels = np.asarray(sheet)
    left, right_edge = MARGIN + 80 + GAP, MARGIN + 80 + GAP + 80
    image_top = int(np.flatnonzero((pixels[:, MARGIN] == 128).all(axis=1))[0])
    below = pixels[image_top + 32 :]
    outside = np.concatenate([below[:, : left - 2], below[:, right_edge + 2 :]], axis=1)
    assert (outside == 255).all()
    if text.strip():
        assert (below[:, left:right_edge] < 128).any(), "nothing was written"
    assert (
        (pixels[:MARGIN] == 255).all()
        and (pixels[:, -MARGIN:] == 255).all()
        and (pixels[-MARGIN:] == 255).all()
    )


def test_only_what_does_not_fit_is_cut() -> None:
    font = sheets.font_of(sheets.TEXT_SIZE)
    name = "striped crescent"
    assert sheets._fit(name, font, font.getlength(name)) == name
    cut = sheets._fit(name, font, font.getlength(name) - 1)
    assert (
        cut.endswith("…")
        and name.startswith(cut[:-1])
        and font.getlength(cut) < font.getlength(name)
    )
    assert len(cut) >= len(name) - 2, "more was cut than needed"
    assert sheets._fit(name, font, 3) == ""


def test_right_and_wrong_differ_by_mark_and_by_color() -> None:
    bare = contact_sheet([flat()], captions=["disc"], scale=4)
    right, wrong = (
        contact_sheet([flat()], captions=[("disc", mark)], scale=4) for mark in ("right", "wrong")
    )

    def tints(sheet: Image.Image) -> tuple[bool, bool]:
        """Whether anything is green, and whether anything is red."""
        red, green, _ = np.moveaxis(np.asarray(sheet).astype(int), 2, 0)
        return bool((green - red > 40).any()), bool((red - green > 40).any())

    assert [tints(sheet) for sheet in (bare, right, wrong)] == [
        (False, False),
        (True, False),
        (False, True),
    ]
    gray_right, gray_wrong = (np.asarray(sheet).min(axis=2) < 200 for sheet in (right, wrong))
    assert (gray_right != gray_wrong).any(), "without color they look alike"


def test_lines_of_a_caption_and_their_room() -> None:
    one, two, three = (
        contact_sheet([flat()], captions=[text], scale=4) for text in ("E", "E\nE", "E\nE\nc")
    )
    line = sum(sheets.font_of(sheets.TEXT_SIZE).getmetrics()) + 1
    assert two.height - one.height == line and three.height == two.height
    assert is_color(one, INK).any() and not is_color(one, QUIET).any()
    assert is_color(two, QUIET).any()
    assert three.tobytes() == contact_sheet([flat()], captions=["E\nE c"], scale=4).tobytes()
    assert contact_sheet([flat()], captions=["a"], title="A title", scale=4).height > one.height


def test_smaller_images_are_centered() -> None:
    pixels = np.asarray(contact_sheet([flat(10), flat(20, 8, 12)], scale=2))
    assert extent((pixels == 20).all(axis=2)) == [
        MARGIN + 32 + GAP + 4,
        MARGIN + 8,
        MARGIN + 32 + GAP + 4 + 24,
        MARGIN + 8 + 16,
    ]


def test_an_augmentation_figure_is_the_original_and_each_panel() -> None:
    panels = [(f"gamma {1 + number / 100:.2f}", noise(number)) for number in range(1, 6)]
    expected = contact_sheet(
        [noise(0), *(image for _, image in panels)],
        captions=["original", *(caption for caption, _ in panels)],
        columns=3,
        scale=2,
        title="Augmentation",
    )
    drawn = augmentation_figure(noise(0), panels, columns=3, scale=2, title="Augmentation")
    assert drawn.tobytes() == expected.tobytes()


def test_arguments_are_left_as_they_are() -> None:
    image, box = noise(0), np.array([[-1.5, 2, 30, 9]])
    image.flags.writeable = box.flags.writeable = False
    assert contact_sheet([image], boxes=[box], predicted_boxes=[box]).mode == "RGB"


@pytest.mark.parametrize(
    ("images", "arguments", "message"),
    [
        ([], {}, "no image to show"),
        (
            [flat().astype(float)],
            {},
            r"image 0 is float64 \(16, 16, 3\); give uint8 \(height, width, 3\)",
        ),
        ([flat(), flat()[..., 0]], {}, r"image 1 is uint8 \(16, 16\)"),
        ([flat()[:0]], {}, r"image 0 is uint8 \(0, 16, 3\)"),
        ([flat()] * 2, {"captions": ["one"]}, "1 captions for 2 images; give one for each"),
        (
            [flat()],
            {"captions": [("disc", True)]},
            "a caption is marked True; give 'right' or 'wrong'",
        ),
        ([flat()], {"boxes": []}, "0 boxes for 1 images"),
        ([flat()], {"predicted_boxes": []}, "0 predicted_boxes for 1 images"),
        ([flat()], {"boxes": [np.zeros(4)]}, r"boxes of an image are \(4,\); give \(n, 4\)"),
        ([flat()], {"columns": 0}, "columns is 0; give 1 or more"),
        ([flat()], {"scale": 0}, "scale is 0; give 1 or more"),
    ],
)
def test_other_forms_are_refused(
    images: list[np.ndarray], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        contact_sheet(images, **arguments)
    assert "\n" not in str(caught.value)
