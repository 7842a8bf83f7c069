"""Which images a model takes for alike: pooled features, nearest training images, similarity of
classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from tinysight.predict.predictor import Predictor

Ints = npt.NDArray[np.int64]
NUM_NEIGHBORS = 5


@torch.no_grad()
def embed(
    predictor: Predictor,
    images: npt.NDArray[np.uint8],
    rows: Ints,
    *,
    batch_size: int = 250,
    each_batch: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Return the features of `rows` of images (N, S, S, 3), averaged over the image and of length
    1: (R, D).
    """
    parts = []
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        with predictor.runtime.autocast():
            features = predictor.model.forward_features(
                predictor.views(np.take(images, chosen, axis=0))
            )
        parts.append(F.normalize(features.float().flatten(2).mean(dim=2), dim=1).cpu())
        each_batch(start + len(chosen))
    return torch.cat(parts) if parts else torch.empty(0, predictor.model.num_features)


def nearest(
    queries: Tensor, candidates: Tensor, *, k: int = NUM_NEIGHBORS, block: int = 1000
) -> tuple[Tensor, Tensor]:
    """Return similarities and places (Q, k) of the candidates (M, D) most similar to each query (Q,
    D), nearest first.

    Both are of length 1; the similarity is the cosine. With fewer than k candidates there are
    fewer columns."""
    k = min(k, len(candidates))
    found = [
        (queries[start : start + block] @ candidates.T).topk(k, dim=1)
        for start in range(0, len(queries), block)
    ]
    if not found:
        return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def class_similarity(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the cosines (K, K) of the classes' mean features, from features (M, D) of length 1 and
    labels (M,).

    The mean of all classes is taken off first: what every image shares would make all classes
    look alike. A class without images is like no other: 0."""
    sums = torch.zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    counts = torch.bincount(labels, minlength=num_classes)
    means = sums / counts.clamp(min=1)[:, None]
    centered = torch.where((counts > 0)[:, None], means - means[counts > 0].mean(dim=0), 0)
    directions = F.normalize(centered, dim=1)
    return directions @ directions.T
