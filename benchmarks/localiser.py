"""What matching and losses of a localiser cost, as a share of a training step.

    python benchmarks/localiser.py [--steps 5] [--threads 1]

Each step trains a localiser's recipe on drawn images; then moving the boxes, matching, losses and their gradients run
once more, on the same outputs cut off from the network. Medians. On a CPU with one thread, processor time is taken, not
the clock's, so that other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch
from torch import Tensor

from tinysight import models
from tinysight.config import Run
from tinysight.device import Placement, place, synchronise
from tinysight.models.localiser import Found, Localiser
from tinysight.ops import augment
from tinysight.ops.candidates import Candidates
from tinysight.recipes import recipe
from tinysight.train import optimisers
from tinysight.train.objective import localisation
from tinysight.train.treatment import Treatment, apply_to_boxes

SIZE = 64


def measure(run: Run, *, num_classes: int, num_boxes: int, placement: Placement, steps: int) -> tuple[float, float]:
    """Return the seconds of a step with its losses, and the share of it that they take."""
    settings, batch = run.localise, run.train.batch_size
    classifier = models.build(run.model.name, num_classes, run.model.options)
    model = Localiser(classifier, head=settings.head, grid=settings.grid, steps=settings.steps)
    generator = torch.Generator().manual_seed(0)
    model.initialise(torch.tensor([0.5, 0.5, 0.6, 0.6]), prior=0.2, generator=generator)
    model = model.train().to(placement.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = optimisers.build(model, run.optimiser, bf16=placement.bf16)
    images = torch.randint(0, 256, (batch, 3, SIZE, SIZE), generator=generator).float()
    images = images.to(placement.device, memory_format=torch.channels_last)
    labels = torch.arange(batch, device=placement.device) % num_classes
    near = torch.rand(batch, num_boxes, 2, generator=generator) * 30
    boxes = torch.cat((near, near + 10 + torch.rand(batch, num_boxes, 2, generator=generator) * 24), dim=-1)
    boxes = boxes.to(placement.device)
    moves = Treatment(draws=augment.centre(batch, SIZE, SIZE)).to(placement.device)

    def loss_of(found: Found) -> Tensor:
        truths, whole = apply_to_boxes(boxes, moves, crop=SIZE)
        return localisation(found, labels, truths, whole, settings=settings, label_smoothing=0.1).loss

    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {"step": [], "losses": []}
    for _ in range(steps + 1):
        synchronise(placement.device)
        start = clock()
        with placement.autocast():
            found = model(images)
            loss = loss_of(found)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        synchronise(placement.device)
        seconds["step"].append(clock() - start)
        alone = Found(_leaf(found.logits), Candidates(*map(_leaf, found.candidates)))
        start = clock()
        loss_of(alone).backward()  # type: ignore[no-untyped-call]
        synchronise(placement.device)
        seconds["losses"].append(clock() - start)
    step, losses = (statistics.median(seconds[kind][1:]) for kind in ("step", "losses"))
    return step, losses / step


def _leaf(output: Tensor) -> Tensor:
    return output.detach().requires_grad_()


def main() -> None:
    """Print a line a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    placement = place("auto")
    joint = recipe("localizer-joint")
    by_cells = replace(joint, localise=replace(joint.localise, grid=4))
    print(f"{placement.describe()}, {SIZE} pixels")
    for name, run, num_boxes in (
        ("localizer-joint, one box", joint, 1),
        ("the same by 4 x 4 cells, four boxes", by_cells, 4),
    ):
        step, share = measure(run, num_classes=200, num_boxes=num_boxes, placement=placement, steps=arguments.steps)
        print(f"{name}: step of {run.train.batch_size} images {step:.3f} s, matching and losses {share:.2%} of it")


if __name__ == "__main__":
    main()
