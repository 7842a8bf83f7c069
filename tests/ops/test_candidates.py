"""Decoding, suppression and the losses, by hand-worked cases; and that gradients stay finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tinysight.ops.candidates import (
    LEAST_SIDE,
    HeadOutput,
    centernet_loss,
    decode,
    hungarian_loss,
    nms,
    single_box_loss,
)

NAN = [math.nan] * 4


def _candidates(
    boxes: list[list[float]], confidences: list[float], *, side: float = 64.0
) -> HeadOutput:
    """Make one image's candidates in one cell from boxes (cx, cy, w, h) in pixels."""
    box = torch.tensor(boxes) / side
    logits = torch.tensor(confidences).logit()
    return HeadOutput(box.view(1, 1, 1, -1, 4), logits.view(1, 1, 1, -1))


def _decoded(candidates: HeadOutput, decoding: str, threshold: float) -> list[int]:
    _, confidence = decode(candidates, side=64, height=64, width=64, decoding=decoding)
    return [index + 1 for index, value in enumerate(confidence[0].tolist()) if value >= threshold]


def test_the_two_decodings() -> None:
    candidates = _candidates([[16.0, 16.0, 8.0, 8.0]] * 4, [0.9, 0.6, 0.3, 0.8])
    assert _decoded(candidates, "stop", 0.5) == [1, 2]
    assert _decoded(candidates, "filter", 0.5) == [1, 2, 4]
    with pytest.raises(ValueError, match="allowed: filter, stop"):
        _decoded(candidates, "first", 0.5)


def test_decoded_boxes_are_pixels_and_never_inverted_or_outside() -> None:
    generator = torch.Generator().manual_seed(0)
    wild = HeadOutput(
        torch.randn(5, 2, 2, 3, 4, generator=generator) * 3,
        torch.randn(5, 2, 2, 3, generator=generator),
    )
    boxes, _ = decode(wild, side=64, height=128, width=96)
    assert boxes.shape == (5, 12, 4)
    assert (boxes[..., 2:] - boxes[..., :2] >= LEAST_SIDE * 64 / 2).all()
    assert (boxes >= 0).all() and (boxes[..., 2] <= 96).all() and (boxes[..., 3] <= 128).all()
    exact, _ = decode(_candidates([[16.0, 20.0, 8.0, 10.0]], [0.5]), side=64, height=64, width=64)
    assert torch.allclose(exact[0, 0], torch.tensor([12.0, 15.0, 20.0, 25.0]))


def _suppressed_one_by_one(boxes: Tensor, confidence: Tensor, overlap: float) -> list[int]:
    from tinysight.ops.boxes import iou

    kept: list[int] = []
    for index in confidence.argsort(descending=True, stable=True).tolist():
        if all(float(iou(boxes[index], boxes[other])) <= overlap for other in kept):
            kept.append(index)
    return kept


def test_suppression_is_the_greedy_one() -> None:
    generator = torch.Generator().manual_seed(0)
    near = torch.rand(20, 12, 2, generator=generator) * 40
    boxes = torch.cat((near, near + 8 + torch.rand(20, 12, 2, generator=generator) * 16), dim=-1)
    confidence = torch.rand(20, 12, generator=generator)
    for overlap in (0.1, 0.5, 1.0):
        kept, left = nms(boxes, confidence, overlap=overlap, most=15)
        assert kept.shape == (20, 15, 4) and left.shape == (20, 15)
        for image in range(20):
            expected = _suppressed_one_by_one(boxes[image], confidence[image], overlap)
            assert torch.equal(kept[image, : len(expected)], boxes[image, expected])
            assert torch.equal(left[image, : len(expected)], confidence[image, expected])
            assert not left[image, len(expected) :].any() and not kept[image, len(expected) :].any()
    assert torch.equal(
        nms(boxes, confidence, overlap=0.5, most=2)[0],
        nms(boxes, confidence, overlap=0.5, most=9)[0][:, :2],
    )


