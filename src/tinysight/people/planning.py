"""How many answers a study needs: half-widths of 95 % intervals, before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is assumed of people and images, as shares; the defaults are for 200 classes.

    Of the variance of right (1) and wrong (0), `people_share` is between people and `image_share`
    between images: at an accuracy of 0.8, standard deviations of 0.07 and 0.27. `kappa` is the
    error consistency of a person and the network.

    Raises ValueError where they are impossible.
    """

    accuracy: float = 0.8
    people_share: float = 0.031
    image_share: float = 0.456
    network: float = 0.57
    kappa: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.accuracy <= 1:
            raise ValueError(f"accuracy is {self.accuracy}; expected a share such as 0.8, up to 1")
        if not 0 < self.network <= 1:
            raise ValueError(f"network is {self.network}; expected a share such as 0.57, up to 1")
        if self.accuracy == self.network == 1:
            raise ValueError(
                "accuracy and network are both 1: nobody errs, so there is no difference to"
                " measure; expect less of one, such as 0.99"
            )
        if min(self.people_share, self.image_share) < 0 or self.residual_share < 0:
            raise ValueError(
                f"people_share {self.people_share} and image_share {self.image_share} are shares"
                " of one variance; expected a sum of at most 1"
            )
        if self.kappa > self.max_kappa:
            raise ValueError(
                f"kappa is {self.kappa}; at these accuracies it is at most {self.max_kappa:.2f}"
            )

    @property
    def residual_share(self) -> float:
        """The share of the variance that is neither between people nor between images."""
        return 1 - self.people_share - self.image_share

    @property
    def disagreement(self) -> float:
        """How often only one of a person and the network is right, where this is by chance."""
        p, q = self.accuracy, self.network
        return p * (1 - q) + (1 - p) * q

    @property
    def max_kappa(self) -> float:
        """The largest kappa of these accuracies: whoever is right less often errs wherever the
        other does.
        """
        return 1 - abs(self.accuracy - self.network) / self.disagreement

    @property
    def paired_variance(self) -> float:
        """Variance of right (1) or wrong (0) of a person minus that of the network, per image."""
        gap = self.accuracy - self.network
        return max((1 - self.kappa) * self.disagreement - gap**2, 0.0)


def alike(assume: Assumptions) -> Assumptions:
    """Assume that people and the network err together as a plan allows for: a kappa of 0.2, or as
    much as their accuracies let them have.
    """
    return replace(assume, kappa=min(0.2, assume.max_kappa))


def half_width(people: int, images: int, shared: float, assume: Assumptions) -> float:
    """Return the half-width of the interval of people's mean accuracy.

    Each of `people` answers `images`, of which the share `shared` is the same for all. At an
    accuracy of 1 it is that of Wilson's interval, as in the report: nobody errs, but could.
    """
    if people < 1 or images < 1 or not 0 <= shared <= 1:
        raise ValueError(f"{people} people, {images} images, share {shared}; expected >= 1 of each")
    answers = people * images
    # An image that all see counts once, not as often as there are people
    per_image = shared / images + (1 - shared) / answers
    per_answer = assume.people_share / people + assume.image_share * per_image
    per_answer += assume.residual_share / answers  # its inverse: independent answers
    half = Z * math.sqrt(assume.accuracy * (1 - assume.accuracy) * per_answer)
    return max(half, Z**2 / 2 / (1 / per_answer + Z**2))


def paired_answers(within: float, assume: Assumptions) -> int:
    """Return how many answers to distinct images give these people's difference to the network
    within +- `within`.
    """
    if not 0 < within < 1:
        raise ValueError(f"within is {within}; expected a share such as 0.03")
    return math.ceil((Z / within) ** 2 * assume.paired_variance)
