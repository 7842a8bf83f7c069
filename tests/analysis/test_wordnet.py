"""Distances read from a few lines in the form of WordNet's file of nouns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinysight.analysis.wordnet import are_wnids, distances

NOUNS = """  1 This software and database is being provided to you, the LICENSEE, by
00000001 03 n 01 entity 0 000 | all there is @ 00000009 n 0000
00000002 05 n 01 animal 0 001 @ 00000001 n 0000 | alive
00000003 05 n 02 cat 0 feline 1 003 @ 00000002 n 0000 ~ 00000004 n 0000 + 00000007 v 0101 | purrs
00000004 05 n 01 tabby 0 001 @ 00000003 n 0000 | striped
00000005 05 n 01 dog 0 002 @ 00000002 n 0000 @ 00000001 n 0000 | barks
00000006 05 n 01 Rex 0 001 @i 00000005 n 0000 | one dog
00000008 05 n 01 alone 0 000 | of no kind
"""


def test_steps_by_hand(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(NOUNS)
    ids = ["n00000004", "n00000003", "n00000005", "n00000006", "n00000008"]
    assert distances(ids, tmp_path).tolist() == [
        [0, 1, 3, 4, -1],
        [1, 0, 2, 3, -1],
        [3, 2, 0, 1, -1],
        [4, 3, 1, 0, -1],
        [-1, -1, -1, -1, 0],
    ]


def test_what_is_no_wordnet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.noun cannot be read .*; name the folder that holds WordNet 3\.0's"
    ):
        distances(["n00000004"], tmp_path)
    (tmp_path / "data.noun").write_text(NOUNS)
    with pytest.raises(ValueError, match=r"WordNet has no entry at n12345678; use version 3\.0"):
        distances(["n12345678"], tmp_path)
    with pytest.raises(ValueError, match="these classes are no wnids"):
        distances(["cat"], tmp_path)
    assert are_wnids(["n00000001"]) and not are_wnids(["n1", "n00000001"]) and not are_wnids([])
