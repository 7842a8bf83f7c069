"""Detection metrics: counted by hand, against a plain loop, and against COCO's evaluation."""

from __future__ import annotations

import contextlib
import io
import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from tinysight.ops.boxes import Detections, pairwise_iou
from tinysight.ops.detection_metrics import (
    average_precision,
    best_threshold,
    count_detections,
    is_found,
    localization,
    localization_error,
    top_box_iou,
    top_boxes,
)

NAN = math.nan
NONE = [NAN] * 4
A, B, C = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [0.0, 20, 10, 30]
HALF = [0.0, 0, 10, 5]  # IoU 0.5 with A
NEAR = [0.0, 0, 10, 8]  # IoU 0.8 with A


def detections_of(boxes: list[list[list[float]]], confidence: list[list[float]]) -> Detections:
    return Detections(torch.tensor(boxes), torch.tensor(confidence))


def random_case(seed: int, num: int = 40, num_boxes: int = 6) -> tuple[Detections, Tensor]:
    """Return predictions near and far from true boxes; some images lack either, some ties."""
    generator = torch.Generator().manual_seed(seed)
    num_gt = 4

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    corner, size = rand(num, num_gt, 2) * 40, 5 + rand(num, num_gt, 2) * 19
    gt_boxes = torch.cat((corner, corner + size), -1)
    number = (rand(num) * (num_gt + 1)).long()
    index = (rand(num, num_boxes) * num_gt).long()
    boxes = gt_boxes.gather(1, index[..., None].expand(-1, -1, 4))
    boxes = boxes + (rand(num, num_boxes, 4) - 0.5) * 5
    boxes = torch.cat((boxes[..., :2], torch.maximum(boxes[..., 2:], boxes[..., :2] + 1)), -1)
    gt_boxes[torch.arange(num_gt) >= number[:, None]] = NAN
    confidence = (rand(num, num_boxes) * 50).round() / 50 * (rand(num, num_boxes) < 0.8)
    return Detections(boxes, confidence), gt_boxes


def test_top_box_by_hand() -> None:
    detections = detections_of(
        [[A, B], [A, B], [A, B], [A, HALF]], [[0.2, 0.9], [0.9, 0.2], [0.0, 0.0], [0.3, 0.4]]
    )
    gt_boxes = torch.tensor([[A, NONE], [C, A], [A, B], [NONE, NONE]])
    ious = top_box_iou(detections, gt_boxes)
    assert ious.tolist()[:3] == [0, 1, 0] and math.isnan(ious[3])
    assert top_boxes(detections)[1].tolist() == A
    empty = Detections(detections.boxes[:, :0], detections.confidence[:, :0])
    ious = top_box_iou(empty, gt_boxes)
    assert ious.tolist()[:3] == [0, 0, 0] and math.isnan(ious[3])
    assert top_box_iou(detections, gt_boxes[:, :0]).isnan().all()


def test_localization_by_hand() -> None:
    ious = torch.tensor([0.1, 0.3, 0.5, 0.6, 0.7, NAN], dtype=torch.float64)
    result = localization(ious)
    assert (result.num_images, result.loc30, result.loc50, result.loc70) == (5, 0.8, 0.6, 0.2)
    assert result.box_acc_v2 == pytest.approx(1.6 / 3)
    assert result.mean_iou == pytest.approx(0.44)
    assert result.loc50_low == pytest.approx(0.2307, abs=1e-4)  # Wilson, 3 of 5
    assert result.loc50_high == pytest.approx(0.8824, abs=1e-4)
    with pytest.raises(ValueError, match="no image has a true box"):
        localization(torch.tensor([NAN]))


def test_an_iou_of_exactly_the_threshold_counts_in_tensors_and_arrays() -> None:
    ious = torch.tensor([0.5 - 1e-6, 0.1 + 0.4 - 1e-16, 0.5], dtype=torch.float64)
    assert is_found(ious).tolist() == is_found(ious.numpy()).tolist() == [False, True, True]
    assert is_found(ious.numpy(), 0.6).tolist() == [False] * 3


