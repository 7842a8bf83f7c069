"""How good a model is on a split, with every image's scores kept so that later analyses need not run it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save as save_tensors
from torch import nn

from tinysight.config import Run
from tinysight.data.pack import Pack
from tinysight.deploy.predictor import Predictor
from tinysight.deploy.scores import Metrics, Scores, measure, read_scores
from tinysight.deploy.scoring import Decoding, find, score
from tinysight.deploy.weights import Card
from tinysight.device import Placement
from tinysight.models.localiser import Localiser
from tinysight.train.checkpoint import replace_durably
from tinysight.train.training import training_rows
from tinysight.train.world import World

__all__ = [
    "Metrics",
    "Scores",
    "Stopped",
    "answer_test",
    "check_data",
    "evaluate_run",
    "label_of",
    "measure",
    "num_learned",
    "read_scores",
    "run_model",
    "score_split",
    "write_scores",
]


class Stopped(Exception):  # noqa: N818 (news, not an error)
    """An evaluation was broken off because the training is asked to stop."""


def run_model(
    model: nn.Module,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    rows: range,
    *,
    crop: int,
    size: int,
    flip_average: bool,
    placement: Placement,
    decoding: Decoding | None = None,
    batch_size: int = 250,
    each_batch: Callable[[int], None] = lambda done: None,
) -> Scores:
    """Score `rows` of a pack's images (N, S, S, 3) in order; the model is in eval mode while this runs.

    Args:
        decoding: of a localiser, which then sees whole images, in place of the window `crop`.
        each_batch: called with the number of images done; what it raises breaks the evaluation off.
    """
    was_training = model.training
    model.eval()
    try:
        logits, found = [], []
        for start in range(rows.start, rows.stop, batch_size):
            stop = min(start + batch_size, rows.stop)
            batch = torch.from_numpy(np.array(images[start:stop]))
            if decoding is not None and isinstance(model, Localiser):
                found.append(
                    find(model, batch, size=size, flip_average=flip_average, decoding=decoding, placement=placement)
                )
                logits.append(found[-1].logits)
            else:
                logits.append(score(model, batch, crop=crop, size=size, flip_average=flip_average, placement=placement))
            each_batch(stop - rows.start)
    finally:
        model.train(was_training)
    return Scores(
        logits=torch.cat(logits).cpu() if logits else torch.empty(0),
        labels=torch.from_numpy(np.array(labels[rows.start : rows.stop])),
        rows=torch.arange(rows.start, rows.stop),
        boxes=torch.cat([part.boxes for part in found]).cpu() if found else None,
        confidence=torch.cat([part.confidence for part in found]).cpu() if found else None,
    )


def evaluate_run(
    run: Path,
    split: str,
    *,
    pack: Pack,
    placement: Placement,
    decoding_changes: dict[str, Any] | None = None,
    each_batch: Callable[[int], None] = lambda done: None,
) -> tuple[str, Scores, Metrics]:
    """Evaluate a run's final weights on a split; write `scores/<label>.safetensors` and `evaluation-<label>.json`.

    The label is the split's name, with the data's before it when they are not those the run was trained on.

    Args:
        decoding_changes: of a localiser, `threshold` and `decoding` in place of its own.

    Raises:
        ValueError: the run has no weights, or they are for other classes or another image size than the pack's.
    """
    predictor = Predictor(run, placement=placement, **decoding_changes or {})
    check_data(predictor.card, pack)
    if not bool((pack.labels[pack.rows(split).start : pack.rows(split).stop] >= 0).any()):
        raise ValueError(
            f"no image of {split} has a label, so there is no error to measure; `tinysight submit` answers test"
        )
    scores = score_split(predictor, pack, split, each_batch)
    label = label_of(predictor.card, pack, split)
    write_scores(run / "scores" / f"{label}.safetensors", scores, {"split": split, "data": pack.name})
    metrics = measure(scores)
    text = json.dumps({"split": split, "data": pack.name, **asdict(metrics)}, indent=1)
    replace_durably(run / f"evaluation-{label}.json", text.encode())
    return label, scores, metrics


def score_split(predictor: Predictor, pack: Pack, split: str, each_batch: Callable[[int], None]) -> Scores:
    """Score a split as the model's card says: window, size, mirror image."""
    return run_model(
        predictor.localiser or predictor.model,
        pack.images,
        pack.labels,
        pack.rows(split),
        crop=predictor.card.crop,
        size=predictor.card.size,
        flip_average=predictor.card.flip_average,
        placement=predictor.placement,
        decoding=predictor.decoding,
        each_batch=each_batch,
    )


