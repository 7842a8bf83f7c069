"""How messages count things."""

from __future__ import annotations


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "1,200 images", "2 classes", "3 boxes"."""
    ending = "es" if noun.endswith(("s", "x")) else "s"
    return f"{number:,} {noun}{ending * (number != 1)}"
