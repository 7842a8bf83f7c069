"""A study as it is analyzed: answers of people to one game, and of networks to the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import softmax

from tinysight.data.dataset import Dataset
from tinysight.people.answers import Answer, Answers, Floats, Mark, gather, network_answers
from tinysight.people.material import Logits, Material
from tinysight.people.store import Game


@dataclass(frozen=True, eq=False)
class Study:
    """Answers of people of one game, with what they were shown and the networks of `material`.

    Args:
        choices: the classes that people chose among; networks choose among the same.
        people: all their answers, catch images and repeats included.
        marks: what people said afterwards of answers that are not the label.

    Raises ValueError where people answered images that are not of the split, or that have another
    class there.
    """

    material: Material
    game: Game
    choices: tuple[str, ...]
    people: Answers
    marks: tuple[Mark, ...] = ()

    def __post_init__(self) -> None:
        names, labels = self.dataset.class_names, self.dataset.labels
        for row in self.people.rows:
            if row.kind == "catch":
                continue
            if row.image not in self.rows:
                raise ValueError(f"{row.image} is not an image of {self.material.split}")
            if (label := names[labels[self.rows[row.image]]]) != row.target:
                raise ValueError(
                    f"{row.image} is {label!r} in {self.dataset.name}, but {row.target!r} in the"
                    " answers; were names of images exchanged?"
                )

    @property
    def dataset(self) -> Dataset:
        """The dataset whose images were shown."""
        return self.material.dataset

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of the networks."""
        return tuple(self.material.networks)

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row in the dataset of each image of the split, by its name."""
        return {self.dataset.files[row]: row for row in self.material.rows}

    @cached_property
    def answers(self) -> Answers:
        """The answers of people and networks; networks are not asked catch images."""
        rows: list[Answer] = list(self.people.rows)
        names = self.dataset.class_names
        asked = self.people.only(self.people.kind != "catch")
        first = self.material.rows.start
        row_of = {image: row - first for image, row in self.rows.items()}
        for name in self.networks:
            rows += network_answers(name, self._logits(name), names, asked, row_of)
        return gather(rows, names)

    def _logits(self, network: str) -> Logits:
        """Return logits (n, K) for the split; -inf for classes that could not be chosen."""
        chosen = np.isin(self.dataset.class_names, self.choices)
        return np.where(chosen, self.material.networks[network], np.float32(-np.inf))

    def probabilities(self, network: str, images: Sequence[str]) -> Floats:
        """Return a network's probabilities (I, K) for images, among the classes of the game."""
        places = [self.rows[image] - self.material.rows.start for image in images]
        return np.asarray(softmax(self._logits(network)[places].astype(np.float64), axis=1))
