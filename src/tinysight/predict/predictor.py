"""Inference on images: preprocessing, classification and detection. Needs no training code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from tinysight.device import Runtime
from tinysight.files import expand
from tinysight.images import Frame, Source, frame_of, load_square, read_image, to_square
from tinysight.models.localizer import Localizer
from tinysight.ops import augment
from tinysight.ops.boxes import Detections, decode, nms
from tinysight.predict.weights import ModelMetadata, load_weights

BUNDLED = Path(__file__).with_name("tiny-imagenet.safetensors")  # the bundled model
MAX_CANVAS = 2048  # pixels per side: memory grows with its square
MAX_DETECTIONS = 32  # per image, of any confidence: metrics need those below the threshold, too
NO_FRAME = Frame(0, 0, 0, 0)  # of a classifier's prediction
CPU = Runtime(device=torch.device("cpu"), bf16=False)

UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How square uint8 images become a network's input, in training, evaluation and prediction."""

    image_size: int  # of the images
    crop: int  # of the center window
    input_size: int  # that the window is resized to
    flip_average: bool  # average the logits of the image and its mirror image

    @classmethod
    def of(cls, metadata: ModelMetadata) -> Preprocessing:
        """Return the preprocessing that a model was trained for."""
        return cls(**{name: getattr(metadata, name) for name in cls.__dataclass_fields__})

    def center(self, images: Tensor, runtime: Runtime) -> Tensor:
        """Images uint8 (B, S, S, 3) -> center windows (B, 3, input, input) on the device."""
        return self._resized(images, self.crop, self.input_size, runtime)

    def full(self, images: Tensor, runtime: Runtime) -> Tensor:
        """Uncropped images, of any S: more pixels than `image_size` make a larger input."""
        side = images.shape[1]
        size = max(1, round(self.input_size * (side / self.image_size)))
        return self._resized(images, side, size, runtime)

    @staticmethod
    def _resized(images: Tensor, crop: int, size: int, runtime: Runtime) -> Tensor:
        images = images.to(runtime.device, non_blocking=True)
        params = augment.center(len(images), source_size=images.shape[1], crop=crop)
        return augment.resize(augment.apply(images, params.to(runtime.device), crop=crop), size)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How candidates become boxes; the fields are those of a config's `localizer` section."""

    decoding: str
    threshold: float
    nms_iou: float

    @classmethod
    def of(cls, metadata: ModelMetadata) -> Decoding | None:
        """Return how a localizer's candidates become boxes; None for a classifier."""
        if not metadata.localizer:
            return None
        return cls(**{name: metadata.localizer[name] for name in cls.__dataclass_fields__})


@torch.no_grad()
def classify(
    model: nn.Module, images: Tensor, preprocessing: Preprocessing, runtime: Runtime
) -> Tensor:
    """Images uint8 (B, S, S, 3) -> logits float32 (B, K) on the model's device."""
    views = preprocessing.center(images, runtime)
    model = model.encoder if isinstance(model, Localizer) else model
    with runtime.autocast():
        logits: Tensor = model(views).float()
        if preprocessing.flip_average:
            logits = (logits + model(views.flip(-1)).float()) / 2
    return logits


@torch.no_grad()
def detect(
    model: Localizer,
    images: Tensor,
    preprocessing: Preprocessing,
    decoding: Decoding,
    runtime: Runtime,
) -> tuple[Tensor, Detections]:
    """Images uint8 (B, S, S, 3), of any S -> logits (B, K) and boxes in pixels of the images.

    With `flip_average` the logits are the mean over the image and its mirror image; the boxes are
    the image's own.
    """
    side = images.shape[1]
    ratio = side / preprocessing.image_size
    views = preprocessing.full(images, runtime)
    with runtime.autocast():
        logits, candidates = model(views, ratio, ratio)
        logits = logits.float()
        if preprocessing.flip_average:
            logits = (logits + model.encoder(views.flip(-1)).float()) / 2
    size, rule = preprocessing.image_size, decoding.decoding
    detections = decode(candidates, side=size, height=side, width=side, decoding=rule)
    return logits, nms(detections, max_iou=decoding.nms_iou, max_boxes=MAX_DETECTIONS)


