"""Build a dataset: decode every row of a source once into one array, with a manifest.

A dataset appears under its name complete or not at all: everything is written to
`.<name>.tmp-<pid>/` next to it, made durable, and renamed. One lock per name lets a single process
write; leftovers of killed processes are removed under that lock.
"""

from __future__ import annotations

import dataclasses
import errno
import glob
import hashlib
import io
import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import filelock
import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import (
    FEW,
    HEADER_BYTES,
    SPLITS,
    Dataset,
    DatasetIndex,
    Progress,
    few,
    images_header,
    make_manifest,
    open_dataset,
)
from tinysight.data.decode import Message, decode_rows
from tinysight.files import read_at, reserve, sync_folder, write_at, write_durable
from tinysight.text import pluralize

logger = logging.getLogger("tinysight")

Bytes = npt.NDArray[np.uint8]
Decoded = tuple[Bytes, list[Message], list[Message]]
OnUnreadable = Literal["stop", "skip"]
_LEFT_OUT = re.compile(r"[\d,]+ unreadable images? left out")  # a note
_ARRAYS = ("labels", "boxes", "box_labels", "box_offsets")
_FILES = {f"{name}.npy" for name in ("images", "digests", *_ARRAYS)}
_FILES |= {"files.json", "manifest.json"}


class Source(Protocol):
    """Where a dataset comes from. It is pickled for worker processes, so keep it small."""

    @property
    def name(self) -> str:
        """Name of the dataset, and of its folder."""

    @property
    def origin(self) -> dict[str, Any]:
        """Kind, path, fingerprint, and settings if the same files can give different datasets."""

    @property
    def index(self) -> DatasetIndex:
        """Everything but the pixels. Read only when there is work to do, and only once."""

    def decode(self, row: int) -> Bytes:
        """Return uint8 (S, S, 3), or raise ValueError naming an unreadable file."""


def build(
    source: Source,
    *,
    home: Path,
    workers: int | None = None,
    on_unreadable: OnUnreadable = "stop",
    progress: Progress | None = None,
    replace: bool = False,
) -> Dataset:
    """Return the dataset `<home>/<name>`, built only if missing, damaged or its source changed.

    The same fingerprint and settings mean no work, unless images were left out as unreadable, the
    reason of which may be gone; else the same kind and path mean that the source changed, which is
    logged and built again; anything else is a ValueError, unless `replace`, which always builds.
    With "skip", unreadable rows are dropped and listed in the notes; with "stop" they are a
    ValueError that names the first few. `workers` are processes (default: all cores).
    """
    if on_unreadable not in ("stop", "skip"):
        raise ValueError(f"on_unreadable is {on_unreadable!r}, expected 'stop' or 'skip'")
    check_name(source.name)
    origin = source.origin
    with suppress(ValueError):  # without the lock, as a home may be read-only
        dataset = open_dataset(home / source.name)
        if not replace and _is_up_to_date(dataset, origin):
            return dataset
    with _lock(home, source.name):
        if (existing := _existing(home, source.name)) is not None:
            if not replace and _is_up_to_date(existing, origin):
                return existing
            _check_replaceable(existing, origin, replace)
        check_index(source.name, source.index)
        decode = partial(decode_rows, source.decode, workers=workers, progress=progress)
        return _write(source, origin, home, decode, on_unreadable == "skip")


def check_name(name: str) -> None:
    """Raise ValueError if a dataset cannot have this name: it becomes a folder."""
    if not re.fullmatch(r"\w[\w .+-]{0,99}", name) or name != name.strip():
        raise ValueError(f"a dataset cannot be named {name!r}; use letters, digits, . _ - + inside")


