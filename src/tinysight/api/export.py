"""Write a trained model in forms that other programs run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tinysight.api.data import Data, Folder, load_dataset
from tinysight.api.models import find_weights
from tinysight.device import select_device
from tinysight.exporting.measured import FORMS, INT8, Exported, write_int8
from tinysight.exporting.measured import export as export_weights
from tinysight.files import expand
from tinysight.predict.predictor import BUNDLED, BUNDLED_ONNX, weights_path
from tinysight.predict.weights import load_weights
from tinysight.progress import counting
from tinysight.run import Run, find_run

logger = logging.getLogger("tinysight")
ADDED = {"onnx-int8": "-int8", "hub": "-hub"}  # to the name of a file or folder
BY_SUFFIX = {".safetensors": "safetensors", ".onnx": "onnx", ".html": "html"}


def export(
    model: Run | Folder,
    to: str | None = None,
    *,
    out: Folder | None = None,
    half: bool = False,
    data: Data | None = None,
    device: str = "auto",
    data_dir: Folder | None = None,
) -> Path:
    """Write a run, a weights file or the bundled model ("bundled") in another form.

    The errors on val are measured with the file as written, and stored in it. Returns its path.

    Args:
        to: "onnx", "onnx-int8", "html" (a page that runs it), "hub" (a folder for others to load),
            "safetensors"; None: by the suffix of `out`, else "onnx".
        out: the file or folder; None: the run's name in the working folder.
        half: of "safetensors": matrices and kernels are stored as float16.
        data: the dataset that it learned from; None: by its name.
        device: what "safetensors" is measured on; ONNX is computed on the CPU.
    """
    given: dict[str, Any] = {"data": data, "device": device, "data_dir": data_dir}
    return export_files(model, to, out=out, half=half, **given).path


def export_files(
    model: Run | Folder,
    to: str | None = None,
    *,
    out: Folder | None = None,
    half: bool = False,
    data: Data | None = None,
    device: str = "auto",
    data_dir: Folder | None = None,
) -> Exported:
    """Do what `export` does, and return everything that the command prints."""
    path = None if out is None else expand(out)
    to = to or ("onnx" if path is None else BY_SUFFIX.get(path.suffix, "onnx"))
    if to not in FORMS:
        raise ValueError(f"there is no form {to!r}; choose {', '.join(FORMS)}")
    if half and to != "safetensors":
        raise ValueError(f"half is of safetensors, not of {to}; onnx-int8 is smaller still")
    weights = find_weights(model)
    assert weights is not None
    name = weights.name if weights.is_dir() else weights.stem
    path = path or Path(name + ADDED.get(to, "") + FORMS[to])
    # the name of a folder may have a dot
    if path.suffix != FORMS[to] if FORMS[to] else path.suffix in BY_SUFFIX:
        expected = f"ends in {FORMS[to]}" if FORMS[to] else "is a folder"
        raise ValueError(f"--out is {path}; what is exported to {to} {expected}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}; create it first")
    if weights == BUNDLED and to in ("onnx-int8", "html"):  # made and measured already
        return write_int8(BUNDLED_ONNX, path, form=to)
    if weights.is_dir():
        data = data or find_run(weights).config.data.name
    weights = weights_path(weights)
    metadata = load_weights(weights)[1]
    try:
        dataset = load_dataset(data or metadata.data, data_dir=data_dir)
    except ValueError:
        if data is not None or to in INT8 or "val" not in metadata.results:
            raise
        logger.warning("%s is not here: the file has the error of the weights", metadata.data)
        dataset = None
    runtime = select_device(device, "fp32")
    with counting("evaluating val") as progress:
        how: dict[str, Any] = {"runtime": runtime, "progress": progress}
        return export_weights(weights, path, dataset, form=to, half=half, **how)
