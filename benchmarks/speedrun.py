"""Seconds of training to the report's best validation error on Tiny ImageNet, 37.56 %, by the rules
of README.md here.

    python benchmarks/speedrun.py RECIPE [FIELD=VALUE ...] [--data tiny-imagenet] [--seeds 5]
                                  [--split minival] [--target 37.56] [--hardware "..."] [--out
                                  row.json]

Trains a recipe with the seeds 0, 1, ... and prints a line each: seconds, error. The clock runs
from the first request for a batch, the images being on the device, until the final weights are
there; making the model comes before it, and so do compiling and a pass forward and backward at
every size, stated apart; scoring comes after it. `--split val` is for a record, once; choices
are made on minival. `--out` writes the row for `python benchmarks/results.py --add-row`."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tinysight import models
from tinysight import run as runs
from tinysight.config import Config
from tinysight.data.dataset import Dataset, data_home, open_dataset
from tinysight.device import Runtime, select_device, synchronize
from tinysight.evaluation.evaluate import Metrics, evaluate_model
from tinysight.predict.inference import Preprocessing
from tinysight.recipes import recipe
from tinysight.settings import override, parse_assignments
from tinysight.training import augmentation
from tinysight.training.distributed import DistributedContext
from tinysight.training.setup import check, training_rows
from tinysight.training.trainer import Trainer

LEAST_SEEDS = 5  # of a record
TARGET = 0.3756  # Wu et al. 2017, the Inception-ResNet


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One training: seconds by the clock, seconds of compiling and warming up before it, and its
    errors.
    """

    seed: int
    seconds: float
    compile_seconds: float
    metrics: Metrics


def check_rules(run: Config) -> None:
    """Raise ValueError when a run looks at errors while it trains, as there is no evaluation within
    the clock, or begins with trained weights.
    """
    if run.model.pretrained:
        raise ValueError(f"model.pretrained is {run.model.pretrained}; a speedrun begins untrained")
    if run.schedule.name == "plateau" or run.train.keep_weights == "best":
        raise ValueError(
            "a speedrun watches no error; set another schedule than plateau, and "
            "train.keep_weights=last"
        )


def attempt(run: Config, pack: Dataset, runtime: Runtime, split: str) -> Attempt:
    """Train `run` once by the rules and evaluate a split; the random state is restored."""
    with torch.random.fork_rng(_cuda(runtime)):
        return _attempt(run, pack, runtime, split)


def _cuda(runtime: Runtime) -> list[torch.device]:
    return [runtime.device] if runtime.device.type == "cuda" else []


def _attempt(run: Config, pack: Dataset, runtime: Runtime, split: str) -> Attempt:
    training = Trainer(run, pack, runtime, DistributedContext())
    compile_seconds = _warm_up(training)
    synchronize(runtime.device)
    begun = time.perf_counter()
    for number in range(training.total_steps):
        training.step(training.loader.batch(number))
    model = training.eval_model
    synchronize(runtime.device)
    seconds = time.perf_counter() - begun
    if training.found_non_finite() or training.step_number < training.total_steps:
        raise ValueError(
            f"seed {run.train.seed}: loss or gradient was not finite; lower optimizer.lr"
        )
    preprocessing = Preprocessing.of(training.metadata({}, {}))
    evaluation = evaluate_model(model, pack, split, preprocessing, runtime=runtime)
    return Attempt(
        seed=run.train.seed,
        seconds=seconds,
        compile_seconds=compile_seconds,
        metrics=evaluation.metrics,
    )


def _warm_up(training: Trainer) -> float:
    """Go forward and backward once at every size, change nothing that is trained, and return the
    seconds it took.

    The batch is one behind the last: the orders and draws of the real ones are still made within
    the clock."""
    begun = time.perf_counter()
    state = {name: value.clone() for name, value in training.model.state_dict().items()}
    sizes = dict.fromkeys(pixels for _, pixels in training.input_sizes)
    batch = training.loader.batch(training.total_steps)
    with torch.random.fork_rng(_cuda(training.runtime)):  # dropout draws
        for size in sizes:
            images = augmentation.apply(
                batch.images,
                batch.labels,
                batch.draws,
                crop=training.crop,
                size=size,
                mixing_on=False,
            ).images
            with training.runtime.autocast():
                loss = training.forward(images).float().square().mean()
            loss.backward()
    training.optimizer.zero_grad(set_to_none=True)
    training.model.load_state_dict(state)
    synchronize(training.runtime.device)
    return time.perf_counter() - begun


