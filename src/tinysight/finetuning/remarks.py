"""What is wrong with the data that few images were learned from, in words."""

from __future__ import annotations

import numpy as np

from tinysight.data.dataset import Dataset, few
from tinysight.finetuning.validation import Ints

MIN_IMAGES = 5  # per class


def data_remarks(dataset: Dataset, labels: Ints) -> list[str]:
    """Say what was left out, which classes have few labels (N,), and which pictures several."""
    notes = dataset.manifest["notes"]
    found = [note for note in notes if "unreadable" in note and note.endswith("left out")]
    counts = np.bincount(labels, minlength=len(dataset.class_names)).tolist()
    named = zip(dataset.class_names, counts, strict=True)
    if scarce := [f"{name} ({count})" for name, count in named if count < MIN_IMAGES]:
        found.append(f"fewer than {MIN_IMAGES} images, too few to learn or judge: {few(scarce)}")
    for group in (groups := [g for g in dataset.manifest["duplicates"] if _contradicts(g)])[:1]:
        ids = group["labels"]
        places = [ids.index(label) for label in dict.fromkeys(ids) if label is not None][:2]
        first, second = (group["files"][place] for place in places)
        example = f"such as {first} and {second}; keep each in one"
        found.append(f"identical pictures in several classes: {len(groups)}, {example}")
    return found


def _contradicts(group: dict[str, list[str | None]]) -> bool:
    return len(set(group["labels"]) - {None}) > 1
