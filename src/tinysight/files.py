"""Durable writes, positional reads and writes, checksums, names of folders, the nearest known name.

Every call that only POSIX systems have is here, with a plain fallback for those that lack it.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

# By which a file is weights: those of others, and ours in addition.
FOREIGN_SUFFIXES = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"), "PyTorch or pickle"),
    **dict.fromkeys((".h5", ".keras", ".pb", ".tflite"), "Keras or TensorFlow"),
}
WEIGHTS_SUFFIXES = {".safetensors", ".onnx", *FOREIGN_SUFFIXES}
# What file systems without the operation answer: CIFS and some FUSE to fsync of a folder, others
# to fallocate. EIO stays an error.
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def expand(path: str | Path) -> Path:
    """Return a path with `~` expanded; raise ValueError where no home folder is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # a user without an entry, and no HOME, as in `docker run -u`
        raise ValueError(
            f"{path} is in a home folder, and none is known for this user; set HOME, or "
            "TINYSIGHT_DATA to a folder for datasets"
        ) from None


def folder_names(path: str | Path) -> tuple[str, str]:
    """Return the name that a folder or zip has as a dataset, and the one where that is taken."""
    root = expand(path).resolve()
    is_zip = root.suffix.lower() == ".zip" and not root.is_dir()
    stem = root.stem if is_zip else root.name
    name = re.sub(r"[^\w .+-]", "-", stem).strip(" .+-") or "images"
    return name, with_digits(name, root)


def with_digits(name: str, path: Path) -> str:
    """Add four digits of a path to the name of what it holds."""
    return f"{name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:4]}"


def write_durable(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it; an OSError names the file."""
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # a full disk does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file durably: after any interruption it holds either the old or the new content."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        write_durable(temporary, content)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:  # it names the file that was wanted
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Wait until the disk has a folder's entries, where the file system can tell."""
    if os.name != "posix":
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Read up to `length` bytes at `offset` without using the file's position, where possible."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


def write_at(descriptor: int, parts: Sequence[memoryview], offset: int) -> None:
    """Write `parts` one after the other at `offset`, without joining them first where possible."""
    length = sum(part.nbytes for part in parts)
    written = os.pwritev(descriptor, parts, offset) if hasattr(os, "pwritev") else 0
    if written == length:
        return
    rest = memoryview(b"".join(parts))[written:]
    while rest:
        if hasattr(os, "pwrite"):
            count = os.pwrite(descriptor, rest, offset + written)
        else:
            os.lseek(descriptor, offset + written, os.SEEK_SET)
            count = os.write(descriptor, rest)
        written, rest = written + count, rest[count:]


def reserve(descriptor: int, size: int) -> None:
    """Give a file `size` bytes; raise OSError (ENOSPC) now where the disk has too little room.

    A memory map of a file larger than the disk would die by SIGBUS later.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    if hasattr(os, "fstatvfs"):
        disk = os.fstatvfs(descriptor)
        if disk.f_bavail * disk.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.truncate(descriptor, size)


def suggest(name: str, known: Iterable[str], *, cutoff: float = 0.4) -> str:
    """Return "did you mean X?" for the nearest known name, else "there are X, Y, ..."."""
    known = list(known)
    if close := difflib.get_close_matches(name, known, n=1, cutoff=cutoff):
        return f"did you mean {close[0]}?"
    return f"there are {', '.join(known)}" if known else "there are none yet"
