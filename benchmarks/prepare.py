"""The cost of preparing Tiny ImageNet next to the pure JPEG decode: time, memory, second call.

The baseline decodes the same bytes, already in memory, with the same Pillow call in the same number
of processes. Runs alternate (baseline, folder, archive) and medians are compared, with a warm file
cache; each preparation is a fresh process, so that its peak memory is its own.

    python benchmarks/prepare.py --folder tiny-imagenet-200 --archive tiny-imagenet-200.zip
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinysight.data.decode import usable_cores
from tinysight.data.tiny_imagenet import Counts, decode_image, prepare

TENTH = Counts(train_per_class=50, val=1000, test=1000)


def cpu_seconds() -> float:
    """Return the processor time of this process and of its ended children."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def peak_mb() -> float:
    """Return the peak memory of this process; on Linux ru_maxrss includes that of its parent."""
    if sys.platform == "linux":
        line = next(
            line
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def decode_share(share: list[bytes]) -> None:
    """Decode images (n JPEGs) and drop the pixels."""
    for content in share:
        decode_image(content)


def time_baseline(contents: list[bytes], workers: int) -> dict[str, float]:
    """Decode all in forked processes, which inherit the bytes, and time them."""
    context = multiprocessing.get_context("fork")
    begin, cpu_before = time.perf_counter(), cpu_seconds()
    team = [
        context.Process(target=decode_share, args=(contents[number::workers],))
        for number in range(workers)
    ]
    for process in team:
        process.start()
    for process in team:
        process.join()
    seconds = time.perf_counter() - begin
    assert all(process.exitcode == 0 for process in team)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu_before}


def measure_once(source: Path, home: Path, workers: int, expect: Counts) -> dict[str, float]:
    """Prepare in this process, and call again; measure seconds and peak MB, also of a worker."""
    begin, cpu_before = time.perf_counter(), cpu_seconds()
    prepare(source, home=home, workers=workers, expect=expect)
    middle, cpu_after = time.perf_counter(), cpu_seconds()
    prepare(source, home=home, workers=workers, expect=expect)
    end = time.perf_counter()
    worker_peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (
        1 << 20 if sys.platform == "darwin" else 1 << 10
    )
    return {
        "seconds": middle - begin, "cpu_seconds": cpu_after - cpu_before,
         "second_call": end - middle,
        "parent_mb": peak_mb(), "worker_mb": worker_peak,
    }  # fmt: skip


def measure(source: Path, scratch: Path, workers: int, expect: Counts = TENTH) -> dict[str, float]:
    """Run `measure_once` in a fresh process with an empty home."""
    home = scratch / "home"
    job = {"source": str(source), "home": str(home), "workers": workers, "expect": asdict(expect)}
    out = subprocess.run(
        [sys.executable, __file__, "--once", json.dumps(job)], check=True, capture_output=True
    ).stdout
    shutil.rmtree(home)
    result: dict[str, float] = json.loads(out)
    return result


def make_tenth(folder: Path, target: Path) -> Path:
    """Copy a tenth of the set into a folder of the same layout."""

    def copy_images(name: str, pattern: str, num: int) -> None:
        (target / name).mkdir(parents=True)
        for number in range(num):
            shutil.copyfile(
                folder / name / pattern.format(number), target / name / pattern.format(number)
            )

    def copy_lines(name: str, num: int) -> None:
        lines = (folder / name).read_text().splitlines(keepends=True)
        kept = [
            line
            for line in lines
            if int(line.split("\t")[0].removesuffix(".JPEG").rpartition("_")[2]) < num
        ]
        (target / name).write_text("".join(kept))

    for wnid in (folder / "wnids.txt").read_text().split():
        copy_images(f"train/{wnid}/images", wnid + "_{}.JPEG", TENTH.train_per_class)
        copy_lines(f"train/{wnid}/{wnid}_boxes.txt", TENTH.train_per_class)
    copy_images("val/images", "val_{}.JPEG", TENTH.val)
    copy_lines("val/val_annotations.txt", TENTH.val)
    copy_images("test/images", "test_{}.JPEG", TENTH.test)
    for name in ("wnids.txt", "words.txt"):
        shutil.copyfile(folder / name, target / name)
    return target


def medians(results: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def run(
    folder: Path, archive: Path | None, rounds: int, workers: int, scratch: Path
) -> dict[str, Any]:
    """Measure all; return what is printed."""
    contents = [
        path.read_bytes() for path in sorted(folder.rglob("*.JPEG"))
    ]  # warms the file cache too
    sources = {"folder": folder} | ({"archive": archive} if archive else {})
    baseline: list[dict[str, float]] = []
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sources}
    for _ in range(rounds):
        baseline.append(time_baseline(contents, workers))
        for name, source in sources.items():
            runs[name].append(measure(source, scratch, workers, Counts()))
    tenth = measure(make_tenth(folder, scratch / "tenth"), scratch, workers)
    pure = medians(baseline)
    rows = {name: medians(results) for name, results in runs.items()}
    for row in rows.values():
        row |= {
            "ratio": row["seconds"] / pure["seconds"],
            "cpu_ratio": row["cpu_seconds"] / pure["cpu_seconds"],
        }
    return {
        "images": len(contents),
         "workers": workers, "rounds": rounds, "machine": platform.platform(),
        "python": platform.python_version(), "baseline": baseline, "baseline_medians": pure,
        "medians": rows, "runs": runs, "a_tenth": tenth,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="the unpacked tiny-imagenet-200")
    parser.add_argument("--archive", type=Path, help="the same as a .zip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument(
        "--scratch", type=Path, help="where 1.5 GB are written and removed (default: temporary)"
    )
    parser.add_argument("--json", type=Path, help="write every number here")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["TINYSIGHT_DECODER"] = "pillow"  # the same decoder on both sides
    if options.once:
        job = json.loads(options.once)
        result = measure_once(
            Path(job["source"]), Path(job["home"]), job["workers"], Counts(**job["expect"])
        )
        print(json.dumps(result))
        return
    if options.folder is None:
        parser.error("--folder is needed")
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        report = run(
            options.folder, options.archive, options.rounds, options.workers, Path(scratch)
        )
    pure = report["baseline_medians"]
    print(f"{report['images']} images, {report['workers']} processes, median of {report['rounds']}")
    header = ("wall s", "ratio", "cpu s", "ratio", "again s", "parent MB", "worker MB")
    print("{:12} {:>7} {:>6} {:>7} {:>6} {:>8} {:>10} {:>10}".format("", *header))
    print(f"{'pure decode':12} {pure['seconds']:7.2f} {'':6} {pure['cpu_seconds']:7.2f}")
    none = {"ratio": float("nan"), "cpu_ratio": float("nan")}
    for name, row in {**report["medians"], "a tenth": report["a_tenth"] | none}.items():
        seconds = f"{row['seconds']:7.2f} {row['ratio']:6.2f}"
        cpu = f"{row['cpu_seconds']:7.2f} {row['cpu_ratio']:6.2f}"
        memory = f"{row['parent_mb']:10.0f} {row['worker_mb']:10.0f}"
        print(f"{name:12} {seconds} {cpu} {row['second_call']:8.3f} {memory}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
