"""Measure prediction with the bundled model: cold start, one image, a folder.

    python benchmarks/export.py [--folder PHOTOGRAPHS] [--rounds 5]

Float16 weights in torch and the int8 ONNX file are measured in turn, and the ratios of
neighbors reported by their median, as a machine shared with others is never the same twice.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).parent.parent
PHOTO = ROOT / "examples" / "images" / "plain-cross.png"
MODELS = {"torch": ["bundled"], "int8": []}  # what `tinysight predict` is given before the image


def cold(model: str) -> float:
    """Seconds of a process that predicts one image."""
    command = [sys.executable, "-m", "tinysight", "predict", *MODELS[model], str(PHOTO)]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def one_image() -> dict[str, Callable[[], float]]:
    """Seconds per image, decoding of boxes included, on one thread."""
    import torch

    from tinysight.predict.predictor import BUNDLED, BUNDLED_ONNX, Predictor

    torch.set_num_threads(1)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)

    def measure(predictor: Predictor) -> float:
        times = []
        for _ in range(20):
            start = time.perf_counter()
            predictor.outputs(image)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])  # the runtime has no other switch
    models = {"torch": Predictor(BUNDLED), "int8": Predictor(BUNDLED_ONNX)}
    return {name: lambda model=model: measure(model) for name, model in models.items()}


def decode(path: Path) -> int:
    from PIL import Image, ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = True  # as `predict` reads a photograph that is cut short
    with Image.open(path) as image:
        return len(image.convert("RGB").tobytes())


def folder_rates(folder: Path) -> tuple[float, float]:
    """Images per second of `predict --csv` by int8, and of two processes that only decode."""
    paths = sorted(folder.iterdir())
    with TemporaryDirectory() as out:
        command = [sys.executable, "-m", "tinysight", "predict", str(folder)]
        start = time.perf_counter()
        subprocess.run([*command, "--csv", f"{out}/o.csv"], check=True, capture_output=True)
        predicted = len(paths) / (time.perf_counter() - start)
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(decode, paths[:4]))
        start = time.perf_counter()
        list(pool.map(decode, paths, chunksize=8))
        return predicted, len(paths) / (time.perf_counter() - start)


def ratios(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    pairs = [{name: measure() for name, measure in measures.items()} for _ in range(rounds)]
    found = {name: statistics.median(pair[name] for pair in pairs) for name in measures}
    ratio = statistics.median(pair["torch"] / pair["int8"] for pair in pairs)
    return {f"{name}_s": round(value, 5) for name, value in found.items()} | {
        "ratio": round(ratio, 2)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    result: dict[str, object] = {"load": os.getloadavg()[0], "cores": os.cpu_count()}
    result["cold"] = ratios({name: lambda name=name: cold(name) for name in MODELS}, given.rounds)
    if given.folder is not None:
        pairs = [folder_rates(given.folder) for _ in range(given.rounds)]
        result["folder"] = {
            "images_per_s": round(statistics.median(own for own, _ in pairs), 1),
            "share_of_decoding": round(statistics.median(own / only for own, only in pairs), 3),
            "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        }
    result["one_image"] = ratios(one_image(), given.rounds)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
