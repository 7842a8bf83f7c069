"""Decode once into one uint8 array with a manifest; see docs/architecture.md for the files of a
pack.

A pack appears under its name whole or not at all: everything is written to `.<name>.tmp-<pid>/`
beside it, made durable, and renamed. One lock a name lets a single process write; what killed
processes left goes away under that lock."""

from __future__ import annotations

import dataclasses
import errno
import glob
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import filelock
import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import (
    FORMAT,
    HEADER_BYTES,
    Dataset,
    data_home,
    images_header,
    list_datasets,
    manifest_digest,
    open_dataset,
    source_fingerprint,
)
from tinysight.data.decoding import Decode, Progress, decode_rows
from tinysight.data.index import (
    SPLITS,
    DatasetIndex,
    check_index,
    check_name,
    duplicate_notes,
    find_duplicates,
    without_rows,
)
from tinysight.files import read_at, reserve, sync_folder, write_at, write_durable

__all__ = [
    "SPLITS",
    "Dataset",
    "DatasetIndex",
    "Decode",
    "Progress",
    "Say",
    "data_home",
    "list_datasets",
    "open_dataset",
    "prepare",
    "source_fingerprint",
    "write_pack",
]

PACK_FILES = frozenset(
    f"{name}.npy" for name in ("images", "labels", "boxes", "box_labels", "box_offsets", "digests")
) | {"files.json", "manifest.json"}
FEW = 5  # culprits named in one line
Say = Callable[[str], None]
OnUnreadable = Literal["stop", "skip"]


def write_pack(
    listing: DatasetIndex,
    decode: Decode,
    *,
    home: Path,
    workers: int | None = None,
    on_unreadable: OnUnreadable = "stop",
    progress: Progress | None = None,
) -> Dataset:
    """Decode every row once and publish the pack as `<home>/<name>`, in place of any of that name.

    `decode(row)` gives uint8 (S, S, 3) or raises ValueError naming the file; it must be
    picklable. With "skip" such rows are left out and listed in the notes; with "stop" they are a
    ValueError that names the first few. `workers` are processes (default: all cores). Raises
    ValueError also for a listing that contradicts itself and for a full disk."""
    check_index(listing)
    with _lock(home, listing.name, None) as waited:
        made = _existing(home, listing.name)
        if waited and made is not None and _same_source(made, listing.source):
            return made  # another process did this very work while we waited
        return _write(listing, decode, home, workers, on_unreadable, progress)


def prepare(
    name: str,
    make_listing: Callable[[], tuple[DatasetIndex, Decode]],
    source: dict[str, Any],
    *,
    home: Path,
    workers: int | None = None,
    on_unreadable: OnUnreadable = "stop",
    progress: Progress | None = None,
    replace: bool = False,
    say: Say | None = None,
) -> Dataset:
    """Give the pack of this name and source, and make it only where it is missing, damaged or its
    source has changed.

    `source` (kind, path, fingerprint, settings) decides: the same fingerprint and settings mean
    no work; else the same kind and path mean that the source changed, which is said and prepared
    anew; anything else is a ValueError, unless `replace`. `make_listing` runs only where there
    is work to do."""
    say = say or _say_nothing
    check_name(name)
    with _lock(home, name, say):
        made = _existing(home, name, say)
        if made is not None and _same_source(made, source):
            return made
        if made is not None:
            old = made.manifest["source"]
            if (old.get("kind"), old.get("path")) == (source["kind"], source["path"]):
                say(
                    f"{name}: its source or settings have changed since it was prepared; preparing it anew"
                )
            elif not replace:
                raise ValueError(
                    f"{home / name} was made from another source ({_describe(old)}, not {_describe(source)}); "
                    "choose another name, or replace it (--replace)"
                )
        listing, decode = make_listing()
        listing = dataclasses.replace(listing, source=source)
        if listing.name != name:
            raise ValueError(f"the listing is named {listing.name!r}, expected {name!r}")
        check_index(listing)
        return _write(listing, decode, home, workers, on_unreadable, progress)


def _say_nothing(line: str) -> None:
    pass


def _describe(source: dict[str, Any]) -> str:
    return str(source.get("path") or source.get("kind"))


def _same_source(pack: Dataset, source: dict[str, Any]) -> bool:
    old = pack.manifest["source"]
    return all(old.get(key) == source.get(key) for key in ("kind", "fingerprint", "settings"))


