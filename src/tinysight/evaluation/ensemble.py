"""Runs or snapshots that vote: their stored scores, made where they are missing, and what the vote
gains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import check_data, score_split, write_scores
from tinysight.evaluation.scores import Scores, read_scores
from tinysight.files import write_atomic
from tinysight.ops import voting
from tinysight.ops.metrics import paired_difference, topk_correct, wilson_interval
from tinysight.predict.predictor import Predictor
from tinysight.run import Run


@dataclass(frozen=True, kw_only=True)
class Voter:
    """A member: its name, its weights, and what its scores are called beside them."""

    name: str
    run: Run
    weights: Path
    suffix: str = ""  # of the scores' file


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Errors of one way to answer, as shares, with 95 % Wilson intervals."""

    name: str
    top1_error: float
    top1_low: float
    top1_high: float
    top5_error: float


@dataclass(frozen=True, kw_only=True)
class Gain:
    """By how much a vote's top-1 error is below the best member's, as a share, with a paired 95 %
    interval.
    """

    name: str
    best_member: str
    gain: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Members and their votes on a split."""

    data: str
    split: str
    num_images: int
    members: tuple[Verdict, ...]
    votes: tuple[Verdict, ...]
    gains: tuple[Gain, ...]


def voters(runs: Sequence[Run], num_snapshots: int) -> list[Voter]:
    """List the members: the runs' final weights, or the last `num_snapshots` snapshots of each run
    when it is not 0.

    Raises:
        ValueError: a run is named twice, has too few snapshots, or there are fewer than 2
    members in all."""
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise ValueError("a run is named twice; its two votes would be the same")
    found = []
    own_names = [run.folder.name for run in runs]
    for run in runs:
        folder = run.folder
        name = folder.name if own_names.count(folder.name) == 1 else str(folder)
        if not num_snapshots:
            found.append(Voter(name=name, run=run, weights=run.weights_path))
            continue
        kept = run.snapshots()
        if len(kept) < num_snapshots:
            raise ValueError(
                f"{folder} has {len(kept)} snapshots, --snapshots asks for {num_snapshots}; "
                f"train it with train.snapshots={num_snapshots} or more"
            )
        found += [
            Voter(name=f"{name} {path.stem}", run=run, weights=path, suffix=f"-{path.stem}")
            for path in kept[-num_snapshots:]
        ]
    if len(found) < 2:
        raise ValueError(
            "one member makes no vote; name several runs, or one with --snapshots 2 or more"
        )
    return found


def scores_of(
    voter: Voter, split: str, *, pack: Dataset, runtime: Runtime, each_batch: Callable[[int], None]
) -> tuple[str, Scores]:
    """Return the split's label and a member's scores: the stored ones, or new ones that are then
    stored.
    """
    predictor = Predictor(voter.weights, runtime=runtime)
    check_data(predictor.metadata, pack)
    label = voter.run.label(pack.name, split)
    path = voter.run.scores_path(label, voter.suffix)
    if path.exists():
        scores = read_scores(path)
        rows = pack.rows(split)
        labels = torch.from_numpy(np.array(pack.labels[rows.start : rows.stop]))
        if torch.equal(scores.rows, torch.arange(rows.start, rows.stop)) and torch.equal(
            scores.labels, labels
        ):
            return label, scores
    scores = score_split(
        predictor, pack, split, each_batch
    )  # there are none, or they are of another pack of that name
    write_scores(path, scores, {"split": split, "data": pack.name})
    return label, scores


def vote(named: Sequence[tuple[str, Scores]], *, data: str, split: str) -> Ensemble:
    """Count what members and votes get right.

    The best member is the best on this very split, which favors it: the gain is rather too small
    than too large.

    Raises:
        ValueError: the scores are of different images, or no image is labeled.
    """
    first = named[0][1]
    for name, scores in named:
        if not (torch.equal(scores.rows, first.rows) and torch.equal(scores.labels, first.labels)):
            raise ValueError(
                f"the scores of {name} are of other images than those of {named[0][0]}; evaluate both anew"
            )
    labeled = first.labels >= 0
    labels = first.labels[labeled]
    if not len(labels):
        raise ValueError(f"no image of {split} has a label, so there is no error to measure")
    logits = [scores.logits[labeled] for _, scores in named]
    right = [topk_correct(member, labels, 1) for member in logits]
    best = max(range(len(named)), key=lambda place: int(right[place].sum()))
    ballots = {
        "mean probability": voting.mean_probability(logits),
        "majority": voting.majority(logits),
    }
    gains = []
    for name, ballot in ballots.items():
        gain, low, high = paired_difference(topk_correct(ballot, labels, 1), right[best])
        gains.append(Gain(name=name, best_member=named[best][0], gain=gain, low=low, high=high))
    return Ensemble(
        data=data,
        split=split,
        num_images=len(labels),
        members=tuple(
            _verdict(name, member, labels) for (name, _), member in zip(named, logits, strict=True)
        ),
        votes=tuple(_verdict(name, ballot, labels) for name, ballot in ballots.items()),
        gains=tuple(gains),
    )


def write_ensemble(ensemble: Ensemble, path: Path) -> None:
    """Write what came of a vote as JSON."""
    write_atomic(path, (json.dumps(asdict(ensemble), indent=1) + "\n").encode())


def _verdict(name: str, scores: torch.Tensor, labels: torch.Tensor) -> Verdict:
    count = len(labels)
    wrong1 = count - int(topk_correct(scores, labels, 1).sum())
    wrong5 = count - int(topk_correct(scores, labels, min(5, scores.shape[1])).sum())
    low, high = wilson_interval(wrong1, count)
    return Verdict(
        name=name,
        top1_error=wrong1 / count,
        top1_low=low,
        top1_high=high,
        top5_error=wrong5 / count,
    )
