"""A larger canvas is suggested where boxes are smaller than those learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tinysight.images import Frame
from tinysight.predict.canvas import sides_on_canvas, suggested_canvas
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.predictor import Prediction

MakeMetadata = Callable[..., ModelMetadata]


def found(*sides: float, pixels: int = 640, confidence: float = 0.9) -> Prediction:
    """A photograph of `pixels` by three quarters of them, padded, with squares of these sides."""
    boxes = tuple((10.0, 10.0, 10.0 + side, 10.0 + side) for side in sides)
    size, frame = (pixels, pixels * 3 // 4), Frame(0, -pixels // 8, pixels, pixels)
    one = Prediction("p.jpg", ("a",), ("0",), (1.0,), size=size, frame=frame, boxes=boxes)
    return replace(one, confidences=(confidence,) * len(sides), box_labels=("a",) * len(sides))


def test_sides_are_those_on_the_canvas() -> None:
    wide = replace(found(), boxes=((0.0, 0.0, 160.0, 40.0),), confidences=(0.9,), box_labels=("a",))
    # (160 * 40) ** 0.5 = 80 of 640 pixels
    assert sides_on_canvas([found(64), wide, found(64, confidence=0.1)], 96) == pytest.approx(
        [9.6, 12.0]
    )


@pytest.mark.parametrize(
    ("learned", "predictions", "largest", "expected"),
    [
        (40, [found(64, 64, 200)], 2048, (9.6, 384)),  # 96 * 40 / 9.6 = 400
        (40, [found(64, 64, 200)], 300, (9.6, 288)),  # the most that the engine takes
        (40, [found(64, 64, 200)], 96, None),  # as of an ONNX file
        # sides of 9.6, 30 and 39: 30 is three quarters of 40
        (40, [found(64), found(200, 260)], 2048, None),
        (40, [found(16, pixels=160)], 2048, (9.6, 160)),  # there are no more pixels
        (40, [found(10, pixels=100)], 2048, None),
        (40, [found(64, confidence=0.1)], 2048, None),  # none is accepted
        (None, [found(64)], 2048, None),
        (40, [], 2048, None),
    ],
)
def test_a_canvas_shows_boxes_as_large_as_those_learned_from(
    learned: float | None,
    predictions: list[Prediction],
    largest: int,
    expected: tuple[float, int] | None,
    make_metadata: MakeMetadata,
) -> None:
    localizer = {"head": "mlp"} | ({"box_side": learned} if learned else {})
    metadata = make_metadata(image_size=96, crop=96, localizer=localizer)
    suggested = suggested_canvas(predictions, metadata, largest)
    if expected is None:
        assert suggested is None
    else:
        assert suggested is not None
        assert (round(suggested[0], 6), suggested[1]) == expected
