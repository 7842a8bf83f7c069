"""The last layer in closed form, against the formula written out."""

from __future__ import annotations

import pytest
import torch

from tinysight.finetuning.lda import NEVER, fit, shrinkage_for
from tinysight.models import create_model
from tinysight.models.distance_head import DistanceHead, roots


def drawn(num: int, width: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num) % num_classes
    means = torch.randn(num_classes, width, generator=generator)
    scale = torch.rand(width, generator=generator) + 0.1
    return means[labels] + scale * torch.randn(num, width, generator=generator), labels


def log_posterior(
    x: torch.Tensor, labels: torch.Tensor, num_classes: int, shrinkage: float, at: torch.Tensor
) -> torch.Tensor:
    x, at = x.double(), at.double()
    means = torch.stack([x[labels == k].mean(dim=0) for k in range(num_classes)])
    deviations = x - means[labels]
    variance = deviations.square().mean(dim=0)
    target = torch.diag(variance + 1e-3 * variance.mean())
    covariance = (1 - shrinkage) * deviations.T @ deviations / len(x) + shrinkage * target
    apart = at[:, None] - means
    mahalanobis = torch.einsum("nkf,fg,nkg->nk", apart, covariance.inverse(), apart)
    prior = (torch.bincount(labels) + 1.0).log()
    return (prior - mahalanobis / 2).log_softmax(dim=1)


@pytest.mark.parametrize(
    ("num", "width", "num_classes"), [(200, 8, 4), (20, 30, 4), (12, 30, 2), (60, 5, 12)]
)
@pytest.mark.parametrize("shrinkage", [0.5, 0.05])
def test_probabilities_are_those_of_the_formula(
    num: int, width: int, num_classes: int, shrinkage: float
) -> None:
    x, labels = drawn(num, width, num_classes)
    at = torch.randn(9, width, generator=torch.Generator().manual_seed(1))
    found = fit(x, labels, num_classes, shrinkage)
    expected = log_posterior(x, labels, num_classes, shrinkage, at)
    torch.testing.assert_close(
        found.logits(at).double().log_softmax(dim=1), expected, rtol=1e-3, atol=1e-3
    )
    assert len(found.projection) == min(width, num_classes - (num_classes <= width))


def test_a_network_computes_what_was_fitted() -> None:
    model = create_model("resnet", 3, n=1, filters=(4, 8), features=2, head="distances").eval()
    images = torch.randint(0, 256, (30, 3, 32, 32), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        features = roots(model.forward_features(images.byte()))
        found = fit(features, torch.arange(30) % 3, 3, 0.2)
        assert isinstance(model.head, DistanceHead)
        found.fill(model.head)
        torch.testing.assert_close(
            model(images.byte()), found.logits(features), rtol=1e-3, atol=1e-3
        )
        with torch.autocast("cpu", torch.bfloat16):
            assert model.head(features).dtype == torch.float32
    assert features.shape == (30, 12)


def test_a_class_without_images_is_never_predicted_and_equal_classes_share() -> None:
    x, labels = drawn(40, 6, 2)
    logits = fit(x, labels, 3, 0.2).logits(x)
    assert (logits[:, 2] <= NEVER).all() and (logits.argmax(dim=1) == labels).float().mean() > 0.8
    same = torch.cat((x[labels == 0], x[labels == 0]))
    probabilities = fit(same, torch.arange(40) // 20, 2, 0.2).logits(same).softmax(dim=1)
    torch.testing.assert_close(probabilities, torch.full_like(probabilities, 0.5))


def test_few_images_are_shrunk_more() -> None:
    assert [shrinkage_for(n * 10, 10) for n in (1, 19, 20, 199, 200)] == [0.5, 0.5, 0.2, 0.2, 0.05]
