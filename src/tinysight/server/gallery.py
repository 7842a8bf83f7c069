"""The pictures of a folder and their labels, kept in its `corrections.jsonl`."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from tinysight.corrections import (
    NAME,
    BoxCorrection,
    Correction,
    LabeledBox,
    append_corrections,
    current_labels,
    now,
    read_corrections,
)
from tinysight.data.corrected_folder import class_folders, folders_are_classes


class Gallery:
    """The pictures of a folder and their labels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures: dict[str, str] = {}  # SHA-256 -> path below the folder
        self.lines: tuple[Correction, ...] = ()
        self.given: dict[str, str] = {}  # labels in the file
        self.by_folder: dict[str, str] = {}  # SHA-256 -> class folder, "" outside
        self.folders_count = True
        self.seen: object = None  # size and time of the file as it was read

    @property
    def path(self) -> Path:
        """The file of corrections."""
        return self.folder / NAME

    def set_pictures(self, pictures: dict[str, str]) -> None:
        """Take the pictures that are there now."""
        self.pictures = pictures
        folders = class_folders(list(pictures.values()))
        self.by_folder = {digest: folders[path] for digest, path in pictures.items()}
        self.seen = None
        if any(folders.values()) and not self.path.exists():
            with suppress(OSError):  # that commands find it, which learn class folders, too
                self.path.touch()
        self.read()

    def read(self) -> None:
        """Read the file of corrections where it has changed; ValueError where it is damaged."""
        try:
            status = self.path.stat()
            seen: object = (status.st_size, status.st_mtime_ns)
        except OSError:
            seen = ()
        if seen != self.seen:
            self.lines = read_corrections(self.path)
            self.given, self.seen = current_labels(self.lines), seen
            files = {path: digest for digest, path in self.pictures.items()}
            self.folders_count &= folders_are_classes(files, self.lines)

    def label(self, digest: str) -> str | None:
        """Return a picture's label."""
        return self.given.get(digest) or self._folder_class(digest) or None

    def _folder_class(self, digest: str) -> str:
        """Return the class that a picture's folder gives it; "" where none does."""
        return self.by_folder.get(digest, "") if self.folders_count else ""

    def classes(self) -> list[str]:
        """List the classes: of the folders, then as they were first given."""
        folders = sorted({name for name in self.by_folder.values() if name})
        mentioned = (line.new for line in self.lines if line.new)
        names = dict.fromkeys((*folders, *mentioned))
        used = {*self.given.values(), *folders}
        return [name for name in names if name in used]

    def known_names(self) -> set[str]:
        """Return the classes that there are or were, which a change that is undone gives again."""
        given = {line.new for line in self.lines if line.new}
        return given | {name for name in self.by_folder.values() if name}

    def note(self, data: bytes, name: str, old: str | None, new: str | None) -> None:
        """Keep the label of a picture's bytes, on the disk when this returns."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.pictures.get(digest, name)
        append_corrections(self.path, [Correction(digest, path, old, new, now())])

    def note_boxes(
        self, data: bytes, name: str, label: str | None, boxes: tuple[LabeledBox, ...] | None
    ) -> None:
        """Keep the boxes of a picture's bytes, on the disk when this returns; None: no more."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.pictures.get(digest, name)
        append_corrections(self.path, [BoxCorrection(digest, path, label, label, now(), boxes)])

    def keep_choice(self) -> None:
        """Write into the file that class folders give no labels, where that was chosen.

        It then is as if a picture in one had been labeled, which tells commands the same.
        """
        files = {path: digest for digest, path in self.pictures.items()}
        if not self.folders_count and folders_are_classes(files, self.lines):
            digest = next(digest for digest, name in self.by_folder.items() if name)
            append_corrections(
                self.path, [Correction(digest, self.pictures[digest], None, None, now())]
            )

    def correct(self, labels: dict[str, str | None]) -> dict[str, str | None]:
        """Keep labels, on the disk when this returns; return the ones before.

        Raises ValueError where a picture is to lose the label that its folder gives it.
        """
        self.read()
        old = {digest: self.label(digest) for digest in labels}
        for digest, new in labels.items():
            if new is None and old[digest] and old[digest] == self._folder_class(digest):
                raise ValueError(
                    f"{self.pictures[digest][-80:]} cannot be without a class: its folder is its "
                    "class; give it another class"
                )
        time = now()
        lines = [
            Correction(digest, self.pictures[digest], old[digest], new, time)
            for digest, new in labels.items()
            if old[digest] != new
        ]
        if lines:
            append_corrections(self.path, lines)
            self.read()
        return old
