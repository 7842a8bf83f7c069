"""What the tests share: one thread, drawn shapes, small models, runs that take a second."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

# Before torch is imported: tests share few cores, and some compare bytes
os.environ["OMP_NUM_THREADS"] = "1"

if TYPE_CHECKING:
    from tinysight.config import Config
    from tinysight.data.dataset import Dataset
    from tinysight.predict.metadata import ModelMetadata

MakeConfig = Callable[..., "Config"]
MakeMetadata = Callable[..., "ModelMetadata"]
Tinysight = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data home that holds `dataset`."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def dataset(data_home: Path) -> Dataset:
    """72 + 24 + 24 + 12 drawn scenes of 32 pixels in 24 classes."""
    from tinysight.data.build import build
    from tinysight.data.shapes import Shapes

    counts = {"num_train": 72, "num_minival": 24, "num_val": 24, "num_test": 12}
    return build(Shapes(**counts, image_size=32, name="small"), home=data_home, workers=1)


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tinysight:
    """Run a command line in this process; return exit status, output and errors."""
    from tinysight import cli

    monkeypatch.setenv("TERM", "dumb")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tinysight", *words])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="session")
def command_line() -> Path:
    """The program that is `tinysight` with the small models registered."""
    return Path(__file__).parent / "training" / "command_line.py"


@pytest.fixture(scope="session")
def load_script() -> Callable[[Path], ModuleType]:
    """Import a program by its path."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # dataclasses look their module up there
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def _small_models(command_line: Path, load_script: Callable[[Path], ModuleType]) -> ModuleType:
    return load_script(command_line)


@pytest.fixture
def small_models(_small_models: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Register the model "small" while a test runs."""
    from tinysight.models import MODELS

    monkeypatch.setitem(MODELS, "small", _small_models.Small)
    return _small_models


@pytest.fixture
def make_config(small_models: ModuleType) -> MakeConfig:
    """Make a config that has everything a resumed training can get wrong; keywords change it,
    `train__epochs=2`.

    5 + 4 + 5 batches of 16 in 3 epochs of 72 images, the batches 5 and 10 straddling two.
    """
    from tinysight.config import Config, ModelConfig
    from tinysight.settings import override

    base = Config(recipe="test", model=ModelConfig(name="small", options={"dropout": 0.3}))
    settings = {
        "data.name": "small", "augment.crop": 0.75, "optimizer.lr": 0.05,
        "optimizer.decay_all": False, "schedule.name": "plateau", "schedule.warmup": 0.5,
        "schedule.patience": 0, "schedule.factor": 0.5, "train.epochs": 3, "train.batch_size": 16,
        "train.ema_decay": 0.9, "train.label_smoothing": 0.1, "train.flip_average": True,
        "train.precision": "fp32", "train.device": "cpu", "train.log_every": 4,
    }  # fmt: skip

    def make(**changes: Any) -> Config:
        changes = {name.replace("__", "."): value for name, value in changes.items()}
        return override(base, settings | changes)

    return make


@pytest.fixture
def make_metadata(dataset: Dataset) -> MakeMetadata:
    """Make the metadata of a "small" model for `dataset`; keywords change it."""
    from tinysight.predict.metadata import ModelMetadata

    base = ModelMetadata(
        model="small", options={}, class_names=dataset.class_names, class_ids=dataset.class_ids,
        image_size=32, crop=24, input_size=28, flip_average=True, recipe="test", data="small",
        version="0",
    )  # fmt: skip
    return lambda **changes: replace(base, **changes)


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """The library's messages while a test runs, as "warning: ..." or plain."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            prefix = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
            found.append(prefix + record.getMessage())

    logger, handler = logging.getLogger("tinysight"), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="module")  # while it is open, no other event loop can run
def browser() -> Iterator[Any]:
    """Chromium with a camera that shows a test picture; tests are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("there is no chromium on the path")
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def barriers() -> Callable[[Any], list[str]]:
    """List what axe-core finds on a page that keeps people from using it, serious or critical."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe-core is not installed (the extra dev)")
    script = Path(found.origin).with_name("axe.min.js").read_text("utf-8")

    def check(page: Any) -> list[str]:
        page.evaluate(f"window.axe || (() => {{ {script} }})()")
        results = page.evaluate("() => axe.run({resultTypes: ['violations']})")
        return [
            f"{rule['id']}: {node['html']} {node['any'][0]['message'] if node['any'] else ''}"
            for rule in results["violations"]
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]

    return check


@pytest.fixture
def choose_by_enter() -> Callable[..., None]:
    """Press Enter on a page whose focus is where files are chosen, and choose files."""

    def choose(page: Any, files: object) -> None:
        page.evaluate(
            """() => document.getElementById("files").addEventListener("click", (event) => {
                event.preventDefault();  // no dialog, which Chromium opens late without a screen
                window.asked = true;
            })"""
        )
        page.keyboard.press("Enter")
        assert page.evaluate("() => window.asked") is True
        page.set_input_files("#files", files)

    return choose
