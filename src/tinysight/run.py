"""A run's folder: every path in it, and how it is created, found and read.

run.json              config, versions, machine and command, written before the first step
log.jsonl             losses, errors and learning rates by step; timing.jsonl has the times
checkpoints/          training states
tensorboard/          events
snapshots/            weights kept during the training, for ensembles
weights.safetensors   the finished model; its presence makes a run a finished one
epochs-NNNN/          the finished model of fewer epochs, where the run was trained for longer
summary.json          how the training ended
evaluation-*.json     metrics of a split; scores/ holds what they were computed from
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from tinysight import __version__
from tinysight.config import OPERATIONAL, Config
from tinysight.files import WEIGHTS_SUFFIXES, expand, folder_names, suggest, write_atomic
from tinysight.settings import difference, from_dict, retired
from tinysight.text import pluralize

FORMAT = 1
logger = logging.getLogger("tinysight")
_RESULTS = (  # what is computed from the weights
    *("scores", "analysis", "report", "comparison", "evaluation-*.json", "localization-*.json"),
    *("predictions-*.png", "boxes-*.png", "ensemble-*.json", "submission.txt", "summary.json"),
)


class _PathIn:
    """A path in a run's folder, by its name there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: Run, owner: type[Run]) -> Path:
        return run.folder / self.name


def _path_of(name: str) -> Callable[[Run, str], Path]:
    """Return a method that gives the path of a file about a split, by its label."""
    return lambda run, label: run.folder / name.format(label)


@dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """A run's folder and what its run.json holds."""

    folder: Path
    config: Config
    data_digest: str  # of the dataset it learns from
    machine: dict[str, Any]  # device, bf16, threads, processes
    command: str = ""
    versions: dict[str, str] = field(default_factory=lambda: versions())
    retired: dict[str, Any] = field(default_factory=dict)  # used, and not of this version

    record_path = _PathIn("run.json")
    lock_path = _PathIn(".lock")
    log_path = _PathIn("log.jsonl")
    timing_path = _PathIn("timing.jsonl")
    tensorboard_path = _PathIn("tensorboard")
    checkpoints_path = _PathIn("checkpoints")
    weights_path = _PathIn("weights.safetensors")
    summary_path = _PathIn("summary.json")
    curves_path = _PathIn("curves.png")
    submission_path = _PathIn("submission.txt")
    analysis_path = _PathIn("analysis")
    report_path = _PathIn("report")
    comparison_path = _PathIn("comparison")

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def label(self, data: str, split: str) -> str:
        """Name the files about a split: "val", or "<data>-val" of data other than the run's own."""
        given = self.config.data.name
        own = data in (given, Path(given).name, *folder_names(given))
        return split if own else f"{data}-{split}"

    def scores_path(self, label: str, suffix: str = "") -> Path:
        return self.folder / "scores" / f"{label}{suffix}.safetensors"

    evaluation_path = _path_of("evaluation-{}.json")
    localization_path = _path_of("localization-{}.json")
    predictions_path = _path_of("predictions-{}.png")
    boxes_path = _path_of("boxes-{}.png")
    ensemble_path = _path_of("ensemble-{}.json")

    def snapshot_path(self, epochs: int) -> Path:
        return self.folder / "snapshots" / f"epoch-{epochs:04d}.safetensors"

    def snapshots(self) -> list[Path]:
        """List the snapshots, oldest first."""
        return sorted((self.folder / "snapshots").glob("epoch-*.safetensors"))

    def checkpoint_path(self, step: int) -> Path:
        return self.checkpoints_path / f"step-{step:08d}"

    @property
    def is_finished(self) -> bool:
        return self.weights_path.is_file()

    def log(self) -> list[dict[str, Any]]:
        """Read the lines of the log; see `read_lines`."""
        return read_lines(self.log_path)

    def summary(self) -> dict[str, Any] | None:
        """Read how the training ended; None while it has not. Raises ValueError when damaged."""
        try:
            content = json.loads(self.summary_path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{self.summary_path} is damaged ({error}); remove it") from None
        return content if isinstance(content, dict) else None

    def monitored_error(self) -> str | None:
        """Describe the monitored error of the weights that were kept, and the lowest, in a phrase.

        None where nothing was monitored, or the training has not ended.
        """
        summary = self.summary()
        if summary is None or summary["best_monitored_error"] is None:
            return None
        finds, lowest = self.config.localizer.finds, summary["best_monitored_error"]
        what = "share of images whose surest box misses on" if finds else "error on"
        what = f"{what} {self.config.data.monitor}"
        epochs = [line for line in self.log() if line["kind"] == "epoch"]
        images = summary.get("monitored_images")  # not of runs of earlier versions
        of = f" of {pluralize(images, 'image')}" if images else ""
        if self.config.train.keep_weights == "best" or not epochs:
            return f"lowest {what} {lowest:.2%}{of}"
        last = 1 - epochs[-1]["loc50"] if finds else epochs[-1]["top1_error"]
        return f"last {what} {last:.2%}{of}, lowest {lowest:.2%}"

    @property
    def retired_assignments(self) -> list[str]:
        """The retired settings, as the command line took them."""
        return [f"{path}={value}" for path, value in self.retired.items()]

    def is_cross_validated(self, label: str) -> bool:
        """Whether the outputs stored for a split are of models that did not learn from it."""
        try:
            return bool(json.loads(self.evaluation_path(label).read_bytes())["cross_validated"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def mismatch(self, config: Config, *, ignore: Collection[str] = ()) -> str:
        """Describe which settings that change results differ from another config; "": none."""
        own, ignore = self.config, {*OPERATIONAL, *ignore}
        recipe = [f"recipe={own.recipe}"] if own.recipe != config.recipe else []
        settings = difference(own, config, ignore=ignore) + self.retired_assignments
        differing = ", ".join(recipe + settings)
        return differing and f"{self.folder} holds another run: it has {differing}"

    def set_aside(self) -> Path:
        """Move a finished run's weights, and what came of them, to epochs-NNNN in its folder.

        The weights are moved last: until then the run is finished, and this can be repeated.
        """
        summary = self.summary() or {"epochs": self.config.train.epochs}
        folder = self.folder / f"epochs-{summary['epochs']:04d}"
        folder.mkdir(exist_ok=True)
        for pattern in (*_RESULTS, self.weights_path.name):
            for path in self.folder.glob(pattern):
                path.rename(folder / path.name)
        return folder

    def __repr__(self) -> str:
        state = "finished" if self.is_finished else "not finished"
        errors = self.monitored_error() if self.is_finished else None
        what = f"{self.config.recipe} on {self.config.data.name}, {state}"
        return f"<Run {self.folder}: {what}{', ' + errors if errors else ''}>"

    def write(self) -> None:
        """Write run.json."""
        content = {"format": FORMAT, **asdict(self)}
        del content["folder"], content["retired"]
        write_atomic(self.record_path, json.dumps(content, indent=1).encode())


def runs_home() -> Path:
    """Return the folder of all runs: `$TINYSIGHT_RUNS`, else `runs` in the working folder."""
    return expand(os.environ.get("TINYSIGHT_RUNS") or "runs")


def run_folder(name: str | Path) -> Path:
    """Return the folder of a run by name (under `runs_home`) or path; it need not exist."""
    if str(name) in ("", ".", ".."):
        raise ValueError(f"--name {str(name)!r} cannot name a run; give a name, or a folder's path")
    by_path = isinstance(name, Path) or Path(name).name != name
    return expand(name) if by_path else runs_home() / name


def new_folder(config: Config, name: str | Path | None) -> Path:
    """Create the folder of a new run: `name`, or recipe and data with the next free number.

    Raises ValueError when the folder is not empty.
    """
    if name is not None:
        folder = run_folder(name)
        check_writable(folder)
        check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    stem = f"{config.recipe}-{folder_names(config.data.name)[0]}"  # the data may be a folder
    number = 1
    check_writable(runs_home())
    while True:
        folder = runs_home() / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)  # of two that start at once, one gets the name
        except FileExistsError:
            number += 1
            if (folder / "run.json").is_file() and not (folder / "weights.safetensors").is_file():
                how = f"if it was interrupted, continue it by: tinysight resume {folder}"
                logger.warning("%s is not finished, and this is a new run; %s", folder, how)
        else:
            return folder


def check_writable(folder: Path) -> None:
    """Raise ValueError where TensorBoard cannot write into a folder of this name."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        what = f"the run's folder would be {str(folder.absolute())!r}, which is not UTF-8"
        raise ValueError(f"{what}; give another by --name or $TINYSIGHT_RUNS") from None


def check_free(folder: Path) -> None:
    """Raise ValueError where the folder of a new run holds anything."""
    if folder.exists() and (not folder.is_dir() or any(map(_counts, folder.iterdir()))):
        raise ValueError(
            f"{folder} exists; continue it by `tinysight resume {folder}`, or choose another --name"
        )


def _counts(entry: Path) -> bool:
    """Whether a file is more than what a start that was killed at once leaves."""
    return entry.name != ".lock" and not entry.name.startswith("run.json.tmp-")


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, and not one of the same name."""
    return any((folder / name).is_file() for name in ("run.json", "weights.safetensors"))


def find_run(name: str | Path) -> Run:
    """Read an existing run, by path or name; raise ValueError with the nearest name otherwise."""
    for folder in (expand(name), runs_home() / name):
        if (folder / "run.json").is_file():
            return read_run(folder)
    home = runs_home()
    known = sorted(path.parent.name for path in home.glob("*/run.json")) if home.is_dir() else []
    hint = suggest(str(name), known) if known else f"there is none in {home} yet"
    raise ValueError(f"no run is named {str(name)!r}; {hint}")


def find_trained(source: str | Path) -> Path:
    """Return the file of weights, or the run's folder, that a path or a run's name means."""
    path = expand(source)
    if path.is_file() or is_run(path):
        return path
    if path.suffix.lower() in WEIGHTS_SUFFIXES:
        raise ValueError(f"no such file: {str(source)!r}; expected a run or a file of weights")
    return find_run(source).folder


def read_run(folder: Path) -> Run:
    """Read the run in a folder; raise ValueError that names run.json when it is damaged."""
    path = folder / "run.json"
    try:
        content = json.loads(path.read_bytes())
        found = content["format"]
        if found == FORMAT:
            own: dict[str, Any] = {name: dict(content[name]) for name in ("machine", "versions")}
            own |= {name: content[name] for name in ("data_digest", "command")}
            own["retired"] = retired(content["config"])
            return Run(folder=folder, config=from_dict(content["config"]), **own)
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error})") from None
    raise ValueError(f"{path} has format {found}; this version reads format {FORMAT}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a missing file is empty, an incomplete last line is left out.

    Raises ValueError when another line is damaged; file and line are named.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    read = []
    for number, line in enumerate(lines, start=1):
        try:
            read.append(json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise ValueError(f"{path}, line {number}, is damaged; remove the line") from None
    return read


def duration(seconds: float) -> str:
    """Format seconds for people: "1 h 2 min", "3 min 4 s", "5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def versions() -> dict[str, str]:
    """Return the versions that decide a training's arithmetic, and a source checkout's commit."""
    found = {"tinysight": __version__, "python": platform.python_version()}
    found |= {name: metadata.version(name) for name in ("torch", "numpy", "pillow", "safetensors")}
    commit = _commit(Path(__file__).parent)
    return {**found, "commit": commit} if commit else found


def _commit(folder: Path) -> str:
    """Return the commit where this package is a git checkout, not installed in another project."""
    if not (folder.parent.parent / "pyproject.toml").is_file():
        return ""
    options = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        command = ["git", "-C", str(folder), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
