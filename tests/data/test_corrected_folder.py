"""Labels given on the page, applied to a folder: by content, the last ones, the undone ones not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinysight as ts
from tinysight.corrections import BoxCorrection, Correction, LabeledBox, append_corrections
from tinysight.data.corrected_folder import class_folders
from tinysight.data.dataset import Dataset
from tinysight.files import sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures: six loose, three in `cat`, three in `2024`; all are different."""
    folder = tmp_path / "photos"
    for number in range(12):
        place = folder / ("", "", "cat", "2024")[number // 3]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.full((20, 20, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def correct(folder: Path, labels: dict[str, str | None], old: str | None = None) -> None:
    lines = [Correction(sha256(folder / f), f, old, new) for f, new in labels.items()]
    append_corrections(folder / "corrections.jsonl", lines)


def load(folder: Path, **options: object) -> Dataset:
    own = {"corrections": folder / "corrections.jsonl", "data_dir": folder.parent / "data"}
    return ts.import_dataset(folder, "photos", image_size=16, **own, **options)


def counts(data: Dataset) -> dict[str, int]:
    return dict(Counter(data.class_names[label] for label in data.labels.tolist()))


def test_labels_are_applied_by_content_and_folders_are_classes(folder: Path) -> None:
    correct(folder, {"0.png": "dog", "1.png": "cat", "2.png": "dog", "2024/9.png": "dog"}, "2024")
    correct(folder, {"0.png": "cat", "2.png": None}, "dog")
    (folder / "1.png").rename(folder / "renamed.png")
    (folder / "2024" / "9.png").rename(folder / "cat" / "9.png")
    data = load(folder)
    assert counts(data) == {"cat": 5, "2024": 2, "dog": 1}
    assert data.notes[:2] == ("3 corrections applied", "4 images without a label left out")
    files = dict(zip(data.files, data.labels.tolist(), strict=True))
    assert data.class_names[files["cat/9.png"]] == "dog"
    assert set(data.splits) == {"train", "minival", "val"}


def test_folders_of_pictures_that_had_no_label_are_not_classes(folder: Path) -> None:
    correct(folder, {"0.png": "dog", "2024/9.png": "cat"})
    (folder / "0.png").unlink()
    correct(folder, {"1.png": "dog"})
    data = load(folder)
    assert counts(data) == {"cat": 1, "dog": 1}
    assert "1 of pictures that are not in 'photos'" in data.notes[0]


def test_more_labels_make_it_again_and_the_same_do_not(folder: Path) -> None:
    correct(folder, {"0.png": "dog", "1.png": "cat"}, "")
    first = load(folder)
    assert load(folder).digest == first.digest
    correct(folder, {"2.png": "dog"}, "")
    assert counts(load(folder))["dog"] == 2
    correct(folder, {"3.png": "dog"}, "")
    with pytest.raises(ValueError, match="--corrections FILE"):
        ts.load_dataset(folder, data_dir=folder.parent / "data")


def test_splits_of_folders_are_kept(folder: Path) -> None:
    for name in ("train", "val"):
        (folder / name).mkdir()
    for number in range(6):
        (folder / f"{number}.png").rename(folder / ("train", "val")[number % 2] / f"{number}.png")
    for name in ("cat", "2024"):
        (folder / name).rename(folder / "train" / name)
    correct(folder, {f"{('train', 'val')[n % 2]}/{n}.png": f"{n // 2}" for n in range(4)}, "")
    data = load(folder)
    assert counts(data) == {"0": 2, "1": 2, "cat": 3, "2024": 3}
    val = range(*data.splits["val"])
    assert [data.files[row] for row in val] == ["val/1.png", "val/3.png"]


@pytest.mark.parametrize(
    ("images", "classes"),
    [
        ("train/1.png bus/2.png car/3.png", "train bus car"),
        ("all/Train/1.png all/bus/2.png", "Train bus"),
        ("train/cat/1.png val/cat/2.png test/3.png", "cat cat -"),
        ("train/1.png val/2.png", "- -"),
        ("train/cat/1.png bus/2.png", "cat bus"),
        ("1.png cat/2.png", "- cat"),
    ],
)
def test_folders_named_as_splits_may_be_classes(images: str, classes: str) -> None:
    found = class_folders(images.split())
    assert [name or "-" for name in found.values()] == classes.split()


def test_a_class_may_be_called_train(folder: Path) -> None:
    (folder / "cat").rename(folder / "train")
    for number in range(6):
        (folder / f"{number}.png").unlink()
    correct(folder, {"2024/9.png": "train"}, "2024")
    data = load(folder)
    assert set(data.class_names) == {"2024", "train"} and "test" not in data.splits
    assert counts(data) == {"2024": 2, "train": 4}


def draw(folder: Path, boxes: dict[str, tuple[LabeledBox, ...] | None]) -> None:
    """Give images boxes."""
    digests = {file: sha256(folder / file) for file in boxes}
    lines = [BoxCorrection(digests[file], file, None, None, "", boxes[file]) for file in boxes]
    append_corrections(folder / "corrections.jsonl", lines)


def test_boxes_are_applied_and_images_without_are_left_out(folder: Path) -> None:
    one, cat = LabeledBox((2, 4, 10, 20)), LabeledBox((0, 0, 5, 5), "cat")
    draw(folder, {"0.png": (cat,), "1.png": (one, cat), "2.png": (one,), "3.png": (one,)})
    draw(
        folder, {"0.png": (one,), "2.png": (), "3.png": None, "4.png": (cat,), "cat/6.png": (one,)}
    )
    correct(folder, {"0.png": "dog", "1.png": "dog", "5.png": "dog"}, "")
    (folder / "0.png").rename(folder / "renamed.png")
    (folder / "4.png").unlink()
    data = load(folder, unlabeled="skip")
    found = {
        file: [
            (data.class_names[label], box)
            for label, box in zip(data.box_labels_of(row), data.boxes_of(row).tolist(), strict=True)
        ]
        for row, file in enumerate(data.files)
    }
    scaled = [1.6, 3.2, 8.0, 16.0]  # 16 of 20 pixels
    assert found == {
        "renamed.png": [("dog", pytest.approx(scaled))],
        "1.png": [("dog", pytest.approx(scaled)), ("cat", pytest.approx([0, 0, 4, 4]))],
        "2.png": [],
        "cat/6.png": [("cat", pytest.approx(scaled))],
    }
    labels = dict(zip(data.files, data.labels.tolist(), strict=True))
    assert {file: label for file, label in labels.items() if label < 0} == {
        "1.png": -1,
        "2.png": -1,
    }
    assert "boxes of 4 images applied; 1 of pictures that are not in 'photos'" in data.notes
    assert any("7 images without an annotation left out" in note for note in data.notes)
    assert load(folder).digest == data.digest
    assert counts(load(folder, only_labels=True, replace=True)) == {"cat": 3, "2024": 3, "dog": 3}
    draw(folder, {"2.png": (cat,)})
    assert len(load(folder, replace=True).boxes) == 5
    with pytest.raises(ValueError, match="count from 0; leave out --boxes-origin 1"):
        load(folder, boxes_origin="1")
    with pytest.raises(ValueError, match="--only-labels goes with --corrections"):
        ts.import_dataset(folder, "photos", boxes=folder, only_labels=True)


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ((0, 0, 21, 30), "1 box cannot be used: .* extends beyond the 20 x 20 pixels"),
        (None, "not in 'photos'"),
    ],
)
def test_boxes_that_cannot_be_used_are_named(
    folder: Path, boxes: tuple[float, ...] | None, words: str
) -> None:
    draw(folder, {"0.png": (LabeledBox(boxes or (0, 0, 5, 5)),)})
    if boxes is None:
        (folder / "0.png").unlink()
    with pytest.raises(ValueError, match=words):
        load(folder)


@pytest.mark.parametrize(
    ("labels", "words"),
    [({"0.png": "dog"}, "one class, 'dog'"), ({"0.png": None}, "no label"), (None, "not a file")],
)
def test_too_little_is_said(folder: Path, labels: dict[str, str | None], words: str) -> None:
    for name in ("cat", "2024"):
        for file in (folder / name).iterdir():
            file.unlink()
    if labels is not None:
        correct(folder, labels)
    with pytest.raises(ValueError, match=words):
        load(folder)
