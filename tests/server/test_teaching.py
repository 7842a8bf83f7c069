"""Teach over HTTP: pictures are kept, learned, and answered by what was learned."""

from __future__ import annotations

import http.client
import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

import tinysight as ts
from tinysight.api.serve import learn


def colored(red: int, blue: int, seed: int) -> bytes:
    """Draw a picture of noise in a color."""
    noise = np.random.default_rng(seed).integers(0, 90, (40, 40, 3))
    pixels = (noise + np.array([red, 60, blue])).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def change(client: Any, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    connection = http.client.HTTPConnection(*client.address, timeout=120)
    headers = {"Authorization": f"Bearer {client.token}"}
    connection.request(method, f"/api/{path}", body, headers)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    assert answer.status == 200
    return dict(content)


COLORED = {"red & hot": (160, 0), "blue": (0, 160)}


@pytest.fixture(autouse=True)
def two_classes(project: Path) -> None:
    """The folder of two classes with six pictures each, whatever a test before did to it."""
    shutil.rmtree(project, ignore_errors=True)
    for name, (red, blue) in COLORED.items():
        (project / name).mkdir(parents=True)
        for seed in range(6):
            (project / name / f"{seed}.png").write_bytes(colored(red, blue, seed))


def test_classes_are_taught_and_the_taught_model_answers(client: Any, project: Path) -> None:
    shutil.rmtree(project)
    for name, (red, blue) in COLORED.items():
        change(client, "PUT", f"project/{quote(name)}")
        for seed in range(6):
            added = change(client, "POST", f"project/{quote(name)}", colored(red, blue, seed))
            assert (project / name / added["file"]).read_bytes() == colored(red, blue, seed)
    learned = change(client, "POST", "learn")
    assert "error" not in learned  # which is what went wrong, in words
    assert (learned["num_images"], learned["error_rate"], learned["confusions"]) == (12, 0.0, [])
    assert 0.1 < learned["high"] < 0.5
    shown = json.loads(client.ask("/api/models")[1])
    assert sorted(shown["taught"]["classes"]) == ["blue", "red & hot"]
    assert "pets" in shown["given"]["description"]
    for name, (red, blue) in COLORED.items():
        status, content = client.ask("/api/predict?model=taught", colored(red, blue, 99))
        assert status == 200 and json.loads(content)["top"][0]["class"] == name
    assert ts.load_model(learned["run"]).predict(colored(160, 0, 99)).label == "red & hot"
    assert len(list(Path(learned["run"]).parent.iterdir())) == 1
    again = change(client, "POST", "learn")  # takes the place of the first, and its name
    assert again["run"] == learned["run"]
    assert [str(path) for path in Path(again["run"]).parent.iterdir()] == [again["run"]]
    assert change(client, "GET", "project")["learned"] == again
    made = Path(again["run"]) / "report"
    made.mkdir()
    third = change(client, "POST", "learn")  # something was made of the second
    assert third["run"] != again["run"] and made.is_dir()


def test_the_classes_are_learned_once_at_a_time(client: Any, project: Path) -> None:
    for name, red in (("a", 160), ("b", 0)):
        change(client, "PUT", f"project/{name}")
        for seed in range(4):
            change(client, "POST", f"project/{name}", colored(red, 160 - red, seed))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: change(client, "POST", "learn"), range(4)))
    refused = [answer["error"] for answer in answers if "error" in answer]
    assert refused == ["the classes are being learned already"] * 3
    assert "error" not in change(client, "POST", "learn")


def test_a_picture_is_shown_small_taken_out_and_put_back(client: Any, project: Path) -> None:
    file = change(client, "POST", "project/blue", colored(50, 50, 1))["file"]
    status, content = client.ask(f"/api/project/blue/{file}")
    small = Image.open(io.BytesIO(content))
    assert (status, small.format, small.size) == (200, "JPEG", (40, 40))
    change(client, "DELETE", f"project/blue/{file}")
    assert client.ask(f"/api/project/blue/{file}")[0] == 404
    change(client, "PUT", f"project/blue/{file}")
    change(client, "PUT", f"project/red%20%26%20hot/{file}?from=blue")
    assert (project / "red & hot" / file).is_file() and not (project / "blue" / file).exists()


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("PUT", "project/..%5Cx", None, "a class's name"),
        ("PUT", "project/%2Ehidden", None, "a class's name"),
        ("PUT", "project/new?from=none", None, "no class"),
        ("POST", "project/none", colored(0, 0, 0), "no class"),
        ("POST", "project/blue", b"no picture, but long enough for one", "not an image"),
        ("DELETE", "project/blue", None, "has pictures"),
        ("DELETE", "project/blue/none.png", None, "no picture"),
        ("PUT", "project/blue/none.png", None, "not taken out"),
    ],
)
def test_what_cannot_be_done_is_said(
    client: Any, project: Path, method: str, path: str, body: bytes | None, words: str
) -> None:
    assert words in change(client, method, path, body)["error"]


def test_one_class_cannot_be_learned(client: Any, project: Path) -> None:
    shutil.rmtree(project / "red & hot")
    assert "class" in change(client, "POST", "learn")["error"]


def test_a_folder_that_may_not_be_written_is_named(
    client: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("tinysight.server.project.write_atomic", full)
    error = change(client, "POST", "project/blue", colored(1, 2, 3))["error"]
    assert error.startswith("No space left on device: ") and "blue" in error


def test_mistakes_are_named_with_their_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYSIGHT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path / "runs"))
    for name, red, blue in (("red", 160, 0), ("blue", 0, 160)):
        (tmp_path / "own" / name).mkdir(parents=True)
        for seed in range(24):
            (tmp_path / "own" / name / f"{seed}.png").write_bytes(colored(red, blue, seed))
    (tmp_path / "own" / "red" / "wrong.png").write_bytes(colored(0, 160, 99))
    assert learn(tmp_path / "own")["confusions"] == [("red", "blue", 1, ["wrong.png"])]
