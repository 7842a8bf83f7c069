"""Checkpoints: training states on disk that are intact or refused.

A checkpoint is a folder `step-00001234/`: `state.safetensors` (weights, averaged weights,
optimizer, random states), `state.json` (scalars) and `manifest.json` with the SHA-256 of both. It
is written under a temporary name, every file and folder is synced, and a rename publishes it.
Neither torch.load nor safetensors notices a flipped bit, hence the checksums; no pickle, so that no
file chooses code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from tinysight.files import sync_folder, write_durable

FORMAT = 1
_OLD = ".tmp-old-"  # marks a state moved aside while a new one of its step takes its name
_DAMAGED = ".damaged"


@dataclass(frozen=True, kw_only=True)
class State:
    """The state of a training between two steps."""

    step: int
    tensors: dict[str, torch.Tensor]  # named "<part>|<name>"
    scalars: dict[str, Any]

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """Return the tensors of a part ("model", "random|0"), by their names in it."""
        prefix = f"{name}|"
        own = {path: value for path, value in self.tensors.items() if path.startswith(prefix)}
        return {path.removeprefix(prefix): value for path, value in own.items()}


def save(state: State, folder: Path) -> Path:
    """Write `state` durably under `folder`, in place of one of that step, and return its path.

    Raises OSError when the disk is full or not writable; earlier states are untouched.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True)
        sync_folder(folder.parent)
    final = folder / f"step-{state.step:08d}"
    temporary = folder / f"{final.name}.tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        tensors = {k: v.detach().cpu().contiguous() for k, v in state.tensors.items()}
        contents = {
            "state.safetensors": save_tensors(tensors),
            "state.json": json.dumps(state.scalars, indent=1).encode(),
        }
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        manifest = {"format": FORMAT, "step": state.step, "sha256": sums}
        for name, content in {**contents, "manifest.json": _canonical(manifest)}.items():
            write_durable(temporary / name, content)
        sync_folder(temporary)
        if final.exists():  # of the same step, intact or damaged
            final.rename(folder / f"{final.name}{_OLD}{os.getpid()}")
        temporary.rename(final)
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        _put_back(folder)
        raise
    return final


def _put_back(folder: Path) -> None:
    """Give a state its name back that was moved aside for a new one which was not written."""
    for path in folder.glob(f"step-*{_OLD}*"):
        final = path.with_name(path.name.partition(_OLD)[0])
        if not final.exists():
            path.rename(final)


def load(path: Path) -> State:
    """Read one checkpoint; raise ValueError that names the file that differs from its manifest."""
    try:
        content = (path / "manifest.json").read_bytes()
        manifest = json.loads(content)
        sums = manifest["sha256"]
        if content != _canonical(manifest):
            raise ValueError(f"{path / 'manifest.json'} is damaged: its bytes differ")
        if (found := manifest["format"]) != FORMAT:
            raise ValueError(f"{path} has format {found}; this version reads format {FORMAT}")
        files = sorted(sums) == ["state.json", "state.safetensors"]
        if not files or _step(path) != manifest["step"]:
            raise ValueError(f"{path / 'manifest.json'} does not describe {path.name}")
    except (OSError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path / 'manifest.json'} is missing or damaged ({error})") from None
    contents: dict[str, bytes] = {}
    for name, expected in sums.items():
        try:
            contents[name] = (path / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{path / name} cannot be read ({error.strerror})") from None
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise ValueError(f"{path / name} is damaged: its SHA-256 differs from manifest.json")
    tensors = load_tensors(contents["state.safetensors"])
    scalars = json.loads(contents["state.json"])
    return State(step=manifest["step"], tensors=tensors, scalars=scalars)


def saved(folder: Path) -> list[Path]:
    """List the checkpoints under `folder`, oldest first, by name only."""
    found = [path for path in folder.glob("step-*") if _step(path) is not None]
    return sorted(found, key=lambda path: _step(path) or 0)


def _step(path: Path) -> int | None:
    match = re.fullmatch(r"step-(\d{8,})", path.name)
    return int(match[1]) if match else None


def load_newest(folder: Path) -> tuple[State | None, list[str]]:
    """Return the newest intact state (None: none was saved), and a message per damaged newer one.

    The damaged ones are renamed, so that they neither count as kept ones nor are read again. Raises
    ValueError when there are states, and every one is damaged.
    """
    _put_back(folder)
    damaged: dict[Path, str] = {}
    for path in reversed(saved(folder)):
        try:
            state = load(path)
        except ValueError as error:
            damaged[path] = str(error)
            continue
        for other in damaged:
            shutil.rmtree(other.with_name(other.name + _DAMAGED), ignore_errors=True)
            other.rename(other.with_name(other.name + _DAMAGED))
        return state, list(damaged.values())
    if damaged:
        reason = next(iter(damaged.values()))
        where = f"no state in {folder} is intact; remove it to train from the start"
        raise ValueError(f"{where} ({reason})")
    return None, []


def prune(folder: Path, *, keep: int, best: int | None) -> None:
    """Delete all but the newest `keep` states and that of step `best`, and incomplete ones."""
    name = "" if best is None else f"step-{best:08d}"
    unwanted = [path for path in saved(folder)[:-keep] if path.name != name]
    for path in [*unwanted, *folder.glob("step-*.tmp-*"), *folder.glob(f"step-*{_DAMAGED}")]:
        shutil.rmtree(path, ignore_errors=True)


def _canonical(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()
