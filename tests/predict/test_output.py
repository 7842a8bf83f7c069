"""Predictions written for other programs, which `tinysight data import --boxes` reads, too."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinysight.data.boxed_folder import BoxedFolderSource
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.output import plain, write_coco, write_csv
from tinysight.predict.predictor import Prediction

MakeMetadata = Callable[..., ModelMetadata]
FOUND = {
    "class_names": ("cat", "dog"),
    "class_ids": ("0", "1"),
    "probabilities": (0.75, 0.25),
    "threshold": 0.5,
    "size": (20, 20),
}
BOXES = ((1.0, 2.0, 11.5, 12.25), (0.0, 0.0, 5.0, 5.0), (3.0, 3.0, 9.0, 9.0))


@pytest.fixture
def predictions(tmp_path: Path) -> list[Prediction]:
    """Two accepted boxes of three in the first image, none in the second."""
    paths = [tmp_path / "pets" / name for name in ("a/1, x.png", "2.png")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(path)
    first = Prediction(str(paths[0]), **FOUND, boxes=BOXES, confidences=(0.9, 0.5, 0.4))  # type: ignore[arg-type]
    first = replace(first, box_labels=("cat",) * 3)
    return [first, Prediction(str(paths[1]), **FOUND)]  # type: ignore[arg-type]


@pytest.fixture
def metadata(make_metadata: MakeMetadata) -> ModelMetadata:
    """A localizer's that learned two classes."""
    names = ("cat", "dog")
    return make_metadata(class_names=names, class_ids=names, localizer={"class_loss_weight": 1.0})


def test_csv_of_a_classifier(
    tmp_path: Path, predictions: list[Prediction], metadata: ModelMetadata
) -> None:
    write_csv(predictions, replace(metadata, localizer={}), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == (
        "file,class,probability\n"
        f'"{predictions[0].path}",cat,0.750000\n{predictions[1].path},cat,0.750000\n'
    )


def test_csv_of_a_localizer(
    tmp_path: Path, predictions: list[Prediction], metadata: ModelMetadata
) -> None:
    write_csv(predictions, metadata, tmp_path / "out.csv")
    first, second = f'"{predictions[0].path}"', predictions[1].path
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "file,x0,y0,x1,y1,confidence,class,probability",
        f"{first},1.00,2.00,11.50,12.25,0.900000,cat,0.750000",
        f"{first},0.00,0.00,5.00,5.00,0.500000,cat,0.750000",
        f"{second},,,,,,cat,0.750000",
    ]
    unnamed = replace(metadata, localizer={"class_loss_weight": 0.0})
    write_csv(predictions[1:], unnamed, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[1] == f"{second},,,,,,,"


def test_coco(tmp_path: Path, predictions: list[Prediction], metadata: ModelMetadata) -> None:
    write_coco(predictions, metadata, tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert content["images"][0] == {"id": 1, "file_name": "a/1, x.png", "width": 20, "height": 20}
    assert [image["file_name"] for image in content["images"]] == ["a/1, x.png", "2.png"]
    first, second = content["annotations"]
    assert (first["id"], first["image_id"], first["category_id"]) == (1, 1, 1)
    assert (first["bbox"], first["area"]) == ([1.0, 2.0, 10.5, 10.25], 107.62)
    assert (first["iscrowd"], first["score"]) == (0, 0.9)
    assert (second["id"], second["image_id"], second["bbox"]) == (2, 1, [0, 0, 5, 5])
    write_coco(
        predictions, replace(metadata, localizer={"class_loss_weight": 0}), tmp_path / "o.json"
    )
    assert json.loads((tmp_path / "o.json").read_text())["categories"] == [
        {"id": 1, "name": "object"}
    ]


@pytest.mark.parametrize("name", ["out.json", "out.csv"])
def test_what_is_written_is_imported_as_boxes(
    tmp_path: Path, predictions: list[Prediction], metadata: ModelMetadata, name: str
) -> None:
    write = write_coco if name == "out.json" else write_csv
    write(predictions, metadata, tmp_path / name)
    index = BoxedFolderSource(tmp_path / "pets", "pets", 20, boxes=tmp_path / name).index
    row = index.files.index("a/1, x.png")
    assert index.boxes[index.box_offsets[row]].tolist() == [1.0, 2.0, 11.5, 12.25]
    assert np.diff(index.box_offsets).tolist() == ([2, 0] if row == 0 else [0, 2])
    assert index.class_names == ("cat",)


def test_the_classes_of_boxes_are_written(
    tmp_path: Path, predictions: list[Prediction], metadata: ModelMetadata
) -> None:
    own = replace(metadata, localizer=metadata.localizer | {"box_classes": True})
    first = replace(predictions[0], box_labels=("dog", "cat", "dog"))
    write_csv([first, predictions[1]], own, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["probability"]) for row in rows] == [
        *(("dog", ""), ("cat", "")),
        ("", ""),  # an image has no class of its own
    ]
    write_coco([first], own, tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    assert [names[each["category_id"]] for each in content["annotations"]] == ["dog", "cat"]
    found = plain(first, own)
    assert found["top"] == [] and [box["class"] for box in found["boxes"]] == ["dog", "cat"]
