"""A trained model in one safetensors file: weights, normalisation, class names and where it comes from. No pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import nn

from tinysight import models
from tinysight.models.localiser import Localiser

FORMAT = 2
DECODING_SETTINGS = ("decoding", "threshold", "suppression")
HEAD_SETTINGS = ("head", "grid", "steps", "feedback", "shared")  # of a card's `localiser`: what the head is built with


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a person or a program must know to use the weights."""

    model: str
    options: dict[str, Any]
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...]
    image_size: int  # photographs are brought to this square first
    crop: int  # then this centre window is cut out
    size: int  # and resized to what the network was last trained at
    flip_average: bool
    recipe: str
    data: str
    version: str
    commit: str = ""
    results: dict[str, Any] = field(default_factory=dict)
    localiser: dict[str, Any] = field(default_factory=dict)  # head and decoding; empty: a classifier

    @property
    def names_classes(self) -> bool:
        """Whether the logits were trained: those of a localiser with localise.classify=0 were not."""
        return bool(self.localiser.get("classify", 1.0) > 0)

    def __post_init__(self) -> None:
        """Refuse a card that no training writes: a file's checksum says that it is whole, not that it is sound."""
        names = [self.class_names, self.class_ids]
        sizes = [self.image_size, self.crop, self.size]
        sound = (
            all(isinstance(value, tuple) and all(isinstance(name, str) for name in value) for value in names)
            and len(self.class_names) == len(self.class_ids) >= 1
            and all(type(value) is int and 1 <= value <= 4096 for value in sizes)
            and self.crop <= self.image_size
            and isinstance(self.model, str)
            and isinstance(self.options, dict)
            and isinstance(self.localiser, dict)
            and isinstance(self.flip_average, bool)
        )
        if not sound:
            raise ValueError("the card of these weights is not of the form that a training writes")


def weights_bytes(model: nn.Module, card: Card, *, half: bool = False) -> bytes:
    """Return the file's content: the state of `model` as float32 and the card, with a checksum over both.

    With `half`, matrices and convolution kernels are stored as float16, at half the size; vectors (norms, biases,
    running statistics, normalisation) stay float32, and `load_weights` computes in float32 either way.

    Raises:
        ValueError: with `half`, a weight lies outside float16's range of +-65504.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:
        for name in (name for name, parameter in model.named_parameters() if parameter.ndim >= 2):
            tensors[name] = tensors[name].half()
            if not torch.isfinite(tensors[name]).all():
                raise ValueError(f"{name} holds a value that float16 cannot; keep these weights whole, without --half")
    description = asdict(card)
    metadata = {"format": FORMAT, "card": description, "sha256": _digest(tensors, description)}
    return save_tensors(tensors, metadata={"tinysight": json.dumps(metadata)})


def load_weights(path: Path) -> tuple[nn.Module, Card]:
    """Read a model, ready to use (eval mode, on the CPU), and its card.

    Raises:
        ValueError: the file is missing, is no weights file of tinysight, or is damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file; expected a run folder or a weights file (.safetensors)")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("tinysight")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no readable safetensors file ({error})") from None
    if header is None:
        raise ValueError(f"{path} holds no description by tinysight; expected weights that `tinysight train` wrote")
    try:
        metadata = json.loads(header)
        if metadata["format"] != FORMAT:
            raise ValueError(f"{path} has format {metadata['format']}; this version reads format {FORMAT}")
        if metadata["sha256"] != _digest(tensors, metadata["card"]):
            raise ValueError(f"{path} is damaged: its SHA-256 is not the one it was written with; copy the file anew")
        description = {"localiser": {}, **metadata["card"]}  # weights of before there were localisers have none
        card = Card(**{f.name: _tuples(description[f.name]) for f in fields(Card)})
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} has a damaged description ({error!r}); copy the file anew") from None
    model = models.build(card.model, len(card.class_names), card.options)
    if card.localiser:
        model = _with_head(model, card.localiser, path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit model {card.model}: {str(error).splitlines()[-1].strip()}") from None
    return model.eval().requires_grad_(False), card


def _with_head(classifier: nn.Module, settings: dict[str, Any], path: Path) -> nn.Module:
    try:
        if missing := [name for name in DECODING_SETTINGS if name not in settings]:
            raise ValueError(f"without {missing[0]}")
        return Localiser(classifier, **{name: settings[name] for name in HEAD_SETTINGS})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} describes a head that this version cannot build ({error}); train it anew") from None


def _digest(tensors: dict[str, torch.Tensor], description: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
