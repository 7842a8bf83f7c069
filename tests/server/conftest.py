"""A small model, and a server of it that is asked over real HTTP."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch

from tinysight.api import sort
from tinysight.api.serve import learn
from tinysight.api.serve import training_images as find_training_images
from tinysight.models import create_model
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import weights_bytes
from tinysight.server.http import create_server

TOKEN = "a-token-of-the-tests"
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"


class Client:
    """Asks a running server, as a program that has the token."""

    def __init__(self, link: str) -> None:
        parts = urlsplit(link)
        assert parts.hostname and parts.port
        self.address = (parts.hostname, parts.port)
        self.token = parse_qs(parts.query)["token"][0]

    def ask(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        own = {"Authorization": f"Bearer {self.token}"} if headers is None else headers
        try:
            connection.request("GET" if body is None else "POST", path, body, own)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def predict(self, data: bytes) -> tuple[int, Any]:
        status, content = self.ask("/api/predict", data)
        return status, json.loads(content)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A classifier of three classes, untrained; a class has the name HOSTILE."""
    options = {"n": 1, "filters": (4, 8)}
    metadata = ModelMetadata(
        model="resnet",
        options=options,
        class_names=("cat", HOSTILE, "dog"),
        class_ids=("a", "b", "c"),
        image_size=32,
        crop=32,
        input_size=32,
        flip_average=False,
        recipe="test",
        data="pets",
        version="0",
        fit="pad",
    )
    path = tmp_path_factory.mktemp("model") / "weights.safetensors"
    model = create_model("resnet", 3, **options)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.0, 3.0, 0.0]))  # the name is shown
    path.write_bytes(weights_bytes(model, metadata))
    return Predictor(path)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the classes that are taught."""
    return tmp_path_factory.mktemp("project") / "pets"


class DrawnImages:
    """Training images that are compared as the server's tests wish; see `TrainingImages`."""

    def __init__(self) -> None:
        self.go_on, self.prepared, self.ready, self.fails = threading.Event(), 0, False, False
        self.go_on.set()

    def prepare(self, progress: Callable[[int, int], None]) -> None:
        self.prepared += 1
        progress(1, 2)
        assert self.go_on.wait(30)
        if self.fails:
            raise ValueError("the disk is gone")
        self.ready = True

    def nearest(self, image: Any) -> list[tuple[str, str, float, Any]]:
        return [("a/<b>.png", "<b>cat", 0.25, np.full((2, 2, 3), 9, np.uint8))]


@pytest.fixture(scope="module")
def training_images() -> DrawnImages:
    """What the given model was trained on."""
    return DrawnImages()


@pytest.fixture(scope="module")
def link(
    predictor: Predictor,
    project: Path,
    training_images: DrawnImages,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The link to the page of a running server."""
    home = tmp_path_factory.mktemp("home")
    os.environ |= {"TINYSIGHT_DATA": str(home / "data"), "TINYSIGHT_RUNS": str(home / "runs")}

    def find(model: Predictor) -> Any:
        return training_images if model is predictor else find_training_images(model)

    own: dict[str, Any] = {"learn": learn, "sorter": sort, "training_images": find}
    server, listener, link = create_server(predictor, folder=project, token=TOKEN, **own)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(link.replace("/?", "/readyz?"), timeout=5) as answer:
                if answer.status == 200:
                    break
        except OSError:
            assert time.monotonic() < deadline, "the server does not get ready"
            time.sleep(0.05)
    yield link
    del os.environ["TINYSIGHT_DATA"], os.environ["TINYSIGHT_RUNS"]
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def client(link: str) -> Client:
    return Client(link)


@pytest.fixture
def hold(page: Any) -> Callable[[str], Callable[[], None]]:
    """Keep the page's answers of a path back until what this returns is called."""

    def hold_(path: str) -> Callable[[], None]:
        page.evaluate(
            """(path) => {
                const own = window.fetch;
                const released = new Promise((done) => (window.release = done));
                window.fetch = async (...request) => {
                    const answer = await own(...request);
                    if (request[0].startsWith(path)) await released;
                    return answer;
                };
            }""",
            path,
        )
        return lambda: page.evaluate("release()")

    return hold_


@pytest.fixture(params=[400, 1400])
def page(browser: Any, link: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page at two widths; it asks no other host, and nothing is wrong in its console."""
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    page = context.new_page()
    wrong: list[str] = []
    own = link.partition("/?")[0]
    page.on(
        "console",
        lambda message: (
            wrong.append(f"{message.text} {message.location}") if message.type != "log" else 0
        ),
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def only_own(route: Any) -> None:
        if route.request.url.startswith((own, "blob:", "data:")):
            route.continue_()
        else:
            wrong.append(route.request.url)
            route.abort()

    context.route("**/*", only_own)
    page.goto(link)
    page.get_by_text("3 classes of pets").wait_for()
    yield page
    width = page.evaluate("() => document.documentElement.scrollWidth")
    context.close()
    assert wrong == []
    assert width <= request.param, "the page is wider than the window"
