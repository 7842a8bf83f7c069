"""Tiny ImageNet (Wu et al. 2017, section 1), from its published archive or folder, fully checked.

Rows are in the order train, minival, val, test; classes in the order of their wnids. Rows of train
and minival are sorted by (class, number), those of val and test by number. `minival` is 25 images
per class out of train: those whose file names have the lowest SHA-256, so that it depends on no
seed, platform or order of files. The box files hold inclusive pixel indices 0..63; boxes become
half-open here, and only here.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinysight.data.archive import Archive
from tinysight.data.build import build
from tinysight.data.dataset import (
    Dataset,
    DatasetIndex,
    Progress,
    list_datasets,
    offsets,
    open_dataset,
    source_fingerprint,
    split_ranges,
)
from tinysight.data.download import download
from tinysight.files import expand

logger = logging.getLogger("tinysight")

NAME = "tiny-imagenet"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
ARCHIVE_BYTES = 248_100_043
ARCHIVE_SHA256 = "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"
IMAGE_SIZE = 64
MAX_IMAGE_BYTES = 1 << 20  # a published image has at most 3,195
MAX_FILE_BYTES = 64 << 20  # of any file; words.txt has 2.7 million
FOLDER = "tiny-imagenet-200"  # at the top of the published archive
_COORDINATES = {str(pixel): pixel for pixel in range(IMAGE_SIZE)}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Expected numbers of classes and images; the defaults are the published ones."""

    classes: int = 200
    train_per_class: int = 500
    minival_per_class: int = 25  # of the train images of a class
    val: int = 10_000
    test: int = 10_000


PUBLISHED = Counts()


def prepare(
    source: str | Path | None = None,
    *,
    home: Path,
    download_progress: Progress | None = None,
    replace: bool = False,
    expect: Counts = PUBLISHED,
    **options: Any,
) -> Dataset:
    """Build Tiny ImageNet from an address, a .zip, its folder, or (None) `URL`.

    Without a source, an existing dataset is opened as it is. An address is downloaded into
    `<home>/.downloads` and kept there; `download_progress` counts bytes. `options` are `build`'s.
    """
    if source is None and NAME in list_datasets(home) and not replace:
        try:
            return open_dataset(NAME, home=home)
        except ValueError as error:
            logger.warning("%s: preparing it", error)
    url = URL if source is None else str(source) if "://" in str(source) else None
    path = _fetch(url, home, download_progress) if url else expand(str(source))
    return build(TinyImageNet(path, expect, url), home=home, replace=replace, **options)


def _fetch(url: str, home: Path, progress: Progress | None) -> Path:
    """Download an archive into `<home>/.downloads`; the published one must have its hash."""
    published = url == URL
    file = Path(urlsplit(url).path).name or "archive.zip"
    if not published:  # other addresses, other files
        file = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{file}"
    target = home / ".downloads" / file
    if not target.exists():
        logger.info("downloading %s to %s", url, target)
    size, sha256 = (ARCHIVE_BYTES, ARCHIVE_SHA256) if published else (None, None)
    download(url, target, size=size, sha256=sha256, progress=progress)
    return target


