"""Features of a dataset's images and their mirror images, computed once and kept.

They are kept in the data home, under `.features`, by the digests of images and encoder, in blocks
of rows that appear complete or not at all: an interrupted computation goes on where it was.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinysight.data.build import features_folder
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.files import write_atomic
from tinysight.finetuning.encoders import Encoder
from tinysight.models.classifier import Classifier
from tinysight.models.distance_head import roots
from tinysight.predict.decoding import UInt8
from tinysight.predict.inference import Preprocessing

BLOCK = 128  # rows in a file
BATCH = 32

Rows = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]


def features_of(
    encoder: Encoder,
    dataset: Dataset,
    rows: Rows,
    *,
    home: Path,
    runtime: Runtime,
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """Return what a `DistanceHead` projects, of images and their mirror images.

    Args:
        rows: of the dataset (N,), ascending.
        home: the data home; features are not kept where it cannot be written.
        progress: called with (rows done, rows in total).

    Returns:
        float16 (N, 2, F).

    Raises ValueError where a feature is not finite.
    """
    network: Classifier | None = None
    how = encoder.preprocessing(dataset.image_size)
    key = hashlib.sha256(f"{dataset.digest} {encoder.digest} {how}".encode()).hexdigest()
    folder, parts, done = features_folder(home, dataset.digest) / key[:32], [], 0
    for block in np.unique(rows // BLOCK).tolist():
        start, stop = block * BLOCK, min((block + 1) * BLOCK, len(dataset))
        path = folder / f"{start:08d}.npy"
        computed = _read(path, stop - start)
        if computed is None:
            if network is None:
                network = encoder.network(2)
                network.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            computed = _compute(network, encoder, dataset, range(start, stop), runtime)
            with suppress(OSError):
                _write(path, computed)
        wanted = rows[rows // BLOCK == block] - start
        parts.append(computed[wanted])
        done += len(wanted)
        progress(done, len(rows))
    return torch.from_numpy(np.concatenate(parts))


@torch.inference_mode()
def embed(network: Classifier, how: Preprocessing, images: UInt8, runtime: Runtime) -> Tensor:
    """Images (B, S, S, 3) -> what a `DistanceHead` projects, float16 (B, 2, F) on the CPU."""
    views = how.center(torch.from_numpy(np.array(images)), runtime)
    both = [roots(network.forward_features(x).float()) for x in (views, views.flip(-1))]
    return torch.stack(both, dim=1).half().cpu()


def _compute(
    network: Classifier, encoder: Encoder, dataset: Dataset, rows: range, runtime: Runtime
) -> npt.NDArray[np.float16]:
    how, parts = encoder.preprocessing(dataset.image_size), []
    for start in range(rows.start, rows.stop, BATCH):
        images = dataset.images[start : min(start + BATCH, rows.stop)]
        part = embed(network, how, images, runtime).numpy()
        if not np.isfinite(part).all():
            message = "gives features that are not numbers: its weights are damaged, or overflow"
            raise ValueError(f"the encoder {encoder.name} {message}")
        parts.append(part)
    return np.concatenate(parts)


def _read(path: Path, num_rows: int) -> npt.NDArray[np.float16] | None:
    """Read a block; None where there is none, or a damaged one."""
    with suppress(OSError, ValueError, EOFError):
        found = np.load(path, allow_pickle=False)
        if found.dtype == np.float16 and found.ndim == 3 and len(found) == num_rows:
            return found if np.isfinite(found).all() else None
    return None


def _write(path: Path, block: npt.NDArray[np.float16]) -> None:
    content = io.BytesIO()
    np.save(content, block)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.getvalue())
