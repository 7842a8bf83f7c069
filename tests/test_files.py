"""Durable writes and positional I/O, also without the calls that only POSIX systems have."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tinysight import files
from tinysight.data.dataset import data_home

POSIX_ONLY = ("pread", "pwrite", "pwritev", "posix_fallocate", "fstatvfs")


@pytest.fixture(params=["posix", "plain"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take the POSIX calls away for the plain system."""
    if request.param == "plain":
        for name in POSIX_ONLY:
            monkeypatch.delattr(os, name, raising=False)
        monkeypatch.setattr(files.os, "name", "nt")
    return str(request.param)


def refuse(code: int) -> object:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.usefixtures("system")
def test_positional_reads_and_writes(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        files.reserve(descriptor, 12)
        assert os.fstat(descriptor).st_size == 12
        files.write_at(descriptor, [memoryview(b"cd"), memoryview(b"efg")], 2)
        files.write_at(descriptor, [memoryview(b"ab")], 0)
        assert files.read_at(descriptor, 4, 3) == b"defg"
        assert files.read_at(descriptor, 100, 0) == b"abcdefg" + bytes(5)
    finally:
        os.close(descriptor)


def test_a_partial_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(descriptor: int, parts: list[memoryview], offset: int) -> int:
        return os.pwrite(descriptor, bytes(parts[0])[:2], offset)

    monkeypatch.setattr(os, "pwritev", short, raising=False)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        files.write_at(descriptor, [memoryview(b"abc"), memoryview(b"def")], 1)
        assert files.read_at(descriptor, 9, 0) == b"\0abcdef"
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("system")
def test_write_atomic_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"old", b"new"):
        files.write_atomic(path, content)
        assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert files.sha256(path) == "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"


def test_a_failed_write_keeps_the_old_file_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, b"old")
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="space left") as error:
        files.write_atomic(path, b"new")
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("code", "stops"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_a_folder_is_accepted_but_not_a_broken_disk(
    code: int, stops: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refuse(code))
    if stops:
        with pytest.raises(OSError, match=os.strerror(code)):
            files.sync_folder(tmp_path)
    else:
        files.sync_folder(tmp_path)


def test_a_full_disk_is_found_before_the_memory_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            files.reserve(descriptor, 2**62)
        assert os.fstat(descriptor).st_size == 0
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("resnett", ["resnet", "vgg"], "did you mean resnet?"),
        ("x", ["resnet", "vgg"], "there are resnet, vgg"),
        ("x", [], "there are none yet"),
    ],
)
def test_suggest(name: str, known: list[str], hint: str) -> None:
    assert files.suggest(name, known) == hint


def test_a_user_without_a_home_folder_reads_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.expand("~/pets") == Path.home() / "pets"
    monkeypatch.setattr("posixpath.expanduser", lambda path: path)  # no HOME, no entry
    for name in ("TINYSIGHT_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert files.expand("pets") == Path("pets")
    with pytest.raises(ValueError, match="set HOME, or TINYSIGHT_DATA"):
        data_home()


def test_every_path_of_a_user_is_expanded_in_one_place() -> None:
    sources = (Path(files.__file__).parent).rglob("*.py")
    assert [path.name for path in sources if ".expanduser(" in path.read_text()] == ["files.py"]
