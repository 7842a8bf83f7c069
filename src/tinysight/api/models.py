"""Load a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinysight.predict import predictor as predictors
from tinysight.predict.predictor import Predictor
from tinysight.run import Run, find_run, find_trained

if TYPE_CHECKING:
    from tinysight.api.data import Folder
    from tinysight.device import Runtime


def load_model(
    source: Run | Folder | None = None,
    *,
    device: str = "cpu",
    threshold: float | None = None,
    decoding: str | None = None,
) -> Predictor:
    """Load a trained model: a run or its name, a weights file, or (None) the bundled model.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N"; the CPU suits a few images.
        threshold: of a localizer, the confidence from which a box is accepted; None: its own.
        decoding: of a localizer, "filter" or "stop"; None: its own.
    """
    path, changes = find_weights(source), decoding_changes(threshold, decoding)
    return predictors.load_model(path, runtime=_runtime(path, device), **changes)


def _runtime(path: Path | None, device: str) -> Runtime | None:
    """Return where a model runs; None, without torch, for an ONNX file on the CPU."""
    is_onnx = path is None or path.suffix.lower() == ".onnx"
    if is_onnx and device in ("auto", "cpu"):
        return None
    from tinysight.device import select_device

    return select_device(device, "fp32")


def find_weights(source: Run | Folder | None) -> Path | None:
    """Return a run's folder or a weights file, of "bundled" too; None stays."""
    if source is None:
        return None
    if not isinstance(source, str | Path):
        return named_run(source).folder
    return predictors.BUNDLED if source == "bundled" else find_trained(source)


def decoding_changes(threshold: float | None = None, decoding: str | None = None) -> dict[str, Any]:
    """Return what is given of how boxes are chosen; raise ValueError where it is not allowed."""
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold:g}; give a confidence between 0 and 1")
    if decoding not in (None, "filter", "stop"):
        raise ValueError(f"decoding is {decoding!r}; allowed: filter, stop")
    given = {"threshold": threshold, "decoding": decoding}
    return {name: value for name, value in given.items() if value is not None}


def named_run(run: object) -> Run:
    """Return a run that is given as such, by name or by folder; ValueError for anything else."""
    if not isinstance(run, Run | str | Path):
        kind = type(run).__name__
        raise ValueError(f"this is a {kind}, not a run: give a Run, its name or its folder")
    return run if isinstance(run, Run) else find_run(run)
