"""What must be known to use a trained model, in every file of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tinysight.files import FOREIGN_SUFFIXES
from tinysight.images import FITS, LFS_POINTER, SIGNATURE_LENGTH, Fit, format_of
from tinysight.text import pluralize

FORMAT = 3
# of a metadata's `localizer`
HEAD_SETTINGS = ("head", "grid", "width", "num_steps", "feedback", "shared")
FOREIGN_STARTS = {  # whatever a file is called
    b"PK\x03\x04": "PyTorch or zip",
    **dict.fromkeys((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), "PyTorch or pickle"),
    b"\x89HDF": "Keras or HDF5",
}


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """What a person or a program must know to use the weights."""

    model: str
    options: dict[str, Any]
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...]
    image_size: int  # photographs are brought to this square first, by `fit`
    crop: int  # then this center window is cut out
    input_size: int  # and resized to what the network was last trained at
    flip_average: bool
    recipe: str
    data: str
    version: str
    commit: str = ""
    results: dict[str, Any] = field(default_factory=dict)
    # head, decoding, and the boxes' median side in pixels of image_size; empty: a classifier
    localizer: dict[str, Any] = field(default_factory=dict)
    fit: Fit = "crop"
    # an image whose largest logit is below it is of none of the classes; None: there is always one
    none_below: float | None = None

    @property
    def classifies(self) -> bool:
        """Whether the logits were trained: not where boxes have the classes, or nothing has."""
        weight = self.localizer.get("class_loss_weight", 1.0)
        return bool(weight > 0) and not self.has_box_classes

    @property
    def has_box_classes(self) -> bool:
        """Whether each box has a class of its own."""
        return bool(self.localizer.get("box_classes", False))

    def describe(self) -> str:
        """Return one phrase: recipe, classes, data and, where measured, the errors on val."""
        phrase = f"{self.recipe}, {pluralize(len(self.class_names), 'class')} of {self.data}"
        val = self.results.get("val", {})
        crossed = self.results.get("cross_validation") or {}
        if "top1_error" in val:
            phrase += f", {val['top1_error']:.1%} top-1 error on val"
        elif "top1_error" in crossed:
            phrase += f", {crossed['top1_error']:.1%} cross-validated error"
        if "loc50" in val:
            phrase += f", surest box right in {val['loc50']:.1%} of images"
        return phrase + self._describe_int8()

    def _describe_int8(self) -> str:
        val, fp32 = self.results.get("val", {}), self.results.get("fp32")
        if not fp32:
            return "" if fp32 is None else " (int8, not measured)"
        names = {"top1_error": "error", "loc50": "surest box right"}
        points = [
            f"{100 * (val[key] - fp32[key]):+.2f} points {name}"
            for key, name in names.items()
            if key in val and key in fp32
        ]
        return f" (int8; measured against float32: {', '.join(points)})" if points else " (int8)"

    def __post_init__(self) -> None:
        """Refuse values that no training writes: a checksum does not check meaning."""
        names = (self.class_names, self.class_ids)
        sizes = (self.image_size, self.crop, self.input_size)
        sound = (
            all(isinstance(item, tuple) for item in names)
            and all(isinstance(name, str) for item in names for name in item)
            and len(self.class_names) == len(self.class_ids) >= 1
            and all(type(size) is int and 1 <= size <= 4096 for size in sizes)
            and self.crop <= self.image_size
            and isinstance(self.model, str)
            and isinstance(self.options, dict)
            and isinstance(self.localizer, dict)
            and isinstance(self.flip_average, bool)
            and self.fit in FITS
            and isinstance(self.none_below, float | None)
        )
        if not sound:
            raise ValueError("the metadata of these weights is not of the form of a training's")


Digest = Callable[[dict[str, Any]], str]  # a checksum over a description and what it describes


def header_of(metadata: ModelMetadata, digest: Digest) -> str:
    """Return the text that a file of a model holds: metadata, with a checksum."""
    description = asdict(metadata)
    return json.dumps({"format": FORMAT, "metadata": description, "sha256": digest(description)})


def read_header(path: Path, text: str, digest: Digest) -> ModelMetadata:
    """Read what `header_of` wrote; raise ValueError that names the file when it is damaged."""
    try:
        header = json.loads(text)
        if (found := header["format"]) != FORMAT:
            raise ValueError(f"{path} has format {found}; this version reads format {FORMAT}")
        values = header["metadata"]
        if header["sha256"] != digest(values):
            raise ValueError(f"{path} is damaged: its SHA-256 differs; copy the file again")
        # of weights written before there was a choice
        values = {"fit": "crop", "none_below": None, **values}
        if head := values["localizer"]:
            values["localizer"] = {"width": 128, **head}
        return ModelMetadata(**{f.name: _tuples(values[f.name]) for f in fields(ModelMetadata)})
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} has damaged metadata ({error!r}); copy the file again") from None


def check_weights_file(path: Path) -> None:
    """Raise ValueError unless a file is there, and is not by its name or start another one."""
    expected = "expected .safetensors or .onnx that `tinysight train` or `export` wrote"
    if kind := FOREIGN_SUFFIXES.get(path.suffix.lower()):
        raise ValueError(f"{path} is a {kind} file by its name, which is not read; {expected}")
    if not path.is_file():
        what = f"{path} is not a file"
        raise ValueError(f"{what}; expected a run folder or a weights file (.safetensors, .onnx)")
    with path.open("rb") as file:
        start = file.read(SIGNATURE_LENGTH)
    if format_of(start) == LFS_POINTER:
        what = f"{path} is {LFS_POINTER}, not the weights"
        raise ValueError(f"{what}; fetch them by `git lfs pull`")
    kinds = (kind for own, kind in FOREIGN_STARTS.items() if start.startswith(own))
    if start[8:9] != b"{" and (kind := next(kinds, "")):  # there safetensors has its JSON
        raise ValueError(f"{path} is a {kind} file by its content, which is not read; {expected}")


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
