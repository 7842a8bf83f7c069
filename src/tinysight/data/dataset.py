"""Open packs: find them, check them, read them; see docs/architecture.md for the files of a pack."""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tinysight.data.decoding import Progress

FORMAT = "tinysight-pack/1"
HEADER_BYTES = 128  # of images.npy: numpy pads a version 1.0 header of this form to exactly that
FOLDER_MARK, FILE_MARK = "folder:", "file:"
FINGERPRINT_TAIL = (
    32 << 20
)  # holds the whole directory of a zip of 200,000 members with paths of 100 letters


@dataclass(frozen=True)
class Dataset:
    """An opened pack: cheap to make, to pickle and to send to another process; arrays are
    read-only.
    """

    path: Path
    manifest: dict[str, Any] = field(repr=False, compare=False)

    def __reduce__(self) -> tuple[type[Dataset], tuple[Path, dict[str, Any]]]:
        return Dataset, (self.path, self.manifest)  # without the arrays that were looked at

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def image_size(self) -> int:
        return int(self.manifest["image_size"])

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.manifest["class_names"])

    @property
    def class_ids(self) -> tuple[str, ...]:
        return tuple(self.manifest["class_ids"])

    @property
    def splits(self) -> dict[str, tuple[int, int]]:
        return {name: (start, stop) for name, (start, stop) in self.manifest["splits"].items()}

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.manifest["notes"])

    @property
    def digest(self) -> str:
        """The SHA-256 of all content (pixels, labels, boxes, names), the same wherever the same
        data came from.
        """
        return str(self.manifest["digest"])

    @cached_property
    def images(self) -> npt.NDArray[np.uint8]:  # (N, S, S, 3), memory-mapped
        return np.load(self.path / "images.npy", mmap_mode="r")  # type: ignore[no-any-return]

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:  # (N,), -1 where there is none
        return self._array("labels.npy")

    @cached_property
    def boxes(self) -> npt.NDArray[np.float32]:  # (M, 4)
        return self._array("boxes.npy")

    @cached_property
    def box_labels(self) -> npt.NDArray[np.int64]:  # (M,)
        return self._array("box_labels.npy")

    @cached_property
    def box_offsets(self) -> npt.NDArray[np.int64]:  # (N + 1,)
        return self._array("box_offsets.npy")

    @cached_property
    def digests(self) -> npt.NDArray[np.uint8]:  # (N, 32)
        return self._array("digests.npy")

    @cached_property
    def files(self) -> tuple[str, ...]:  # N, relative to the source
        return tuple(json.loads((self.path / "files.json").read_text("utf-8")))

    def __len__(self) -> int:
        return max(stop for _, stop in self.splits.values())

    def rows(self, split: str) -> range:
        """Give the rows of a split, or of adjacent ones joined by + ("train+minival"). Raises
        ValueError.
        """
        parts = split.split("+")
        if unknown := [part for part in parts if part not in self.splits]:
            raise ValueError(
                f"{self.name} has no split {unknown[0]!r}; it has {', '.join(self.splits)}"
            )
        ranges = sorted(self.splits[part] for part in parts)
        for (_, stop), (start, _) in pairwise(ranges):
            if start != stop:
                raise ValueError(
                    f"the splits of {split!r} do not lie side by side in {self.name}: {self.splits}"
                )
        return range(ranges[0][0], ranges[-1][1])

    def boxes_of(self, row: int) -> npt.NDArray[np.float32]:
        """Give the boxes (n, 4) of one row; their labels are `box_labels` at the same places."""
        return self.boxes[self.box_offsets[row] : self.box_offsets[row + 1]]

    def padded_boxes(self, rows: range) -> npt.NDArray[np.float32]:
        """Give the boxes (n, G, 4) of n rows, G the most that one of them has, padded with NaN."""
        counts = np.diff(self.box_offsets[rows.start : rows.stop + 1])
        padded = np.full((len(rows), int(counts.max(initial=0)), 4), np.nan, np.float32)
        image = np.repeat(np.arange(len(rows)), counts)
        place = np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts)
        padded[image, place] = self.boxes[
            self.box_offsets[rows.start] : self.box_offsets[rows.stop]
        ]
        return padded

    def verify(self, progress: Progress | None = None) -> tuple[str, ...]:
        """Read every byte and name each damaged file or image; empty where all is well."""
        try:
            _check_files(self.path, self.manifest)
        except ValueError as error:
            return (str(error),)
        damaged = []
        for row, (image, digest) in enumerate(zip(self.images, self.digests, strict=True)):
            if hashlib.sha256(image).digest() != digest.tobytes():
                damaged.append(
                    f"images.npy: row {row} ({self.files[row]}) is not as it was written"
                )
            if progress is not None and (row + 1) % 1024 == 0:
                progress(row + 1, len(self))
        return tuple(damaged)

    def source_state(self) -> Literal["same", "changed", "gone", "unknown"]:
        """Compare the source's fingerprint with what lies there now; "unknown" where there is
        nothing to look at.
        """
        source = self.manifest["source"]
        path, known = source.get("path"), str(source.get("fingerprint", ""))
        if not path or not known.startswith((FOLDER_MARK, FILE_MARK)):
            return "unknown"
        try:
            return "same" if source_fingerprint(Path(path)) == known else "changed"
        except FileNotFoundError:
            return "gone"

    def _array(self, file: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(self.path / file)
        array.flags.writeable = False
        return array


def data_home() -> Path:
    """Give the folder where packs live: $TINYSIGHT_DATA, else $XDG_CACHE_HOME/tinysight, else
    ~/.cache/tinysight.
    """
    if chosen := os.environ.get("TINYSIGHT_DATA"):
        return Path(chosen).expanduser()
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache).expanduser() / "tinysight"
    return Path.home() / ".cache" / "tinysight"


