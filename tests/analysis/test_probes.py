"""Activation maps add up, occlusion blanks the right pixels, neighbors equal a plain search."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.analysis.errors import Pair, confused_pairs, count_confusions
from tinysight.analysis.probes import (
    ConfusionCause,
    OcclusionResults,
    activation_maps,
    blank,
    can_occlude,
    class_similarity,
    explain_confusions,
    first_filters,
    nearest,
    share_covered,
)
from tinysight.data.dataset import Dataset
from tinysight.models import create_model
from tinysight.models.classifier import Classifier


class Deep(Classifier):
    """A head with a hidden layer, dropout and no average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.hidden, self.head = nn.Linear(4 * 64, 6), nn.Linear(6, 5)
        self.dropout = nn.Dropout(0.5)

    def forward_features(self, images: Tensor) -> Tensor:
        return torch.relu(self.convolution(images))

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(self.dropout(torch.relu(self.hidden(features.flatten(1)))))


def test_a_map_adds_up_to_the_logit_minus_its_bias() -> None:
    torch.manual_seed(0)
    model = create_model("resnet", 7, n=1, filters=(4, 8)).eval().requires_grad_(False)
    nn.init.normal_(model.head.bias)  # type: ignore[arg-type]
    images, classes = torch.rand(5, 3, 16, 16) * 255, torch.tensor([0, 3, 6, 1, 3])
    maps = activation_maps(model, images, classes)
    own = model(images).gather(1, classes[:, None])[:, 0] - model.head.bias[classes]  # type: ignore[index]
    torch.testing.assert_close(maps.sum(dim=(1, 2)), own)
    features, weight = model.forward_features(images), model.head.weight
    cam = torch.einsum("bc,bchw->bhw", weight[classes], features) / features[0, 0].numel()  # type: ignore[index]
    torch.testing.assert_close(maps, cam)


def test_a_deep_head_has_its_gradient_map() -> None:
    torch.manual_seed(0)
    model = Deep().eval()
    images, classes = torch.rand(2, 3, 8, 8), torch.tensor([1, 4])
    maps = activation_maps(model, images, classes)
    active = (model.hidden(model.forward_features(images).flatten(1)) > 0).float()
    weight = torch.einsum("bh,bh,hf->bf", model.head.weight[classes], active, model.hidden.weight)
    expected = (weight.reshape(2, 4, 8, 8) * model.forward_features(images)).sum(dim=1)
    torch.testing.assert_close(maps, expected.detach())


def test_first_filters_are_those_of_the_first_convolution_of_colors() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3))
    expected = model[1].weight.detach().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(first_filters(model), expected)
    with pytest.raises(ValueError, match="one pixel"):
        first_filters(nn.Conv2d(3, 2, 1))
    with pytest.raises(ValueError, match="no convolution"):
        first_filters(nn.Linear(3, 2))


def test_nearest_equals_the_plain_search() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = F.normalize(torch.randn(23, 6, generator=generator), dim=1)
    candidates = F.normalize(torch.randn(40, 6, generator=generator), dim=1)
    similarity, places = nearest(queries, candidates, k=3, block=7)
    for query, values, chosen in zip(queries, similarity, places, strict=True):
        cosines = torch.stack([query @ candidate for candidate in candidates])
        order = cosines.argsort(descending=True)[:3]
        assert chosen.tolist() == order.tolist()
        torch.testing.assert_close(values, cosines[order])


def test_an_image_is_not_its_own_neighbor() -> None:
    vectors, rows = torch.eye(4)[[0, 1, 0, 2]], torch.tensor([7, 8, 9, 11])
    similarity, places = nearest(vectors[:3], vectors, rows=(rows[:3], rows), k=1, block=2)
    assert places[[0, 2], 0].tolist() == [2, 0] and similarity[:, 0].tolist() == [1, 0, 1]


def test_nearest_of_few_candidates_and_of_no_queries() -> None:
    similarity, places = nearest(torch.eye(3), torch.eye(3)[:2], k=5)
    assert similarity.shape == places.shape == (3, 2)
    assert nearest(torch.empty(0, 3), torch.eye(3))[1].shape == (0, 3)


def test_classes_are_similar_where_their_means_point_the_same_way() -> None:
    vectors = torch.tensor([[1.0, 0.1, 1], [1, -0.1, 1], [1, 0, 0.9], [0, 1, 1], [0, 1, 1.1]])
    labels = torch.tensor([0, 0, 1, 2, 2])
    similarity = class_similarity(F.normalize(vectors, dim=1), labels, 4).numpy()
    assert similarity[0, 1] > 0.9 > 0 > similarity[0, 2]
    np.testing.assert_allclose(similarity, similarity.T, atol=1e-6)
    np.testing.assert_allclose(similarity.diagonal(), [1, 1, 1, 0], atol=1e-6)
    assert (similarity[3] == 0).all(), "a class without images is similar to none"


