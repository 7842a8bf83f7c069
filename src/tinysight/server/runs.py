"""Runs on the page: a list, their curves while they train, and their reports."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from tinysight.files import folder_names
from tinysight.run import Run, duration, read_run, runs_home

MAX_LISTED = 200
MAX_POINTS = 400  # of a curve
SILENT_SECONDS = 120  # without a line in the log after which a training is taken for stopped
# A report has its own styles and scripts. In a sandbox they reach nothing of this server.
REPORT_POLICY = (
    "sandbox allow-scripts allow-popups; default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'"
)


def routes() -> list[Route]:
    """Return the paths about runs."""
    return [
        Route("/api/runs", _list),
        Route("/api/runs/{name}", _one),
        Route("/runs/{name}/report", _report),
    ]


def _list(request: Request) -> Response:
    """List the runs, newest first."""
    return JSONResponse([_summary(run) for run in _newest()])


def _newest() -> Iterator[Run]:
    home = runs_home()
    records = home.glob("*/run.json") if home.is_dir() else ()
    newest = sorted(records, key=_time_of, reverse=True)
    for path in newest[:MAX_LISTED]:
        try:
            yield read_run(path.parent)
        except ValueError:
            continue  # damaged: the commands say so


def _summary(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "recipe": run.config.recipe,
        "data": folder_names(run.config.data.name)[0],
        "state": _state(run),
        "monitored": run.monitored_error() or "",
        "has_report": (run.report_path / "index.html").is_file(),
    }


def _state(run: Run) -> str:
    if run.is_finished:
        return "finished"
    latest = max(_time_of(run.log_path), _time_of(run.record_path))
    return "training" if time.time() - latest < SILENT_SECONDS else "interrupted"


def _one(request: Request) -> Response:
    """Describe a run with its curves."""
    run = _find(request)
    lines = run.log()
    training = [line for line in lines if line["kind"] == "train"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    name = "surest box misses" if run.config.localizer.finds else "error"
    monitored = [
        (line["epoch"], 1 - line["loc50"] if "loc50" in line else line["top1_error"])
        for line in epochs
    ]
    summary = run.summary() or {}
    seconds = summary.get("seconds")
    curves = [
        {"name": "loss of training", "points": _thinned(training, "loss"), "share": False},
        {"name": f"{name}, {run.config.data.monitor}", "points": _finite(monitored)},
    ]
    if learned := summary.get("finetune"):
        points = [(point["per_class"], point["error"]) for point in learned["curve"]]
        own = {"name": "error, cross-validated", "points": _finite(points)}
        curves.append(own | {"unit": "images of a class"})
    return JSONResponse(
        _summary(run) | {"duration": "" if seconds is None else duration(seconds), "curves": curves}
    )


def _thinned(lines: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """Average neighboring lines, so that no more than MAX_POINTS are left."""
    size = max(1, -(-len(lines) // MAX_POINTS))
    points = []
    for start in range(0, len(lines), size):
        group = lines[start : start + size]
        points.append((group[-1]["epoch"], sum(line[name] for line in group) / len(group)))
    return _finite(points)


def _finite(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [point for point in points if all(map(math.isfinite, point))]


def _report(request: Request) -> Response:
    """Show a run's report, in a sandbox."""
    path = _find(request).report_path / "index.html"
    if not path.is_file():
        raise HTTPException(404, "there is no report yet; make it by `tinysight report`")
    return FileResponse(path, headers={"Content-Security-Policy": REPORT_POLICY})


def _find(request: Request) -> Run:
    """Return the run of a name in the list: a name is never used as a path."""
    name = request.path_params["name"]
    for path in runs_home().glob("*/run.json") if runs_home().is_dir() else ():
        if path.parent.name == name:
            try:
                return read_run(path.parent)
            except ValueError as error:
                raise HTTPException(404, str(error)) from None
    raise HTTPException(404, "there is no such run")


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
