"""What matching and losses of a localizer cost, as a share of a training step.

    python benchmarks/localizer.py [--steps 5] [--threads 1]

Each step trains a localizer's recipe on drawn images; then moving the boxes, matching, losses
and their gradients run once more, on the same outputs cut off from the network. Medians. On a
CPU with one thread, processor time is taken, not the clock's, so that other work on the machine
disturbs less."""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch
from torch import Tensor

from tinysight import models
from tinysight.config import Config
from tinysight.device import Runtime, select_device, synchronize
from tinysight.models.localizer import Localizer, LocalizerOutput
from tinysight.ops import augment
from tinysight.ops.boxes import HeadOutput
from tinysight.recipes import recipe
from tinysight.training import optimizers
from tinysight.training.augmentation import AugmentParams, apply_to_boxes
from tinysight.training.losses import localization

SIZE = 64


def measure(
    run: Config, *, num_classes: int, num_boxes: int, runtime: Runtime, steps: int
) -> tuple[float, float]:
    """Return the seconds of a step with its losses, and the share of it that they take."""
    settings, batch = run.localizer, run.train.batch_size
    classifier = models.create_model(run.model.name, num_classes, **run.model.options)
    model = Localizer(
        classifier, head=settings.head, grid=settings.grid, num_steps=settings.num_steps
    )
    generator = torch.Generator().manual_seed(0)
    model.initialize(torch.tensor([0.5, 0.5, 0.6, 0.6]), prior=0.2, generator=generator)
    model = model.train().to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optimizers.build(model, run.optimizer, bf16=runtime.bf16)
    images = torch.randint(0, 256, (batch, 3, SIZE, SIZE), generator=generator).float()
    images = images.to(runtime.device, memory_format=torch.channels_last)
    labels = torch.arange(batch, device=runtime.device) % num_classes
    near = torch.rand(batch, num_boxes, 2, generator=generator) * 30
    boxes = torch.cat(
        (near, near + 10 + torch.rand(batch, num_boxes, 2, generator=generator) * 24), dim=-1
    )
    boxes = boxes.to(runtime.device)
    moves = AugmentParams(draws=augment.center(batch, SIZE, SIZE)).to(runtime.device)

    def loss_of(found: LocalizerOutput) -> Tensor:
        targets = apply_to_boxes(boxes, moves, crop=SIZE)
        return localization(found, labels, targets, settings=settings, label_smoothing=0.1).loss

    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {"step": [], "losses": []}
    for _ in range(steps + 1):
        synchronize(runtime.device)
        start = clock()
        with runtime.autocast():
            found = model(images)
            loss = loss_of(found)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        synchronize(runtime.device)
        seconds["step"].append(clock() - start)
        alone = LocalizerOutput(_leaf(found.logits), HeadOutput(*map(_leaf, found.candidates)))
        start = clock()
        loss_of(alone).backward()  # type: ignore[no-untyped-call]
        synchronize(runtime.device)
        seconds["losses"].append(clock() - start)
    step, losses = (statistics.median(seconds[kind][1:]) for kind in ("step", "losses"))
    return step, losses / step


def _leaf(output: Tensor) -> Tensor:
    return output.detach().requires_grad_()


def main() -> None:
    """Print a line a recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runtime = select_device("auto")
    joint = recipe("localizer-joint")
    by_cells = replace(joint, localizer=replace(joint.localizer, grid=4))
    print(f"{runtime.describe()}, {SIZE} pixels")
    for name, run, num_boxes in (
        ("localizer-joint, one box", joint, 1),
        ("the same by 4 x 4 cells, four boxes", by_cells, 4),
    ):
        step, share = measure(
            run, num_classes=200, num_boxes=num_boxes, runtime=runtime, steps=arguments.steps
        )
        print(
            f"{name}: step of {run.train.batch_size} images {step:.3f} s, matching and "
            f"losses {share:.2%} of it"
        )


if __name__ == "__main__":
    main()
