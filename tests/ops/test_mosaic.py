"""Mosaics equal plain loops over pixels; boxes and labels go with their images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tinysight.ops import mosaic
from tinysight.ops.mosaic import MosaicParams


def sample(count: int, probability: float = 0.7, seed: int = 0) -> MosaicParams:
    return mosaic.sample(
        count, generator=torch.Generator().manual_seed(seed), probability=probability
    )


def windows_of(params: MosaicParams, index: int, size: int) -> list[tuple[int, int, int, int]]:
    x, y = (round(share * size) for share in params.center[index].tolist())
    return [(0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)]


def resampled(line: list[float], start: float, scale: float) -> float:
    """The mean of a line of pixels around `start`, weighted by a triangle one output pixel wide."""
    weights = [max(0.0, 1 - abs(start - (place + 0.5)) * scale) for place in range(len(line))]
    return sum(w * v for w, v in zip(weights, line, strict=True)) / sum(weights)


def mosaic_by_loop(images: Tensor, params: MosaicParams) -> Tensor:
    result, size, count = images.clone(), images.shape[-1], len(images)
    for index in range(count // 4 * 4):
        for place, (x0, y0, x1, y1) in enumerate(windows_of(params, index, size)):
            if not params.used[index]:
                continue
            source = images[index // 4 * 4 + (index + place) % 4].double()
            scale = max(x1 - x0, y1 - y0) / size
            part_x, part_y = params.part[index, place].tolist()
            left, top = part_x * (size - (x1 - x0) / scale), part_y * (size - (y1 - y0) / scale)
            for channel in range(3):
                for y in range(y0, y1):
                    line = [
                        resampled(
                            source[channel, :, x].tolist(), (y + 0.5 - y0) / scale + top, scale
                        )
                        for x in range(size)
                    ]
                    for x in range(x0, x1):
                        start = (x + 0.5 - x0) / scale + left
                        result[index, channel, y, x] = resampled(line, start, scale)
    return result


@pytest.mark.parametrize("count", [8, 6, 3])
def test_a_mosaic_equals_a_loop_over_its_pixels(count: int) -> None:
    images = torch.rand(count, 3, 10, 10, generator=torch.Generator().manual_seed(1)) * 255
    params = sample(count)
    expected = mosaic_by_loop(images, params)
    assert torch.allclose(mosaic.apply(images, params), expected, atol=0.05)
    assert torch.equal(expected[count // 4 * 4 :], images[count // 4 * 4 :])
    assert count < 4 or not torch.equal(expected, images)


def test_boxes_are_where_their_pixels_are() -> None:
    size, generator = 64, torch.Generator().manual_seed(2)
    near = torch.randint(0, 30, (40, 2), generator=generator)
    boxes = torch.cat((near, near + torch.randint(12, 30, (40, 2), generator=generator)), -1)
    images = torch.zeros(40, 3, size, size)
    for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        images[index, :, y0:y1, x0:x1] = 255.0
    padded = torch.full((40, 2, 4), torch.nan)
    padded[:, 0] = boxes.float()
    params, kept = sample(40), torch.tensor([[1.0, 0.0]]).expand(40, 2)
    pixels = mosaic.apply(images, params)
    moved, shares = mosaic.apply_to_boxes(padded, kept, params, size=size)
    assert moved.shape == (40, 8, 4) and shares.shape == (40, 8)
    assert torch.equal(moved[:, 1::2].isnan().all(-1), torch.ones(40, 4, dtype=torch.bool))
    seen = torch.zeros(40, size, size)
    for index, place in (~moved.isnan().any(-1)).nonzero().tolist():
        x0, y0, x1, y1 = moved[index, place].tolist()
        columns, rows = (
            (torch.arange(size) + 0.5 - a).clamp(-0.5, 0.5)
            - (torch.arange(size) + 0.5 - b).clamp(-0.5, 0.5)
            for a, b in ((x0, x1), (y0, y1))
        )
        seen[index] += rows[:, None] * columns * 255
    # the same but for the blur of edges, which is a pixel wide
    assert float((pixels[:, 0] - seen).abs().mean()) < 3
    areas = (pixels[:, 0].sum((1, 2)) / 255, seen.sum((1, 2)) / 255)
    assert torch.allclose(*areas, rtol=0.06, atol=12)


def test_shares_count_what_window_and_crop_left_of_a_box() -> None:
    params = replace(sample(4, probability=1.0), center=torch.full((4, 2), 0.5))
    params = replace(params, center=torch.tensor([[0.5, 0.25]]).expand(4, 2))
    params = replace(params, part=torch.zeros(4, 4, 2))
    boxes = torch.tensor(
        [[[0.0, 0, 32, 64]], [[0.0, 0, 64, 16]], [[0.0, 60, 64, 64]], [[8, 8, 8, 9]]]
    )
    kept = torch.tensor([[1.0], [0.8], [1.0], [1.0]])
    moved, shares = mosaic.apply_to_boxes(boxes, kept, params, size=64)
    # the upper windows are 32 wide and 16 high: images at half their size, of which the upper half
    assert moved[0, 0].tolist() == [0, 0, 16, 16] and float(shares[0, 0]) == 0.5
    assert moved[0, 1].tolist() == [32, 0, 64, 8] and shares[0, 1].item() == pytest.approx(0.8)
    # the lower ones are 32 wide and 48 high: images at three quarters, of which the left 2/3
    assert moved[0, 2].tolist() == [0, 61, 32, 64]
    assert shares[0, 2].item() == pytest.approx(2 / 3) and float(shares[0, 3]) == 0


def test_labels_go_with_their_boxes_and_a_mosaic_has_none_of_its_own() -> None:
    params = replace(sample(5), used=torch.tensor([True, False, True, True, True]))
    labels = torch.tensor([[0, -1], [1, 9], [2, -1], [3, -1], [4, -1]])
    found = mosaic.labels_of_boxes(labels, params).tolist()
    assert found[0] == [0, -1, 1, 9, 2, -1, 3, -1]
    assert found[2] == [2, -1, 3, -1, 0, -1, 1, 9]
    assert found[1][:2] == [1, 9] and found[4][:2] == [4, -1]
    assert mosaic.image_labels(labels[:, 0], params).tolist() == [-1, 1, -1, -1, 4]


def test_a_share_of_a_batch_makes_the_same_mosaics() -> None:
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    params, second = sample(8), slice(4, 8)
    expected = mosaic.apply(images, params)[second]
    assert torch.allclose(mosaic.apply(images[second], params[second]), expected, atol=1e-6)


def test_parameters_are_drawn_as_they_should_be() -> None:
    params = sample(20_000, probability=0.3)
    assert abs(float(params.used.float().mean()) - 0.3) < 0.01
    low, high = mosaic.CENTER
    assert low <= float(params.center.min()) and float(params.center.max()) <= high
    assert abs(float(params.center.mean()) - 0.5) < 0.005
    assert abs(float(params.part.mean()) - 0.5) < 0.005 and float(params.part.min()) >= 0
    with pytest.raises(ValueError, match=r"probability is 1\.2"):
        sample(1, probability=1.2)
