"""The page: its numbers are the scores', odd names are escaped, odd runs give a sensible page or a
clear error.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tinysight import cli
from tinysight.analysis.comparison import write_comparison
from tinysight.analysis.per_class import per_class
from tinysight.analysis.report import write_report
from tinysight.analysis.results import read_run
from tinysight.data.dataset import Dataset
from tinysight.evaluation.evaluate import Evaluation
from tinysight.ops.boxes import Detections

MakePack = Callable[..., Dataset]
MakeFolder = Callable[..., Path]
ODD_NAMES = ("<script>alert('x')</script>", '"quoted" & <b>', "=1+1", "$a_b$", "naïve 猫")


class Page(HTMLParser):
    """What a page holds, as a browser reads it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(folder: Path, pack: Dataset, **arguments: object) -> tuple[Path, Page]:
    path = write_report(read_run(folder, pack), folder / "report", **arguments)  # type: ignore[arg-type]
    return path, Page(path.read_text("utf-8"))


def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> None:
    monkeypatch.setattr(
        "sys.argv", ["tinysight", "report", *arguments, "--data-dir", str(tmp_path / "packs")]
    )
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path))
    with pytest.raises(SystemExit, match="0"):
        cli.main()


def refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    *arguments: str,
) -> str:
    monkeypatch.setattr(
        "sys.argv", ["tinysight", "report", *arguments, "--data-dir", str(tmp_path / "packs")]
    )
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and error.startswith("error: ")
    return error


def test_the_numbers_are_those_of_the_scores(make_pack: MakePack, make_folder: MakeFolder) -> None:
    pack = make_pack(counts=(40, 30, 20))
    folder = make_folder(pack)
    run = read_run(folder, pack)
    assert run.judged is not None
    path, page = report(folder, pack)
    wrong = run.judged.labels != run.judged.scores.logits.numpy().argmax(axis=1)
    assert f"{100 * wrong.mean():.2f} %" in page.text
    with (path.parent / "tables/classes.csv").open(encoding="utf-8") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    for label, name in enumerate(pack.class_names):
        own = run.judged.labels == label
        assert (int(rows[name]["images"]), int(rows[name]["errors"])) == (
            own.sum(),
            wrong[own].sum(),
        )
        assert float(rows[name]["error"]) == pytest.approx(wrong[own].mean(), abs=1e-6)
    with (path.parent / "tables/confusions.csv").open(encoding="utf-8") as file:
        total = sum(
            int(row["images"]) for row in csv.DictReader(file) if row["true"] != row["called"]
        )
    assert total == wrong.sum()
    assert f"{total} images are called something else" in page.text


