"""Where the commands find their images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tinysight.cli.progress import counting

if TYPE_CHECKING:
    from tinysight.data.dataset import Dataset


def packs_home(home: Path | None) -> Path:
    from tinysight.data.dataset import data_home

    return home or data_home()


def open_or_draw(name: str, home: Path | None) -> Dataset:
    """Load a dataset, with a progress bar where it has to be made first."""
    from tinysight.data.load import load_dataset

    with counting(f"preparing {name}") as progress:
        return load_dataset(name, home=packs_home(home), progress=progress)
