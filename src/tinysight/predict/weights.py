"""A trained model in one safetensors file: weights and metadata. No pickle."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from tinysight import models
from tinysight.models.classifier import Classifier
from tinysight.models.localizer import Localizer
from tinysight.predict.decoding import Decoding
from tinysight.predict.metadata import (
    HEAD_SETTINGS,
    ModelMetadata,
    check_weights_file,
    header_of,
    read_header,
)


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
    header = header_of(metadata, partial(_digest, tensors))
    return save_tensors(tensors, metadata={"tinysight": header})


def load_weights(path: Path) -> tuple[Classifier | Localizer, ModelMetadata]:
    """Read a model, ready to use (eval mode, on the CPU), and its metadata.

    Raises ValueError when the file is missing, not a weights file of tinysight, or damaged.
    """
    check_weights_file(path)
    if path.suffix.lower() == ".onnx":
        raise ValueError(
            f"{path} is an ONNX file, which only predicts; give the run or .safetensors"
        )
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
    metadata = read_header(path, text, partial(_digest, tensors))
    num_classes = len(metadata.class_names)
    classifier = models.create_model(metadata.model, num_classes, **metadata.options)
    model = _with_head(classifier, metadata, path) if metadata.localizer else classifier
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit model {metadata.model}: {reason}") from None
    return model.eval().requires_grad_(False), metadata


def _with_head(classifier: Classifier, metadata: ModelMetadata, path: Path) -> Localizer:
    settings = metadata.localizer
    try:
        if missing := [name for name in Decoding.__dataclass_fields__ if name not in settings]:
            raise ValueError(f"without {missing[0]}")
        num_classes = len(metadata.class_names) if metadata.has_box_classes else 0
        own = {name: settings[name] for name in HEAD_SETTINGS}
        return Localizer(classifier, num_classes=num_classes, **own)
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
