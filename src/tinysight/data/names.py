"""Names of files and classes: one way to write them, and some of them in a line."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

FEW = 5  # named in one line


def nfc(text: str) -> str:
    """Return a name as NFC has it: macOS keeps accents apart from their letters, Linux as they were
    written.
    """
    return unicodedata.normalize("NFC", text)


def few(names: Iterable[str]) -> str:
    """Join the first few names and count the others."""
    names = list(names)
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")
