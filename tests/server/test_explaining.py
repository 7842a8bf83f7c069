"""Why over HTTP: heat maps in the picture's frame, and training images once they are prepared."""

from __future__ import annotations

import base64
import io
import json
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinysight.predict.occlusion import GRID
from tinysight.predict.predictor import Predictor
from tinysight.server import explaining


def wide(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 50, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_heat_map_lies_in_the_models_frame(client: Any, predictor: Predictor) -> None:
    status, content = client.ask("/api/heat", wide())
    found = json.loads(content)
    assert status == 200
    assert np.shape(found["heat"]) == (GRID, GRID)
    assert found["frame"] == [0, -15, 50, 50]  # the model pads
    assert found["class"] == predictor.predict(wide()).label
    assert found["probability"] == pytest.approx(predictor.predict(wide()).probability, abs=1e-4)
    assert "error" in json.loads(client.ask("/api/heat", b"no picture, but long enough")[1])
    assert client.ask("/api/heat?model=none", wide())[0] == 404


def test_nearest_images_are_prepared_once_and_failures_are_tried_again(
    client: Any, training_images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "PATIENCE", 0.05)
    assert json.loads(client.ask("/api/models")[1])["given"]["nearest"] is True
    training_images.fails = True
    while "prepared" in (found := json.loads(client.ask("/api/nearest", wide())[1])):
        time.sleep(0.01)
    assert found == {"error": "the disk is gone"}
    training_images.fails = False
    training_images.go_on.clear()
    assert json.loads(client.ask("/api/nearest", wide())[1]) == {"prepared": 0.5}
    training_images.go_on.set()
    for _ in range(2):
        time.sleep(0.1)
        [found] = json.loads(client.ask("/api/nearest", wide())[1])["nearest"]
        assert (found["file"], found["class"], found["distance"]) == ("a/<b>.png", "<b>cat", 0.25)
        content = base64.b64decode(found["image"].removeprefix("data:image/png;base64,"))
        assert np.array(Image.open(io.BytesIO(content))).tolist() == [[[9, 9, 9]] * 2] * 2
    assert training_images.prepared == 2


def test_explanations_wait_only_so_many(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "MAX_WAITING", 0)
    assert client.ask("/api/heat", wide())[0] == 503


def test_a_preparation_ends_with_the_server() -> None:
    comparison = explaining.Comparison(None)  # type: ignore[arg-type]
    comparison._note(1, 4)
    assert comparison.share == 0.25
    comparison.closed = True
    with pytest.raises(RuntimeError, match="has ended"):
        comparison._note(2, 4)
