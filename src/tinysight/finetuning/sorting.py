"""Order unlabeled images so that a person labels many of them with one decision.

Images are proposed in groups of one class, those first of which most are expected to be right.
While fewer than two classes are known, a group is an image with those most like it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from tinysight.finetuning.lda import fit_views
from tinysight.finetuning.validation import CrossValidation, Ints, crossvalidate, mean_distances

GROUP = 30  # images that a person looks at together
MAX_GROUPS = 6
MIN_ALIKE, ALIKE_SHARE = 4, 12  # while no class is known: of few images, few are of one class
MAX_SEEDS = 2000  # images that are tried as the center of a group
MAX_JUDGED = 1000  # labeled images that judge a model, evenly chosen: it is to take seconds
TEMPERATURE = 0.3  # on distances, for an order; 0.05 and 1 cost a tenth more decisions
EXAMPLES, SURE = 20, 0.5  # images that stand for a class by what a model says, and how sure it is
NEW = -1


@dataclass(frozen=True, eq=False)
class Group:
    """Unlabeled images (rows of the features) that are likely of one class, the surest first."""

    label: int  # NEW: alike, and of a class that is not known
    rows: Ints


@dataclass(frozen=True, eq=False)
class Proposed:
    """A model's class of each image (N,), NEW where it knows none, and its probability (N,)."""

    labels: Ints
    probabilities: npt.NDArray[np.float64]


def arrange(
    features: Tensor,
    labels: Ints,
    proposed: Proposed | None = None,
    *,
    size: int = GROUP,
    most: int = MAX_GROUPS,
) -> tuple[Group, ...]:
    """Group images without a label, -1, among features (N, 2, F) with labels (N,).

    `proposed` is what a model says of them: until a class has enough labels, the images that the
    model is surest of stand for it, too.
    Returns at most `most` groups of at most `size`, the most rewarding first; no row is in two.
    """
    rows = np.flatnonzero(labels < 0)
    labels = labels if proposed is None else _with_examples(labels, proposed)
    known = np.flatnonzero(labels >= 0)
    present, learned = np.unique(labels[known], return_inverse=True)
    if len(present) < 2:
        only = () if proposed is None else _as_proposed(rows, proposed, size)
        left = np.setdiff1d(rows, np.concatenate([rows[:0], *(group.rows for group in only)]))
        size = min(size, max(MIN_ALIKE, len(left) // ALIKE_SHARE))
        return (*only, *_alike(features, left, size, most))[:most]
    views = features[torch.from_numpy(known)]
    head = fit_views(views, torch.from_numpy(learned), len(present))
    distances = mean_distances(head, features[torch.from_numpy(rows)])
    surest, nearest = (own.numpy() for own in F.softmax(TEMPERATURE * distances, dim=1).max(dim=1))
    found: list[tuple[float, Group]] = []
    for place, label in enumerate(present.tolist()):
        own = np.flatnonzero(nearest == place)
        own = own[np.argsort(-surest[own], kind="stable")[:size]]
        right = float(surest[own].sum())
        # images that a decision labels: one is for the group, and one for each that is wrong
        if len(own):
            found.append((right / (1 + len(own) - right), Group(label, rows[own])))
    found.sort(key=lambda pair: -pair[0])
    return tuple(group for _, group in found[:most])


def judge_labels(features: Tensor, labels: Ints) -> CrossValidation | None:
    """Cross-validate a last layer on the labeled images; None where too few have a label."""
    known = np.flatnonzero(labels >= 0)
    known = known[:: max(1, -(-len(known) // MAX_JUDGED))]
    present, learned = np.unique(labels[known], return_inverse=True)
    if len(present) < 2:
        return None
    views, groups = features[torch.from_numpy(known)], np.arange(len(known))
    return crossvalidate(views, torch.from_numpy(learned), groups, len(present))


def _with_examples(labels: Ints, proposed: Proposed) -> Ints:
    found, sure = labels.copy(), proposed.probabilities >= SURE
    for label in np.setdiff1d(proposed.labels, [NEW]).tolist():
        own = np.flatnonzero((labels < 0) & (proposed.labels == label) & sure)
        missing = max(0, EXAMPLES - int((labels == label).sum()))
        found[own[np.argsort(-proposed.probabilities[own], kind="stable")[:missing]]] = label
    return found


def _as_proposed(rows: Ints, proposed: Proposed, size: int) -> tuple[Group, ...]:
    """Group images of a class that a model is sure of."""
    order = rows[np.argsort(-proposed.probabilities[rows], kind="stable")]
    order = order[(proposed.probabilities[order] >= SURE) & (proposed.labels[order] != NEW)]
    labels = np.unique(proposed.labels[order]).tolist()
    return tuple(Group(each, order[proposed.labels[order] == each][:size]) for each in labels)


def _alike(features: Tensor, rows: Ints, size: int, most: int) -> tuple[Group, ...]:
    """Group images with those nearest to them, by the angle of features; the closest first."""
    own = features[torch.from_numpy(rows)].float().mean(dim=1)
    own = F.normalize(own - own.mean(dim=0), dim=1)
    seeds = np.arange(0, len(rows), max(1, -(-len(rows) // MAX_SEEDS)))
    alike = (own[torch.from_numpy(seeds)] @ own.T).numpy()
    groups: list[Group] = []
    while len(seeds) and len(groups) < most:
        count = min(size, int((alike[0] > -np.inf).sum()))
        nearest = -np.partition(-alike, count - 1, axis=1)[:, :count]
        best = alike[int(nearest.mean(axis=1).argmax())]
        chosen = np.argsort(-best, kind="stable")[:count]
        groups.append(Group(NEW, rows[chosen]))
        left = ~np.isin(seeds, chosen)
        alike[:, chosen] = -np.inf
        alike, seeds = alike[left], seeds[left]
    return tuple(groups)
