"""Predicted boxes against true ones, counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tinysight.analysis.localization import by_size, overlaps, read_boxes
from tinysight.data.dataset import Dataset
from tinysight.evaluation.evaluate import Evaluation
from tinysight.ops.boxes import Detections


def write(path: Path, rows: list[int], boxes: list[Any], confidence: list[list[float]]) -> Path:
    Evaluation(
        data="made",
        split="val",
        logits=torch.zeros(len(rows), 1),
        labels=torch.zeros(len(rows), dtype=torch.long),
        rows=torch.tensor(rows),
        detections=Detections(boxes=torch.tensor(boxes), confidence=torch.tensor(confidence)),
    ).save(path)
    return path


def test_overlaps_by_hand(tmp_path: Path, make_pack: Callable[..., Dataset]) -> None:
    pack = make_pack(("disc",), (3,))  # each image's true box is 4, 4, 10, 10
    first = pack.rows("val").start
    boxes = [[4.0, 4, 7, 10], [4, 4, 10, 10], [0, 0, 2, 2]]
    nothing = [0.0] * 4
    path = write(
        tmp_path / "val.safetensors",
        [first, first + 1],
        [[boxes[1], nothing], [boxes[2], boxes[0]]],
        [[0.9, 0], [0.8, 0.2]],
    )
    found = read_boxes(path, pack, "val")
    assert found is not None
    assert found.boxes_of(first + 1).tolist() == [boxes[2], boxes[0]], "the most confident first"
    rows, best = overlaps(pack, "val", found)
    assert rows.tolist() == [first, first + 1, first + 2]
    assert found.boxes_of(first + 1, threshold=0.5).tolist() == [boxes[2]]
    assert found.boxes_of(first, threshold=0.95).tolist() == [boxes[1]], (
        "the most confident, whatever it is"
    )
    assert best.tolist() == [
        1,
        0,
        0,
    ]  # the better box of the second image is not its most confident
    (size,) = by_size(pack, rows, best)
    assert (size["start"], size["stop"], size["count"]) == (0.1, 0.25, 3)  # 36 of 256 pixels
    assert size["found"] == pytest.approx(1 / 3) and size["mean_iou"] == pytest.approx(1 / 3)


def test_no_file_a_damaged_one_and_another_data_sets(
    tmp_path: Path, make_pack: Callable[..., Dataset]
) -> None:
    pack = make_pack()
    assert read_boxes(tmp_path / "none.safetensors", pack, "val") is None
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        read_boxes(tmp_path / "bad.safetensors", pack, "val")
    path = write(tmp_path / "other.safetensors", [0], [[[1.0, 1, 2, 2]]], [[0.5]])
    with pytest.raises(ValueError, match="does not fit made val"):
        read_boxes(path, pack, "val")