def row_of(
    run: Config, attempts: list[Attempt], *, pack: Dataset, split: str, hardware: str, command: str
) -> dict[str, Any]:
    """Return what results.jsonl holds of a speedrun, all but the page that tells more."""
    seconds = [each.seconds for each in attempts]
    errors = [each.metrics.top1_error for each in attempts]
    return {
        "kind": "speedrun",
        "date": datetime.now(tz=UTC).date().isoformat(),
        "commit": runs.versions().get("commit", ""),
        "command": command,
        "data": pack.name,
        "split": split,
        "recipe": run.recipe,
        "parameters": models.num_parameters(
            run.model.name, len(pack.class_names), run.model.options
        ),
        "images": len(training_rows(run, pack, DistributedContext())),
        "hardware": hardware,
        "minutes": round(statistics.mean(seconds) / 60, 4),
        "seconds": [round(value, 2) for value in seconds],
        "compile_seconds": round(attempts[0].compile_seconds, 2),
        "seeds": [each.seed for each in attempts],
        "epochs": run.train.epochs,
        "top1_error": round(statistics.mean(errors), 6),
        "top1_errors": errors,
        "top1_sd": round(statistics.stdev(errors), 6) if len(errors) > 1 else None,
        "top5_error": round(statistics.mean(each.metrics.top5_error for each in attempts), 6),
    }


def verdict(row: dict[str, Any], target: float) -> str:
    """Say whether a row is a record, and if not, for want of what."""
    reached = row["top1_error"] <= target
    wanting = [
        *([] if row["split"] == "val" else ["the error is not val's"]),
        *(
            []
            if len(row["seeds"]) >= LEAST_SEEDS
            else [f"{len(row['seeds'])} seeds, {LEAST_SEEDS} are needed"]
        ),
        *([] if reached else [f"the mean error is above {target:.2%}"]),
    ]
    seconds = statistics.mean(row["seconds"])
    return (
        f"{seconds:.2f} s to {row['top1_error']:.2%}: "
        + ("; ".join(wanting) or "by the rules")
        + "."
    )


def main() -> None:
    """Train the seeds one after the other and print a line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("settings", nargs="*", metavar="FIELD=VALUE")
    parser.add_argument("--data", default="tiny-imagenet")
    parser.add_argument("--seeds", type=int, default=LEAST_SEEDS)
    parser.add_argument("--split", choices=("minival", "val"), default="minival")
    parser.add_argument("--target", type=float, default=100 * TARGET, help="per cent")
    parser.add_argument("--hardware", help="by default what torch calls the device")
    parser.add_argument("--out", type=Path)
    options = parser.parse_intermixed_args()  # settings may stand behind options
    if options.seeds < 1:
        parser.error("--seeds is below 1")
    try:
        run = override(recipe(options.recipe), dict(parse_assignments(options.settings)))
        run = replace(run, data=replace(run.data, name=options.data))
        check_rules(run)
        pack = open_dataset(options.data, home=data_home())
        check(run, pack, DistributedContext())
        if options.split == "minival" and run.data.train != "train":
            raise ValueError(
                "data.train is train+minival, so minival tells nothing; score val, once, "
                "for the record"
            )
        runtime = select_device(run.train.device, run.train.precision)
        print(f"{run.recipe} on {pack.name}, {runtime.describe()}", flush=True)
        attempts = []
        for seed in range(options.seeds):
            seeded = replace(run, train=replace(run.train, seed=seed))
            attempts.append(attempt(seeded, pack, runtime, options.split))
            done = attempts[-1]
            print(
                f"seed {seed}: {done.seconds:8.2f} s, {options.split} error "
                f"{done.metrics.top1_error:.2%}"
                f" (before the clock: {done.compile_seconds:.1f} s of compiling and warming up)",
                flush=True,
            )
            torch.cuda.empty_cache()
    except ValueError as error:
        sys.exit(f"error: {error}")
    row = row_of(
        run,
        attempts,
        pack=pack,
        split=options.split,
        hardware=options.hardware or runtime.describe(),
        command=shlex.join(["python", "benchmarks/speedrun.py", *sys.argv[1:]]),
    )
    print(verdict(row, options.target / 100))
    if options.out:
        options.out.write_text(json.dumps(row) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
