"""The report and the comparison: their numbers, escaping, and runs of every kind."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tinysight.analysis.comparison import _differing_settings, compare_classes, write_comparison
from tinysight.analysis.errors import per_class
from tinysight.analysis.page import Page as Folder
from tinysight.analysis.probes import find_candidates, stored_probes
from tinysight.analysis.report import summary, write_report
from tinysight.analysis.results import read_run
from tinysight.analysis.statistics import holm, mcnemar
from tinysight.config import LocalizerConfig
from tinysight.data.batches import chosen_rows
from tinysight.data.dataset import Dataset
from tinysight.data.selection import draw
from tinysight.evaluation.evaluate import Evaluation
from tinysight.models import count_multiply_adds, create_model
from tinysight.ops.boxes import Detections
from tinysight.predict.predictor import Predictor
from tinysight.run import read_run as open_run

from .conftest import write_evaluation

Made = Callable[..., tuple[Dataset, Path]]
ReportCommand = Callable[..., tuple[int, str, str]]
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


def report(folder: Path, dataset: Dataset) -> tuple[Path, Page]:
    path = write_report(read_run(folder, dataset), folder / "report")
    return path, Page(path.read_text("utf-8"))


@pytest.fixture
def make(make_dataset: Callable[..., Dataset], make_folder: Callable[..., Path]) -> Made:
    """Make a dataset, and a run's folder with the predictions of it that keywords describe."""

    def both(*data: object, **folder: object) -> tuple[Dataset, Path]:
        data_options = {name: folder.pop(name) for name in ("boxes", "counts") if name in folder}
        dataset = make_dataset(*data, **data_options)
        return dataset, make_folder(dataset, **folder)

    return both


@pytest.fixture
def report_command(
    run_command: ReportCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ReportCommand:
    """Run `tinysight report` on the made-up runs; return exit status, output and errors."""
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path))
    return lambda *words: run_command("report", *words, "--data-dir", str(tmp_path / "data"))


