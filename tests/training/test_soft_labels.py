"""People's shares of answers as targets: read by image name, learned, and checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tinysight.api.models import load_model
from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.data.soft_labels import read_soft_labels
from tinysight.evaluation.evaluate import evaluate
from tinysight.ops import mixing
from tinysight.people.answers import Answer, gather
from tinysight.people.exports import write_exports
from tinysight.settings import override
from tinysight.training import losses
from tinysight.training.loop import ALONE
from tinysight.training.setup import check

PEOPLE = 10
OWN_SHARE = 0.6  # of people say the label, the others the class after it


def shares_of(labels: Any, num_classes: int = 24) -> Any:
    own = np.eye(num_classes, dtype=np.float32)[labels]
    return OWN_SHARE * own + (1 - OWN_SHARE) * np.roll(own, 1, axis=1)


@pytest.fixture
def exported(dataset: Dataset, tmp_path: Path) -> Path:
    """The soft labels of the first 70 training images, as the quiz exports them."""
    names, answers = dataset.class_names, []
    for person in range(PEOPLE):
        for trial, row in enumerate(dataset.rows("train")[:70], 1):
            label = dataset.labels[row]
            said = names[label if person < OWN_SHARE * PEOPLE else (label + 1) % len(names)]
            answers.append(
                Answer(
                    subject=f"p-{person}",
                    session=1,
                    trial=trial,
                    target=names[label],
                    image=dataset.files[row],
                    response=None if row == 5 else said,
                )
            )
    write_exports(gather(answers, names), tmp_path / "people", name="small", people="all")
    return tmp_path / "people" / "probs.npy"


def test_shares_go_to_their_images_and_others_keep_their_label(
    exported: Path, dataset: Dataset
) -> None:
    rows = np.arange(72)
    targets, shared = read_soft_labels(exported, dataset, rows)
    assert targets.shape == (132, 24) and np.flatnonzero(~shared[:72]).tolist() == [5, 70, 71]
    np.testing.assert_allclose(
        targets[:72][shared[:72]], shares_of(dataset.labels[:72])[shared[:72]], atol=1e-6
    )
    hard = np.flatnonzero(~shared & (dataset.labels >= 0))
    np.testing.assert_array_equal(targets[hard], np.eye(24)[dataset.labels[hard]])
    exported.with_name("images.csv").unlink()  # CIFAR-10H: no names, all rows in order
    np.save(exported, shares_of(dataset.labels[:72]))
    ordered, _ = read_soft_labels(exported, dataset, rows)
    np.testing.assert_allclose(ordered[:72], shares_of(dataset.labels[:72]), atol=1e-6)


def swap_ids(folder: Path, dataset: Dataset) -> None:
    text = (folder / "images.csv").read_text()
    one, other = dataset.files[0], dataset.files[1]
    (folder / "images.csv").write_text(
        text.replace(one, "?").replace(other, one).replace("?", other)
    )


def save(change: Callable[[Any], Any]) -> Callable[[Path, Dataset], None]:
    def apply(folder: Path, dataset: Dataset) -> None:
        np.save(folder / "probs.npy", change(np.load(folder / "probs.npy")))

    return apply


def unordered(folder: Path, dataset: Dataset) -> None:
    (folder / "images.csv").unlink()
    np.save(folder / "probs.npy", shares_of(np.roll(dataset.labels[:72], 3)))


def rename(old: str, new: str, file: str = "images.csv") -> Callable[[Path, Dataset], None]:
    def apply(folder: Path, dataset: Dataset) -> None:
        text = (folder / file).read_text()
        (folder / file).write_text(text.replace(old, new))

    return apply


def only_val(folder: Path, dataset: Dataset) -> None:
    row = dataset.rows("val")[0]
    name = dataset.class_names[dataset.labels[row]]
    (folder / "images.csv").write_text(f"image,category\n{dataset.files[row]},{name}\n")
    np.save(folder / "probs.npy", shares_of(dataset.labels[[row]]))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (save(lambda shares: 10 * shares), "has the sum 10; expected shares"),
        (save(lambda shares: shares[:, :23]), "shares of 23 classes, and the data 24"),
        (save(lambda shares: shares[0]), "not a table"),
        (save(lambda shares: shares[:9]), "does not list the 9 images"),
        (rename("train", "other"), "which is not there in small"),
        (swap_ids, "which is '.*' in small"),
        (lambda folder, dataset: rename(*dataset.class_names[:2], "classes.txt")(folder, dataset),
         "other classes than the data"),
        (unordered, "another class than the label"),
        (lambda folder, dataset: (folder / "images.csv").unlink(), "70 rows, and there are 72"),
        (only_val, "no image of .* is a training image of small"),
        (lambda folder, dataset: (folder / "probs.npy").write_text("a,b"), r"\(not an .npy file"),
        (lambda folder, dataset: (folder / "probs.npy").write_text(""), r"\(not an .npy file"),
        (lambda folder, dataset: (folder / "probs.npy").unlink(), r"\(No such file"),
    ],
)  # fmt: skip
def test_soft_labels_of_other_images_or_classes_are_refused(
    fault: Callable[[Path, Dataset], None],
    message: str,
    exported: Path,
    dataset: Dataset,
    make_config: Callable[..., Config],
) -> None:
    config = make_config(data__soft_labels=str(exported))
    check(config, dataset, ALONE)
    fault(exported.parent, dataset)
    with pytest.raises(ValueError, match=message):
        check(config, dataset, ALONE)


def test_the_loss_is_that_of_mixed_and_smoothed_shares() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator)
    soft = torch.rand(4, 3, generator=generator).softmax(dim=1)
    labels, weights = soft.argmax(dim=1), torch.tensor([1.0, 2.0, 0.5])
    smoothed = 0.9 * soft + 0.1 / 3
    each = -(smoothed * logits.log_softmax(dim=1)).sum(dim=1) * weights[labels]
    own: dict[str, Any] = {"label_smoothing": 0.1, "weights": weights, "soft_labels": soft}
    found = losses.classification(logits, labels, None, **own)
    torch.testing.assert_close(found, each.mean())
    share = torch.tensor([1.0, 0.25, 0.5, 0.0])
    swapped = [1, 0, 3, 2]
    targets = mixing.Targets(labels=labels, partners=labels[swapped], weight=share)
    others = -(smoothed[swapped] * logits.log_softmax(dim=1)).sum(dim=1) * weights[labels[swapped]]
    mixed = losses.classification(logits, labels, targets, **own)
    torch.testing.assert_close(mixed, (share * each + (1 - share) * others).mean())
    own["soft_labels"] = F.one_hot(labels, 3).float()  # the same as labels
    for one in (None, targets):
        hard = losses.classification(logits, labels, one, label_smoothing=0.1, weights=weights)
        torch.testing.assert_close(losses.classification(logits, labels, one, **own), hard)


def divergence(trial: Any, dataset: Dataset) -> float:
    """Return the mean KL divergence of people's shares from the network's, of training images."""
    found = evaluate(load_model(trial.weights_path), dataset, "train")
    shares = torch.from_numpy(shares_of(dataset.labels[:72]))
    return float(F.kl_div(found.logits.log_softmax(dim=1), shares, reduction="batchmean"))


def test_soft_labels_are_learned(trial: Any, exported: Path, dataset: Dataset) -> None:
    own = {"train.epochs": 15, "train.label_smoothing": 0.0, "optimizer.name": "adam",
           "optimizer.lr": 0.01, "schedule.name": "constant", "augment.probability": 0.0,
           "model.options": {"dropout": 0.0}, "augment.crop": 1.0, "augment.flip": 0.0}  # fmt: skip
    hard, soft = trial.at("hard"), trial.at("soft")
    hard.config = override(hard.config, own)
    soft.config = override(soft.config, own | {"data.soft_labels": str(exported)})
    hard.go()
    soft.go()
    assert divergence(soft, dataset) < 0.7 * divergence(hard, dataset)


@pytest.mark.parametrize(
    "settings",
    [{}, {"augment.mixup": 0.4, "augment.cutmix": 1.0, "train.class_balance": 0.5},
     {"train.ema_decay": 0.0, "localizer.head": "mlp", "augment.crop": 1.0, "augment.rotation": 5.0,
      "augment.mosaic": 0.5}],
)  # fmt: skip
def test_resumed_with_soft_labels_is_bitwise_identical(
    settings: dict[str, Any], trial: Any, exported: Path
) -> None:
    trial.config = override(trial.config, settings | {"data.soft_labels": str(exported)})
    trial.stop_at(5)
    trial.go()
    assert trial.differences() == []


def test_other_soft_labels_than_those_it_began_with_are_refused(trial: Any, exported: Path) -> None:
    trial.config = override(trial.config, {"data.soft_labels": str(exported)})
    trial.stop_at(5)
    np.save(exported, np.load(exported)[:, ::-1].copy())
    with pytest.raises(ValueError, match="not what the training began with"):
        trial.go()
