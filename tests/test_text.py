"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from tinysight.text import pluralize


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "image", "1 image"),
        (0, "image", "0 images"),
        (1200, "training image", "1,200 training images"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (3, "box", "3 boxes"),
    ],
)
def test_the_noun_agrees_with_the_number(number: int, noun: str, text: str) -> None:
    assert pluralize(number, noun) == text
