"""What a quiz shows: images of a dataset, names to choose from in groups, networks' answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from tinysight.data.dataset import Dataset
from tinysight.people.answers import Floats, Ints
from tinysight.people.items import plan_items, stratified_order
from tinysight.people.store import Game, Shown

GALLERY = 6  # training images per class that a person may look at
PRACTICE = 10
GROUPS = 14
TABLE = Path(__file__).with_name("groups.txt")  # of Tiny ImageNet's classes, made for this quiz
Logits = npt.NDArray[np.float32]
QUICK = 10  # classes of the quick game, half of them such as the networks confuse


@dataclass(frozen=True, eq=False)
class Material:
    """A dataset's split as a quiz, with the logits (n, K) of networks for its n rows.

    Raises ValueError where the training images, which people may look at, are missing or are the
    split's own, or logits are of other images.
    """

    dataset: Dataset
    split: str
    networks: Mapping[str, Logits]
    num_images: int
    seed: int = 0

    def __post_init__(self) -> None:
        data, rows = self.dataset, self.rows
        if "train" not in data.splits:
            raise ValueError(
                f"{data.name} has no split train, whose images show people the classes; make the"
                " dataset of a folder with training images"
            )
        if (reason := self._reason_against(self.split)) is not None:
            others = [name for name in data.splits if self._reason_against(name) is None]
            raise ValueError(
                f"{self.split} of {data.name} cannot be shown: {reason}; choose"
                f" {' or '.join(others) or 'a dataset with another labeled split'}"
            )
        for name, logits in self.networks.items():
            if logits.shape != (len(rows), len(data.class_names)):
                raise ValueError(
                    f"{name} has no answers to {self.split} of {data.name}; evaluate it"
                )
        self.plan("full", self.classes("full"), 0)  # raises where there are too few images

    def _reason_against(self, split: str) -> str | None:
        """Say why the images of a split cannot be asked; None: they can."""
        labels, rows = self.dataset.labels, self.dataset.rows(split)
        if set(rows) & set(self.dataset.rows("train")):
            return "training images, which people may look at as examples, cannot be asked"
        return None if (labels[rows.start : rows.stop] >= 0).any() else "its images have no labels"

    @property
    def rows(self) -> range:
        """The rows of the split in the dataset."""
        return self.dataset.rows(self.split)

    @cached_property
    def gallery(self) -> dict[int, tuple[int, ...]]:
        """Rows of training images per class, up to six."""
        found: dict[int, list[int]] = {i: [] for i in range(len(self.dataset.class_names))}
        for row in self._training_order:
            if len(found[label := int(self.dataset.labels[row])]) < GALLERY:
                found[label].append(row)
        return {label: tuple(rows) for label, rows in found.items()}

    @cached_property
    def _orders(self) -> dict[tuple[int, ...], list[int]]:
        return {}  # of the rows of the study, by the classes to choose from

    @cached_property
    def _training_order(self) -> list[int]:
        rng = np.random.default_rng([self.seed, 2])
        return stratified_order(self.dataset.rows("train"), self.dataset.labels, rng)

    def classes(self, game: Game) -> tuple[int, ...]:
        """The classes to choose from: all, or ten of which half are easily confused."""
        number = len(self.dataset.class_names)
        if game == "full" or number <= QUICK:
            return tuple(range(number))
        alike = self._confusions + self._confusions.T
        order = np.dstack(np.unravel_index(np.argsort(-alike, axis=None), alike.shape))[0]
        half = QUICK // 2 if alike.any() else 0
        chosen = list(dict.fromkeys(order.ravel().tolist()))[:half]
        others = np.random.default_rng([self.seed, 3]).permutation(number).tolist()
        return tuple(sorted([*chosen, *[i for i in others if i not in chosen]][:QUICK]))

    def practice(self, classes: Sequence[int]) -> list[int]:
        """Rows of training images of some classes, to practice with."""
        labels = self.dataset.labels
        order = reversed(self._training_order)
        return list(islice((row for row in order if labels[row] in classes), PRACTICE))

    def plan(self, game: Game, classes: Sequence[int], number: int) -> list[Shown]:
        """Plan the items of the person with a number in a game, who chooses from some classes."""
        data, chosen = self.dataset, tuple(classes)
        if chosen not in self._orders:  # takes 0.2 s of 10,000 images
            rows = np.asarray(self.rows)[
                np.isin(data.labels[self.rows.start : self.rows.stop], chosen)
            ]
            rng = np.random.default_rng([self.seed, 0])
            self._orders[chosen] = stratified_order(rows.tolist(), data.labels, rng)
        known = [row for label in classes for row in self.gallery[label]]
        order, num_images = self._orders[chosen], self.num_images
        if game == "quick":  # it shows no gallery, and has as many images as there are
            known, num_images = self.practice(classes), min(num_images, len(order))
        own = {"number": number, "num_images": num_images, "seed": self.seed}
        items = plan_items(order, known, **own)
        names = data.class_names
        return [Shown(i.row, data.files[i.row], names[data.labels[i.row]], i.kind) for i in items]

    @cached_property
    def _confusions(self) -> Floats:
        """How often the networks take one class for another (K, K); zero without networks."""
        number = len(self.dataset.class_names)
        counts = np.zeros((number, number))
        labels = self.dataset.labels[self.rows.start : self.rows.stop]
        for logits in self.networks.values():
            np.add.at(counts, (labels[labels >= 0], logits[labels >= 0].argmax(axis=1)), 1)
        np.fill_diagonal(counts, 0)
        return counts

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Up to 14 groups of classes by their names, each in the order of the alphabet.

        Named ones for wnids of Tiny ImageNet; such as networks confuse, or the alphabet in parts,
        for others.
        """
        data = self.dataset
        names, ids = data.class_names, {wnid: i for i, wnid in enumerate(data.class_ids)}
        order = sorted(range(len(names)), key=lambda i: names[i].lower())
        if len(names) <= GROUPS:
            return {"All": order}
        lines = [line.split(": ") for line in TABLE.read_text("utf-8").splitlines()]
        known = {name: {ids[w] for w in wnids.split() if w in ids} for name, wnids in lines}
        if sum(map(len, known.values())) == len(names):
            return {name: [i for i in order if i in own] for name, own in known.items() if own}
        if not self._confusions.any():
            return dict(map(self._named, np.array_split(order, GROUPS)))
        alike = self._confusions + self._confusions.T
        distance = 1 / (1 + alike)
        np.fill_diagonal(distance, 0)
        tree = linkage(squareform(distance, checks=False), "ward")
        group = fcluster(tree, GROUPS, "maxclust")
        found = [[i for i in order if group[i] == number] for number in np.unique(group)]
        found.sort(key=lambda members: order.index(members[0]))
        return dict(map(self._named, found))

    def _named(self, group: Sequence[int] | Ints) -> tuple[str, list[int]]:
        names = [self.dataset.class_names[i] for i in group]
        return ", ".join(names[:2]) + (" …" if len(names) > 2 else ""), [int(i) for i in group]

    @cached_property
    def synonyms(self) -> dict[str, list[str]]:
        """Other names of classes by their name, where the dataset's source has any."""
        words, found = self.dataset.manifest["extra"].get("words", {}), {}
        for name, wnid in zip(self.dataset.class_names, self.dataset.class_ids, strict=True):
            others = [word for word in words.get(wnid, "").split(", ") if word not in ("", name)]
            if others:
                found[name] = others
        return found

    def network_answer(self, name: str, row: int, classes: Sequence[int]) -> int:
        """Return the class that a network chooses for a row, among some classes."""
        among: Ints = np.asarray(classes, np.int64)
        return int(among[self.networks[name][row - self.rows.start][among].argmax()])
