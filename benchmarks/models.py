"""Parameters, multiply-adds and speed of every published recipe's network, as the table of
docs/models.md has them.

    python benchmarks/models.py [--batch 32] [--steps 3] [--size 56] [--threads 1]

A step is forward, loss, backward and the recipe's own optimizer, in the precision that this
machine computes fast in, on a batch made once. On a CPU with one thread, processor time is
taken, not the clock's, so that other work on the machine disturbs less; the median of the steps
counts, the first is left out."""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from tinysight import models
from tinysight.device import Runtime, select_device, synchronize
from tinysight.recipes import recipe
from tinysight.training import optimizers

RECIPES = (
    "resnet10-report",
    "resnet18-report",
    "inception-resnet-report",
    "vgg16-report",
    "vgg19-report",
)
NUM_CLASSES = 200


def measure(
    name: str, *, runtime: Runtime, batch: int, steps: int, size: int
) -> tuple[int, int, float]:
    """Return trainable parameters, multiply-adds of one image's forward pass, and trained images a
    second.
    """
    run = recipe(name)
    model = models.create_model(run.model.name, NUM_CLASSES, **run.model.options)
    multiply_adds = models.count_multiply_adds(model, size)
    model = model.train().to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optimizers.build(model, run.optimizer, bf16=runtime.bf16)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), generator=generator).float()
    images = images.to(runtime.device, memory_format=torch.channels_last)
    labels = torch.arange(batch, device=runtime.device) % NUM_CLASSES
    alone = runtime.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    seconds = []
    for _ in range(steps + 1):
        synchronize(runtime.device)
        start = clock()
        with runtime.autocast():
            loss = F.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        synchronize(runtime.device)
        seconds.append(clock() - start)
    return models.count_parameters(model), multiply_adds, batch / statistics.median(seconds[1:])


def main() -> None:
    """Print a line a recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=56)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runtime = select_device("auto")
    print(f"{runtime.describe()}, {options.size} px, batch {options.batch}")
    for name in RECIPES:
        parameters, multiply_adds, rate = measure(
            name, runtime=runtime, batch=options.batch, steps=options.steps, size=options.size
        )
        print(
            f"{name:<26}{parameters:>12,}{multiply_adds / 1e9:>8.3f} GMAC{rate:>10.1f} images/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
