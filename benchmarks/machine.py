"""Measure this machine's limits, and how close training, loading and prediction come to them.

python benchmarks/machine.py [--seconds 3] [--device auto] [--out FILE] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from tinysight import models
from tinysight.data.batches import Loader
from tinysight.device import Runtime, matmul_rate, native_bf16, select_device, synchronize
from tinysight.ops import augment
from tinysight.predict.inference import Preprocessing, classify

SIZE, CROP, BATCH, CLASSES = 64, 56, 128, 200
STEP_WORK = (
    3 * 2
)  # operations of a training step per multiply-add: forward, and twice that backward


def measure_machine(runtime: Runtime, *, seconds: float) -> dict[str, Any]:
    """Measure each rate for about `seconds`, on random images; nothing is written."""
    device = runtime.device
    peaks = {
        "fp32": matmul_rate(torch.float32, seconds=seconds, device=device),
        "bf16": matmul_rate(
            torch.bfloat16,
            seconds=seconds,
            device=device,
            size=2048 if native_bf16(device) else 256,
        ),
    }  # an emulated product of 2048 takes a minute; its rate is the same at 256
    work = peaks["bf16" if runtime.bf16 else "fp32"]
    images = np.random.default_rng(0).integers(0, 256, (4096, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.arange(len(images)) % CLASSES
    result: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "system": platform.system(),
            "runs_on": runtime.describe(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "ceilings": {
            "matmul_fp32_gflops": peaks["fp32"] / 1e9,
            "matmul_bf16_gflops": peaks["bf16"] / 1e9,
            "copy_gbytes_per_s": _copy_rate(device, seconds) / 1e9,
        },
        "loading_images_per_s": _loading(images, labels, device, seconds),
        "augmentation_images_per_s": _augmentation(images, device, seconds),
        "training": {},
        "prediction": {},
    }
    for name, options in (("resnet10", {"n": 1}), ("resnet18", {"n": 2})):
        model = models.create_model("resnet", CLASSES, **options)
        multiply_adds = models.count_multiply_adds(model, CROP)
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        rate = _training(model, runtime, images, labels, seconds)
        result["training"][name] = {
            "images_per_s": rate,
            "gmac_per_image": multiply_adds / 1e9,
            "share_of_matmul": rate * multiply_adds * STEP_WORK / work,
            "augmentation_share": rate / result["augmentation_images_per_s"],
        }
        result["prediction"][name] = {
            f"batch_{size}_images_per_s": _prediction(model, runtime, images[:size], seconds)
            for size in (1, 64)
        }
    return result


def table(result: dict[str, Any]) -> Table:
    """Return the rates as a table to print."""
    shown = Table("what", "rate", "", title=result["machine"]["runs_on"])
    ceilings = result["ceilings"]
    shown.add_row("matrix product, fp32", f"{ceilings['matmul_fp32_gflops']:,.0f}", "GFLOP/s")
    shown.add_row("matrix product, bf16", f"{ceilings['matmul_bf16_gflops']:,.1f}", "GFLOP/s")
    shown.add_row(
        "copy", f"{ceilings['copy_gbytes_per_s']:,.1f}", "GB/s read and written", end_section=True
    )
    shown.add_row(
        "loading", f"{result['loading_images_per_s']:,.0f}", f"images/s, {SIZE} px, shuffled"
    )
    shown.add_row(
        "augmentation, all six",
        f"{result['augmentation_images_per_s']:,.0f}",
        f"images/s, {SIZE} -> {CROP} px",
    )
    for name, figures in result["training"].items():
        note = (
            f"images/s at {CROP} px, batch {BATCH}: {figures['share_of_matmul']:.0%} of the matrix "
        )
        note += f"product's rate, {figures['augmentation_share']:.1%} of the step is augmentation"
        shown.add_row(f"training {name}", f"{figures['images_per_s']:,.0f}", note)
    for name, figures in result["prediction"].items():
        one, many = figures["batch_1_images_per_s"], figures["batch_64_images_per_s"]
        shown.add_row(
            f"prediction {name}",
            f"{many:,.0f}",
            f"images/s in batches of 64; {1000 / one:.1f} ms for one alone",
        )
    return shown


def rate_of(
    work: Callable[[], object], device: torch.device, *, seconds: float, least: int = 3
) -> float:
    """Return how often per second `work` runs: the median over calls, after one to warm up."""
    work()
    synchronize(device)
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < deadline:
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 1 / statistics.median(times)


def _copy_rate(device: torch.device, seconds: float) -> float:
    source = torch.ones(64 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * rate_of(lambda: target.copy_(source), device, seconds=seconds)


def _batches(images: Any, labels: Any, device: torch.device) -> Loader[augment.TransformParams]:
    return Loader(
        images,
        labels,
        np.arange(len(images)),
        draw=_draw,
        batch_size=BATCH,
        seed=0,
        shard=slice(0, BATCH),
        device=device,
    )


def _draw(count: int, generator: torch.Generator) -> augment.TransformParams:
    return augment.sample(count, source_size=SIZE, crop=CROP, generator=generator)


def _loading(images: Any, labels: Any, device: torch.device, seconds: float) -> float:
    batches, numbers = _batches(images, labels, device), iter(range(1 << 40))
    return BATCH * rate_of(lambda: batches.batch(next(numbers)), device, seconds=seconds)


def _augmentation(images: Any, device: torch.device, seconds: float) -> float:
    draws = _draw(BATCH, torch.Generator().manual_seed(0)).to(device)
    batch = torch.from_numpy(images[:BATCH]).to(device)
    return BATCH * rate_of(lambda: augment.apply(batch, draws, crop=CROP), device, seconds=seconds)


def _training(model: Any, runtime: Runtime, images: Any, labels: Any, seconds: float) -> float:
    """Time the loop's step alone; benchmarks/training.py has log and checkpoints too."""
    batches, numbers = _batches(images, labels, runtime.device), iter(range(1 << 40))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)
    model.train()

    def step() -> None:
        batch = batches.batch(next(numbers))
        with runtime.autocast():
            logits = model(augment.apply(batch.images, batch.draws, crop=CROP))
            loss = F.cross_entropy(logits.float(), batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return BATCH * rate_of(step, runtime.device, seconds=seconds)


def _prediction(model: Any, runtime: Runtime, images: Any, seconds: float) -> float:
    model.eval()
    batch = torch.from_numpy(images)
    preprocessing = Preprocessing(image_size=SIZE, crop=CROP, input_size=CROP, flip_average=False)
    return len(images) * rate_of(
        lambda: classify(model, batch, preprocessing, runtime), runtime.device, seconds=seconds
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each rate is measured")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, help="write the rates as JSON there, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    result = measure_machine(select_device(arguments.device), seconds=arguments.seconds)
    text = json.dumps(result, indent=1)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    if arguments.json:
        print(text)
    else:
        Console().print(table(result))


if __name__ == "__main__":
    main()
