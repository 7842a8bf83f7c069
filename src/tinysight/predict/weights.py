"""A trained model in one safetensors file: weights and metadata. No pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from tinysight import models
from tinysight.images import FITS, LFS_POINTER, SIGNATURE_LENGTH, Fit, format_of
from tinysight.models.classifier import Classifier
from tinysight.models.localizer import Localizer

FORMAT = 3
# of a metadata's `localizer`
DECODING_SETTINGS = ("decoding", "threshold", "nms_iou")
HEAD_SETTINGS = ("head", "grid", "num_steps", "feedback", "shared")
FOREIGN_SUFFIXES = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"), "PyTorch or pickle"),
    **dict.fromkeys((".h5", ".keras", ".pb", ".tflite"), "Keras or TensorFlow"),
    ".onnx": "ONNX",
}
WEIGHTS_SUFFIXES = {".safetensors", *FOREIGN_SUFFIXES}


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
    # head and decoding; empty: a classifier
    localizer: dict[str, Any] = field(default_factory=dict)
    fit: Fit = "crop"

    @property
    def classifies(self) -> bool:
        """Whether the logits were trained; with localizer.class_loss_weight=0 they were not."""
        return bool(self.localizer.get("class_loss_weight", 1.0) > 0)

    def describe(self) -> str:
        """Return one phrase: recipe, classes, data and, where measured, the errors on val."""
        phrase = f"{self.recipe}, {len(self.class_names)} classes of {self.data}"
        val = self.results.get("val", {})
        if "top1_error" in val:
            phrase += f", {val['top1_error']:.1%} top-1 error on val"
        return phrase + (f", {val['loc50']:.1%} of objects found" if "loc50" in val else "")

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
        )
        if not sound:
            raise ValueError("the metadata of these weights is not of the form of a training's")


def weights_bytes(model: nn.Module, metadata: ModelMetadata, *, half: bool = False) -> bytes:
    """Return the content of a weights file: state and metadata, with a checksum over both.

    With `half`, matrices and kernels are stored as float16, vectors (norms, biases, normalization)
    as float32; `load_weights` returns float32 either way. Raises ValueError for a weight outside
    float16's range of +-65504.
    """
    state = model.state_dict()
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    if half:
        for name in (name for name, parameter in model.named_parameters() if parameter.ndim >= 2):
            tensors[name] = tensors[name].half()
            if not torch.isfinite(tensors[name]).all():
                raise ValueError(
                    f"{name} has a value that float16 cannot hold; store float32, without --half"
                )
    description = asdict(metadata)
    header = {"format": FORMAT, "metadata": description, "sha256": _digest(tensors, description)}
    return save_tensors(tensors, metadata={"tinysight": json.dumps(header)})


def load_weights(path: Path) -> tuple[Classifier | Localizer, ModelMetadata]:
    """Read a model, ready to use (eval mode, on the CPU), and its metadata.

    Raises ValueError when the file is missing, not a weights file of tinysight, or damaged.
    """
    if kind := FOREIGN_SUFFIXES.get(path.suffix.lower()):
        expected = "expected weights (.safetensors) that `tinysight train` or `export` wrote"
        raise ValueError(f"{path} is a {kind} file by its name, which is not read; {expected}")
    if not path.is_file():
        expected = "expected a run folder or a weights file (.safetensors)"
        raise ValueError(f"{path} is not a file; {expected}")
    with path.open("rb") as start:
        if format_of(start.read(SIGNATURE_LENGTH)) == LFS_POINTER:
            what = f"{path} is {LFS_POINTER}, not the weights"
            raise ValueError(f"{what}; fetch them by `git lfs pull`")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("tinysight")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from None
    if text is None:
        raise ValueError(
            f"{path} has no metadata of tinysight; expected weights that `tinysight train` wrote"
        )
    metadata = _read_metadata(path, text, tensors)
    num_classes = len(metadata.class_names)
    classifier = models.create_model(metadata.model, num_classes, **metadata.options)
    head = metadata.localizer
    model = _with_head(classifier, head, path) if head else classifier
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit model {metadata.model}: {reason}") from None
    return model.eval().requires_grad_(False), metadata


def _read_metadata(path: Path, text: str, tensors: dict[str, Tensor]) -> ModelMetadata:
    try:
        header = json.loads(text)
        if (found := header["format"]) != FORMAT:
            raise ValueError(f"{path} has format {found}; this version reads format {FORMAT}")
        values = header["metadata"]
        if header["sha256"] != _digest(tensors, values):
            raise ValueError(f"{path} is damaged: its SHA-256 differs; copy the file again")
        values = {"fit": "crop", **values}  # of weights written before there was a choice
        return ModelMetadata(**{f.name: _tuples(values[f.name]) for f in fields(ModelMetadata)})
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} has damaged metadata ({error!r}); copy the file again") from None


def _with_head(classifier: Classifier, settings: dict[str, Any], path: Path) -> Localizer:
    try:
        if missing := [name for name in DECODING_SETTINGS if name not in settings]:
            raise ValueError(f"without {missing[0]}")
        return Localizer(classifier, **{name: settings[name] for name in HEAD_SETTINGS})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} has a head that this version cannot build ({error}); train it again"
        ) from None


def _digest(tensors: dict[str, Tensor], description: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
