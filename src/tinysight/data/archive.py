"""Read the members of a zip that may be hostile: checked as a whole before the first read, never unpacked to the disk.

The directory is parsed here and not by `zipfile`, because a whole check of 120,000 members is then as quick as their
listing there, and because reading a member is one pread (about 10 us; a ZipFile takes about 50 and cannot be shared by
processes). Only what the published archives need is accepted: stored or deflated members, no encryption, no links.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

STORED, DEFLATED = 0, 8
END, END64, LOCATOR64, ENTRY, LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
END_BYTES, END64_BYTES, LOCATOR64_BYTES, ENTRY_BYTES, LOCAL_BYTES = 22, 56, 20, 46, 30
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF  # "look in the zip64 field"
MOST_DEFLATE_GAINS = 1032  # no deflated byte gives more
UNSUPPORTED_FLAGS = 0x1 | 0x20 | 0x40 | 0x2000  # encrypted, patch, strongly encrypted, masked
EXTRA_GUESS = 64  # bytes of a local extra field that come with the first read


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may hold at most."""

    members: int = 1_000_000
    member_bytes: int = 64 << 20
    total_bytes: int = 8 << 30


class Member(NamedTuple):
    """One file of an archive, as its directory states it."""

    raw_name: bytes
    method: int
    crc: int
    packed: int  # bytes in the archive
    size: int  # bytes once unpacked
    offset: int  # of its local header


class Archive:
    """A checked zip: `names` of its files, `read(name)`. Picklable, and good to use after a fork."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        """Check the archive as a whole. Raises ValueError naming the member and what is wrong with it."""
        self.path = path
        self.members = check_archive(path, limits)
        self._descriptor: int | None = None

    def read(self, name: str) -> bytes:
        """Read one file, its length and CRC checked. Raises ValueError naming it."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return _read_member(self._descriptor, self.members[name])
        except ValueError as error:
            raise ValueError(f"{self.path}: {name} is damaged: {error}; get the archive anew") from None

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


def check_archive(path: Path, limits: Limits | None = None) -> dict[str, Member]:
    """List the files of a zip by name, after checking all that its directory says. Reads no member.

    Refused with ValueError: more or larger members than `limits`, names that leave the archive's folder (absolute,
    `..`, backslash, drive), links, devices, duplicates, encrypted, overlapping or outlying members, impossible sizes.
    """
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
    """Find and read the central directory; return it with its place and the number of members that it should have."""
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
    return len(tail) - at >= END_BYTES and at + END_BYTES + struct.unpack_from("<H", tail, at + 20)[0] == len(tail)


def _pread(file: BinaryIO, offset: int, length: int) -> bytes:
    return os.pread(file.fileno(), length, offset) if 0 <= offset < 1 << 62 else b""


def _check_members(directory: bytes, directory_start: int, stated: int, limits: Limits) -> dict[str, Member]:
    members: dict[str, Member] = {}
    folders: set[str] = set()
    spans: list[tuple[int, int, str]] = []
    at = total = 0
    while at < len(directory):
        name, member, is_folder, length = _parse_entry(directory, at, limits)
        at += length
        total += member.size
        seen = folders if is_folder else members
        if name in seen:
            raise ValueError(f"{name!r} comes twice")
        if is_folder:
            folders.add(name)
        else:
            members[name] = member
        spans.append((member.offset, member.offset + LOCAL_BYTES + len(member.raw_name) + member.packed, name))
        if len(spans) > limits.members:
            raise ValueError(f"it has more than {limits.members} members")
        if total > limits.total_bytes:
            raise ValueError(f"it unpacks to more than {limits.total_bytes} bytes")
    if len(spans) != stated and len(spans) != stated + (len(spans) & ~FULL16):
        raise ValueError(f"it has {len(spans)} members, its end record says {stated}")
    spans.sort()
    for (_, stop, name), (start, _, other) in pairwise([*spans, (directory_start, directory_start, "its directory")]):
        if stop > start:
            raise ValueError(f"{name!r} overlaps {other!r}")
    return members


