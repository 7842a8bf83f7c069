"""Each operation against Pillow's, image by image; the geometry is that of the one resampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from tinysight.ops import augment, trivial_augment
from tinysight.ops.trivial_augment import MAX_BLEND, OPERATIONS, TrivialAugmentParams

TONES = ("nothing", "brightness", "contrast", "color", "sharpness", "posterize", "solarize")
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


def _images(count: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, 12, 10), generator=torch.Generator().manual_seed(0)
    ).float()


def _all_of(name: str, strengths: list[float]) -> TrivialAugmentParams:
    return TrivialAugmentParams(
        operation=torch.full((len(strengths),), OPERATIONS.index(name)),
        strength=torch.tensor(strengths),
    )


def _with_pillow(image: torch.Tensor, name: str, strength: float) -> np.ndarray:
    picture = Image.fromarray(image.permute(1, 2, 0).byte().numpy())
    if name in ENHANCERS:
        picture = ENHANCERS[name](picture).enhance(1 + MAX_BLEND * strength)
    elif name == "posterize":
        picture = ImageOps.posterize(picture, 8 - round(abs(strength) * 6))
    elif name == "solarize":
        picture = ImageOps.solarize(picture, 256 * (1 - abs(strength)))
    return np.asarray(picture, dtype=np.float32)


@pytest.mark.parametrize("name", TONES)
def test_a_tone_equals_pillows(name: str) -> None:
    strengths = [-1.0, -0.7, -0.25, 0.0, 0.3, 0.5, 0.9]
    images = _images(len(strengths))
    changed = trivial_augment.apply_tone(images, _all_of(name, strengths))
    for index, strength in enumerate(strengths):
        expected = _with_pillow(images[index], name, strength)
        found = changed[index].permute(1, 2, 0).numpy()
        exact = name in ("nothing", "posterize", "solarize")
        # Pillow rounds its degenerate image to bytes, and so its mean gray: 2 levels, times the
        # factor
        np.testing.assert_allclose(
            found, expected, atol=0 if exact else 2.5, err_msg=f"{name} {strength}"
        )
    assert name == "nothing" or not torch.equal(changed, images)


def test_an_image_does_not_depend_on_its_batch() -> None:
    images = _images(40)
    params = trivial_augment.sample(40, generator=torch.Generator().manual_seed(3))
    together = trivial_augment.apply_tone(images, params)
    for index in range(40):
        alone = trivial_augment.apply_tone(images[index : index + 1], params[index : index + 1])
        assert torch.allclose(together[index : index + 1], alone, atol=1e-4)
    assert together.min() >= 0 and together.max() <= 255


def test_operations_are_equally_likely_and_strengths_uniform() -> None:
    params = trivial_augment.sample(50_000, generator=torch.Generator().manual_seed(4))
    shares = torch.bincount(params.operation, minlength=len(OPERATIONS)) / 50_000
    assert len(shares) == len(OPERATIONS) and (shares - 1 / len(OPERATIONS)).abs().max() < 0.008
    assert params.strength.min() < -0.99 and params.strength.max() > 0.99
    assert params.strength.mean().abs() < 0.02


def test_geometry_is_added_to_the_transforms() -> None:
    names = ["shift_x", "shift_y", "rotate", "brightness"]
    params = TrivialAugmentParams(
        operation=torch.tensor([OPERATIONS.index(name) for name in names]),
        strength=torch.tensor([0.5, -1.0, 0.2, 1.0]),
    )
    transforms = trivial_augment.add_geometry(
        augment.center(4, source_size=64, crop=56), params, size=56
    )
    assert transforms.shift_x.tolist() == [14, 0, 0, 0] and transforms.shift_y.tolist() == [
        0,
        -28,
        0,
        0,
    ]
    assert torch.allclose(transforms.angle, torch.tensor([0.0, 0.0, 27.0, 0.0]))
