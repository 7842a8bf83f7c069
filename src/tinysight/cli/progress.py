"""Lines and bars on the error stream while a command works."""

from __future__ import annotations

import sys

from tinysight.progress import counting

__all__ = ["counting", "say"]


def say(line: str) -> None:
    """Print a line to the error stream."""
    print(line, file=sys.stderr)
