"""Runs on the page: the list, the curves of one, its report in a sandbox."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent.parent / "golden" / "run"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs: finished with a report, training, and interrupted; and a damaged one."""
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path))
    for age, name in enumerate(("finished", "training", "interrupted", "damaged")):
        shutil.copytree(GOLDEN, tmp_path / name)
        os.utime(tmp_path / name / "run.json", (time.time() - age,) * 2)
    for name in ("training", "interrupted"):
        (tmp_path / name / "weights.safetensors").unlink()
    for file in ("run.json", "log.jsonl"):
        os.utime(tmp_path / "interrupted" / file, (time.time() - 1000,) * 2)
    (tmp_path / "damaged" / "run.json").write_text("{")
    (tmp_path / "finished" / "report").mkdir()
    (tmp_path / "finished" / "report" / "index.html").write_text("<title>the report</title>")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "index.html").write_text("secret")
    return tmp_path


def test_runs_are_listed_newest_first_with_their_state(client: Any, home: Path) -> None:
    status, content = client.ask("/api/runs")
    runs = json.loads(content)
    assert status == 200
    assert [run["name"] for run in runs] == ["finished", "training", "interrupted"]
    assert [run["state"] for run in runs] == ["finished", "training", "interrupted"]
    assert [run["has_report"] for run in runs] == [True, False, False]


def test_without_runs_the_list_is_empty(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path / "none"))
    assert client.ask("/api/runs") == (200, b"[]")
    assert client.ask("/api/runs/none")[0] == 404


def test_the_curves_are_those_of_the_log(client: Any, home: Path) -> None:
    lines = [json.loads(line) for line in (GOLDEN / "log.jsonl").read_text().splitlines()]
    loss, error = json.loads(client.ask("/api/runs/finished")[1])["curves"]
    assert loss["points"] == [[r["epoch"], r["loss"]] for r in lines if r["kind"] == "train"]
    assert error["name"] == "error, minival"
    assert error["points"] == [[r["epoch"], r["top1_error"]] for r in lines if r["kind"] == "epoch"]


def test_a_long_curve_is_thinned_and_what_is_not_finite_is_left_out(
    client: Any, home: Path
) -> None:
    log = home / "finished" / "log.jsonl"
    values = [{"kind": "train", "epoch": step / 100, "loss": step % 2} for step in range(1, 1001)]
    values[-1]["loss"] = float("nan")
    log.write_text("".join(json.dumps(value) + "\n" for value in values))
    points = json.loads(client.ask("/api/runs/finished")[1])["curves"][0]["points"]
    assert len(points) == 333 and {round(value, 2) for _, value in points} == {0.33, 0.67}
    assert points[-1][0] == 9.99


def test_a_report_is_shown_in_a_sandbox(client: Any, home: Path) -> None:
    connection = http.client.HTTPConnection(*client.address, timeout=10)
    connection.request(
        "GET", "/runs/finished/report", headers={"Authorization": f"Bearer {client.token}"}
    )
    answer = connection.getresponse()
    policy = answer.getheader("Content-Security-Policy")
    assert b"the report" in answer.read()
    connection.close()
    assert policy.startswith("sandbox allow-scripts") and "allow-same-origin" not in policy
    assert "default-src 'none'" in policy and "connect-src" not in policy


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "secret", "finished%2f..%2f..", "damaged", "%00", "none"]
)
def test_no_other_name_is_a_run(client: Any, home: Path, name: str) -> None:
    for path in (f"/api/runs/{name}", f"/runs/{name}/report"):
        status, content = client.ask(path)
        assert status == 404 and b"secret" not in content
