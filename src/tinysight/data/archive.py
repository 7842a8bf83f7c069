"""Read the members of a zip that may be hostile: checked as a whole before the first read, never
unpacked to the disk.

The directory is parsed here and not by `zipfile`, because a whole check of 120,000 members is
then as quick as their listing there, and because reading a member is one pread (about 10 us; a
ZipFile takes about 50 and cannot be shared by processes). Only what the published archives need
is accepted: stored or deflated members, no encryption, no links."""

from __future__ import annotations

import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from tinysight.files import read_at

STORED, DEFLATED = 0, 8
END, END64, LOCATOR64, ENTRY, LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
END_BYTES, END64_BYTES, LOCATOR64_BYTES, ENTRY_BYTES, LOCAL_BYTES = 22, 56, 20, 46, 30
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF  # "look in the zip64 field"
MOST_DEFLATE_GAINS = 1032  # no deflated byte gives more
MADE_ON_UNIX = 3  # and so with a mode among its attributes
UTF8_FLAG = 0x800
UNSUPPORTED_FLAGS = 0x1 | 0x20 | 0x40 | 0x2000  # encrypted, patch, strongly encrypted, masked
MOST_BYTES = (
    1 << 60
)  # larger numbers are taken for this one, so that sums of them are still numbers
EXTRA_GUESS = 64  # bytes of a local extra field that come with the first read


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may hold at most."""

    members: int = 1_000_000
    member_bytes: int = 64 << 20
    total_bytes: int = 8 << 30


class Member(NamedTuple):
    """One file of an archive, as its directory states it."""

    flags: int
    method: int
    crc: int
    packed: int  # bytes in the archive
    size: int  # bytes once unpacked
    offset: int  # of its local header


class Members(Mapping[str, Member]):
    """The files of an archive by name: a table, which processes share better than a hundred
    thousand objects.
    """

    def __init__(self, rows: dict[str, int], table: npt.NDArray[np.void]) -> None:
        self._rows, self._table = rows, table

    def __getitem__(self, name: str) -> Member:
        return Member(*self._table[self._rows[name]].item())

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class Archive:
    """A checked zip: `names` of its files, `read(name)`. Picklable, and good to use after a fork."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        """Check the archive as a whole. Raises ValueError naming the member and what is wrong with
        it.
        """
        self.path = path
        self.members = check_archive(path, limits)
        self._descriptor: int | None = None

    def read(self, name: str) -> bytes:
        """Read one file, its length and CRC checked. Raises ValueError naming it."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return _read_member(self._descriptor, name, self.members[name])
        except ValueError as error:
            raise ValueError(
                f"{self.path}: {name} is damaged: {error}; get the archive anew"
            ) from None

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}

    def __del__(self) -> None:
        if self.__dict__.get("_descriptor") is not None:
            self.close()


def check_archive(path: Path, limits: Limits | None = None) -> Members:
    """List the files of a zip by name, after checking all that its directory says. Reads no member.

    Refused with ValueError: more or larger members than `limits`, names that leave the archive's
    folder (absolute, `..`, backslash, drive), links, devices, duplicates, encrypted, overlapping
    or outlying members, impossible sizes."""
    limits = limits or Limits()
    try:
        with path.open("rb") as file:
            directory, directory_start, stated = _read_directory(file)
        return _check_members(directory, directory_start, stated, limits)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a zip that can be used: {error}") from None


def _read_directory(file: BinaryIO) -> tuple[bytes, int, int]:
    """Find and read the central directory; return it with its place and the number of members that
    it should have.
    """
    length = file.seek(0, os.SEEK_END)
    tail_start = max(0, length - END_BYTES - FULL16)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(END)
    while at >= 0 and not _ends_file(tail, at):
        at = tail.rfind(END, 0, at)
    if at < 0:
        raise ValueError("it has no end record (cut short, or another kind of file)")
    disk, first_disk, _, stated, size, start, _ = struct.unpack_from("<4H2LH", tail, at + 4)
    end = tail_start + at
    if disk != first_disk or disk not in (0, FULL16):
        raise ValueError("it is one of several parts")
    if FULL16 in (stated, disk) or FULL32 in (size, start):
        locator = _pread(file, end - LOCATOR64_BYTES, LOCATOR64_BYTES)
        if locator[:4] == LOCATOR64:
            end = struct.unpack_from("<Q", locator, 8)[0]
            record = _pread(file, end, END64_BYTES)
            if record[:4] != END64 or len(record) < END64_BYTES:
                raise ValueError("its zip64 end record is missing")
            stated, size, start = struct.unpack_from("<3Q", record, 32)
    if start + size != end:
        raise ValueError("its directory does not lie right before its end record")
    return _pread(file, start, size), start, stated


