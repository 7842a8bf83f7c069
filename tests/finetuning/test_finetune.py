"""A folder of a few images becomes an ordinary run, or one line says what is wrong."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tinysight as ts
from tinysight.api.evaluate import evaluate_files
from tinysight.api.finetune import finetune_result
from tinysight.evaluation.evaluate import Evaluation
from tinysight.finetuning import finetune
from tinysight.finetuning.finetune import is_better
from tinysight.ops.metrics import error_interval
from tinysight.predict.weights import load_weights

MakeFolder = Callable[..., Path]
Tinysight = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYSIGHT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path / "runs"))


def test_a_folder_becomes_a_run_that_every_command_takes(
    make_folder: MakeFolder, encoder_file: Path, run_command: Tinysight, tmp_path: Path
) -> None:
    folder = make_folder(12, 12, 12)
    status, out, err = run_command("finetune", str(folder), "--from", str(encoder_file))
    assert (status, err) == (0, "")
    run = tmp_path / "runs/finetune-own-all-32"
    assert "36 images of 3 classes" in out and str(run) in out
    summary = json.loads((run / "summary.json").read_text())
    error = summary["cross_validation"]["top1_error"]
    assert error < 0.2 and f"error              {100 * error:.1f} %" in out
    result = evaluate_files(run)
    assert result.evaluation.split == "train" and result.evaluation.top1_error == error
    judged = summary["cross_validation"]
    wide = f"(95 %: {100 * judged['top1_low']:.1f} to {100 * judged['top1_high']:.1f} %)"
    assert wide in out
    assert (judged["top1_low"], judged["top1_high"]) == error_interval(error, 36)
    for words in (
        ("evaluate", str(run)),
        ("report", str(run)),
        ("export", str(run), "--out", str(tmp_path / "own.safetensors"), "--half"),
    ):
        assert run_command(*words)[0] == 0, words
    out = run_command("evaluate", str(run))[1]
    assert out.startswith("own-all-32 train, 36 images, cross-validated\n")
    assert f"to {100 * judged['top1_high']:.2f} %)" in out
    stored = json.loads((run / "evaluation-train.json").read_text())
    assert stored["cross_validated"] and stored["top1_high"] == judged["top1_high"]
    page = (run / "report/index.html").read_text()
    assert "36 images of train, cross-validated." in page
    assert "another seed" not in page and "error of this model" not in page
    assert f"{100 * judged['top1_high']:.1f} % (95 %, wider" in page.replace(
        "\N{NO-BREAK SPACE}", " "
    )
    model = ts.load_model(tmp_path / "own.safetensors")
    assert model.metadata.results["cross_validation"]["top1_error"] == error
    found = model.predict(folder / "class1/003.png")
    assert (found.label, found.is_none) == ("class1", False)
    Image.fromarray(np.full((40, 40, 3), 250, np.uint8)).save(white := tmp_path / "white.png")
    assert "none of these; the nearest:" in run_command("predict", str(run), str(white))[1]
    assert ts.finetune(folder, run).name == "finetune-own-all-32-2"  # a run is an encoder
    second = str(tmp_path / "runs/finetune-own-all-32-2")
    assert "top-1 error" in run_command("ensemble", str(run), second)[1]


def test_a_full_disk_leaves_no_run_without_weights(
    make_folder: MakeFolder, encoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, content: bytes) -> None:
        if path.name == "weights.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        path.write_bytes(content)

    monkeypatch.setattr(finetune, "write_atomic", write)
    with pytest.raises(OSError, match="No space left"):
        ts.finetune(make_folder(4, 4), encoder_file, name="pets")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_prepared_dataset_keeps_its_val(
    make_folder: MakeFolder, encoder_file: Path, tmp_path: Path
) -> None:
    data = ts.import_dataset(make_folder(20, 20, size=80), "pets", image_size=16)
    found = finetune_result(data, encoder_file)
    assert found.run.config.data.name == "pets-32"
    assert (found.num_images, found.num_held_out) == (32, 8)
    evaluation = ts.evaluate(found.run)
    assert evaluation.split == "val" and evaluation.metrics.num_images == 8
    assert ts.load_dataset("pets").image_size == 16


def test_what_is_known_of_other_data_is_not_taken_for_these(
    make_folder: MakeFolder, encoder_file: Path, tmp_path: Path, messages: list[str]
) -> None:
    folder = make_folder(10, 10)
    ts.import_dataset(folder, "pets", image_size=32)
    run = ts.finetune("pets", encoder_file)
    learned = run.config.data.train
    assert ts.evaluate(run, learned).cross_validated
    drawn = run.predictions_path(learned)
    drawn.unlink()
    messages.clear()
    ts.evaluate(run, "val")
    assert messages == []
    with Image.open(folder / "class0/000.png") as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(folder / "class0/000.png")
    ts.import_dataset(folder, "pets", image_size=32)  # of the same rows and labels
    changed = "pets has changed since finetune-pets was cross-validated on it.*finetune again"
    for work in (ts.evaluate, ts.report):
        with pytest.raises(ValueError, match=changed):
            work(run, learned)
    assert not drawn.exists() and not run.report_path.exists()
    messages.clear()
    ts.evaluate(run, "val")
    (said,) = messages
    assert said.startswith("warning: pets has changed since finetune-pets was trained")


def test_the_better_of_several_encoders_is_used(
    make_folder: MakeFolder, encoder_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinysight.api.finetune.at_hand", lambda: ("bundled", encoder_file))
    found = finetune_result(make_folder(8, 8, 8))
    assert found.errors.keys() == {"bundled", str(encoder_file)}
    assert found.errors[found.encoder] == min(found.errors.values())


def test_a_full_training_that_is_not_better_keeps_the_weights_before(
    make_folder: MakeFolder, encoder_file: Path, monkeypatch: pytest.MonkeyPatch,
    run_command: Tinysight, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr("tinysight.finetuning.finetune.NUM_STEPS", 9)
    monkeypatch.setattr("tinysight.finetuning.finetune.LR", 5.0)  # ruins it
    words = ("finetune", str(make_folder(15, 15, 15)), "--from", str(encoder_file), "--full")
    out = run_command(*words, "--name", "own")[1]
    assert "no better by more than the noise: the weights before are kept" in out
    full, start = (tmp_path / f"runs/{name}" for name in ("own", "own-start"))
    names = ("weights.safetensors", "evaluation-val.json")
    assert [(full / name).read_bytes() == (start / name).read_bytes() for name in names] == [1, 1]
    assert json.loads((full / "summary.json").read_text())["kept"].startswith("the weights before")


def test_what_a_full_training_needs_is_looked_at_before_any_work(
    make_folder: MakeFolder, encoder_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(finetune, "judge", lambda *given, **options: pytest.fail("work"))
    folder, runs = make_folder(4, 4), tmp_path / "runs"
    for taken in ("pets", "pets-start"):
        (runs / taken).mkdir(parents=True)
        (runs / taken / "run.json").touch()
        for name in ("pets", f"{runs}/pets/", runs / "pets"):
            with pytest.raises(ValueError, match=f"{runs}/{taken} exists; .* choose another"):
                ts.finetune(folder, encoder_file, name=name, full=True)
        shutil.rmtree(runs / taken)
    data = ts.load_dataset(folder, image_size=32)
    without = replace(data, manifest={**data.manifest, "splits": {"train": [0, 8]}})
    with pytest.raises(ValueError, match="own has no labeled image in val, by which --full"):
        ts.finetune(without, encoder_file, full=True)
    assert list(runs.iterdir()) == []


@pytest.mark.parametrize(
    ("gained", "lost", "better"), [(2, 0, True), (1, 0, False), (4, 1, True), (3, 2, False)]
)
def test_better_is_by_more_than_a_standard_error(gained: int, lost: int, better: bool) -> None:
    def evaluation(right: list[int]) -> Evaluation:
        logits = torch.zeros(20, 2)
        logits[right, 0] = 1.0
        logits[:, 1] = 0.5
        labels = torch.zeros(20, dtype=torch.int64)
        labels[19] = -1
        return Evaluation("own", "val", logits, labels, torch.arange(20))

    before, after = list(range(10)), list(range(lost, 10 + gained))
    assert is_better(evaluation(before), evaluation([*after, 19])) == better


def test_a_full_training_begins_with_the_last_layer_and_keeps_the_norms(
    make_folder: MakeFolder, encoder_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinysight.finetuning.finetune.NUM_STEPS", 9)
    monkeypatch.setattr("tinysight.finetuning.finetune.is_better", lambda before, after: True)
    found = finetune_result(
        make_folder(15, 15, 15), encoder_file, full=True, name="own", device="cpu"
    )
    assert found.full is not None and found.full.config.train.device == "cpu"
    assert found.full is not None and found.full.name == "own" and found.full.is_finished
    assert found.val_errors is not None and max(found.val_errors) < 0.4
    before, after = (load_weights(run.weights_path)[0] for run in (found.run, found.full))
    same = {
        name: torch.equal(value, after.state_dict()[name])
        for name, value in before.state_dict().items()
    }
    assert all(same[name] for name in same if "running" in name or "normalize" in name)
    assert not same["stem.0.weight"] and not same["head.project.weight"]
    start = (before.state_dict()["head.means"] - after.state_dict()["head.means"]).abs().max()
    assert 0 < start < 0.05  # it goes on from there


@pytest.mark.parametrize(
    ("counts", "known"), [((1, 1, 1), False), ((60, 2, 1), True), ((2, 2), True)]
)
def test_few_and_uneven_images(
    counts: tuple[int, ...], known: bool, make_folder: MakeFolder, encoder_file: Path,
    run_command: Tinysight,
) -> None:  # fmt: skip
    folder = make_folder(*counts)
    status, out, _ = run_command("finetune", str(folder), "--from", str(encoder_file))
    assert status == 0
    assert ("give each class a second image" in out) != known
    assert ts.load_model("finetune-own-all-32").predict(folder / "class0/000.png").label == "class0"


def test_what_is_wrong_with_the_data_is_said(
    make_folder: MakeFolder, encoder_file: Path, run_command: Tinysight
) -> None:
    folder = make_folder(10, 2, same=True)
    (folder / "class0/notes.png").write_bytes(b"text")
    words = ("finetune", str(folder), "--from", str(encoder_file), "--skip-unreadable")
    status, out, err = run_command(*words)
    assert status == 0 and "1 unreadable image left out" in err
    assert "too few to learn or judge: class1 (2)" in err
    assert "several classes: 2, such as class0/000.png and class1/000.png" in err
    assert "one class always   16.7 %   (class0, the most frequent); the model is no better" in out


def test_an_error_equal_to_that_of_one_class_always_is_not_better(
    make_folder: MakeFolder, encoder_file: Path, run_command: Tinysight
) -> None:
    folder = make_folder(50, 1)  # 1 - 50 / 51 and 1 / 51 differ in the last digit
    _, out, _ = run_command("finetune", str(folder), "--from", str(encoder_file))
    assert "one class always   2.0 %   (class0, the most frequent); the model is no better" in out


def test_the_curve_of_unequal_classes_ends_at_the_smallest(
    make_folder: MakeFolder, encoder_file: Path
) -> None:
    found = finetune_result(make_folder(40, 30, 6), encoder_file)
    assert [point.per_class for point in found.curve] == [3, 5] and found.forecast is None


def test_two_classes_of_equal_images_are_as_wrong_as_chance(
    make_folder: MakeFolder, encoder_file: Path
) -> None:
    judged = finetune_result(make_folder(10, 10, same=True), encoder_file).judged
    assert judged is not None and judged.error >= 0.5


def test_what_cannot_be_learned_is_one_line(
    make_folder: MakeFolder, encoder_file: Path, tmp_path: Path
) -> None:
    make_folder(5, name="one")
    with pytest.raises(ValueError, match="only one class, 'class0'; a classifier needs at least"):
        ts.finetune(tmp_path / "one", encoder_file)
    with pytest.raises(ValueError, match="there is no dataset 'nothing'"):
        ts.finetune("nothing", encoder_file)
    folder = make_folder(3, 3)
    (folder / "class0/notes.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"notes\.png.*skip-unreadable"):
        ts.finetune(folder, encoder_file)
    assert ts.finetune(folder, encoder_file, skip_unreadable=True).is_finished
    with pytest.raises(ValueError, match="exists"):
        ts.finetune(folder, encoder_file, name="finetune-own-all-32", skip_unreadable=True)
