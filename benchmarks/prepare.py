"""What preparing Tiny ImageNet costs beside the pure JPEG decode of the same images: time, memory, the second call.

The baseline decodes the same bytes, already in memory, with the same Pillow call in the same number of processes. Runs
alternate (baseline, folder, archive) and medians are compared, with a warm file cache; each preparation is a fresh
process, so that its peak memory is its own.

    python benchmarks/prepare.py --folder tiny-imagenet-200 --archive tiny-imagenet-200.zip --json prepare.json
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

from tinysight.data.decoding import usable_cores
from tinysight.data.tiny_imagenet import Counts, decode_image, prepare

TENTH = Counts(train_per_class=50, val=1000, test=1000)


def decode_share(share: list[bytes]) -> None:
    """Decode images (n JPEGs) and drop the pixels."""
    for content in share:
        decode_image(content)


def time_baseline(contents: list[bytes], workers: int) -> float:
    """Decode all in forked processes, which inherit the bytes; return seconds from the first fork to the last end."""
    context = multiprocessing.get_context("fork")
    begin = time.perf_counter()
    team = [context.Process(target=decode_share, args=(contents[number::workers],)) for number in range(workers)]
    for process in team:
        process.start()
    for process in team:
        process.join()
    seconds = time.perf_counter() - begin
    assert all(process.exitcode == 0 for process in team)
    return seconds


def measure_once(source: Path, home: Path, workers: int, expect: Counts) -> dict[str, float]:
    """Prepare in this process, and call once more; seconds and peak MB of this process and of its largest worker."""
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        prepare(source, home=home, workers=workers, expect=expect)
        times.append(time.perf_counter() - begin)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    peaks = [resource.getrusage(who).ru_maxrss / unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"seconds": times[0], "second_call": times[1], "parent_mb": peaks[0], "worker_mb": peaks[1]}


def measure(source: Path, scratch: Path, workers: int, expect: Counts = TENTH) -> dict[str, float]:
    """Run `measure_once` in a fresh process with an empty home."""
    home = scratch / "home"
    job = {"source": str(source), "home": str(home), "workers": workers, "expect": asdict(expect)}
    out = subprocess.run([sys.executable, __file__, "--once", json.dumps(job)], check=True, capture_output=True).stdout
    shutil.rmtree(home)
    result: dict[str, float] = json.loads(out)
    return result


def make_tenth(folder: Path, target: Path) -> Path:
    """Copy a tenth of the set into a folder of the same layout."""

    def copy_images(name: str, pattern: str, num: int) -> None:
        (target / name).mkdir(parents=True)
        for number in range(num):
            shutil.copyfile(folder / name / pattern.format(number), target / name / pattern.format(number))

    def copy_lines(name: str, num: int) -> None:
        lines = (folder / name).read_text().splitlines(keepends=True)
        kept = [line for line in lines if int(line.split("\t")[0].removesuffix(".JPEG").rpartition("_")[2]) < num]
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


def run(folder: Path, archive: Path | None, rounds: int, workers: int, scratch: Path) -> dict[str, Any]:
    """Measure all; return what is printed."""
    contents = [path.read_bytes() for path in sorted(folder.rglob("*.JPEG"))]  # warms the file cache too
    sources = {"folder": folder} | ({"archive": archive} if archive else {})
    baseline: list[float] = []
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sources}
    for _ in range(rounds):
        baseline.append(time_baseline(contents, workers))
        for name, source in sources.items():
            runs[name].append(measure(source, scratch, workers, Counts()))
    tenth = measure(make_tenth(folder, scratch / "tenth"), scratch, workers)
    pure = statistics.median(baseline)
    rows = {}
    for name, results in runs.items():
        rows[name] = {key: statistics.median(result[key] for result in results) for key in results[0]}
        rows[name]["ratio"] = rows[name]["seconds"] / pure
    return {
        "images": len(contents), "workers": workers, "rounds": rounds, "machine": platform.platform(),
        "python": platform.python_version(), "baseline_seconds": baseline, "baseline_median": pure,
        "medians": rows, "runs": runs, "a_tenth": tenth,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="the unpacked tiny-imagenet-200")
    parser.add_argument("--archive", type=Path, help="the same as a .zip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--scratch", type=Path, help="where 1.5 GB are written and removed (default: temporary)")
    parser.add_argument("--json", type=Path, help="write every number here")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["TINYSIGHT_DECODER"] = "pillow"  # the same decoder on both sides
    if options.once:
        job = json.loads(options.once)
        result = measure_once(Path(job["source"]), Path(job["home"]), job["workers"], Counts(**job["expect"]))
        print(json.dumps(result))
        return
    if options.folder is None:
        parser.error("--folder is needed")
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        report = run(options.folder, options.archive, options.rounds, options.workers, Path(scratch))
    print(f"pure decode of {report['images']} images, {report['workers']} processes: {report['baseline_median']:.2f} s")
    print(f"{'source':10} {'seconds':>8} {'ratio':>6} {'again':>7} {'parent MB':>10} {'worker MB':>10}")
    for name, row in {**report["medians"], "a tenth": report["a_tenth"] | {"ratio": float("nan")}}.items():
        print(
            f"{name:10} {row['seconds']:8.2f} {row['ratio']:6.2f} {row['second_call']:7.3f} "
            f"{row['parent_mb']:10.0f} {row['worker_mb']:10.0f}"
        )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
