"""A small model, and a server of it that is asked over real HTTP."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import torch

from tinysight.api.serve import learn
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


@pytest.fixture(scope="module")
def link(
    predictor: Predictor, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The link to the page of a running server."""
    home = tmp_path_factory.mktemp("home")
    os.environ |= {"TINYSIGHT_DATA": str(home / "data"), "TINYSIGHT_RUNS": str(home / "runs")}
    server, listener, link = create_server(predictor, folder=project, learn=learn, token=TOKEN)
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
