"""What a training of a localiser needs beside a classifier's: its head, its encoder's weights and its true boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tinysight.config import Localise, Model
from tinysight.data.pack import Pack
from tinysight.deploy.weights import load_weights
from tinysight.models.localiser import Localiser
from tinysight.ops.boxes import to_cxcywh


def build(classifier: nn.Module, settings: Localise) -> Localiser:
    """Give a classifier a head, as it comes."""
    return Localiser(
        classifier,
        head=settings.head,
        grid=settings.grid,
        steps=settings.steps,
        feedback=settings.feedback,
        shared=settings.shared,
        frozen=settings.frozen,
        classifies=settings.classify > 0,
    )


def with_head(
    classifier: nn.Module, settings: Localise, pack: Pack, rows: npt.NDArray[np.int64], *, generator: torch.Generator
) -> Localiser:
    """Give a classifier a head, which begins at the mean box of the training rows."""
    model = build(classifier, settings)
    boxes = np.concatenate([pack.boxes_of(row) for row in rows.tolist()])
    mean = to_cxcywh(torch.from_numpy(boxes).double().mean(dim=0) / pack.image_size).float()
    answers = settings.grid**2 * (settings.steps if settings.head == "lstm" else 1)
    prior = len(boxes) / len(rows) / answers
    model.initialise(mean, prior=min(max(prior, 0.01), 0.5), generator=generator)
    return model


def encoder_weights(source: Path, model: Model) -> dict[str, Tensor]:
    """Return a classifier's state out of a run or a weights file, a localiser's encoder where it holds one.

    Raises:
        ValueError: there are none, or they are of another model.
    """
    trained, card = load_weights(source / "weights.safetensors" if source.is_dir() else source)
    if (card.model, card.options) != (model.name, model.options):
        wanted = f'model.name={card.model} "model.options={card.options}"'
        raise ValueError(
            f"localise.encoder {source} holds {card.model} {card.options or ''}, and the run is of {model.name} "
            f"{model.options or ''}; give the run {wanted}"
        )
    return (trained.encoder if isinstance(trained, Localiser) else trained).state_dict()


def caution(settings: Localise, pack: Pack, split: str) -> str | None:
    """Return what to tell a person before a training whose cells may hold more objects than they can answer for."""
    rows = pack.rows(split)
    most = int(np.diff(pack.box_offsets)[rows.start : rows.stop].max(initial=0))
    answers = settings.grid**2 * (settings.steps if settings.head == "lstm" else 1)
    if not settings.finds or most <= answers:
        return None
    return (
        f"some images of {pack.name} have {most} objects, and the head gives {answers} answers: the rest is never "
        "learned; more: localise.steps, localise.grid"
    )
