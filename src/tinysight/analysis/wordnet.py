"""How far apart classes lie in WordNet, read from WordNet 3.0's own file of nouns.

A wnid such as n01443537 is the place of its entry in that file, `data.noun` (Debian and Ubuntu
install it with `wordnet-base` under /usr/share/wordnet; it also comes in the archive of WordNet
3.0). Its license lets everyone have it, but no package for Python that we know of carries it
without a download at run time: the person names the folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinysight.analysis.results import Ints

_WNID = re.compile(r"n\d{8}")


def are_wnids(class_ids: Sequence[str]) -> bool:
    """Whether the classes are nouns of WordNet."""
    return bool(class_ids) and all(_WNID.fullmatch(name) for name in class_ids)


def distances(class_ids: Sequence[str], folder: Path) -> Ints:
    """Return the steps between classes (K, K), up to the nearest common hypernym and down; -1 where
    there is none.

    Raises:
        ValueError: the folder has no `data.noun`, or not that of WordNet 3.0, or the classes are
    no wnids."""
    if not are_wnids(class_ids):
        raise ValueError(
            "these classes are no wnids (as n01443537), so WordNet says nothing of them"
        )
    above = _heights(class_ids, _hypernyms(folder / "data.noun"))
    result = np.full((len(class_ids),) * 2, -1, np.int64)
    for i, first in enumerate(above):
        for j, second in enumerate(above[: i + 1]):
            common = first.keys() & second.keys()
            if common:
                result[i, j] = result[j, i] = min(first[entry] + second[entry] for entry in common)
    return result


def _hypernyms(path: Path) -> dict[str, list[str]]:
    """Read entry -> its hypernyms, each by its place in the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); name the folder that holds WordNet 3.0's data.noun"
        ) from None
    entries = (line for line in text.splitlines() if re.match(r"\d{8} ", line))
    return {line[:8]: re.findall(r" @i? (\d{8}) n ", line.partition("|")[0]) for line in entries}


def _heights(class_ids: Sequence[str], hypernyms: dict[str, list[str]]) -> list[dict[str, int]]:
    """For each class, every entry above it and the fewest steps up to it."""
    found = []
    for name in class_ids:
        if name[1:] not in hypernyms:
            raise ValueError(
                f"WordNet has no entry at {name}; use version 3.0, whose places the wnids are"
            )
        steps, reached = {name[1:]: 0}, [name[1:]]
        for entry in reached:  # grows while it is gone through: breadth first
            for higher in hypernyms.get(entry, ()):
                if higher not in steps:
                    steps[higher] = steps[entry] + 1
                    reached.append(higher)
        found.append(steps)
    return found
