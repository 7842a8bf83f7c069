"""Name what is in photographs, and find it, with a trained model and nothing of the training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tinysight.device import Runtime
from tinysight.images import load_square, read_image, to_square
from tinysight.models.localizer import Localizer
from tinysight.ops.boxes import scale, shift
from tinysight.predict.inference import Decoding, ImageDetections, center_views, find, score
from tinysight.predict.weights import DECODING_SETTINGS, ModelMetadata, load_weights

LARGEST_CANVAS = 2048  # pixels a side: the network's volumes grow with its square


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The likeliest classes of one image, best first; of a localizer also its boxes, the most
    confident first.

    Boxes are half-open, in pixels of the upright photograph. `frame` is the square of it that
    was looked at: left, top and side. Boxes from `threshold` on are accepted."""

    path: str
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...]
    probabilities: tuple[float, ...]
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    confidences: tuple[float, ...] = ()
    threshold: float = 0.5
    frame: tuple[int, int, int] = (0, 0, 0)

    @property
    def num_accepted(self) -> int:
        """How many boxes are accepted; they are the first."""
        return sum(confidence >= self.threshold for confidence in self.confidences)


def decoding_of(metadata: ModelMetadata) -> Decoding | None:
    """Return how a localizer's candidates become boxes, None for a classifier."""
    if not metadata.localizer:
        return None
    settings = {name: metadata.localizer[name] for name in DECODING_SETTINGS}
    return Decoding(image_size=metadata.image_size, **settings)


class Predictor:
    """A trained model that takes photographs of any size.

    Args:
        source: a run folder or a weights file.
        runtime: where it runs; by default the CPU in float32, which suits a few images.
        threshold: of a localizer, the confidence from which a box is accepted; by default its own.
        decoding: of a localizer, "filter" or "stop"; by default its own.
    """

    def __init__(
        self,
        source: Path,
        *,
        runtime: Runtime | None = None,
        threshold: float | None = None,
        decoding: str | None = None,
    ) -> None:
        self.runtime = runtime or Runtime(device=torch.device("cpu"), bf16=False)
        self.path = source / "weights.safetensors" if source.is_dir() else source
        if source.is_dir() and not self.path.exists():
            raise ValueError(
                f"{source} holds no weights.safetensors: no finished run; see `tinysight resume`"
            )
        model, self.metadata = load_weights(self.path)
        model.to(self.runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.localizer = model if isinstance(model, Localizer) else None
        self.model: Any = (
            model.encoder if isinstance(model, Localizer) else model
        )  # that names what it sees
        self.decoding = decoding_of(self.metadata)
        if self.decoding is not None:
            self.decoding = replace(
                self.decoding,
                threshold=self.decoding.threshold if threshold is None else threshold,
                decoding=self.decoding.decoding if decoding is None else decoding,
            )

    def logits(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Images (B, S, S, 3), S the metadata's image_size -> logits (B, K)."""
        metadata = self.metadata
        return score(
            self.model,
            torch.from_numpy(images),
            crop=metadata.crop,
            size=metadata.input_size,
            flip_average=metadata.flip_average,
            runtime=self.runtime,
        )

    def find(self, images: npt.NDArray[np.uint8]) -> ImageDetections:
        """Name and find what is in images (B, S, S, 3); S need not be the metadata's image_size:
        see `scoring.find`.

        Raises:
            ValueError: the model is a classifier.
        """
        if self.localizer is None or self.decoding is None:
            raise ValueError(
                f"{self.path} is a classifier, which finds no boxes; train a localizer, as by "
                "`tinysight train localizer-joint`"
            )
        return find(
            self.localizer,
            torch.from_numpy(images),
            size=self.metadata.input_size,
            flip_average=self.metadata.flip_average,
            decoding=self.decoding,
            runtime=self.runtime,
        )

    def views(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Images (B, S, S, 3), S the metadata's image_size -> what the network sees, (B, 3, size,
        size) in 0..255.
        """
        metadata = self.metadata
        return center_views(
            torch.from_numpy(images),
            crop=metadata.crop,
            size=metadata.input_size,
            runtime=self.runtime,
        )

    def predict(
        self,
        paths: Iterable[Path],
        *,
        top: int = 5,
        batch_size: int = 64,
        canvas: int | None = None,
    ) -> Iterator[Prediction | ValueError]:
        """Yield for each image its prediction, or the ValueError that says why it cannot be read.

        Args:
            canvas: of a localizer, the side in pixels that images are brought to in place of the
                metadata's image_size: a larger one keeps small objects large enough to be found.

        Raises:
            ValueError: a canvas for a classifier, or one smaller than its training images.
        """
        if self.localizer is not None or canvas is not None:
            yield from self._predict_with_boxes(paths, top, canvas or self.metadata.image_size)
            return
        pending = iter(paths)
        while group := list(islice(pending, batch_size)):
            read: list[npt.NDArray[np.uint8] | ValueError] = []
            for path in group:
                try:
                    read.append(load_square(path, self.metadata.image_size))
                except ValueError as error:
                    read.append(error)
            good = [image for image in read if not isinstance(image, ValueError)]
            probabilities = iter(self.logits(np.stack(good)).softmax(dim=1).cpu() if good else ())
            for path, image in zip(group, read, strict=True):
                yield (
                    image
                    if isinstance(image, ValueError)
                    else self._best(str(path), next(probabilities), top)
                )

    def _predict_with_boxes(
        self, paths: Iterable[Path], top: int, canvas: int
    ) -> Iterator[Prediction | ValueError]:
        if not self.metadata.image_size <= canvas <= LARGEST_CANVAS:
            raise ValueError(
                f"the canvas is {canvas} pixels; give {self.metadata.image_size} to {LARGEST_CANVAS}"
            )
        for path in paths:
            try:
                photo = read_image(path)
            except ValueError as error:
                yield error
                continue
            found = self.find(to_square(photo, canvas)[None])
            side = min(photo.size)
            left, top_edge = (photo.width - side) // 2, (photo.height - side) // 2
            some = found.confidence[0] > 0
            boxes = shift(
                scale(found.boxes[0][some].cpu(), x=side / canvas, y=side / canvas),
                x=left,
                y=top_edge,
            )
            assert self.decoding is not None
            yield replace(
                self._best(str(path), found.logits[0].softmax(dim=0).cpu(), top),
                boxes=tuple(tuple(box) for box in boxes.tolist()),
                confidences=tuple(found.confidence[0][some].tolist()),
                threshold=self.decoding.threshold,
                frame=(left, top_edge, side),
            )

    def _best(self, path: str, probabilities: torch.Tensor, top: int) -> Prediction:
        values, indices = probabilities.topk(min(top, len(probabilities)))
        chosen = indices.tolist()
        return Prediction(
            path=path,
            class_names=tuple(self.metadata.class_names[i] for i in chosen),
            class_ids=tuple(self.metadata.class_ids[i] for i in chosen),
            probabilities=tuple(values.tolist()),
        )
