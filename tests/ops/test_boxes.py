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
from tinysight.ops import numpy_boxes

CANVAS = 24
# Sixteenths, on which moves and products are exact in double precision.
coordinate = st.integers(-1600, 1600).map(lambda sixteenths: sixteenths / 16)
side = st.integers(0, 1600).map(lambda sixteenths: sixteenths / 16)
box_strategy = st.tuples(coordinate, coordinate, side, side).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


def random_boxes(count: int, seed: int) -> Tensor:
    """Return random boxes (count, 4) with integer coordinates on the canvas, some empty."""
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
    boxes, others = random_boxes(40, 1), random_boxes(30, 2)
    assert (ops.area(boxes) == 0).any(), "the case has no empty box"
    assert ops.area(boxes).tolist() == [mask(box).sum() for box in boxes]
    expected = np.array([[counted(box, other) for other in others] for box in boxes])  # (40, 30, 2)
    np.testing.assert_allclose(ops.pairwise_iou(boxes, others), expected[..., 0], atol=1e-6)
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
    moves = (ops.to_cxcywh, ops.from_cxcywh, lambda b: ops.clip(b, height=9, width=9))
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
    move = torch.tensor([7, -3, 7, -3])
    assert iou == float(ops.iou(box + move, other + move))
    if ops.area(box) > 0:
        assert float(ops.iou(box, box)) == 1


@given(box_strategy)
@settings(max_examples=100, deadline=None)
def test_round_trips(values: list[float]) -> None:
    box = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(ops.from_cxcywh(ops.to_cxcywh(box)), box)
    clipped = ops.clip(box, height=64, width=48)
    assert torch.equal(ops.clip(clipped, height=64, width=48), clipped)
    assert (clipped >= 0).all() and clipped[[0, 2]].max() <= 48 and clipped[[1, 3]].max() <= 64
    assert 0 <= ops.kept_share(box, height=64, width=48) <= 1 + 1e-9


def test_conversions_by_hand() -> None:
    box = torch.tensor([2.0, 4, 8, 20])
    assert ops.to_cxcywh(box).tolist() == [5, 12, 6, 16]


def test_clip_and_kept_share_follow_painted_pixels() -> None:
    boxes = random_boxes(60, 3)
    left, top, height, width = 3, 5, 14, 11
    moved = boxes - torch.tensor([left, top, left, top])
    clipped = ops.clip(moved, height=height, width=width)
    kept = ops.kept_share(moved, height=height, width=width)
    for box, part, share in zip(boxes, clipped, kept, strict=True):
        window = mask(box)[top : top + height, left : left + width]
        assert np.array_equal(mask(part)[:height, :width], window)
        assert float(share) == pytest.approx(window.sum() / max(mask(box).sum(), 1))


def test_padding_keeps_no_share() -> None:
    padding = torch.tensor([[math.nan] * 4, [5.0, 5, 5, 9], [100, 100, 120, 120]])
    assert ops.kept_share(padding, height=64, width=64).tolist() == [0, 0, 0]


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
    assert boxes.grad[0].abs().sum() > 0, "boxes apart must be moved together"
    assert boxes.grad[4].abs().sum() > 0


def head_output(boxes: list[list[float]], confidence: list[float]) -> ops.HeadOutput:
    """Make the output for one image of one cell from boxes (cx, cy, w, h) in sides of it."""
    return ops.HeadOutput(
        torch.tensor(boxes).view(1, 1, 1, -1, 4), torch.tensor(confidence).logit().view(1, 1, 1, -1)
    )


@pytest.mark.parametrize(("decoding", "accepted"), [("stop", [0, 1]), ("filter", [0, 1, 3])])
def test_stop_ends_with_the_first_box_below_the_threshold(
    decoding: str, accepted: list[int]
) -> None:
    output = head_output([[0.25, 0.25, 0.125, 0.125]] * 4, [0.9, 0.6, 0.3, 0.8])
    confidence = ops.decode(output, side=64, height=64, width=64, decoding=decoding).confidence
    assert (confidence[0] >= 0.5).nonzero()[:, 0].tolist() == accepted


