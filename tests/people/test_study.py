"""A study's answers: of people and networks, to the same images, among the same classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinysight.api import quiz as module
from tinysight.data.dataset import Dataset
from tinysight.evaluation.evaluate import Evaluation
from tinysight.people.answers import Answer, gather
from tinysight.people.material import Material
from tinysight.people.study import Study


def logits_of(dataset: Dataset) -> np.typing.NDArray[np.float32]:
    """Prefer the class after the right one, then the right one, then the one before."""
    labels = dataset.labels[slice(*dataset.splits["val"])]
    right = np.eye(24, dtype=np.float32)[labels]
    return 3 * np.roll(right, 1, axis=1) + 2 * right + np.roll(right, -1, axis=1)


def test_networks_choose_among_the_classes_of_the_game(dataset: Dataset) -> None:
    material = Material(dataset, "val", {"n": logits_of(dataset)}, num_images=10)
    names = dataset.class_names
    rows = [row for row in material.rows if dataset.labels[row] % 2 == 0]
    people = gather(
        [
            Answer(subject="p", session=1, trial=i, image=dataset.files[row], response=None,
                   target=names[dataset.labels[row]])
            for i, row in enumerate(rows)
        ]
        + [Answer(subject="p", session=1, trial=99, image="easy.png", target=names[0],
                  response=names[0], kind="catch")],
        names,
    )  # fmt: skip
    quick = Study(material, "quick", names[::2], people)
    network = quick.answers.of(["n"])
    assert network.correct.all() and len(network.rows) == len(rows)
    full = Study(material, "full", names, people)
    assert not full.answers.of(["n"]).correct.any()
    images = [dataset.files[row] for row in rows]
    shares = quick.probabilities("n", images)
    assert shares.sum(axis=1) == pytest.approx(1) and (shares[:, 1::2] == 0).all()
    strange = gather([replace(people.rows[0], image="strange.png")], names)
    with pytest.raises(ValueError, match=r"strange\.png is not an image of val"):
        Study(material, "full", names, strange)


@pytest.mark.parametrize("fault", ["rows", "labels", "none"])
def test_scores_of_other_images_are_refused(
    dataset: Dataset, monkeypatch: Any, fault: str, tmp_path: Path
) -> None:
    rows = torch.arange(*dataset.splits["val"])
    labels = torch.from_numpy(dataset.labels[rows.numpy()].copy())
    if fault == "rows":
        rows = rows.flip(0)
    if fault == "labels":  # as where classes are in another order
        labels = 23 - labels
    evaluation = Evaluation("small", "val", torch.from_numpy(logits_of(dataset)), labels, rows)
    monkeypatch.setattr(module, "load_model", lambda source, device: None)
    monkeypatch.setattr(module.evaluations, "evaluate", lambda *a, **k: evaluation)
    (tmp_path / "weights").touch()
    monkeypatch.setattr(module, "find_weights", lambda source: tmp_path / "weights")
    if fault == "none":
        assert list(module._logits(["bundled"], dataset, "val", "cpu", tmp_path)) == ["bundled"]
        return
    with pytest.raises(ValueError, match="bundled are of other images or labels"):
        module._logits(["bundled"], dataset, "val", "cpu", tmp_path)
