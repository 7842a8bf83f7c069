"""Pages on a run's errors, and on how runs differ."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinysight.analysis.comparison import write_comparison
from tinysight.analysis.probes import stored_probes
from tinysight.analysis.report import write_report
from tinysight.analysis.results import RunResults
from tinysight.analysis.results import read_run as read_results
from tinysight.api.data import Data, Folder, load_dataset
from tinysight.api.evaluate import evaluate_run, learned_data
from tinysight.api.models import named_run
from tinysight.device import Runtime, select_device
from tinysight.evaluation.evaluate import default_split
from tinysight.files import expand
from tinysight.predict.predictor import Predictor
from tinysight.progress import counting
from tinysight.run import Run

logger = logging.getLogger("tinysight")


def report(
    run: Run | Folder,
    split: str | None = None,
    *,
    out: Folder | None = None,
    probe: bool = True,
    data: Data | None = None,
    device: str = "auto",
    data_dir: Folder | None = None,
) -> Path:
    """Write a page on a run's errors, and return its path.

    Args:
        out: the folder; None: `report` in the run's.
        probe: evaluate the split first where that has not been done, and run the model for nearest
            neighbors, activation maps and occlusion; their results are kept for the next report.
        data: another dataset with the same classes; None: the run's.
    """
    run = named_run(run)
    runtime = select_device(device) if probe else None
    results = _results(run, split, data, data_dir, runtime)
    out = run.report_path if out is None else expand(out)
    if runtime is None or not run.is_finished:
        return write_report(results, out)
    predictor = Predictor(run.folder, runtime=runtime)
    with counting("probing the model") as progress:
        probes = stored_probes(results, predictor, progress=lambda what, a, b: progress(a, b, what))
    return write_report(results, out, probes=probes, predictor=predictor)


def compare(
    runs: Sequence[Run | Folder],
    split: str | None = None,
    *,
    out: Folder | None = None,
    probe: bool = True,
    data: Data | None = None,
    device: str = "auto",
    data_dir: Folder | None = None,
) -> Path:
    """Write a page on how runs differ, image by image, and return its path; see `report`."""
    found = [named_run(run) for run in runs]
    if len(found) < 2:
        raise ValueError(f"{len(found)} run is given; compare 2 or more")
    runtime = select_device(device) if probe else None
    results = [_results(run, split, data, data_dir, runtime) for run in found]
    return write_comparison(results, found[0].comparison_path if out is None else expand(out))


def _results(
    run: Run, split: str | None, data: Data | None, data_dir: Folder | None, runtime: Runtime | None
) -> RunResults:
    """Read a run's results; with a runtime, evaluate it first where that has not been done."""
    dataset = load_dataset(data or run.config.data.name, data_dir=data_dir)
    split = split or default_split(run, dataset)
    own: dict[str, Any] = {"split": split, "learned": learned_data(run, dataset, data_dir)}
    results = read_results(run.folder, dataset, **own)
    evaluated = results.results is not None or results.detections is not None
    if not evaluated and run.is_finished and runtime is not None:
        logger.info("%s: evaluating %s first", run.folder, split)
        evaluate_run(run, dataset, split, runtime)
        results = read_results(run.folder, dataset, **own)
    return results
