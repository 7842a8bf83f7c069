"""Nearest images and similar classes against plain loops."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from tinysight.analysis.neighbors import class_similarity, nearest


def test_nearest_is_the_plain_search() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = F.normalize(torch.randn(23, 6, generator=generator), dim=1)
    candidates = F.normalize(torch.randn(40, 6, generator=generator), dim=1)
    similarity, places = nearest(queries, candidates, k=3, block=7)
    for query, values, chosen in zip(queries, similarity, places, strict=True):
        cosines = torch.stack([query @ candidate for candidate in candidates])
        order = cosines.argsort(descending=True)[:3]
        assert chosen.tolist() == order.tolist()
        torch.testing.assert_close(values, cosines[order])


def test_few_candidates_and_no_queries() -> None:
    similarity, places = nearest(torch.eye(3), torch.eye(3)[:2], k=5)
    assert similarity.shape == places.shape == (3, 2)
    assert nearest(torch.empty(0, 3), torch.eye(3))[1].shape == (0, 3)


def test_similar_classes_are_those_whose_means_point_the_same_way() -> None:
    features = F.normalize(
        torch.tensor([[1.0, 0.1, 1], [1, -0.1, 1], [1, 0, 0.9], [0, 1, 1], [0, 1, 1.1]]), dim=1
    )
    similarity = class_similarity(features, torch.tensor([0, 0, 1, 2, 2]), 4).numpy()
    assert similarity[0, 1] > 0.9 > 0 > similarity[0, 2]
    np.testing.assert_allclose(similarity, similarity.T, atol=1e-6)
    np.testing.assert_allclose(similarity.diagonal(), [1, 1, 1, 0], atol=1e-6)
    assert (similarity[3] == 0).all(), "a class without images is like no other"
