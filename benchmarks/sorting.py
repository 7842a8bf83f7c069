"""Count the decisions in which a simulated person labels a folder on the page's view Sort.

    python benchmarks/sorting.py FOLDER --draws 3

The classes of the class folders are the truth, which the person knows; the page does not. The
person looks at the first group that `tinysight.finetuning.sorting` proposes, as on the page at
most 30 pictures: each picture that is not of the most frequent class in it is labeled by itself,
one decision, and then all others by one key, one decision. The groups are made again after each.
One by one would be a decision per picture. `cold`: nothing is labeled at first. `half known`: ten
pictures of each of the first half of the classes are. `model`: a model of ten other pictures of
each class proposes classes. `overlooks`: a tenth of the pictures that
should be labeled by themselves are not noticed. Draws are of 1,000 pictures. Features are computed
once."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from tinysight.data.dataset import data_home
from tinysight.data.load import load_at_size
from tinysight.finetuning.encoders import find_encoder
from tinysight.finetuning.features import features_of
from tinysight.finetuning.finetune import learned_rows
from tinysight.finetuning.lda import fit_views
from tinysight.finetuning.sorting import TEMPERATURE, Proposed, arrange
from tinysight.finetuning.validation import mean_distances
from tinysight.predict.inference import CPU

Ints = npt.NDArray[np.int64]
OVERLOOKED = 0.1
NUM_KNOWN = 10  # of each known class


@dataclass(frozen=True)
class Result:
    """What labeling all pictures took."""

    case: str
    seed: int
    pictures: int  # to label
    decisions: int
    groups: int
    right: float  # share of the labels
    first_half: int  # decisions until half was labeled
    slowest: float  # seconds for the groups of a step


def sort(
    features: Tensor,
    truth: Ints,
    known: Ints,
    *,
    case: str,
    seed: int,
    overlooked: float,
    proposed: Proposed | None = None,
) -> Result:
    """Label all pictures but the known ones (rows) as the person does."""
    generator = np.random.default_rng(seed)
    labels = np.full(len(truth), -1, np.int64)
    labels[known] = truth[known]
    total, decisions, groups, half, slowest = int((labels < 0).sum()), 0, 0, 0, 0.0
    while (labels < 0).any():
        begun = time.monotonic()
        rows = arrange(features, labels, proposed)[0].rows
        slowest = max(slowest, time.monotonic() - begun)
        most = np.bincount(truth[rows]).argmax()
        single = (truth[rows] != most) & (generator.random(len(rows)) >= overlooked)
        labels[rows] = np.where(single, truth[rows], most)
        decisions += 1 + int(single.sum())
        groups += 1
        half = half or decisions * int((labels < 0).sum() <= total / 2)
    right = float((labels == truth).mean())
    return Result(case, seed, total, decisions, groups, right, half, round(slowest, 2))


def propose(features: Tensor, truth: Ints, learned: Ints, asked: Ints) -> Proposed:
    """Return what a model of the learned images (rows) says of others."""
    own = torch.from_numpy(truth[learned])
    head = fit_views(features[torch.from_numpy(learned)], own, int(truth.max()) + 1)
    distances = mean_distances(head, features[torch.from_numpy(asked)])
    shares, labels = F.softmax(TEMPERATURE * distances, dim=1).max(dim=1)
    return Proposed(labels.numpy(), shares.double().numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", help="class folders, or a dataset's name")
    parser.add_argument("--encoder", default="bundled")
    parser.add_argument("--draws", type=int, default=3, help="of 1,000 pictures; seeds 0, 1, ...")
    given = parser.parse_args()
    encoder = find_encoder(given.encoder)
    dataset = load_at_size(given.folder, encoder.image_size, home=data_home())
    rows = learned_rows(dataset)
    features = features_of(encoder, dataset, rows, home=data_home(), runtime=CPU)
    truth = np.array(dataset.labels[rows])
    known = [np.flatnonzero(truth == k)[:NUM_KNOWN] for k in range((int(truth.max()) + 1) // 2)]
    none = np.zeros(0, np.int64)
    for case, start, overlooked in (
        ("cold", none, 0.0),
        ("half known", np.concatenate(known), 0.0),
        ("overlooks", none, OVERLOOKED),
    ):
        result = sort(features, truth, start, case=case, seed=0, overlooked=overlooked)
        print(json.dumps(asdict(result)), flush=True)
    for seed in range(given.draws):
        order = np.random.default_rng(seed).permutation(len(truth))
        firsts = [order[truth[order] == k][:NUM_KNOWN] for k in range(int(truth.max()) + 1)]
        learned = np.concatenate(firsts)
        asked = np.setdiff1d(order, learned)
        proposed = propose(features, truth, learned, asked)
        wrong = float((proposed.labels != truth[asked]).mean())
        own = (features[torch.from_numpy(asked)], truth[asked], none)
        case = f"model of {len(learned)} others, {100 * wrong:.1f} % wrong"
        result = sort(*own, case=case, seed=seed, overlooked=0.0, proposed=proposed)
        print(json.dumps(asdict(result)), flush=True)
        drawn = np.random.default_rng(seed).permutation(len(truth))[:1000]
        own = (features[torch.from_numpy(drawn)], truth[drawn], none)
        result = sort(*own, case="cold, 1,000 pictures", seed=seed, overlooked=0.0)
        print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
