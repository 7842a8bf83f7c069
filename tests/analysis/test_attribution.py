"""Maps add up to what they explain, and blanking blanks what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tinysight.analysis.attribution import activation_maps
from tinysight.analysis.occlusion import blank, rows_with_halves, share_covered
from tinysight.data.dataset import Dataset
from tinysight.models import create_model


class Deep(nn.Module):
    """A head with a hidden layer, dropout and no average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.hidden, self.head = nn.Linear(4 * 64, 6), nn.Linear(6, 5)
        self.dropout = nn.Dropout(0.5)

    def forward_features(self, images: Tensor) -> Tensor:
        return torch.relu(self.convolution(images))

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.hidden(self.forward_features(images).flatten(1)))
        return self.head(self.dropout(hidden))


class Detached(Deep):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def test_a_map_adds_up_to_the_logit_less_its_bias() -> None:
    torch.manual_seed(0)
    model = create_model("resnet", 7, n=1, filters=(4, 8)).eval().requires_grad_(False)
    nn.init.normal_(model.head.bias)  # type: ignore[arg-type, union-attr]
    images, classes = torch.rand(5, 3, 16, 16) * 255, torch.tensor([0, 3, 6, 1, 3])
    maps = activation_maps(model, images, classes)
    own = model(images).gather(1, classes[:, None])[:, 0] - model.head.bias[classes]  # type: ignore[index, union-attr]
    torch.testing.assert_close(maps.sum(dim=(1, 2)), own)
    features, weight = model.forward_features(images), model.head.weight  # type: ignore[operator, union-attr]
    zhou = torch.einsum("bc,bchw->bhw", weight[classes], features) / features[0, 0].numel()  # type: ignore[index]
    torch.testing.assert_close(maps, zhou)


def test_a_deep_head_has_its_gradient_map() -> None:
    torch.manual_seed(0)
    model = Deep().eval()
    images, classes = torch.rand(2, 3, 8, 8), torch.tensor([1, 4])
    maps = activation_maps(model, images, classes)
    active = (model.hidden(model.forward_features(images).flatten(1)) > 0).float()
    weight = torch.einsum("bh,bh,hf->bf", model.head.weight[classes], active, model.hidden.weight)
    expected = (weight.reshape(2, 4, 8, 8) * model.forward_features(images)).sum(dim=1)
    torch.testing.assert_close(maps, expected.detach())
    assert "forward_features" not in vars(model)


def test_a_model_that_does_not_use_its_features_is_refused() -> None:
    with pytest.raises(
        ValueError, match="logits of Detached do not come from its forward_features"
    ):
        activation_maps(Detached(), torch.rand(1, 3, 8, 8), torch.tensor([0]))


def test_blanking_is_to_the_pixel() -> None:
    image = np.random.default_rng(0).integers(1, 255, (8, 8, 3), np.uint8)
    color = np.array([0, 0, 0], np.uint8)
    inside = blank(image, np.array([2.0, 1.0, 5.0, 4.0]), color, inside=True)
    outside = blank(image, np.array([2.0, 1.0, 5.0, 4.0]), color, inside=False)
    within = np.zeros((8, 8), bool)
    within[1:4, 2:5] = True
    assert (inside[within] == 0).all() and (inside[~within] == image[~within]).all()
    assert (outside[~within] == 0).all() and (outside[within] == image[within]).all()
    assert (blank(image, np.array([-3.0, -3.0, 99.0, 99.0]), color, inside=True) == 0).all()


def test_the_share_a_box_covers_is_of_the_window() -> None:
    boxes = np.array([[0, 0, 16, 16], [0, 0, 2, 2], [2, 2, 8, 8], [14, 14, 16, 16]], np.float32)
    np.testing.assert_allclose(share_covered(boxes, image_size=16, crop=12), [1, 0, 36 / 144, 0])


def test_rows_without_exactly_one_fitting_box_are_not_tested(pack: Dataset) -> None:
    rows = np.asarray(pack.rows("val"))
    tested = rows_with_halves(pack, rows, crop=pack.image_size)
    for row, told in zip(rows, tested, strict=True):
        boxes = pack.boxes_of(row)
        shares = [(x1 - x0) * (y1 - y0) / pack.image_size**2 for x0, y0, x1, y1 in boxes.tolist()]
        assert told == (len(shares) == 1 and 0.05 <= shares[0] <= 0.75)
    assert tested.any()
