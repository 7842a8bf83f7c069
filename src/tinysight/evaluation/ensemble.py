"""Ensembles of runs, or of one run's snapshots, from stored evaluations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import (
    NO_CLASS,
    Evaluation,
    Progress,
    check_data,
    check_judged,
    evaluate,
)
from tinysight.files import write_atomic
from tinysight.ops import metrics
from tinysight.ops.metrics import topk_correct, topk_error
from tinysight.predict.predictor import Predictor
from tinysight.run import Run
from tinysight.text import pluralize


def combined(logits: Sequence[Tensor]) -> Tensor:
    """Return logits (N, K) whose softmax is the mean probability of models with logits (N, K)."""
    if len(logits) == 1:
        return logits[0]
    return metrics.mean_probability(logits).clamp_min(1e-38).log().float()


@dataclass(frozen=True)
class Member:
    """A member of an ensemble: its name, its weights, and where its evaluation is stored."""

    name: str
    run: Run
    weights: Path
    suffix: str = ""  # of the stored evaluation's file


@dataclass(frozen=True)
class Errors:
    """Errors of a member or a vote, as shares, with a 95 % interval.

    It is Wilson's, or where a member is cross-validated that of `ops.metrics.error_interval`.
    """

    name: str
    top1_error: float
    top1_low: float
    top1_high: float
    top5_error: float | None  # there is none of five classes or fewer


@dataclass(frozen=True)
class Gain:
    """How far a vote's top-1 error is below the best member's, with a paired 95 % interval."""

    name: str
    best_member: str
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Ensemble:
    """Members and their votes on a split."""

    data: str
    split: str
    num_images: int
    members: tuple[Errors, ...]
    votes: tuple[Errors, ...]
    gains: tuple[Gain, ...]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_atomic(path, (json.dumps(asdict(self), indent=1) + "\n").encode())


def find_members(runs: Sequence[Run], num_snapshots: int = 0) -> list[Member]:
    """List the runs' final weights, or where it is not 0 the last `num_snapshots` of each run.

    Raises ValueError when a run is named twice, has too few snapshots, or there are fewer than 2
    members.
    """
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise ValueError("a run is named twice; its two votes would be the same")
    members = []
    names = [run.name for run in runs]
    for run in runs:
        name = run.name if names.count(run.name) == 1 else str(run.folder)
        if not num_snapshots:
            members.append(Member(name, run, run.weights_path))
            continue
        snapshots = run.snapshots()[-num_snapshots:]
        if len(snapshots) < num_snapshots:
            raise ValueError(
                f"{run.folder} has {pluralize(len(snapshots), 'snapshot')}, --snapshots asks for "
                f"{num_snapshots}; train it with train.snapshots={num_snapshots} or more"
            )
        stems = [path.stem for path in snapshots]
        named = zip(stems, snapshots, strict=True)
        members += [Member(f"{name} {stem}", run, path, f"-{stem}") for stem, path in named]
    if len(members) < 2:
        raise ValueError(
            "an ensemble needs two members; name several runs, or --snapshots 2 or more"
        )
    return members


def evaluate_member(
    member: Member,
    dataset: Dataset,
    split: str,
    *,
    runtime: Runtime | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Return a member's stored evaluation, or evaluate it and store that.

    Raises ValueError when its weights do not fit the dataset, or learned no class of an image.
    """
    predictor = Predictor(member.weights, runtime=runtime)
    if not predictor.metadata.classifies:
        raise ValueError(NO_CLASS.format(member.name))
    check_data(predictor.metadata, dataset)
    path = member.run.scores_path(member.run.label(dataset.name, split), member.suffix)
    if path.exists():
        stored, rows = Evaluation.load(path), dataset.rows(split)
        if stored.cross_validated:
            check_judged(member.run, dataset)
        labels = torch.from_numpy(np.array(dataset.labels[rows.start : rows.stop]))
        same_rows = torch.equal(stored.rows, torch.arange(rows.start, rows.stop))
        if same_rows and torch.equal(stored.labels, labels):  # else of an older dataset
            return stored
    evaluation = evaluate(predictor, dataset, split, progress=progress)
    evaluation.save(path)
    return evaluation


def vote(named: Sequence[tuple[str, Evaluation]]) -> Ensemble:
    """Measure members and their votes, by mean probability and by majority.

    The best member is the best on this very split, which favors it: the gain is rather too small
    than too large. Raises ValueError when the evaluations are of different images, no image is
    labeled, or a member learned no class of an image.
    """
    first = named[0][1]
    for name, other in named:
        if not other.classifies:
            raise ValueError(NO_CLASS.format(name))
        if not (torch.equal(other.rows, first.rows) and torch.equal(other.labels, first.labels)):
            where = f"{named[0][0]}; evaluate both again"
            raise ValueError(f"the scores of {name} are of other images than those of {where}")
    labeled = first.labels >= 0
    labels = first.labels[labeled]
    if not len(labels):
        raise ValueError(f"no image of {first.split} has a label, so there is no error to measure")
    logits = [evaluation.logits[labeled] for _, evaluation in named]
    correct = [topk_correct(member, labels, 1) for member in logits]
    best = max(range(len(named)), key=lambda place: int(correct[place].sum()))
    scores = {"mean probability": metrics.mean_probability(logits)}
    scores["majority"] = metrics.majority_vote(logits)
    names = [name for name, _ in named]
    gains = []
    for name, own in scores.items():
        gain = metrics.paired_difference(topk_correct(own, labels, 1), correct[best])
        gains.append(Gain(name, names[best], *gain))
    crossed = [evaluation.cross_validated for _, evaluation in named]
    parts = zip(names, logits, crossed, strict=True)
    members = tuple(_errors(name, own, labels, each) for name, own, each in parts)
    votes = tuple(_errors(*pair, labels, any(crossed)) for pair in scores.items())
    return Ensemble(first.data, first.split, len(labels), members, votes, tuple(gains))


def _errors(name: str, scores: Tensor, labels: Tensor, cross_validated: bool) -> Errors:
    top5 = topk_error(scores, labels, 5)[0] if scores.shape[1] > 5 else None
    top1 = topk_error(scores, labels, 1, cross_validated=cross_validated)
    return Errors(name, *top1, top5)