def test_the_page_stands_alone_and_is_well_formed(
    make_pack: MakePack, make_folder: MakeFolder
) -> None:
    pack = make_pack(counts=(9, 9, 9))
    path, page = report(make_folder(pack), pack)
    assert page.faults == [] and page.open == []
    text = path.read_text("utf-8")
    assert "://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text), "something would be fetched"
    images = page.of("img")
    assert images and all((image["src"] or "").startswith("data:image/") for image in images)
    assert all("alt" in image for image in images)
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.of("svg"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [link["href"][1:] for link in page.of("a") if link["href"]] == [
        name for name in ids if f"#{name}" in {link["href"] for link in page.of("a")}
    ]
    figures = {file.name for file in (path.parent / "figures").iterdir()}
    assert {
        "curves.png",
        "curves.svg",
        "classes.png",
        "calibration.svg",
        "confidence.png",
    } <= figures


def test_odd_names_are_escaped_everywhere(make_pack: MakePack, make_folder: MakeFolder) -> None:
    pack = make_pack(ODD_NAMES, (8,) * 5)
    path, page = report(make_folder(pack, accuracy=0.3), pack)
    text = path.read_text("utf-8")
    assert len(page.of("script")) == 1 and "<script>alert" not in text
    assert (page.faults == [] and not page.of("b")) or all(
        "quoted" not in str(value) for value in page.of("b")
    )
    for name in ODD_NAMES:
        assert name in page.text or " ".join(name.split()) in page.text
    gt_boxes = {attributes.get("data-truth") for attributes in page.of("li")}
    assert gt_boxes - {None} <= set(ODD_NAMES), "the gallery's filter compares whole names"
    with (path.parent / "tables/classes.csv").open(encoding="utf-8") as file:
        names = {row["class"] for row in csv.DictReader(file)}
    assert names == {"'=1+1", *(name for name in ODD_NAMES if name != "=1+1")}


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_one_class(make_pack: MakePack, make_folder: MakeFolder, accuracy: float) -> None:
    pack = make_pack(("only <one>",), (5,))
    _, page = report(make_folder(pack, accuracy=accuracy), pack)
    assert (
        "0.00 %" in page.text and "There is none" in page.text and "nothing to confuse" in page.text
    )


def test_no_boxes_and_few_images(make_pack: MakePack, make_folder: MakeFolder) -> None:
    pack = make_pack(("a", "b"), (1, 2), boxes=False)
    _, page = report(make_folder(pack, accuracy=0.0), pack)
    assert "true box" not in page.text and "A class has 1 to 2 images here" in page.text


def test_a_class_without_images_is_named(make_pack: MakePack, make_folder: MakeFolder) -> None:
    pack = make_pack(("a", "empty one", "c"), (5, 0, 5))
    _, page = report(make_folder(pack), pack)
    assert "No image of val belongs to empty one: nothing is known of that class" in page.text
    assert "nan" not in page.text.lower().split()


def test_an_interrupted_training_gives_a_page_of_curves(
    make_pack: MakePack, make_folder: MakeFolder
) -> None:
    pack = make_pack()
    folder = make_folder(pack, accuracy=None, weights=False)
    _, page = report(folder, pack)
    assert "This page shows the training only." in page.text
    assert f"tinysight resume {folder}" in page.text and "2.0 of 60 epochs" in page.text
    assert len(page.of("svg")) == 1


def test_nothing_to_report_is_a_clear_error(make_pack: MakePack, make_folder: MakeFolder) -> None:
    pack = make_pack()
    folder = make_folder(pack, accuracy=None, weights=False, log=False)
    with pytest.raises(ValueError, match="holds neither scores nor a line of a training yet"):
        report(folder, pack)


def test_the_ranking_is_warned_of_only_where_it_is_unsure(
    make_pack: MakePack, make_folder: MakeFolder
) -> None:
    names = [f"class {index}" for index in range(12)]
    pack = make_pack(names, (8,) * 12)
    folder = make_folder(pack)
    _, page = report(folder, pack)
    assert "Do not read the order too closely." in page.text
    judged = read_run(folder, pack).judged
    assert judged is not None
    classes = per_class(judged, generator=np.random.default_rng(0))
    expected = classes.ranks.among_worst[classes.worst()].sum()
    assert f"about {expected:.1f} can be expected" in page.text


def test_distributions_are_drawn_where_they_were_recorded(
    make_pack: MakePack, make_folder: MakeFolder
) -> None:
    pack = make_pack()
    figures = {"max": 5.0, "mean": 1.0, "std": 0.5, "min": 0.0, "sparsity": 0.25}
    lines = [
        {"kind": "distribution", "step": step, "layers": {"<blocks>": figures | {"std": step / 10}}}
        for step in (5, 10)
    ]
    path, page = report(make_folder(pack, extra_lines=lines), pack)
    assert "<blocks> : the standard deviation goes from 0.5 to 1" in page.text
    assert (path.parent / "figures/distribution-0.svg").exists()


def test_predicted_boxes_are_judged_where_there_are_some(
    make_pack: MakePack, make_folder: MakeFolder
) -> None:
    pack = make_pack()
    folder = make_folder(pack)
    scores = folder / "scores/val.safetensors"
    evaluation = Evaluation.load(scores)
    boxes = torch.tensor([[[4.0, 4, 10, 7]]]).repeat(len(evaluation.rows), 1, 1)  # half of each
    confidence = torch.ones(len(boxes), 1)
    replace(evaluation, detections=Detections(boxes=boxes, confidence=confidence)).save(scores)
    path, page = report(folder, pack)
    assert (
        "overlaps its object by 50.0 % on average" in page.text and "100.0 % are found" in page.text
    )
    assert (
        (path.parent / "tables/boxes_by_size.csv")
        .read_text()
        .splitlines()[1]
        .startswith("0.1,0.25,18,0.5,1.0,")
    )


# The command


def test_the_command_asks_the_model_once(
    tmp_path: Path, make_pack: MakePack, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = make_pack(("a", "b", "c"), (6, 6, 6))
    folder = make_folder(pack, accuracy=None)
    command(monkeypatch, tmp_path, "run")  # scores val first
    page = Page((folder / "report/index.html").read_text("utf-8"))
    assert "What in it spoke for" in str(page.of("img")) and "8 filters" not in page.text
    assert (
        "Object or background?" in page.text and "4 filters of the first convolution" in page.text
    )
    kept = folder / "analysis/val.safetensors"
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr("tinysight.analysis.observations.observe", None)
    command(monkeypatch, tmp_path, "run")
    assert kept.stat().st_mtime_ns == before
    command(monkeypatch, tmp_path, "run", "--no-model", "--out", str(tmp_path / "elsewhere"))
    page = Page((tmp_path / "elsewhere/index.html").read_text("utf-8"))
    assert "this report was made without it" in page.text and "spoke for" not in str(page.of("img"))


def test_the_command_makes_observations_anew_when_the_scores_change(
    tmp_path: Path, make_pack: MakePack, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = make_pack()
    folder = make_folder(pack)
    command(monkeypatch, tmp_path, "run")
    kept = (folder / "analysis/val.safetensors").read_bytes()
    (folder / "analysis/val.safetensors").write_bytes(kept[:100])
    command(monkeypatch, tmp_path, "run")
    assert (folder / "analysis/val.safetensors").read_bytes() == kept
    scores = folder / "scores/val.safetensors"
    old = Evaluation.load(scores)
    replace(old, logits=old.logits.flip(1).contiguous()).save(scores)
    command(monkeypatch, tmp_path, "run")
    assert (folder / "analysis/val.safetensors").read_bytes() != kept


def test_damaged_and_foreign_scores_are_one_line(
    tmp_path: Path,
    make_pack: MakePack,
    make_folder: MakeFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pack = make_pack()
    folder = make_folder(pack)
    path = folder / "scores/val.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    assert "`tinysight evaluate` writes it" in refused(monkeypatch, capsys, tmp_path, str(folder))
    count = len(pack.rows("val"))
    rows, labels = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    good = {
        "logits": torch.zeros(count, 3),
        "labels": labels,
        "rows": rows + pack.rows("val").start,
    }
    for change, reason in (
        ({"logits": torch.zeros(count, 4)}, "of 3 classes"),
        ({"logits": torch.full((count, 3), float("nan"))}, "not finite"),
        ({}, "labels are not those of made val"),
        ({"rows": rows + 10**6}, "labels are not those of made val"),
    ):
        header = json.dumps({"data": "made", "split": "val"})
        save_file(good | change, path, metadata={"tinysight": header})
        error = refused(monkeypatch, capsys, tmp_path, str(folder))
        assert reason in error and "`tinysight evaluate" in error


# Comparison


def test_two_runs_side_by_side(
    tmp_path: Path, make_pack: MakePack, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = make_pack(("a", "b", "c"), (60, 60, 60))
    make_folder(pack, "weak", accuracy=0.2, seed=1)
    make_folder(pack, "strong", accuracy=0.9, seed=2)
    command(monkeypatch, tmp_path, "weak", "strong")
    page = Page((tmp_path / "weak/comparison/index.html").read_text("utf-8"))
    assert (
        page.faults == []
        and "better beyond noise" in page.text
        and "3 of 3 classes differ beyond noise" in page.text
    )
    first, second = (read_run(tmp_path / name, pack).judged for name in ("weak", "strong"))
    assert first is not None and second is not None
    difference = 100 * ((~second.correct).mean() - (~first.correct).mean())
    assert f"{difference:+.2f} percentage points" in page.text
    only_first = int((~first.correct & second.correct).sum())
    assert f"{only_first} images only weak gets wrong" in page.text


def test_runs_that_differ_by_noise_are_told_so(
    tmp_path: Path, make_pack: MakePack, make_folder: MakeFolder
) -> None:
    pack = make_pack(("a", "b", "c"), (20, 20, 20))
    folders = [
        make_folder(pack, name, accuracy=0.5, seed=seed)
        for seed, name in enumerate(("one", "<two>"))
    ]
    path = write_comparison([read_run(folder, pack) for folder in folders], tmp_path / "out")
    page = Page(path.read_text("utf-8"))
    assert "within noise" in page.text and "No class by itself differs beyond noise" in page.text
    assert "<two>" in page.text and page.faults == []


def test_what_cannot_be_compared_is_said(
    tmp_path: Path, make_pack: MakePack, make_folder: MakeFolder
) -> None:
    pack = make_pack()
    good, bare = make_folder(pack, "good"), make_folder(pack, "bare", accuracy=None)
    with pytest.raises(
        ValueError, match=r"bare has no scores of val; `tinysight evaluate .*bare --split val`"
    ):
        write_comparison([read_run(good, pack), read_run(bare, pack)], tmp_path / "out")
    with pytest.raises(ValueError, match="is given twice"):
        write_comparison([read_run(good, pack)] * 2, tmp_path / "out")


def test_a_damaged_summary_is_named(make_pack: MakePack, make_folder: MakeFolder) -> None:
    pack = make_pack()
    folder = make_folder(pack)
    (folder / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        read_run(folder, pack)
    (folder / "summary.json").write_text(json.dumps({"seconds": 3.0}))
    assert read_run(folder, pack).summary == {"seconds": 3.0}