@dataclass(frozen=True, repr=False)
class Prediction:
    """The most probable classes of one image, and a localizer's boxes by falling confidence.

    Boxes are half-open, in pixels of the upright image. `frame` is what the model saw of it. Boxes
    from `threshold` on are accepted.
    """

    path: str  # "" of an image that is not a file
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...]
    probabilities: tuple[float, ...]
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    confidences: tuple[float, ...] = ()
    threshold: float = 0.5
    frame: Frame = NO_FRAME
    size: tuple[int, int] = (0, 0)  # with boxes: width and height of the upright image

    def __repr__(self) -> str:
        boxes = f", {self.num_accepted} boxes accepted" if self.size != (0, 0) else ""
        name = f"{Path(self.path).name}: " if self.path else ""
        return f"<Prediction {name}{self.label} {self.probability:.1%}{boxes}>"

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.class_names[0]

    @property
    def probability(self) -> float:
        """The probability of `label`."""
        return self.probabilities[0]

    @property
    def top(self) -> tuple[tuple[str, float], ...]:
        """Pairs of class name and probability."""
        return tuple(zip(self.class_names, self.probabilities, strict=True))

    @property
    def accepted(self) -> tuple[tuple[tuple[float, float, float, float], float], ...]:
        """Pairs of accepted box and confidence."""
        pairs = zip(self.boxes, self.confidences, strict=True)
        return tuple(pair for pair in pairs if pair[1] >= self.threshold)

    @property
    def num_accepted(self) -> int:
        """The number of accepted boxes; they are the first."""
        return len(self.accepted)


