"""Box arithmetic equals a count of pixels, box by box."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tinysight.ops import boxes as ops

CANVAS = 24
# Sixteenths, on which moves and products are exact in double precision.
coordinate = st.integers(-1600, 1600).map(lambda sixteenths: sixteenths / 16)
side = st.integers(0, 1600).map(lambda sixteenths: sixteenths / 16)
box_strategy = st.tuples(coordinate, coordinate, side, side).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


def whole_boxes(count: int, seed: int) -> Tensor:
    """Draw boxes (count, 4) with whole, ordered coordinates on the canvas, some of them empty."""
    corners = torch.randint(
        0, CANVAS + 1, (count, 2, 2), generator=torch.Generator().manual_seed(seed)
    )
    return corners.sort(1).values.reshape(count, 4).float()


def mask(box: Tensor) -> np.ndarray:
    x0, y0, x1, y1 = (int(value) for value in box)
    pixels = np.zeros((CANVAS, CANVAS), bool)
    pixels[y0:y1, x0:x1] = True
    return pixels


def counted(box: Tensor, other: Tensor) -> tuple[float, float]:
    """Return IoU and GIoU by counting pixels."""
    one, two = mask(box), mask(other)
    union = (one | two).sum()
    iou = (one & two).sum() / union if union else 0.0
    near, far = torch.minimum(box, other)[:2], torch.maximum(box, other)[2:]
    hull = mask(torch.cat((near, far))).sum()
    return iou, iou - ((hull - union) / hull if hull else 0.0)


def test_area_and_overlaps_equal_a_count_of_pixels() -> None:
    boxes, others = whole_boxes(40, 1), whole_boxes(30, 2)
    assert (ops.area(boxes) == 0).any(), "no empty box was drawn"
    assert ops.area(boxes).tolist() == [mask(box).sum() for box in boxes]
    expected = np.array([[counted(box, other) for other in others] for box in boxes])  # (40, 30, 2)
    np.testing.assert_allclose(ops.pairwise_iou(boxes, others), expected[..., 0], atol=1e-6)
    np.testing.assert_allclose(ops.pairwise_giou(boxes, others), expected[..., 1], atol=1e-6)
    np.testing.assert_allclose(
        ops.iou(boxes[:30], others), expected[range(30), range(30), 0], atol=1e-6
    )
    np.testing.assert_allclose(
        ops.giou(boxes[:30], others), expected[range(30), range(30), 1], atol=1e-6
    )


def test_overlaps_known_by_hand() -> None:
    boxes = torch.tensor([[8.0, 8, 24, 24], [0, 0, 10, 10]])
    others = torch.tensor([[12.0, 8, 28, 24], [20, 0, 30, 10]])
    assert ops.iou(boxes, others).tolist() == pytest.approx([0.6, 0])
    assert (1 - ops.giou(boxes, others)).tolist() == pytest.approx([0.4, 4 / 3])


def test_inverted_and_empty_boxes_cover_nothing() -> None:
    inverted, real = torch.tensor([10.0, 10, 2, 2]), torch.tensor([0.0, 0, 12, 12])
    assert ops.area(inverted) == 0
    assert ops.iou(inverted, real) == 0
    assert ops.iou(inverted, inverted) == 0
    assert ops.giou(torch.zeros(4), torch.zeros(4)) == 0


@pytest.mark.parametrize("shape", [(4,), (0, 4), (3, 4), (2, 0, 4), (2, 5, 4)])
def test_any_leading_shape(shape: tuple[int, ...]) -> None:
    boxes = torch.rand(shape)
    for function in (ops.area, lambda b: ops.iou(b, b), lambda b: ops.giou(b, b)):
        assert function(boxes).shape == shape[:-1]
    moves = (
        ops.to_cxcywh,
        ops.from_cxcywh,
        lambda b: ops.flip(b, width=9),
        lambda b: ops.clip(b, height=9, width=9),
        lambda b: ops.shift(b, x=1, y=2),
        lambda b: ops.scale(b, x=2, y=3),
        lambda b: ops.crop(b, left=1, top=1, height=5, width=5)[0],
    )
    for move in moves:
        assert move(boxes).shape == shape
    if len(shape) > 1:
        assert ops.pairwise_iou(boxes, boxes).shape == (*shape[:-1], shape[-2])
        assert ops.pairwise_iou(boxes, torch.rand(*shape[:-2], 7, 4)).shape == (*shape[:-1], 7)


@given(box_strategy, box_strategy)
@settings(max_examples=200, deadline=None)
def test_overlaps_keep_their_bounds_and_symmetry(first: list[float], second: list[float]) -> None:
    box, other = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    iou, giou = float(ops.iou(box, other)), float(ops.giou(box, other))
    assert 0 <= iou <= 1
    assert -1 <= giou <= iou + 1e-9
    assert iou == float(ops.iou(other, box))
    moved = float(
        ops.iou(
            ops.flip(ops.shift(box, x=7, y=-3), width=64),
            ops.flip(ops.shift(other, x=7, y=-3), width=64),
        )
    )
    assert moved == iou
    if ops.area(box) > 0:
        assert float(ops.iou(box, box)) == 1


@given(box_strategy)
@settings(max_examples=100, deadline=None)
def test_round_trips(values: list[float]) -> None:
    box = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(ops.from_cxcywh(ops.to_cxcywh(box)), box)
    torch.testing.assert_close(ops.flip(ops.flip(box, width=64), width=64), box)
    torch.testing.assert_close(ops.scale(ops.scale(box, x=4, y=0.5), x=0.25, y=2), box)
    clipped = ops.clip(box, height=64, width=48)
    assert torch.equal(ops.clip(clipped, height=64, width=48), clipped)
    assert (clipped >= 0).all() and clipped[[0, 2]].max() <= 48 and clipped[[1, 3]].max() <= 64
    assert 0 <= ops.kept_share(box, height=64, width=48) <= 1 + 1e-9


def test_conversions_by_hand() -> None:
    box = torch.tensor([2.0, 4, 8, 20])
    assert ops.to_cxcywh(box).tolist() == [5, 12, 6, 16]
    assert ops.scale(box, x=2, y=0.5).tolist() == [4, 2, 16, 10]
    assert ops.shift(box, x=1, y=-1).tolist() == [3, 3, 9, 19]


def test_flip_and_crop_follow_painted_pixels() -> None:
    boxes = whole_boxes(60, 3)
    left, top, height, width = 3, 5, 14, 11
    cropped, kept = ops.crop(boxes, left=left, top=top, height=height, width=width)
    for box, part, share in zip(boxes, cropped, kept, strict=True):
        assert np.array_equal(mask(ops.flip(box[None], width=CANVAS)[0]), mask(box)[:, ::-1])
        window = mask(box)[top : top + height, left : left + width]
        assert np.array_equal(mask(part)[:height, :width], window)
        assert float(share) == pytest.approx(window.sum() / max(mask(box).sum(), 1))


def test_padding_keeps_no_share() -> None:
    padding = torch.tensor([[math.nan] * 4, [5.0, 5, 5, 9], [100, 100, 120, 120]])
    moved, kept = ops.crop(padding, left=0, top=0, height=64, width=64)
    assert kept.tolist() == [0, 0, 0]
    assert moved[0].isnan().all() and moved[1:].isfinite().all()


def test_gradients_are_finite_where_boxes_are_empty_or_apart() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [5, 5, 5, 5], [0, 0, 0, 0], [3, 3, 1, 1], [0, 0, 4, 4]],
        requires_grad=True,
    )
    others = torch.tensor(
        [[20.0, 0, 30, 10], [5, 5, 5, 5], [0, 0, 0, 0], [0, 0, 4, 4], [2, 0, 6, 4]]
    )
    (1 - ops.giou(boxes, others)).sum().backward()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()
    assert boxes.grad[0].abs().sum() > 0, "boxes apart must be drawn together"
    assert boxes.grad[4].abs().sum() > 0


def test_complete_iou_of_known_boxes() -> None:
    one, other = torch.tensor([8.0, 8, 24, 24]), torch.tensor([12.0, 8, 28, 24])
    assert float(1 - ops.ciou(one, other)) == pytest.approx(0.4244, abs=5e-5)
    apart = ops.ciou(torch.tensor([0.0, 0, 10, 10]), torch.tensor([20.0, 0, 30, 10]))
    assert float(1 - apart) == pytest.approx(1.4, abs=1e-6)
    assert float(ops.ciou(one, one)) == pytest.approx(1)
    tall = torch.tensor([12.0, 8, 20, 24])  # another aspect ratio costs more than the overlap says
    assert float(ops.ciou(one, tall)) < float(ops.iou(one, tall))