def _ends_file(tail: bytes, at: int) -> bool:
    return len(tail) - at >= END_BYTES and at + END_BYTES + struct.unpack_from("<H", tail, at + 20)[
        0
    ] == len(tail)


def _pread(file: BinaryIO, offset: int, length: int) -> bytes:
    return read_at(file.fileno(), length, offset) if 0 <= offset < 1 << 62 else b""


def _check_members(directory: bytes, directory_start: int, stated: int, limits: Limits) -> Members:
    """Check all entries of the directory, a column at a time."""
    starts = _entry_starts(directory, limits.members)
    if len(starts) != stated and len(starts) != stated + (len(starts) & ~FULL16):
        raise ValueError(f"it has {len(starts)} members, its end record says {stated}")
    letters = np.frombuffer(directory, np.uint8)
    entries = letters[starts[:, None] + np.arange(ENTRY_BYTES)].view(ENTRY_TYPE)[:, 0]
    names = [
        _decode_name(directory[start + ENTRY_BYTES : start + ENTRY_BYTES + length], flags)
        for start, length, flags in zip(
            starts.tolist(), entries["name_length"].tolist(), entries["flags"].tolist(), strict=True
        )
    ]
    packed, size, offset = (
        entries[column].astype(np.int64) for column in ("packed", "size", "offset")
    )
    for row in np.flatnonzero((packed == FULL32) | (size == FULL32) | (offset == FULL32)).tolist():
        extra_start = int(starts[row]) + ENTRY_BYTES + int(entries["name_length"][row])
        extra = directory[extra_start : extra_start + int(entries["extra_length"][row])]
        size[row], packed[row], offset[row] = _zip64_fields(
            extra, int(size[row]), int(packed[row]), int(offset[row]), names[row]
        )

    def refuse(where: npt.NDArray[np.bool_], why: str) -> None:
        if where.any():
            row = int(where.argmax())
            facts = {"method": entries["method"][row], "packed": packed[row], "size": size[row]}
            raise ValueError(f"{names[row]!r} {why.format(**facts)}")

    for name in names:
        if not ORDINARY_NAME.fullmatch(name) and (why := _why_name_is_refused(name)):
            raise ValueError(f"the name {name!r} {why}")
    method, flags = entries["method"], entries["flags"]
    kind = np.where(entries["system"] == MADE_ON_UNIX, (entries["attributes"] >> 16) & 0o170000, 0)
    is_folder = letters[starts + ENTRY_BYTES - 1 + entries["name_length"]] == ord("/")
    refuse((flags & UNSUPPORTED_FLAGS) != 0, "is encrypted or a patch")
    refuse(~np.isin(kind, (0, stat.S_IFREG, stat.S_IFDIR)), "is a link or a device, not a file")
    refuse(
        (kind == stat.S_IFDIR) & ~is_folder | is_folder & (size > 0),
        "is a folder by one mark and a file by another",
    )
    refuse(
        ~np.isin(method, (STORED, DEFLATED)),
        "is compressed by method {method}, expected stored (0) or deflated (8)",
    )
    impossible = (method == STORED) & (packed != size) | (size > packed * MOST_DEFLATE_GAINS)
    refuse(impossible, "states impossible sizes ({packed} bytes packed, {size} unpacked)")
    refuse(~np.isin(entries["disk"], (0, FULL16)), "lies in another part")
    refuse(
        size > limits.member_bytes,
        f"unpacks to {{size}} bytes, at most {limits.member_bytes} are taken",
    )
    if size.sum() > limits.total_bytes:
        raise ValueError(f"it unpacks to more than {limits.total_bytes} bytes")
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) < len(names):
        twice = next(name for row, name in enumerate(names) if rows[name] != row)
        raise ValueError(f"{twice!r} comes twice")
    _refuse_overlaps(
        names, offset, offset + LOCAL_BYTES + entries["name_length"] + packed, directory_start
    )

    table = np.empty(len(names), MEMBER_TYPE)
    for column, values in (("packed", packed), ("size", size), ("offset", offset)):
        table[column] = values
    for column in ("flags", "method", "crc"):
        table[column] = entries[column]
    for row in np.flatnonzero(is_folder).tolist():
        del rows[names[row]]
    return Members(rows, table)


def _entry_starts(directory: bytes, most: int) -> npt.NDArray[np.int64]:
    starts = []
    at = 0
    while at < len(directory):
        if directory[at : at + 4] != ENTRY or at + ENTRY_BYTES > len(directory):
            raise ValueError(f"its directory is damaged at byte {at}")
        starts.append(at)
        name_length, extra_length, comment_length = struct.unpack_from("<3H", directory, at + 28)
        at += ENTRY_BYTES + name_length + extra_length + comment_length
        if len(starts) > most:
            raise ValueError(f"it has more than {most} members")
    if at != len(directory):
        raise ValueError(f"its directory is damaged at byte {starts[-1]}")
    return np.array(starts, np.int64)


