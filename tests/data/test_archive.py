"""Zips: what zipfile reads is read the same; what is hostile or damaged is refused by name."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tinysight.data.archive import Archive, Limits

LIMITS = Limits(members=50, member_bytes=10_000, total_bytes=20_000)
TEXT = b"all work and no play " * 30


@dataclass
class Entry:
    """A member as a forger would write it: the two headers may differ from the content."""

    name: bytes = b"a.txt"
    content: bytes = TEXT
    method: int = 0
    central: dict[str, Any] = field(default_factory=dict)  # overrides of the directory's entry
    local: dict[str, Any] = field(default_factory=dict)  # overrides of the local header
    extra: bytes = b""


def deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def forge(
    *entries: Entry, end: dict[str, int] | None = None, comment: bytes = b"", behind: bytes = b""
) -> bytes:
    """Write a zip by hand."""
    body, directory = io.BytesIO(), io.BytesIO()
    for entry in entries:
        packed = deflate(entry.content) if entry.method == 8 else entry.content
        facts = {
            "system": 3,
            "flags": 0,
            "method": entry.method,
            "crc": zlib.crc32(entry.content),
            "packed": len(packed),
            "size": len(entry.content),
            "name": entry.name,
            "disk": 0,
            "mode": stat.S_IFREG | 0o644,
            "offset": body.tell(),
        }
        c = facts | entry.central
        body.write(_local_header(facts | entry.local) + packed)
        numbers = [20, c["system"], 20, c["flags"], c["method"], 0, 0, c["crc"], c["packed"]]
        numbers += [c["size"], len(c["name"]), len(entry.extra), 0, c["disk"], 0, c["mode"] << 16]
        header = struct.pack("<4sBBHHHHHLLLHHHHHLL", b"PK\1\2", *numbers, c["offset"])
        directory.write(header + c["name"] + entry.extra)
    e = {"disk": 0, "start_disk": 0, "here": len(entries), "count": len(entries)}
    e |= {"size": directory.tell(), "start": body.tell()} | (end or {})
    counts = [e["disk"], e["start_disk"], e["here"] & 0xFFFF, e["count"] & 0xFFFF]
    record = struct.pack("<4s4H2LH", b"PK\5\6", *counts, e["size"], e["start"], len(comment))
    return body.getvalue() + directory.getvalue() + record + comment + behind


def _local_header(facts: dict[str, Any]) -> bytes:
    numbers = [20, facts["flags"], facts["method"], 0, 0, facts["crc"], facts["packed"]]
    numbers += [facts["size"], len(facts["name"]), 0]
    return struct.pack("<4sHHHHHLLLHH", b"PK\3\4", *numbers) + facts["name"]


def central(**changes: Any) -> bytes:
    return forge(Entry(b"first"), Entry(central=changes), Entry(b"last"))


def twice(name: bytes) -> bytes:
    return forge(Entry(name), Entry(b"b"), Entry(name))


def plain(method: int = 8) -> bytes:
    return forge(
        Entry(b"top/a", TEXT, method),
        Entry(b"top/b", b"", method),
        Entry(b"top/c", os.urandom(99), method),
    )


def bad_name(name: bytes) -> tuple[bytes, str]:
    return forge(Entry(b"good"), Entry(name)), "the name .* (is absolute|has '..'|is empty)"


def fifield_bomb() -> bytes:
    """Ten members that all unpack the same bytes."""
    same = {"offset": 0, "packed": len(deflate(TEXT)), "size": len(TEXT)}
    same |= {"method": 8, "crc": zlib.crc32(TEXT)}
    others = (Entry(b"k%d" % number, b"", central=same) for number in range(9))
    return forge(Entry(b"kernel", TEXT, 8), *others)


def russian_doll() -> bytes:
    """A member inside the bytes of another."""
    inner = _local_header({"flags": 0, "method": 0, "crc": 0, "packed": 0, "size": 0, "name": b"b"})
    return forge(Entry(b"a", inner), Entry(b"b", b"", central={"offset": 31}))


def unfinished() -> bytes:
    cut = deflate(TEXT)[:-3]
    return forge(Entry(content=cut, central={"method": 8, "size": len(TEXT)}, local={"method": 8}))


CUT = struct.pack("<HH", 1, 24)
HUGE = struct.pack("<HHQ", 1, 8, (1 << 64) - 1)
ZIP64_SIZE = struct.pack("<HHQ", 1, 8, 1 << 40)
BOMB = bytes(1_000_000)
HOSTILE: dict[str, tuple[bytes, str]] = {
    **{f"name {name!r}": bad_name(name) for name in (
        b"/etc/passwd", b"../evil", b"a/../../evil", b"a/..", b"..", b"a\\..\\evil",
         b"\\\\host\\share", b"C:/evil",
        b"c:evil", b"./a", b"a/./b", b"a//b", b"//a", b"a//", b"", b"a\0b", b"a\nb", b"\x1b[2J",
         b"/",
    )},
    **{f"a {kind:o}": (central(mode=kind | 0o777), "link or a device") for kind in (
        stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)},
    "file marked as a folder": (central(mode=stat.S_IFDIR | 0o755), "both as a folder and"),
    "folder with content": (forge(Entry(b"a/", b"x")), "both as a folder and"),
    "duplicate": (twice(b"a"), "'a' is in it twice"),
    "duplicate folder": (forge(Entry(b"a/", b""), Entry(b"a/", b"")), "'a/' is in it twice"),
    **{f"flags {flags:#x}": (central(flags=flags),
     "encrypted or a patch") for flags in (0x1, 0x20, 0x41, 0x2000)},
    **{f"method {method}": (central(method=method),
     f"method {method}, expected") for method in (1, 9, 12, 14, 93, 99)},
    "stored, sizes differ": (central(size=1), "impossible sizes"),
    "stored, smaller than it says": (central(packed=1), "impossible sizes"),
    "more than deflate gives": (forge(Entry(method=8, central={"packed": 2, "size": 9_000})),
     "impossible sizes"),
    "on another disk": (central(disk=3), "is in another part"),
    "zip64 size": (forge(Entry(extra=ZIP64_SIZE, central={"size": 0xFFFFFFFF, "method": 8})),
     "impossible sizes"),
    "zip64 size past counting": (forge(Entry(extra=HUGE, central={"size": 0xFFFFFFFF,
     "method": 8})), "impossible"),
    "zip64 size, none given": (central(size=0xFFFFFFFF), "impossible sizes"),
    "zip64 size, cut": (forge(Entry(extra=CUT, central={"packed": 0xFFFFFFFF})),
     "Corrupt extra field"),
    "too large": (forge(Entry(content=bytes(10_001), method=8)),
     "unpacks to 10001 bytes, at most 10000"),
    "too large in all": (forge(*(Entry(b"%d" % i, bytes(9_000), 8) for i in range(3))),
     "more than 20000 bytes"),
    "too many": (forge(*(Entry(b"%d" % i, b"") for i in range(51))), "more than 50 members"),
    "all the same bytes": (fifield_bomb(), "overlaps"),
    "one inside another": (russian_doll(), "overlaps"),
    "into the directory": (central(offset=3_000), "overlaps"),
    "behind the end": (central(offset=0xFFFFFFF0), "overlaps"),
    "not UTF-8": (central(flags=0x800, name=b"\xff\xfe"), "not a usable zip"),
    "several parts": (forge(Entry(), end={"disk": 1}), "several parts"),
    "too few stated": (forge(Entry(), Entry(b"b"), end={"count": 1}),
     "it has 2 members, its end record states 1"),
    "too many stated": (forge(Entry(b"a"), end={"count": 9}),
     "it has 1 members, its end record states 9"),
    "directory too short": (forge(Entry(), end={"size": 20}), "Truncated central directory"),
    "directory elsewhere": (forge(Entry(), end={"start": 0}), "right before its end"),
    "directory beyond": (forge(Entry(), end={"start": 0xFFFFFFFE}), "right before its end"),
    "bytes behind": (forge(Entry(), behind=b"#!/bin/sh"), "end record is not at its end"),
    "bytes before": (b"#!/bin/sh\n" + forge(Entry()), "right before its end"),
    "empty": (b"", "cut short, or another kind of file"),
    "text": (b"<html>404</html>", "cut short, or another kind of file"),
    "end record only, lying": (struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 5, 5, 46, 0, 0),
     "Bad offset"),
    "lies about its name": (plain().replace(b"top/a", b"TOP/a", 1),
     "read: local header contradicts"),
    "lies about its method": (forge(Entry(local={"method": 8})), "read: local header contradicts"),
    "encrypted inside": (forge(Entry(local={"flags": 1})), "read: local header contradicts"),
    "no local header": (forge(Entry()).replace(b"PK\3\4", b"PK\3\3"),
     "read: does not start with a local header"),
    "wrong checksum": (central(crc=7), "read: checksum differs"),
    "wrong bytes": (forge(Entry()).replace(b"play", b"prey"), "read: checksum differs"),
    "bomb, small": (forge(Entry(content=BOMB, method=8, central={"size": 100})),
     "read: not unpack to 100 bytes"),
    "bomb, empty": (forge(Entry(content=BOMB, method=8, central={"size": 0})),
     "read: not unpack to 0 bytes"),
    "called larger": (forge(Entry(method=8, central={"size": 631})),
     "read: not unpack to 631 bytes"),
    "no deflate stream": (forge(Entry(local={"method": 8}, central={"method": 8})),
     "read: (Error|invalid)"),
    "unfinished stream": (unfinished(), "read: not unpack to 630 bytes"),
}  # fmt: skip


def test_there_are_enough_hostile_archives() -> None:
    assert len(HOSTILE) >= 60


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused_by_name(tmp_path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    path = tmp_path / "in" / "evil.zip"
    path.parent.mkdir()
    path.write_bytes(content)
    if message.startswith("read: "):
        archive = Archive(path, LIMITS)
        with pytest.raises(
            ValueError, match="evil.zip: .* is damaged: .*" + message.removeprefix("read: ")
        ):
            for name in archive.names:
                archive.read(name)
    else:
        with pytest.raises(ValueError, match=re.compile(message)) as caught:
            Archive(path, LIMITS)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == [path.parent, path]  # and nothing came out


def test_a_bomb_is_not_inflated_further_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.zip"
    path.write_bytes(forge(Entry(content=BOMB, method=8, central={"size": 1000})))
    asked: list[int] = []
    real = zlib.decompressobj

    class Watching:
        def __init__(self, bits: int) -> None:
            self.inner = real(bits)

        def decompress(self, data: bytes, most: int) -> bytes:
            asked.append(most)
            return self.inner.decompress(data, most)

        @property
        def eof(self) -> bool:
            return self.inner.eof

    monkeypatch.setattr(zlib, "decompressobj", Watching)
    with pytest.raises(ValueError, match="does not unpack to 1000 bytes"):
        Archive(path).read("a.txt")
    assert asked == [1001]


@pytest.mark.parametrize("make", [
    lambda z: z.writestr("top/a.txt", TEXT),
    lambda z: z.writestr("empty", b""),
    lambda z: [z.writestr(f"{i}/{'x' * i}", os.urandom(i)) for i in range(40)],
    lambda z: z.writestr("grün/狗's.txt", TEXT),
    lambda z: (z.mkdir("top"), z.writestr("top/a", TEXT)),
    lambda z: z.open("forced64", "w", force_zip64=True).close(),
    lambda z: setattr(z, "comment", b"a comment" * 99),
])  # fmt: skip
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reads_what_zipfile_reads(
    tmp_path: Path, make: Callable[[zipfile.ZipFile], Any], method: int
) -> None:
    path = tmp_path / "good.zip"
    with zipfile.ZipFile(path, "w", method) as writing:
        make(writing)
    archive = Archive(path)
    with zipfile.ZipFile(path) as reading:
        expected = {
            info.filename: reading.read(info) for info in reading.infolist() if not info.is_dir()
        }
    assert {name: archive.read(name) for name in archive.names} == expected


def test_reads_members_written_to_a_stream(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise io.UnsupportedOperation

    pipe = Pipe()
    with zipfile.ZipFile(
        pipe, "w", zipfile.ZIP_DEFLATED
    ) as writing:  # sizes follow the data, the local header has none
        writing.writestr("a", TEXT)
        writing.writestr("b", TEXT[:9])
    (tmp_path / "good.zip").write_bytes(pipe.getvalue())
    archive = Archive(tmp_path / "good.zip")
    assert (archive.read("a"), archive.read("b")) == (TEXT, TEXT[:9])


def test_more_than_65535_members(tmp_path: Path) -> None:
    """With a zip64 end record, and as programs without one wrote it: the count modulo 65,536."""
    old = forge(*(Entry(b"%d" % number, b"") for number in range(65_540)))
    size, start = struct.unpack_from("<LL", old, len(old) - 10)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 65_540, 65_540, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(old) - 22, 1)
    full = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "old.zip").write_bytes(old)
    (tmp_path / "new.zip").write_bytes(old[:-22] + end64 + locator + full)
    assert (
        len(Archive(tmp_path / "old.zip").names)
        == len(Archive(tmp_path / "new.zip").names)
        == 65_540
    )
    with zipfile.ZipFile(tmp_path / "new.zip") as reading:  # the forgery is a good one
        assert len(reading.infolist()) == 65_540
    (tmp_path / "bad.zip").write_bytes(
        old[:-22] + end64.replace(b"PK\6\6", b"PK\6\5") + locator + full
    )
    with pytest.raises(ValueError, match="Bad offset"):
        Archive(tmp_path / "bad.zip")


def test_a_comment_that_looks_like_an_end_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(forge(Entry(), comment=b"PK\5\6" + bytes(40)))
    with pytest.raises(ValueError, match="end record is not at its end"):
        Archive(tmp_path / "bad.zip")


def test_a_long_local_extra_field(tmp_path: Path) -> None:
    content = bytearray(forge(Entry(b"a"), Entry(b"b")))
    first = 30 + 1 + len(TEXT)
    struct.pack_into("<H", content, 28, 500)
    content[31:31] = bytes(500)
    start = content.rfind(b"PK\1\2") - 47  # directory of two entries of 47 bytes
    struct.pack_into("<L", content, start + 47 + 42, first + 500)
    struct.pack_into("<L", content, len(content) - 6, start)
    (tmp_path / "good.zip").write_bytes(content)
    archive = Archive(tmp_path / "good.zip")
    assert archive.read("a") == archive.read("b") == TEXT


def test_old_names(tmp_path: Path) -> None:
    (tmp_path / "good.zip").write_bytes(
        forge(Entry("grün/é".encode("cp437")))
    )  # not marked as UTF-8
    assert Archive(tmp_path / "good.zip").read("grün/é") == TEXT


def test_names_in_utf8_without_its_flag_are_read_as_such(tmp_path: Path) -> None:
    names = ("Käse/狗.png", "Käse/ü.png")
    old = Entry("grün".encode("cp437"), b"old")
    forged = forge(*(Entry(name.encode(), name.encode()) for name in names), old)
    (tmp_path / "good.zip").write_bytes(forged)
    archive = pickle.loads(pickle.dumps(Archive(tmp_path / "good.zip")))
    assert archive.names == (*names, "grün")
    assert [archive.read(name) for name in archive.names] == [*map(str.encode, names), b"old"]
    (tmp_path / "twice.zip").write_bytes(
        forge(Entry(b"\xc3\xbc"), Entry(b"\xc3\xbc", central={"flags": 0x800}))
    )
    with pytest.raises(ValueError, match="'ü' is in it twice"):
        Archive(tmp_path / "twice.zip")


def test_a_used_archive_pickles(tmp_path: Path) -> None:
    (tmp_path / "good.zip").write_bytes(plain())
    archive = Archive(tmp_path / "good.zip")
    assert archive.read("top/a") == TEXT
    copy = pickle.loads(pickle.dumps(archive))
    assert copy.read("top/a") == archive.read("top/a") == TEXT


def test_no_file_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        Archive(tmp_path / "none.zip")
    with pytest.raises(ValueError, match="cannot read"):
        Archive(tmp_path)


@pytest.mark.parametrize("rounds", [1500, pytest.param(100_000, marks=pytest.mark.reliability)])
def test_mutated_archives_give_an_error_or_the_right_bytes(tmp_path: Path, rounds: int) -> None:
    generator = random.Random(rounds)
    path = tmp_path / "mutated.zip"
    refused = 0
    good = {0: plain(method=0), 8: plain(method=8)}
    expected = {}
    for method, content in good.items():
        path.write_bytes(content)
        intact = Archive(path)
        expected[method] = {intact.read(name) for name in intact.names}
    for number in range(rounds):
        method = 8 * (number % 2)
        bad = bytearray(good[method])
        for _ in range(generator.choice((1, 1, 2, 8))):
            bad[generator.randrange(len(bad))] = generator.randrange(256)
        if generator.random() < 0.2:
            del bad[generator.randrange(len(bad)) :]
        path.unlink()  # to truncate it instead makes some file systems flush it, 10 ms each
        path.write_bytes(bad)
        try:
            archive = Archive(path, LIMITS)
            read = {name: archive.read(name) for name in archive.names}
        except ValueError:
            refused += 1
            continue
        assert (
            set(read.values()) == expected[method]
        )  # names may have changed in both headers; bytes may not
    assert rounds * 0.4 < refused < rounds
