"""The training images of a run that are nearest to an image, and when there are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tinysight as ts
from tinysight.api.serve import training_images
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


def test_a_model_that_is_not_a_runs_has_no_training_images(encoder_file: Path) -> None:
    assert training_images(ts.load_model(encoder_file)) is None
    assert training_images(ts.load_model()) is None
