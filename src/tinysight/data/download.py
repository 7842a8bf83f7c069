"""Fetch one file over a network that fails: resumed, checked, and under its name only when it is
whole and right.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import filelock

from tinysight.files import sync_folder

BLOCK_BYTES = 1 << 18
PASSING_STATUSES = (408, 425, 429)  # of the 4xx, those worth another attempt

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
    """Fetch `url` (http, https or file) into `target`, by way of `<target>.part` beside it; a no-op
    where it is there.

    A dropped connection is resumed where it broke, by range; after `attempts` in a row that
    brought nothing new, with pauses of `pause` seconds doubling in between, the error is raised,
    and the next call goes on from the part. A part of an earlier call is trusted only where a
    `sha256` checks the whole. `progress(done, total)` counts bytes, total 0 where unknown.
    Raises ValueError: bad URL, refused by the server, out of attempts, wrong size or hash, disk
    full."""
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ("http", "https", "file"):
        raise ValueError(
            f"cannot download {url!r}: expected an address that starts with http://, https:// or file://"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):  # a second process finds the work done
            part = target.with_name(f"{target.name}.part")
            if target.exists() and not _what_is_wrong(target, size, sha256):
                return
            trusted = sha256 is not None
            _fill(
                part,
                url,
                size,
                progress,
                trusted=trusted,
                attempts=attempts,
                pause=pause,
                timeout=timeout,
            )
            if wrong := _what_is_wrong(part, size, sha256):
                part.unlink()
                raise ValueError(
                    f"{url} is not the file that was expected: {wrong}; it was deleted"
                )
            _publish(part, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ValueError(
                f"the disk of {target.parent} is full; make room and call again: it goes on"
            ) from None
        raise ValueError(f"cannot write {target}: {error.strerror or error}") from None


class _DroppedError(Exception):
    """A connection that ended early or failed: worth another attempt."""


def _fill(
    part: Path,
    url: str,
    size: int | None,
    progress: Progress | None,
    *,
    trusted: bool,
    attempts: int,
    pause: float,
    timeout: float,
) -> None:
    """Bring the part to its full length, in as many connections as it takes.

    `trusted`: a hash will check the whole, so a part may be continued without the server's word
    (If-Range) that the file is still the same one."""
    validator = ""
    best = failures = 0
    while True:
        have = part.stat().st_size if part.exists() else 0
        if size is not None and have == size:
            return None
        if (size is not None and have > size) or not (trusted or validator):
            have = 0
        try:
            with _open(url, have, validator, timeout, part) as response:
                validator = _validator(response.headers)
                return _append(response, part, have, size, progress)
        except _DroppedError as error:
            length = part.stat().st_size if part.exists() else 0
            failures = 1 if length > best else failures + 1
            best = max(best, length)
            if failures >= attempts:
                raise ValueError(
                    f"cannot download {url} ({error}); call again to go on from {length} bytes"
                ) from None
            time.sleep(min(pause * 2 ** (failures - 1), 60.0))


def _append(
    response: Any, part: Path, have: int, size: int | None, progress: Progress | None
) -> None:
    """Write what one connection brings behind the first `have` bytes, or from the start where the
    range was ignored.
    """
    start = 0
    if getattr(response, "status", None) == 206:
        start = have
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise _DroppedError("the server sent another range than asked for")
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else size
    if size is not None and total != size:
        part.unlink(missing_ok=True)
        raise ValueError(
            f"{response.url} has {total} bytes, expected {size}: another file lies there"
        )
    done = start
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        while block := _receive(response):
            file.write(block)
            done += len(block)
            if total is not None and done > total:
                raise ValueError(f"{response.url} sent more than the {total} bytes it should have")
            if progress is not None:
                progress(done, total or 0)
    if total is not None and done < total:
        raise _DroppedError(f"it ended after {done} of {total} bytes")


def _validator(headers: Any) -> str:
    """Give what names this version of the file to the server: a strong ETag, else its date, else
    nothing.
    """
    tag = str(headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(headers.get("Last-Modified", ""))


def _receive(response: Any) -> bytes:
    try:
        return bytes(
            response.read1(BLOCK_BYTES)
            if hasattr(response, "read1")
            else response.read(BLOCK_BYTES)
        )
    except http.client.IncompleteRead as error:
        raise _DroppedError(f"it ended early: {_line(error)}") from None
    except (http.client.HTTPException, OSError) as error:
        raise _DroppedError(_line(error) or type(error).__name__) from None


def _open(url: str, have: int, validator: str, timeout: float, part: Path) -> Any:
    headers = {"User-Agent": "tinysight", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    try:
        return _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if (
            error.code == 416
        ):  # nothing behind what we have, and yet not whole: not a part of this file
            part.unlink(missing_ok=True)
            raise _DroppedError("the server has no such range") from None
        if 400 <= error.code < 500 and error.code not in PASSING_STATUSES:
            raise ValueError(
                f"cannot download {url}: the server answered {error.code} {_line(error.reason)}"
            ) from None
        raise _DroppedError(f"the server answered {error.code} {_line(error.reason)}") from None
    except (URLError, http.client.HTTPException, OSError) as error:
        if url.startswith("file:"):
            raise ValueError(
                f"cannot read {url}: {_line(getattr(error, 'reason', error))}"
            ) from None
        raise _DroppedError(
            _line(getattr(error, "reason", error)) or type(error).__name__
        ) from None


def _line(said: object) -> str:
    """Give what a library or a server said as one short printable line: it may hold anything."""
    return "".join(letter if letter.isprintable() else " " for letter in str(said)).strip()[:200]


def _opener() -> urllib.request.OpenerDirector:
    """Open http, https and file only; a redirect leads to the first two (so says its handler),
    never to a file.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.FileHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _what_is_wrong(path: Path, size: int | None, sha256: str | None) -> str:
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found} bytes, expected {size}"
    if sha256 is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            return f"its SHA-256 is {digest}, expected {sha256}"
    return ""


def _publish(part: Path, target: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(target)
    sync_folder(target.parent)
