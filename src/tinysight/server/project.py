"""A person's own classes: a folder of class folders, which the page fills and the commands take.

Every change can be undone: a picture that is taken out is kept in `.removed`, by its class. Names
come from a browser; what is not one plain name of a folder or file here is refused.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from tinysight.files import sync_folder, write_atomic
from tinysight.images import SIGNATURE_LENGTH, SUFFIXES, format_of

REMOVED = ".removed"
MAX_NAME = 80  # bytes of a class's name; file systems take 255
_REFUSED = re.compile(r'[/\\:*?"<>|]|^[.\s]|[.\s]$')  # by one system or another
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{x}{n}" for x in ("COM", "LPT") for n in range(1, 10))}
_SUFFIX = {"JPEG": ".jpg", "TIFF": ".tif"}  # others are named as their format
_LEFT_OUT = (*("Cc", "Cf", "Cs", "Co", "Cn"),)  # categories of characters that are not seen


@dataclass(frozen=True)
class ClassFolder:
    """A class, and the names of its pictures."""

    name: str
    files: tuple[str, ...]


class Project:
    """A folder of class folders; all methods raise ValueError with a sentence for people."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def classes(self) -> list[ClassFolder]:
        """List the classes by name, empty ones included."""
        folders = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        shown = [each for each in folders if each.is_dir() and not each.name.startswith(".")]
        return [ClassFolder(each.name, _pictures(each)) for each in shown]

    def create(self, name: str) -> None:
        """Create a class."""
        (self.folder / checked(name)).mkdir(parents=True, exist_ok=True)

    def rename(self, old: str, new: str) -> None:
        """Rename a class."""
        folder, target = self._class(old), self.folder / checked(new)
        if target.exists() and not target.samefile(folder):  # letter case may not count
            raise ValueError(f"there is a class {new} already")
        folder.rename(target)
        sync_folder(self.folder)

    def delete(self, name: str) -> None:
        """Take an empty class out."""
        folder = self._class(name)
        if _pictures(folder):
            raise ValueError(f"{name} has pictures; take them out first")
        for left in folder.glob("*.tmp-*"):  # of an addition that was killed
            left.unlink()
        if any(folder.iterdir()):
            raise ValueError(f"{name} has files that are not pictures; move them elsewhere first")
        folder.rmdir()

    def add(self, class_name: str, data: bytes) -> str:
        """Keep a picture's bytes as they are, and return its file's name.

        The same bytes again are one file. Raises ValueError where another class has it.
        """
        folder = self._class(class_name)
        name = hashlib.sha256(data).hexdigest()[:16]
        for other in self.classes():
            for file in other.files:
                if file.startswith(name):
                    if other.name == class_name:
                        return file
                    raise ValueError(f"this picture is in {other.name} already")
        kind = format_of(data[:SIGNATURE_LENGTH]) or ""
        file = name + _SUFFIX.get(kind, f".{kind.lower()}")
        write_atomic(folder / file, data)
        return file

    def remove(self, class_name: str, file: str) -> None:
        """Take a picture out; `restore` puts it back."""
        source = self.picture(class_name, file)
        kept = self.folder / REMOVED / class_name
        kept.mkdir(parents=True, exist_ok=True)
        _move(source, kept / file)

    def restore(self, class_name: str, file: str) -> None:
        """Put a picture back that was taken out."""
        removed = self.folder / REMOVED
        known = [each.name for each in removed.iterdir()] if removed.is_dir() else []
        source = removed / class_name
        if class_name not in known or file not in _pictures(source):
            raise ValueError(f"{file} was not taken out of {class_name[:MAX_NAME]}")
        (self.folder / class_name).mkdir(exist_ok=True)
        _move(source / file, self.folder / class_name / file)

    def move(self, class_name: str, file: str, to: str) -> None:
        """Put a picture into another class."""
        _move(self.picture(class_name, file), self._class(to) / file)

    def picture(self, class_name: str, file: str) -> Path:
        """Return the path of a picture."""
        folder = self._class(class_name)
        if file not in _pictures(folder):
            raise ValueError(f"{class_name} has no picture {file}")
        return folder / file

    def _class(self, name: str) -> Path:
        if name not in {known.name for known in self.classes()}:
            raise ValueError(f"there is no class {name[:MAX_NAME]}")
        return self.folder / name


def checked(name: str) -> str:
    """Return a name that may be a class's; raise ValueError otherwise."""
    name = unicodedata.normalize("NFC", name)
    if not name:
        raise ValueError("a class's name has one letter or more")
    if (size := len(name.encode("utf-8", "replace"))) > MAX_NAME:
        raise ValueError(
            f"a class's name has {MAX_NAME} bytes at most, and this {size}: shorten it"
        )
    if _REFUSED.search(name) or any(unicodedata.category(letter) in _LEFT_OUT for letter in name):
        raise ValueError(
            "a class's name has none of / \\ : * ? \" < > | in it, and no dot or space at its ends"
        )
    if name.partition(".")[0].upper() in _DEVICES:
        raise ValueError(f"{name} is the name of a device on Windows: choose another")
    return name


def _pictures(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    shown = (each for each in folder.iterdir() if not each.name.startswith("."))
    return tuple(sorted(each.name for each in shown if each.suffix.lower() in SUFFIXES))


def _move(source: Path, target: Path) -> None:
    source.rename(target)
    sync_folder(source.parent)
    sync_folder(target.parent)
