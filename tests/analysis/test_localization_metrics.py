"""The figures of a localizer on a split: what stands where, and that the constants are never
missing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tinysight.analysis.localization_metrics import boxes_table, evaluate_boxes
from tinysight.data.build import build
from tinysight.data.dataset import Dataset
from tinysight.data.shapes import Shapes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    home = tmp_path_factory.mktemp("scenes")
    counts = {"num_train": 60, "num_minival": 0, "num_val": 48, "num_test": 4}
    return build(Shapes(**counts, objects=(1, 3), name="scenes"), home=home, workers=1)


def test_true_boxes_are_those_of_each_row(scenes: Dataset) -> None:
    gt_boxes = torch.from_numpy(scenes.padded_boxes(scenes.rows("val")))
    assert gt_boxes.shape == (48, 3, 4)
    for number, row in enumerate(scenes.rows("val")):
        own = gt_boxes[number]
        kept = own[~own.isnan().any(1)]
        assert np.array_equal(kept.numpy(), scenes.boxes_of(row))
        assert bool(own[len(kept) :].isnan().all())
    assert torch.from_numpy(scenes.padded_boxes(scenes.rows("test"))).shape == (4, 0, 4)


def test_the_truth_itself_is_perfect_and_the_constants_stand_beside_it(scenes: Dataset) -> None:
    gt_boxes = torch.from_numpy(scenes.padded_boxes(scenes.rows("val")))
    there = ~gt_boxes.isnan().any(-1)
    logits = torch.nn.functional.one_hot(torch.from_numpy(scenes.labels[60:108].copy()), 24).float()
    figures = evaluate_boxes(
        scenes, "val", boxes=gt_boxes.nan_to_num(0), confidence=0.9 * there.float(), logits=logits
    )
    assert figures["localization"]["loc50"] == figures["ap"] == figures["ap50"] == 1
    assert figures["top1_localization_error"] == figures["top5_localization_error"] == 0
    assert figures["sets"]["count_accuracy"] == figures["sets"]["recall_at_1_fppi"] == 1
    assert figures["sets"]["duplicates"] == 0 and figures["false_positives_on_negatives"] is None
    assert [row["objects"] for row in figures["by_objects"]] == [1, 2, 3]
    assert sum(row["count"] for row in figures["by_class"]) == 48 and len(figures["by_class"]) == 24
    assert {row["id"] for row in figures["by_class"]} == set(scenes.class_ids)
    assert sum(row["count"] for row in figures["by_size"]) == 48
    for table in ("by_class", "by_size"):  # the median box beside each, in the same images
        hits = sum(row["constant"] * row["count"] for row in figures[table])
        assert hits == pytest.approx(48 * figures["constants"]["median"]["loc50"])
    assert list(figures["constants"]) == [
        "whole image",
        "mean",
        "median",
        "best for Loc@.5",
        "best for mean IoU",
    ]
    for constant in figures["constants"].values():
        assert 0 < constant["mean_iou"] < 0.7 and 0 <= constant["ap50"] < 1
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    text = boxes_table(figures)
    for wanted in (
        "found by the run",
        "constant: median",
        "3 objects",
        "top-5 localization error",
        "100.0 %",
    ):
        assert wanted in text


def test_wrong_answers_are_measured_by_class(scenes: Dataset) -> None:
    gt_boxes = torch.from_numpy(scenes.padded_boxes(scenes.rows("val")))
    boxes = gt_boxes[:, :1].clone()
    wrong = torch.from_numpy(scenes.labels[60:108] == 5)
    boxes[wrong] = torch.tensor([0.0, 0, 1, 1])
    figures = evaluate_boxes(scenes, "val", boxes=boxes, confidence=torch.full((48, 1), 0.8))
    assert [row["loc50"] for row in figures["by_class"]] == [
        float(label != 5) for label in range(24)
    ]
    assert figures["localization"]["loc50"] == pytest.approx(46 / 48)
    assert "top1_localization_error" not in figures


def test_images_without_an_object(scenes: Dataset) -> None:
    """Nothing to find: only what is wrongly found can be counted."""
    boxes = torch.tensor([0.0, 0, 9, 9]).expand(4, 2, 4)
    figures = evaluate_boxes(scenes, "test", boxes=boxes, confidence=torch.tensor([[0.9, 0.1]] * 4))
    assert figures["localization"] is None and figures["ap"] is None and figures["constants"] == {}
    assert figures["false_positives_on_negatives"] == 1
    assert figures["by_class"] == figures["by_size"] == []
    assert "4 images without an object  1.00 boxes" in boxes_table(figures)
    json.dumps(figures, allow_nan=False)


def test_predictions_of_another_split_are_refused(scenes: Dataset) -> None:
    with pytest.raises(ValueError, match="scenes val has 48 images; predictions are given for 3"):
        evaluate_boxes(scenes, "val", boxes=torch.zeros(3, 1, 4), confidence=torch.zeros(3, 1))


def test_constants_that_a_pack_brings_along(scenes: Dataset) -> None:
    extra = {"baseline_boxes": {"two halves": [[0, 0, 32, 64], [32, 0, 64, 64]]}}
    pack = Dataset(Path(scenes.path), {**scenes.manifest, "extra": extra})
    gt_boxes = torch.from_numpy(pack.padded_boxes(pack.rows("val")))
    figures = evaluate_boxes(pack, "val", boxes=gt_boxes[:, :1], confidence=torch.ones(48, 1))
    assert 0 < figures["constants"]["two halves"]["mean_iou"] < 0.5
