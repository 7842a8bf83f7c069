"""What training by matrix products gains: images/s of training steps with oneDNN's convolutions and
with products.

    python benchmarks/convolution.py [--batch 128] [--rounds 5] [--sizes 56] [--recipes
    resnet10-light resnet18-report]

A step is forward, loss and backward in bf16 on a batch made once, without an optimizer; the two
ways take turns on one network, the median of the rounds counts, the first is left out. On a
machine without AMX there is nothing to compare: only there products pay."""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from tinysight import models
from tinysight.device import keep_freed_memory
from tinysight.models.layers import Convolution
from tinysight.ops.conv import pays
from tinysight.recipes import recipe

RECIPES = ("resnet10-light", "resnet18-report", "inception-resnet-report", "vgg16-report")
NUM_CLASSES = 200
WAYS = {
    "plain": 0,
    "products": Convolution.MAX_PIXELS,
}  # pixels up to which volumes are trained by products


def measure(name: str, *, size: int, batch: int, rounds: int) -> dict[str, float]:
    """Return images/s by way."""
    run = recipe(name)
    model = models.create_model(run.model.name, NUM_CLASSES, **run.model.options).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randint(
        0, 256, (batch, 3, size, size), generator=torch.Generator().manual_seed(0)
    ).float()
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % NUM_CLASSES
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds + 1):
        for way, most_pixels in WAYS.items():
            Convolution.MAX_PIXELS = most_pixels
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(images).float(), labels)
            model.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            seconds[way].append(time.perf_counter() - start)
    return {way: batch / statistics.median(times[1:]) for way, times in seconds.items()}


def main() -> None:
    """Print a line a network and size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[56])
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    options = parser.parse_args()
    if not pays():
        parser.exit(1, "this machine has no AMX, without which nothing trains by products\n")
    keep_freed_memory()
    print(f"bf16, {torch.get_num_threads()} threads, batch {options.batch}, images/s")
    for name in options.recipes:
        for size in options.sizes:
            rates = measure(name, size=size, batch=options.batch, rounds=options.rounds)
            gain = rates["products"] / rates["plain"]
            print(
                f"{name:<26}{size:>4} px"
                + "".join(f"  {way} {rate:7.1f}" for way, rate in rates.items()),
                end="",
            )
            print(f"  {gain:.2f} times", flush=True)


if __name__ == "__main__":
    main()
