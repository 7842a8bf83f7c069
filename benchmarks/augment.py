"""Augmented images per second on one core: ours beside the usual pipeline, image by image, with
Pillow.

Both apply the six methods of Wu et al. 2017 with probability 0.5 each, draws included, from uint8
images of 64 pixels to a float32 batch of 56. They run in turn in one process on one thread;
processor time is taken, not the clock's, so that other work on the machine disturbs little. The
ratio is the median of the rounds' own ratios.

    python benchmarks/augment.py [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from tinysight.ops import augment

SOURCE, CROP, SHIFT, ROTATION, TONE = 64, 56, 4, 10.0, (0.9, 1.08)


def augment_with_pillow(pixels: np.ndarray, rng: random.Random) -> torch.Tensor:
    """Augment one image (64, 64, 3) as a data set's transform usually does: float32 (3, 56, 56)."""
    left, top = rng.randint(0, SOURCE - CROP), rng.randint(0, SOURCE - CROP)
    image = Image.fromarray(pixels).crop((left, top, left + CROP, top + CROP))
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    angle = math.radians(rng.uniform(-ROTATION, ROTATION)) if rng.random() < 0.5 else 0.0
    shifted = rng.random() < 0.5
    x, y = (rng.randint(-SHIFT, SHIFT) if shifted else 0 for _ in range(2))
    if angle or shifted:
        cos, sin, middle = math.cos(angle), math.sin(angle), CROP / 2
        to_x = middle - cos * (middle + x) + sin * (middle + y)
        to_y = middle - sin * (middle + x) - cos * (middle + y)
        matrix = (cos, -sin, to_x, sin, cos, to_y)
        image = image.transform(
            image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
    if rng.random() < 0.5:
        image = ImageEnhance.Contrast(image).enhance(rng.uniform(*TONE))
    if rng.random() < 0.5:
        gamma = rng.uniform(*TONE)
        image = image.point([round(255 * (value / 255) ** gamma) for value in range(256)] * 3)
    return torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1).contiguous()


def augment_one_by_one(images: np.ndarray, rng: random.Random) -> torch.Tensor:
    """Augment images (B, 64, 64, 3) with Pillow: float32 (B, 3, 56, 56)."""
    return torch.stack([augment_with_pillow(pixels, rng) for pixels in images])


def augment_as_batch(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Augment images (B, 64, 64, 3) with tinysight: float32 (B, 3, 56, 56)."""
    draws = augment.sample(
        len(images),
        source_size=SOURCE,
        crop=CROP,
        generator=generator,
        shift=SHIFT,
        rotation=ROTATION,
        contrast=TONE,
        gamma=TONE,
    )
    return augment.apply(images, draws, crop=CROP)


def measure(batch: int = 256, rounds: int = 15) -> dict[str, float]:
    """Return images per second of both pipelines on one thread, the ratio, and milliseconds a batch
    of ours.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (batch, SOURCE, SOURCE, 3), dtype=np.uint8)
    images, generator, rng = (
        torch.from_numpy(pixels),
        torch.Generator().manual_seed(0),
        random.Random(0),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pairs = []
        for _ in range(rounds + 1):
            pillow = _seconds(lambda: augment_one_by_one(pixels, rng), 1)
            ours = _seconds(lambda: augment_as_batch(images, generator), 5)
            pairs.append((pillow, ours))
    finally:
        torch.set_num_threads(threads)
    pairs = pairs[1:]  # the first round warms up
    return {
        "batch": batch,
        "pillow_images_per_second": batch / statistics.median(pillow for pillow, _ in pairs),
        "tinysight_images_per_second": batch / statistics.median(ours for _, ours in pairs),
        "ratio": statistics.median(pillow / ours for pillow, ours in pairs),
        "tinysight_ms_per_batch": 1000 * statistics.median(ours for _, ours in pairs),
    }


def _seconds(function: Callable[[], object], repeats: int) -> float:
    """Return the median processor time of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure augmentation against Pillow on one core.")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args()
    result = measure(options.batch, options.rounds)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{'augmentation, one core':<28}{'images/s':>12}")
    print(f"{'Pillow, image by image':<28}{result['pillow_images_per_second']:>12,.0f}")
    name = f"tinysight, batches of {options.batch}"
    print(f"{name:<28}{result['tinysight_images_per_second']:>12,.0f}")
    print(f"{'ratio':<28}{result['ratio']:>12.1f}")


if __name__ == "__main__":
    main()
