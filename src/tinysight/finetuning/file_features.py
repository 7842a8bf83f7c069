"""Features of single files by the SHA-256 of their content, computed once and kept.

Unlike a dataset's (`features`), they stay when files are added, moved or renamed.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinysight.device import Runtime
from tinysight.files import write_atomic
from tinysight.finetuning.encoders import Encoder
from tinysight.finetuning.features import embed
from tinysight.models.classifier import Classifier
from tinysight.predict.decoding import UInt8

_DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class FileFeatures:
    """Features of the files of one folder, kept below `home` in files of as many as were added."""

    def __init__(self, encoder: Encoder, folder: Path, *, home: Path, runtime: Runtime) -> None:
        self.encoder, self.runtime = encoder, runtime
        self.how = encoder.preprocessing(encoder.image_size)
        key = hashlib.sha256(f"{folder} {encoder.digest} {self.how}".encode(errors="replace"))
        self.place = home / ".features" / f"files-{key.hexdigest()[:32]}"
        self.known: dict[str, Tensor] = {}
        for path in sorted(self.place.glob("*.npz")):
            with suppress(*_DAMAGED):  # computed again
                kept = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
                rows = zip(kept["digests"], torch.from_numpy(kept["features"]), strict=True)
                self.known |= {digest.tobytes().hex(): views for digest, views in rows}

    @cached_property
    def _network(self) -> Classifier:
        return self.encoder.network(2).to(self.runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def add(self, digests: Sequence[str], images: UInt8) -> None:
        """Compute and keep the features of images (B, S, S, 3), S the encoder's `image_size`."""
        views = embed(self._network, self.how, images, self.runtime)
        content = io.BytesIO()
        rows = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, 32)
        np.savez(content, digests=rows, features=views.numpy())
        with suppress(OSError):  # a home that cannot be written
            self.place.mkdir(parents=True, exist_ok=True)
            write_atomic(self.place / f"{digests[0][:16]}-{len(digests)}.npz", content.getvalue())
        self.known |= dict(zip(digests, views, strict=True))

    def of(self, digests: Sequence[str]) -> Tensor:
        """Return what a `DistanceHead` projects, float16 (N, 2, F)."""
        return torch.stack([self.known[digest] for digest in digests])
