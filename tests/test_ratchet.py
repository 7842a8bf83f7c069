"""The size of the code only shrinks, and its words are the field's.

A number here may be lowered freely. Raising one takes a reason, in a comment next to it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PENDING: set[str] = set()
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
    if path.stem not in PENDING
]

# Raised for captured GPU steps, pictures and boxes of other people, a class per box, finetuning,
# export and prediction without torch, the page, people against networks, and for some eighty faults
# that a reading of everything found, each with its test, columns before rows by any Pillow,
# the time left of a training whose images grow, and (tests) a key that comes with new groups, what
# a row of results learned from, settings that are gone, the status of benchmarks/gpu.py, members
# of a study whose seeds lie apart, memorized images, folders measured in part
MAX_SOURCE_LINES = 30512
MAX_TEST_LINES = 29035
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60

# Words that readers of the field stumble over, and what to write in their place.
WORDS = {
    r"anew": "again",
    r"beside": "next to, in addition to",
    r"amid(st)?": "during",
    r"whilst": "while",
    r"for want of": "without",
    r"(?<!there )is no (?!longer|better|more|such|less)\w+": "is not a",
    r"told": "given, reported",
    r"mend(s|ed)?": "fix",
    r"in the box": "bundled",
    r"packs?": "dataset",
    r"colour\w*": "color",
    r"grey\w*": "gray",
    r"\w+(al|im|ic|at|ar|on)is(e|ed|er|ers|es|ing|ation)": "-ize",
    r"one behind the other": "one after the other",
}


def words_in(text: str) -> list[str]:
    """List the words of the stop list in a text, with their replacements."""
    found = []
    for pattern, replacement in WORDS.items():
        for match in re.finditer(rf"(?<![\w-])(?:{pattern})(?![\w-])", text, flags=re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"line {line}: {match[0]!r}; write: {replacement}")
    return found


def lines_of(paths: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def test_the_code_does_not_grow() -> None:
    assert lines_of(SOURCES) <= MAX_SOURCE_LINES
    assert lines_of(TESTS) <= MAX_TEST_LINES


def test_no_file_is_too_long() -> None:
    assert [path.name for path in SOURCES if lines_of([path]) > MAX_FILE_LINES] == []


def test_no_function_is_too_long() -> None:
    long = [
        f"{path.name}: {node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("path", SOURCES + PAGES, ids=lambda path: path.name)
def test_words_are_the_fields(path: Path) -> None:
    assert words_in(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Train it anew, beside the pack, whilst amid.", 5),
        ("It is no file, and it was told.", 2),
        ("It is no longer there; unpack besides packaging; advise, otherwise, precise.", 0),
        ("Optimiser, normalised, colours, localisation, greyscale.", 5),
        ("Optimizer, normalized, colors, comparison, raised, promise, exercise, revised.", 0),
    ],
)
def test_the_search_finds_words(text: str, count: int) -> None:
    assert len(words_in(text)) == count
