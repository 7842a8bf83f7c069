"""What lies in a run's folder, and how it is found and read; the standard library only.

run.json              the resolved run, versions, machine and command, written before the first
step log.jsonl             losses, errors and rates by step        timing.jsonl   what the clock
said checkpoints/          training states                         tensorboard/   events
weights.safetensors   the finished model                      summary.json   how it ended
snapshots/            weights kept on the way, to vote curves.png, predictions-<split>.png,
scores/, evaluation-<split>.json report/, comparison/  pages about it
analysis/      what the model was asked for them"""

from __future__ import annotations

import difflib
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tinysight import __version__
from tinysight.config import Config, difference, from_dict, to_dict
from tinysight.files import write_atomic

FORMAT = 1


def runs_home() -> Path:
    """Return where runs are kept: `$TINYSIGHT_RUNS`, else `runs` in the current folder."""
    return Path(os.environ.get("TINYSIGHT_RUNS") or "runs")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run as its run.json tells it."""

    folder: Path
    run: Config
    data_digest: str  # of the pack's manifest
    machine: dict[str, Any]  # device, bf16, threads, processes
    versions: dict[str, str]
    command: str


def folder_named(name: str) -> Path:
    """Return the folder that a run's name stands for: a word under the runs' home, or a path; it
    need not exist.
    """
    if name in ("", ".", ".."):
        raise ValueError(f"--name {name!r} is no name for a run; give a word, or a folder's path")
    return Path(name) if os.sep in name else runs_home() / name


def new_folder(run: Config, name: str | None) -> Path:
    """Make the folder of a new run: `name`, or recipe and data with the next free number.

    Raises:
        ValueError: `name` is taken.
    """
    if name is not None:
        folder = folder_named(name)
        if folder.exists() and (not folder.is_dir() or any(map(_counts, folder.iterdir()))):
            raise ValueError(
                f"{folder} exists; go on with it by `tinysight resume {folder}`, or choose another --name"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    stem = f"{run.recipe}-{Path(run.data.name).name}"  # the data may be given by its folder
    number = 1
    while True:
        folder = runs_home() / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)  # claims it: two that start at once must not choose the same
        except FileExistsError:
            number += 1
        else:
            return folder


def other_run(folder: Path, there: Config, wanted: Config) -> str:
    """Say in what the run of a folder differs from the one that is wanted there."""
    differing = ([f"recipe={there.recipe}"] if there.recipe != wanted.recipe else []) + difference(
        there, wanted
    )
    return f"{folder} holds another run: it has {', '.join(differing)}"


def _counts(entry: Path) -> bool:
    """Whether a file is more than what a start that was killed at once leaves behind."""
    return entry.name != ".lock" and not entry.name.startswith("run.json.tmp-")


def find(name: str) -> Path:
    """Return the folder of an existing run, by path or name; raise ValueError with the nearest name
    otherwise.
    """
    for folder in (Path(name), runs_home() / name):
        if (folder / "run.json").is_file():
            return folder
    home = runs_home()
    known = sorted(path.parent.name for path in home.glob("*/run.json")) if home.is_dir() else []
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = (
        f"did you mean {close[0]}?"
        if close
        else f"there are {', '.join(known)}"
        if known
        else f"{home} holds none yet"
    )
    raise ValueError(f"no run is named {name!r}; {hint}")


def snapshot_path(folder: Path, epochs: int) -> Path:
    """Return where a run keeps its weights as they were after so many epochs."""
    return folder / "snapshots" / f"epoch-{epochs:04d}.safetensors"


def snapshots(folder: Path) -> list[Path]:
    """List the snapshots of a run, oldest first."""
    return sorted((folder / "snapshots").glob("epoch-*.safetensors"))


def write_record(record: Record) -> None:
    """Write run.json into the run's folder."""
    content = {
        "format": FORMAT,
        "run": to_dict(record.run),
        "data_digest": record.data_digest,
        "machine": record.machine,
        "versions": record.versions,
        "command": record.command,
    }
    write_atomic(record.folder / "run.json", json.dumps(content, indent=1).encode())


def read_record(folder: Path) -> Record:
    """Read run.json; raise ValueError that names it when it is damaged."""
    path = folder / "run.json"
    try:
        content = json.loads(path.read_bytes())
        found = content["format"]
        if found == FORMAT:
            return Record(
                folder=folder,
                run=from_dict(content["run"]),
                data_digest=content["data_digest"],
                machine=dict(content["machine"]),
                versions=dict(content["versions"]),
                command=content["command"],
            )
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error})") from None
    raise ValueError(f"{path} has format {found}; this version reads format {FORMAT}")


def lowest_monitored(record: Record, summary: dict[str, Any]) -> str | None:
    """Say how good a finished run was at its best on what it monitored; None where it monitored
    nothing.
    """
    lowest = summary["best_monitored_error"]
    if lowest is None:
        return None
    what = "share of objects missed on" if record.run.localizer.finds else "error on"
    return f"lowest {what} {record.run.data.monitor} {lowest:.2%}"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a missing file is empty, and a last line that a kill cut short is
    left out.

    Raises:
        ValueError: another line is damaged; file and line are named.
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
    """Return seconds in words: "1 h 2 min", "3 min 4 s", "5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )


def versions() -> dict[str, str]:
    """Return the versions that decide a training's arithmetic, and the commit of a source checkout."""
    found = {"tinysight": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "pillow", "safetensors"):
        found[package] = metadata.version(package)
    commit = _commit(Path(__file__).parent)
    return {**found, "commit": commit} if commit else found


def _commit(folder: Path) -> str:
    """Return the commit when this very package is a git checkout (not installed below somebody's
    own project).
    """
    if not (folder.parent.parent / "pyproject.toml").is_file():
        return ""
    try:
        command = [
            "git",
            "-C",
            str(folder),
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
