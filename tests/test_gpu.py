"""benchmarks/gpu.py says why a training failed, and its status what is left to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tinysight.device import Runtime

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
    assert f"\n{found}" in printed and printed.startswith("there is no GPU: ")
    assert "(all of it in runs/resnet18-report.out)" in printed


@pytest.mark.parametrize(
    ("trained", "evaluated", "minutes", "status"),
    [(0, 0, 1, 0), (75, 0, 1, 75), (0, 1, 1, 1), (2, 0, 1, 1), (0, 0, 0, 75), (0, 0, 0.009, 75)],
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


@pytest.mark.parametrize("option", ["--minutes", "--at-once", "--steps"])
@pytest.mark.parametrize("value", ["0", "-3", "few", "nan", "1e9", "inf"])
def test_numbers_that_do_no_work_are_refused(
    option: str,
    value: str,
    gpu: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "train", option, value])
    with pytest.raises(SystemExit) as stopped:
        gpu.main()
    assert stopped.value.code == 2 and f"argument {option}: " in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_way_that_fails_has_a_status_and_an_unknown_recipe_is_refused(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"there is no nonsense; there are .*vgg16-report"):
        gpu.speed(["nonsense"], ["eager"], 1)
    cpu = Runtime(device=torch.device("cpu"), bf16=False)
    monkeypatch.setattr(gpu, "select_device", lambda: cpu)
    with pytest.raises(SystemExit, match="without a GPU nothing is captured"):
        gpu.speed(["quickstart"], ["captured"], 1)
    monkeypatch.setattr(gpu, "load_dataset", lambda name: None)
    outcomes = iter(["9 images/s", ValueError("too large")])

    def rate(*arguments: object) -> str:
        if isinstance(outcome := next(outcomes), Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(gpu, "rate", rate)
    for status, found in ((0, "9 images/s"), (1, "ValueError: too large")):
        assert gpu.speed(["quickstart"], ["eager", "captured"], 1) == status
        assert capsys.readouterr().out.splitlines()[1:] == [
            f"quickstart               eager     {found}"
        ]