def list_datasets(home: Path | None = None) -> tuple[str, ...]:
    """List the names of the packs in a data home."""
    home = data_home() if home is None else home
    if not home.is_dir():
        return ()
    return tuple(
        sorted(
            entry.parent.name
            for entry in home.glob("*/manifest.json")
            if entry.parent.name[0] != "."
        )
    )


def open_dataset(name_or_path: str | Path, *, home: Path | None = None) -> Dataset:
    """Open a pack by name, or by path where it has a separator or is a Path. Checks all but the
    pixels.

    Raises ValueError: there is none (with the nearest name and the command that makes one), or
    it is damaged."""
    home = data_home() if home is None else home
    by_path = isinstance(name_or_path, Path) or os.sep in name_or_path
    path = Path(name_or_path) if by_path else home / name_or_path
    if not (path / "manifest.json").is_file():
        raise ValueError(_no_pack(str(name_or_path), home, path.is_dir()))
    try:
        manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(
            f"{path / 'manifest.json'} is damaged ({error}); prepare the data anew"
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise ValueError(
            f"{path} has the format {found!r}, this version reads {FORMAT!r}; prepare the data anew"
        )
    if manifest.get("digest") != manifest_digest(manifest):
        raise ValueError(
            f"{path / 'manifest.json'} is not as it was written; prepare the data anew"
        )
    _check_files(path, manifest)
    return Dataset(path.absolute(), manifest)


def source_fingerprint(path: Path) -> str:
    """Fingerprint a folder by (relative path, size, mtime) of every file, a file by its size and
    its end (32 MiB).

    Cheap: no file of a folder is opened, so touching one counts as a change. Links are followed;
    what begins with a dot is left out, or looking at a folder with some file managers would
    change it. A zip ends with its directory, which has the names, sizes and checksums of all
    members: its end tells whether it is the same. Raises FileNotFoundError."""
    digest = hashlib.sha256()
    if path.is_dir():
        lines: list[str] = []
        _add_stat_lines(lines, os.fspath(path), "", frozenset())
        digest.update(os.fsencode("".join(sorted(lines))))
        return FOLDER_MARK + digest.hexdigest()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - FINGERPRINT_TAIL))
        digest.update(size.to_bytes(8, "little") + file.read())
    return FILE_MARK + digest.hexdigest()


def _add_stat_lines(
    lines: list[str], folder: str, prefix: str, above: frozenset[tuple[int, int]]
) -> None:
    own = os.stat(folder)  # noqa: PTH116 (no Path for each of many folders)
    here = (own.st_dev, own.st_ino)
    if here in above:  # a link back up: its files are counted already
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            if entry.is_dir():
                _add_stat_lines(lines, entry.path, f"{prefix}{name}/", above | {here})
                continue
            try:
                stat = entry.stat()
            except FileNotFoundError:  # where a link leads to
                stat = entry.stat(follow_symlinks=False)
            lines.append(f"{prefix}{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n")


def _no_pack(name: str, home: Path, there: bool) -> str:
    names = list_datasets(home)
    what = f"{name} is a folder but no pack" if there else f"there is no pack {name!r} in {home}"
    near = difflib.get_close_matches(name, names, n=1)
    known = f"it has {', '.join(names)}" if names else "it has none yet"
    hint = f"; did you mean {near[0]!r}?" if near else "."
    ways = "tinysight data get tiny-imagenet, tinysight data get shapes, or tinysight data import FOLDER --name NAME"
    return f"{what}; {known}{hint} Make one with {ways}"


def _check_files(path: Path, manifest: dict[str, Any]) -> None:
    """Raise ValueError naming the first file that is missing or not of the form or content it was
    written with.
    """
    num, size = manifest["num_images"], manifest["image_size"]
    for file, expected in manifest["sha256"].items():
        content = _read(path / file)
        if hashlib.sha256(content).hexdigest() != expected:
            raise ValueError(
                f"{path / file} is damaged (its checksum differs); prepare the data anew"
            )
    images = path / "images.npy"
    length = HEADER_BYTES + num * size * size * 3
    if _read(images, HEADER_BYTES) != images_header(num, size) or images.stat().st_size != length:
        raise ValueError(
            f"{images} is damaged, expected uint8 ({num}, {size}, {size}, 3); prepare the data anew"
        )


def _read(path: Path, length: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(length)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; prepare the data anew") from None


def images_header(num: int, image_size: int) -> bytes:
    """Give the first bytes of an images.npy of `num` images: always HEADER_BYTES, so that rows can
    be dropped.
    """
    header = io.BytesIO()
    shape = (num, image_size, image_size, 3)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    assert len(header.getvalue()) == HEADER_BYTES, len(header.getvalue())
    return header.getvalue()


def manifest_digest(manifest: dict[str, Any]) -> str:
    """Give the SHA-256 of all a manifest says but where the data came from."""
    content = {key: value for key, value in manifest.items() if key not in ("digest", "source")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