def _decode_name(raw_name: bytes, flags: int) -> str:
    if raw_name.isascii():  # the same in both, and the one that is quick
        return raw_name.decode("ascii")
    return raw_name.decode(
        "utf-8" if flags & UTF8_FLAG else "cp437"
    )  # UnicodeDecodeError is a ValueError


def _refuse_overlaps(
    names: list[str],
    starts: npt.NDArray[np.int64],
    stops: npt.NDArray[np.int64],
    directory_start: int,
) -> None:
    order = np.argsort(starts, kind="stable")
    following = np.append(starts[order][1:], directory_start)
    bad = np.flatnonzero(stops[order] > following[: len(names)])
    if bad.size:
        name = names[order[bad[0]]]
        other = repr(names[order[bad[0] + 1]]) if bad[0] + 1 < len(names) else "its directory"
        raise ValueError(f"{name!r} overlaps {other}")


# What is read of an entry; its time stamps and the version of the making program are not.
ENTRY_TYPE = np.dtype(
    {
        "names": ["system", "flags", "method", "crc", "packed", "size", "name_length", "extra_length", "disk",
                  "attributes", "offset"],
        "formats": ["u1", "<u2", "<u2", "<u4", "<u4", "<u4", "<u2", "<u2", "<u2", "<u4", "<u4"],
        "offsets": [5, 8, 10, 16, 20, 24, 28, 30, 34, 38, 42],
        "itemsize": ENTRY_BYTES,
    }
)  # fmt: skip
MEMBER_TYPE = np.dtype(
    [
        ("flags", "u2"),
        ("method", "u2"),
        ("crc", "u4"),
        *((c, "i8") for c in ("packed", "size", "offset")),
    ]
)
ORDINARY_NAME = re.compile(
    r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*/?"
)  # no need to look closer: most of them
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


def _zip64_fields(
    extra: bytes, size: int, packed: int, offset: int, name: str
) -> tuple[int, int, int]:
    """Take the fields that are full from the zip64 extra field, which holds just those, in this
    order.
    """
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(
                (
                    *struct.unpack_from(
                        f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4
                    ),
                    0,
                    0,
                    0,
                )
            )
            fields = [
                min(next(wide), MOST_BYTES) if field == FULL32 else field
                for field in (size, packed, offset)
            ]
            return fields[0], fields[1], fields[2]
        at += 4 + length
    raise ValueError(f"{name!r} has no sizes")


def _why_name_is_refused(name: str) -> str:
    if not name or CONTROL_CHARACTER.search(name):
        return "is empty or has control characters"
    if name[0] == "/" or "\\" in name or name[1:2] == ":":
        return "is absolute, has a backslash or a drive"
    parts = name.removesuffix("/").split("/")
    if ".." in parts or "." in parts or "" in parts:
        return "has '..', '.' or an empty part"
    return ""


def _read_member(descriptor: int, name: str, member: Member) -> bytes:
    """Read and unpack one member; never more than its stated size. Raises ValueError saying what is
    wrong.
    """
    raw_name = name.encode("utf-8" if name.isascii() or member.flags & UTF8_FLAG else "cp437")
    guess = LOCAL_BYTES + len(raw_name) + EXTRA_GUESS + member.packed
    data = read_at(descriptor, guess, member.offset)
    if data[:4] != LOCAL or len(data) < LOCAL_BYTES:
        raise ValueError("it does not start with a local header")
    flags, method, name_length, extra_length = LOCAL_FORMAT.unpack_from(data)
    start = LOCAL_BYTES + name_length + extra_length
    if (
        data[LOCAL_BYTES : LOCAL_BYTES + name_length] != raw_name
        or method != member.method
        or flags & 1
    ):
        raise ValueError("its local header contradicts the directory")
    if start + member.packed > len(data):  # a long extra field
        packed = read_at(descriptor, member.packed, member.offset + start)
    else:
        packed = data[start : start + member.packed]
    if len(packed) != member.packed:
        raise ValueError("it is cut short")
    content = packed if member.method == STORED else _inflate(packed, member.size)
    if zlib.crc32(content) != member.crc:
        raise ValueError("its checksum differs")
    return content


LOCAL_FORMAT = struct.Struct("<6x2H16x2H")  # flags, method, lengths of name and extra field


def _inflate(packed: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(
            packed, size + 1
        )  # one more than stated is enough to know that it lies
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(content) != size:
        raise ValueError(f"it does not unpack to {size} bytes")
    return content