@contextmanager
def _lock(home: Path, name: str, say: Say | None) -> Iterator[bool]:
    """Hold the one lock of a name; give whether another process had it. Cleans up what dead
    processes left.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(home / f".{name}.lock")
        waited = False
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            waited = True
            if say is not None:
                say(f"another process is preparing {name}; waiting for it")
            lock.acquire()
    except OSError as error:
        raise ValueError(
            f"cannot write in {home} ({error.strerror}); set TINYSIGHT_DATA to a folder you own"
        ) from None
    try:
        _clean_up(home, name)
        yield waited
    finally:
        lock.release()


def _clean_up(home: Path, name: str) -> None:
    """Finish what a process left that died in the middle; whoever holds the lock is the only one
    alive.
    """
    for entry in sorted(home.glob(f".{glob.escape(name)}.*")):
        rest = entry.name.removeprefix(f".{name}.")
        if re.fullmatch(r"old-\d+", rest) and not (home / name).exists():
            entry.rename(home / name)  # died between its two renames
        elif re.fullmatch(r"(old|tmp)-\d+", rest):
            shutil.rmtree(entry)


def _existing(home: Path, name: str, say: Say | None = None) -> Dataset | None:
    """Open the pack of this name; None when there is none or it is damaged, and so may be replaced.

    Raises ValueError when something else has the place: nothing but a pack is ever replaced.
    """
    place = home / name
    if not place.exists():
        return None
    if not _is_pack(place):
        raise ValueError(
            f"{place} exists and is no pack; choose another name, or set TINYSIGHT_DATA to another folder"
        )
    try:
        return open_dataset(place)
    except ValueError as error:
        if say is not None:
            say(f"{error}: doing so")
        return None


def _is_pack(place: Path) -> bool:
    """Whether a folder has a pack's files, whole or not, and nothing else: then it is ours to
    replace.
    """
    return place.is_dir() and all(
        entry.is_file() and entry.name in PACK_FILES for entry in place.iterdir()
    )


def _write(
    listing: DatasetIndex,
    decode: Decode,
    home: Path,
    workers: int | None,
    on_unreadable: OnUnreadable,
    progress: Progress | None,
) -> Dataset:
    """Write, check and publish; the lock is held and the listing is checked."""
    if on_unreadable not in ("stop", "skip"):
        raise ValueError(f"on_unreadable is {on_unreadable!r}, expected 'stop' or 'skip'")
    folder = home / f".{listing.name}.tmp-{os.getpid()}"
    try:
        folder.mkdir()
        listing, digests = _write_images(folder, listing, decode, workers, on_unreadable, progress)
        _write_rest(folder, listing, digests)
        open_dataset(folder)
        _publish(folder, home / listing.name)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        need = len(listing.files) * _row_bytes(listing)
        raise ValueError(
            f"the disk of {home} is full: {listing.name} needs about {need / 1e9:.2f} GB and "
            f"{shutil.disk_usage(home).free / 1e9:.2f} GB are free; make room or set TINYSIGHT_DATA to another disk"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return open_dataset(home / listing.name)


def _row_bytes(listing: DatasetIndex) -> int:
    return listing.image_size**2 * 3


def _write_images(
    folder: Path,
    listing: DatasetIndex,
    decode: Decode,
    workers: int | None,
    on_unreadable: OnUnreadable,
    progress: Progress | None,
) -> tuple[DatasetIndex, npt.NDArray[np.uint8]]:
    path = folder / "images.npy"
    num, row_bytes = len(listing.files), _row_bytes(listing)
    with path.open("wb+", buffering=0) as file:
        reserve(file.fileno(), HEADER_BYTES + num * row_bytes)
        file.write(images_header(num, listing.image_size))
        digests, failures = decode_rows(
            decode,
            num,
            listing.image_size,
            path,
            HEADER_BYTES,
            workers=workers,
            max_failures=FEW if on_unreadable == "stop" else None,
            progress=progress,
        )
        if failures and on_unreadable == "stop":
            raise ValueError(
                f"cannot read {_few([why.removeprefix('cannot read ') for _, why in failures])}; "
                "mend or remove them, or --skip-unreadable"
            )
        if failures:
            keep = np.ones(num, bool)
            keep[[row for row, _ in failures]] = False
            listing, digests = without_rows(listing, keep, failures), digests[keep]
            _squeeze(file.fileno(), keep, row_bytes)
            header = images_header(len(digests), listing.image_size)
            write_at(file.fileno(), [memoryview(header)], 0)
        os.fsync(file.fileno())
    return listing, digests


def _few(names: list[str]) -> str:
    return "; ".join(names[:FEW]) + (f"; and {len(names) - FEW} more" if len(names) > FEW else "")


def _squeeze(descriptor: int, keep: npt.NDArray[np.bool_], row_bytes: int) -> None:
    """Move the kept rows of images.npy together, in place and in order, and cut the file behind
    them.
    """
    for target, row in enumerate(np.flatnonzero(keep)):
        if target != row:
            data = read_at(descriptor, row_bytes, HEADER_BYTES + int(row) * row_bytes)
            write_at(descriptor, [memoryview(data)], HEADER_BYTES + target * row_bytes)
    os.truncate(descriptor, HEADER_BYTES + int(keep.sum()) * row_bytes)


def _write_rest(folder: Path, listing: DatasetIndex, digests: npt.NDArray[np.uint8]) -> None:
    """Write every small file, the manifest last, each durable; then the folder itself."""
    contents = {
        "labels.npy": _npy(listing.labels),
        "boxes.npy": _npy(listing.boxes),
        "box_labels.npy": _npy(listing.box_labels),
        "box_offsets.npy": _npy(listing.box_offsets),
        "digests.npy": _npy(digests),
        "files.json": json.dumps(
            listing.files, ensure_ascii=False, separators=(",\n", ":")
        ).encode(),
    }
    duplicates = find_duplicates(listing, digests)
    manifest = {
        "format": FORMAT,
        "name": listing.name,
        "image_size": listing.image_size,
        "num_images": len(digests),
        "num_boxes": len(listing.boxes),
        "class_names": list(listing.class_names),
        "class_ids": list(listing.class_ids),
        "splits": {name: list(bounds) for name, bounds in listing.splits.items()},
        "sha256": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
        "source": listing.source,
        "notes": [*listing.notes, *duplicate_notes(duplicates)],
        "duplicates": duplicates,
        "extra": listing.extra,
    }
    manifest["digest"] = manifest_digest(manifest)
    for file, content in contents.items():
        write_durable(folder / file, content)
    write_durable(
        folder / "manifest.json", json.dumps(manifest, ensure_ascii=False, indent=1).encode()
    )
    sync_folder(folder)


def _npy(array: npt.NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def _publish(folder: Path, target: Path) -> None:
    """Rename the finished folder to its name; an older pack of that name steps aside first and is
    then removed.
    """
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        target.rename(old)
    folder.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
