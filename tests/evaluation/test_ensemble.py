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
from tinysight.device import Runtime
from tinysight.evaluation import ensemble as ensembles
from tinysight.evaluation.ensemble import scores_of, vote, voters, write_ensemble
from tinysight.evaluation.evaluate import write_scores
from tinysight.evaluation.scores import Scores, measure, read_scores
from tinysight.run import Run, read_run
from tinysight.train import launch
from tinysight.train.distributed import DistributedContext
from tinysight.train.loop import NullReporter

MakeRun = Callable[..., Config]
CPU = Runtime(device=torch.device("cpu"), bf16=False)


def _scores(*rows: list[float], labels: list[int]) -> Scores:
    logits = torch.tensor(rows)
    return Scores(logits=logits, labels=torch.tensor(labels), rows=torch.arange(len(logits)))


def _train(run: Config, pack: Dataset, folder: Path) -> Run:
    launch.start(
        run, pack, distributed=DistributedContext(), reporter=NullReporter(), name=str(folder)
    )
    return read_run(folder)


def test_a_vote_is_counted_by_hand() -> None:
    one = _scores([3, 0, 0], [0, 2, 0], [0, 0, 1], [2, 0, 0], labels=[0, 1, 2, 1])  # 3 of 4 right
    two = _scores([0, 1, 0], [0, 2, 0], [0, 0, 1], [0, 1, 0], labels=[0, 1, 2, 1])  # 3
    three = _scores([0, 1, 0], [2, 0, 0], [0, 0, 1], [0, 3, 0], labels=[0, 1, 2, 1])  # 2
    result = vote([("one", one), ("two", two), ("three", three)], data="d", split="val")
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


def test_members_of_the_same_name_are_two(make_run: MakeRun, pack: Dataset, tmp_path: Path) -> None:
    right = _scores([3, 0], [3, 0], labels=[0, 0])
    half = _scores([3, 0], [0, 3], labels=[0, 0])
    result = vote([("same", right), ("same", half)], data="d", split="val")
    assert [member.top1_error for member in result.members] == [0.0, 0.5]
    assert all(gain.gain <= 0 for gain in result.gains)  # the best member is right everywhere
    folders = [
        _train(make_run(train__epochs=1), pack, tmp_path / study / "run-seed0")
        for study in ("a", "b")
    ]
    assert [voter.name for voter in voters(folders, 0)] == [str(run.folder) for run in folders]


def test_scores_of_an_older_pack_are_made_anew(
    make_run: MakeRun, pack: Dataset, tmp_path: Path
) -> None:
    folder = _train(make_run(train__epochs=1, train__snapshots=1), pack, tmp_path / "run")
    (voter,) = voters([folder, _train(make_run(train__epochs=1), pack, tmp_path / "other")], 0)[:1]
    _, first = scores_of(voter, "val", pack=pack, runtime=CPU, each_batch=lambda done: None)
    path = folder.scores_path("val")
    write_scores(path, replace(first, labels=first.labels.flip(0), logits=first.logits * 0), {})
    _, again = scores_of(voter, "val", pack=pack, runtime=CPU, each_batch=lambda done: None)
    assert torch.equal(again.logits, first.logits) and torch.equal(
        read_scores(path).labels, first.labels
    )


def test_images_without_a_label_do_not_count() -> None:
    one = _scores([3, 0], [0, 2], labels=[0, -1])
    assert vote([("a", one), ("b", one)], data="d", split="s").num_images == 1
    with pytest.raises(ValueError, match="no image of test has a label"):
        vote([("a", replace(one, labels=torch.tensor([-1, -1])))], data="d", split="test")


def test_scores_of_other_images_are_refused() -> None:
    one = _scores([3, 0], [0, 2], labels=[0, 1])
    with pytest.raises(ValueError, match="b are of other images than those of a"):
        vote([("a", one), ("b", replace(one, rows=one.rows + 1))], data="d", split="val")


def test_snapshots_of_one_training_vote_from_stored_scores(
    make_run: MakeRun, pack: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(
        schedule__name="cyclic", schedule__cycles=3, schedule__warmup=0.0, train__snapshots=3
    )
    folder = _train(run, pack, tmp_path / "run")
    members = voters([folder], 2)
    assert [member.name for member in members] == ["run epoch-0002", "run epoch-0003"]
    done: list[int] = []
    made = [
        scores_of(member, "val", pack=pack, runtime=CPU, each_batch=done.append)[1]
        for member in members
    ]
    assert done and not torch.equal(made[0].logits, made[1].logits)
    paths = sorted(path.name for path in (folder.folder / "scores").iterdir())
    assert paths == ["val-epoch-0002.safetensors", "val-epoch-0003.safetensors"]

    monkeypatch.setattr(ensembles, "score_split", None)  # stored ones are read: no model runs
    again = [
        scores_of(member, "val", pack=pack, runtime=CPU, each_batch=done.append)[1]
        for member in members
    ]
    assert all(
        torch.equal(one.logits, other.logits) for one, other in zip(made, again, strict=True)
    )

    result = vote(
        [(m.name, s) for m, s in zip(members, again, strict=True)], data="small", split="val"
    )
    assert (
        result.members[1].top1_error
        == measure(read_scores(folder.folder / "scores" / paths[1])).top1_error
    )
    write_ensemble(result, tmp_path / "vote.json")
    assert json.loads((tmp_path / "vote.json").read_text())["num_images"] == 24


def test_what_makes_no_vote_is_refused(make_run: MakeRun, pack: Dataset, tmp_path: Path) -> None:
    folder = _train(make_run(train__epochs=1), pack, tmp_path / "run")
    with pytest.raises(ValueError, match="one member makes no vote"):
        voters([folder], 0)
    with pytest.raises(ValueError, match="has 0 snapshots, --snapshots asks for 2"):
        voters([folder], 2)
    with pytest.raises(ValueError, match="named twice"):
        voters([folder, replace(folder, folder=folder.folder / ".." / "run")], 0)
