"""Download one file over an unreliable network: resumed, checked, and atomic."""

from __future__ import annotations

import errno
import http.client
import os
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import filelock

from tinysight import files

_BLOCK_BYTES = 1 << 18
_TEMPORARY = (408, 425, 429)  # of the 4xx statuses, those worth another attempt

Progress = Callable[[int, int], None]


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
    attempts: int = 6,
    pause: float = 1.0,
    timeout: float = 30.0,
) -> None:
    """Fetch `url` (http, https or file) into `target` by way of `<target>.part`, unless it exists.

    A dropped connection is resumed by a range request; after `attempts` in a row without new data,
    with doubling pauses between them, it is a ValueError, and the next call resumes the part. A
    part of an earlier call is used only if a `sha256` checks the result. `progress(done, total)`
    counts bytes, total 0 if unknown. Raises ValueError: bad URL, refused by the server, out of
    attempts, wrong size or hash, disk full.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        expected = "an address that starts with http://, https:// or file://"
        raise ValueError(f"cannot download {url!r}: expected {expected}")
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):  # a second process finds the work done
            if target.exists() and not _fault(target, size, sha256):
                return
            if sha256 is None:
                part.unlink(missing_ok=True)
            _fetch(url, part, size, sha256 is not None, progress, attempts, pause, timeout)
            if fault := _fault(part, size, sha256):
                part.unlink()
                raise ValueError(f"{url} is not the expected file: {fault}; it was deleted")
            _publish(part, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            what = f"the disk of {target.parent} is full"
            raise ValueError(f"{what}; make room and call again to resume") from None
        raise ValueError(f"cannot write {target}: {error.strerror or error}") from None


class _DroppedError(Exception):
    """A connection failed in a way worth another attempt, from the start if `restart`."""

    def __init__(self, reason: object, *, restart: bool = False) -> None:
        super().__init__(_line(reason))
        self.restart = restart


def _fetch(
    url: str,
    part: Path,
    size: int | None,
    checked: bool,
    progress: Progress | None,
    attempts: int,
    pause: float,
    timeout: float,
) -> None:
    """Complete the part, in as many connections as needed.

    If a hash will check the result (`checked`), a part is resumed unconditionally; otherwise only
    within this call, if the server confirms the version (If-Range).
    """
    version = ""
    best = failures = 0
    while True:
        have = _length(part)
        if have == size:
            return
        if (size is not None and have > size) or not (checked or version):
            have = 0
        try:
            with _open(url, have, version, timeout) as response:
                tag = str(response.headers.get("ETag", ""))
                dated = str(response.headers.get("Last-Modified", ""))
                version = tag if tag and not tag.startswith("W/") else dated  # strong tags only
                _append(response, part, have, size, progress)
            return
        except _DroppedError as error:
            if error.restart:
                part.unlink(missing_ok=True)
            failures = 1 if _length(part) > best else failures + 1
            best = max(best, _length(part))
            if failures >= attempts:
                hint = f"call again to resume at {_length(part)} bytes" if checked else "try later"
                raise ValueError(f"cannot download {url} ({error}); {hint}") from None
            time.sleep(min(pause * 2 ** (failures - 1), 60.0))


def _open(url: str, have: int, version: str, timeout: float) -> Any:
    """Request the file from byte `have` on."""
    headers = {"User-Agent": "tinysight", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if version:
            headers["If-Range"] = version
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        answer = f"the server answered {error.code} {_line(error.reason)}"
        if error.code == 416:  # no bytes beyond what we have: not a part of this file
            raise _DroppedError(answer, restart=True) from None
        if 400 <= error.code < 500 and error.code not in _TEMPORARY:
            raise ValueError(f"cannot download {url}: {answer}") from None
        raise _DroppedError(answer) from None
    except (http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        if url.startswith("file:"):
            raise ValueError(f"cannot read {url}: {_line(reason)}") from None
        raise _DroppedError(reason) from None


def _append(
    response: Any, part: Path, have: int, size: int | None, progress: Progress | None
) -> None:
    """Write a response after the first `have` bytes, or from the start if the range was ignored."""
    start = 0
    if getattr(response, "status", None) == 206:
        start = have
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise _DroppedError("the server sent another range than requested", restart=True)
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else size
    if size is not None and total != size:
        part.unlink(missing_ok=True)
        raise ValueError(f"{response.url} has {total} bytes, expected {size}: it is another file")
    done = start
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        while block := _receive(getattr(response, "read1", response.read)):
            file.write(block)
            done += len(block)
            if total is not None and done > total:
                raise ValueError(f"{response.url} sent more than its {total} bytes")
            if progress is not None:
                progress(done, total or 0)
    if total is not None and done < total:
        raise _DroppedError(f"it ended after {done} of {total} bytes")


def _receive(read: Callable[[int], bytes]) -> bytes:
    try:
        return read(_BLOCK_BYTES)
    except (http.client.HTTPException, OSError) as error:
        raise _DroppedError(str(error) or type(error).__name__) from None


def _line(text: object) -> str:
    """Return what a library or a server sent as one short printable line."""
    return "".join(c if c.isprintable() else " " for c in str(text)).strip()[:200]


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fault(path: Path, size: int | None, sha256: str | None) -> str:
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found} bytes, expected {size}"
    if sha256 is not None and (digest := files.sha256(path)) != sha256:
        return f"its SHA-256 is {digest}, expected {sha256}"
    return ""


def _publish(part: Path, target: Path) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    files.sync_folder(target.parent)