def test_detections_are_rows_of_fitting_shapes() -> None:
    detections = ops.Detections(torch.rand(3, 2, 4), torch.rand(3, 2))
    both = ops.Detections.cat([detections[:1], detections[1:].to("cpu")])
    assert torch.equal(both.boxes, detections.boxes) and len(both) == 3
    for boxes, confidence in (((3, 2, 4), (3, 1)), ((3, 2, 3), (3, 2)), ((3, 4), (3,))):
        with pytest.raises(ValueError, match="do not fit"):
            ops.Detections(torch.zeros(boxes), torch.zeros(confidence))


def test_decode_refuses_an_unknown_decoding() -> None:
    output = head_output([[0.25, 0.25, 0.125, 0.125]], [0.5])
    with pytest.raises(ValueError, match="allowed: filter, stop"):
        ops.decode(output, side=64, height=64, width=64, decoding="first")


def test_decoded_boxes_are_never_inverted_nor_outside() -> None:
    generator = torch.Generator().manual_seed(0)
    wild = ops.HeadOutput(
        torch.randn(5, 2, 2, 3, 4, generator=generator) * 3,
        torch.randn(5, 2, 2, 3, generator=generator),
    )
    boxes = ops.decode(wild, side=64, height=128, width=96).boxes
    assert boxes.shape == (5, 12, 4)
    assert (boxes[..., 2:] - boxes[..., :2] >= ops.MIN_SIDE * 64 / 2).all()
    assert (boxes >= 0).all() and (boxes[..., 2] <= 96).all() and (boxes[..., 3] <= 128).all()


@pytest.mark.parametrize(
    ("box_cxcywh", "expected"),
    [
        ([0.25, 0.3125, 0.125, 0.15625], [12, 15, 20, 25]),
        ([-0.3, 0.5, 1.0, 0.5], [0, 16, 12.8, 48]),  # cut at the edge
        ([1.4, 0.5, 0.2, 0.5], [63, 16, 64, 48]),  # entirely outside: stays at the edge
        ([0.5, -2.0, 0.5, 0.5], [16, 0, 48, 1]),
    ],
)
def test_decoded_boxes_by_hand(box_cxcywh: list[float], expected: list[float]) -> None:
    boxes = ops.decode(head_output([box_cxcywh], [0.5]), side=64, height=64, width=64).boxes
    assert boxes[0, 0].tolist() == pytest.approx(expected, abs=1e-4)


def nms_one_by_one(boxes: Tensor, confidence: Tensor, max_iou: float) -> list[int]:
    kept: list[int] = []
    for index in confidence.argsort(descending=True, stable=True).tolist():
        if all(float(ops.iou(boxes[index], boxes[other])) <= max_iou for other in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("max_iou", [0.1, 0.5, 1.0])
def test_nms_equals_the_greedy_loop(max_iou: float) -> None:
    generator = torch.Generator().manual_seed(0)
    near = torch.rand(20, 12, 2, generator=generator) * 40
    boxes = torch.cat((near, near + 8 + torch.rand(20, 12, 2, generator=generator) * 16), dim=-1)
    confidence = torch.rand(20, 12, generator=generator)
    result = ops.nms(ops.Detections(boxes, confidence), max_iou=max_iou, max_boxes=15)
    assert result.boxes.shape == (20, 12, 4) and result.confidence.shape == (20, 12)
    for image in range(20):
        kept = nms_one_by_one(boxes[image], confidence[image], max_iou)
        assert torch.equal(result.boxes[image, : len(kept)], boxes[image, kept])
        assert torch.equal(result.confidence[image, : len(kept)], confidence[image, kept])
        assert not result.confidence[image, len(kept) :].any()
        assert not result.boxes[image, len(kept) :].any()
    fewer = ops.nms(ops.Detections(boxes, confidence), max_iou=max_iou, max_boxes=2)
    assert torch.equal(fewer.boxes, result.boxes[:, :2])


def test_nms_keeps_what_overlaps_a_box_of_another_class() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 9, 10], [0, 1, 10, 10]]])
    confidence, labels = torch.tensor([[0.6, 0.9, 0.7, 0.8]]), torch.tensor([[2, 1, 2, 1]])
    result = ops.nms(ops.Detections(boxes, confidence, labels), max_iou=0.5, max_boxes=3)
    assert result.labels is not None and result.labels.tolist() == [[1, 2, 0]]
    assert result.confidence[0].tolist() == pytest.approx([0.9, 0.7, 0])
    only = result.of_class(2)
    assert only.confidence[0].tolist() == pytest.approx([0, 0.7, 0])
    with pytest.raises(ValueError, match="labels alike"):
        ops.Detections(boxes, confidence, labels[:, :2])


