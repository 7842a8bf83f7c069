"""The command that writes reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from tinysight.cli.arguments import Data, DataDir, Device, Split


def report(
    runs: Annotated[list[str], Argument(metavar="RUN...", help="One run, or several to compare.")],
    split: Split = None,
    out: Annotated[
        Path | None,
        Option(
            help="Folder to write in.",
            show_default="RUN/report, or RUN/comparison of the first of several",
        ),
    ] = None,
    model: Annotated[
        bool,
        Option(
            "--model/--no-model",
            help="Run the model too, once: nearest neighbors, activation maps, occlusion.",
        ),
    ] = True,
    data: Data = None,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Write a page on a run's errors: classes, confusions, mistakes, calibration.

    With several runs, write a comparison. A split that has not been evaluated yet is evaluated
    first, unless --no-model. The model's results are kept in RUN/analysis, so that the next report
    takes seconds.

    \b
    Examples:
      tinysight report quickstart-shapes
      tinysight report resnet10-laptop-tiny-imagenet --no-model --out report
      tinysight report run-a run-b --split minival
    """
    import tinysight as ts

    options: dict[str, Any] = {"out": out, "probe": model, "data": data, "device": device}
    options["data_dir"] = data_dir
    if len(runs) == 1:
        path = ts.report(runs[0], split, **options)
    else:
        path = ts.compare(runs, split, **options)
    print(f"report {path}")