def check_index(name: str, index: DatasetIndex) -> None:
    """Raise ValueError if an index contradicts itself."""

    def require(holds: bool | np.bool_, what: str) -> None:
        if not holds:
            raise ValueError(f"the index of {name!r} is wrong: {what}")

    num, num_boxes, num_classes = len(index.files), len(index.boxes), len(index.class_names)
    require(index.image_size >= 1, f"image_size is {index.image_size}, expected at least 1")
    require(num >= 1, "it has no images")
    counts_match = num_classes >= 1 and len(index.class_ids) == num_classes
    require(counts_match, "class_names and class_ids differ in number")
    unique = {"class name": index.class_names, "class id": index.class_ids, "file": index.files}
    for title, names in unique.items():
        if len(set(names)) < len(names):
            repeated = Counter(names).most_common(1)[0][0]
            require(False, f"the {title} {repeated!r} is repeated")
    known = [split for split in SPLITS if split in index.splits]
    require(list(index.splits) == known, f"splits must be from {SPLITS}, in this order")
    edges = [0, *(edge for bounds in index.splits.values() for edge in bounds), num]
    adjacent = edges[::2] == edges[1::2] and edges == sorted(edges)
    require(adjacent, f"the splits {index.splits} do not cover rows 0 to {num} in order")
    for title, array, dtype, shape in (
        ("labels", index.labels, np.int64, (num,)),
        ("boxes", index.boxes, np.float32, (num_boxes, 4)),
        ("box_labels", index.box_labels, np.int64, (num_boxes,)),
        ("box_offsets", index.box_offsets, np.int64, (num + 1,)),
    ):
        fits = array.dtype == dtype and array.shape == shape
        require(fits, f"{title} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")
    for title, labels, least in (("labels", index.labels, -1), ("box_labels", index.box_labels, 0)):
        off = np.flatnonzero((labels < least) | (labels >= num_classes))[:1]
        expected = f"expected {least} to {num_classes - 1}"
        require(not off.size, f"{title}[{off}] is {labels[off]}, {expected}")
    offsets = index.box_offsets
    rising = offsets[0] == 0 and offsets[-1] == num_boxes and (np.diff(offsets) >= 0).all()
    require(rising, f"box_offsets must rise from 0 to {num_boxes}")
    low, high = index.boxes[:, :2], index.boxes[:, 2:]
    inside = ((low >= 0) & (high <= index.image_size) & (low < high)).all(axis=1)
    if not inside.all():  # also if one is not a number
        box = int(np.flatnonzero(~inside)[0])
        file = index.files[int(np.searchsorted(offsets, box, side="right")) - 1]
        values = index.boxes[box].tolist()
        require(False, f"box {values} of {file} is empty, inverted or outside the image")


def _is_up_to_date(dataset: Dataset, origin: dict[str, Any]) -> bool:
    return _same_origin(dataset.manifest["source"], origin) and not _is_incomplete(dataset)


