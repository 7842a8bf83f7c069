"""Detection figures: counted by hand, against a loop that does the obvious, and against COCO's
evaluation.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from tinysight.ops import detection_metrics
from tinysight.ops.boxes import pairwise_iou

NAN = float("nan")
NONE = [NAN] * 4
A, B, C = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [0.0, 20, 10, 30]
HALF = [0.0, 0, 10, 5]  # IoU 0.5 with A
NEAR = [0.0, 0, 10, 8]  # IoU 0.8 with A


def draw(
    seed: int, num: int = 40, most: int = 6, most_truths: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw predictions near gt_boxes and elsewhere, some images without truth or box, some equal
    confidences.
    """
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    corner, size = rand(num, most_truths, 2) * 40, 5 + rand(num, most_truths, 2) * 19
    gt_boxes = torch.cat((corner, corner + size), -1)
    number = (rand(num) * (most_truths + 1)).long()
    which = (rand(num, most) * most_truths).long()
    boxes = gt_boxes.gather(1, which[..., None].expand(-1, -1, 4)) + (rand(num, most, 4) - 0.5) * 5
    boxes = torch.cat((boxes[..., :2], torch.maximum(boxes[..., 2:], boxes[..., :2] + 1)), -1)
    gt_boxes[torch.arange(most_truths) >= number[:, None]] = NAN
    confidence = (rand(num, most) * 50).round() / 50
    return boxes, confidence * (rand(num, most) < 0.8), gt_boxes


def test_top_box_by_hand() -> None:
    boxes = torch.tensor([[A, B], [A, B], [A, B], [A, HALF]])
    confidence = torch.tensor([[0.2, 0.9], [0.9, 0.2], [0.0, 0.0], [0.3, 0.4]])
    gt_boxes = torch.tensor([[A, NONE], [C, A], [A, B], [NONE, NONE]])
    ious = detection_metrics.top_box_iou(boxes, confidence, gt_boxes)
    assert ious.tolist()[:3] == [0, 1, 0] and math.isnan(ious[3])
    assert detection_metrics.top_boxes(boxes, confidence)[1].tolist() == A
    no_boxes = detection_metrics.top_box_iou(boxes[:, :0], confidence[:, :0], gt_boxes)
    assert no_boxes.tolist()[:3] == [0, 0, 0] and math.isnan(no_boxes[3])
    assert detection_metrics.top_box_iou(boxes, confidence, gt_boxes[:, :0]).isnan().all()


def test_localization_by_hand() -> None:
    figures = detection_metrics.localization(
        torch.tensor([0.1, 0.3, 0.5, 0.6, 0.7, NAN], dtype=torch.float64)
    )
    assert (figures.num_images, figures.loc30, figures.loc50, figures.loc70) == (5, 0.8, 0.6, 0.2)
    assert figures.box_acc_v2 == pytest.approx(1.6 / 3)
    assert figures.mean_iou == pytest.approx(0.44)
    assert figures.loc50_low == pytest.approx(0.2307, abs=1e-4)  # Wilson, 3 of 5
    assert figures.loc50_high == pytest.approx(0.8824, abs=1e-4)
    with pytest.raises(ValueError, match="no image has a true box"):
        detection_metrics.localization(torch.tensor([NAN]))


def test_what_is_never_found_reads_zero_however_many_images_are_empty() -> None:
    """The known failure: 99 of 100 images hold nothing, and a model that says "nothing" seems
    right.
    """
    gt_boxes = torch.full((100, 1, 4), NAN)
    gt_boxes[0, 0] = torch.tensor(A)
    boxes, confidence = torch.zeros(100, 3, 4), torch.zeros(100, 3)
    assert (
        detection_metrics.localization(
            detection_metrics.top_box_iou(boxes, confidence, gt_boxes)
        ).loc50
        == 0
    )
    overall, by_number = detection_metrics.count_detections(boxes, confidence, gt_boxes)
    assert (overall.num_images, overall.count_accuracy, overall.recall) == (1, 0, 0)
    assert by_number[0].count_accuracy == 1 and by_number[0].num_images == 99
    assert detection_metrics.average_precision(boxes, confidence, gt_boxes, (0.5,)).tolist() == [0]


def test_class_and_box_must_both_be_right() -> None:
    logits = torch.tensor([[3.0, 2, 1], [3, 2, 1], [3, 2, 1], [3, 2, 1], [3, 2, 1]])
    labels = torch.tensor([0, 1, 0, 2, 0])
    ious = torch.tensor([0.5, 0.9, 0.4, 0.9, NAN])
    assert detection_metrics.localization_error(logits, labels, ious, 1) == 0.75
    assert detection_metrics.localization_error(logits, labels, ious, 2) == 0.5
    assert (
        detection_metrics.localization_error(logits, labels, ious, 5) == 0.25
    )  # three classes are all there are
    with pytest.raises(ValueError, match="no image"):
        detection_metrics.localization_error(logits[4:], labels[4:], ious[4:], 1)


