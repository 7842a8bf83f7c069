"""Inference on images: preprocessing, classification and detection. Needs no training code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
from PIL import Image

from tinysight.files import expand
from tinysight.images import Frame, Source, frame_of
from tinysight.predict.decoding import Decoding, Float32, Outputs, UInt8, softmax
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.reading import Square, read_squares
from tinysight.text import pluralize

if TYPE_CHECKING:
    from tinysight.device import Runtime
    from tinysight.predict.inference import Network

NONE = "none of these"
# the bundled model in float16 and, for prediction on a CPU, int8
BUNDLED = Path(__file__).with_name("tiny-imagenet.safetensors")
BUNDLED_ONNX = BUNDLED.with_suffix(".onnx")
NO_FRAME = Frame(0, 0, 0, 0)  # of a classifier's prediction


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
    # class of each box: the image's where boxes have none of their own, "" where nothing has one
    box_labels: tuple[str, ...] = ()
    threshold: float = 0.5
    frame: Frame = NO_FRAME
    size: tuple[int, int] = (0, 0)  # with boxes: width and height of the upright image
    is_none: bool = False  # whether it is too far from all classes to be of one of them

    def __repr__(self) -> str:
        boxes = f", {pluralize(self.num_accepted, 'box')} accepted" if self.size != (0, 0) else ""
        name = f"{Path(self.path).name}: " if self.path else ""
        none = f"{NONE}, nearest " * self.is_none
        return f"<Prediction {name}{none}{self.label} {self.probability:.1%}{boxes}>"

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
    def accepted_labels(self) -> tuple[str, ...]:
        """The class of each accepted box."""
        return self.box_labels[: self.num_accepted]

    @property
    def num_accepted(self) -> int:
        """The number of accepted boxes; they are the first."""
        return len(self.accepted)


class Engine(Protocol):
    """A model that computes `Outputs` of images (B, S, S, 3), S the metadata's image_size."""

    metadata: ModelMetadata
    max_side: int  # S of a localizer's images may be up to this

    def __call__(self, images: UInt8, decoding: Decoding | None) -> Outputs: ...


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
        self.path = weights_path(expand(source))
        self.engine = _load_engine(self.path, runtime)
        self.metadata = self.engine.metadata
        self.decoding = Decoding.of(self.metadata)
        changes: dict[str, Any] = {"threshold": threshold, "decoding": decoding}
        given = {name: value for name, value in changes.items() if value is not None}
        if given and self.decoding is None:
            what = f"{next(iter(given))} is of a localizer, and {self.path} finds no boxes"
            raise ValueError(f"{what}; leave it out")
        if self.decoding is not None:
            self.decoding = replace(self.decoding, **given)

    def __repr__(self) -> str:
        return f"<Predictor {self.path}: {self.metadata.describe()}>"

    @property
    def network(self) -> Network:
        """The model in torch; ValueError for an ONNX file, whose layers cannot be reached."""
        from tinysight.predict.inference import Network

        if isinstance(self.engine, Network):
            return self.engine
        raise ValueError(f"{self.path} only predicts; this needs the run or its .safetensors")

    def outputs(self, images: UInt8) -> Outputs:
        """Images (B, S, S, 3), S the metadata's image_size, or more of a localizer -> `Outputs`."""
        return self.engine(images, self.decoding)

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
        side, fit = self._side(canvas), self.metadata.fit
        batch_size = max(1, round(batch_size * (self.metadata.image_size / side) ** 2))
        pending = read_squares(images, side, fit)
        while group := list(islice(pending, batch_size)):
            good = [each for each in group if isinstance(each, Square)]
            squares, sizes = [each.pixels for each in good], [each.size for each in good]
            found = iter(self.predict_squares(np.stack(squares), sizes, top=top) if good else ())
            for each in group:
                yield _of(each.source, next(found)) if isinstance(each, Square) else each

    def _side(self, canvas: int | None) -> int:
        """Return the side of the squares that images become; refuse one that is not possible."""
        smallest, largest = self.metadata.image_size, self.engine.max_side
        if canvas is None:
            return smallest
        if not smallest <= canvas <= largest:
            sides = f"give {smallest} to {largest}"
            if largest == smallest:
                sides = f"an ONNX file takes {smallest}, the run or its .safetensors any"
            raise ValueError(f"the canvas is {canvas} pixels; {sides}")
        if self.decoding is None:
            instead = "train a localizer, as by `tinysight train localizer-joint`"
            raise ValueError(f"{self.path} is a classifier, which finds no boxes; {instead}")
        return canvas

    def predict_squares(
        self, squares: UInt8, sizes: Sequence[tuple[int, int]], *, top: int = 5
    ) -> list[Prediction]:
        """Predict images that are squares already, by the metadata's fit: (B, S, S, 3).

        `sizes` are width and height of the upright images that they come from, where boxes lie; a
        classifier needs none.
        """
        found = self.outputs(squares)
        predictions = [self._prediction(logits, top) for logits in found.logits]
        if self.decoding is None:
            return predictions
        assert found.boxes is not None and found.confidence is not None
        located = []
        for row, ((width, height), prediction) in enumerate(zip(sizes, predictions, strict=True)):
            frame, confidence = frame_of(width, height, self.metadata.fit), found.confidence[row]
            boxes = frame.to_image(found.boxes[row], squares.shape[1])
            boxes = boxes.clip(0, (width, height) * 2)
            # a box may lie in the padding alone
            kept = (confidence > 0) & (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
            own: dict[str, Any] = {"boxes": tuple(tuple(box) for box in boxes[kept].tolist())}
            own |= {"confidences": tuple(confidence[kept].tolist())}
            names = [prediction.label if self.metadata.classifies else ""] * int(kept.sum())
            if found.labels is not None:
                names = [self.metadata.class_names[label] for label in found.labels[row][kept]]
            own["box_labels"] = tuple(names)
            own |= {"threshold": self.decoding.threshold, "frame": frame, "size": (width, height)}
            located.append(replace(prediction, **own))
        return located

    def _prediction(self, logits: Float32, top: int) -> Prediction:
        probabilities = softmax(logits)
        chosen = np.argsort(-probabilities, kind="stable")[:top].tolist()
        metadata = self.metadata
        names, ids = (
            tuple(own[i] for i in chosen) for own in (metadata.class_names, metadata.class_ids)
        )
        least = metadata.none_below
        is_none = least is not None and bool(logits.max() < least)
        return Prediction("", names, ids, tuple(probabilities[chosen].tolist()), is_none=is_none)


def _of(source: Source, prediction: Prediction) -> Prediction:
    return replace(prediction, path=str(source)) if isinstance(source, str | Path) else prediction


def load_model(
    source: str | Path | None = None,
    *,
    runtime: Runtime | None = None,
    threshold: float | None = None,
    decoding: str | None = None,
) -> Predictor:
    """Load a run's folder or a weights file; None: the bundled model. See `Predictor`.

    The bundled model is an int8 file, which needs no torch, unless a runtime is given. Raises
    ValueError when the file is missing or damaged.
    """
    bundled = BUNDLED_ONNX if runtime is None else BUNDLED
    if source is None and not bundled.is_file():
        what = "install tinysight again, or name a run"
        raise ValueError(f"this installation of tinysight lacks {bundled.name}; {what}")
    return Predictor(source or bundled, runtime=runtime, threshold=threshold, decoding=decoding)


def weights_path(source: Path) -> Path:
    """Return the weights of a finished run's folder; a file is returned as it is."""
    if not source.is_dir():
        return source
    path = source / "weights.safetensors"
    if not path.exists():
        reason = "the run is not finished; see `tinysight resume`"
        raise ValueError(f"{source} has no {path.name}: {reason}")
    return path


def _load_engine(path: Path, runtime: Runtime | None) -> Engine:
    """Read a file for the engine that computes it, and import that one alone."""
    if path.suffix.lower() != ".onnx":
        from tinysight.predict.inference import Network

        return Network(path, runtime)
    if runtime is not None and runtime.device.type != "cpu":
        raise ValueError(
            f"{path} is computed on the CPU; for {runtime.device} give the .safetensors"
        )
    from tinysight.predict.onnx_file import OnnxNetwork

    return OnnxNetwork(path)
