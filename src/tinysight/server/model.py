"""A model that answers single pictures, in batches."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinysight.predict.predictor import BUNDLED, BUNDLED_ONNX, Prediction, Predictor
from tinysight.server.batching import Batcher
from tinysight.server.explaining import Comparison, TrainingImages
from tinysight.server.reading import Picture


class Model:
    """A model that answers pictures in batches, and the images that it was trained on."""

    def __init__(self, predictor: Predictor, images: TrainingImages | None) -> None:
        self.predictor = predictor
        self.batcher: Batcher[Picture, Prediction] = Batcher(self._predict)
        self.comparison = None if images is None else Comparison(images)

    def _predict(self, pictures: Sequence[Picture]) -> list[Prediction]:
        squares = np.stack([picture.square for picture in pictures])
        sizes = [(picture.width, picture.height) for picture in pictures]
        return self.predictor.predict_squares(squares, sizes)

    def describe(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        metadata, decoding = self.predictor.metadata, self.predictor.decoding
        return {
            "description": metadata.describe(),
            "classes": metadata.class_names,
            "classifies": metadata.classifies,
            "finds": decoding is not None,
            "box_classes": metadata.has_box_classes,
            "nearest": self.comparison is not None,
            "command": " ".join(["tinysight predict", *self._source()]),
        }

    def _source(self) -> list[str]:
        """Return what commands are given as this model."""
        path = self.predictor.path
        if path in (BUNDLED, BUNDLED_ONNX):
            return []
        return [shlex.quote(str(path.parent if (path.parent / "run.json").is_file() else path))]