def test_sets_by_hand() -> None:
    boxes = torch.tensor([[A, NEAR, B], [A, B, C], [A, B, C]])
    confidence = torch.tensor([[0.9, 0.8, 0.3], [0.4, 0.9, 0.0], [0.95, 0.2, 0.1]])
    gt_boxes = torch.tensor([[A, B], [B, NONE], [NONE, NONE]])
    overall, by_number = detection_metrics.count_detections(
        boxes, confidence, gt_boxes, threshold=0.5
    )
    assert set(by_number) == {0, 1, 2}
    one, two, none = by_number[1], by_number[2], by_number[0]
    # Two boxes on A: the right number, one of them a duplicate, and B not found
    assert (two.count_accuracy, two.duplicates, two.false_positives, two.recall) == (1, 1, 1, 0.5)
    assert (one.count_accuracy, one.duplicates, one.false_positives, one.recall) == (1, 0, 0, 1)
    assert (none.count_accuracy, none.false_positives) == (0, 1) and math.isnan(none.recall)
    assert (overall.num_images, overall.num_objects) == (2, 3)
    assert (overall.duplicates, overall.recall) == (0.5, pytest.approx(2 / 3))
    # By falling confidence wrong are .95, .8, .4, then .2: with three images, .3 is the last to
    # pass
    assert overall.threshold_at_1_fppi == pytest.approx(0.3)
    assert (overall.recall_at_1_fppi, two.recall_at_1_fppi) == (1, 1)
    assert detection_metrics.false_positives_on_negatives(confidence, gt_boxes) == 1
    assert detection_metrics.false_positives_on_negatives(confidence, gt_boxes, 0.15) == 2
    assert math.isnan(detection_metrics.false_positives_on_negatives(confidence[:2], gt_boxes[:2]))


def test_equal_confidences_cannot_be_told_apart_by_a_threshold() -> None:
    boxes, gt_boxes = torch.tensor([[A, B, C]]), torch.tensor([[A]])
    overall, _ = detection_metrics.count_detections(boxes, torch.full((1, 3), 0.7), gt_boxes)
    assert overall.threshold_at_1_fppi == math.inf and overall.recall_at_1_fppi == 0
    assert overall.recall == 1


def loop_match(
    boxes: Tensor, confidence: Tensor, gt_boxes: Tensor, least: float
) -> list[tuple[float, bool, int]]:
    """Match the obvious way: (confidence, right, image) of every box, images one by one."""
    found = []
    for image, (own, scores, true) in enumerate(zip(boxes, confidence, gt_boxes, strict=True)):
        left = [box for box in true if not bool(box.isnan().any())]
        for place in sorted(range(len(own)), key=lambda place: -float(scores[place])):
            if float(scores[place]) == 0:
                continue
            ious = [float(pairwise_iou(own[place][None], box[None])) for box in left]
            right = bool(ious) and max(ious) >= least
            if right:
                left.pop(ious.index(max(ious)))
            found.append((float(scores[place]), right, image))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_figures_equal_the_obvious_loop(seed: int) -> None:
    boxes, confidence, gt_boxes = draw(seed)
    found = loop_match(boxes, confidence, gt_boxes, 0.5)
    number = (~gt_boxes.isnan().any(-1)).sum(1)
    overall, by_number = detection_metrics.count_detections(
        boxes, confidence, gt_boxes, threshold=0.4
    )
    for count, figures in by_number.items():
        own = [entry for entry in found if number[entry[2]] == count and entry[0] >= 0.4]
        images = int((number == count).sum())
        assert figures.num_images == images
        assert figures.false_positives == pytest.approx(
            sum(not right for _, right, _ in own) / images
        )
        if count:
            assert figures.recall == pytest.approx(
                sum(right for _, right, _ in own) / (images * count)
            )
    thresholds = sorted({score for score, _, _ in found})
    allowed = [
        t
        for t in thresholds
        if sum(not right for score, right, _ in found if score >= t) <= len(boxes)
    ]
    assert overall.threshold_at_1_fppi == pytest.approx(min(allowed))
    right = sum(right for score, right, _ in found if score >= min(allowed))
    assert overall.recall_at_1_fppi == pytest.approx(right / int(number.sum()))


