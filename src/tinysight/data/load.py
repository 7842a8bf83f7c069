"""Load a dataset by its name; what follows from the name alone is made when it is not there yet."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from tinysight.data import composites, shapes, subset
from tinysight.data.dataset import Dataset, data_home, list_datasets, open_dataset

logger = logging.getLogger("tinysight")
Progress = Callable[[int, int], None]


def load_dataset(
    name: str | Path, *, home: Path | None = None, progress: Progress | None = None
) -> Dataset:
    """Open a dataset by name or folder, or make it where its name alone defines it.

    Those are the drawn `shapes` and `shapes-2-4` (two to four objects), and parts of others: one
    class, `<dataset>.<class>` with `.foldK` and `.negativesN`, or mosaics, `<dataset>.mosaics` and
    `<dataset>.<class>.mosaics`.
    """
    home = home or data_home()
    name = str(name)
    if os.sep in name or name in list_datasets(home):
        return open_dataset(name, home=home)
    if drawn := re.fullmatch(r"shapes(?:-(\d+)-(\d+))?", name):
        fewest, most = (int(number or 1) for number in drawn.groups())
        return shapes.prepare(
            home=home, objects=(fewest, most), name=name, progress=progress, say=logger.info
        )
    return _derived(name, home, progress) or open_dataset(name, home=home)


def _derived(name: str, home: Path, progress: Progress | None) -> Dataset | None:
    """Make a dataset like tiny-imagenet.goldfish.fold2; None for other names."""
    part = r"(?P<source>.+?)\.(?P<part>[\w-]+)"
    mosaics = name.endswith(".mosaics")
    if mosaics:
        found = re.fullmatch(part + r"\.mosaics", name) or re.fullmatch(
            r"(?P<source>.+)(?P<part>)\.mosaics", name
        )
    else:
        options = r"(?:\.fold(?P<fold>\d+))?(?:\.negatives(?P<negatives>\d+))?"
        found = re.fullmatch(part + options, name)
    if found is None or (source := _source(name, found["source"], home, progress)) is None:
        if mosaics and found and found["part"]:  # the "class" may belong to the name
            source = _source(name, name.removesuffix(".mosaics"), home, progress)
            if source is not None:
                return _mosaics(name, source, None, home)
        return None
    if mosaics:
        return _mosaics(name, source, found["part"] or None, home)
    class_name = source.class_names[subset.find_class(source, found["part"])]
    logger.info("making %s: %s of %s", name, class_name, source.name)
    return subset.prepare(
        source,
        found["part"],
        home=home,
        fold=int(found["fold"] or 0),
        negatives=None if found["negatives"] is None else int(found["negatives"]),
        name=name,
        say=logger.info,
    )


def _mosaics(name: str, source: Dataset, part: str | None, home: Path) -> Dataset:
    what = "all classes" if part is None else source.class_names[subset.find_class(source, part)]
    logger.info("making %s: %s of %s", name, what, source.name)
    return composites.prepare(source, part, home=home, name=name, say=logger.info)


def _source(name: str, source: str, home: Path, progress: Progress | None) -> Dataset | None:
    """Load the dataset that another is made from; None where there is none of that name."""
    if source in list_datasets(home) or re.fullmatch(r"shapes(-\d+-\d+)?", source):
        return load_dataset(source, home=home, progress=progress)
    if source == "tiny-imagenet":
        raise ValueError(
            f"{name} is made from tiny-imagenet, which is not there yet: `tinysight data get tiny-imagenet`"
        )
    return None