def test_mirrored_output_is_turned_back_and_averaged() -> None:
    boxes = torch.tensor([[0.2, 0.5, 0.2, 0.4], [1.3, 0.6, 0.4, 0.2]]).view(1, 1, 2, 1, 4)
    output = ops.HeadOutput(boxes, torch.tensor([[[[1.0], [3.0]]]]))
    # on a canvas of 1.5 sides the left cell of the mirror image is the right one's
    mirrored = torch.tensor([[0.3, 0.6, 0.4, 0.2], [1.3, 0.5, 0.2, 0.4]]).view(1, 1, 2, 1, 4)
    other = ops.HeadOutput(mirrored, torch.tensor([[[[5.0], [1.0]]]]))
    found = ops.flip_averaged(output, other, width=1.5)
    expected = torch.tensor([[0.2, 0.5, 0.2, 0.4], [1.25, 0.6, 0.4, 0.2]]).view(1, 1, 2, 1, 4)
    torch.testing.assert_close(found.boxes_cxcywh, expected)
    assert found.logits.flatten().tolist() == [1.0, 4.0] and found.class_logits is None


def test_decoded_boxes_have_their_most_probable_class() -> None:
    output = head_output([[8.0, 8, 8, 8], [20, 20, 8, 8]], [0.9, 0.8])
    logits = torch.tensor([[0.0, 2, 1], [3, 2, 1]]).view(1, 1, 1, 2, 3)
    found = ops.decode(output._replace(class_logits=logits), side=64, height=64, width=64)
    assert found.labels is not None and found.labels.tolist() == [[1, 0]]


def test_nms_of_many_boxes_compares_the_most_confident() -> None:
    generator = torch.Generator().manual_seed(0)
    near = torch.rand(1, 50_000, 2, generator=generator) * 60  # crowded: 32 need some of 256
    boxes = torch.cat((near, near + 20), dim=-1)  # comparing all with all would take 10 GB
    confidence = torch.rand(1, 50_000, generator=generator)
    result = ops.nms(ops.Detections(boxes, confidence), max_iou=0.5, max_boxes=32)
    assert result.confidence[0, 0] == confidence.max() and (result.confidence > 0).all()
    assert (result.confidence.diff(dim=1) <= 0).all()
    order = confidence[0].argsort(descending=True)[: ops.MAX_CANDIDATES]
    kept = nms_one_by_one(boxes[0, order], confidence[0, order], 0.5)[:32]
    assert torch.equal(result.boxes[0], boxes[0, order][kept])


@given(
    st.integers(0, 2**32), st.integers(1, 3), st.sampled_from((1, 5, 40, 300)),
    st.sampled_from((0.0, 0.3, 0.5, 1.0)), st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_nms_in_numpy_is_the_same_to_the_bit(
    seed: int, num_images: int, count: int, max_iou: float, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(-5, CANVAS, (num_images, count, 2, 2)), axis=2)
    boxes = corners.reshape(num_images, count, 4).astype(np.float32)
    confidence = rng.uniform(0, 1, (num_images, count)).astype(np.float32)
    confidence = confidence.round(1) if ties else confidence
    limits = {"max_iou": max_iou, "max_boxes": 32}
    labels = rng.integers(0, 3, confidence.shape) if seed % 2 else None
    given = [None if own is None else torch.from_numpy(own) for own in (boxes, confidence, labels)]
    expected = ops.nms(ops.Detections(*given), **limits)  # type: ignore[arg-type]
    found = numpy_boxes.nms(boxes, confidence, labels, **limits)
    assert np.array_equal(found[0], expected.boxes.numpy())
    assert np.array_equal(found[1], expected.confidence.numpy())
    assert (found[2] is None) == (labels is None)
    assert expected.labels is None or np.array_equal(found[2], expected.labels.numpy())
