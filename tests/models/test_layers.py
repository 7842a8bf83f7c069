"""Layers that more than one family uses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tinysight.models.layers import SubsampledConvolution, convolution


@pytest.mark.parametrize("size", [8, 7])
def test_a_strided_1x1_convolution_of_few_channels_is_the_plain_one(size: int) -> None:
    narrow, wide = convolution(4, 6, 1, 2), convolution(16, 6, 1, 2)
    assert type(narrow) is SubsampledConvolution and type(wide) is nn.Conv2d
    assert all(type(convolution(4, 6, kernel)) is nn.Conv2d for kernel in (1, 3))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 4, size, size, generator=generator, dtype=torch.float64)
    # Contiguous and in float64: the plain one's gradient is sound there.
    plain = nn.Conv2d(4, 6, 1, 2, bias=False).double()
    plain.load_state_dict(narrow.state_dict())
    outputs = [layer(images) for layer in (narrow.double(), plain)]
    assert torch.allclose(*outputs)
    for output in outputs:
        output.square().sum().backward()  # type: ignore[no-untyped-call]
    assert narrow.weight.grad is not None and plain.weight.grad is not None
    assert torch.allclose(narrow.weight.grad, plain.weight.grad)
