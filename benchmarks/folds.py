"""Pool a localizer's held-out folds: every image of the class is judged once, by a run that has not
learned from it.

    python benchmarks/folds.py RUN RUN RUN RUN RUN

Each run was trained on another fold's pack (`--data tiny-imagenet.goldfish.foldK`) and evaluated
with `tinysight evaluate RUN --split minival`. The constant boxes beside are those fitted on each
run's own train."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tinysight import run as runs
from tinysight.ops.metrics import wilson_interval

COLUMNS = ("loc30", "loc50", "loc70", "box_acc_v2", "mean_iou")


def pooled(figures: list[dict[str, Any]]) -> dict[str, float]:
    """Weigh the figures of several sets of images by their number."""
    total = sum(one["num_images"] for one in figures)
    return {"num_images": total} | {
        name: sum(one[name] * one["num_images"] for one in figures) / total for name in COLUMNS
    }


def read(folder: Path) -> dict[str, Any]:
    """Read a run's figures on minival; raise ValueError when there are none."""
    path = folder / "localization-minival.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {path.name}; run `tinysight evaluate {folder} --split minival` first"
        )
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def line(name: str, own: dict[str, float]) -> str:
    """Lay out pooled figures with the 95 % Wilson interval of Loc@.5."""
    count = round(own["num_images"])
    low, high = wilson_interval(round(own["loc50"] * count), count)
    shares = "  ".join(
        f"{100 * own[column]:5.1f} %" for column in ("loc30", "loc50", "loc70", "box_acc_v2")
    )
    interval = f"Loc@.5 95 %: {100 * low:.1f} to {100 * high:.1f}"
    return f"{name:<28}{shares}   {own['mean_iou']:.4f}   {interval}"


def main() -> None:
    """Print one line a fold, the pooled line, and the baselines pooled alike."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    found = [read(runs.find_run(name).folder) for name in parser.parse_args().runs]
    names = {figures["data"] for figures in found}
    if len(names) < len(found):
        raise ValueError(f"{len(found)} runs are of {len(names)} packs; give one run of each fold")
    print(f"{'':<28} Loc@.3   Loc@.5   Loc@.7  BoxAccV2   mean IoU")
    for figures in found:
        print(line(figures["data"], pooled([figures["localization"]])))
    print(line("all folds", pooled([figures["localization"] for figures in found])))
    for name in found[0]["baselines"]:
        print(line(f"baseline: {name}", pooled([figures["baselines"][name] for figures in found])))
    negatives = [figures["false_positives_on_negatives"] for figures in found]
    if None not in negatives:
        print(
            f"boxes accepted on an image without the class: {sum(negatives) / len(negatives):.3f}"
        )


if __name__ == "__main__":
    main()