def _same_origin(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return all(old.get(key) == new.get(key) for key in ("kind", "fingerprint", "settings"))


def _is_incomplete(dataset: Dataset) -> bool:
    return any(_LEFT_OUT.fullmatch(note) for note in dataset.notes)


def _check_replaceable(existing: Dataset, origin: dict[str, Any], replace: bool) -> None:
    old, what = existing.manifest["source"], ""
    if _same_origin(old, origin):
        what = "lacks images that could not be read" * _is_incomplete(existing) or "is replaced"
    elif (old.get("kind"), old.get("path")) == (origin["kind"], origin["path"]):
        same = old.get("fingerprint") == origin["fingerprint"]
        what = (
            "was prepared with other settings or labels"
            if same
            else "changed since it was prepared"
        )
    if what:
        logger.info("%s: %s; preparing it again", existing.name, what)
    elif not replace:
        was, now = (one.get("path") or one.get("kind") for one in (old, origin))
        raise ValueError(
            f"{existing.path} was made from another source ({was}, not {now}); "
            "choose another name, or replace it (--replace)"
        )


@contextmanager
def _lock(home: Path, name: str) -> Iterator[None]:
    """Hold the lock of a name, and clean up leftovers of killed processes."""
    lock = filelock.FileLock(home / f".{name}.lock")
    try:
        home.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            logger.info("another process is preparing %s; waiting for it", name)
            lock.acquire()
    except OSError as error:
        what = f"cannot write in {home} ({error.strerror})"
        raise ValueError(f"{what}; set TINYSIGHT_DATA to a folder you own") from None
    try:
        _clean_up(home, name)
        yield
    finally:
        lock.release()


def _clean_up(home: Path, name: str) -> None:
    """Finish or remove what a killed process left; the holder of the lock is the only one alive."""
    for entry in sorted(home.glob(f".{glob.escape(name)}.*")):
        rest = entry.name.removeprefix(f".{name}.")
        if re.fullmatch(r"old-\d+", rest) and not (home / name).exists():
            entry.rename(home / name)  # killed between its two renames
        elif re.fullmatch(r"(old|tmp)-\d+", rest):
            shutil.rmtree(entry)


def _existing(home: Path, name: str) -> Dataset | None:
    """Open the dataset of this name; None if there is none or it is damaged (and so replaceable).

    Raises ValueError if anything else has its place: only datasets are ever replaced.
    """
    place = home / name
    if not place.exists():
        return None
    _check_only_files_of_a_dataset(place)
    try:
        return open_dataset(place)
    except ValueError as error:
        logger.warning("%s: preparing it", error)
        return None


def _check_only_files_of_a_dataset(place: Path) -> None:
    entries = place.iterdir() if place.is_dir() and not place.is_symlink() else [place]
    if not all(entry.is_file() and entry.name in _FILES for entry in entries):
        raise ValueError(f"{place} exists and is not a dataset; choose another name or folder")


def _write(
    source: Source, origin: dict[str, Any], home: Path, decode: Callable[..., Decoded], skip: bool
) -> Dataset:
    """Write, check and publish; the lock is held and the index is checked."""
    folder = home / f".{source.name}.tmp-{os.getpid()}"
    try:
        folder.mkdir()
        index, digests = _write_images(folder / "images.npy", source.index, decode, skip)
        _write_rest(folder, source.name, index, origin, digests)
        open_dataset(folder)
        _publish(folder, home / source.name)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ValueError(
                f"{home} cannot hold a file as large as the images of {source.name}: its file "
                "system or a limit (ulimit -f) forbids it; set TINYSIGHT_DATA to another folder"
            ) from None
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise
        need = len(source.index.files) * source.index.image_size**2 * 3
        free = shutil.disk_usage(home).free
        raise ValueError(
            f"the disk of {home} is full: {source.name} needs about {need / 1e9:.2f} GB and "
            f"{free / 1e9:.2f} GB are free; make room or set TINYSIGHT_DATA to another disk"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return open_dataset(home / source.name)


def _write_images(
    path: Path, index: DatasetIndex, decode: Callable[..., Decoded], skip: bool
) -> tuple[DatasetIndex, Bytes]:
    """Write images.npy; return the index of the readable rows and their digests."""
    files, num, size = index.files, len(index.files), index.image_size
    row_bytes = size * size * 3
    with path.open("wb+", buffering=0) as file:
        reserve(file.fileno(), HEADER_BYTES + num * row_bytes)
        file.write(images_header(num, size))
        most = None if skip else FEW
        digests, failures, logged = decode(num, size, path, HEADER_BYTES, max_failures=most)
        if failures and not skip:
            reasons = few([why.removeprefix("cannot read ") for _, why in failures], "; ")
            raise ValueError(f"cannot read {reasons}; repair, remove or skip (--skip-unreadable)")
        if failures:
            if len(failures) == num:
                raise ValueError(
                    f"none of {pluralize(num, 'image')} is readable; the first: {failures[0][1]}"
                )
            keep = np.ones(num, bool)
            keep[[row for row, _ in failures]] = False
            _check_classes(index, keep, failures)
            notes = [f"{pluralize(len(failures), 'unreadable image')} left out"]
            notes += [f"left out: {_relative(files[row], why)}" for row, why in failures]
            index, digests = index.keep_rows(keep, tuple(notes)), digests[keep]
            _remove_rows(file.fileno(), keep, row_bytes)
            write_at(file.fileno(), [memoryview(images_header(len(digests), size))], 0)
        os.fsync(file.fileno())
    if logged:
        noted = [f"{pluralize(len(logged), 'image')} read with a warning"]
        noted += [_relative(files[row], why) for row, why in logged]
        index = dataclasses.replace(index, notes=index.notes + tuple(noted))
    return index, digests


def _relative(file: str, message: str) -> str:
    """Name a file in a message as the dataset does, wherever its source is."""
    return re.sub(rf"'[^']*{re.escape(file)}'", lambda _: repr(file), message)


def _check_classes(
    index: DatasetIndex, keep: npt.NDArray[np.bool_], failures: list[Message]
) -> None:
    """Raise ValueError where no image of a class is left to learn from."""
    rows = slice(*index.splits.get("train", (0, 0)))
    labels, kept = index.labels[rows], index.labels[rows][keep[rows]]
    if lost := sorted(set(labels[labels >= 0].tolist()) - set(kept.tolist())):
        reason = next(why for row, why in failures if index.labels[row] == lost[0])
        names = few(repr(index.class_names[label]) for label in lost)
        raise ValueError(f"no training image of class {names} is readable; the first: {reason}")


def _remove_rows(descriptor: int, keep: npt.NDArray[np.bool_], row_bytes: int) -> None:
    """Move the kept rows of images.npy together, in place and in order, and cut the file."""
    for target, row in enumerate(np.flatnonzero(keep)):
        if target != row:
            data = read_at(descriptor, row_bytes, HEADER_BYTES + int(row) * row_bytes)
            write_at(descriptor, [memoryview(data)], HEADER_BYTES + target * row_bytes)
    os.truncate(descriptor, HEADER_BYTES + int(keep.sum()) * row_bytes)


def _write_rest(
    folder: Path, name: str, index: DatasetIndex, origin: dict[str, Any], digests: Bytes
) -> None:
    """Write every small file, the manifest last, each durable; then the folder itself."""
    arrays = {array: getattr(index, array) for array in _ARRAYS} | {"digests": digests}
    contents = {f"{file}.npy": _npy(array) for file, array in arrays.items()}
    files = json.dumps(index.files, ensure_ascii=False, separators=(",\n", ":"))
    contents["files.json"] = files.encode()
    checksums = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    duplicates = find_duplicates(index, digests)
    index = dataclasses.replace(index, notes=index.notes + tuple(_duplicate_notes(duplicates)))
    manifest = make_manifest(name, index, origin, checksums, duplicates)
    text = json.dumps(manifest, ensure_ascii=False, indent=1)
    # a folder's name may have bytes that are not UTF-8: as JSON escapes
    contents["manifest.json"] = text.encode("utf-8", "backslashreplace")
    for file, content in contents.items():
        write_durable(folder / file, content)
    sync_folder(folder)


def _npy(array: npt.NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def find_duplicates(index: DatasetIndex, digests: Bytes) -> list[dict[str, list[Any]]]:
    """Group images of identical pixels with different labels or in different splits.

    Each group is {"files", "labels" (class ids, None for unlabeled), "splits"}, in row order.
    """
    keys = digests.view("<u8")[:, 0]  # 8 of 32 bytes to sort by; the full digest decides
    values, counts = np.unique(keys, return_counts=True)
    groups: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(np.isin(keys, values[counts > 1])):
        groups.setdefault(digests[row].tobytes(), []).append(int(row))
    found: list[dict[str, list[Any]]] = []
    for rows in groups.values():
        labels = [int(index.labels[row]) for row in rows]
        splits = [next(s for s, bounds in index.splits.items() if row < bounds[1]) for row in rows]
        if len(set(labels) - {-1}) > 1 or len(set(splits)) > 1:
            ids = [index.class_ids[label] if label >= 0 else None for label in labels]
            files = [index.files[row] for row in rows]
            found.append({"files": files, "labels": ids, "splits": splits})
    return found


def _duplicate_notes(duplicates: list[dict[str, list[Any]]]) -> Iterator[str]:
    conflicts = sum(len(set(group["labels"]) - {None}) > 1 for group in duplicates)
    across = sum(len(set(group["splits"])) > 1 for group in duplicates)
    for count, fault in ((conflicts, "with different labels"), (across, "in several splits")):
        if count:
            yield f"{pluralize(count, 'group')} of identical images {fault} (manifest: duplicates)"


def find_removable(name: str, home: Path) -> Path:
    """Return the folder of a prepared dataset, damaged or not; ValueError for anything else."""
    check_name(name)
    if not (home / name / "manifest.json").is_file():
        open_dataset(name, home=home)  # raises, and names the nearest
    _check_only_files_of_a_dataset(home / name)
    return home / name


def remove_dataset(name: str, home: Path) -> None:
    """Delete a prepared dataset and features of it; ValueError as in `find_removable`."""
    with _lock(home, name):
        with suppress(ValueError):  # damaged
            kept = features_folder(home, open_dataset(name, home=home).digest)
            shutil.rmtree(kept, ignore_errors=True)
        hidden = home / f".{name}.tmp-{os.getpid()}"  # a killed removal is finished by the next
        find_removable(name, home).rename(hidden)
        shutil.rmtree(hidden)


def features_folder(home: Path, digest: str) -> Path:
    """Return where features of a dataset's images are kept, by its digest."""
    return home / ".features" / digest[:32]


def _publish(folder: Path, target: Path) -> None:
    """Rename the finished folder; an older dataset is moved away first, then removed."""
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        target.rename(old)
    folder.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