class Predictor:
    """A trained model, of a run's folder or a weights file, that takes images of any size.

    It runs on the CPU in float32 by default, which suits a few images. `threshold` (from which a
    box is accepted) and `decoding` ("filter" or "stop") replace a localizer's own.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        runtime: Runtime | None = None,
        threshold: float | None = None,
        decoding: str | None = None,
    ) -> None:
        source = expand(source)
        self.runtime = runtime or CPU
        self.path = source / "weights.safetensors" if source.is_dir() else source
        if source.is_dir() and not self.path.exists():
            reason = "the run is not finished; see `tinysight resume`"
            raise ValueError(f"{source} has no weights.safetensors: {reason}")
        model, self.metadata = load_weights(self.path)
        model.to(self.runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.localizer = model if isinstance(model, Localizer) else None
        self.model: Any = model.encoder if isinstance(model, Localizer) else model  # the classifier
        self.preprocessing = Preprocessing.of(self.metadata)
        self.decoding = Decoding.of(self.metadata)
        if self.decoding is not None:
            changes = {"threshold": threshold, "decoding": decoding}
            given = {name: value for name, value in changes.items() if value is not None}
            self.decoding = replace(self.decoding, **given)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"<Predictor {self.path}: {self.metadata.describe()}>"

    def logits(self, images: UInt8) -> Tensor:
        """Images (B, S, S, 3), S the metadata's image_size -> logits (B, K)."""
        return classify(self.model, _tensor(images), self.preprocessing, self.runtime)

    def detect(self, images: UInt8) -> tuple[Tensor, Detections]:
        """Images (B, S, S, 3), of any S -> logits (B, K) and boxes; see `detect`.

        Raises ValueError when the model is a classifier.
        """
        if self.localizer is None or self.decoding is None:
            instead = "train a localizer, as by `tinysight train localizer-joint`"
            raise ValueError(f"{self.path} is a classifier, which finds no boxes; {instead}")
        how = (self.preprocessing, self.decoding, self.runtime)
        return detect(self.localizer, _tensor(images), *how)

    def views(self, images: UInt8) -> Tensor:
        """Images (B, S, S, 3), S the metadata's image_size -> the classifier's input, in 0..255."""
        return self.preprocessing.center(_tensor(images), self.runtime)

    @overload
    def predict(  # type: ignore[overload-overlap] # a str is one image
        self, images: Source, *, top: int = 5, canvas: int | None = None
    ) -> Prediction: ...
    @overload
    def predict(
        self, images: Iterable[Source], *, top: int = 5, canvas: int | None = None
    ) -> list[Prediction]: ...
    def predict(
        self, images: Source | Iterable[Source], *, top: int = 5, canvas: int | None = None
    ) -> Prediction | list[Prediction]:
        """Predict one image, or several; see `read_image` for what an image may be.

        `canvas` is the side in pixels that a localizer's images are resized to, by default the
        metadata's image_size: a larger one keeps small objects large enough to be found. Raises
        ValueError when an image cannot be read, or the model cannot take the canvas.
        """
        one = isinstance(images, str | Path | bytes | Image.Image) or hasattr(images, "read")
        one = one or (isinstance(images, np.ndarray) and images.ndim <= 3)
        one = one or not isinstance(images, Iterable)  # which `read_image` refuses
        predictions = []
        several: Any = [images] if one else images
        for prediction in self.predict_each(several, top=top, canvas=canvas):
            if isinstance(prediction, ValueError):
                raise prediction
            predictions.append(prediction)
        return predictions[0] if one else predictions

    def predict_each(
        self,
        images: Iterable[Source],
        *,
        top: int = 5,
        canvas: int | None = None,
        batch_size: int = 64,
    ) -> Iterator[Prediction | ValueError]:
        """Yield the prediction of each image, or the ValueError that it cannot be read."""
        if self.localizer is not None or canvas is not None:
            yield from self._detect_each(images, top, canvas or self.metadata.image_size)
            return
        size, fit = self.metadata.image_size, self.metadata.fit
        pending = iter(images)
        while group := list(islice(pending, batch_size)):
            read: list[UInt8 | ValueError] = []
            for source in group:
                try:
                    read.append(load_square(source, size, fit))
                except ValueError as error:
                    read.append(error)
            good = [image for image in read if not isinstance(image, ValueError)]
            probabilities = iter(self.logits(np.stack(good)).softmax(dim=1).cpu() if good else ())
            for source, image in zip(group, read, strict=True):
                if isinstance(image, ValueError):
                    yield image
                else:
                    yield self._prediction(source, next(probabilities), top)

    def _detect_each(
        self, images: Iterable[Source], top: int, canvas: int
    ) -> Iterator[Prediction | ValueError]:
        smallest, fit = self.metadata.image_size, self.metadata.fit
        if not smallest <= canvas <= MAX_CANVAS:
            raise ValueError(f"the canvas is {canvas} pixels; give {smallest} to {MAX_CANVAS}")
        for source in images:
            try:
                image = read_image(source)
            except ValueError as error:
                yield error
                continue
            logits, detections = self.detect(to_square(image, canvas, fit)[None])
            frame = frame_of(*image.size, fit)
            boxes = frame.to_image(detections.boxes[0].cpu().numpy(), canvas)
            boxes = boxes.clip(0, image.size * 2)
            confidence = detections.confidence[0].cpu().numpy()
            # a box may lie in the padding alone
            kept = (confidence > 0) & (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
            assert self.decoding is not None
            yield replace(
                self._prediction(source, logits[0].softmax(dim=0).cpu(), top),
                boxes=tuple(tuple(box) for box in boxes[kept].tolist()),
                confidences=tuple(confidence[kept].tolist()),
                threshold=self.decoding.threshold,
                frame=frame,
                size=image.size,
            )

    def _prediction(self, source: Source, probabilities: Tensor, top: int) -> Prediction:
        values, indices = probabilities.topk(min(top, len(probabilities)))
        chosen = indices.tolist()
        path = str(source) if isinstance(source, str | Path) else ""
        metadata = self.metadata
        names, ids = (
            tuple(own[i] for i in chosen) for own in (metadata.class_names, metadata.class_ids)
        )
        return Prediction(path, names, ids, tuple(values.tolist()))


def load_model(
    source: str | Path | None = None,
    *,
    runtime: Runtime | None = None,
    threshold: float | None = None,
    decoding: str | None = None,
) -> Predictor:
    """Load a run's folder or a weights file; None: the bundled model. See `Predictor`.

    Raises ValueError when the file is missing or damaged.
    """
    if source is None and not BUNDLED.is_file():
        what = "install tinysight again, or name a run"
        raise ValueError(f"this installation of tinysight lacks {BUNDLED.name}; {what}")
    return Predictor(source or BUNDLED, runtime=runtime, threshold=threshold, decoding=decoding)


def _tensor(images: UInt8) -> Tensor:
    return torch.from_numpy(np.array(images))  # a copy: torch warns of arrays that are read-only
