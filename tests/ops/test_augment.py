"""Augmentation equals a plain loop over pixels, is exact where it can be, and moves boxes along."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tinysight.ops import augment
from tinysight.ops.augment import TransformParams

SIZE, CROP = 20, 14
OFF: dict[str, Any] = {
    "flip": 0.0,
    "shift": 0,
    "rotation": 0.0,
    "contrast": (1.0, 1.0),
    "gamma": (1.0, 1.0),
}
# Each method alone, stronger than in training, so that a mistake in it shows; then all together.
METHODS: dict[str, dict[str, Any]] = {
    "crop": OFF,
    "flip": {**OFF, "flip": 1.0},
    "shift": {**OFF, "shift": 5},
    "rotation": {**OFF, "rotation": 45.0},
    "contrast": {**OFF, "contrast": (0.3, 1.9)},
    "gamma": {**OFF, "gamma": (0.4, 2.2)},
    "zoom": {**OFF, "zoom": 1.8},
    "stretch": {**OFF, "stretch": 1.5},
    "all": {
        "shift": 3,
        "rotation": 25.0,
        "contrast": (0.5, 1.6),
        "gamma": (0.6, 1.7),
        "zoom": 1.6,
        "stretch": 1.3,
    },
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, size: int = SIZE) -> Tensor:
    shape = (count, size, size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(1))


def smooth(count: int, size: int = SIZE) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=generator(2)) * 255
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return fine.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


def sample(count: int, seed: int, **options: Any) -> TransformParams:
    """Sample parameters as in training, of 64 pixels cropped to 56."""
    options = {"source_size": 64, "crop": 56, **options}
    return augment.sample(count, generator=generator(seed), **options)


def sample_method(
    count: int, method: str, seed: int = 3, size: int = SIZE, crop: int = CROP
) -> TransformParams:
    return sample(count, seed, source_size=size, crop=crop, probability=1.0, **METHODS[method])


def values_of(params: TransformParams) -> dict[str, Tensor]:
    return {field.name: getattr(params, field.name) for field in fields(params)}


def loop_over_pixels(image: np.ndarray, value: dict[str, float], crop: int) -> np.ndarray:
    """Augment one image (H, W, 3) in float64: (crop, crop, 3)."""
    toned = np.clip(127.5 + value["contrast"] * (image.astype(np.float64) - 127.5), 0, 255)
    toned = 255 * (toned / 255) ** value["gamma"]
    height, width, _ = image.shape
    angle = math.radians(value["angle"])
    middle = (crop - 1) / 2
    result = np.empty((crop, crop, 3))
    for v in range(crop):
        for u in range(crop):
            right, up = u - value["shift_x"] - middle, middle - (v - value["shift_y"])
            # The point that a counter-clockwise rotation, y upwards, has moved here.
            before_right = right * math.cos(angle) + up * math.sin(angle)
            before_up = -right * math.sin(angle) + up * math.cos(angle)
            before_right, before_up = before_right / value["scale_x"], before_up / value["scale_y"]
            x = value["offset_x"] + middle + (-before_right if value["flip"] else before_right)
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


def expected(images: Tensor, params: TransformParams, crop: int) -> np.ndarray:
    """Return (B, 3, crop, crop) by the loop."""
    rows = [
        loop_over_pixels(
            image, {name: float(value[i]) for name, value in values_of(params).items()}, crop
        )
        for i, image in enumerate(images.numpy())
    ]
    return np.stack(rows).transpose(0, 3, 1, 2)


def check(images: Tensor, params: TransformParams, crop: int, atol: float) -> None:
    output = augment.apply(images, params, crop=crop)
    reference = expected(images.byte(), params, crop)
    np.testing.assert_allclose(output.numpy(), reference, atol=atol)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("method", METHODS)
def test_each_method_equals_a_loop_over_pixels(method: str, dtype: torch.dtype) -> None:
    images, params = noise(6), sample_method(6, method)
    check(images.to(dtype), params, CROP, atol=0.01)
    neutral = augment.apply(images, augment.center(6, SIZE, CROP), crop=CROP)
    changed = (augment.apply(images, params, crop=CROP) - neutral).abs().amax((1, 2, 3)) > 0.5
    assert changed.sum() >= 5, "the method did nothing"


def test_training_defaults_equal_a_loop_over_pixels() -> None:
    check(noise(12, 64), sample(12, 4), 56, atol=0.02)


def test_images_need_not_be_square() -> None:
    check(noise(4, 30)[:, :SIZE], sample_method(4, "all"), CROP, atol=0.01)


def test_extreme_and_fractional_parameters_equal_the_loop() -> None:
    params = TransformParams(
        offset_x=torch.tensor([0, 6, 3, -2, 12, 0, 6, 2.5]),
        offset_y=torch.tensor([6, 0, 3, 9, -4, 0, 6, 3]),
        flip=torch.tensor([0, 1, 0, 1, 0, 1, 1, 0]).bool(),
        shift_x=torch.tensor([40, -40, 0.25, 0, 3, 100, -7, 0]),
        shift_y=torch.tensor([-40, 40, -1.75, 0, 0, 0, 7, 0.5]),
        angle=torch.tensor([0, 0, 0, 180, -135, 0, 0, 0.0]),
        contrast=torch.tensor([0.0, 50, 1, 1, 1, 1, 1, 1]),
        gamma=torch.tensor([1, 1, 20, 0.01, 1, 1, 1, 1]),
        scale_x=torch.tensor([1, 1, 1, 1, 3, 0.1, 1, 1]),
        scale_y=torch.tensor([1, 1, 1, 1, 0.5, 8, 1, 1]),
    )
    images = smooth(8)
    images[:, :4, :4] = torch.tensor([0, 255, 1], dtype=torch.uint8)
    for dtype in (torch.uint8, torch.float32):
        check(images.to(dtype), params, CROP, atol=0.05)


@pytest.mark.parametrize(("size", "crop"), [(64, 56), (61, 49)])
def test_moves_by_whole_pixels_are_exact(size: int, crop: int) -> None:
    # Whether the window stays inside the source or leaves it, and for float images too, whose path
    # is another. Between pixels of 61 columns interpolation would be off by a rounding, which 64
    # hides.
    count, pad = 120, 20
    images = noise(count, size)
    params = sample_method(count, "shift", size=size, crop=crop)
    params = replace(params, flip=torch.arange(count) % 2 == 0)
    padded = np.pad(images.numpy(), ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    for source in (images, images.float(), images.permute(0, 3, 1, 2).contiguous()):
        output = augment.apply(source, params, crop=crop).permute(0, 2, 3, 1).numpy()
        for i in range(count):
            shift = -params.shift_x[i] if params.flip[i] else params.shift_x[i]
            left = int(params.offset_x[i] - shift) + pad
            top = int(params.offset_y[i] - params.shift_y[i]) + pad
            window = padded[i, top : top + crop, left : left + crop]
            assert np.array_equal(output[i], window[:, ::-1] if params.flip[i] else window), i


def test_neutral_parameters_return_the_central_pixels() -> None:
    images = noise(5, 64)
    full = augment.apply(images, augment.center(5, 64, 64), crop=64)
    assert torch.equal(full, images.permute(0, 3, 1, 2).float())
    central = augment.apply(images, augment.center(5, 64, 56), crop=56)
    assert torch.equal(central, full[:, :, 4:60, 4:60])
    assert central.dtype == torch.float32


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_positive_angle_turns_counter_clockwise(quarter: int) -> None:
    images = noise(1)
    params = replace(augment.center(1, SIZE, SIZE), angle=torch.tensor([90.0 * quarter]))
    rotated = augment.apply(images, params, crop=SIZE)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(rotated, np.rot90(images[0].numpy(), quarter), atol=0.01)


def test_an_image_does_not_depend_on_its_batch() -> None:
    images, params = noise(70, 64), sample(70, 5)
    together = augment.apply(images, params, crop=56)
    for part in (slice(0, 1), slice(13, 14), slice(3, 40), slice(69, 70)):
        assert torch.equal(augment.apply(images[part], params[part], crop=56), together[part])


@pytest.mark.parametrize("method", METHODS)
def test_every_layout_and_dtype_gives_the_same(method: str) -> None:
    images, params = noise(8), sample_method(8, method)
    nhwc = augment.apply(images, params, crop=CROP)
    assert nhwc.is_contiguous(memory_format=torch.channels_last)
    nchw = augment.apply(images.permute(0, 3, 1, 2).contiguous(), params, crop=CROP)
    assert nchw.is_contiguous()
    assert torch.equal(nchw, nhwc)
    strided = torch.zeros(8, SIZE, SIZE + 5, 3, dtype=torch.uint8)
    strided[:, :, 2:-3] = images
    assert torch.equal(augment.apply(strided[:, :, 2:-3], params, crop=CROP), nhwc)
    for dtype in (torch.float32, torch.float64):
        output = augment.apply(images.to(dtype), params, crop=CROP)
        torch.testing.assert_close(output, nhwc, atol=2e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_an_empty_batch(dtype: torch.dtype) -> None:
    images = torch.zeros(0, 64, 64, 3, dtype=dtype)
    output = augment.apply(images, augment.center(0, 64, 56), crop=56)
    assert output.shape == (0, 3, 56, 56) and output.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_no_value_is_read_outside_of_the_cpu(dtype: torch.dtype) -> None:
    # Meta tensors have shapes and no values: whatever would make a CUDA device wait for the host
    # raises on them.
    images = torch.zeros(4, 64, 64, 3, dtype=dtype, device="meta")
    params = sample(4, 0).to("meta")
    assert augment.apply(images, params, crop=56).shape == (4, 3, 56, 56)
    boxes, kept = augment.apply_to_boxes(torch.zeros(4, 2, 4, device="meta"), params, crop=56)
    assert boxes.shape == (4, 2, 4) and kept.shape == (4, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_cpu() -> None:
    images, params = noise(64, 64), sample(64, 6)
    output = augment.apply(images.cuda(), params.to("cuda"), crop=56).cpu()
    torch.testing.assert_close(output, augment.apply(images, params, crop=56), atol=0.02, rtol=0)


def test_tone_by_hand() -> None:
    values = torch.tensor([0.0, 27.5, 127.5, 227.5, 255.0])
    halved = augment.adjust_contrast(values, torch.tensor(0.5))
    assert halved.tolist() == [63.75, 77.5, 127.5, 177.5, 191.25]
    assert augment.adjust_contrast(values, torch.tensor(1.5)).tolist() == [0, 0, 127.5, 255, 255]
    squared = augment.adjust_gamma(values, torch.tensor(2.0))
    torch.testing.assert_close(squared, values**2 / 255, atol=1e-3, rtol=0)
    uneven = torch.rand(100, generator=generator()) * 255
    assert torch.equal(augment.adjust_contrast(uneven, torch.ones(())), uneven)
    assert torch.equal(augment.adjust_gamma(uneven, torch.ones(())), uneven)


COUNT = 50_000
# Five standard errors of a share of one half, and of the mean of a uniform number.
SHARE, MEAN = 5 * 0.5 / math.sqrt(COUNT), 5 / math.sqrt(12 * COUNT)


def test_sampled_parameters_have_the_right_shares_ranges_and_uniformity() -> None:
    params = sample(COUNT, 7)
    for offset in (params.offset_x, params.offset_y):
        counts = torch.bincount(offset.long(), minlength=9)
        assert len(counts) == 9
        assert torch.equal(offset, offset.round())
        assert (counts / COUNT - 1 / 9).abs().max() < SHARE
    shifted = (params.shift_x != 0) | (params.shift_y != 0)
    assert abs(shifted.float().mean() - 0.5 * 80 / 81) < SHARE  # one shift in 81 is no shift
    shares = torch.where(torch.arange(9) == 4, 8 / 80, 9 / 80)
    for shift in (params.shift_x, params.shift_y):
        counts = torch.bincount(shift[shifted].long() + 4, minlength=9)
        assert len(counts) == 9
        assert (counts / counts.sum() - shares).abs().max() < SHARE
    for values, low, high, neutral in (
        (params.angle, -10.0, 10.0, 0.0),
        (params.contrast, 0.9, 1.08, 1.0),
        (params.gamma, 0.9, 1.08, 1.0),
    ):
        applied = values[values != neutral]
        assert abs(len(applied) / COUNT - 0.5) < SHARE
        assert low <= applied.min() and applied.max() <= high
        quantiles = torch.quantile((applied - low) / (high - low), torch.linspace(0, 1, 11))
        assert (quantiles - torch.linspace(0, 1, 11)).abs().max() < 2 * MEAN + SHARE
    assert abs(params.flip.float().mean() - 0.5) < SHARE


def test_different_quantities_are_sampled_independently() -> None:
    params = sample(COUNT, 8)
    names = ("scale_x", "scale_y")  # which are 1 throughout
    values = {name: value for name, value in values_of(params).items() if name not in names}
    rows = torch.stack([value.float() for value in values.values()])
    shifted = (params.shift_x != 0) | (params.shift_y != 0)
    applied = torch.stack(
        [shifted, params.angle != 0, params.contrast != 1, params.gamma != 1]
    ).float()
    correlation = torch.corrcoef(torch.cat((rows, applied)))
    for value, flag in ((5, 9), (6, 10), (7, 11)):  # a value depends on whether it is applied
        correlation[value, flag] = correlation[flag, value] = 0
    assert (correlation - torch.eye(12)).abs().max() < 5 / math.sqrt(COUNT)


def test_a_seed_determines_the_parameters() -> None:
    first, same, other = (values_of(sample(100, seed, zoom=2.0, stretch=1.1)) for seed in (1, 1, 2))
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert not any(torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("flip", {"flip"}),
        ("shift", {"shift_x", "shift_y"}),
        ("rotation", {"angle"}),
        ("contrast", {"contrast"}),
        ("gamma", {"gamma"}),
    ],
)
def test_turning_a_method_off_changes_no_other(method: str, changed: set[str]) -> None:
    full, neutral = values_of(sample(500, 9)), values_of(augment.center(500, 64, 56))
    for name, value in values_of(sample(500, 9, **{method: OFF[method]})).items():
        assert torch.equal(value, (neutral if name in changed else full)[name]), name
        assert name.startswith("scale") or not torch.equal(full[name], neutral[name]), name


def test_zooms_and_stretches_have_their_ranges_and_change_nothing_else() -> None:
    plain = values_of(sample(COUNT, 9))
    params = sample(COUNT, 9, zoom=2.0, stretch=1.21, probability=0.5)
    for name, value in values_of(params).items():
        moved = name in ("scale_x", "scale_y", "shift_x", "shift_y")
        assert torch.equal(value, plain[name]) is not moved, name
    zoom, stretch = (params.scale_x * params.scale_y).sqrt(), params.scale_x / params.scale_y
    for values, most in ((zoom, 2.0), (stretch, 1.21)):
        applied = values[(values - 1).abs() > 1e-5]
        assert abs(len(applied) / COUNT - 0.5) < SHARE
        assert applied.min() > 0.999 / most and applied.max() < 1.001 * most
        assert abs(applied.log().mean()) < MEAN * math.log(most) * 2
    # both windows within one another: nothing but the shift of up to 4 pixels leaves them
    slack = (params.scale_x - 1).abs() * 56 / 2
    assert ((params.shift_x - plain["shift_x"]).abs() <= slack + 1e-3).all()
    assert torch.equal(values_of(sample(9, 1, zoom=2.0, probability=0.0))["scale_x"], torch.ones(9))


def test_a_probability_of_0_leaves_crop_and_flip() -> None:
    params, neutral = sample(500, 10, probability=0.0), augment.center(500, 64, 56)
    for name in ("shift_x", "shift_y", "angle", "contrast", "gamma"):
        assert torch.equal(getattr(params, name), getattr(neutral, name))
    assert params.flip.any() and params.offset_x.unique().numel() == 9


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
        ({"zoom": 0.5}, "zoom is 0.5"),
        ({"stretch": math.inf}, "stretch is inf"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(4, 0, **options)


def test_images_and_parameters_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 params for 4 images"):
        augment.apply(noise(4), augment.center(3, SIZE, CROP), crop=CROP)
    for shape in ((4, SIZE, SIZE), (4, SIZE, SIZE, 1), (SIZE, SIZE, 3)):
        with pytest.raises(ValueError, match="images have shape"):
            augment.apply(torch.zeros(shape), augment.center(shape[0], SIZE, CROP), crop=CROP)
    with pytest.raises(ValueError, match="params are on meta, images on cpu"):
        augment.apply(noise(4), augment.center(4, SIZE, CROP).to("meta"), crop=CROP)


def extent(image: Tensor) -> Tensor:
    """Return the box (4,) of the pixels of (3, H, W) that are a quarter of the way to bright."""
    dark, bright = image.aminmax()
    lines, columns = (image[0] > dark + (bright - dark) / 4).nonzero().unbind(1)
    return torch.stack((columns.min(), lines.min(), columns.max() + 1, lines.max() + 1)).float()


@pytest.mark.parametrize("method", METHODS)
def test_a_box_follows_its_pixels(method: str) -> None:
    count, size, crop = 100, 64, 56
    params = sample_method(count, method, seed=11, size=size, crop=crop)
    rng = np.random.default_rng(0)
    images, boxes = torch.zeros(count, size, size, 3, dtype=torch.uint8), torch.empty(count, 1, 4)
    for i in range(count):
        x0, y0 = rng.integers(0, 40, 2)
        x1, y1 = (min(int(edge + rng.integers(8, 40)), size) for edge in (x0, y0))
        images[i, y0:y1, x0:x1] = 255
        boxes[i, 0] = torch.tensor([x0, y0, x1, y1])
    moved, kept = augment.apply_to_boxes(boxes, params, crop=crop)
    painted = augment.apply(images, params, crop=crop)
    compared = 0
    for i in range(count):
        # The source's edge pixels repeat, so that paint on them smears beyond the box; and where a
        # rotated corner is cut off, the hull of the corners is larger than what is left to see.
        touches_edge = bool(((boxes[i, 0] == 0) | (boxes[i, 0] == size)).any())
        rotated = bool(params.angle[i] != 0)
        resampled = rotated or bool(params.scale_x[i] != 1)
        if touches_edge or kept[i, 0] == 0 or (rotated and kept[i, 0] < 1):
            continue
        compared += 1
        difference = (extent(painted[i]) - moved[i, 0]).abs().max()
        assert difference <= (1.5 if resampled else 0), (i, extent(painted[i]), moved[i, 0])
    assert compared >= 10


def test_kept_shares_and_padding_of_boxes() -> None:
    params = replace(augment.center(1, 64, 56), shift_x=torch.tensor([10.0]))
    nan = [math.nan] * 4
    boxes = torch.tensor([[[36.0, 4, 56, 24], [60, 4, 64, 8], nan, [0, 0, 0, 0], [20, 20, 20, 40]]])
    moved, kept = augment.apply_to_boxes(boxes, params, crop=56)
    assert moved[0, 0].tolist() == [42, 0, 56, 20]
    assert kept[0].tolist() == pytest.approx([14 / 20, 0, 0, 0, 0])
    assert moved[0, 2].isnan().all()
    assert moved[0, [0, 1, 3, 4]].isfinite().all()
    moved, kept = augment.apply_to_boxes(torch.zeros(1, 0, 4), params, crop=56)
    assert moved.shape == (1, 0, 4) and kept.shape == (1, 0)


def test_panels_show_each_method_alone() -> None:
    image = smooth(1, 64)[0]
    panels = dict(augment.panels(image))
    captions = ["original", "contrast 1.3", "contrast 0.7", "gamma 0.93", "gamma 1.06"]
    assert list(panels) == [*captions, "flipped", "rotated 10°", "translated 4 px"]
    assert all(p.shape == (64, 64, 3) and p.dtype == torch.uint8 for p in panels.values())
    assert torch.equal(panels["original"], image)
    assert torch.equal(panels["flipped"], image.flip(1))
    assert torch.equal(panels["translated 4 px"][4:, 4:], image[:-4, :-4])
    pixels = image.numpy().astype(np.float64)
    references = {
        f"contrast {c}": np.clip((pixels - 127.5) * c + 127.5, 0, 255) for c in (1.3, 0.7)
    }
    references |= {f"gamma {g}": 255 * (pixels / 255) ** g for g in (0.93, 1.06)}
    rotated = replace(augment.center(1, 64, 64), angle=torch.tensor([10.0]))
    references["rotated 10°"] = expected(image[None], rotated, 64)[0].transpose(1, 2, 0)
    for caption, reference in references.items():
        assert np.abs(panels[caption].numpy() - reference).max() <= 0.51, caption
    assert dict(augment.panels(image, crop=56))["original"].equal(image[4:60, 4:60])


def test_resize_keeps_a_constant_and_averages_when_it_shrinks() -> None:
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 200
    assert (augment.resize(stripes, 16)[..., 1:-1] - 100).abs().max() < 2  # antialiased
    assert augment.resize(stripes, 64) is stripes
    assert torch.allclose(augment.resize(torch.full((1, 3, 9, 9), 7.0), 13), torch.tensor(7.0))