@dataclass(frozen=True)
class TinyImageNet:
    """An archive or folder in the published layout, as a `build.Source`.

    Every count, name and box is checked; the size of an image is checked when it is decoded.
    ValueErrors name the file, what was expected and what to do.
    """

    path: Path
    expect: Counts = PUBLISHED
    url: str | None = None

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return NAME

    @cached_property
    def root(self) -> Path:
        """The archive, or the folder that holds wnids.txt; absolute."""
        path = self.path
        if not path.exists():
            expected = "a .zip, its unpacked folder, or an address"
            raise ValueError(f"{path} does not exist; expected {expected}")
        if path.is_dir():
            if not (path / "wnids.txt").exists() and (path / FOLDER).is_dir():
                path = path / FOLDER
            if not (path / "wnids.txt").exists():
                raise ValueError(f"{path} has no wnids.txt; expected the folder {FOLDER}")
        return path.absolute()

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Path, fingerprint, decoder, and the address of a download."""
        decoder = "simplejpeg" if has_fast_decoder() else "Pillow"
        origin = {
            "kind": f"tiny-imagenet {'folder' if self.root.is_dir() else 'archive'}",
            "path": str(self.root),
            "fingerprint": source_fingerprint(self.root),
            "decoder": f"{decoder} {importlib.metadata.version(decoder)}",
        }
        return origin | ({"url": self.url} if self.url else {})

    @cached_property
    def index(self) -> DatasetIndex:
        """All images, labels and boxes."""
        collecting = gc.isenabled()
        gc.disable()  # a million new objects and no garbage: collecting takes a fifth of the time
        try:
            return _Reader(self._files, self.expect).index()
        finally:
            if collecting:
                gc.enable()

    def decode(self, row: int) -> npt.NDArray[np.uint8]:
        """Decode one image."""
        name = self.index.files[row]
        try:
            return decode_image(self._files.read(name), fast=self._fast)
        except (ValueError, OSError) as error:
            raise ValueError(f"{name}: {error}") from None

    @cached_property
    def _fast(self) -> bool:
        return has_fast_decoder()

    @cached_property
    def _files(self) -> _Files:
        return _FolderFiles(self.root) if self.root.is_dir() else _ArchiveFiles(self.root)


class _Files(Protocol):
    """The files of an archive or folder by name, relative to the folder that holds wnids.txt."""

    path: Path
    names: tuple[str, ...]

    def read(self, name: str) -> bytes: ...


class _FolderFiles:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = tuple(_names_below(os.fspath(path), "", depth=3))  # train/<wnid>/images
        self._prefix = f"{path}{os.sep}"

    def read(self, name: str) -> bytes:
        descriptor = os.open(self._prefix + name, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            size = os.fstat(descriptor).st_size
            if size > MAX_FILE_BYTES:
                raise ValueError(f"{self._prefix}{name} has {size} bytes, limit {MAX_FILE_BYTES}")
            return os.read(descriptor, size)
        finally:
            os.close(descriptor)


def _names_below(folder: str, prefix: str, depth: int) -> Iterator[str]:
    """List the files of a folder and of its folders, `depth` deep, so that link loops end."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file():  # not a pipe or socket: reading one would wait forever
                yield prefix + entry.name
            elif depth and entry.is_dir():
                yield from _names_below(entry.path, f"{prefix}{entry.name}/", depth - 1)


class _ArchiveFiles:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = Archive(path)
        names = self._archive.names
        tops = [name.removesuffix("wnids.txt") for name in names if name.endswith("wnids.txt")]
        self._prefix = top = min(tops, key=len, default="")
        self.names = tuple(name.removeprefix(top) for name in names if name.startswith(top))

    def read(self, name: str) -> bytes:
        return self._archive.read(self._prefix + name)


class _Row(NamedTuple):
    file: str
    label: int = -1
    box: tuple[int, ...] = ()  # inclusive, as it is written; empty for none


