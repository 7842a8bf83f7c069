"""Read boxes from JSON: COCO, LabelMe and VIA, recognized by content."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tinysight.data.annotation_csv import CLASS_COLUMNS
from tinysight.data.annotation_entries import (
    TextFile,
    around,
    ellipse,
    extended,
    image_names,
    make_box,
    plain,
    rotated,
    stated_path,
    stated_size,
)
from tinysight.data.annotations import AnnotatedBox, AnnotatedImage
from tinysight.data.dataset import few
from tinysight.text import pluralize


def from_json(file: TextFile) -> tuple[str, list[AnnotatedImage], list[str]]:
    """Return the name of the format, the images, and what to know of them."""
    try:
        content = json.loads(file.text)
        if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
            return "COCO", *_from_coco(file, content)
        if isinstance(content, dict) and "shapes" in content:
            return "LabelMe", [_labelme_image(file, content)], []
        if isinstance(content, dict):
            entries = content.get("_via_img_metadata", content)
            if entries and all("regions" in entry for entry in entries.values()):
                return "VIA", [_via_image(file, entry) for entry in entries.values()], []
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if type(error) is ValueError:  # one of ours
            raise
        why = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{file.name} is not in the form of COCO, LabelMe or VIA ({why})"
        ) from error
    raise ValueError(
        f"{file.name} is JSON, and neither COCO (images, annotations) nor LabelMe (shapes) nor VIA "
        "(regions); Label Studio, CreateML and most other programs export COCO"
    )


def _from_coco(
    file: TextFile, content: Mapping[str, Any]
) -> tuple[list[AnnotatedImage], list[str]]:
    """Read COCO's JSON; an image of which only crowds are stated counts as not annotated.

    Where everything is a crowd, as in exports of masks by CVAT, the crowds are objects.
    """
    images = [(str(e["id"]), stated_path(str(e["file_name"])), e) for e in content["images"]]
    for place, what in enumerate(("id", "file_name")):
        for value, count in Counter(image[place] for image in images).most_common(1):
            if count > 1:
                raise ValueError(
                    f"{file.name} has {count} images with {what} {value!r}; expected one"
                )
    categories = {str(e["id"]): str(e["name"]) for e in content.get("categories") or ()}
    crowds = [str(e.get("iscrowd")).lower() in ("1", "true") for e in content["annotations"]]
    as_objects = all(crowds)
    boxes: dict[str, list[AnnotatedBox]] = {number: [] for number, *_ in images}
    in_crowds = set()
    for entry, crowd in zip(content["annotations"], crowds, strict=True):
        owner, where = str(entry["image_id"]), f"annotation {entry.get('id')} of {file.name}"
        if owner not in boxes:
            raise ValueError(f"{where} is for image {owner}, which is not among its images")
        if crowd and not as_objects:
            in_crowds.add(owner)
            continue
        category = entry.get("category_id")
        if categories and category is not None and str(category) not in categories:
            known = few(f"{key}: {name}" for key, name in categories.items())
            raise ValueError(f"{where} has category_id {category}, and its categories are {known}")
        boxes[owner].append(_coco_box(entry, categories.get(str(category)), where))
    stated = [
        AnnotatedImage(
            (name,),
            tuple(boxes[number]),
            stated_size(entry.get("width"), entry.get("height"), f"image {number} of {file.name}"),
        )
        for number, name, entry in images
        if boxes[number] or number not in in_crowds
    ]
    notes = []
    if as_objects and crowds:
        notes.append("all annotations are marked as crowds, and taken as objects")
    elif any(crowds):
        notes.append(f"{pluralize(sum(crowds), 'annotation')} of crowds left out")
    return stated, notes


def _coco_box(entry: Mapping[str, Any], class_name: str | None, where: str) -> AnnotatedBox:
    bbox, outline = entry.get("bbox"), entry.get("segmentation")
    if bbox:
        corners = extended(*bbox) if isinstance(bbox, list) and len(bbox) == 4 else []
        return make_box(corners, class_name, where, stated=bbox)
    values = [v for ring in outline for v in ring] if isinstance(outline, list) else []
    return make_box(around(zip(values[::2], values[1::2], strict=False)), class_name, where)


def _labelme_image(file: TextFile, content: Mapping[str, Any]) -> AnnotatedImage:
    boxes = []
    for number, shape in enumerate(content["shapes"], 1):
        points = shape["points"]
        corners = around(points)
        if shape.get("shape_type") == "circle":  # its center, and a point of it
            radius = math.dist(*points)
            corners = ellipse(*points[0], radius, radius)
        boxes.append(make_box(corners, shape["label"], f"shape {number} of {file.name}"))
    size = stated_size(content.get("imageWidth"), content.get("imageHeight"), file.name)
    names = image_names(file, str(content.get("imagePath") or ""))
    return AnnotatedImage(names, tuple(boxes), size)


def _via_image(file: TextFile, entry: Mapping[str, Any]) -> AnnotatedImage:
    name, regions = str(entry["filename"]), entry["regions"]
    boxes = []
    for region in regions.values() if isinstance(regions, dict) else regions:
        shape, where = region["shape_attributes"], f"a region of {name!r} in {file.name}"
        if "all_points_x" in shape:
            corners = around(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
        elif "width" in shape:
            corners = extended(*(shape[key] for key in ("x", "y", "width", "height")))
        else:
            radii = (shape.get("rx", shape.get("r")), shape.get("ry", shape.get("r")))
            corners = ellipse(shape.get("cx"), shape.get("cy"), *radii)
            if (turn := shape.get("theta")) not in (None, ""):
                corners = rotated(corners, turn, full_turn=math.tau, is_ellipse=True)
        boxes.append(
            make_box(corners, _via_class(region.get("region_attributes") or {}, where), where)
        )
    return AnnotatedImage((stated_path(name),), tuple(boxes))


def _via_class(attributes: Mapping[str, Any], where: str) -> str:
    """Return the attribute that is called like a class, or the only one."""
    named = [
        value for key, value in attributes.items() if plain(key) in (*CLASS_COLUMNS, "name", "type")
    ]
    values = named or list(attributes.values())
    if len(values) > 1:
        names = ", ".join(attributes)
        raise ValueError(f"{where} has attributes {names}; call the one of the class `class`")
    value = values[0] if values else ""
    if isinstance(value, dict):  # of checkboxes
        value = next((key for key, checked in value.items() if checked), "")
    return str(value)
