"""Votes against a count by hand."""

from __future__ import annotations

import pytest
import torch

from tinysight.ops.voting import majority, mean_probability


def _logits(*probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


# Three members, three classes, two images. The first: two votes for class 0, but class 1 has the
# larger mean. The second: a vote for each class, so that the mean decides.
MEMBERS = [
    _logits([0.5, 0.4, 0.1], [0.6, 0.3, 0.1]),
    _logits([0.5, 0.45, 0.05], [0.2, 0.7, 0.1]),
    _logits([0.05, 0.9, 0.05], [0.3, 0.25, 0.45]),
]


def test_mean_probability_is_the_mean() -> None:
    expected = torch.tensor([[1.05, 1.75, 0.2], [1.1, 1.25, 0.65]], dtype=torch.float64) / 3
    assert torch.allclose(mean_probability(MEMBERS), expected)
    assert mean_probability(MEMBERS).argmax(1).tolist() == [1, 1]


def test_majority_counts_votes_and_the_mean_decides_between_equals() -> None:
    found = majority(MEMBERS)
    assert found.argmax(1).tolist() == [0, 1]
    assert found.floor().tolist() == [[2, 1, 0], [1, 1, 1]]
    assert torch.allclose(found - found.floor(), mean_probability(MEMBERS))


def test_logits_of_any_offset_vote_alike() -> None:
    shifted = [member + 100 * index for index, member in enumerate(MEMBERS)]
    assert torch.allclose(majority(shifted), majority(MEMBERS))


def test_members_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3\), \(2, 3\)"):
        majority([MEMBERS[0], MEMBERS[1][:1]])