def coco(boxes: Tensor, confidence: Tensor, gt_boxes: Tensor) -> list[float]:
    """COCO's own figures: AP, AP50, AP75."""
    evaluation = pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")

    def xywh(box: Tensor) -> list[float]:
        x0, y0, x1, y1 = box.tolist()
        return [x0, y0, x1 - x0, y1 - y0]

    true: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "thing"}],
    }
    answers = []
    for image in range(len(boxes)):
        true["images"].append({"id": image + 1, "width": 64, "height": 64})
        for box in gt_boxes[image]:
            if not bool(box.isnan().any()):
                x, y, width, height = xywh(box)
                true["annotations"].append(
                    {
                        "id": len(true["annotations"]) + 1,
                        "image_id": image + 1,
                        "category_id": 1,
                        "bbox": [x, y, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                    }
                )
        for box, score in zip(boxes[image], confidence[image].tolist(), strict=True):
            if score > 0:
                answers.append(
                    {"image_id": image + 1, "category_id": 1, "bbox": xywh(box), "score": score}
                )
    with contextlib.redirect_stdout(io.StringIO()):
        api = evaluation.COCO(true)
        run = evaluation.COCOeval_faster(api, api.loadRes(answers), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats[:3]]


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_that_of_coco(seed: int) -> None:
    boxes, confidence, gt_boxes = draw(seed, num=80)
    # No two equally confident boxes: COCO's evaluation and this one may order those differently
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.where(
        confidence > 0, torch.rand(confidence.shape, generator=generator, dtype=torch.float64), 0.0
    )
    own = detection_metrics.average_precision(boxes, confidence, gt_boxes)
    assert [float(own.mean()), float(own[0]), float(own[5])] == pytest.approx(
        coco(boxes, confidence, gt_boxes), abs=1e-9
    )
    assert 0.05 < own.mean() < own[0] < 0.95, "the drawn case tells nothing"


def test_average_precision_by_hand() -> None:
    gt_boxes = torch.tensor([[A, B]])
    boxes, confidence = torch.tensor([[A, C, B]]), torch.tensor([[0.9, 0.8, 0.7]])
    # Precision 1 up to recall 1/2 (51 of 101 points), then 2/3
    assert float(
        detection_metrics.average_precision(boxes, confidence, gt_boxes, (0.5,))
    ) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert (
        detection_metrics.average_precision(boxes, confidence, torch.full((1, 2, 4), NAN))
        .isnan()
        .all()
    )
    assert detection_metrics.average_precision(
        boxes[:, :0], confidence[:, :0], gt_boxes, (0.5,)
    ).tolist() == [0]
    exact = detection_metrics.average_precision(
        torch.tensor([[HALF]]), torch.ones(1, 1), torch.tensor([[A]]), (0.5, 0.55)
    )
    assert exact.tolist() == pytest.approx([1, 0])  # an IoU of exactly the threshold counts


@pytest.mark.parametrize(
    ("boxes", "confidence", "gt_boxes", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 2), torch.zeros(2, 1, 4), "do not fit"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 3), torch.zeros(1, 1, 4), "do not fit"),
        (torch.zeros(2, 4), torch.zeros(2), torch.zeros(2, 1, 4), "do not fit"),
        (torch.zeros(1, 1, 4), torch.full((1, 1), 1.5), torch.zeros(1, 1, 4), "outside 0..1"),
        (torch.zeros(1, 1, 4), torch.full((1, 1), NAN), torch.zeros(1, 1, 4), "outside 0..1"),
        (torch.full((1, 1, 4), NAN), torch.ones(1, 1), torch.zeros(1, 1, 4), "not finite"),
    ],
)
def test_misfits_are_refused(
    boxes: Tensor, confidence: Tensor, gt_boxes: Tensor, message: str
) -> None:
    for measure in (
        detection_metrics.top_box_iou,
        detection_metrics.average_precision,
        detection_metrics.count_detections,
    ):
        with pytest.raises(ValueError, match=message):
            measure(boxes, confidence, gt_boxes)


def test_padding_may_hold_anything_and_ten_thousand_images_take_seconds() -> None:
    boxes, confidence, gt_boxes = draw(1, num=10_000, most=16)
    boxes[confidence == 0] = NAN
    start = time.perf_counter()
    detection_metrics.average_precision(boxes, confidence, gt_boxes)
    detection_metrics.count_detections(boxes, confidence, gt_boxes)
    assert (
        detection_metrics.localization(
            detection_metrics.top_box_iou(boxes, confidence, gt_boxes)
        ).mean_iou
        > 0.1
    )
    assert time.perf_counter() - start < 30
