"""What a model computes for images, by whichever engine, and how a localizer's boxes are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tinysight.ops.numpy_boxes import nms
from tinysight.predict.metadata import ModelMetadata

# per image, of any confidence, as in COCO's evaluation: metrics need those below the threshold, too
MAX_DETECTIONS = 100
UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


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


class Outputs(NamedTuple):
    """Logits of B images and, of a localizer, boxes in pixels; a confidence of 0 is padding."""

    logits: Float32  # (B, K)
    boxes: Float32 | None = None  # (B, M, 4), M at most MAX_DETECTIONS
    confidence: Float32 | None = None  # (B, M), falling
    labels: Int64 | None = None  # (B, M), where boxes have classes


def softmax(logits: Float32) -> Float32:
    """Logits (..., K) -> probabilities (..., K)."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Float32 = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def choose_boxes(
    decoding: Decoding, boxes: Float32, confidence: Float32, labels: Int64 | None = None
) -> tuple[Float32, Float32, Int64 | None]:
    """Candidates (B, N, T, 4) of N cells, confidence and labels (B, N, T) -> those of `Outputs`."""
    if decoding.decoding == "stop":  # see `ops.boxes.decode`
        confidence = np.minimum.accumulate(confidence, axis=2)
    flat = boxes.reshape(len(boxes), -1, 4), confidence.reshape(len(boxes), -1)
    own = None if labels is None else labels.reshape(len(boxes), -1)
    return nms(*flat, own, max_iou=decoding.nms_iou, max_boxes=MAX_DETECTIONS)
