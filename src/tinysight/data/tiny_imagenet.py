"""Read Tiny ImageNet (Wu et al. 2017, section 1) from its published archive or folder, and check
all that it says.

TensorRows are in the order train, minival, val, test. Classes are in the order of their wnids.
TensorRows of train and of minival are sorted by (class, number), those of val and test by
number. `minival` is 25 images a class out of train: those whose file names have the lowest
SHA-256, so that it depends on no seed, platform or order of files. The box files hold inclusive
pixel indices 0..63; boxes become half-open here, and only here."""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinysight.data.archive import Archive
from tinysight.data.build import (
    Dataset,
    DatasetIndex,
    Decode,
    OnUnreadable,
    Progress,
    Say,
    list_datasets,
    open_dataset,
    source_fingerprint,
)
from tinysight.data.build import prepare as prepare_pack
from tinysight.data.download import download

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
ARCHIVE_BYTES = 248_100_043
ARCHIVE_SHA256 = "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"
IMAGE_SIZE = 64
FILE_BYTES = 1 << 20  # a published image has at most 3,195
MOST_BYTES = 64 << 20  # of any file; words.txt has 2.7 million
FOLDER = "tiny-imagenet-200"  # on top of the published archive


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many there are of everything; the defaults are those published."""

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
    name: str = "tiny-imagenet",
    workers: int | None = None,
    on_unreadable: OnUnreadable = "stop",
    progress: Progress | None = None,
    download_progress: Progress | None = None,
    say: Say | None = None,
    replace: bool = False,
    expect: Counts = PUBLISHED,
) -> Dataset:
    """Give the pack of Tiny ImageNet, made where it is missing: from an address, a .zip, its
    folder, or (None) `URL`.

    Without a source, a pack that is there is taken as it is. An address is downloaded into
    `<home>/.downloads` and kept there; `progress` counts images, `download_progress` bytes.
    Raises ValueError: see `listing` and `download`."""
    if source is None and name in list_datasets(home) and not replace:
        try:
            return open_dataset(name, home=home)
        except ValueError as error:
            if say is not None:
                say(f"{error}: doing so")
    url = URL if source is None else str(source) if "://" in str(source) else None
    if url is not None:
        path = fetch(url, home=home, progress=download_progress, say=say)
    else:
        path = _checked_path(Path(str(source)).expanduser())
    origin = _origin(path) | ({"url": url} if url else {})
    return prepare_pack(
        name,
        lambda: _listing(path, origin, name, expect),
        origin,
        home=home,
        workers=workers,
        on_unreadable=on_unreadable,
        progress=progress,
        replace=replace,
        say=say,
    )


def fetch(
    url: str = URL, *, home: Path, progress: Progress | None = None, say: Say | None = None
) -> Path:
    """Download an archive into `<home>/.downloads`, or find it there; the published one must have
    its hash.
    """
    published = url == URL
    file = Path(urlsplit(url).path).name or "archive.zip"
    if not published:
        # other addresses, other files
        file = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{file}"
    target = home / ".downloads" / file
    if say is not None and not target.exists():
        say(f"downloading {url} to {target}")
    download(
        url,
        target,
        size=ARCHIVE_BYTES if published else None,
        sha256=ARCHIVE_SHA256 if published else None,
        progress=progress,
    )
    return target


def listing(
    source: Path, *, name: str = "tiny-imagenet", expect: Counts = PUBLISHED
) -> tuple[DatasetIndex, Decode]:
    """List the images of an archive or folder in its published layout, in pack order, and how to
    decode each.

    Every count, name and box is checked; the size of an image is checked when it is decoded.
    Raises ValueError naming the file, what was expected and what to do."""
    path = _checked_path(source)
    return _listing(path, _origin(path), name, expect)


@contextmanager
def _collection_paused() -> Iterator[None]:
    """Spare the garbage collector a million new objects of which none is garbage: a fifth of the
    time of a listing.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_collection_paused()
