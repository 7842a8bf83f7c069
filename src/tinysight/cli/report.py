"""The command that writes reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinysight.cli.arguments import Device, Home
from tinysight.cli.data import load
from tinysight.cli.progress import counting

if TYPE_CHECKING:
    from tinysight.analysis.results import RunResults
    from tinysight.device import Runtime


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="One run, or several to compare.")
    ],
    split: Annotated[str, typer.Option(help="minival (for choices) or val (for reports).")] = "val",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write in.", show_default="RUN/report, of the first run"),
    ] = None,
    model: Annotated[
        bool,
        typer.Option(
            "--model/--no-model", help="Probe the model: neighbors, maps, blanked objects."
        ),
    ] = True,
    data: Annotated[
        str | None, typer.Option(help="A pack with the same classes.", show_default="the run's")
    ] = None,
    device: Device = "auto",
    home: Home = None,
) -> None:
    """Write a page of error analysis: classes, confusions, mistakes, calibration, boxes.

    Several runs are compared. A split without scores is evaluated first, unless --no-model. Probes
    of the model are stored in RUN/analysis, so that the next report takes seconds.

    \b
    Examples:
      tinysight report quickstart-shapes
      tinysight report resnet10-laptop-tiny-imagenet --no-model --out report
      tinysight report run-a run-b --split minival
    """
    from tinysight.analysis.comparison import write_comparison
    from tinysight.device import select_device
    from tinysight.run import find_run

    folders = [find_run(name).folder for name in runs]
    runtime = select_device(device) if model else None
    read = [_read(folder, split, data, home, runtime) for folder in folders]
    if len(read) == 1:
        path = _write_one(read[0], out or folders[0] / "report", runtime)
    else:
        path = write_comparison(read, out or folders[0] / "comparison")
    print(f"report {path}")


def _read(
    folder: Path, split: str, data: str | None, home: Path | None, runtime: Runtime | None
) -> RunResults:
    """Read a run; evaluate it first where it has weights and no scores of the split."""
    from tinysight.analysis.results import read_run
    from tinysight.evaluation.evaluate import evaluate_run
    from tinysight.run import read_run as open_run

    run = open_run(folder)
    dataset = load(data or run.config.data.name, home)
    scores = run.scores_path(run.label(dataset.name, split))
    if not scores.exists() and run.is_finished and runtime is not None:
        with counting(f"evaluating {split}") as progress:
            evaluate_run(run, dataset, split, runtime=runtime, progress=progress)
    return read_run(folder, dataset, split=split)


def _write_one(run: RunResults, out: Path, runtime: Runtime | None) -> Path:
    from tinysight.analysis.probes import stored_probes
    from tinysight.analysis.report import write_report
    from tinysight.predict.predictor import Predictor

    if runtime is None or not run.run.is_finished:
        return write_report(run, out)
    predictor = Predictor(run.run.folder, runtime=runtime)
    with counting("probing the model") as progress:
        probes = stored_probes(
            run, predictor, progress=lambda what, done, total: progress(done, total, what)
        )
    return write_report(run, out, probes=probes, predictor=predictor)
