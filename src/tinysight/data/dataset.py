"""Image datasets: open, list and verify prepared ones; hold derived ones in memory.

docs/architecture.md describes the files of a prepared dataset's folder.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, compress, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tinysight.files import expand
from tinysight.images import Fit
from tinysight.text import pluralize

FORMAT = "tinysight-dataset/1"
SPLITS = ("train", "minival", "val", "test")
HEADER_BYTES = 128  # of images.npy: numpy pads a version 1.0 header of this form to exactly that
FEW = 5  # names in one message
_AGAIN = "prepare the data again"
_FOLDER_MARK, _FILE_MARK = "folder:", "file:"
_FINGERPRINT_TAIL = 32 << 20  # holds the directory of a zip of 200,000 members with long paths

Decode = Callable[[int], npt.NDArray[np.uint8]]  # row -> uint8 (S, S, 3)
Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True, kw_only=True)
class DatasetIndex:
    """Everything in a dataset but its pixels, in row order (N rows, M boxes, K classes)."""

    image_size: int
    class_names: tuple[str, ...]  # K, for people: "goldfish"
    class_ids: tuple[str, ...]  # K, stable: a wnid or a folder's name
    splits: dict[str, tuple[int, int]]  # half-open row ranges in the order of SPLITS, from 0 to N
    files: tuple[str, ...]  # N names, relative to the source
    labels: npt.NDArray[np.int64]  # (N,), -1 for unlabeled
    boxes: npt.NDArray[np.float32]  # (M, 4)
    box_labels: npt.NDArray[np.int64]  # (M,)
    box_offsets: npt.NDArray[np.int64]  # (N + 1,): row i has boxes box_offsets[i : i + 2]
    notes: tuple[str, ...] = ()  # what a person should know about this data, one line each
    extra: dict[str, Any] = field(default_factory=dict)  # JSON values for the manifest

    def keep_rows(self, keep: npt.NDArray[np.bool_], notes: tuple[str, ...]) -> DatasetIndex:
        """Drop the rows where `keep` (N,) is false, with their boxes, and add notes."""
        counts = np.diff(self.box_offsets)
        keep_boxes = np.repeat(keep, counts)
        kept = {name: int(keep[slice(*bounds)].sum()) for name, bounds in self.splits.items()}
        return replace(
            self,
            splits=split_ranges({name: number for name, number in kept.items() if number}),
            files=tuple(compress(self.files, keep)),
            labels=self.labels[keep],
            boxes=self.boxes[keep_boxes],
            box_labels=self.box_labels[keep_boxes],
            box_offsets=offsets(counts[keep]),
            notes=self.notes + notes,
        )


def split_ranges(sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Lay splits of some numbers of rows side by side, from row 0 on."""
    ends = accumulate(sizes.values())
    return {name: (end - sizes[name], end) for name, end in zip(sizes, ends, strict=True)}


