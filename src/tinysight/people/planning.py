"""How many answers a study needs: half-widths of 95 % intervals, before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is assumed of people and images, as shares; the defaults are for 200 classes.

    Accuracies vary between people with standard deviation `people_sd`, and between images with
    `image_sd`. `kappa` is the error consistency of a person and the network.
    """

    accuracy: float = 0.8
    people_sd: float = 0.07
    image_sd: float = 0.27
    network_accuracy: float = 0.57
    kappa: float = 0.0

    def __post_init__(self) -> None:
        for name in ("accuracy", "network_accuracy"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share such as 0.8")
        if self.people_sd**2 + self.image_sd**2 > self.accuracy * (1 - self.accuracy):
            raise ValueError(
                f"people_sd {self.people_sd} and image_sd {self.image_sd} are impossible at an"
                f" accuracy of {self.accuracy}; give smaller ones"
            )
        if self.paired_variance <= 0:
            raise ValueError(f"kappa {self.kappa} is impossible at these accuracies; give less")

    @property
    def paired_variance(self) -> float:
        """Variance of right (1) or wrong (0) of a person minus that of the network, per image."""
        p, q = self.accuracy, self.network_accuracy
        by_chance = p * (1 - q) + (1 - p) * q  # only one of them is right
        return (1 - self.kappa) * by_chance - (p - q) ** 2


def alike(assume: Assumptions) -> Assumptions:
    """Assume that people and the network err together as a plan allows for: a kappa of 0.2."""
    return replace(assume, kappa=0.2)


def half_width(people: int, images: int, shared: float, assume: Assumptions) -> float:
    """Return the half-width of the interval of people's mean accuracy.

    Each of `people` answers `images`, of which the share `shared` is the same for all.
    """
    if people < 1 or images < 1 or not 0 <= shared <= 1:
        raise ValueError(f"{people} people, {images} images, share {shared}; expected >= 1 of each")
    answers = people * images
    residual = assume.accuracy * (1 - assume.accuracy) - assume.people_sd**2 - assume.image_sd**2
    # An image that all see counts once, not as often as there are people
    per_image = shared / images + (1 - shared) / answers
    variance = assume.people_sd**2 / people + assume.image_sd**2 * per_image + residual / answers
    return Z * math.sqrt(variance)


def paired_answers(width: float, assume: Assumptions) -> int:
    """Return how many answers to distinct images give these people's difference to the network
    within +- `width`.
    """
    if not 0 < width < 1:
        raise ValueError(f"a half-width of {width}; expected a share such as 0.03")
    return math.ceil((Z / width) ** 2 * assume.paired_variance)
