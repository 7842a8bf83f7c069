"""The training images that a run's network finds most like a given one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from tinysight.data.batches import balanced_subset
from tinysight.data.dataset import Dataset
from tinysight.data.load import find_prepared
from tinysight.finetuning.encoders import find_encoder
from tinysight.finetuning.features import BATCH, Progress, embed, features_of
from tinysight.predict.decoding import UInt8
from tinysight.predict.inference import CPU
from tinysight.run import Run

MAX_CANDIDATES = 5_000  # training images that are compared, as many of each class
NUM_NEIGHBORS = 6


class Neighbor(NamedTuple):
    """A training image that resembles another one."""

    file: str  # relative to the dataset's source
    label: str  # "" without one
    distance: float  # 1 - the cosine of the features, from which the training images' mean is taken
    image: UInt8  # (S, S, 3)


class Neighbors:
    """Compare images with those that a run was trained on, by the features of its network.

    A finetuned run's features are kept already; others are computed by `prepare`, and kept where
    they are of all images.
    Raises ValueError where the dataset is not prepared in `home`, or is another one by now.
    """

    def __init__(self, run: Run, *, home: Path) -> None:
        self.run, self.home = run, home
        self.dataset: Dataset = find_prepared(run.config.data.name, home=home)
        if self.dataset.digest != run.data_digest:
            raise ValueError(f"{self.dataset.name} has changed since {run.name} was trained on it")

    def prepare(self, progress: Progress = lambda done, total: None) -> None:
        """Compute the features of the training images, where they are not kept."""
        self.encoder = find_encoder(self.run.folder)
        self.network = self.encoder.network(2)
        rows = np.array(self.dataset.rows(self.run.config.data.train), np.int64)
        share = min(1.0, MAX_CANDIDATES / len(rows))
        self.rows = balanced_subset(rows, self.dataset.labels[rows], share)
        known = self._features(share == 1, progress).float().mean(dim=1)
        self.center = known.mean(dim=0)
        self.known = F.normalize(known - self.center, dim=1)

    def _features(self, of_all: bool, progress: Progress) -> Tensor:
        if of_all:
            own = (self.encoder, self.dataset, self.rows)
            return features_of(*own, home=self.home, runtime=CPU, progress=progress)
        parts = []
        for start in range(0, len(self.rows), BATCH):
            images = self._images(self.rows[start : start + BATCH])
            parts.append(self._embed(images))
            progress(start + len(images), len(self.rows))
        return torch.cat(parts)

    def _images(self, rows: npt.NDArray[np.int64]) -> UInt8:
        view = self.dataset.view
        if view is None:
            return np.take(self.dataset.images, rows, axis=0)
        return np.stack([view.compose(row) for row in rows.tolist()])  # not all of a large view

    def _embed(self, images: UInt8) -> Tensor:
        return embed(self.network, self.encoder.preprocessing(images.shape[1]), images, CPU)

    def nearest(self, image: UInt8, *, k: int = NUM_NEIGHBORS) -> list[Neighbor]:
        """Return the k most similar training images of an image (S, S, 3), the nearest first."""
        query = self._embed(image[None]).float().mean(dim=1)
        cosines = self.known @ F.normalize(query - self.center, dim=1)[0]
        best = torch.topk(cosines, min(k, len(cosines)))
        return [
            self._neighbor(int(self.rows[place]), 1 - cosine)
            for cosine, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _neighbor(self, row: int, distance: float) -> Neighbor:
        dataset, label = self.dataset, int(self.dataset.labels[row])
        name = dataset.class_names[label] if label >= 0 else ""
        image = self._images(np.array([row]))[0]
        return Neighbor(dataset.files[row], name, max(0.0, distance), image)
