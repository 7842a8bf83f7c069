"""Datasets by name or folder, and your own images under a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tinysight.data.annotations import BoxRules
from tinysight.data.boxed_folder import source_of
from tinysight.data.build import build
from tinysight.data.dataset import Dataset, data_home
from tinysight.data.load import load_dataset as load_without_bar
from tinysight.files import expand
from tinysight.images import Fit
from tinysight.progress import counting

Data = Dataset | str | Path
Folder = str | Path


def load_dataset(
    data: Data,
    *,
    data_dir: Folder | None = None,
    image_size: int | Literal["auto"] | None = None,
    fit: Fit | None = None,
) -> Dataset:
    """Return a dataset by name or folder; it is made first where its name alone defines it.

    Args:
        data: a name such as "shapes" or "tiny-imagenet", or a folder of class folders; a `Dataset`
            is returned as it is.
        data_dir: where prepared datasets are kept; None: the default.
        image_size, fit: of a folder that is imported; see `data.load.load_dataset`.
    """
    own: dict[str, Any] = {"home": data_dir, "image_size": image_size, "fit": fit}
    with counting(f"preparing {data}") as progress:
        return load_without_bar(data, progress=progress, **own)


def import_dataset(
    folder: Folder,
    name: str,
    *,
    boxes: Folder | None = None,
    corrections: Folder | None = None,
    only_labels: bool = False,
    image_size: int | Literal["auto"] = 64,
    fit: Fit | None = None,
    unlabeled: str = "error",
    skip_bad_boxes: bool = False,
    boxes_origin: str = "auto",
    skip_unreadable: bool = False,
    replace: bool = False,
    data_dir: Folder | None = None,
) -> Dataset:
    """Prepare your own images under a name, and return the dataset; see `tinysight data import`.

    Args:
        folder: class folders, train/ and val/ above these, or a zip; with `boxes` any images.
        boxes: annotations as CSV, COCO, Pascal VOC, YOLO, LabelMe, CVAT or VIA: a file or folder.
        corrections: labels that were given on the page, as a `corrections.jsonl`; then the images
            need no class folders, and those without a label are left out. Where boxes were given,
            the images are those with boxes, unless `only_labels`.
        image_size: pixels per side, or "auto".
        fit: "crop", "pad" or "stretch"; None: "pad" with boxes, else "crop".
        unlabeled, skip_bad_boxes, boxes_origin, skip_unreadable, replace: as the command's options.

    Raises ValueError that names what is wrong with the folder or its annotations.
    """
    rules = BoxRules(unlabeled, skip_bad_boxes, boxes_origin)
    own: dict[str, Any] = {"image_size": image_size, "fit": fit, "only_labels": only_labels}
    source = source_of(folder, name, boxes=boxes, corrections=corrections, rules=rules, **own)
    options: dict[str, Any] = {"on_unreadable": "skip" if skip_unreadable else "stop"}
    options |= {"home": data_home() if data_dir is None else expand(data_dir), "replace": replace}
    with counting(f"preparing {name}") as progress:
        return build(source, progress=progress, **options)
