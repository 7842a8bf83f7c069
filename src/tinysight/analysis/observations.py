"""What a report needs of the model itself, asked once and kept in `RUN/analysis/`.

Neighbors, similarity of classes, survival of blanking and maps of the mistakes shown. The file
names the weights and the scores it was made from, so that it is made anew when either has
changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tinysight.analysis.attribution import activation_maps
from tinysight.analysis.neighbors import class_similarity, embed, nearest
from tinysight.analysis.occlusion import Survival, survival
from tinysight.analysis.results import EvalResults, Ints, RunResults
from tinysight.data.batches import balanced_subset
from tinysight.predict.predictor import Predictor

FORMAT = 1
MOST_CANDIDATES = 20_000  # training images looked at for neighbors, as many of each class

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Observations:
    """N images of the split, K classes, G mistakes shown; rows are the pack's."""

    neighbors: Tensor  # (N, k) rows of the training images most alike, nearest first
    neighbor_similarity: Tensor  # (N, k), cosines
    class_similarity: Tensor  # (K, K), cosines of the classes' means
    object_only: (
        Tensor  # (N,) what is said with the outside of the box blanked; -1 where not tested
    )
    background_only: Tensor  # (N,) with its inside blanked
    shown: Tensor  # (G,) places among the N
    maps: Tensor  # (G, h, w) what spoke for the prediction
    num_candidates: Tensor  # () training images that neighbors were looked for among

    @property
    def survival(self) -> Survival:
        return Survival(
            object_only=self.object_only.numpy(), background_only=self.background_only.numpy()
        )


def observe(
    run: RunResults, judged: EvalResults, predictor: Predictor, shown: Ints, *, progress: Progress
) -> Observations:
    """Ask the model all of this about a split; some minutes for 10,000 images and 20,000 candidates
    on a CPU.
    """
    pack = run.pack
    train = np.asarray(pack.rows(run.record.config.data.train), dtype=np.int64)
    train = np.setdiff1d(
        train[pack.labels[train] >= 0], judged.rows
    )  # an image is no neighbor of itself
    candidates = balanced_subset(
        train, pack.labels[train], min(1.0, MOST_CANDIDATES / max(len(train), 1))
    )
    known = embed(
        predictor,
        pack.images,
        candidates,
        each_batch=lambda n: progress("features", n, len(candidates)),
    )
    asked = embed(
        predictor,
        pack.images,
        judged.rows,
        each_batch=lambda n: progress("features", n, len(judged)),
    )
    similarity, places = nearest(asked, known)
    labels = torch.from_numpy(np.array(pack.labels[candidates]))
    blanked = survival(
        predictor,
        pack,
        judged.rows,
        each_batch=lambda n: progress("blanking objects and backgrounds", n, len(judged)),
    )
    return Observations(
        neighbors=torch.from_numpy(candidates)[places],
        neighbor_similarity=similarity,
        class_similarity=class_similarity(known, labels, len(pack.class_names)),
        object_only=torch.from_numpy(blanked.object_only),
        background_only=torch.from_numpy(blanked.background_only),
        shown=torch.from_numpy(shown),
        maps=_maps(predictor, judged, shown),
        num_candidates=torch.tensor(len(candidates)),
    )


def _maps(predictor: Predictor, judged: EvalResults, shown: Ints) -> Tensor:
    if not len(shown):
        return torch.empty(0, 1, 1)
    images = predictor.views(np.take(judged.pack.images, judged.rows[shown], axis=0))
    classes = torch.from_numpy(judged.predictions[shown]).to(images.device)
    return activation_maps(predictor.model, images, classes).float().cpu()


def kept_observations(
    run: RunResults, judged: EvalResults, shown: Ints, predictor: Predictor, *, progress: Progress
) -> Observations:
    """Return the observations kept in the run's folder, or make and keep them where these do not
    fit any more.
    """
    scores = run.record.scores_path(run.record.label(run.pack.name, run.split))
    path = run.folder / "analysis" / scores.name
    made_from = {
        "format": FORMAT,
        "weights": _digest(run.folder / "weights.safetensors"),
        "scores": _digest(scores),
        "shown": shown.tolist(),
        "candidates": MOST_CANDIDATES,
    }
    kept = _read(path, made_from)
    if kept is not None:
        return kept
    made = observe(run, judged, predictor, shown, progress=progress)
    path.parent.mkdir(exist_ok=True)
    tensors = {field.name: getattr(made, field.name).contiguous() for field in fields(Observations)}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"tinysight": json.dumps(made_from)})
    temporary.replace(path)
    return made


def _read(path: Path, made_from: dict[str, object]) -> Observations | None:
    try:
        with safe_open(path, framework="pt") as file:
            if json.loads((file.metadata() or {}).get("tinysight", "null")) != made_from:
                return None
            return Observations(
                **{field.name: file.get_tensor(field.name) for field in fields(Observations)}
            )
    except (OSError, SafetensorError, ValueError):  # nothing kept, or damaged: it is made anew
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
