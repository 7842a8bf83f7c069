"""What is wrong with the data that few images were learned from, in words."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from tinysight.data.dataset import Dataset, few
from tinysight.finetuning.validation import Ints

MIN_IMAGES = 5  # per class
ALIKE, MIN_SHARE = 0.9, 0.1
MAX_COMPARED = 2000  # images of a class, the first ones: shots of a scene are neighbors by name


def data_remarks(dataset: Dataset, labels: Ints) -> list[str]:
    """Say what was left out, which classes have few labels (N,), and which pictures several."""
    notes = dataset.manifest["notes"]
    found = [note for note in notes if "unreadable" in note and note.endswith("left out")]
    found += [note for note in notes if note.startswith("hidden folders")]
    counts = np.bincount(labels, minlength=len(dataset.class_names)).tolist()
    named = zip(dataset.class_names, counts, strict=True)
    if scarce := [f"{name} ({count})" for name, count in named if count < MIN_IMAGES]:
        found.append(f"fewer than {MIN_IMAGES} images, too few to learn or judge: {few(scarce)}")
    all_groups = dataset.manifest["duplicates"]
    for group in (groups := [g for g in all_groups if len(set(g["labels"]) - {None}) > 1])[:1]:
        ids = group["labels"]
        places = [ids.index(label) for label in dict.fromkeys(ids) if label is not None][:2]
        first, second = (group["files"][place] for place in places)
        example = f"such as {first} and {second}; keep each in one"
        found.append(f"identical pictures in several classes: {len(groups)}, {example}")
    return found


def scene_remark(features: Tensor, labels: Ints, groups: Ints) -> str | None:
    """Say how many images look like shots of one scene; None below a tenth of them.

    Args:
        features: of the bundled encoder (N, 2, F). About their mean, their cosine with another
            image of the class is above `ALIKE` for 0 to 5 % of ordinary pictures (signs, animals,
            cells), and for 25 to 90 % of shots a few pixels, degrees and percents of light apart.
        groups: a number for each image (N,); identical images, which have the same, do not count.
    """
    centered = features[:, 0].float() - features[:, 0].float().mean(dim=0)
    units, count = F.normalize(centered, dim=1).numpy(), 0
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)[:MAX_COMPARED]
        cosines = units[rows] @ units[rows].T
        cosines[groups[rows][:, None] == groups[rows]] = -1.0
        count += int((cosines.max(axis=1) > ALIKE).sum())
    if count < max(2, MIN_SHARE * len(labels)):
        return None
    found = f"{count} of {len(labels)} images are much like another one of their class"
    advice = (
        "if they show one scene the error is too low: put each scene into train/ or val/ as a unit"
    )
    return f"{found}; {advice}"