class _Reader:
    """Read and check the layout of the published files."""

    def __init__(self, files: _Files, expect: Counts) -> None:
        self.files, self.expect = files, expect
        self.folders: dict[str, set[str]] = {}
        for name in files.names:
            folder, _, file = name.rpartition("/")
            if file not in (".DS_Store", "Thumbs.db"):
                self.folders.setdefault(folder, set()).add(file)

    def index(self) -> DatasetIndex:
        wnids = self.wnids()
        words = self.words(wnids)
        rows: dict[str, list[_Row]] = {"train": [], "minival": []}
        for label, wnid in enumerate(wnids):
            images = self.rows_of_class(wnid, label)
            ranked = sorted(images, key=lambda row: _name_digest(row.file))
            minival = {row.file for row in ranked[: self.expect.minival_per_class]}
            rows["train"] += [row for row in images if row.file not in minival]
            rows["minival"] += [row for row in images if row.file in minival]
        for folder in self.folders:
            if folder.startswith("train/") and folder.split("/")[1] not in wnids:
                raise self.fault(folder, "a folder", "only the classes of wnids.txt")
        rows["val"] = self.rows_of_val(wnids)
        test = self.images("test/images", "test_{}.JPEG", self.expect.test)
        rows["test"] = [_Row(f"test/images/{image}") for image in test]
        ordered = [row for split in rows.values() for row in split]
        labels = np.array([row.label for row in ordered], np.int64)
        boxes = np.array([row.box for row in ordered if row.box], np.float32).reshape(-1, 4)
        boxes[:, 2:] += 1  # inclusive -> half-open
        return DatasetIndex(
            image_size=IMAGE_SIZE,
            class_names=name_classes(words),
            class_ids=wnids,
            splits=split_ranges({split: len(part) for split, part in rows.items()}),
            files=tuple(row.file for row in ordered),
            labels=labels,
            boxes=boxes,
            box_labels=labels[labels >= 0],
            box_offsets=offsets(labels >= 0),
            extra={"words": words},
        )

    def fault(self, name: str, found: str, expected: str) -> ValueError:
        """Make the error for a file that is not as published."""
        return ValueError(
            f"{self.files.path}: {name}: found {found}, expected {expected}; "
            f"get the published archive again from {URL}"
        )

    def lines(self, name: str) -> list[list[str]]:
        """Return the tab-separated fields of each line that is not empty."""
        try:
            text = self.files.read(name).decode("utf-8")
        except (KeyError, FileNotFoundError):
            raise self.fault(name, "nothing", "this file") from None
        except UnicodeDecodeError:
            raise self.fault(name, "bytes that are not text", "UTF-8") from None
        return [line.rstrip().split("\t") for line in text.split("\n") if line.strip()]

    def wnids(self) -> tuple[str, ...]:
        wnids = [fields[0] for fields in self.lines("wnids.txt")]
        for wnid in wnids:
            if not re.fullmatch(r"n\d{8}", wnid, re.ASCII):
                raise self.fault("wnids.txt", repr(wnid), "lines like n01443537")
        count, different = self.expect.classes, set(wnids)
        if not len(different) == len(wnids) == count:
            raise self.fault(
                "wnids.txt", f"{len(different)} different wnids", f"{count}, each once"
            )
        return tuple(sorted(wnids))

    def words(self, wnids: tuple[str, ...]) -> dict[str, str]:
        """Return each wnid's line of words.txt: its synonyms, separated by commas."""
        lines = {line[0]: line[1] for line in self.lines("words.txt") if len(line) == 2}
        for wnid in wnids:
            if wnid not in lines:
                raise self.fault("words.txt", f"no line for {wnid}", "one line per wnid")
        return {wnid: lines[wnid] for wnid in wnids}

    def images(self, folder: str, pattern: str, count: int) -> list[str]:
        """Require exactly pattern.format(0..count-1) in a folder; return these names in order."""
        found = self.folders.get(folder, set())
        expected = [pattern.format(number) for number in range(count)]
        if found != set(expected):
            missing, unknown = sorted(set(expected) - found), sorted(found - set(expected))
            what = f"no {missing[0]}" if missing else f"also {unknown[0]}"
            names = f"{expected[0]} .. {expected[-1]}"
            raise self.fault(folder, f"{len(found)} files, {what}", names)
        return expected

    def rows_of_class(self, wnid: str, label: int) -> list[_Row]:
        folder = f"train/{wnid}/images"
        images = self.images(folder, wnid + "_{}.JPEG", self.expect.train_per_class)
        name = f"train/{wnid}/{wnid}_boxes.txt"
        lines = self.lines_by_image(name, images, num_fields=5)
        return [_Row(f"{folder}/{image}", label, self.box(name, lines[image])) for image in images]

    def rows_of_val(self, wnids: tuple[str, ...]) -> list[_Row]:
        sorted_into: dict[str, str] = {}  # image -> class folder, where a script has moved them
        if "val/images" not in self.folders:
            own = [folder for folder in self.folders if folder.startswith("val/")]
            sorted_into = {image: folder for folder in own for image in self.folders[folder]}
            self.folders["val/images"] = set(sorted_into)
        images = self.images("val/images", "val_{}.JPEG", self.expect.val)
        name = "val/val_annotations.txt"
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        rows = []
        for image, line in self.lines_by_image(name, images, num_fields=6).items():
            if line[1] not in labels:
                raise self.fault(name, f"{image} of {line[1]!r}", "a wnid of wnids.txt")
            folder = sorted_into.get(image, "val/images")
            if sorted_into and folder.split("/")[1] != line[1]:
                raise self.fault(folder, image, f"it in val/{line[1]}, its class in {name}")
            rows.append(_Row(f"{folder}/{image}", labels[line[1]], self.box(name, line)))
        return rows

    def lines_by_image(self, name: str, images: list[str], num_fields: int) -> dict[str, list[str]]:
        """Return the fields of each image's one line, in the order of `images`."""
        lines = self.lines(name)
        for line in lines:
            if len(line) != num_fields:
                expected = f"{num_fields}, separated by tabs"
                raise self.fault(name, f"{len(line)} fields in {line!r}", expected)
        by_image = {line[0]: line for line in lines}
        if len(lines) != len(images) or by_image.keys() != set(images):
            odd = sorted(by_image.keys() ^ set(images)) or ["an image twice"]
            expected = f"one for each of {len(images)} images"
            raise self.fault(name, f"{len(lines)} lines ({odd[0]})", expected)
        return {image: by_image[image] for image in images}

    def box(self, name: str, line: list[str]) -> tuple[int, ...]:
        x0, y0, x1, y1 = (_COORDINATES.get(field, -1) for field in line[-4:])
        if not (0 <= x0 <= x1 and 0 <= y0 <= y1):
            expected = f"x0 <= x1, y0 <= y1 in whole pixels 0..{IMAGE_SIZE - 1}"
            raise self.fault(name, f"the box {' '.join(line[-4:])} of {line[0]}", expected)
        return x0, y0, x1, y1


