"""What a training of a localizer needs beside a classifier's: its head, its encoder's weights and
its true boxes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinysight.config import LocalizerConfig, ModelConfig
from tinysight.data.dataset import Dataset
from tinysight.models.classifier import Classifier
from tinysight.models.localizer import Localizer
from tinysight.ops.boxes import to_cxcywh
from tinysight.predict.weights import load_weights


def build(classifier: Classifier, settings: LocalizerConfig) -> Localizer:
    """Give a classifier a head, as it comes."""
    return Localizer(
        classifier,
        head=settings.head,
        grid=settings.grid,
        num_steps=settings.num_steps,
        feedback=settings.feedback,
        shared=settings.shared,
        frozen=settings.frozen,
        classifies=settings.class_loss_weight > 0,
    )


def with_head(
    classifier: Classifier,
    settings: LocalizerConfig,
    pack: Dataset,
    rows: npt.NDArray[np.int64],
    *,
    generator: torch.Generator,
) -> Localizer:
    """Give a classifier a head, which begins at the mean box of the training rows."""
    model = build(classifier, settings)
    boxes = np.concatenate([pack.boxes_of(row) for row in rows.tolist()])
    mean = to_cxcywh(torch.from_numpy(boxes).double().mean(dim=0) / pack.image_size).float()
    answers = settings.grid**2 * (settings.num_steps if settings.head == "lstm" else 1)
    prior = len(boxes) / len(rows) / answers
    model.initialize(mean, prior=min(max(prior, 0.01), 0.5), generator=generator)
    return model


def encoder_weights(source: Path, model: ModelConfig) -> dict[str, Tensor]:
    """Return a classifier's state out of a run or a weights file, a localizer's encoder where it
    holds one.

    Raises:
        ValueError: there are none, or they are of another model.
    """
    trained, metadata = load_weights(source / "weights.safetensors" if source.is_dir() else source)
    if (metadata.model, metadata.options) != (model.name, model.options):
        wanted = f'model.name={metadata.model} "model.options={metadata.options}"'
        raise ValueError(
            f"localizer.encoder {source} holds {metadata.model} {metadata.options or ''}, and the run is of {model.name} "
            f"{model.options or ''}; give the run {wanted}"
        )
    return (trained.encoder if isinstance(trained, Localizer) else trained).state_dict()


def caution(settings: LocalizerConfig, pack: Dataset, split: str) -> str | None:
    """Return what to tell a person before a training whose cells may hold more objects than they
    can answer for.
    """
    rows = pack.rows(split)
    most = int(np.diff(pack.box_offsets)[rows.start : rows.stop].max(initial=0))
    answers = settings.grid**2 * (settings.num_steps if settings.head == "lstm" else 1)
    if not settings.finds or most <= answers:
        return None
    return (
        f"some images of {pack.name} have {most} objects, and the head gives {answers} answers: the rest is never "
        "learned; more: localizer.num_steps, localizer.grid"
    )
