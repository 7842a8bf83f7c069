"""The command that writes reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinysight.cli.arguments import Device, Home
from tinysight.cli.datasets import open_or_draw
from tinysight.cli.progress import counting, say

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
            "--model/--no-model", help="Ask the model too, once: neighbors, maps, blanked objects."
        ),
    ] = True,
    wordnet: Annotated[
        Path | None, typer.Option(help="Folder with WordNet 3.0's data.noun, for wnid classes.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A pack with the same classes.", show_default="the run's")
    ] = None,
    device: Device = "auto",
    home: Home = None,
) -> None:
    """Write a page on why a run errs: classes, confusions, mistakes, calibration. With several
    runs, a comparison.

    A split that is not scored yet is scored first, unless --no-model. What the model is asked is
    kept in RUN/analysis, so that the next report takes seconds.

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
        path = _write_one(read[0], out or folders[0] / "report", runtime, wordnet)
    else:
        path = write_comparison(read, out or folders[0] / "comparison")
    print(f"report {path}")


def _read(
    folder: Path, split: str, data: str | None, home: Path | None, runtime: Runtime | None
) -> RunResults:
    """Read a run; score it first where that is still to be done and may be."""
    from tinysight.analysis.results import read_run
    from tinysight.evaluation.evaluate import evaluate_run
    from tinysight.run import read_run as open_run

    pack = open_or_draw(data or open_run(folder).config.data.name, home)
    run = read_run(folder, pack, split=split)
    if run.judged is None and run.has_weights and runtime is not None:
        say(f"{folder}: {split} is not scored yet; scoring it")
        with counting(f"scoring {split}") as progress:
            evaluate_run(run.record, pack, split, runtime=runtime, progress=progress)
        run = read_run(folder, pack, split=split)
    return run


def _write_one(run: RunResults, out: Path, runtime: Runtime | None, wordnet: Path | None) -> Path:
    from tinysight.analysis.mistakes import choose_mistakes
    from tinysight.analysis.observations import kept_observations
    from tinysight.analysis.report import write_report
    from tinysight.analysis.wordnet import distances
    from tinysight.predict.predictor import Predictor

    steps = distances(run.pack.class_ids, wordnet) if wordnet is not None else None
    if runtime is None or not run.has_weights:
        return write_report(run, out, distances=steps)
    predictor = Predictor(run.folder, runtime=runtime)
    observations = None
    if run.judged is not None:
        shown = choose_mistakes(run.judged)
        with counting("asking the model") as progress:
            observations = kept_observations(
                run,
                run.judged,
                shown,
                predictor,
                progress=lambda what, done, total: progress(done, total, what),
            )
    return write_report(run, out, observations=observations, predictor=predictor, distances=steps)