def test_numbers_equal_those_of_the_scores(make: Made) -> None:
    dataset, folder = make(counts=(40, 30, 20))
    run = read_run(folder, dataset)
    assert run.results is not None
    path, page = report(folder, dataset)
    wrong = run.results.labels != run.results.evaluation.logits.numpy().argmax(axis=1)
    assert f"{100 * wrong.mean():.2f} %" in page.text
    with (path.parent / "tables/classes.csv").open(encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    for label, name in enumerate(dataset.class_names):
        own = run.results.labels == label
        assert int(rows[name]["count"]) == own.sum()
        assert int(rows[name]["errors"]) == wrong[own].sum()
        assert float(rows[name]["error"]) == pytest.approx(wrong[own].mean(), abs=1e-6)
    with (path.parent / "tables/confusions.csv").open(encoding="utf-8") as file:
        total = sum(
            int(row["images"]) for row in csv.DictReader(file) if row["true"] != row["predicted"]
        )
    assert total == wrong.sum()
    assert f"{total} images are misclassified" in page.text


def test_the_page_is_self_contained_and_well_formed(make: Made) -> None:
    dataset, folder = make(counts=(9, 9, 9))
    path, page = report(folder, dataset)
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
    expected = "curves.png curves.svg classes.png calibration.svg confidence.png"
    assert set(expected.split()) <= figures


def test_odd_names_are_escaped_everywhere(make: Made) -> None:
    dataset, folder = make(ODD_NAMES, (8,) * 5, accuracy=0.3)
    path, page = report(folder, dataset)
    text = path.read_text("utf-8")
    assert page.faults == [] and page.open == [], "a name's <b> or <script> became an element"
    assert len(page.of("script")) == 1 and "<script>alert" not in text
    for name in ODD_NAMES:
        assert name in page.text
    labels = {attributes.get("data-label") for attributes in page.of("li")} - {None}
    assert labels <= set(ODD_NAMES) and len(labels) > 1, "the gallery's filter compares names"
    with (path.parent / "tables/classes.csv").open(encoding="utf-8") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert names == {"'=1+1", *(name for name in ODD_NAMES if name != "=1+1")}


def test_one_class_without_boxes_has_nothing_to_analyze(make: Made) -> None:
    dataset, folder = make(("only <one>",), (5,), accuracy=0.0)
    with pytest.raises(ValueError, match="nothing to analyze"):
        report(folder, dataset)


def test_no_boxes_and_few_images(make: Made) -> None:
    dataset, folder = make(("a", "b"), (1, 2), boxes=False, accuracy=0.0)
    _, page = report(folder, dataset)
    assert "true box" not in page.text and "There are 1 to 2 images per class" in page.text


def test_a_class_without_images_is_named(make: Made) -> None:
    dataset, folder = make(("a", "empty one", "c"), (5, 0, 5))
    _, page = report(folder, dataset)
    assert "Val has no image of empty one." in page.text
    assert "nan" not in page.text.lower().split()


def test_an_interrupted_training_gives_a_page_of_curves(make: Made) -> None:
    dataset, folder = make(accuracy=None, weights=False)
    _, page = report(folder, dataset)
    assert "This page shows the training only." in page.text
    assert f"tinysight resume {folder}" in page.text and "2.0 of 60 epochs" in page.text
    assert len(page.of("svg")) == 1


def test_nothing_to_report_is_a_clear_error(make: Made) -> None:
    dataset, folder = make(accuracy=None, weights=False, log=False)
    with pytest.raises(ValueError, match="neither scores nor a line of a training yet"):
        report(folder, dataset)


def test_an_uncertain_ranking_has_a_warning(make: Made) -> None:
    names = [f"class {index}" for index in range(12)]
    dataset, folder = make(names, (8,) * 12)
    _, page = report(folder, dataset)
    assert "The ranking is uncertain." in page.text
    results = read_run(folder, dataset).results
    assert results is not None
    classes = per_class(results, generator=np.random.default_rng(0))
    expected = classes.ranks.among_worst[classes.order[-5:]].sum()
    assert f"about {expected:.1f} can be expected" in page.text


def test_recorded_distributions_are_plotted(make: Made) -> None:
    figures = {"max": 5.0, "mean": 1.0, "std": 0.5, "min": 0.0, "sparsity": 0.25}
    lines = [
        {"kind": "distribution", "step": step, "layers": {"<blocks>": figures | {"std": step / 10}}}
        for step in (5, 10)
    ]
    dataset, folder = make(extra_lines=lines)
    path, page = report(folder, dataset)
    assert "<blocks> : the standard deviation goes from 0.5 to 1" in page.text
    assert (path.parent / "figures/distribution-0.svg").exists()


@pytest.mark.parametrize("classifies", [True, False])
def test_a_localizers_page_begins_with_its_boxes(make: Made, classifies: bool) -> None:
    localizer = LocalizerConfig(head="mlp", class_loss_weight=1.0 if classifies else 0.0)
    dataset, folder = make(localizer=localizer)
    scores = folder / "scores/val.safetensors"
    evaluation = Evaluation.load(scores)
    boxes = torch.tensor([[[4.0, 4, 10, 7]]]).repeat(len(evaluation.rows), 1, 1)  # half of each
    confidence = torch.ones(len(boxes), 1)
    found = Detections(boxes=boxes, confidence=confidence)
    replace(evaluation, detections=found, classifies=classifies).save(scores)
    path, page = report(folder, dataset)
    leads = page.text.index("surest box right (Loc@.5) 100.00 %"), page.text.index("parameters")
    assert leads[0] < leads[1] and "mean IoU 0.500" in page.text
    assert ("top-1 error" in page.text) == ("Calibration" in page.text) == classifies
    lines = (path.parent / "tables/boxes_by_size.csv").read_text().splitlines()
    assert lines[1].startswith("0.1,0.25,18,1.0,") and ",0.5," in lines[1]
    names = (path.parent / "tables/boxes_by_class.csv").read_text()
    assert "disc,6,1.0," in names
    assert page.faults == [] and page.of("rect"), "boxes are drawn on the examples"


def test_a_localizers_size_has_its_head(make: Made) -> None:
    head = {"head": "lstm", "grid": 2, "width": 8, "num_steps": 5}
    dataset, folder = make(localizer=LocalizerConfig(**head))
    found, encoder = (
        summary(read_run(folder, dataset)),
        create_model("resnet", 3, n=1, filters=(4, 8)),
    )
    # Of 4x4 positions a convolution; of 4 cells 5 steps of an LSTM that reads 2x2 of these, and
    # of the layers that read 4 numbers of a box and its confidence
    steps = 4 * 5 * (4 * 250 * (8 * 4 + 250) + 250 * 5)
    own = 16 * 9 * 8 * 8 + steps
    assert found["multiply_adds"] == count_multiply_adds(encoder, 16) + own
    size = sum(value.numel() for value in encoder.parameters()) + 9 * 8 * 8
    lstm, layers = 4 * 250 * (8 * 4 + 250 + 2), 5 * (250 + 1) * 5
    assert 0 <= found["parameters"] - size - lstm - layers <= 3 * 8, "and a norm"


def test_a_fraction_is_what_was_learned_from(make: Made) -> None:
    dataset, folder = make(("a", "b"), (3, 3))
    run = open_run(folder)
    config = replace(run.config, data=replace(run.config.data, fraction=0.5))
    replace(run, config=config).write()
    results = read_run(folder, dataset)
    assert results.results is not None
    learned = chosen_rows(dataset, "train", 0.5)
    assert summary(results)["num_train"] == len(learned) == 4
    assert find_candidates(results, results.results).tolist() == learned.tolist()


def test_other_data_are_judged_by_what_was_learned_from(make: Made) -> None:
    dataset, folder = make(counts=(4, 4, 4))
    content = {"name": "other", "digest": "x", "splits": {"val": dataset.splits["val"]}}
    other = replace(dataset, manifest=dataset.manifest | content)
    scores = folder / "scores/val.safetensors"
    scores.rename(scores.with_name("other-val.safetensors"))
    predictor, pages = Predictor(folder), []
    for learned in (dataset, None):
        results = read_run(folder, other, learned=learned)
        probes = stored_probes(results, predictor)
        assert probes is not None and probes.has_neighbors == (learned is not None)
        found = set(probes.neighbors.flatten().tolist())
        assert found <= set(dataset.rows("train")) and bool(found) == (learned is not None)
        path = write_report(results, folder / "report", probes=probes, predictor=predictor)
        pages.append(Page(path.read_text("utf-8")))
    known, unknown = pages
    assert "made: 12 training images (train), 3 classes" in known.text
    assert "on made , evaluated on 12 images of other val" in known.text
    assert "less similar pairs" in known.text and "Most similar training images" in str(known.tags)
    assert "made, whose training images are not here; other has 3 classes" in unknown.text
    assert "learned from are not here, so" in unknown.text and "less similar" not in unknown.text
    assert "Most similar training images" not in str(unknown.tags)


def test_duplicates_are_between_two_splits(make: Made, tmp_path: Path) -> None:
    dataset, folder = make()
    write_evaluation(open_run(folder), dataset, "train", 0.5, 0)
    first, last = dataset.files[0], dataset.files[-1]
    groups = [
        {"files": [first, last], "labels": ["c0", "c2"], "splits": ["train", "val"]},
        {"files": [first, first], "labels": ["c0", "c1"], "splits": ["train", "train"]},
    ]
    twice = replace(dataset, manifest=dataset.manifest | {"duplicates": groups})
    write_report(read_run(folder, twice, split="train"), tmp_path / "train")
    page = Page((tmp_path / "train/index.html").read_text("utf-8"))
    assert "2 groups" in page.text and "1 are in more than one split." in page.text
    page = report(folder, twice)[1]
    assert "and 1 of those have an image in both train and val" in page.text


def test_nothing_is_said_of_duplicates_that_were_not_looked_for(
    make_dataset: Callable[..., Dataset], make_folder: Callable[..., Path]
) -> None:
    dataset = make_dataset()
    page = report(make_folder(dataset, "whole"), dataset)[1]
    assert "No two images" in page.text
    drawn = draw(dataset, 2, 0, name="made.draw2-0")
    page = report(make_folder(drawn, "drawn"), drawn)[1]
    assert "No two images" not in page.text and "chosen from those of made" in page.text


@pytest.mark.parametrize("crossed", [True, False])
def test_captions_name_the_interval(crossed: bool, make: Made, tmp_path: Path) -> None:
    dataset, folder = make()
    scores = folder / "scores/val.safetensors"
    replace(Evaluation.load(scores), cross_validated=crossed).save(scores)
    page = report(folder, dataset)[1]
    assert ("95 % interval (Wilson)" in page.text) is not crossed
    assert ("95 % interval (wider than Wilson's" in page.text) is crossed
    shutil.copytree(folder, tmp_path / "second")
    runs = [read_run(each, dataset) for each in (folder, tmp_path / "second")]
    text = write_comparison(runs, tmp_path / "out").read_text("utf-8")
    assert ("intervals (Wilson)" in text) is not crossed
    assert ("of cross-validated runs wider" in text) is crossed


def test_occlusion_is_of_what_was_tested(make: Made) -> None:
    dataset, folder = make(accuracy=1.0)
    scores = folder / "scores/val.safetensors"
    right = Evaluation.load(scores)
    replace(right, logits=right.logits.roll(1, 1)).save(scores)  # all wrong
    results, predictor = read_run(folder, dataset), Predictor(folder)
    assert results.results is not None and not results.results.correct.any()
    probes = stored_probes(results, predictor)
    text = Page(write_report(results, folder / "out", probes=probes).read_text("utf-8")).text
    assert "Of the mistakes, " in text and "Of the correct predictions" not in text


def test_small_numbers_keep_their_digits_in_tables(tmp_path: Path) -> None:
    values = (3.14159265e-9, 0.123456789, 12.3456789, float("nan"), None, -2e-8)
    Folder(tmp_path).add_table("numbers", [*"abcdef"], [values])
    line = (tmp_path / "tables/numbers.csv").read_text("utf-8").splitlines()[1]
    assert line == "3.14159e-09,0.123457,12.345679,,,-2e-08"


# The command


def test_the_command_probes_the_model_once(
    tmp_path: Path, make: Made, monkeypatch: pytest.MonkeyPatch, report_command: ReportCommand
) -> None:
    _, folder = make(("a", "b", "c"), (6, 6, 6), accuracy=None)
    assert report_command("run")[0] == 0
    page = Page((folder / "report/index.html").read_text("utf-8"))
    assert "Activation map of" in str(page.of("img")) and "8 filters" not in page.text
    assert (
        "Object or background?" in page.text and "4 filters of the first convolution" in page.text
    )
    kept = folder / "analysis/val.safetensors"
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr("tinysight.analysis.probes.compute_probes", None)
    assert report_command("run")[0] == 0
    assert kept.stat().st_mtime_ns == before
    assert report_command("run", "--no-model", "--out", str(tmp_path / "elsewhere"))[0] == 0
    page = Page((tmp_path / "elsewhere/index.html").read_text("utf-8"))
    assert "this report was made without it" in page.text
    assert "Activation map" not in str(page.of("img"))


def test_probes_are_computed_again_when_damaged_or_the_scores_change(
    make: Made, report_command: ReportCommand
) -> None:
    _, folder = make()
    assert report_command("run")[0] == 0
    kept = (folder / "analysis/val.safetensors").read_bytes()
    (folder / "analysis/val.safetensors").write_bytes(kept[:100])
    assert report_command("run")[0] == 0
    assert (folder / "analysis/val.safetensors").read_bytes() == kept
    scores = folder / "scores/val.safetensors"
    old = Evaluation.load(scores)
    replace(old, logits=old.logits.flip(1).contiguous()).save(scores)
    assert report_command("run")[0] == 0
    assert (folder / "analysis/val.safetensors").read_bytes() != kept


def test_damaged_and_foreign_scores_are_one_line(make: Made, report_command: ReportCommand) -> None:
    dataset, folder = make()
    path = folder / "scores/val.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    status, _, error = report_command(str(folder))
    assert status == 1 and "`tinysight evaluate` writes it" in error
    count = len(dataset.rows("val"))
    labels = torch.zeros(count, dtype=torch.int64)
    rows = torch.arange(count) + dataset.rows("val").start
    good = {"logits": torch.zeros(count, 3), "labels": labels, "rows": rows}
    for change, reason in (
        ({"logits": torch.zeros(count, 4)}, "4 logits per image"),
        ({"logits": torch.full((count, 3), float("nan"))}, "not finite"),
        ({}, "labels are not those of made val"),
        ({"rows": rows + 10**6}, "labels are not those of made val"),
    ):
        header = json.dumps({"data": "made", "split": "val"})
        save_file(good | change, path, metadata={"tinysight": header})
        status, _, error = report_command(str(folder))
        assert (status, error.count("\n")) == (1, 1) and error.startswith("error: ")
        assert reason in error and "`tinysight evaluate" in error


# Comparison


def test_two_runs_side_by_side(
    tmp_path: Path,
    make_dataset: Callable[..., Dataset],
    make_folder: Callable[..., Path],
    report_command: ReportCommand,
) -> None:
    dataset = make_dataset(("a", "b", "c"), (60, 60, 60))
    make_folder(dataset, "weak", accuracy=0.2, seed=1)
    make_folder(dataset, "strong", accuracy=0.9, seed=2)
    assert report_command("weak", "strong")[0] == 0
    page = Page((tmp_path / "weak/comparison/index.html").read_text("utf-8"))
    assert page.faults == [] and "significantly better" in page.text
    assert "3 of 3 classes differ significantly" in page.text
    first, second = (read_run(tmp_path / name, dataset).results for name in ("weak", "strong"))
    assert first is not None and second is not None
    difference = 100 * ((~second.correct).mean() - (~first.correct).mean())
    assert f"{difference:+.2f} percentage points" in page.text
    only_first = int((~first.correct & second.correct).sum())
    assert f"{only_first} images are wrong only in weak" in page.text


def test_runs_without_a_significant_difference(
    tmp_path: Path, make_dataset: Callable[..., Dataset], make_folder: Callable[..., Path]
) -> None:
    dataset = make_dataset(("a", "b", "c"), (20, 20, 20))
    folders = [
        make_folder(dataset, name, accuracy=0.5, seed=seed)
        for seed, name in enumerate(("one", "<two>"))
    ]
    path = write_comparison([read_run(folder, dataset) for folder in folders], tmp_path / "out")
    page = Page(path.read_text("utf-8"))
    assert "not significant" in page.text and "No single class differs significantly" in page.text
    assert "<two>" in page.text and page.faults == []


def test_a_setting_of_an_earlier_version_is_reported_and_differs(
    tmp_path: Path, make_dataset: Callable[..., Dataset], make_folder: Callable[..., Path]
) -> None:
    dataset = make_dataset(("a", "b"), (20, 20))
    for name in ("new", "old", "older"):
        path = make_folder(dataset, name, seed=1) / "run.json"
        content = json.loads(path.read_bytes())
        content["config"]["augment"] |= {"erase": 0.5 if name == "old" else 0.0}
        path.write_text(json.dumps(content))
    new, old, older = (read_run(tmp_path / name, dataset) for name in ("new", "old", "older"))
    for runs, values in (((new, old), [None, 0.5]), ((old, new), [0.5, None])):
        assert _differing_settings(runs) == [("augment.erase", values)]
    assert _differing_settings((new, older)) == []
    assert summary(old)["settings"]["augment"]["erase"] == 0.5
    assert "it has augment.erase=0.5" in old.run.mismatch(new.config)


def test_classes_without_images_are_no_further_tests(
    make_dataset: Callable[..., Dataset], make_folder: Callable[..., Path]
) -> None:
    dataset = make_dataset(("a", "empty", "c", "none"), (30, 0, 30, 0))
    made = [(0.1, "weak"), (0.9, "strong")]
    folders = [make_folder(dataset, name, accuracy=right) for right, name in made]
    first, second = (read_run(folder, dataset).results for folder in folders)
    assert first is not None and second is not None
    found = compare_classes(first, second)
    lost, gained = found.only_second_wrong, found.only_first_wrong
    alone = np.array([mcnemar(int(gained[n]), int(lost[n])) for n in (0, 2)])
    assert found.adjusted[[0, 2]] == pytest.approx(holm(alone))
    assert found.adjusted[[0, 2]].min() == pytest.approx(2 * alone.min())
    assert found.adjusted[[1, 3]].tolist() == [1, 1]


def test_runs_that_cannot_be_compared(
    tmp_path: Path, make_dataset: Callable[..., Dataset], make_folder: Callable[..., Path]
) -> None:
    dataset = make_dataset()
    good, bare = make_folder(dataset, "good"), make_folder(dataset, "bare", accuracy=None)
    with pytest.raises(
        ValueError, match=r"bare has no scores of val; `tinysight evaluate .*bare --split val`"
    ):
        write_comparison([read_run(good, dataset), read_run(bare, dataset)], tmp_path / "out")
    with pytest.raises(ValueError, match="is given twice"):
        write_comparison([read_run(good, dataset)] * 2, tmp_path / "out")


def test_a_damaged_summary_is_an_error(make: Made) -> None:
    dataset, folder = make()
    (folder / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        read_run(folder, dataset)
    (folder / "summary.json").write_text(json.dumps({"seconds": 3.0}))
    assert read_run(folder, dataset).summary == {"seconds": 3.0}
