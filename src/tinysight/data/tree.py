"""A folder or a zip as a tree of files: what is in it, which files are images, and their content.

Hidden entries and leftovers of systems (.DS_Store, Thumbs.db, __MACOSX, ...) are left out. Paths
are relative to the top and use slashes; "" is the top. A zip is read in place, see `archive`.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol
from unicodedata import category

from tinysight.data.archive import Archive
from tinysight.data.dataset import FEW, few
from tinysight.files import expand
from tinysight.images import FORMATS, READABLE, SIGNATURE_LENGTH, SUFFIXES, format_of

_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}


class Entry(NamedTuple):
    """A file or folder in a folder."""

    name: str
    is_folder: bool


class Tree(Protocol):
    """What `Folder` and `Zip` have in common; `path` is theirs."""

    path: Path

    def entries(self, folder: str) -> list[Entry]:
        """List a folder, sorted by name; names that break output are a ValueError."""

    def head(self, file: str) -> bytes:
        """Return the first bytes of a file, enough for `format_of`."""

    def read(self, file: str) -> Path | BytesIO:
        """Return a file as `images.read_image` takes it."""


class Folder:
    """A folder; links are followed, and a link to a folder above it is a ValueError.

    With `any_name`, names that break output are listed, too.
    """

    def __init__(self, path: Path, *, any_name: bool = False) -> None:
        self.path, self.any_name = path, any_name

    def entries(self, folder: str) -> list[Entry]:
        here = self.path / folder
        above = here.parents[: len(Path(folder).parts)]
        own = here.stat()
        if any((own.st_dev, own.st_ino) == (s.st_dev, s.st_ino) for s in (p.stat() for p in above)):
            raise ValueError(f"{str(here)!r} is a link to a folder that contains it")
        with os.scandir(here) as found:
            listed = {entry.name: entry for entry in found}
        own_entries = (Entry(name, entry.is_dir()) for name, entry in listed.items())
        visible = _visible(here, own_entries, any_name=self.any_name)
        for name in (name for name, is_folder in visible if not is_folder):
            if not (entry := listed[name]).is_file():
                what = "a link to nothing" if entry.is_symlink() else "neither a file nor a folder"
                raise ValueError(f"{entry.path!r} is {what}; remove it")
        return visible

    def head(self, file: str) -> bytes:
        with (self.path / file).open("rb") as stream:
            return stream.read(SIGNATURE_LENGTH)

    def read(self, file: str) -> Path:
        return self.path / file


class Zip:
    """A zip archive; a ValueError names what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = Archive(path)

    @cached_property
    def _folders(self) -> dict[str, set[Entry]]:
        folders: dict[str, set[Entry]] = {"": set()}
        for name in self._archive.names:
            above, is_folder = name, False
            while above:
                above, _, own = above.rpartition("/")
                folders.setdefault(above, set()).add(Entry(own, is_folder))
                is_folder = True
        return folders

    def entries(self, folder: str) -> list[Entry]:
        return _visible(self.path / folder, self._folders[folder])

    def head(self, file: str) -> bytes:
        return self._archive.read(file)[:SIGNATURE_LENGTH]

    def read(self, file: str) -> BytesIO:
        return _Member(self._archive.read(file), f"{self.path}/{file}")


class _Member(BytesIO):
    """A file of a zip, with its name for messages."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def open_tree(path: Path) -> Tree:
    """Open a folder, or a zip."""
    return Folder(path) if stat.S_ISDIR(path.stat().st_mode) else Zip(path)


def images_below(
    tree: Tree, folder: str, *, recurse: bool = True, only_images: bool = False
) -> list[str]:
    """List the images in a folder of the tree.

    Other files are a ValueError, or ignored where the folder may hold more than images.
    """
    images: list[str] = []
    unknown: list[str] = []
    pending = [folder]
    while pending and len(unknown) < FEW:
        here = pending.pop()
        for entry in tree.entries(here):
            path = f"{here}/{entry.name}".lstrip("/")
            if entry.is_folder:
                pending += [path] if recurse else []
            elif is_image(tree, path):
                images.append(path)
            elif not only_images:
                unknown.append(repr(path))
    if unknown:
        raise ValueError(
            f"{str(tree.path)!r} holds files that are not images of a kind that tinysight reads "
            f"({READABLE}): {few(unknown)}; convert, move or remove them"
        )
    return images


def find_images(paths: Iterable[str]) -> list[Path]:
    """List the images that paths stand for: files, folders (all images below), and patterns.

    A file is taken as it is; ValueError for a folder or pattern without an image.
    """
    found: list[Path] = []
    for path in paths:
        given = expand(path)
        is_pattern = glob.has_magic(path) and not given.exists()
        matches = [Path(match) for match in sorted(glob.glob(str(given), recursive=True))]  # noqa: PTH207 (may be absolute)
        own: list[Path] = []
        for match in matches if is_pattern else [given]:
            if match.is_dir():
                below = images_below(Folder(match, any_name=True), "", only_images=True)
                own += [match / image for image in sorted(below)]
            elif not is_pattern or is_image(Folder(match.parent), match.name):
                own.append(match)
        if not own:
            raise ValueError(f"{path!r} has no image of a kind that is read ({READABLE})")
        found += own
    return found


def hidden_image_folders(tree: Tree) -> list[str]:
    """Return the hidden folders at the top of a folder that have images right in them."""
    found: list[str] = []
    with suppress(OSError):
        for entry in tree.path.iterdir() if isinstance(tree, Folder) else ():
            if entry.name[0] == "." and entry.is_dir():
                own = any(file.suffix.lower() in SUFFIXES for file in entry.iterdir())
                found += [entry.name] if own else []
    return sorted(found)


def is_image(tree: Tree, file: str) -> bool:
    """Trust the suffixes of images; look into any other file."""
    return Path(file).suffix.lower() in SUFFIXES or format_of(tree.head(file)) in FORMATS


def _visible(folder: Path, entries: Iterable[Entry], *, any_name: bool = False) -> list[Entry]:
    found = []
    for entry in entries:
        name = entry.name
        if name[0] == "." or name.lower() in _SYSTEM_FILES:
            continue
        breaks = not name.isprintable() and {"Cc", "Cs", "Zl", "Zp"} & set(map(category, name))
        if breaks and not any_name:
            what = "a line break, another control character or bytes that are not UTF-8"
            raise ValueError(f"the name {name!r} in {str(folder)!r} has {what}; rename it")
        found.append(entry)
    return sorted(found)
