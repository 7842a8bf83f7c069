"""The log files of a training.

`log.jsonl` has what follows from the arithmetic (losses, errors, learning rates): after an
interruption it continues as if there had been none, byte for byte. `timing.jsonl` has the times.
TensorBoard gets both.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Sequence
from typing import Any

from tinysight.run import Run, read_lines
from tinysight.training.recording import Recorded


class RunLogger:
    """Writes a run's log files, from a checkpoint on.

    Args:
        step: the step that the training continues from.
        log_bytes: the log's length then; the rest, of steps that are taken again, is cut off.
    """

    def __init__(self, run: Run, *, step: int, log_bytes: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # takes a second to import

        self._log: Any = run.log_path.open("ab")
        if self._log.tell() < log_bytes:
            self._log.close()
            raise ValueError(
                f"{run.log_path} is shorter than at the checkpoint ({log_bytes} bytes); "
                "restore the file or train a new run"
            )
        self._log.truncate(log_bytes)
        self._log.seek(log_bytes)
        timing = run.timing_path
        try:
            before = read_lines(timing)
        except ValueError:  # a power cut can leave anything in it; the training matters more
            before = []
        self._seconds_before = float(before[-1]["seconds"]) if before else 0.0
        kept = [json.dumps(line) + "\n" for line in before if line["step"] <= step]
        timing.write_text("".join(kept))  # without an incomplete line, which a kill may leave
        self._timing = timing.open("ab")
        self._board = SummaryWriter(
            str(run.tensorboard_path), purge_step=step + 1 if step else None, flush_secs=30
        )
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of this training, over all interruptions, as far as they were logged."""
        return self._seconds_before + time.perf_counter() - self._start

    def write(
        self, kind: str, step: int, values: dict[str, Any], *, images_per_s: float | None = None
    ) -> None:
        """Write the values of a step; `kind` is "train" or "epoch"."""
        speed = {} if images_per_s is None else {"images_per_s": images_per_s}
        rounded = {name: round(value, 1) for name, value in speed.items()}
        timing = {"seconds": round(self.seconds, 3), **rounded}
        for file, own in ((self._log, values), (self._timing, timing)):
            file.write(json.dumps({"kind": kind, "step": step, **own}).encode() + b"\n")
            file.flush()
        for name, value in {**values, **speed}.items():
            if isinstance(value, int | float) and name != "epoch":
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def write_distributions(self, recorded: Sequence[Recorded]) -> None:
        """Write layers' distributions: one line per step in the log, histograms in TensorBoard."""
        for step, group in itertools.groupby(recorded, key=lambda item: item.step):
            layers = {item.layer: item for item in group}
            statistics = {name: item.statistics for name, item in layers.items()}
            line = {"kind": "distribution", "step": step, "layers": statistics}
            self._log.write(json.dumps(line).encode() + b"\n")
            for name, item in layers.items():
                self._board.add_histogram(f"activations/{name}", item.sample, step)
        self._log.flush()

    def sync(self) -> int:
        """Wait until the disk has the log, and return its length for the checkpoint."""
        os.fsync(self._log.fileno())
        return int(self._log.tell())

    def close(self) -> None:
        """Close all files."""
        for file in (self._log, self._timing, self._board):
            file.close()
