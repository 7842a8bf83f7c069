"""A run's folder to train in, interrupt, resume and compare with an uninterrupted training."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tinysight.config import Config
from tinysight.data.batches import Batch
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.run import Run, read_lines, read_run
from tinysight.training import checkpoint, loop
from tinysight.training.callbacks import Callback
from tinysight.training.loop import Interrupted
from tinysight.training.trainer import Trainer

CPU = Runtime(device=torch.device("cpu"), bf16=False)


@contextmanager
def signalled(step: int) -> Iterator[None]:
    """Send SIGTERM during the step that ends as number `step`."""
    real = Trainer.step

    def take(self: Trainer, batch: Batch) -> torch.Tensor:
        if self.step_number == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", take)
        yield


@dataclass
class Trial:
    folder: Path
    dataset: Dataset
    make_config: Callable[..., Config]
    known: dict[str, dict[str, Any]]  # traces of uninterrupted trainings, by config
    config: Config

    def at(self, name: str = "run", **changes: Any) -> Trial:
        """Return a trial in a folder next to this one, with a changed config."""
        config = self.make_config(**changes) if changes else self.config
        return replace(self, folder=self.folder.with_name(name), config=config)

    def go(self, callback: Callback | None = None) -> None:
        """Train from where the folder stands."""
        self.folder.mkdir(exist_ok=True)
        digest = self.dataset.digest
        run = Run(folder=self.folder, config=self.config, data_digest=digest, machine={})
        loop.run_loop(run, self.dataset, runtime=CPU, callback=callback or Callback())

    def stop_at(self, step: int) -> None:
        with pytest.raises(Interrupted), signalled(step):
            self.go()
        assert self.saved()[-1] == f"step-{step:08d}"

    def start(self, *, stop: int | None = None) -> None:
        """Train as a user does; with `stop`, up to that step."""
        ending = pytest.raises(Interrupted) if stop else nullcontext()
        with ending, signalled(stop or -1):
            loop.train(self.config, self.dataset, name=self.folder, command="tinysight train")

    def resume(self, *, stop: int | None = None, **options: Any) -> Run:
        """Resume as a user does; with `stop`, up to that step."""
        ending = pytest.raises(Interrupted) if stop else nullcontext()
        with ending, signalled(stop or -1):
            loop.resume(self.run, self.dataset, **options)
        return self.run

    @property
    def run(self) -> Run:
        return read_run(self.folder)

    def saved(self) -> list[str]:
        return [path.name for path in checkpoint.saved(self.folder / "checkpoints")]

    def newest(self) -> checkpoint.State:
        return checkpoint.load(self.folder / "checkpoints" / self.saved()[-1])

    @property
    def weights_path(self) -> Path:
        return self.folder / "weights.safetensors"

    def lines(self, kind: str = "") -> list[dict[str, Any]]:
        lines = read_lines(self.folder / "log.jsonl")
        return [line for line in lines if kind in ("", line["kind"])]

    def traces(self) -> dict[str, Any]:
        """Return all of a finished run that must not depend on interruptions, by name."""
        last, weights = self.newest(), load_file(self.weights_path)
        found: dict[str, Any] = {f"scalar {name}": value for name, value in last.scalars.items()}
        found |= {f"state {name}": value.numpy().tobytes() for name, value in last.tensors.items()}
        found |= {name: value.numpy().tobytes() for name, value in weights.items()}
        found |= {path.name: path.read_bytes() for path in (self.folder / "snapshots").glob("*")}
        found["log"] = (self.folder / "log.jsonl").read_bytes()
        return found | {"weights": self.weights_path.read_bytes()}

    def whole(self) -> dict[str, Any]:
        """Return the traces of an uninterrupted training, which takes place once per module."""
        key = repr(self.config)
        if key not in self.known:
            trial = self.at(f"whole-{len(self.known)}")
            trial.go()
            self.known[key] = trial.traces()
        return self.known[key]

    def differences(self, expected: dict[str, Any] | None = None) -> list[str]:
        """Name what differs from these traces, or from those of an uninterrupted training."""
        found, expected = self.traces(), self.whole() if expected is None else expected
        return [
            key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)
        ]


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, dict[str, Any]]:
    return {}


@pytest.fixture
def trial(
    uninterrupted: dict[str, dict[str, Any]],
    make_config: Callable[..., Config],
    dataset: Dataset,
    tmp_path: Path,
) -> Trial:
    """Return a training to interrupt, resume and compare with an uninterrupted one."""
    return Trial(tmp_path / "run", dataset, make_config, uninterrupted, make_config())


@pytest.fixture
def fork() -> Callable[[Callable[[], None]], int]:
    """Run a function in a forked process; return its process id."""

    def run(work: Callable[[], None]) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: threads and forks
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                work()
                status = 0
            finally:
                os._exit(status)
        return pid

    return run
