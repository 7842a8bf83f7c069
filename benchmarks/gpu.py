"""What one GPU does with the published recipes, in pieces that fit a short loan of one.

    python benchmarks/gpu.py speed [RECIPE ...] [--ways eager captured compiled] [--steps 60]
    python benchmarks/gpu.py train [NAME ...] [--minutes 9] [--at-once 2]

`speed` trains each recipe on drawn shapes for a few steps and prints images/s: every kernel
started by itself (eager), the step captured (captured), the model compiled in addition
(compiled). Without a GPU nothing is captured.

`train` trains those named (without a name all, in the order below) on Tiny ImageNet, which
`tinysight data get tiny-imagenet` prepares first, `--at-once` of them at a time, and evaluates each
on val. After `--minutes` it saves and stops, with status 75; the same command later goes on from
there. What each prints is in runs/NAME.out, its hardware in runs/NAME/run.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from tinysight.data.dataset import Dataset
from tinysight.data.load import load_dataset
from tinysight.device import Runtime, prepare_training, select_device, synchronize
from tinysight.recipes import RECIPES, recipe
from tinysight.settings import override
from tinysight.training.distributed import DistributedContext
from tinysight.training.trainer import Trainer

WARMUP_STEPS = 12
WAYS = {"eager": {"train.cuda_graph": False}, "captured": {}, "compiled": {"train.compile": True}}
SHORTEST = 0.01  # minutes: --minutes 0 would be without a limit
DONE = {0: "trained and evaluated", 75: "to be continued by the same command"}  # by exit status
ALL_IMAGES = ("data.train=train+minival", "data.monitor=none")
# name: recipe and what differs from it
TRAININGS: dict[str, tuple[str, ...]] = {
    "resnet18-pooled-30": (
        *("resnet18-light", "model.options.pooled_shortcut=true", "train.epochs=30", *ALL_IMAGES),
    ),
    "resnet18-light-30": ("resnet18-light", "train.epochs=30", *ALL_IMAGES),
    **{
        name: (name,)
        for name in (
            *("inception-resnet-report", "resnet18-report", "inception-resnet-modern"),
            *("resnet18-modern", "vgg16-report", "vgg19-report", "vgg16-modern", "vgg19-modern"),
        )
    },
}


def rate(
    name: str, settings: dict[str, Any], dataset: Dataset, runtime: Runtime, steps: int
) -> str:
    """Return images/s of a recipe's steps, the seconds of the first ones, and the memory."""
    own = {"data.name": dataset.name, "train.epochs": 200, **settings}
    trainer = Trainer(override(recipe(name), own), dataset, runtime, DistributedContext())
    seconds = []
    for count in (WARMUP_STEPS, steps):
        synchronize(runtime.device)
        start = time.perf_counter()
        for _ in range(count):
            trainer.step(trainer.loader.batch(trainer.step_number))
        synchronize(runtime.device)
        seconds.append(time.perf_counter() - start)
    images_per_s = steps * trainer.loader.batch_size / seconds[1]
    memory = torch.cuda.max_memory_allocated() / 1e9 if runtime.device.type == "cuda" else 0.0
    loss = trainer.take_sums()["loss"]
    return (
        f"{images_per_s:9.0f} images/s, first {WARMUP_STEPS} steps {seconds[0]:5.1f} s, "
        f"{memory:.1f} GB, loss {loss:.3f}"
    )


def speed(names: list[str], ways: list[str], steps: int) -> int:
    """Print a line for each recipe and way; a way that fails prints why, and the status is 1."""
    _check_names(names, RECIPES)
    status, runtime, dataset = 0, select_device(), load_dataset("shapes")
    if runtime.device.type != "cuda":
        ways = [way for way in ways if way != "captured"]
        if not ways:
            sys.exit("error: without a GPU nothing is captured; measure --ways eager compiled")
    prepare_training(runtime.device)
    print(runtime.describe(), flush=True)
    for name in names or [name for name in RECIPES if "report" in name]:
        for way in ways:
            if runtime.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                found = rate(name, WAYS[way], dataset, runtime, steps)
            except Exception as error:
                found, status = f"{type(error).__name__}: {error}", 1
            print(f"{name:24} {way:9} {found}", flush=True)
    return status


def train(names: list[str], minutes: float, at_once: int) -> int:
    """Train and evaluate, `at_once` at a time, until all are done or the time is over.

    Returns 0 where all are done, 75 where something is left for the same command, 1 after an error.
    """
    deadline = time.monotonic() + 60 * minutes
    _check_names(names, TRAININGS)
    if not torch.cuda.is_available():
        print("there is no GPU: on a CPU each takes hours or days", flush=True)
    with ThreadPoolExecutor(at_once) as pool:
        begun = {n: pool.submit(_train, n, deadline) for n in names or TRAININGS}
        for name, outcome in begun.items():
            what = DONE.get(outcome.result()) or _complaint(name)
            print(f"{name}: {what}", flush=True)
    statuses = {outcome.result() for outcome in begun.values()}
    return 1 if statuses - DONE.keys() else max(statuses)


def _check_names(names: list[str], known: Mapping[str, object]) -> None:
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"error: there is no {unknown[0]}; there are {', '.join(known)}")


def _train(name: str, deadline: float) -> int:
    left = (deadline - time.monotonic()) / 60
    if left < SHORTEST:
        return 75
    recipe_name, *settings = TRAININGS[name]
    words = ["train", recipe_name, "--data", "tiny-imagenet", "--name", name, "--resume"]
    status = _tinysight(name, *words, "--minutes", f"{left:.3f}", *settings)
    return status or _tinysight(name, "evaluate", name)


def _complaint(name: str) -> str:
    """Return the last line that a training printed, and where all of them are."""
    lines = _out(name).read_text(encoding="utf-8").strip().splitlines()
    return f"{lines[-1] if lines else 'failed'} (all of it in {_out(name)})"


def _out(name: str) -> Path:
    return Path(f"runs/{name}.out")


def _tinysight(name: str, *words: str) -> int:
    Path("runs").mkdir(exist_ok=True)
    with _out(name).open("a", encoding="utf-8") as out:
        command = [sys.executable, "-m", "tinysight", *words]
        environment = os.environ | {"OMP_NUM_THREADS": "2"}
        return subprocess.run(command, stdout=out, stderr=out, env=environment).returncode


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not 0 < (value := kind(text)) < 1e6:
            raise argparse.ArgumentTypeError(f"{text} is not above 0 and below a million")
        return value

    read.__name__ = f"number above 0 ({kind.__name__})"
    return read


def main() -> None:
    """Do what the first word says."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"trainings: {', '.join(TRAININGS)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("speed", "train"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes, or trainings; see below")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument(
        "--steps", type=_positive(int), default=60, help="speed: timed steps of each (60)"
    )
    parser.add_argument(
        "--minutes", type=_positive(float), default=9.0, help="train: until it stops (9)"
    )
    parser.add_argument(
        "--at-once", type=_positive(int), default=2, help="train: trainings at a time (2)"
    )
    options = parser.parse_intermixed_args()
    if options.what == "speed":
        sys.exit(speed(options.names, options.ways, options.steps))
    sys.exit(train(options.names, options.minutes, options.at_once))


if __name__ == "__main__":
    main()
