"""What an answer rests on: how much weaker it gets while a part of the image is covered.

Source: Zeiler and Fergus 2014 (arXiv:1311.2901), section 4.2. The cover has the image's mean color.
It works for every engine and every kind of model, as it needs outputs only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinysight.predict.decoding import Float32, Outputs, UInt8
from tinysight.predict.predictor import Predictor

GRID = 8  # covers in a row
COVER = 0.25  # side of a cover, as a share of the image's
BATCH = 32
MIN_DROP = 0.5  # of the log-odds, from which a part counts at all


@dataclass(frozen=True)
class Occlusion:
    """How the answer depends on the parts of an image."""

    label: str  # the class in question; "": the surest box
    drops: Float32  # (GRID, GRID), by which the log-odds fall while the part there is covered
    probability: float  # of the class, or confidence of the box
    covered: float  # the same with the most important part covered

    @property
    def heat(self) -> Float32:
        """The drops (GRID, GRID) as shares of the largest, 0..1; zeros where nothing counts."""
        largest = max(MIN_DROP, float(self.drops.max()))
        heat: Float32 = (self.drops.clip(0) / largest).astype(np.float32)
        return heat


def occlusion(predictor: Predictor, image: UInt8) -> Occlusion:
    """Cover each part of an image (S, S, 3), S the metadata's image_size, and compare.

    The answer in question is the most probable class; where there is one class at most, or none is
    learned, the surest box.
    """
    images = np.concatenate([image[None], _covered(image)])
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    outputs = [predictor.outputs(part) for part in parts]
    by_class = predictor.metadata.classifies and len(predictor.metadata.class_names) > 1
    best = int(outputs[0].logits[0].argmax()) if by_class else None
    odds = np.concatenate([_log_odds(each, best) for each in outputs])
    drops = (odds[0] - odds[1:]).reshape(GRID, GRID)
    weakest = odds[1 + int(drops.argmax())]
    before, after = (1 / (1 + np.exp(-np.clip([odds[0], weakest], -50, 50)))).tolist()
    label = "" if best is None else predictor.metadata.class_names[best]
    return Occlusion(label, drops, before, after)


def _covered(image: UInt8) -> UInt8:
    side = len(image)
    images = np.repeat(image[None], GRID * GRID, axis=0)
    mean = image.mean(axis=(0, 1)).round().astype(np.uint8)
    half = max(1.0, COVER * side / 2)
    for number, (row, column) in enumerate(np.ndindex(GRID, GRID)):
        y, x = ((place + 0.5) * side / GRID for place in (row, column))
        rows, columns = (slice(max(0, round(at - half)), round(at + half)) for at in (y, x))
        images[number, rows, columns] = mean
    return images


def _log_odds(outputs: Outputs, best: int | None) -> Float32:
    """Return log(p / (1 - p)) of a class, or of the surest box's confidence (None), (B,)."""
    odds: Float32
    if best is None:
        assert outputs.confidence is not None
        surest = outputs.confidence[:, :1].max(axis=1, initial=0).clip(1e-6, 1 - 1e-6)
        odds = np.log(surest / (1 - surest))
        return odds
    logits = outputs.logits.astype(np.float64)
    others = np.logaddexp.reduce(np.delete(logits, best, axis=1), axis=1)
    odds = (logits[:, best] - others).astype(np.float32)
    return odds
