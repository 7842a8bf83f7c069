"""Convolution by matrix products against torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tinysight.ops import conv
from tinysight.ops.conv import convolve, fold, unfold

CASES = [
    ((3, 3), 1, (1, 1), (5, 6)),
    ((3, 3), 2, (1, 1), (5, 6)),
    ((3, 3), 2, (1, 1), (6, 5)),
    ((1, 1), 1, (0, 0), (4, 3)),
    ((1, 1), 2, (0, 0), (5, 4)),
    ((1, 7), 1, (0, 3), (4, 5)),
    ((7, 1), 1, (3, 0), (4, 5)),
    ((5, 5), 3, (2, 2), (8, 7)),
]


@pytest.mark.parametrize("part_bytes", [1, 2**20])
@pytest.mark.parametrize(("sides", "stride", "padding", "size"), CASES)
def test_it_is_torchs_convolution_and_its_gradient(
    sides: tuple[int, int],
    stride: int,
    padding: tuple[int, int],
    size: tuple[int, int],
    part_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conv, "PART_BYTES", part_bytes)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 4, *size, generator=generator).requires_grad_()
    kernel = torch.randn(6, 4, *sides, generator=generator).requires_grad_()
    ours = convolve(images, kernel, stride=stride, padding=padding)
    theirs = F.conv2d(images, kernel, stride=stride, padding=padding)
    assert torch.allclose(ours, theirs, atol=1e-5)
    weights = torch.randn(theirs.shape, generator=generator)
    pairs = zip(
        torch.autograd.grad(ours, (images, kernel), weights),
        torch.autograd.grad(theirs, (images, kernel), weights),
        strict=True,
    )
    assert all(torch.allclose(mine, other, atol=1e-4) for mine, other in pairs)


def test_an_image_that_needs_no_gradient_gets_none() -> None:
    kernel = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    convolve(torch.ones(2, 4, 5, 5), kernel, padding=(1, 1)).sum().backward()  # type: ignore[no-untyped-call]
    assert (
        kernel.grad is not None and float(kernel.grad[0, 0, 1, 1]) == 50.0
    )  # the middle sees 25 ones of 2 images


@pytest.mark.parametrize(("sides", "stride", "padding", "size"), CASES)
def test_spread_is_the_adjoint_of_unfold(
    sides: tuple[int, int], stride: int, padding: tuple[int, int], size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 4, *size, generator=generator)
    rows = unfold(images, sides, stride=stride, padding=padding)
    height = (size[0] + 2 * padding[0] - sides[0]) // stride + 1
    others = torch.randn(rows.shape, generator=generator)
    back = fold(others.view(3, height, -1, *sides, 4), size, stride=stride, padding=padding)
    assert back.shape == images.shape
    assert float((rows * others).sum()) == pytest.approx(float((images * back).sum()), rel=1e-4)


def test_a_folded_sum_is_rounded_once() -> None:
    rows = torch.full((1, 8, 8, 3, 3, 1), 1.0, dtype=torch.bfloat16)
    rows[0, :, :, 0, 0] = 256.0  # in bfloat16 256 + 1 is 256
    total = fold(rows, (8, 8), stride=1, padding=(1, 1))
    assert float(total[0, 0, 4, 4]) == 264.0