def _parse_entry(directory: bytes, at: int, limits: Limits) -> tuple[str, Member, bool, int]:
    """Parse and check one entry; return its name, the member, whether it is a folder, and the entry's length."""
    if directory[at : at + 4] != ENTRY or at + ENTRY_BYTES > len(directory):
        raise ValueError(f"its directory is damaged at byte {at}")
    system, flags, method, crc, packed, size, name_length, extra_length, comment_length, disk, attributes, offset = (
        ENTRY_FORMAT.unpack_from(directory, at)
    )
    extra_start = at + ENTRY_BYTES + name_length
    length = ENTRY_BYTES + name_length + extra_length + comment_length
    if at + length > len(directory):
        raise ValueError(f"its directory is damaged at byte {at}")
    raw_name = directory[at + ENTRY_BYTES : extra_start]
    encoding = "utf-8" if flags & 0x800 or raw_name.isascii() else "cp437"  # which agree on ASCII, at different speed
    name = raw_name.decode(encoding)  # UnicodeDecodeError is a ValueError
    if FULL32 in (packed, size, offset):
        extra = directory[extra_start : extra_start + extra_length]
        size, packed, offset = _zip64_fields(extra, size, packed, offset, name)
    if not ORDINARY_NAME.fullmatch(name) and (why := _why_name_is_refused(name)):
        raise ValueError(f"the name {name!r} {why}")
    if flags & UNSUPPORTED_FLAGS:
        raise ValueError(f"{name!r} is encrypted or a patch")
    kind = stat.S_IFMT(attributes >> 16) if system == 3 else 0  # 3: made on Unix, with its mode
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError(f"{name!r} is a link or a device, not a file")
    is_folder = name.endswith("/")
    if (kind == stat.S_IFDIR) > is_folder or (is_folder and size):
        raise ValueError(f"{name!r} is a folder by one mark and a file by another")
    if method not in (STORED, DEFLATED):
        raise ValueError(f"{name!r} is compressed by method {method}, expected stored (0) or deflated (8)")
    if (method == STORED and packed != size) or size > packed * MOST_DEFLATE_GAINS or disk not in (0, FULL16):
        raise ValueError(f"{name!r} states impossible sizes ({packed} bytes packed, {size} unpacked)")
    if size > limits.member_bytes:
        raise ValueError(f"{name!r} unpacks to {size} bytes, at most {limits.member_bytes} are taken")
    return name, Member(raw_name, method, crc, packed, size, offset), is_folder, length


ORDINARY_NAME = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*/?")  # no need to look closer: most of them
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
# Of an entry: the making system, flags, method, CRC, sizes, lengths, disk, attributes and offset; the rest is skipped.
ENTRY_FORMAT = struct.Struct("<5xB2x2H4x3L4H2xLL")


def _zip64_fields(extra: bytes, size: int, packed: int, offset: int, name: str) -> tuple[int, int, int]:
    """Take the fields that are full from the zip64 extra field, which holds just those, in this order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra.ljust(at + 4 + length, b"\0"), at + 4))
            fields = [next(wide, FULL32) if field == FULL32 else field for field in (size, packed, offset)]
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


def _read_member(descriptor: int, member: Member) -> bytes:
    """Read and unpack one member; never more than its stated size. Raises ValueError saying what is wrong."""
    guess = LOCAL_BYTES + len(member.raw_name) + EXTRA_GUESS + member.packed
    data = os.pread(descriptor, guess, member.offset)
    if data[:4] != LOCAL or len(data) < LOCAL_BYTES:
        raise ValueError("it does not start with a local header")
    flags, method, name_length, extra_length = LOCAL_FORMAT.unpack_from(data)
    start = LOCAL_BYTES + name_length + extra_length
    if data[LOCAL_BYTES : LOCAL_BYTES + name_length] != member.raw_name or method != member.method or flags & 1:
        raise ValueError("its local header contradicts the directory")
    if start + member.packed > len(data):  # a long extra field
        packed = os.pread(descriptor, member.packed, member.offset + start)
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
        content = unpacker.decompress(packed, size + 1)  # one more than stated is enough to know that it lies
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(content) != size:
        raise ValueError(f"it does not unpack to {size} bytes")
    return content
