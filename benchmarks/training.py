"""How fast the loop trains, beside a plain fp32 loop, the bare arithmetic, and the machine's matrix
product.

    python benchmarks/training.py [--rounds 3] [--steps 12] [--layers 18] [--json FILE]

Three ways to train the same model on the same batches, in turn, in one process: (A) the plain
loop that a tutorial shows, fp32; (B) the bare arithmetic in channels_last, its batch made once;
(C) `tinysight.training.loop.train` as users run it: shuffled batches, augmentation, a line of the
log every 10 steps, TensorBoard, a checkpoint at the end. B, C and the matrix product that each
round also measures are in bf16 where this machine has it, else in fp32 (emulated bf16 is
hundreds of times slower). The first two steps of each are not counted. Medians over the rounds;
the ratios are of figures of the same round."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from machine import STEP_WORK
from tinysight import models
from tinysight.data.build import build
from tinysight.data.shapes import Shapes
from tinysight.device import Runtime, matmul_rate, select_device
from tinysight.recipes import recipe
from tinysight.run import Run
from tinysight.settings import override
from tinysight.training.callbacks import Callback
from tinysight.training.loop import run_loop

BATCH, CROP, SKIPPED = 128, 56, 2


class Stopwatch(Callback):
    """Note when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, step: int, values: dict[str, Any] | None) -> None:
        self.times.append(time.perf_counter())


def plain_rate(
    n: int, num_classes: int, steps: int, *, channels_last: bool = False, bf16: bool = False
) -> float:
    """Images a second of a loop over one ready batch."""
    model = models.create_model("resnet", num_classes, n=n)
    images = torch.randint(0, 256, (BATCH, 3, CROP, CROP)).float()
    if channels_last:
        model, images = (
            model.to(memory_format=torch.channels_last),
            images.to(memory_format=torch.channels_last),
        )
    labels = torch.arange(BATCH) % num_classes
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=2e-4
    )
    start = 0.0
    for step in range(SKIPPED + steps):
        if step == SKIPPED:
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return BATCH * steps / (time.perf_counter() - start)


def loop_rate(n: int, pack: Any, folder: Path, runtime: Runtime) -> tuple[float, float]:
    """Images a second of the real loop, steps alone and with everything up to the end of the
    checkpoint.
    """
    run = override(
        recipe("resnet18-report"),
        {
            "data.name": "shapes",
            "data.monitor": "none",
            "schedule.name": "constant",
            "train.keep_weights": "last",
        }
        | {
            "train.epochs": 1,
            "train.batch_size": BATCH,
            "train.log_every": 10,
            "model.options.n": n,
        },
    )
    watch = Stopwatch()
    folder.mkdir()
    run_loop(
        Run(folder=folder, config=run, data_digest=pack.digest, machine={}),
        pack,
        runtime=runtime,
        callback=watch,
    )
    end = time.perf_counter()
    begin = watch.times[SKIPPED - 1]
    counted = BATCH * (len(watch.times) - SKIPPED)
    return counted / (watch.times[-1] - begin), counted / (end - begin)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--layers", type=int, default=18, choices=(10, 18))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    n = 2 if arguments.layers == 18 else 1
    runtime = select_device("cpu")
    precision = "bf16" if runtime.bf16 else "fp32"
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        num_train = BATCH * (arguments.steps + SKIPPED)
        pack = build(Shapes(num_train=num_train, num_minival=24, num_val=24, num_test=0), home=home)
        work = STEP_WORK * models.count_multiply_adds(models.create_model("resnet", 24, n=n), CROP)
        for number in range(arguments.rounds):
            row = {"plain_fp32": plain_rate(n, 24, arguments.steps)}
            row[f"bare_{precision}"] = plain_rate(
                n, 24, arguments.steps, channels_last=True, bf16=runtime.bf16
            )
            row["loop_steps"], row["loop_all"] = loop_rate(n, pack, home / f"run{number}", runtime)
            row[f"matmul_{precision}"] = matmul_rate(
                torch.bfloat16 if runtime.bf16 else torch.float32, seconds=2.0
            )
            row["loop_over_plain"] = row["loop_steps"] / row["plain_fp32"]
            row["loop_over_bare"] = row["loop_steps"] / row[f"bare_{precision}"]
            row["share_of_matmul"] = row["loop_steps"] * work / row[f"matmul_{precision}"]
            rows.append(row)
            print(", ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    print(
        f"\n{arguments.layers} layers, batch {BATCH}, {runtime.describe()}: medians of "
        f"{arguments.rounds} rounds"
    )
    print(f"  plain fp32 loop           {medians['plain_fp32']:8.1f} images/s")
    print(f"  bare {precision}, channels_last  {medians[f'bare_{precision}']:8.1f}")
    print(
        f"  the loop, its steps       {medians['loop_steps']:8.1f}   "
        f"{medians['loop_over_plain']:.2f} x plain"
    )
    print(
        f"  the loop, with everything {medians['loop_all']:8.1f}   (one checkpoint for "
        f"{arguments.steps} steps)"
    )
    share = medians["share_of_matmul"]
    print(
        f"  {precision} matrix product       {medians[f'matmul_{precision}'] / 1e9:8.0f} "
        f"GFLOP/s, of which {share:.0%}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({"rounds": rows, "medians": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
