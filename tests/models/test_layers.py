"""Layers equal torch's, and use the faster computation only where it is faster."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tinysight.models import layers
from tinysight.models.layers import (
    Convolution,
    SqueezeExcitation,
    SubsampledConvolution,
    convolution,
)
from tinysight.ops.conv import convolve


@pytest.mark.parametrize("size", [8, 7])
def test_a_strided_1x1_convolution_of_few_channels_is_the_plain_one(size: int) -> None:
    narrow, wide = convolution(4, 6, 1, 2), convolution(16, 6, 1, 2)
    assert type(narrow) is SubsampledConvolution and type(wide) is Convolution
    assert all(type(convolution(4, 6, kernel)) is Convolution for kernel in (1, 3))
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


def test_squeeze_and_excitation_scales_channels_by_their_means() -> None:
    layer = SqueezeExcitation(32, 4)
    assert layer.squeeze.weight.shape == (8, 32) and layer.excite.weight.shape == (32, 8)
    assert SqueezeExcitation(32, 16).squeeze.weight.shape == (8, 32)  # never fewer than 8
    for linear in (layer.squeeze, layer.excite):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    images = torch.zeros(2, 32, 2, 2)
    images[0, 3, 0, 0], images[1, 3] = 4.0, -4.0
    with torch.no_grad():
        layer.squeeze.weight[5, 3], layer.excite.weight[0, 5] = 2.0, 1.5
        images[:, 0] = 1.0
        output = layer(images)
    # the mean of channel 3 is 1, or -4 and below the ReLU
    assert torch.allclose(output[0, 0], torch.tensor(3.0).sigmoid())
    assert torch.allclose(output[1, 0], torch.tensor(0.5))
    assert torch.allclose(output[:, 3], images[:, 3] / 2) and output.count_nonzero() == 13


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the calls of `convolve`."""
    calls: list[int] = []

    def recorded(*args: Any, **options: Any) -> Tensor:
        calls.append(1)
        return convolve(*args, **options)

    monkeypatch.setattr(layers, "convolve", recorded)
    monkeypatch.setattr(layers, "pays", lambda: True)
    return calls


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        ("training in bf16", True),
        ("a CPU without AMX", False),
        ("training in fp32", False),
        ("prediction", False),
        ("few channels", False),
        ("a large volume", False),
        ("a large volume, halved", True),
        ("reflect", False),
        ("same", False),
    ],
)
def test_matrix_products_are_used_only_where_they_are_faster(
    situation: str, expected: bool, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if situation == "a CPU without AMX":
        monkeypatch.setattr(layers, "pays", lambda: False)
    num_in, stride = (64 if situation == "few channels" else 128), 1 + situation.endswith("halved")
    layer = convolution(num_in, 8, 3, stride)
    if situation == "same":
        layer = Convolution(128, 8, 3, padding="same")
    if situation == "reflect":
        layer = Convolution(128, 8, 3, padding=1, padding_mode="reflect")
    side = {"a large volume": 9, "a large volume, halved": 16}.get(situation, 8)
    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=situation != "training in fp32")
    with bf16, torch.set_grad_enabled(situation != "prediction"):
        layer(torch.randn(2, layer.in_channels, side, side))
    assert bool(calls) is expected


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride"), [((3, 3), 1), ((3, 3), 2), ((1, 1), 1), ((1, 1), 2), ((1, 7), 1)]
)
def test_matrix_products_equal_the_plain_convolution_in_bf16(
    kernel: tuple[int, int], stride: int, bias: bool, calls: list[int]
) -> None:
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2)
    layer = Convolution(128, 24, kernel, stride, padding, bias=bias)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = nn.Conv2d(128, 24, kernel, stride, padding, bias=bias)
    plain.load_state_dict(layer.state_dict())
    images = torch.randn(5, 128, 8, 8).to(memory_format=torch.channels_last)
    weights = torch.randn(5, 24, 8 // stride, 8 // stride)
    results = []
    for module, enabled in ((layer, True), (plain, False)):
        x = images.detach().clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs = module(x)
        assert outputs.dtype == (torch.bfloat16 if enabled else torch.float32)
        (outputs.float() * weights).sum().backward()
        gradients = [parameter.grad for parameter in module.parameters()]
        results.append([outputs.detach().float(), x.grad, *gradients])
    assert calls == [1]
    assert layer.weight.grad is not None
    assert layer.weight.grad.is_contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(*results, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.006  # rounding to 8 bits: 0.003
