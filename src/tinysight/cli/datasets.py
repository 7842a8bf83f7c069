"""Where the commands find their images."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tinysight.cli.progress import counting, say

if TYPE_CHECKING:
    from tinysight.data.dataset import Dataset


def packs_home(home: Path | None) -> Path:
    from tinysight.data.dataset import data_home

    return home or data_home()


def open_or_draw(name: str, home: Path | None) -> Dataset:
    """Open a pack; what follows from its name alone is made when it is not there yet.

    That is the drawn `shapes` and `shapes-2-4` (two to four objects), and what is cut from
    another pack: one class, `<pack>.<class>` with `.foldK` and `.negativesN`, or mosaics of it,
    `<pack>.<class>.mosaics` and `<pack>.mosaics`."""
    from tinysight.data.dataset import list_datasets, open_dataset

    where = packs_home(home)
    if os.sep in name or name in list_datasets(where):
        return open_dataset(name, home=where)
    if drawn := re.fullmatch(r"shapes(?:-(\d+)-(\d+))?", name):
        from tinysight.data import shapes

        fewest, most = (int(number or 1) for number in drawn.groups())
        with counting(f"drawing {name}") as progress:
            return shapes.prepare(
                home=where, objects=(fewest, most), name=name, progress=progress, say=say
            )
    made = _cut_from_another(name, where)
    return made if made is not None else open_dataset(name, home=where)


def _cut_from_another(name: str, home: Path) -> Dataset | None:
    """Make the pack of a name like tiny-imagenet.goldfish.fold2 from the pack it begins with; None
    for other names.
    """
    from tinysight.data import composites, subset

    part = r"(?P<source>.+?)\.(?P<part>[\w-]+)"
    if scenes := re.fullmatch(part + r"\.mosaics", name):
        source = _source_of(name, scenes["source"], home)
        if source is not None:
            _say_of(name, source, scenes["part"])
            return composites.prepare(source, scenes["part"], home=home, name=name, say=say)
    if name.endswith(".mosaics"):
        source = _source_of(name, name.removesuffix(".mosaics"), home)
        if source is None:
            return None
        _say_of(name, source, None)
        return composites.prepare(source, home=home, name=name, say=say)
    found = re.fullmatch(part + r"(?:\.fold(?P<fold>\d+))?(?:\.negatives(?P<negatives>\d+))?", name)
    source = None if found is None else _source_of(name, found["source"], home)
    if found is None or source is None:
        return None
    _say_of(name, source, found["part"])
    return subset.prepare(
        source,
        found["part"],
        home=home,
        fold=int(found["fold"] or 0),
        negatives=None if found["negatives"] is None else int(found["negatives"]),
        name=name,
        say=say,
    )


def _say_of(name: str, source: Dataset, class_name: str | None) -> None:
    """Say what is being made, if the source has such a class. Raises ValueError."""
    from tinysight.data.subset import find_class

    what = (
        "all classes" if class_name is None else source.class_names[find_class(source, class_name)]
    )
    say(f"making {name}: {what} of {source.name}")


def _source_of(name: str, source: str, home: Path) -> Dataset | None:
    """Open the pack that another would be made from; None where no pack of that name is there or
    can be drawn.
    """
    from tinysight.data.dataset import list_datasets

    if source in list_datasets(home) or re.fullmatch(r"shapes(-\d+-\d+)?", source):
        return open_or_draw(source, home)
    if source == "tiny-imagenet":
        raise ValueError(
            f"{name} is made from tiny-imagenet, which is not there yet: `tinysight data get tiny-imagenet`"
        )
    return None