def _name_digest(file: str) -> bytes:
    return hashlib.sha256(file.rpartition("/")[2].encode()).digest()


def name_classes(words: dict[str, str]) -> tuple[str, ...]:
    """Name each class by its first synonym, or more if two share a name, or add the wnid."""
    synonyms = {wnid: line.split(", ") for wnid, line in words.items()}
    names = {wnid: parts[0] for wnid, parts in synonyms.items()}
    for count in range(2, max(map(len, synonyms.values()), default=0) + 1):
        for wnid in _sharing(names):
            names[wnid] = ", ".join(synonyms[wnid][:count])
    for wnid in _sharing(names):
        names[wnid] += f" ({wnid})"
    return tuple(names.values())


def _sharing(names: dict[str, str]) -> list[str]:
    taken = Counter(names.values())
    return [wnid for wnid, name in names.items() if taken[name] > 1]


def decode_image(content: bytes, *, fast: bool = False) -> npt.NDArray[np.uint8]:
    """Decode a 64x64 JPEG to RGB (64, 64, 3); grayscale gives three equal channels.

    `fast` uses simplejpeg, three times as quick and bit-identical on all 120,000 published images;
    whatever it rejects is left to Pillow, so that both refuse the same files. Raises ValueError.
    """
    if len(content) > MAX_IMAGE_BYTES:
        raise ValueError(f"{len(content)} bytes, expected a JPEG of at most {MAX_IMAGE_BYTES}")
    if fast:
        import simplejpeg

        with suppress(ValueError):
            if simplejpeg.decode_jpeg_header(content)[:2] == (IMAGE_SIZE, IMAGE_SIZE):
                pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "RGB", strict=True)
                return pixels
    try:
        with Image.open(BytesIO(content), formats=["JPEG"]) as image:
            if image.size != (IMAGE_SIZE, IMAGE_SIZE):  # before a pixel is decoded
                raise ValueError(f"{image.width}x{image.height} pixels, expected 64x64")
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable JPEG ({error})") from None


def has_fast_decoder() -> bool:
    """Whether simplejpeg is installed and $TINYSIGHT_DECODER is not "pillow"."""
    wanted = os.environ.get("TINYSIGHT_DECODER") != "pillow"
    return wanted and importlib.util.find_spec("simplejpeg") is not None
