"""How good a model is on a split, with every image's scores kept so that later analyses need not
run it again.
"""

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

from tinysight.config import Config
from tinysight.data.batches import chosen_rows
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.scores import Metrics, Scores, measure, read_scores
from tinysight.files import write_atomic
from tinysight.models.localizer import Localizer
from tinysight.predict.inference import Decoding, find, score
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import ModelMetadata
from tinysight.run import Run

__all__ = [
    "Metrics",
    "Scores",
    "Stopped",
    "answer_test",
    "check_data",
    "evaluate_run",
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
    runtime: Runtime,
    decoding: Decoding | None = None,
    batch_size: int = 250,
    each_batch: Callable[[int], None] = lambda done: None,
) -> Scores:
    """Score `rows` of a pack's images (N, S, S, 3) in order; the model is in eval mode while this
    runs.

    Args:
        decoding: of a localizer, which then sees whole images, in place of the window `crop`.
        each_batch: called with the number of images done; what it raises breaks the evaluation off.
    """
    was_training = model.training
    model.eval()
    try:
        logits, found = [], []
        for start in range(rows.start, rows.stop, batch_size):
            stop = min(start + batch_size, rows.stop)
            batch = torch.from_numpy(np.array(images[start:stop]))
            if decoding is not None and isinstance(model, Localizer):
                found.append(
                    find(
                        model,
                        batch,
                        size=size,
                        flip_average=flip_average,
                        decoding=decoding,
                        runtime=runtime,
                    )
                )
                logits.append(found[-1].logits)
            else:
                logits.append(
                    score(
                        model,
                        batch,
                        crop=crop,
                        size=size,
                        flip_average=flip_average,
                        runtime=runtime,
                    )
                )
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
    run: Run,
    split: str,
    *,
    pack: Dataset,
    runtime: Runtime,
    decoding_changes: dict[str, Any] | None = None,
    each_batch: Callable[[int], None] = lambda done: None,
) -> tuple[str, Scores, Metrics]:
    """Evaluate a run's final weights on a split; write `scores/<label>.safetensors` and
    `evaluation-<label>.json`.

    The label is the split's name, with the data's before it when they are not those the run was
    trained on.

    Args:
        decoding_changes: of a localizer, `threshold` and `decoding` in place of its own.

    Raises:
        ValueError: the run has no weights, or they are for other classes or another image size
    than the pack's."""
    predictor = Predictor(run.folder, runtime=runtime, **decoding_changes or {})
    check_data(predictor.metadata, pack)
    if not bool((pack.labels[pack.rows(split).start : pack.rows(split).stop] >= 0).any()):
        raise ValueError(
            f"no image of {split} has a label, so there is no error to measure; `tinysight submit` answers test"
        )
    scores = score_split(predictor, pack, split, each_batch)
    label = run.label(pack.name, split)
    write_scores(run.scores_path(label), scores, {"split": split, "data": pack.name})
    metrics = measure(scores)
    text = json.dumps({"split": split, "data": pack.name, **asdict(metrics)}, indent=1)
    write_atomic(run.evaluation_path(label), text.encode())
    return label, scores, metrics


def score_split(
    predictor: Predictor, pack: Dataset, split: str, each_batch: Callable[[int], None]
) -> Scores:
    """Score a split as the model's metadata says: window, size, mirror image."""
    return run_model(
        predictor.localizer or predictor.model,
        pack.images,
        pack.labels,
        pack.rows(split),
        crop=predictor.metadata.crop,
        size=predictor.metadata.input_size,
        flip_average=predictor.metadata.flip_average,
        runtime=predictor.runtime,
        decoding=predictor.decoding,
        each_batch=each_batch,
    )


def num_learned(run: Config, learned: Dataset, judged: Dataset, split: str) -> int:
    """Count the images of a split that are, pixel for pixel, among those that `run` learned from in
    its own pack.
    """
    taught = {
        digest.tobytes()
        for digest in learned.digests[chosen_rows(learned, run.data.train, run.data.fraction)]
    }
    rows = judged.rows(split)
    return sum(digest.tobytes() in taught for digest in judged.digests[rows.start : rows.stop])


def check_data(metadata: ModelMetadata, pack: Dataset) -> None:
    """Raise ValueError unless a pack has the classes, in that order, and the image size a model was
    trained for.
    """
    if tuple(pack.class_ids) != metadata.class_ids:
        raise ValueError(
            f"the model knows {len(metadata.class_ids)} classes, and {pack.name} has {len(pack.class_ids)} others; "
            "use the data it was trained on"
        )
    if pack.image_size < metadata.image_size or (
        pack.image_size > metadata.image_size and not metadata.localizer
    ):
        raise ValueError(
            f"the model takes images of {metadata.image_size} pixels, and {pack.name} has {pack.image_size}; "
            f"prepare them at {metadata.image_size} (tinysight data import ... --size {metadata.image_size})"
        )


def write_scores(path: Path, scores: Scores, origin: dict[str, Any]) -> None:
    """Store scores, float32, with where they come from; a localizer's boxes in a file `boxes-...`
    beside them.
    """
    path.parent.mkdir(exist_ok=True)
    tensors = {"logits": scores.logits.float(), "labels": scores.labels, "rows": scores.rows}
    metadata = {"tinysight": json.dumps(origin)}
    write_atomic(path, save_tensors(tensors, metadata=metadata))
    if scores.boxes is not None and scores.confidence is not None:
        image, place = (scores.confidence > 0).nonzero(as_tuple=True)
        found = {
            "rows": scores.rows[image],
            "boxes": scores.boxes[image, place].float(),
            "confidence": scores.confidence[image, place].float(),
        }
        write_atomic(path.with_name(f"boxes-{path.name}"), save_tensors(found, metadata=metadata))


def answer_test(
    run: Run,
    path: Path,
    *,
    pack: Dataset,
    runtime: Runtime,
    each_batch: Callable[[int], None] = lambda done: None,
) -> int:
    """Write `<file> <class id>` for each test image in the pack's order, and return their number.

    Raises:
        ValueError: the run has no weights, the pack has other classes, or it has no test images.
    """
    predictor = Predictor(run.folder, runtime=runtime)
    metadata = predictor.metadata
    check_data(metadata, pack)
    if not len(pack.rows("test")):
        raise ValueError(f"{pack.name} has no test images to answer")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}; make it first")
    scores = score_split(predictor, pack, "test", each_batch)
    write_scores(
        run.scores_path(run.label(pack.name, "test")), scores, {"split": "test", "data": pack.name}
    )
    answers = [
        f"{Path(pack.files[row]).name} {metadata.class_ids[guess]}\n"
        for row, guess in zip(
            scores.rows.tolist(), scores.logits.argmax(dim=1).tolist(), strict=True
        )
    ]
    write_atomic(path, "".join(answers).encode())
    return len(answers)
