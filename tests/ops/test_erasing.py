"""Random erasing against a plain loop, and the sizes that it draws."""

from __future__ import annotations

import pytest
import torch

from tinysight.ops import erasing


def test_it_is_the_plain_loop() -> None:
    images = torch.rand(12, 3, 9, 7, generator=torch.Generator().manual_seed(0)) * 255
    erasures = erasing.draw(12, generator=torch.Generator().manual_seed(1), probability=0.7)
    expected = images.clone()
    for index in range(12):
        x0, y0, x1, y1 = (
            round(share * side)
            for share, side in zip(erasures.window[index].tolist(), (7, 9, 7, 9), strict=True)
        )
        expected[index, :, y0:y1, x0:x1] = erasures.color[index][:, None, None]
    erased = erasing.apply(images, erasures)
    assert torch.equal(erased, expected)
    assert (erased != images).flatten(1).any(1).sum() > 4


def test_windows_have_the_papers_areas_and_aspects() -> None:
    erasures = erasing.draw(5000, generator=torch.Generator().manual_seed(2), probability=0.5)
    width, height = (erasures.window[:, 2:] - erasures.window[:, :2]).T
    erased = (width > 0) & (height > 0)
    assert abs(float(erased.float().mean()) - 0.5) < 0.03
    whole = erased & ((erasures.window > 0) & (erasures.window < 1)).all(1)
    area, aspect = (width * height)[whole], (height / width)[whole]
    assert 0.0199 < area.min() < 0.04 and 0.2 < area.max() < 0.3301
    assert 0.2999 < aspect.min() < 0.4 and 2.5 < aspect.max() < 3.334
    assert erasures.color.min() >= 0 and 250 < erasures.color.max() <= 255


def test_a_probability_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        erasing.draw(3, generator=torch.Generator(), probability=1.1)