def _listing(
    path: Path, origin: dict[str, Any], name: str, expect: Counts
) -> tuple[DatasetIndex, Decode]:
    files = _open(path)
    by_folder = _by_folder(files.names)
    wnids = _read_wnids(files, expect)
    words = _read_words(files, wnids)
    rows: dict[str, list[_Row]] = {"train": [], "minival": []}
    for label, wnid in enumerate(wnids):
        images = _read_class(files, by_folder, wnid, label, expect)
        minival = set(
            sorted((row.file for row in images), key=_name_digest)[: expect.minival_per_class]
        )
        rows["train"] += [row for row in images if row.file not in minival]
        rows["minival"] += [row for row in images if row.file in minival]
    if strays := [
        f for f in by_folder if re.match(r"train/[^/]+", f) and f.split("/")[1] not in wnids
    ]:
        raise _departure(files, strays[0], "a folder", "only the classes of wnids.txt")
    rows["val"] = _read_val(files, by_folder, wnids, expect)
    rows["test"] = _read_test(files, by_folder, expect)

    ordered = [row for split in rows.values() for row in split]
    ends = np.cumsum([len(split) for split in rows.values()]).tolist()
    labels = np.array([row.label for row in ordered], np.int64)
    boxed = labels >= 0
    boxes = np.array([row.box for row in ordered if row.box], np.float32).reshape(-1, 4)
    boxes[:, 2:] += 1  # inclusive -> half-open
    return DatasetIndex(
        name=name,
        image_size=IMAGE_SIZE,
        class_names=name_classes(words),
        class_ids=wnids,
        splits=dict(zip(rows, zip([0, *ends], ends, strict=False), strict=True)),
        files=tuple(row.file for row in ordered),
        labels=labels,
        boxes=boxes,
        box_labels=labels[boxed],
        box_offsets=np.concatenate([[0], np.cumsum(boxed)]).astype(np.int64),
        source=origin,
        extra={"words": words},
    ), _Decode(files, tuple(row.file for row in ordered), has_fast_decoder())


class _Row:
    """One image: its file, its label (-1: none) and its box as it is written, inclusive (empty:
    none).
    """

    __slots__ = ("box", "file", "label")

    def __init__(self, file: str, label: int = -1, box: tuple[int, ...] = ()) -> None:
        self.file, self.label, self.box = file, label, box


class _Files(Protocol):
    """The files of an archive or folder by name, relative to the folder that holds wnids.txt."""

    path: Path
    names: tuple[str, ...]

    def read(self, name: str) -> bytes: ...