def offsets(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return where each of N groups of `counts` items begins, and the end of the last, (N + 1,)."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@dataclass(frozen=True)
class View:
    """A selection of another dataset's rows, or images composed of them; must be picklable."""

    base: Dataset
    index: DatasetIndex
    compose: Decode


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labeled images with boxes, as read-only arrays; cheap to make and to pickle."""

    path: Path | None  # its folder; None for a view, which is only in memory
    manifest: dict[str, Any] = field(repr=False)
    view: View | None = field(default=None, repr=False)

    def __reduce__(self) -> tuple[type[Dataset], tuple[Any, ...]]:
        return Dataset, (self.path, self.manifest, self.view)  # without the arrays read so far

    def __repr__(self) -> str:
        size, splits = self.image_size, self.splits.items()
        counts = ", ".join(
            f"{name} {stop - start:,}" for name, (start, stop) in splits if stop > start
        )
        classes = f"{pluralize(len(self.class_names), 'class')} ({few(self.class_names)})"
        images = f"{pluralize(len(self), 'image')} of {size}x{size}"
        return f"<Dataset {self.name}: {images}, {classes}; {counts}>"

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def num_bytes(self) -> int:
        """Size on disk; 0 for a view."""
        return 0 if self.path is None else sum(f.stat().st_size for f in self.path.iterdir())

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
    def fit(self) -> Fit:
        """How images that are not square were brought into the square; see `images.frame_of`."""
        fit: Fit = self.manifest["extra"].get("fit", "crop")
        return fit if self.view is None else self.view.base.fit

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.manifest["notes"])

    @property
    def digest(self) -> str:
        """SHA-256 of all content (pixels, labels, boxes, names), whatever the source's location."""
        return str(self.manifest["digest"])

    @cached_property
    def images(self) -> npt.NDArray[np.uint8]:
        """Images (N, S, S, 3), RGB; memory-mapped, or an array for a view."""
        if self.view is None:
            mapped: npt.NDArray[np.uint8] = np.load(self._file("images.npy"), mmap_mode="r")
            return mapped
        images = np.stack([self.view.compose(row) for row in range(len(self))])
        images.flags.writeable = False
        return images

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class labels (N,), -1 for unlabeled."""
        return self._array("labels")

    @cached_property
    def boxes(self) -> npt.NDArray[np.float32]:
        """All boxes (M, 4): half-open pixels (x0, y0, x1, y1)."""
        return self._array("boxes")

    @cached_property
    def box_labels(self) -> npt.NDArray[np.int64]:
        """Class labels of the boxes (M,)."""
        return self._array("box_labels")

    @cached_property
    def box_offsets(self) -> npt.NDArray[np.int64]:
        """Offsets (N + 1,): row i has boxes box_offsets[i] to box_offsets[i + 1]."""
        return self._array("box_offsets")

    @cached_property
    def digests(self) -> npt.NDArray[np.uint8]:
        """SHA-256 of each image (N, 32)."""
        if self.view is None:
            return self._array("digests")
        joined = b"".join(hashlib.sha256(image).digest() for image in self.images)
        return np.frombuffer(joined, np.uint8).reshape(-1, 32)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """File names (N), relative to the source."""
        if self.view is not None:
            return self.view.index.files
        return tuple(json.loads(self._file("files.json").read_text("utf-8")))

    def __len__(self) -> int:
        return max(stop for _, stop in self.splits.values())

    def rows(self, split: str) -> range:
        """Return the rows of a split, or of adjacent splits joined by + ("train+minival")."""
        parts = split.split("+")
        if unknown := [part for part in parts if part not in self.splits]:
            known = ", ".join(self.splits)
            raise ValueError(f"{self.name} has no split {unknown[0]!r}; it has {known}")
        ranges = sorted(self.splits[part] for part in parts)
        for (_, stop), (start, _) in pairwise(ranges):
            if start != stop:
                raise ValueError(f"{split!r} is not adjacent in {self.name}: {list(self.splits)}")
        return range(ranges[0][0], ranges[-1][1])

    def boxes_of(self, row: int) -> npt.NDArray[np.float32]:
        """Return the boxes (n, 4) of one row."""
        return self.boxes[self.box_offsets[row] : self.box_offsets[row + 1]]

    def box_labels_of(self, row: int) -> npt.NDArray[np.int64]:
        """Return the class labels (n,) of the boxes of one row."""
        return self.box_labels[self.box_offsets[row] : self.box_offsets[row + 1]]

    def padded_boxes(self, rows: range) -> npt.NDArray[np.float32]:
        """Return the boxes (n, G, 4) of n rows, padded with NaN to the largest number per row."""
        return self._padded(self.boxes, rows, np.nan)

    def padded_box_labels(self, rows: range) -> npt.NDArray[np.int64]:
        """Return the labels of the same boxes (n, G), padded with -1."""
        return self._padded(self.box_labels, rows, -1)

    def _padded(self, values: npt.NDArray[Any], rows: range, fill: float) -> npt.NDArray[Any]:
        start, stop = self.box_offsets[rows.start], self.box_offsets[rows.stop]
        counts = np.diff(self.box_offsets[rows.start : rows.stop + 1])
        most = int(counts.max(initial=0))
        padded = np.full((len(rows), most, *values.shape[1:]), fill, values.dtype)
        place = np.arange(stop - start) - np.repeat(np.cumsum(counts) - counts, counts)
        padded[np.repeat(np.arange(len(rows)), counts), place] = values[start:stop]
        return padded

    def verify(self, progress: Progress | None = None) -> tuple[str, ...]:
        """Read every byte; name each damaged file or image. Empty: nothing is damaged."""
        if self.path is None:
            return () if self.view is None else self.view.base.verify(progress)
        try:
            _check_files(self.path, self.manifest)
        except ValueError as error:
            return (str(error),)
        damaged = []
        for row, (image, digest) in enumerate(zip(self.images, self.digests, strict=True)):
            if hashlib.sha256(image).digest() != digest.tobytes():
                damaged.append(f"images.npy: row {row} ({self.files[row]}) is damaged")
            if progress is not None and (row + 1) % 1024 == 0:
                progress(row + 1, len(self))
        return tuple(damaged)

    def source_state(self) -> Literal["same", "changed", "gone", "unknown"]:
        """Compare the source's fingerprint with the source now; "unknown" for drawn data."""
        if self.view is not None:
            return self.view.base.source_state()
        source = self.manifest["source"]
        path, known = source.get("path"), str(source.get("fingerprint", ""))
        if not path or not known.startswith((_FOLDER_MARK, _FILE_MARK)):
            return "unknown"
        try:
            return "same" if source_fingerprint(Path(path)) == known else "changed"
        except OSError:  # also of rights, or of a lost mount
            return "gone"

    def _file(self, name: str) -> Path:
        assert self.path is not None
        return self.path / name

    def _array(self, name: str) -> npt.NDArray[Any]:
        view = self.view
        stored = np.load(self._file(f"{name}.npy")) if view is None else getattr(view.index, name)
        array: npt.NDArray[Any] = stored.view()
        array.flags.writeable = False
        return array


def make_view(name: str, view: View, *, kind: str, parameters: str) -> Dataset:
    """Make a dataset in memory; its digest follows from the base's digest and `parameters`."""
    fingerprint = f"{kind}-{view.base.digest}-{parameters}"
    source = {"kind": kind, "path": view.base.name, "fingerprint": fingerprint}
    index = replace(view.index, extra=view.index.extra | {"derived": fingerprint})
    return Dataset(None, make_manifest(name, index, source, {}, []), view)


def make_manifest(
    name: str,
    index: DatasetIndex,
    source: dict[str, Any],
    checksums: dict[str, str],
    duplicates: list[dict[str, list[Any]]],
) -> dict[str, Any]:
    """Describe a dataset in JSON values; `source` has kind, path, fingerprint, maybe settings."""
    manifest = {
        "format": FORMAT,
        "name": name,
        "image_size": index.image_size,
        "num_images": len(index.files),
        "num_boxes": len(index.boxes),
        "class_names": list(index.class_names),
        "class_ids": list(index.class_ids),
        "splits": {split: list(bounds) for split, bounds in index.splits.items()},
        "sha256": checksums,
        "source": source,
        "notes": list(index.notes),
        "duplicates": duplicates,
        "extra": index.extra,
    }
    return manifest | {"digest": manifest_digest(manifest)}


def manifest_digest(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its source."""
    content = {key: value for key, value in manifest.items() if key not in ("digest", "source")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def data_home() -> Path:
    """Return $TINYSIGHT_DATA, else $XDG_CACHE_HOME/tinysight, else ~/.cache/tinysight."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expand(os.environ.get("TINYSIGHT_DATA") or f"{cache}/tinysight")


def list_datasets(home: Path | None = None) -> tuple[str, ...]:
    """List the names of the datasets in a data home."""
    found = (path.parent.name for path in (home or data_home()).glob("*/manifest.json"))
    return tuple(sorted(name for name in found if name[0] != "."))


def is_path(name_or_path: object) -> bool:
    """Whether it is a path and not a name: a Path, or text with a separator or a leading ~."""
    if not isinstance(name_or_path, str | Path):
        kind = type(name_or_path).__name__
        raise ValueError(f"this is a {kind}, not a dataset: give a Dataset, its name or a folder")
    text = str(name_or_path)
    separated = os.sep in text or (os.altsep or os.sep) in text
    return isinstance(name_or_path, Path) or separated or text.startswith("~")


def open_dataset(name_or_path: str | Path, *, home: Path | None = None) -> Dataset:
    """Open a prepared dataset and check everything but its pixels.

    Raises ValueError if there is none (with the nearest name and how to make one) or it is damaged.
    """
    home = data_home() if home is None else home
    path = expand(name_or_path) if is_path(name_or_path) else home / name_or_path
    file = path / "manifest.json"
    if not file.is_file():
        raise ValueError(_no_dataset(str(name_or_path), home, path.is_dir()))
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{file} is damaged ({error}); {_AGAIN}") from None
    found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
    if found != FORMAT:
        raise ValueError(f"{path} has format {found!r}, this version reads {FORMAT!r}; {_AGAIN}")
    if manifest.get("digest") != manifest_digest(manifest):
        raise ValueError(f"{file} is damaged; {_AGAIN}")
    _check_files(path, manifest)
    return Dataset(path.absolute(), manifest)


def source_fingerprint(path: Path) -> str:
    """Fingerprint a folder by (path, size, mtime) of its files, a file by its size and end.

    Cheap: no file of a folder is opened, so touching one counts as a change. Links are followed;
    names that begin with a dot are skipped, as some file managers write such files. A zip ends
    with its directory, which has the names, sizes and checksums of all members. Raises
    FileNotFoundError.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        lines = sorted(_stat_lines(os.fspath(path), "", frozenset()))
        digest.update(os.fsencode("".join(lines)))
        return _FOLDER_MARK + digest.hexdigest()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _FINGERPRINT_TAIL))
        digest.update(size.to_bytes(8, "little") + file.read())
    return _FILE_MARK + digest.hexdigest()


def _stat_lines(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    own = os.stat(folder)  # noqa: PTH116 (no Path for each of many folders)
    here = (own.st_dev, own.st_ino)
    if here in above:  # a link back up: its files are counted already
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                continue
            name = prefix + entry.name
            if entry.is_dir():
                yield from _stat_lines(entry.path, f"{name}/", above | {here})
                continue
            try:
                stat = entry.stat()
            except FileNotFoundError:  # a link to nothing
                stat = entry.stat(follow_symlinks=False)
            yield f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"


def few(names: Iterable[str], separator: str = ", ") -> str:
    """Join the first few names and count the others."""
    names = list(names)
    more = f"{separator.rstrip(' ,')} and {len(names) - FEW} more" if len(names) > FEW else ""
    return separator.join(names[:FEW]) + more


def images_header(num: int, image_size: int) -> bytes:
    """Return the first HEADER_BYTES bytes of an images.npy of `num` images."""
    header, shape = io.BytesIO(), (num, image_size, image_size, 3)
    fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    assert header.tell() == HEADER_BYTES, header.tell()
    return header.getvalue()


def _no_dataset(name: str, home: Path, is_folder: bool) -> str:
    names, what = list_datasets(home), f"there is no dataset {name!r} in {home}"
    if is_folder:
        what = f"{name} is a folder but not a prepared dataset"
    known = f"it has {', '.join(names)}" if names else "it has none yet"
    near = difflib.get_close_matches(name, names, n=1)
    known += f"; did you mean {near[0]!r}?" if near else "."
    return (
        f"{what}; {known} Make one with tinysight data get tiny-imagenet, tinysight data get "
        "shapes, or tinysight data import FOLDER --name NAME"
    )


def _check_files(path: Path, manifest: dict[str, Any]) -> None:
    """Raise ValueError naming the first file that is missing or damaged (pixels not checked)."""
    num, size = manifest["num_images"], manifest["image_size"]
    for file, expected in manifest["sha256"].items():
        if hashlib.sha256(_read(path / file)).hexdigest() != expected:
            raise ValueError(f"{path / file} is damaged (its checksum differs); {_AGAIN}")
    images, shape = path / "images.npy", (num, size, size, 3)
    length = HEADER_BYTES + math.prod(shape)
    if _read(images, HEADER_BYTES) != images_header(num, size) or images.stat().st_size != length:
        raise ValueError(f"{images} is damaged, expected uint8 {shape}; {_AGAIN}")


def _read(path: Path, length: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(length)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; {_AGAIN}") from None