def test_blanking_is_exact_to_the_pixel() -> None:
    image = np.random.default_rng(0).integers(1, 255, (8, 8, 3), np.uint8)
    color = np.array([0, 0, 0], np.uint8)
    inside, outside = (
        blank(image, np.array([2.0, 1.0, 5.0, 4.0]), color, inside=side) for side in (True, False)
    )
    within = np.zeros((8, 8), bool)
    within[1:4, 2:5] = True
    assert (inside[within] == 0).all() and (inside[~within] == image[~within]).all()
    assert (outside[~within] == 0).all() and (outside[within] == image[within]).all()
    assert (blank(image, np.array([-3.0, -3.0, 99.0, 99.0]), color, inside=True) == 0).all()


def test_the_share_that_a_box_covers_is_of_the_window() -> None:
    boxes = np.array([[0, 0, 16, 16], [0, 0, 2, 2], [2, 2, 8, 8], [14, 14, 16, 16]], np.float32)
    np.testing.assert_allclose(share_covered(boxes, image_size=16, crop=12), [1, 0, 36 / 144, 0])


def test_rows_are_tested_where_one_box_leaves_both_sides_visible(dataset: Dataset) -> None:
    rows = np.asarray(dataset.rows("val"))
    tested = can_occlude(dataset, rows, crop=dataset.image_size)
    for row, found in zip(rows, tested, strict=True):
        boxes = dataset.boxes_of(row)
        shares = [
            (x1 - x0) * (y1 - y0) / dataset.image_size**2 for x0, y0, x1, y1 in boxes.tolist()
        ]
        assert found == (len(shares) == 1 and 0.05 <= shares[0] <= 0.75)
    assert tested.any()


@pytest.mark.parametrize(
    ("tested", "by_object", "by_background", "rank", "cause"),
    [
        (10, 8, 1, 0.5, "resemblance"),
        (10, 1, 8, 0.5, "background"),
        (10, 8, 8, 0.5, "unclear"),
        (10, 1, 1, 0.5, "unclear"),
        (2, 0, 2, 0.5, "unclear"),
        (0, 0, 0, 0.5, "unclear"),
        (0, 0, 0, None, "unclear"),
        (10, 1, 8, 0.99, "both"),
        (10, 1, 1, 0.99, "resemblance"),
        (0, 0, 0, 0.98, "resemblance"),
    ],
)
def test_causes_of_a_confusion(
    tested: int, by_object: int, by_background: int, rank: float | None, cause: str
) -> None:
    found = ConfusionCause(
        pair=Pair(first=0, second=1, forth=tested, back=0),
        similarity=0.1,
        similarity_rank=rank,
        tested=tested,
        kept_by_object=by_object,
        kept_by_background=by_background,
    )
    assert found.cause == cause


def test_the_mistakes_of_a_pair_that_remain_under_occlusion_are_counted() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 1, 2, 1, 2])
    results = SimpleNamespace(labels=labels, predicted=predicted)
    occlusion = OcclusionResults(
        object_only=np.array([0, 1, 2, 0, 1, 2, -1, 2]),
        background_only=np.array([0, 0, 1, 1, 1, 2, -1, 2]),
    )
    similarity = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]], np.float32)
    pairs = confused_pairs(count_confusions(labels, predicted, 3))
    first, second = explain_confusions(results, pairs, similarity=similarity, occlusion=occlusion)  # type: ignore[arg-type]
    assert (first.pair.first, first.pair.second, first.tested) == (0, 1, 3)
    assert (first.kept_by_object, first.kept_by_background) == (2, 1)
    assert first.similarity_rank == 1.0 and second.tested == 0
    bare, _ = explain_confusions(results, pairs)  # type: ignore[arg-type]
    assert (bare.similarity, bare.similarity_rank, bare.tested) == (None, None, 0)


def test_the_most_similar_of_ten_classes_points_to_resemblance() -> None:
    similarity = np.zeros((10, 10), np.float32)
    similarity[3, 7] = similarity[7, 3] = 0.9
    similarity[1, 2] = similarity[2, 1] = 0.5
    labels, predicted = np.array([7, 1, 4]), np.array([3, 2, 5])
    results = SimpleNamespace(labels=labels, predicted=predicted)
    pairs = [Pair(7, 3, 1, 0), Pair(1, 2, 1, 0), Pair(4, 5, 1, 0)]
    found = explain_confusions(results, pairs, similarity=similarity)  # type: ignore[arg-type]
    # of 45 pairs 44 are others
    assert [cause.similarity_rank for cause in found] == pytest.approx([1, 43 / 44, 0])
    assert [cause.cause for cause in found] == ["resemblance", "unclear", "unclear"]
    two = np.eye(2, dtype=np.float32)
    (only,) = explain_confusions(results, [Pair(0, 1, 1, 0)], similarity=two)  # type: ignore[arg-type]
    assert only.similarity_rank is None, "there is no other pair of two classes"