class _FolderFiles:
    def __init__(self, path: Path) -> None:
        self.path = path
        names: list[str] = []
        _add_names(names, os.fspath(path), "", depth=3)  # train/<wnid>/images
        self.names = tuple(names)
        self._prefix = f"{path}{os.sep}"

    def read(self, name: str) -> bytes:
        descriptor = os.open(self._prefix + name, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            if size > MOST_BYTES:
                raise ValueError(
                    f"{self._prefix}{name} has {size} bytes, at most {MOST_BYTES} are taken"
                )
            return os.read(descriptor, size)
        finally:
            os.close(descriptor)


class _ArchiveFiles:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = Archive(path)
        tops = [
            name.removesuffix("wnids.txt")
            for name in self._archive.members
            if name.endswith("wnids.txt")
        ]
        self._prefix = min(tops, key=len, default="")
        start = len(self._prefix)
        self.names = tuple(
            name[start:] for name in self._archive.members if name.startswith(self._prefix)
        )

    def read(self, name: str) -> bytes:
        return self._archive.read(self._prefix + name)


MOST_DEEP = 8  # folders; the published layout has three


def _add_names(names: list[str], folder: str, prefix: str, depth: int) -> None:
    """List the files of a folder and of those in it, `depth` deep: a link back up leads nowhere."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file():  # no pipe or socket: reading one would wait for ever
                names.append(prefix + entry.name)
            elif depth and entry.is_dir():
                _add_names(names, entry.path, f"{prefix}{entry.name}/", depth - 1)


def _open(path: Path) -> _Files:
    return _FolderFiles(path) if path.is_dir() else _ArchiveFiles(path)


def _checked_path(path: Path) -> Path:
    """Make it absolute, and point into the published top folder where one was unpacked. Raises
    ValueError.
    """
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; expected a .zip, its unpacked folder, or an address"
        )
    if path.is_dir():
        inner = path / FOLDER
        path = inner if inner.is_dir() and not (path / "wnids.txt").exists() else path
        if not (path / "wnids.txt").exists():
            raise ValueError(
                f"{path} has no wnids.txt; expected the folder {FOLDER} or one of its layout"
            )
    return path.absolute()


def _origin(path: Path) -> dict[str, Any]:
    kind = "tiny-imagenet folder" if path.is_dir() else "tiny-imagenet archive"
    return {
        "kind": kind,
        "path": str(path),
        "fingerprint": source_fingerprint(path),
        "decoder": _decoder_name(),
    }


def _departure(files: _Files, name: str, found: str, expected: str) -> ValueError:
    return ValueError(
        f"{files.path}: {name}: found {found}, expected {expected}; get the published archive anew from {URL}"
    )


def _by_folder(names: Iterable[str]) -> dict[str, set[str]]:
    folders: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        if file not in (".DS_Store", "Thumbs.db"):
            folders.setdefault(folder, set()).add(file)
    return folders


def _read_lines(files: _Files, name: str) -> list[list[str]]:
    """Give the tab-separated fields of each line that is not empty."""
    try:
        text = files.read(name).decode("utf-8")
    except (KeyError, FileNotFoundError):
        raise _departure(files, name, "nothing", "this file") from None
    except UnicodeDecodeError:
        raise _departure(files, name, "bytes that are no text", "UTF-8") from None
    return [line.rstrip().split("\t") for line in text.split("\n") if line.strip()]


def _read_wnids(files: _Files, expect: Counts) -> tuple[str, ...]:
    wnids = [fields[0] for fields in _read_lines(files, "wnids.txt")]
    for wnid in wnids:
        if not re.fullmatch(r"n\d{8}", wnid, re.ASCII):
            raise _departure(files, "wnids.txt", repr(wnid), "lines like n01443537")
    if len(set(wnids)) != expect.classes or len(wnids) != expect.classes:
        raise _departure(
            files, "wnids.txt", f"{len(set(wnids))} different wnids", f"{expect.classes}, each once"
        )
    return tuple(sorted(wnids))


def _read_words(files: _Files, wnids: tuple[str, ...]) -> dict[str, str]:
    """Give the line of words.txt for each wnid: its synonyms, separated by commas."""
    every = {fields[0]: fields[1] for fields in _read_lines(files, "words.txt") if len(fields) == 2}
    for wnid in wnids:
        if wnid not in every:
            raise _departure(files, "words.txt", f"no line of {wnid}", "a line of each wnid")
    return {wnid: every[wnid] for wnid in wnids}


def name_classes(words: dict[str, str]) -> tuple[str, ...]:
    """Name each class by its first synonym, by more of them where two would share a name, at last
    with its wnid.
    """
    synonyms = {wnid: line.split(", ") for wnid, line in words.items()}
    names = {wnid: parts[0] for wnid, parts in synonyms.items()}
    for count in range(2, max(map(len, synonyms.values()), default=0) + 1):
        for wnid in _sharing(names):
            names[wnid] = ", ".join(synonyms[wnid][:count])
    for wnid in _sharing(names):
        names[wnid] += f" ({wnid})"
    return tuple(names.values())


def _sharing(names: dict[str, str]) -> list[str]:
    taken = list(names.values())
    return [wnid for wnid, name in names.items() if taken.count(name) > 1]


def _name_digest(file: str) -> bytes:
    return hashlib.sha256(file.rpartition("/")[2].encode()).digest()


def _check_images(
    files: _Files, folder: str, found: set[str], pattern: str, count: int
) -> list[str]:
    """Require exactly pattern.format(0..count-1) in a folder; return those names in order."""
    expected = [pattern.format(number) for number in range(count)]
    if found != set(expected):
        missing, strange = sorted(set(expected) - found), sorted(found - set(expected))
        what = f"no {missing[0]}" if missing else f"also {strange[0]}"
        raise _departure(
            files, folder, f"{len(found)} files, {what}", f"{expected[0]} .. {expected[-1]}"
        )
    return expected


def _read_class(
    files: _Files, by_folder: dict[str, set[str]], wnid: str, label: int, expect: Counts
) -> list[_Row]:
    folder = f"train/{wnid}/images"
    pattern = wnid + "_{}.JPEG"
    images = _check_images(
        files, folder, by_folder.get(folder, set()), pattern, expect.train_per_class
    )
    boxes = _read_boxes(files, f"train/{wnid}/{wnid}_boxes.txt", images, num_fields=5)
    return [
        _Row(f"{folder}/{image}", label, _parse_box(files, wnid, boxes[image])) for image in images
    ]


def _read_val(
    files: _Files, by_folder: dict[str, set[str]], wnids: tuple[str, ...], expect: Counts
) -> list[_Row]:
    folder, name = "val/images", "val/val_annotations.txt"
    images = _check_images(files, folder, by_folder.get(folder, set()), "val_{}.JPEG", expect.val)
    lines = _read_boxes(files, name, images, num_fields=6)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    rows = []
    for image in images:
        fields = lines[image]
        if fields[1] not in labels:
            raise _departure(files, name, f"{image} of {fields[1]!r}", "a wnid of wnids.txt")
        rows.append(_Row(f"{folder}/{image}", labels[fields[1]], _parse_box(files, name, fields)))
    return rows


def _read_test(files: _Files, by_folder: dict[str, set[str]], expect: Counts) -> list[_Row]:
    folder = "test/images"
    images = _check_images(files, folder, by_folder.get(folder, set()), "test_{}.JPEG", expect.test)
    return [_Row(f"{folder}/{image}") for image in images]


def _read_boxes(
    files: _Files, name: str, images: list[str], num_fields: int
) -> dict[str, list[str]]:
    """Give the fields of each image's one line."""
    lines = _read_lines(files, name)
    for fields in lines:
        if len(fields) != num_fields:
            raise _departure(
                files,
                name,
                f"{len(fields)} fields in {fields!r}",
                f"{num_fields}, separated by tabs",
            )
    by_image = {fields[0]: fields for fields in lines}
    if len(lines) != len(images) or by_image.keys() != set(images):
        odd = sorted(by_image.keys() ^ set(images)) or ["an image twice"]
        raise _departure(
            files, name, f"{len(lines)} lines ({odd[0]})", f"one for each of {len(images)} images"
        )
    return by_image


def _parse_box(files: _Files, name: str, fields: list[str]) -> tuple[int, ...]:
    x0, y0 = COORDINATES.get(fields[-4], -1), COORDINATES.get(fields[-3], -1)
    x1, y1 = COORDINATES.get(fields[-2], -1), COORDINATES.get(fields[-1], -1)
    if not (0 <= x0 <= x1 and 0 <= y0 <= y1):
        expected = f"x0 <= x1, y0 <= y1 in whole pixels 0..{IMAGE_SIZE - 1}"
        raise _departure(files, name, f"the box {' '.join(fields[-4:])} of {fields[0]}", expected)
    return x0, y0, x1, y1


COORDINATES = {str(pixel): pixel for pixel in range(IMAGE_SIZE)}


@dataclass(frozen=True)
class _Decode:
    """Decode a row of the listing; picklable, so that worker processes can."""

    source: _Files
    files: tuple[str, ...]
    fast: bool

    def __call__(self, row: int) -> npt.NDArray[np.uint8]:
        name = self.files[row]
        try:
            return decode_image(self.source.read(name), fast=self.fast)
        except (ValueError, OSError) as error:
            raise ValueError(f"{name}: {error}") from None


def decode_image(content: bytes, *, fast: bool = False) -> npt.NDArray[np.uint8]:
    """Decode a 64x64 JPEG to RGB (64, 64, 3); grayscale gives three equal channels. Raises
    ValueError.

    `fast` is by simplejpeg, three times as quick and bit-identical on all 120,000 published
    images; whatever it finds fault with is left to Pillow, so that both refuse the same files."""
    if len(content) > FILE_BYTES:
        raise ValueError(f"{len(content)} bytes, expected a small JPEG of at most {FILE_BYTES}")
    if fast:
        import simplejpeg

        with suppress(ValueError):
            if simplejpeg.decode_jpeg_header(content)[:2] == (IMAGE_SIZE, IMAGE_SIZE):
                pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "RGB", strict=True)
                return pixels
    try:
        with Image.open(BytesIO(content), formats=["JPEG"]) as image:
            if image.size != (IMAGE_SIZE, IMAGE_SIZE):  # before a pixel is decoded
                raise ValueError(
                    f"{image.width}x{image.height} pixels, expected {IMAGE_SIZE}x{IMAGE_SIZE}"
                )
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"no readable JPEG ({error})") from None


def has_fast_decoder() -> bool:
    """Tell whether simplejpeg is installed and $TINYSIGHT_DECODER does not ask for pillow."""
    return (
        os.environ.get("TINYSIGHT_DECODER") != "pillow"
        and importlib.util.find_spec("simplejpeg") is not None
    )


def _decoder_name() -> str:
    name = "simplejpeg" if has_fast_decoder() else "Pillow"
    return f"{name} {importlib.metadata.version(name)}"
