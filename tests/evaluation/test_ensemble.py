"""Runs and snapshots that vote: from stored scores, refused when they do not belong together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tinysight.config import Config
from tinysight.data.dataset import Dataset
from tinysight.evaluation import ensemble as ensembles
from tinysight.evaluation.ensemble import evaluate_member, find_members, vote
from tinysight.evaluation.evaluate import Evaluation, submit
from tinysight.models import create_model
from tinysight.models.localizer import Localizer
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.weights import weights_bytes
from tinysight.run import Run
from tinysight.training.loop import train

MakeConfig = Callable[..., Config]


def _scores(*rows: list[float], labels: list[int]) -> Evaluation:
    logits = torch.tensor(rows, dtype=torch.float32)
    return Evaluation(
        data="d",
        split="val",
        logits=logits,
        labels=torch.tensor(labels),
        rows=torch.arange(len(logits)),
    )


def _train(config: Config, dataset: Dataset, folder: Path) -> Run:
    return train(config, dataset, name=folder)


def test_a_vote_is_counted_by_hand() -> None:
    one = _scores([3, 0, 0], [0, 2, 0], [0, 0, 1], [2, 0, 0], labels=[0, 1, 2, 1])  # 3 of 4 right
    two = _scores([0, 1, 0], [0, 2, 0], [0, 0, 1], [0, 1, 0], labels=[0, 1, 2, 1])  # 3
    three = _scores([0, 1, 0], [2, 0, 0], [0, 0, 1], [0, 3, 0], labels=[0, 1, 2, 1])  # 2
    result = vote([("one", one), ("two", two), ("three", three)])
    assert [round(4 * (1 - member.top1_error)) for member in result.members] == [3, 3, 2]
    mean, by_majority = result.votes
    # Majority: 1, 1, 2, 1 of the labels 0, 1, 2, 1. Mean: class 0 wins the first image by one's
    # sureness.
    assert (by_majority.top1_error, mean.top1_error) == (0.25, 0.0)
    assert [gain.gain for gain in result.gains] == [0.25, 0.0]
    assert {gain.best_member for gain in result.gains} == {"one"}
    assert (
        result.gains[0].low < 0 < result.gains[0].gain < result.gains[0].high
    )  # four images prove nothing


def test_members_of_the_same_name_are_told_apart(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    right = _scores([3, 0], [3, 0], labels=[0, 0])
    half = _scores([3, 0], [0, 3], labels=[0, 0])
    result = vote([("same", right), ("same", half)])
    assert [member.top1_error for member in result.members] == [0.0, 0.5]
    assert all(gain.gain <= 0 for gain in result.gains)  # the best member is right everywhere
    folders = [
        _train(make_config(train__epochs=1), dataset, tmp_path / study / "run-seed0")
        for study in ("a", "b")
    ]
    assert [member.name for member in find_members(folders, 0)] == [
        str(run.folder) for run in folders
    ]


def test_scores_of_an_older_dataset_are_evaluated_again(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    run = _train(make_config(train__epochs=1, train__snapshots=1), dataset, tmp_path / "run")
    other = _train(make_config(train__epochs=1), dataset, tmp_path / "other")
    member = find_members([run, other])[0]
    first = evaluate_member(member, dataset, "val")
    path = run.scores_path("val")
    replace(first, labels=first.labels.flip(0), logits=first.logits * 0).save(path)
    again = evaluate_member(member, dataset, "val")
    assert torch.equal(again.logits, first.logits)
    assert torch.equal(Evaluation.load(path).labels, first.labels)


def test_images_without_a_label_do_not_count() -> None:
    one = _scores([3, 0], [0, 2], labels=[0, -1])
    assert vote([("a", one), ("b", one)]).num_images == 1
    with pytest.raises(ValueError, match="no image of test has a label"):
        vote([("a", replace(one, split="test", labels=torch.tensor([-1, -1])))])


def test_scores_of_other_images_are_refused() -> None:
    one = _scores([3, 0], [0, 2], labels=[0, 1])
    with pytest.raises(ValueError, match="b are of other images than those of a"):
        vote([("a", one), ("b", replace(one, rows=one.rows + 1))])


def test_snapshots_of_one_training_vote_from_stored_scores(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(
        schedule__name="cyclic", schedule__cycles=3, schedule__warmup=0.0, train__snapshots=3
    )
    finished = _train(config, dataset, tmp_path / "run")
    members = find_members([finished], 2)
    assert [member.name for member in members] == ["run epoch-0002", "run epoch-0003"]
    made = [evaluate_member(member, dataset, "val") for member in members]
    assert not torch.equal(made[0].logits, made[1].logits)
    paths = [finished.scores_path("val", f"-epoch-000{number}") for number in (2, 3)]
    assert sorted((finished.folder / "scores").iterdir()) == paths

    monkeypatch.setattr(ensembles, "evaluate", None)  # stored ones are read: no model runs
    again = [evaluate_member(member, dataset, "val") for member in members]
    for one, other in zip(made, again, strict=True):
        assert torch.equal(one.logits, other.logits)

    result = vote([(m.name, found) for m, found in zip(members, again, strict=True)])
    assert result.members[1].top1_error == Evaluation.load(paths[1]).top1_error
    result.write(tmp_path / "vote.json")
    assert json.loads((tmp_path / "vote.json").read_text())["num_images"] == 24


def test_too_few_members_are_refused(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    folder = _train(make_config(train__epochs=1), dataset, tmp_path / "run")
    with pytest.raises(ValueError, match="needs two members"):
        find_members([folder], 0)
    with pytest.raises(ValueError, match="has 0 snapshots, --snapshots asks for 2"):
        find_members([folder], 2)
    with pytest.raises(ValueError, match="named twice"):
        find_members([folder, replace(folder, folder=folder.folder / ".." / "run")], 0)


def test_a_cross_validated_member_has_the_interval_of_its_evaluation() -> None:
    plain = _scores(*[[3, 0]] * 30, labels=[0] * 20 + [1] * 10)
    crossed = replace(plain, cross_validated=True)
    result = vote([("crossed", crossed), ("plain", plain)])
    for own, errors in zip((crossed, plain), result.members, strict=True):
        expected = (own.metrics.top1_low, own.metrics.top1_high)
        assert (errors.top1_low, errors.top1_high) == expected
    wide, narrow = result.members
    assert wide.top1_low < narrow.top1_low < narrow.top1_high < wide.top1_high
    assert all(own.top1_low == wide.top1_low for own in result.votes)


def test_members_that_learned_no_class_of_an_image_are_refused(
    make_config: MakeConfig,
    make_metadata: Callable[..., ModelMetadata],
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    one = _scores([3, 0], [0, 2], labels=[0, 1])
    with pytest.raises(ValueError, match=r"^b finds boxes, but did not learn the class"):
        vote([("a", one), ("b", replace(one, classifies=False))])
    head = {"head": "mlp", "grid": 1, "width": 8, "num_steps": 1, "feedback": False}
    head |= {"shared": False, "decoding": "filter", "threshold": 0.5, "nms_iou": 0.5}
    model = Localizer(create_model("small", 24), head="mlp", grid=1, width=8)
    run = Run(folder=tmp_path, config=make_config(), data_digest=dataset.digest, machine={})
    metadata = make_metadata(crop=32, localizer=head | {"class_loss_weight": 0.0})
    run.weights_path.write_bytes(weights_bytes(model, metadata))
    member = ensembles.Member("finder", run, run.weights_path)
    with pytest.raises(ValueError, match=r"^finder finds boxes"):
        evaluate_member(member, dataset, "val")
    with pytest.raises(ValueError, match="did not learn the class of an image"):
        submit(run, tmp_path / "submission.txt", dataset)
    assert not (tmp_path / "submission.txt").exists()