def test_nothing_found_gives_zero_however_many_images_are_empty() -> None:
    # A model that predicts nothing must not seem right on the 99 of 100 images that are empty.
    gt_boxes = torch.full((100, 1, 4), NAN)
    gt_boxes[0, 0] = torch.tensor(A)
    detections = Detections(torch.zeros(100, 3, 4), torch.zeros(100, 3))
    assert localization(top_box_iou(detections, gt_boxes)).loc50 == 0
    overall, by_number = count_detections(detections, gt_boxes)
    assert (overall.num_images, overall.count_accuracy, overall.recall) == (1, 0, 0)
    assert by_number[0].count_accuracy == 1 and by_number[0].num_images == 99
    assert average_precision(detections, gt_boxes, (0.5,)).tolist() == [0]


def test_class_and_box_must_both_be_right() -> None:
    logits = torch.tensor([[3.0, 2, 1]] * 5)
    labels = torch.tensor([0, 1, 0, 2, 0])
    ious = torch.tensor([0.5, 0.9, 0.4, 0.9, NAN])
    assert localization_error(logits, labels, ious, 1) == 0.75
    assert localization_error(logits, labels, ious, 2) == 0.5
    assert localization_error(logits, labels, ious, 5) == 0.25  # all three classes
    with pytest.raises(ValueError, match="no image"):
        localization_error(logits[4:], labels[4:], ious[4:], 1)


def test_counts_by_hand() -> None:
    detections = detections_of(
        [[A, NEAR, B], [A, B, C], [A, B, C]], [[0.9, 0.8, 0.3], [0.4, 0.9, 0.0], [0.95, 0.2, 0.1]]
    )
    gt_boxes = torch.tensor([[A, B], [B, NONE], [NONE, NONE]])
    overall, by_number = count_detections(detections, gt_boxes, threshold=0.5)
    assert set(by_number) == {0, 1, 2}
    one, two, none = by_number[1], by_number[2], by_number[0]
    # Two boxes on A: the right number, one of them a duplicate, and B not found.
    assert (two.count_accuracy, two.duplicates, two.false_positives, two.recall) == (1, 1, 1, 0.5)
    assert (one.count_accuracy, one.duplicates, one.false_positives, one.recall) == (1, 0, 0, 1)
    assert (none.count_accuracy, none.false_positives) == (0, 1) and math.isnan(none.recall)
    assert (overall.num_images, overall.num_objects) == (2, 3)
    assert (overall.duplicates, overall.recall) == (0.5, pytest.approx(2 / 3))
    # By falling confidence .95, .8, .4 and .2 are wrong: of three images, .3 is the last to pass.
    assert overall.threshold_at_1_fppi == pytest.approx(0.3)
    assert (overall.recall_at_1_fppi, two.recall_at_1_fppi) == (1, 1)
    assert count_detections(detections, gt_boxes, threshold=0.15)[1][0].false_positives == 2


