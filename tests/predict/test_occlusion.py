"""Occlusion: the part that an answer rests on is hot, and where nothing counts nothing is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinysight.predict.decoding import Outputs
from tinysight.predict.occlusion import GRID, occlusion


class Looking:
    """A model for which only the brightness of one quadrant counts: top right."""

    def __init__(self, *, weight: float, classes: tuple[str, ...] = ("cat", "dog")) -> None:
        self.metadata = SimpleNamespace(classifies=True, class_names=classes)
        self.weight = weight
        self.batches: list[int] = []

    def outputs(self, images: Any) -> Outputs:
        self.batches.append(len(images))
        bright = images[:, :16, 16:].mean(axis=(1, 2, 3), dtype=np.float32) / 255
        logits = np.stack([0 * bright, self.weight * bright], axis=1)
        confidence = np.stack([bright, bright / 2], axis=1)
        return Outputs(logits, np.zeros((len(images), 2, 4), np.float32), confidence)


IMAGE = np.zeros((32, 32, 3), np.uint8)
IMAGE[:16, 16:] = 240


@pytest.mark.parametrize("classes", [("cat", "dog"), ("dog",)])
def test_the_part_that_counts_is_hot(classes: tuple[str, ...]) -> None:
    model = Looking(weight=8.0, classes=classes)  # of one class: the surest box counts
    found = occlusion(model, IMAGE)  # type: ignore[arg-type]
    half = GRID // 2
    assert found.label == ("dog" if len(classes) == 2 else "")
    assert found.heat.max() == 1.0 and found.heat.shape == (GRID, GRID)
    assert np.unravel_index(found.heat.argmax(), found.heat.shape)[0] < half
    assert found.heat[:half, half:].mean() > 0.5
    assert (found.heat[half + 1 :] == 0).all() and (found.heat[:, : half - 1] == 0).all()
    assert found.probability > found.covered
    if len(classes) == 1:
        assert found.probability == pytest.approx(240 / 255)
    assert sum(model.batches) == 1 + GRID * GRID and max(model.batches) <= 32


def test_an_answer_that_rests_on_no_part_has_no_heat() -> None:
    found = occlusion(Looking(weight=1.0), IMAGE)  # type: ignore[arg-type]
    assert 0 < found.heat.max() < 0.9  # of a change that is too small to count
    assert occlusion(Looking(weight=0.0), IMAGE).heat.max() == 0  # type: ignore[arg-type]
