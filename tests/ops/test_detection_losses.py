"""The losses equal hand-worked cases, and gradients stay finite."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tinysight.ops.boxes import BoxTargets, HeadOutput
from tinysight.ops.detection_losses import centernet_loss, hungarian_loss, single_box_loss

NAN = [math.nan] * 4


def head_output(
    boxes: list[list[float]], confidences: list[float], *, side: float = 64.0
) -> HeadOutput:
    """Make the output for one image of one cell from boxes (cx, cy, w, h) in pixels."""
    box = torch.tensor(boxes) / side
    logits = torch.tensor(confidences).logit()
    return HeadOutput(box.view(1, 1, 1, -1, 4), logits.view(1, 1, 1, -1))


def test_the_loss_of_figure_5() -> None:
    boxes = [[18.0, 16, 16, 16], [17.0, 16, 16, 16], [44.0, 26, 16, 16], [46.0, 45, 16, 16]]
    output = head_output(boxes, [0.9, 0.8, 0.6, 0.5])
    gt_boxes = torch.tensor([[[16.0, 16.0, 16.0, 16.0], [44.0, 44.0, 16.0, 16.0]]]) / 64
    for rule in ("iou", "center"):
        losses = hungarian_loss(output, BoxTargets(gt_boxes), overlap=rule, giou_weight=0.0)
        assert float(losses.confidence) == pytest.approx(3.324236, abs=2e-6)
        assert float(losses.confidence + 0.1 * 64 * losses.box) == pytest.approx(3.824236, abs=1e-5)


def test_without_a_true_box_only_the_confidence_is_trained() -> None:
    boxes = torch.rand(1, 1, 1, 3, 4, requires_grad=True)
    logits = torch.tensor([0.2, 0.1, 0.1]).logit().view(1, 1, 1, 3).requires_grad_()
    losses = hungarian_loss(
        HeadOutput(boxes, logits), BoxTargets(torch.tensor([[NAN]])), overlap="iou", giou_weight=1.0
    )
    assert float(losses.confidence.detach()) == pytest.approx(0.433864, abs=1e-6)
    assert float(losses.box.detach()) == 0
    (losses.confidence + losses.box).backward()
    assert boxes.grad is not None and logits.grad is not None
    assert not boxes.grad.any() and torch.isfinite(logits.grad).all()


def test_unmatched_boxes_get_no_gradient_of_the_box_loss() -> None:
    boxes = (
        (torch.tensor([[60.0, 60.0, 6.0, 6.0], [34.0, 32.0, 40.0, 40.0]]) / 64)
        .view(1, 1, 1, 2, 4)
        .requires_grad_()
    )
    gt_boxes = torch.tensor([[[32.0, 32.0, 40.0, 40.0]]]) / 64
    losses = hungarian_loss(
        HeadOutput(boxes, torch.zeros(1, 1, 1, 2)),
        BoxTargets(gt_boxes),
        overlap="iou",
        giou_weight=0.0,
    )
    losses.box.backward()
    assert boxes.grad is not None
    assert boxes.grad[0, 0, 0].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]
    assert float(losses.box.detach()) == pytest.approx(2 / 64)


@pytest.mark.parametrize(
    ("box", "gt_box", "loss"),
    [
        ([16.0, 16, 16, 16], [20.0, 16, 16, 16], 0.4),  # IoU .6
        ([5.0, 5, 10, 10], [25.0, 5, 10, 10], 4 / 3),
    ],
)
def test_the_weighted_giou_is_added(box: list[float], gt_box: list[float], loss: float) -> None:
    gt_boxes = torch.tensor([[gt_box]]) / 64
    plain, with_giou = (
        hungarian_loss(
            head_output([box], [0.5]), BoxTargets(gt_boxes), overlap="iou", giou_weight=weight
        ).box
        for weight in (0.0, 1.0)
    )
    assert float(with_giou - plain) == pytest.approx(loss, abs=1e-5)


def test_only_the_cell_with_the_center_is_positive() -> None:
    boxes = torch.full((1, 2, 2, 1, 4), 0.3)
    logits = torch.zeros(1, 2, 2, 1, requires_grad=True)
    losses = hungarian_loss(
        HeadOutput(boxes, logits),
        BoxTargets(torch.tensor([[[0.75, 0.25, 0.5, 0.5]]])),
        overlap="iou",
        giou_weight=0.0,
    )
    losses.confidence.backward()
    assert logits.grad is not None
    assert (logits.grad[0, :, :, 0] < 0).tolist() == [[False, True], [False, False]]


def test_a_single_box_learns_the_first_true_box() -> None:
    boxes = torch.full((2, 1, 1, 1, 4), 0.5, requires_grad=True)
    logits = torch.zeros(2, 1, 1, 1, requires_grad=True)
    gt_boxes = torch.tensor([[[0.5, 0.5, 0.75, 0.5], [0.1, 0.1, 0.1, 0.1]], [NAN, NAN]])
    losses = single_box_loss(HeadOutput(boxes, logits), BoxTargets(gt_boxes), giou_weight=0.0)
    assert float(losses.box.detach()) == pytest.approx(0.25 / 2)
    assert float(losses.confidence.detach()) == pytest.approx(math.log(2))
    (losses.box + losses.confidence).backward()
    assert logits.grad is not None and logits.grad.flatten()[0] < 0 < logits.grad.flatten()[1]


def test_a_single_box_learns_the_first_box_that_is_there() -> None:
    output = HeadOutput(torch.full((2, 1, 1, 1, 4), 0.5), torch.zeros(2, 1, 1, 1))
    there = [0.5, 0.5, 0.75, 0.5]
    boxes = torch.tensor([[NAN, NAN, there, [0.1] * 4], [NAN, there, NAN, NAN]])
    labels = torch.tensor([[0, 0, 2, 1], [0, 1, 0, 0]])
    logits = torch.zeros(2, 1, 1, 1, 3, requires_grad=True)
    found = single_box_loss(
        output._replace(class_logits=logits), BoxTargets(boxes, labels=labels), giou_weight=0.0
    )
    assert float(found.box) == pytest.approx(0.25)
    # each has an object: the loss is that of "there is one" for both
    sure = output._replace(logits=torch.full((2, 1, 1, 1), 9.0))
    assert float(single_box_loss(sure, BoxTargets(boxes), giou_weight=0.0).confidence) < 0.001
    found.classes.backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    assert logits.grad.flatten(0, 3).argmin(dim=1).tolist() == [2, 1]


def test_centernet_is_positive_at_the_cell_of_the_center() -> None:
    boxes = torch.full((1, 8, 8, 1, 4), 0.5, requires_grad=True)
    logits = torch.zeros(1, 8, 8, 1, requires_grad=True)
    gt_boxes = torch.tensor([[[0.7, 0.2, 0.4, 0.3], NAN]])
    losses = centernet_loss(HeadOutput(boxes, logits), BoxTargets(gt_boxes), giou_weight=0.0)
    assert float(losses.box.detach()) == pytest.approx(0.2 + 0.3 + 0.1 + 0.2, abs=1e-6)
    (losses.box + losses.confidence).backward()
    assert logits.grad is not None and boxes.grad is not None
    assert (logits.grad < 0).nonzero()[:, 1:3].tolist() == [[1, 5]]
    assert boxes.grad.abs().sum(dim=-1).nonzero()[:, 1:3].tolist() == [[1, 5]]
    far, near = logits.grad[0, 7, 0, 0], logits.grad[0, 1, 4, 0]
    assert far > near > 0  # a mistake next to the center costs less
    nothing = centernet_loss(
        HeadOutput(boxes, logits), BoxTargets(torch.tensor([[NAN]])), giou_weight=1.0
    )
    assert float(nothing.box.detach()) == 0 and torch.isfinite(nothing.confidence)


LOST = BoxTargets(torch.tensor([[NAN]]), torch.tensor([[[0.8, 0.3, 0.4, 0.5]]]))  # right, above


@pytest.mark.parametrize("head", [hungarian_loss, centernet_loss])
def test_where_a_lost_box_is_nothing_is_wrong(head: Any) -> None:
    logits = torch.zeros(1, 8, 8, 1, requires_grad=True)
    output = HeadOutput(torch.full((1, 8, 8, 1, 4), 0.5), logits)
    rule = {"overlap": "iou"} if head is hungarian_loss else {}
    head(output, LOST, giou_weight=0.0, **rule).confidence.backward()
    assert logits.grad is not None
    silent = logits.grad[0, :, :, 0] == 0
    assert silent.nonzero().tolist() == [[y, x] for y in range(5) for x in range(4, 8)]
    inside = BoxTargets(torch.tensor([[[0.8, 0.3, 0.1, 0.1]]]), LOST.lost_cxcywh)
    logits.grad = None
    head(output, inside, giou_weight=0.0, **rule).confidence.backward()
    assert (logits.grad < 0).nonzero().tolist() == [[0, 2, 6, 0]]  # what is matched is right


def test_a_single_box_learns_nothing_of_an_image_that_lost_its_object() -> None:
    output = HeadOutput(torch.full((1, 1, 1, 1, 4), 0.5), torch.zeros(1, 1, 1, 1))
    assert float(single_box_loss(output, LOST, giou_weight=0.0).confidence) == 0
    alone = single_box_loss(output, BoxTargets(LOST.boxes_cxcywh), giou_weight=0.0)
    assert float(alone.confidence) == pytest.approx(math.log(2))


@pytest.mark.parametrize("head", [hungarian_loss, single_box_loss, centernet_loss])
def test_matched_boxes_learn_their_class(head: Any) -> None:
    grid = 1 if head is single_box_loss else 8
    logits = torch.zeros(2, grid, grid, 1, 3, requires_grad=True)
    boxes = torch.full((2, grid, grid, 1, 4), 0.5)
    output = HeadOutput(boxes, torch.zeros(2, grid, grid, 1), logits)
    gt_boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], NAN], [[0.5, 0.5, 0.5, 0.5], NAN]])
    targets = BoxTargets(gt_boxes, labels=torch.tensor([[2, -1], [0, -1]]))
    rule = {"overlap": "iou"} if head is hungarian_loss else {}
    losses = head(output, targets, giou_weight=0.0, **rule)
    assert float(losses.classes.detach()) == pytest.approx(math.log(3))  # a mean over two images
    losses.classes.backward()
    assert logits.grad is not None
    place = grid // 2
    learned = logits.grad[:, place, place, 0]
    assert learned.argmin(dim=1).tolist() == [2, 0]
    assert torch.count_nonzero(logits.grad) == 6
    assert head(output._replace(class_logits=None), targets, giou_weight=0.0, **rule).classes == 0