def test_the_loss_of_figure_5() -> None:
    boxes = [
        [18.0, 16.0, 16.0, 16.0],
        [17.0, 16.0, 16.0, 16.0],
        [44.0, 26.0, 16.0, 16.0],
        [46.0, 45.0, 16.0, 16.0],
    ]
    candidates = _candidates(boxes, [0.9, 0.8, 0.6, 0.5])
    gt_boxes = torch.tensor([[[16.0, 16.0, 16.0, 16.0], [44.0, 44.0, 16.0, 16.0]]]) / 64
    for rule in ("iou", "center"):
        losses = hungarian_loss(candidates, gt_boxes, overlap=rule, giou_weight=0.0)
        assert float(losses.confidence) == pytest.approx(3.324236, abs=2e-6)
        assert float(losses.confidence + 0.1 * 64 * losses.box) == pytest.approx(3.824236, abs=1e-5)


def test_without_a_truth_only_confidence_is_taught() -> None:
    boxes = torch.rand(1, 1, 1, 3, 4, requires_grad=True)
    logits = torch.tensor([0.2, 0.1, 0.1]).logit().view(1, 1, 1, 3).requires_grad_()
    losses = hungarian_loss(
        HeadOutput(boxes, logits), torch.tensor([[NAN]]), overlap="iou", giou_weight=1.0
    )
    assert float(losses.confidence.detach()) == pytest.approx(0.433864, abs=1e-6)
    assert float(losses.box.detach()) == 0
    (losses.confidence + losses.box).backward()
    assert boxes.grad is not None and logits.grad is not None
    assert not boxes.grad.any() and torch.isfinite(logits.grad).all()


def test_unmatched_candidates_get_no_gradient_of_the_box() -> None:
    boxes = (
        (torch.tensor([[60.0, 60.0, 6.0, 6.0], [34.0, 32.0, 40.0, 40.0]]) / 64)
        .view(1, 1, 1, 2, 4)
        .requires_grad_()
    )
    truth = torch.tensor([[[32.0, 32.0, 40.0, 40.0]]]) / 64
    losses = hungarian_loss(
        HeadOutput(boxes, torch.zeros(1, 1, 1, 2)), truth, overlap="iou", giou_weight=0.0
    )
    losses.box.backward()
    assert boxes.grad is not None
    assert boxes.grad[0, 0, 0].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]
    assert float(losses.box.detach()) == pytest.approx(2 / 64)


def test_giou_of_known_boxes() -> None:
    one = HeadOutput(
        (torch.tensor([16.0, 16.0, 16.0, 16.0]) / 64).view(1, 1, 1, 1, 4), torch.zeros(1, 1, 1, 1)
    )
    truth = torch.tensor([[[20.0, 16.0, 16.0, 16.0]]]) / 64
    plain = hungarian_loss(one, truth, overlap="iou", giou_weight=0.0).box
    with_giou = hungarian_loss(one, truth, overlap="iou", giou_weight=1.0).box
    assert float(with_giou - plain) == pytest.approx(0.4, abs=1e-5)  # IoU .6
    apart = HeadOutput(
        (torch.tensor([5.0, 5.0, 10.0, 10.0]) / 64).view(1, 1, 1, 1, 4), torch.zeros(1, 1, 1, 1)
    )
    far = torch.tensor([[[25.0, 5.0, 10.0, 10.0]]]) / 64
    plain = hungarian_loss(apart, far, overlap="iou", giou_weight=0.0).box
    assert float(
        hungarian_loss(apart, far, overlap="iou", giou_weight=1.0).box - plain
    ) == pytest.approx(4 / 3, abs=1e-5)


def test_only_the_cell_that_holds_the_center_answers() -> None:
    boxes = torch.full((1, 2, 2, 1, 4), 0.3)
    logits = torch.zeros(1, 2, 2, 1, requires_grad=True)
    losses = hungarian_loss(
        HeadOutput(boxes, logits),
        torch.tensor([[[0.75, 0.25, 0.5, 0.5]]]),
        overlap="iou",
        giou_weight=0.0,
    )
    losses.confidence.backward()
    assert logits.grad is not None
    assert (logits.grad[0, :, :, 0] < 0).tolist() == [[False, True], [False, False]]


