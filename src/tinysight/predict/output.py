"""Predictions as files that other programs read: CSV, and COCO's JSON with boxes."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from tinysight.files import write_atomic
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.predictor import Prediction


def write_csv(predictions: Sequence[Prediction], metadata: ModelMetadata, path: Path) -> None:
    """Write a line per image, `file,class,probability`, or per accepted box of a localizer.

    A localizer's are `file,x0,y0,x1,y1,confidence,class,probability`, as `tinysight data import
    --boxes` reads them; an image without a box has one line without numbers. The class is the box's
    where boxes have classes, else the image's, as the probability is; empty where none is learned,
    or the image is of none of them.
    """
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    corners = ("x0", "y0", "x1", "y1", "confidence") if metadata.localizer else ()
    table.writerow(["file", *corners, "class", "probability"])
    for prediction in predictions:
        whole = [prediction.label, f"{prediction.probability:.6f}"]
        whole = whole if metadata.classifies and not prediction.is_none else ["", ""]
        rows = []
        accepted = zip(prediction.accepted, prediction.accepted_labels, strict=True)
        for (box, confidence), name in accepted if metadata.localizer else ():
            rows.append([*(f"{n:.2f}" for n in box), f"{confidence:.6f}", name, whole[1]])
        for row in rows or [[""] * len(corners) + whole]:
            table.writerow([prediction.path, *row])
    write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))


def write_coco(predictions: Sequence[Prediction], metadata: ModelMetadata, path: Path) -> None:
    """Write a localizer's accepted boxes as COCO, with confidences as `score`.

    Files are named from the deepest folder that holds all of them. A box has its own class, or its
    image's, or `object` where the model learned no classes.
    """
    named = metadata.classifies or metadata.has_box_classes
    names = metadata.class_names if named else ("object",)
    numbers = {name: number for number, name in enumerate(names, start=1)}
    images, annotations = [], list[dict[str, Any]]()
    files = [Path(prediction.path).absolute() for prediction in predictions]
    top = os.path.commonpath([file.parent for file in files]) if files else ""
    for number, (file, prediction) in enumerate(zip(files, predictions, strict=True), start=1):
        width, height = prediction.size
        name = file.relative_to(top).as_posix()
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        accepted = zip(prediction.accepted, prediction.accepted_labels, strict=True)
        for ((x0, y0, x1, y1), confidence), label in accepted:
            box: dict[str, Any] = {"id": len(annotations) + 1, "image_id": number}
            box["category_id"] = numbers[label if named else "object"]
            box["bbox"] = [round(edge, 2) for edge in (x0, y0, x1 - x0, y1 - y0)]
            box |= {"area": round((x1 - x0) * (y1 - y0), 2), "iscrowd": 0}
            annotations.append(box | {"score": round(confidence, 6)})
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_atomic(path, json.dumps(content).encode())


def plain(prediction: Prediction, metadata: ModelMetadata) -> dict[str, Any]:
    """Return a prediction as JSON's values: image, top classes and, of a localizer, boxes.

    A model with a threshold has `none`, whether the image is of none of the classes, too.
    """
    names, ids = prediction.class_names, prediction.class_ids
    top = [
        {"class": name, "id": class_id, "probability": round(probability, 6)}
        for name, class_id, probability in zip(names, ids, prediction.probabilities, strict=True)
    ]
    found: dict[str, Any] = {"image": prediction.path, "top": top if metadata.classifies else []}
    if metadata.none_below is not None:
        found["none"] = prediction.is_none
    if not metadata.localizer:
        return found
    boxes = []
    for (box, confidence), label in zip(
        prediction.accepted, prediction.accepted_labels, strict=True
    ):
        own = {"box": [round(edge, 1) for edge in box], "confidence": round(confidence, 6)}
        boxes.append(own | ({"class": label} if metadata.has_box_classes else {}))
    return found | {"boxes": boxes}
