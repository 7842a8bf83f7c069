"""Simulated people of known ability (Rasch 1960), to test and to show a study with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from tinysight.people.answers import Answer, Floats, Ints


def respond(
    targets: Ints, difficulty: Floats, ability: float, others: Floats, rng: np.random.Generator
) -> Ints:
    """Return the answers (M,) of a person of an ability to images of a difficulty.

    `others` (M, K) weigh the classes that wrong answers are drawn from, besides the right one.
    """
    right = rng.random(len(targets)) < expit(ability - difficulty)
    chances = others.copy()
    chances[np.arange(len(targets)), targets] = 0
    passed = np.cumsum(chances, axis=1) / chances.sum(axis=1, keepdims=True)
    wrong = (passed <= rng.random((len(targets), 1))).sum(axis=1)
    return np.where(right, targets, wrong)


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A person of ability a answers an image of difficulty d rightly with the probability
    1 / (1 + exp(d - a)).

    Abilities and difficulties are normal; what is not right is any other class. The network is an
    observer of its own ability who finds the same images difficult.
    """

    people: int = 20
    images: int = 50  # that each person answers, some of which are shared
    shared: int = 10
    num_classes: int = 10
    ability: float = 2.0
    ability_sd: float = 0.5
    difficulty_sd: float = 1.5
    network_ability: float = 0.5

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"class-{i}" for i in range(self.num_classes))

    def expected(self, ability: float, ability_sd: float = 0.0) -> float:
        """Return the accuracy over all images of people of an ability, or of its distribution."""
        spread = np.hypot(ability_sd, self.difficulty_sd)
        grid = np.linspace(-8, 8, 2001)
        density = np.exp(-(grid**2) / 2)
        return float((expit(ability + spread * grid) * density).sum() / density.sum())

    def draw(self, rng: np.random.Generator) -> tuple[list[Answer], Floats]:
        """Return the answers of people ("p-00", ...) and "network", and people's abilities."""
        own = self.images - self.shared
        total = self.shared + own * self.people
        difficulty = rng.normal(0, self.difficulty_sd, total)
        targets = rng.integers(0, self.num_classes, total)
        abilities = rng.normal(self.ability, self.ability_sd, self.people)
        answers = []
        for person, ability in enumerate([*abilities, self.network_ability]):
            first = self.shared + own * person
            shown = np.concatenate([np.arange(self.shared), np.arange(first, first + own)])
            network = person == self.people
            shown = np.arange(total) if network else rng.permutation(shown)
            others = np.ones((len(shown), self.num_classes))
            given = respond(targets[shown], difficulty[shown], ability, others, rng)
            for trial, (image, response) in enumerate(zip(shown, given, strict=True), 1):
                answers.append(
                    Answer(
                        subject="network" if network else f"p-{person:02}",
                        session=1,
                        trial=trial,
                        image=f"image-{image:04}.png",
                        target=self.class_names[targets[image]],
                        response=self.class_names[response],
                        seconds=None if network else round(float(rng.lognormal(0.8, 0.4)), 3),
                        kind="core" if image < self.shared else "main",
                    )
                )
        return answers, abilities