def num_learned(run: Run, learned: Pack, judged: Pack, split: str) -> int:
    """Count the images of a split that are, pixel for pixel, among those that `run` learned from in its own pack."""
    taught = {digest.tobytes() for digest in learned.digests[training_rows(run, learned, World())]}
    rows = judged.rows(split)
    return sum(digest.tobytes() in taught for digest in judged.digests[rows.start : rows.stop])


def check_data(card: Card, pack: Pack) -> None:
    """Raise ValueError unless a pack has the classes, in that order, and the image size a model was trained for."""
    if tuple(pack.class_ids) != card.class_ids:
        raise ValueError(
            f"the model knows {len(card.class_ids)} classes, and {pack.name} has {len(pack.class_ids)} others; "
            "use the data it was trained on"
        )
    if pack.image_size < card.image_size or (pack.image_size > card.image_size and not card.localiser):
        raise ValueError(
            f"the model takes images of {card.image_size} pixels, and {pack.name} has {pack.image_size}; "
            f"prepare them at {card.image_size} (tinysight data import ... --size {card.image_size})"
        )


def label_of(card: Card, pack: Pack, split: str) -> str:
    """Return what files about a split are called: the split, and the data's name when it is not the model's own."""
    return split if pack.name == card.data else f"{pack.name}-{split}"


def write_scores(path: Path, scores: Scores, origin: dict[str, Any]) -> None:
    """Store scores, float32, with where they come from; a localiser's boxes in a file `boxes-...` beside them."""
    path.parent.mkdir(exist_ok=True)
    tensors = {"logits": scores.logits.float(), "labels": scores.labels, "rows": scores.rows}
    metadata = {"tinysight": json.dumps(origin)}
    replace_durably(path, save_tensors(tensors, metadata=metadata))
    if scores.boxes is not None and scores.confidence is not None:
        image, place = (scores.confidence > 0).nonzero(as_tuple=True)
        found = {
            "rows": scores.rows[image],
            "boxes": scores.boxes[image, place].float(),
            "confidence": scores.confidence[image, place].float(),
        }
        replace_durably(path.with_name(f"boxes-{path.name}"), save_tensors(found, metadata=metadata))


def answer_test(
    run: Path,
    path: Path,
    *,
    pack: Pack,
    placement: Placement,
    each_batch: Callable[[int], None] = lambda done: None,
) -> int:
    """Write `<file> <class id>` for each test image in the pack's order, and return their number.

    Raises:
        ValueError: the run has no weights, the pack has other classes, or it has no test images.
    """
    predictor = Predictor(run, placement=placement)
    card = predictor.card
    check_data(card, pack)
    if not len(pack.rows("test")):
        raise ValueError(f"{pack.name} has no test images to answer")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}; make it first")
    scores = score_split(predictor, pack, "test", each_batch)
    write_scores(
        run / "scores" / f"{label_of(card, pack, 'test')}.safetensors", scores, {"split": "test", "data": pack.name}
    )
    answers = [
        f"{Path(pack.files[row]).name} {card.class_ids[guess]}\n"
        for row, guess in zip(scores.rows.tolist(), scores.logits.argmax(dim=1).tolist(), strict=True)
    ]
    replace_durably(path, "".join(answers).encode())
    return len(answers)
