"""Augmentation equals a slow loop over pixels, keeps exact what can be exact, and takes boxes
along.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tinysight.ops import augment
from tinysight.ops.augment import TransformParams

SIZE, CROP = 20, 14
ALL_ON = {
    "probability": 1.0,
    "shift": 3,
    "rotation": 25.0,
    "contrast": (0.5, 1.6),
    "gamma": (0.6, 1.7),
}
OFF: dict[str, object] = {
    "flip": 0.0,
    "shift": 0,
    "rotation": 0.0,
    "contrast": (1.0, 1.0),
    "gamma": (1.0, 1.0),
}
# Each method alone, stronger than in training, so that a mistake in it shows; then all together.
METHODS: dict[str, dict[str, object]] = {
    "crop": OFF,
    "flip": {**OFF, "flip": 1.0},
    "shift": {**OFF, "shift": 5},
    "rotation": {**OFF, "rotation": 45.0},
    "contrast": {**OFF, "contrast": (0.3, 1.9)},
    "gamma": {**OFF, "gamma": (0.4, 2.2)},
    "all": {**ALL_ON, "flip": 0.5},
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, size: int = SIZE, seed: int = 1) -> Tensor:
    return torch.randint(
        0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator(seed)
    )


def smooth(count: int, size: int = SIZE) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=generator(2)) * 255
    fine = torch.nn.functional.interpolate(
        coarse, (size, size), mode="bilinear", align_corners=False
    )
    return fine.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


def draw(
    count: int, method: str, seed: int = 3, size: int = SIZE, crop: int = CROP
) -> TransformParams:
    options: dict[str, object] = {"probability": 1.0, **METHODS[method]}
    return augment.sample(count, source_size=size, crop=crop, generator=generator(seed), **options)  # type: ignore[arg-type]


def reference(image: np.ndarray, draws: TransformParams, row: int, crop: int) -> np.ndarray:
    """Augment one image (H, W, 3) by a loop over output pixels, in float64: (crop, crop, 3)."""
    value = {
        field.name: float(getattr(draws, field.name)[row]) for field in dataclasses.fields(draws)
    }
    toned = np.clip(127.5 + value["contrast"] * (image.astype(np.float64) - 127.5), 0, 255)
    toned = 255 * (toned / 255) ** value["gamma"]
    height, width, _ = image.shape
    angle = math.radians(value["angle"])
    middle = (crop - 1) / 2
    result = np.empty((crop, crop, 3))
    for v in range(crop):
        for u in range(crop):
            right, up = u - value["shift_x"] - middle, middle - (v - value["shift_y"])
            # Where a point came from that a counter-clockwise turn, y upwards, has brought here.
            before_right = right * math.cos(angle) + up * math.sin(angle)
            before_up = -right * math.sin(angle) + up * math.cos(angle)
            if value["flip"]:
                before_right = -before_right
            x = value["offset_x"] + middle + before_right
            y = value["offset_y"] + middle - before_up
            column, line = math.floor(x), math.floor(y)
            result[v, u] = sum(
                (1 - abs(x - i))
                * (1 - abs(y - j))
                * toned[min(max(j, 0), height - 1), min(max(i, 0), width - 1)]
                for i in (column, column + 1)
                for j in (line, line + 1)
            )
    return result


def references(images: Tensor, draws: TransformParams, crop: int) -> np.ndarray:
    """Return (B, 3, crop, crop)."""
    pixels = images.numpy()
    return np.stack([reference(pixels[i], draws, i, crop) for i in range(len(pixels))]).transpose(
        0, 3, 1, 2
    )


@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_each_method_equals_a_loop_over_pixels(method: str, as_float: bool) -> None:
    images, draws = noise(6), draw(6, method)
    got = augment.apply(images.float() if as_float else images, draws, crop=CROP)
    np.testing.assert_allclose(got.numpy(), references(images, draws, CROP), atol=0.01)
    neutral = augment.apply(images, augment.center(6, SIZE, CROP), crop=CROP)
    assert (got - neutral).abs().amax((1, 2, 3)).gt(0.5).sum() >= 5, "the method did nothing"


def test_training_defaults_equal_a_loop_over_pixels() -> None:
    images = noise(12, 64)
    draws = augment.sample(12, source_size=64, crop=56, generator=generator(4))
    np.testing.assert_allclose(
        augment.apply(images, draws, crop=56).numpy(), references(images, draws, 56), atol=0.02
    )


def test_extreme_and_fractional_draws_equal_the_loop() -> None:
    count = 8
    draws = TransformParams(
        offset_x=torch.tensor([0, 6, 3, -2, 12, 0, 6, 2.5]),
        offset_y=torch.tensor([6, 0, 3, 9, -4, 0, 6, 3]),
        flip=torch.tensor([0, 1, 0, 1, 0, 1, 1, 0]).bool(),
        shift_x=torch.tensor([40, -40, 0.25, 0, 3, 100, -7, 0]),
        shift_y=torch.tensor([-40, 40, -1.75, 0, 0, 0, 7, 0.5]),
        angle=torch.tensor([0, 0, 0, 180, -135, 0, 0, 0.0]),
        contrast=torch.tensor([0.0, 50, 1, 1, 1, 1, 1, 1]),
        gamma=torch.tensor([1, 1, 20, 0.01, 1, 1, 1, 1]),
    )
    images = smooth(count)
    images[:, :4, :4] = torch.tensor([0, 255, 1], dtype=torch.uint8)
    for given in (images, images.float()):
        np.testing.assert_allclose(
            augment.apply(given, draws, crop=CROP).numpy(),
            references(images, draws, CROP),
            atol=0.05,
        )


@pytest.mark.parametrize(("size", "crop"), [(64, 56), (61, 49)])
def test_whole_moves_are_exact(size: int, crop: int) -> None:
    # Whether the window stays inside the source or leaves it, and for float images too, whose path
    # is another. Between pixels of 61 columns interpolation would be off by a rounding, which 64
    # hides.
    count, pad = 120, 20
    images = noise(count, size)
    draws = draw(count, "shift", size=size, crop=crop)
    draws = dataclasses.replace(draws, flip=torch.arange(count) % 2 == 0)
    padded = np.pad(images.numpy(), ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    for given in (images, images.float(), images.permute(0, 3, 1, 2).contiguous()):
        got = augment.apply(given, draws, crop=crop).permute(0, 2, 3, 1).numpy()
        for i in range(count):
            shift = -draws.shift_x[i] if draws.flip[i] else draws.shift_x[i]
            left, top = (
                int(draws.offset_x[i] - shift) + pad,
                int(draws.offset_y[i] - draws.shift_y[i]) + pad,
            )
            window = padded[i, top : top + crop, left : left + crop]
            assert np.array_equal(got[i], window[:, ::-1] if draws.flip[i] else window), i


def test_neutral_draws_return_the_central_pixels() -> None:
    images = noise(5, 64)
    whole = augment.apply(images, augment.center(5, 64, 64), crop=64)
    assert torch.equal(whole, images.permute(0, 3, 1, 2).float())
    middle = augment.apply(images, augment.center(5, 64, 56), crop=56)
    assert torch.equal(middle, whole[:, :, 4:60, 4:60])
    assert middle.dtype == torch.float32


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_positive_angle_turns_counter_clockwise(quarter: int) -> None:
    images = noise(1)
    draws = dataclasses.replace(augment.center(1, SIZE, SIZE), angle=torch.tensor([90.0 * quarter]))
    turned = augment.apply(images, draws, crop=SIZE)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(turned, np.rot90(images[0].numpy(), quarter), atol=0.01)


def test_an_image_does_not_depend_on_its_batch() -> None:
    images, draws = (
        noise(70, 64),
        augment.sample(70, source_size=64, crop=56, generator=generator(5)),
    )
    together = augment.apply(images, draws, crop=56)
    for part in (slice(0, 1), slice(13, 14), slice(3, 40), slice(69, 70)):
        assert torch.equal(augment.apply(images[part], draws[part], crop=56), together[part])


@pytest.mark.parametrize("method", METHODS)
def test_every_layout_and_dtype_gives_the_same(method: str) -> None:
    images, draws = noise(8), draw(8, method)
    nhwc = augment.apply(images, draws, crop=CROP)
    assert nhwc.is_contiguous(memory_format=torch.channels_last)
    planar = augment.apply(images.permute(0, 3, 1, 2).contiguous(), draws, crop=CROP)
    assert planar.is_contiguous()
    assert torch.equal(planar, nhwc)
    strided = torch.zeros(8, SIZE, SIZE + 5, 3, dtype=torch.uint8)
    strided[:, :, 2:-3] = images
    assert torch.equal(augment.apply(strided[:, :, 2:-3], draws, crop=CROP), nhwc)
    for dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(
            augment.apply(images.to(dtype), draws, crop=CROP), nhwc, atol=2e-3, rtol=0
        )


def test_images_need_not_be_square() -> None:
    images, draws = noise(4, 30)[:, :SIZE], draw(4, "all")
    np.testing.assert_allclose(
        augment.apply(images, draws, crop=CROP).numpy(), references(images, draws, CROP), atol=0.01
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_an_empty_batch(dtype: torch.dtype) -> None:
    none = augment.apply(torch.zeros(0, 64, 64, 3, dtype=dtype), augment.center(0, 64, 56), crop=56)
    assert none.shape == (0, 3, 56, 56)
    assert none.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_off_the_cpu_nothing_reads_a_value(dtype: torch.dtype) -> None:
    # Meta tensors have shapes and no values: whatever would make a CUDA device wait for the host
    # raises on them.
    images = torch.zeros(4, 64, 64, 3, dtype=dtype, device="meta")
    draws = augment.sample(4, source_size=64, crop=56, generator=generator()).to("meta")
    assert augment.apply(images, draws, crop=56).shape == (4, 3, 56, 56)
    boxes, kept = augment.apply_to_boxes(torch.zeros(4, 2, 4, device="meta"), draws, crop=56)
    assert boxes.shape == (4, 2, 4) and kept.shape == (4, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_cpu() -> None:
    images, draws = (
        noise(64, 64),
        augment.sample(64, source_size=64, crop=56, generator=generator(6)),
    )
    there = augment.apply(images.cuda(), draws.to("cuda"), crop=56)
    torch.testing.assert_close(
        there.cpu(), augment.apply(images, draws, crop=56), atol=0.02, rtol=0
    )


def test_tone_by_hand() -> None:
    values = torch.tensor([0.0, 27.5, 127.5, 227.5, 255.0])
    assert augment.adjust_contrast(values, torch.tensor(0.5)).tolist() == [
        63.75,
        77.5,
        127.5,
        177.5,
        191.25,
    ]
    assert augment.adjust_contrast(values, torch.tensor(1.5)).tolist() == [0, 0, 127.5, 255, 255]
    squared = augment.adjust_gamma(values, torch.tensor(2.0))
    torch.testing.assert_close(squared, values**2 / 255, atol=1e-3, rtol=0)
    uneven = torch.rand(100, generator=generator()) * 255
    assert torch.equal(augment.adjust_contrast(uneven, torch.ones(())), uneven)
    assert torch.equal(augment.adjust_gamma(uneven, torch.ones(())), uneven)


COUNT = 50_000
# Five standard errors of a share of one half in 50,000 draws, and of the mean of a uniform number.
SHARE, MEAN = 5 * 0.5 / math.sqrt(COUNT), 5 / math.sqrt(12 * COUNT)


def test_shares_ranges_and_uniformity_of_the_draws() -> None:
    draws = augment.sample(COUNT, source_size=64, crop=56, generator=generator(7))
    for offset in (draws.offset_x, draws.offset_y):
        counts = torch.bincount(offset.long(), minlength=9)
        assert len(counts) == 9
        assert torch.equal(offset, offset.round())
        assert (counts / COUNT - 1 / 9).abs().max() < SHARE
    shifted = (draws.shift_x != 0) | (draws.shift_y != 0)
    assert abs(shifted.float().mean() - 0.5 * 80 / 81) < SHARE  # one shift in 81 is no shift
    for shift in (draws.shift_x, draws.shift_y):
        counts = torch.bincount(shift[shifted].long() + 4, minlength=9)
        assert len(counts) == 9
        assert (
            counts / counts.sum() - torch.where(torch.arange(9) == 4, 8 / 80, 9 / 80)
        ).abs().max() < SHARE
    for values, low, high, neutral in (
        (draws.angle, -10.0, 10.0, 0.0),
        (draws.contrast, 0.9, 1.08, 1.0),
        (draws.gamma, 0.9, 1.08, 1.0),
    ):
        applied = values[values != neutral]
        assert abs(len(applied) / COUNT - 0.5) < SHARE
        assert low <= applied.min() and applied.max() <= high
        quantiles = torch.quantile((applied - low) / (high - low), torch.linspace(0, 1, 11))
        assert (quantiles - torch.linspace(0, 1, 11)).abs().max() < 2 * MEAN + SHARE
    assert abs(draws.flip.float().mean() - 0.5) < SHARE


def test_the_draws_of_different_quantities_are_independent() -> None:
    draws = augment.sample(COUNT, source_size=64, crop=56, generator=generator(8))
    rows = torch.stack([getattr(draws, field.name).float() for field in dataclasses.fields(draws)])
    shifted = (draws.shift_x != 0) | (draws.shift_y != 0)
    applied = torch.stack(
        [shifted, draws.angle != 0, draws.contrast != 1, draws.gamma != 1]
    ).float()
    correlation = torch.corrcoef(torch.cat((rows, applied)))
    for value, flag in (
        (5, 9),
        (6, 10),
        (7, 11),
    ):  # whether a method is applied is part of its value
        correlation[value, flag] = correlation[flag, value] = 0
    assert (correlation - torch.eye(12)).abs().max() < 5 / math.sqrt(COUNT)


def test_the_same_seed_draws_the_same_and_slices_are_slices() -> None:
    def fields(draws: TransformParams) -> list[Tensor]:
        return [getattr(draws, field.name) for field in dataclasses.fields(draws)]

    first, again, other = (
        augment.sample(100, source_size=64, crop=56, generator=generator(s)) for s in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(fields(first), fields(again), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(fields(first), fields(other), strict=True))
    rows = torch.tensor([7, 3, 99])
    for chosen in (slice(10, 30), rows):
        part = first[chosen]
        assert len(part) == len(first.angle[chosen])
        assert all(
            torch.equal(a[chosen], b) for a, b in zip(fields(first), fields(part), strict=True)
        )


@pytest.mark.parametrize(
    ("option", "own"),
    [
        ({"flip": 0.0}, {"flip"}),
        ({"shift": 0}, {"shift_x", "shift_y"}),
        ({"rotation": 0.0}, {"angle"}),
        ({"contrast": (1.0, 1.0)}, {"contrast"}),
        ({"gamma": (1.0, 1.0)}, {"gamma"}),
    ],
)
def test_turning_a_method_off_changes_no_other(option: dict[str, object], own: set[str]) -> None:
    full = augment.sample(500, source_size=64, crop=56, generator=generator(9))
    less = augment.sample(500, source_size=64, crop=56, generator=generator(9), **option)  # type: ignore[arg-type]
    neutral = augment.center(500, 64, 56)
    for field in dataclasses.fields(full):
        expected = neutral if field.name in own else full
        assert torch.equal(getattr(less, field.name), getattr(expected, field.name)), field.name
        assert not torch.equal(getattr(full, field.name), getattr(neutral, field.name)), (
            "the method was never on"
        )


def test_probability_zero_leaves_crop_and_flip() -> None:
    draws = augment.sample(300, source_size=64, crop=56, generator=generator(), probability=0.0)
    neutral = augment.center(300, 64, 56)
    for name in ("shift_x", "shift_y", "angle", "contrast", "gamma"):
        assert torch.equal(getattr(draws, name), getattr(neutral, name))
    assert draws.flip.any() and draws.offset_x.unique().numel() == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 65}, "crop 65 does not fit images of 64 pixels"),
        ({"crop": 0}, "crop 0 does not fit"),
        ({"flip": 1.5}, "flip is 1.5"),
        ({"probability": -0.1}, "probability is -0.1"),
        ({"shift": -1}, "shift is -1"),
        ({"rotation": math.nan}, "rotation is nan"),
        ({"contrast": (1.08, 0.9)}, "contrast is"),
        ({"gamma": (0.0, 1.0)}, "gamma is"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augment.sample(4, **{"source_size": 64, "crop": 56, "generator": generator(), **options})  # type: ignore[arg-type]


def test_images_and_draws_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 params for 4 images"):
        augment.apply(noise(4), augment.center(3, SIZE, CROP), crop=CROP)
    for shape in ((4, SIZE, SIZE), (4, SIZE, SIZE, 1), (SIZE, SIZE, 3)):
        with pytest.raises(ValueError, match="images have shape"):
            augment.apply(torch.zeros(shape), augment.center(shape[0], SIZE, CROP), crop=CROP)
    with pytest.raises(ValueError, match="params are on meta, images on cpu"):
        augment.apply(noise(4), augment.center(4, SIZE, CROP).to("meta"), crop=CROP)


def extent(image: Tensor) -> Tensor:
    """Return the half-open box (4,) of the painted pixels in (3, H, W), at least a quarter of the
    way to bright.
    """
    dark, bright = image.aminmax()
    lines, columns = (image[0] > dark + (bright - dark) / 4).nonzero().unbind(1)
    return torch.stack((columns.min(), lines.min(), columns.max() + 1, lines.max() + 1)).float()


@pytest.mark.parametrize("method", METHODS)
def test_a_box_follows_its_pixels(method: str) -> None:
    count, size, crop = 100, 64, 56
    draws = draw(count, method, seed=11, size=size, crop=crop)
    rng = np.random.default_rng(0)
    images, boxes = torch.zeros(count, size, size, 3, dtype=torch.uint8), torch.empty(count, 1, 4)
    for i in range(count):
        x0, y0 = rng.integers(0, 40, 2)
        x1, y1 = (min(int(edge + rng.integers(8, 40)), size) for edge in (x0, y0))
        images[i, y0:y1, x0:x1] = 255
        boxes[i, 0] = torch.tensor([x0, y0, x1, y1])
    moved, kept = augment.apply_to_boxes(boxes, draws, crop=crop)
    painted = augment.apply(images, draws, crop=crop)
    seen = 0
    for i in range(count):
        # The source's edge pixels repeat, so that paint on them smears beyond the box; and where a
        # rotated corner is cut off, the hull of the corners is larger than what is left to see.
        touches_edge = bool(((boxes[i, 0] == 0) | (boxes[i, 0] == size)).any())
        rotated = bool(draws.angle[i] != 0)
        if touches_edge or kept[i, 0] == 0 or (rotated and kept[i, 0] < 1):
            continue
        seen += 1
        difference = (extent(painted[i]) - moved[i, 0]).abs().max()
        assert difference <= (1 if rotated else 0), (i, extent(painted[i]), moved[i, 0])
    assert seen >= 10


def test_shares_kept_and_padding_boxes() -> None:
    draws = dataclasses.replace(augment.center(1, 64, 56), shift_x=torch.tensor([10.0]))
    nan = math.nan
    boxes = torch.tensor(
        [[[36.0, 4, 56, 24], [60, 4, 64, 8], [nan, nan, nan, nan], [0, 0, 0, 0], [20, 20, 20, 40]]]
    )
    moved, kept = augment.apply_to_boxes(boxes, draws, crop=56)
    assert moved[0, 0].tolist() == [42, 0, 56, 20]
    assert kept[0].tolist() == pytest.approx([14 / 20, 0, 0, 0, 0])
    assert moved[0, 2].isnan().all()
    assert moved[0, [0, 1, 3, 4]].isfinite().all()
    none, none_kept = augment.apply_to_boxes(torch.zeros(1, 0, 4), draws, crop=56)
    assert none.shape == (1, 0, 4) and none_kept.shape == (1, 0)


def test_panels_show_each_method_alone() -> None:
    image = smooth(1, 64)[0]
    shown = dict(augment.panels(image))
    assert list(shown) == [
        "original",
        "contrast 1.3",
        "contrast 0.7",
        "gamma 0.93",
        "gamma 1.06",
        "flipped",
        "rotated 10°",
        "translated 4 px",
    ]
    assert all(
        panel.shape == (64, 64, 3) and panel.dtype == torch.uint8 for panel in shown.values()
    )
    assert torch.equal(shown["original"], image)
    assert torch.equal(shown["flipped"], image.flip(1))
    assert torch.equal(shown["translated 4 px"][4:, 4:], image[:-4, :-4])
    pixels = image.numpy().astype(np.float64)
    expected = {f"contrast {c}": np.clip((pixels - 127.5) * c + 127.5, 0, 255) for c in (1.3, 0.7)}
    expected |= {f"gamma {g}": 255 * (pixels / 255) ** g for g in (0.93, 1.06)}
    for caption, values in expected.items():
        assert np.abs(shown[caption].numpy() - values).max() <= 0.501, caption
    turned = dataclasses.replace(augment.center(1, 64, 64), angle=torch.tensor([10.0]))
    assert (
        np.abs(shown["rotated 10°"].numpy() - reference(image.numpy(), turned, 0, 64)).max() <= 0.51
    )
    assert (
        shown["gamma 0.93"].float().mean()
        > image.float().mean()
        > shown["gamma 1.06"].float().mean()
    )
    assert dict(augment.panels(image, crop=56))["original"].equal(image[4:60, 4:60])
