"""The study `transfer` measures each way on the same draws once, and reports what it measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinysight as ts
from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.finetuning.encoders import find_encoder
from tinysight.predict.inference import CPU
from tinysight.run import Run, read_run
from tinysight.study import transfer
from tinysight.study.transfer import FULL, SCRATCH, Outcome, Transfer, measure, report

Tinysight = Callable[..., tuple[int, str, str]]


@pytest.fixture
def study(
    tmp_path: Path, encoder_file: Path, make_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Transfer:  # fmt: skip
    monkeypatch.setattr(transfer, "REFERENCE", "bundled")
    monkeypatch.setenv("TINYSIGHT_DATA", str(tmp_path / "data"))
    encoder = replace(find_encoder(encoder_file), name="bundled")
    data = ts.import_dataset(make_folder(14, 12, 12), "own", image_size=32)

    def train(config: Config, view: Dataset, folder: Path) -> Run:
        config = replace(config, train=replace(config.train, epochs=1, batch_size=8))
        return ts.train(config, view, name=folder, resume=True)

    return Transfer(tmp_path / "study", [encoder], [data], tmp_path / "data", CPU, train)


def test_each_way_is_measured_once_on_the_same_images(
    study: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(study, [4], 1)
    first = transfer.read_outcomes(study.folder)
    assert [one.way for one in first] == ["bundled", FULL, SCRATCH]
    assert {(one.num_train, one.num_judged) for one in first} == {(12, 26)}
    assert first[0].error < 0.4 and first[0].crossvalidated is not None
    folder = study.folder / "4-per-class-seed0"
    runs = [read_run(folder / way) for way in ("entire-network", "from-nothing")]
    assert {run.config.data.name for run in runs} == {"own.draw4-0"}
    assert runs[0].config.model.pretrained == str(folder / "bundled-start")
    monkeypatch.setattr(Transfer, "measure", None)  # nothing is left to measure
    measure(study, [4], 1)
    assert transfer.read_outcomes(study.folder) == first
    with pytest.raises(ValueError, match=r"outcomes\.json has results of other images"):
        transfer.read_outcomes(study.folder, digest="another")


def outcome(way: str, per_class: int, seed: int, error: float, crossed: float | None) -> Outcome:
    own = {"way": way, "per_class": per_class, "seed": seed, "error": error}
    return Outcome(num_train=50, num_judged=200, crossvalidated=crossed, seconds=3.0, **own)  # type: ignore[arg-type]


def test_the_report_has_means_verdicts_and_the_chosen_encoder(tmp_path: Path) -> None:
    outcomes = [
        outcome(way, count, seed, error + 0.01 * seed - 0.001 * count, crossed)
        for way, error, crossed in (("bundled", 0.2, 0.2), ("lite0", 0.3, 0.1), (FULL, 0.21, None))
        for count in (10, 30)
        for seed in (0, 1, 2)
    ]
    content = {"format": 1, "outcomes": [vars(one) for one in outcomes]}
    (tmp_path / "outcomes.json").write_text(json.dumps(content))
    said = report(tmp_path, data="signs", command="tinysight study transfer")
    text = (tmp_path / "table.md").read_text()
    assert "| bundled | 20.00 (1.00) | 18.00 (1.00) | 3 s |" in text
    assert "| the encoder chosen | 30.00 (1.00) | 28.00 (1.00) | 3 s |" in text
    assert (
        "10 per class: entire network: error 1.00 points higher than that of bundled (3 seeds"
        in said
    )
    assert said in text.replace("\n- ", "\n") and (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--counts", "ten"), "give numbers, as 10,30,100"),
        (("--counts", "20"), "has 6 images in a class, by the median; the fewest"),
        (("--epochs", "3"), "the study transfer takes no --epochs"),
        (("train.epochs=3",), "the study transfer takes no settings"),
        (("--report-only",), "nothing of .* is measured yet"),
    ],
)
def test_bad_commands_are_one_clear_line(
    words: tuple[str, ...], complaint: str, run_command: Tinysight, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("TINYSIGHT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(transfer, "at_hand", lambda: ("bundled",))
    for label in range(2):
        (tmp_path / f"own/{label}").mkdir(parents=True)
        for number in range(6):
            pixels = np.full((8, 8, 3), 40 * number + label, np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"own/{label}/{number}.png")
    name = str(tmp_path / "study")
    status, _, err = run_command(
        "study", "transfer", "--data", str(tmp_path / "own"), "--name", name, *words
    )
    assert status == 1 and len(err.strip().splitlines()) == 1
    assert re.search(complaint, err)
