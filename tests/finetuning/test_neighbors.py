"""The training images of a run that are nearest to an image, and when there are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tinysight as ts
from tinysight.api.serve import training_images
from tinysight.data.load import find_prepared
from tinysight.finetuning import neighbors
from tinysight.images import load_square

MakeFolder = Callable[..., Path]


@pytest.mark.parametrize("most", [5000, 9])
def test_the_nearest_are_of_the_class_and_the_image_itself_is_first(
    make_folder: MakeFolder,
    encoder_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    monkeypatch.setenv("TINYSIGHT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(neighbors, "MAX_CANDIDATES", most)
    folder = make_folder(8, 8, 8)
    run = ts.finetune(folder, encoder_file, name=tmp_path / "run")
    model = ts.load_model(run)
    compared = training_images(model)
    assert compared is not None
    done: list[tuple[int, int]] = []
    compared.prepare(lambda now, total: done.append((now, total)))
    count = 24 if most == 5000 else 9
    assert done[-1] == (count, count)
    row = int(compared.rows[4])
    image = load_square(folder / compared.dataset.files[row], 32)
    found = compared.nearest(image, k=3)
    label = compared.dataset.class_names[compared.dataset.labels[row]]
    assert found[0].file == compared.dataset.files[row]
    assert found[0].distance == pytest.approx(0, abs=1e-3)
    assert np.array_equal(found[0].image, image)
    assert [each.label for each in found] == [label] * 3
    distances = [each.distance for each in found]
    assert distances == sorted(distances) and distances[1] > 0.01
    assert len(compared.nearest(image, k=50)) == count

    (folder / "class0/007.png").unlink()
    ts.finetune(folder, encoder_file, name=tmp_path / "other")  # the dataset is another one now
    assert training_images(model) is None


@pytest.mark.parametrize("given", ["folder", "folder that is gone", "view"])
def test_the_data_of_a_run_may_be_a_folder_or_a_view(
    given: str,
    make_folder: MakeFolder,
    encoder_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TINYSIGHT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(neighbors, "MAX_CANDIDATES", 9)
    folder = make_folder(8, 8, 8)
    data = ts.load_dataset(folder, image_size=32)
    name = "own.fold0" if given == "view" else str(folder)
    run = ts.finetune(name if given == "view" else data, encoder_file, name=tmp_path / "run")
    replace(run, config=replace(run.config, data=replace(run.config.data, name=name))).write()
    if given == "folder that is gone":
        folder.rename(tmp_path / "elsewhere")
    compared = training_images(ts.load_model(run))
    assert compared is not None and compared.dataset.digest == run.data_digest
    compared.prepare()
    image = compared.dataset.images[compared.rows[4]]
    found = compared.nearest(image, k=1)[0]
    assert found.file == compared.dataset.files[compared.rows[4]]
    assert np.array_equal(found.image, image)


def test_drawn_scenes_are_not_drawn_to_show_training_images(tmp_path: Path) -> None:
    for name in ("shapes.fold0", "shapes-2-4.mosaics", "shapes", str(tmp_path / "pets")):
        with pytest.raises(ValueError, match="there is no dataset"):
            find_prepared(name, home=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_a_runs_has_no_training_images(encoder_file: Path) -> None:
    assert training_images(ts.load_model(encoder_file)) is None
    assert training_images(ts.load_model()) is None