def test_the_best_threshold_by_hand() -> None:
    # By falling confidence: right, right, wrong, right, of 4 true boxes. F1 2/5, 4/6, 4/7, 6/8.
    boxes, gt_boxes = [[A, C, B], [A, B, B]], torch.tensor([[A, B], [A, B]])
    detections = detections_of(boxes, [[0.9, 0.7, 0.5], [0.8, 0.0, 0.0]])
    assert best_threshold(detections, gt_boxes) == pytest.approx((0.5, 0.75))
    one = detections_of(boxes, [[0.9, 0.7, 0.5], [0.8, 0.2, 0.1]])
    assert best_threshold(one, gt_boxes) == pytest.approx(((0.2 + 0.1) / 2, 8 / 9))
    # without B of the second image the first two are best: 4/5, then 4/6, 6/7 and 6/8
    tied = detections_of(boxes, [[0.9, 0.7, 0.7], [0.8, 0.7, 0.1]])
    assert best_threshold(tied, gt_boxes[:, :1])[0] == pytest.approx((0.8 + 0.7) / 2)
    assert best_threshold(detections_of([[C]], [[0.9]]), gt_boxes[:1]) == (math.inf, 0)
    assert best_threshold(detections_of([[A]], [[0.0]]), gt_boxes[:1]) == (math.inf, 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_threshold_is_the_best_of_all(seed: int) -> None:
    detections, gt_boxes = random_case(seed)
    threshold, f1 = best_threshold(detections, gt_boxes)
    num_objects = int((~gt_boxes.isnan().any(-1)).sum())
    matched = match_by_loop(detections, gt_boxes)

    def f1_from(least: float) -> float:
        accepted = [right for score, right, _ in matched if score >= least]
        return 2 * sum(accepted) / (len(accepted) + num_objects)

    assert f1 == pytest.approx(f1_from(threshold))
    assert f1 == pytest.approx(max(f1_from(score) for score, _, _ in matched))


def test_a_threshold_does_not_separate_equal_confidences() -> None:
    overall, _ = count_detections(
        detections_of([[A, B, C]], [[0.7, 0.7, 0.7]]), torch.tensor([[A]])
    )
    assert overall.threshold_at_1_fppi == math.inf and overall.recall_at_1_fppi == 0
    assert overall.recall == 1


def match_by_loop(detections: Detections, gt_boxes: Tensor) -> list[tuple[float, bool, int]]:
    """Return (confidence, right, image) of every box, matched image by image."""
    matched = []
    for image, (boxes, scores, true) in enumerate(
        zip(detections.boxes, detections.confidence.tolist(), gt_boxes, strict=True)
    ):
        free = [box for box in true if not bool(box.isnan().any())]
        for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
            if scores[index] == 0:
                continue
            ious = [float(pairwise_iou(boxes[index][None], box[None])) for box in free]
            right = bool(ious) and max(ious) >= 0.5
            if right:
                free.pop(ious.index(max(ious)))
            matched.append((scores[index], right, image))
    return matched


@pytest.mark.parametrize("seed", range(6))
def test_counts_equal_a_plain_loop(seed: int) -> None:
    detections, gt_boxes = random_case(seed)
    matched = match_by_loop(detections, gt_boxes)
    number = (~gt_boxes.isnan().any(-1)).sum(1)
    overall, by_number = count_detections(detections, gt_boxes, threshold=0.4)
    for count, result in by_number.items():
        right = [r for score, r, image in matched if number[image] == count and score >= 0.4]
        images = int((number == count).sum())
        assert result.num_images == images
        assert result.false_positives == pytest.approx(right.count(False) / images)
        if count:
            assert result.recall == pytest.approx(sum(right) / (images * count))
    allowed = [
        threshold
        for threshold in {score for score, _, _ in matched}
        if sum(not right for score, right, _ in matched if score >= threshold) <= len(gt_boxes)
    ]
    assert overall.threshold_at_1_fppi == pytest.approx(min(allowed))
    num_right = sum(right for score, right, _ in matched if score >= min(allowed))
    assert overall.recall_at_1_fppi == pytest.approx(num_right / int(number.sum()))


def coco(detections: Detections, gt_boxes: Tensor, gt_labels: Tensor | None = None) -> list[float]:
    """Return COCO's own AP, AP50 and AP75, the mean over the classes."""
    evaluation = pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    labels = detections.labels
    if gt_labels is None or labels is None:
        gt_labels = torch.zeros(gt_boxes.shape[:2]).long()
        labels = torch.zeros_like(detections.confidence).long()
    entry: dict[str, Any] = {"iscrowd": 0}
    images, annotations, results = [], [], []

    def xywh(box: Tensor) -> list[float]:
        x0, y0, x1, y1 = box.tolist()
        return [x0, y0, x1 - x0, y1 - y0]

    for image in range(len(gt_boxes)):
        images.append({"id": image + 1, "width": 64, "height": 64})
        valid = ~gt_boxes[image].isnan().any(-1)
        for box, label in zip(gt_boxes[image][valid], gt_labels[image][valid], strict=True):
            x, y, width, height = xywh(box)
            place = {"bbox": [x, y, width, height], "area": width * height}
            place["category_id"] = int(label) + 1
            annotations.append(
                {**entry, **place, "id": len(annotations) + 1, "image_id": image + 1}
            )
        scores = detections.confidence[image].tolist()
        for box, score, label in zip(
            detections.boxes[image], scores, labels[image].tolist(), strict=True
        ):
            if score > 0:
                own = {"image_id": image + 1, "bbox": xywh(box), "category_id": label + 1}
                results.append({**entry, **own, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        categories = [{"id": n + 1, "name": f"thing {n}"} for n in range(int(gt_labels.max()) + 1)]
        api = evaluation.COCO(
            {"images": images, "annotations": annotations, "categories": categories}
        )
        run = evaluation.COCOeval_faster(api, api.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats[:3]]


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_equals_cocos(seed: int) -> None:
    detections, gt_boxes = random_case(seed, num=80)
    # No ties: COCO's evaluation and this one may order those differently.
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(detections.confidence.shape, generator=generator, dtype=torch.float64)
    confidence = torch.where(detections.confidence > 0, confidence, 0.0)
    detections = Detections(detections.boxes, confidence)
    ap = average_precision(detections, gt_boxes)
    expected = coco(detections, gt_boxes)
    assert [float(ap.mean()), float(ap[0]), float(ap[5])] == pytest.approx(expected, abs=1e-9)
    assert 0.05 < ap.mean() < ap[0] < 0.95, "the random case is too easy or too hard"


def test_average_precision_by_class_equals_cocos() -> None:
    detections, gt_boxes = random_case(7, num=80)
    generator = torch.Generator().manual_seed(7)
    shape = detections.confidence.shape
    confidence = torch.rand(shape, generator=generator, dtype=torch.float64)
    confidence = torch.where(detections.confidence > 0, confidence, 0.0)
    labels = torch.randint(3, shape, generator=generator)
    gt_labels = torch.randint(3, gt_boxes.shape[:2], generator=generator)
    detections = Detections(detections.boxes, confidence, labels)
    ap = torch.stack(
        [
            average_precision(
                detections.of_class(label),
                gt_boxes.masked_fill((gt_labels != label)[..., None], NAN),
            )
            for label in range(3)
        ]
    )
    found = [float(ap.mean()), float(ap[:, 0].mean()), float(ap[:, 5].mean())]
    assert found == pytest.approx(coco(detections, gt_boxes, gt_labels), abs=1e-9)
    assert 0.02 < found[0] < found[1] < 0.9


def test_average_precision_by_hand() -> None:
    detections, gt_boxes = detections_of([[A, C, B]], [[0.9, 0.8, 0.7]]), torch.tensor([[A, B]])
    # Precision 1 up to recall 1/2 (51 of 101 points), then 2/3
    ap = float(average_precision(detections, gt_boxes, (0.5,)))
    assert ap == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert average_precision(detections, torch.full((1, 2, 4), NAN)).isnan().all()
    empty = Detections(detections.boxes[:, :0], detections.confidence[:, :0])
    assert average_precision(empty, gt_boxes, (0.5,)).tolist() == [0]
    exact = average_precision(detections_of([[HALF]], [[1.0]]), torch.tensor([[A]]), (0.5, 0.55))
    assert exact.tolist() == pytest.approx([1, 0])  # an IoU of exactly the threshold counts


@pytest.mark.parametrize(
    "measure", [top_box_iou, average_precision, count_detections, best_threshold]
)
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
def test_invalid_predictions_are_refused(
    boxes: Tensor, confidence: Tensor, gt_boxes: Tensor, message: str, measure: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        measure(Detections(boxes, confidence), gt_boxes)


def test_padding_may_hold_anything_and_ten_thousand_images_take_seconds() -> None:
    detections, gt_boxes = random_case(1, num=10_000, num_boxes=16)
    detections.boxes[detections.confidence == 0] = NAN
    start = time.perf_counter()
    average_precision(detections, gt_boxes)
    count_detections(detections, gt_boxes)
    assert localization(top_box_iou(detections, gt_boxes)).mean_iou > 0.1
    assert time.perf_counter() - start < 30
