"""benchmarks/gpu.py says why a training failed, and its status what is left to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

NAMES = ["resnet18-report", "vgg16-report"]


@pytest.fixture(scope="module")
def gpu(load_script: Callable[[Path], ModuleType]) -> ModuleType:
    return load_script(Path(__file__).parent.parent / "benchmarks" / "gpu.py")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYSIGHT_RUNS", raising=False)
    monkeypatch.setenv("TINYSIGHT_DATA", str(tmp_path / "data"))


def test_the_reason_of_a_failure_is_printed(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs").mkdir()
    Path("runs/resnet18-report.out").write_text("step 1\n")  # of an earlier try
    assert gpu.train(["resnet18-report"], minutes=1, at_once=1) == 1
    found = "resnet18-report: error: there is no dataset 'tiny-imagenet'"
    printed = capsys.readouterr().out
    assert printed.startswith(found) and "(all of it in runs/resnet18-report.out)" in printed


@pytest.mark.parametrize(
    ("trained", "evaluated", "minutes", "status"),
    [(0, 0, 1, 0), (75, 0, 1, 75), (0, 1, 1, 1), (2, 0, 1, 1), (0, 0, 0, 75)],
)
def test_the_status_is_that_of_the_worst_training(
    trained: int,
    evaluated: int,
    minutes: float,
    status: int,
    gpu: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes = {("vgg16-report", "train"): trained, ("vgg16-report", "evaluate"): evaluated}
    Path("runs").mkdir()
    Path("runs/vgg16-report.out").touch()
    monkeypatch.setattr(gpu, "_tinysight", lambda name, *words: outcomes.get((name, words[0]), 0))
    assert gpu.train(NAMES, minutes=minutes, at_once=2) == status