def test_the_first_truth_is_learned_by_a_single_answer() -> None:
    boxes = torch.full((2, 1, 1, 1, 4), 0.5, requires_grad=True)
    logits = torch.zeros(2, 1, 1, 1, requires_grad=True)
    gt_boxes = torch.tensor([[[0.5, 0.5, 0.75, 0.5], [0.1, 0.1, 0.1, 0.1]], [NAN, NAN]])
    losses = single_box_loss(HeadOutput(boxes, logits), gt_boxes, giou_weight=0.0)
    assert float(losses.box.detach()) == pytest.approx(0.25 / 2)
    assert float(losses.confidence.detach()) == pytest.approx(math.log(2))
    (losses.box + losses.confidence).backward()
    assert logits.grad is not None and logits.grad.flatten()[0] < 0 < logits.grad.flatten()[1]


def test_heat_peaks_at_the_cell_of_the_center() -> None:
    boxes = torch.full((1, 8, 8, 1, 4), 0.5, requires_grad=True)
    logits = torch.zeros(1, 8, 8, 1, requires_grad=True)
    gt_boxes = torch.tensor([[[0.7, 0.2, 0.4, 0.3], NAN]])
    losses = centernet_loss(HeadOutput(boxes, logits), gt_boxes, giou_weight=0.0)
    assert float(losses.box.detach()) == pytest.approx(0.2 + 0.3 + 0.1 + 0.2, abs=1e-6)
    (losses.box + losses.confidence).backward()
    assert logits.grad is not None and boxes.grad is not None
    assert (logits.grad < 0).nonzero()[:, 1:3].tolist() == [[1, 5]]
    assert boxes.grad.abs().sum(dim=-1).nonzero()[:, 1:3].tolist() == [[1, 5]]
    far, near = logits.grad[0, 7, 0, 0], logits.grad[0, 1, 4, 0]
    assert far > near > 0  # a miss beside the center is forgiven
    nothing = centernet_loss(HeadOutput(boxes, logits), torch.tensor([[NAN]]), giou_weight=1.0)
    assert float(nothing.box.detach()) == 0 and torch.isfinite(nothing.confidence)


def test_a_box_beyond_the_canvas_is_cut_there_and_one_wholly_outside_stays_at_the_edge() -> None:
    boxes = torch.tensor([[-0.3, 0.5, 1.0, 0.5], [1.4, 0.5, 0.2, 0.5], [0.5, -2.0, 0.5, 0.5]]).view(
        1, 1, 1, 3, 4
    )
    decoded, _ = decode(HeadOutput(boxes, torch.zeros(1, 1, 1, 3)), side=64, height=64, width=64)
    assert torch.allclose(decoded[0, 0], torch.tensor([0.0, 16, 12.8, 48]))
    assert torch.allclose(decoded[0, 1], torch.tensor([63.0, 16, 64, 48]))
    assert torch.allclose(decoded[0, 2], torch.tensor([16.0, 0, 48, 1]))


def test_suppression_of_very_many_boxes_compares_the_most_confident() -> None:
    generator = torch.Generator().manual_seed(0)
    near = (
        torch.rand(1, 50_000, 2, generator=generator) * 60
    )  # crowded: some of 256 are needed for 32
    boxes = torch.cat((near, near + 20), dim=-1)  # comparing all with all would take 10 GB
    confidence = torch.rand(1, 50_000, generator=generator)
    kept, left = nms(boxes, confidence, overlap=0.5, most=32)
    assert left[0, 0] == confidence.max() and (left.diff(dim=1) <= 0).all() and (left > 0).all()
    order = confidence[0].argsort(descending=True)[:256]
    expected = _suppressed_one_by_one(boxes[0, order], confidence[0, order], 0.5)[:32]
    assert torch.equal(kept[0], boxes[0, order][expected])
