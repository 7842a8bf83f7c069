"""Where the commands find their images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tinysight.cli.progress import counting, say

if TYPE_CHECKING:
    from tinysight.data.pack import Pack


def packs_home(home: Path | None) -> Path:
    from tinysight.data.pack import data_home

    return home or data_home()


def open_or_draw(name: str, home: Path | None) -> Pack:
    """Open a pack; the drawn shapes are drawn when they are not there yet."""
    from tinysight.data import shapes
    from tinysight.data.pack import list_packs, open_pack

    where = packs_home(home)
    if name == "shapes" and name not in list_packs(where):
        with counting("drawing shapes") as progress:
            return shapes.prepare(home=where, progress=progress, say=say)
    return open_pack(name, home=where)
