"""What the page's view Sort computes; each function runs in one process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinysight.api.data import import_dataset
from tinysight.corrections import NAME
from tinysight.data.dataset import data_home
from tinysight.data.load import free_name
from tinysight.files import folder_names
from tinysight.images import Fit
from tinysight.predict.decoding import UInt8

if TYPE_CHECKING:
    from tinysight.finetuning.file_features import FileFeatures

FIT: Fit = "crop"  # as class folders are imported


@lru_cache(maxsize=1)
def _features(folder: Path) -> FileFeatures:
    """Return the features of a folder's files, which this process goes on adding to."""
    from tinysight.finetuning.encoders import find_encoder
    from tinysight.finetuning.file_features import FileFeatures
    from tinysight.predict.inference import CPU

    return FileFeatures(find_encoder("bundled"), folder, home=data_home(), runtime=CPU)


def begin(folder: Path) -> tuple[int, Fit, set[str]]:
    """Return the side and the fit of the squares to look at, and the SHA-256 of known files."""
    features = _features(folder)
    return features.encoder.image_size, FIT, set(features.known)


def look(folder: Path, digests: Sequence[str], squares: UInt8) -> None:
    """Compute the features of files with these SHA-256, as squares (B, S, S, 3)."""
    _features(folder).add(digests, squares)


def arrange(
    folder: Path,
    digests: Sequence[str],
    labels: Sequence[int],
    proposals: tuple[Sequence[int], Sequence[float]] | None,
) -> list[tuple[int, list[int]]]:
    """Return groups as (label, places in `digests`); see `finetuning.sorting.arrange`."""
    from tinysight.finetuning import sorting

    features, own, proposed = _features(folder).of(digests), np.array(labels, np.int64), None
    if proposals is not None:
        classes, shares = (np.array(each) for each in proposals)
        proposed = sorting.Proposed(classes.astype(np.int64), shares.astype(np.float64))
    found = sorting.arrange(features, own, proposed)
    return [(group.label, group.rows.tolist()) for group in found]


def judge(folder: Path, digests: Sequence[str], labels: Sequence[int]) -> dict[str, float]:
    """Return the cross-validated error of the labels with its interval; nothing where unknown."""
    from tinysight.finetuning import sorting

    own = np.array(labels, np.int64)
    judged = sorting.judge_labels(_features(folder).of(digests), own)
    if judged is None:
        return {}
    return {"error_rate": judged.error, "low": judged.low, "high": judged.high}


def learn(folder: Path) -> dict[str, Any]:
    """Import the folder with its corrections, and finetune on that; see `api.serve.learn`."""
    from tinysight.api.finetune import finetune_result
    from tinysight.api.serve import shown

    name = dataset_name(folder)
    own: dict[str, Any] = {"corrections": folder / NAME, "only_labels": True}
    dataset = import_dataset(folder, name, **own, skip_unreadable=True)
    return shown(
        finetune_result(dataset, "bundled", command=f"tinysight finetune {name} --from bundled")
    )


def dataset_name(folder: Path) -> str:
    """Return the name that a sorted folder is imported under; another folder keeps its own."""
    root = folder.resolve()
    return free_name(f"{folder_names(root)[0]}-sorted", root, data_home())
