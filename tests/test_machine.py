"""benchmarks/machine.py measures what it names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "benchmarks" / "machine.py"


def test_machine_benchmark_writes_every_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("machine", PATH)
    assert spec is not None and spec.loader is not None
    machine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(machine)
    monkeypatch.setattr(machine, "BATCH", 4)  # a full batch takes a second per step on two cores
    out = tmp_path / "bench.json"
    words = ["--seconds", "0.1", "--json", "--device", "cpu", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["machine.py", *words])
    machine.main()
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(out.read_text())
    assert all(value > 0 for value in result["ceilings"].values())
    assert all(0 < rates["share_of_matmul"] < 1.5 for rates in result["training"].values())
    assert result["training"]["resnet18"]["gmac_per_image"] == pytest.approx(0.488, abs=0.001)
    assert result["prediction"]["resnet10"]["batch_64_images_per_s"] > 0
