"""Read a zip that may be hostile: checked completely before the first read, never unpacked to disk.

`zipfile` reads the directory; the checks and the reading of members are here, because `zipfile`
accepts archives that contradict themselves, takes 50 us per member where one positional read takes
10, and a ZipFile cannot be shared by processes. Only what published archives need is accepted:
stored or deflated members, no encryption, no links.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinysight.files import read_at

_LOCAL, _END = struct.Struct("<4s2x2H16x2H"), struct.Struct("<4s4H2LH")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "look in the zip64 record"
_MAX_RATIO = 1032  # no deflated byte expands to more
_UNIX = 3  # created there, so that the attributes hold a mode
_UTF8_FLAG = 0x800
_UNSUPPORTED_FLAGS = 0x1 | 0x20 | 0x40 | 0x2000  # encrypted, patch, strongly encrypted, masked
_EXTRA_GUESS = 64  # bytes of a local extra field that come with the first read
_ORDINARY_NAME = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*/?")  # needs no closer look
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that an archive may hold."""

    members: int = 1_000_000
    member_bytes: int = 64 << 20
    total_bytes: int = 8 << 30


class _Member(NamedTuple):
    flags: int
    method: int
    crc: int
    packed: int  # bytes in the archive
    size: int  # bytes once unpacked
    offset: int  # of its local header


# of a ZipInfo, in the order of `_Member`
_MEMBER = ("flag_bits", "compress_type", "CRC", "compress_size", "file_size", "header_offset")


class Archive:
    """A checked zip: `names` of its files, `read(name)`. Picklable, and usable after a fork."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        """Check the archive; a ValueError names the member and the fault.

        Refused: more or larger members than `limits`, names that leave the archive's folder
        (absolute, `..`, backslash, drive), links, devices, duplicates, encrypted or overlapping
        members, impossible sizes, and bytes before or after the archive.
        """
        self.path = path
        self._descriptor: int | None = None
        try:
            # One table, which processes share better than a hundred thousand objects
            self._rows, self._table = _checked_members(path, limits or Limits())
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist") from None
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, NotImplementedError, struct.error, zipfile.BadZipFile) as error:
            cut = isinstance(error, zipfile.BadZipFile) * " (cut short, or another kind of file?)"
            raise ValueError(f"{path} is not a usable zip: {error}{cut}") from None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files, without folders."""
        return tuple(self._rows)

    def read(self, name: str) -> bytes:
        """Read one file and check its length and CRC; a ValueError names it."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        member = _Member(*self._table[self._rows[name]].tolist())
        try:
            return _read_member(self._descriptor, name, member)
        except ValueError as error:
            what = f"{self.path}: {name} is damaged: {error}"
            raise ValueError(f"{what}; get the archive again") from None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}

    def __del__(self) -> None:
        if (descriptor := self.__dict__.get("_descriptor")) is not None:
            os.close(descriptor)


def _checked_members(path: Path, limits: Limits) -> tuple[dict[str, int], npt.NDArray[np.int64]]:
    """Return the row of each file by name, and the table of `_Member` rows (N, 6)."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        length = os.fstat(file.fileno()).st_size
        _check_end(file.fileno(), length, len(archive.comment), len(infos))
        directory_start = archive.start_dir
    if len(infos) > limits.members:
        raise ValueError(f"it has more than {limits.members} members")
    names = _names(infos)
    for name in names:
        if not _ORDINARY_NAME.fullmatch(name) and (fault := _name_fault(name)):
            raise ValueError(f"the name {name!r} {fault}")
    facts = attrgetter(*_MEMBER)
    most = 1 << 60  # larger numbers are cut to this, so that their sums are still numbers
    cut = [[min(number, most) for number in facts(info)] for info in infos]
    table = np.array(cut, np.int64).reshape(-1, len(_MEMBER))
    _check_members(names, infos, _Member(*table.T), limits)
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) < len(names):
        repeated = next(name for row, name in enumerate(names) if rows[name] != row)
        raise ValueError(f"{repeated!r} is in it twice")
    _check_overlaps(names, _Member(*table.T), directory_start)
    return {name: row for name, row in rows.items() if name[-1] != "/"}, table


def _names(infos: list[zipfile.ZipInfo]) -> list[str]:
    """Return all names, of UTF-8 where they are, which many programs write without its flag."""
    names = [info.orig_filename for info in infos]  # `filename` ends at a NUL
    for row, (name, info) in enumerate(zip(names, infos, strict=True)):
        if not name.isascii() and not info.flag_bits & _UTF8_FLAG:
            with suppress(UnicodeDecodeError):  # it is cp437, as `zipfile` has it
                names[row] = _raw(name, info.flag_bits).decode("utf-8")
                info.flag_bits |= _UTF8_FLAG  # so that `_raw` gives the same bytes
    return names


def _check_end(descriptor: int, length: int, comment_length: int, num_members: int) -> None:
    """Check the end record, most of which `zipfile` ignores."""
    start = length - comment_length - _END.size
    record = read_at(descriptor, _END.size, max(0, start))
    if len(record) < _END.size or record[:4] != b"PK\5\6":
        raise ValueError("its end record is not at its end")
    _, disk, first_disk, _, stated, size, offset, _ = _END.unpack(record)
    if disk != first_disk or disk not in (0, _FULL16):
        raise ValueError("it is one of several parts")
    if stated not in (num_members & _FULL16, _FULL16):
        raise ValueError(f"it has {num_members} members, its end record states {stated}")
    if _FULL16 not in (stated, disk) and _FULL32 not in (size, offset) and offset + size != start:
        raise ValueError("its directory is not right before its end record")


def _check_members(
    names: list[str], infos: list[zipfile.ZipInfo], columns: Any, limits: Limits
) -> None:
    """Check what the directory states about each member; `columns` is a _Member of arrays (N,)."""
    flags, method, _, packed, size, _ = columns
    made = [(info.create_system, info.external_attr, info.volume) for info in infos]
    system, attributes, volume = np.array(made, np.int64).reshape(-1, 3).T
    kind = np.where(system == _UNIX, (attributes >> 16) & 0o170000, 0)
    is_folder = np.array([name[-1] == "/" for name in names], bool)

    def refuse(where: npt.NDArray[np.bool_], fault: str) -> None:
        if where.any():
            row = int(where.argmax())
            facts = {"method": method[row], "packed": packed[row], "size": size[row]}
            raise ValueError(f"{names[row]!r} {fault.format(**facts)}")

    refuse((flags & _UNSUPPORTED_FLAGS) != 0, "is encrypted or a patch")
    refuse(~np.isin(kind, (0, stat.S_IFREG, stat.S_IFDIR)), "is a link or a device, not a file")
    both = (kind == stat.S_IFDIR) & ~is_folder | is_folder & (size > 0)
    refuse(both, "is marked both as a folder and as a file")
    unknown = ~np.isin(method, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    refuse(unknown, "is compressed by method {method}, expected stored (0) or deflated (8)")
    wrong = (method == zipfile.ZIP_STORED) & (packed != size) | (size > packed * _MAX_RATIO)
    refuse(wrong, "states impossible sizes ({packed} bytes packed, {size} unpacked)")
    refuse(~np.isin(volume, (0, _FULL16)), "is in another part")
    limit = limits.member_bytes
    refuse(size > limit, f"unpacks to {{size}} bytes, at most {limit} are allowed")
    if size.sum() > limits.total_bytes:
        raise ValueError(f"it unpacks to more than {limits.total_bytes} bytes")


def _check_overlaps(names: list[str], columns: Any, directory_start: int) -> None:
    """Members must follow each other from the first byte on, and end before the directory."""
    lengths = [len(_raw(name, flags)) for name, flags in zip(names, columns.flags, strict=True)]
    stops = columns.offset + _LOCAL.size + np.array(lengths, np.int64) + columns.packed
    order = np.argsort(columns.offset, kind="stable")
    starts = np.append(columns.offset[order], directory_start)
    if starts[0] != 0:
        raise ValueError(f"its first member begins at byte {starts[0]}, expected 0")
    bad = np.flatnonzero(stops[order] > starts[1:])
    if bad.size:
        following = bad[0] + 1
        other = repr(names[order[following]]) if following < len(names) else "its directory"
        raise ValueError(f"{names[order[bad[0]]]!r} overlaps {other}")


def _raw(name: str, flags: int) -> bytes:
    """Encode a name as it is in the archive."""
    return name.encode("utf-8" if name.isascii() or flags & _UTF8_FLAG else "cp437")


def _name_fault(name: str) -> str:
    if not name or _CONTROL_CHARACTER.search(name):
        return "is empty or has control characters"
    if name[0] == "/" or "\\" in name or name[1:2] == ":":
        return "is absolute, has a backslash or a drive"
    parts = name.removesuffix("/").split("/")
    if ".." in parts or "." in parts or "" in parts:
        return "has '..', '.' or an empty part"
    return ""


def _read_member(descriptor: int, name: str, member: _Member) -> bytes:
    """Read and unpack one member, never to more than its stated size; raise ValueError."""
    raw_name = _raw(name, member.flags)
    guess = _LOCAL.size + len(raw_name) + _EXTRA_GUESS + member.packed
    data = read_at(descriptor, guess, member.offset)
    if data[:4] != b"PK\3\4" or len(data) < _LOCAL.size:
        raise ValueError("it does not start with a local header")
    _, flags, method, name_length, extra_length = _LOCAL.unpack_from(data)
    local_name = data[_LOCAL.size : _LOCAL.size + name_length]
    if local_name != raw_name or method != member.method or flags & 1:
        raise ValueError("its local header contradicts the directory")
    start = _LOCAL.size + name_length + extra_length
    packed = data[start : start + member.packed]
    if start + member.packed > len(data):  # a long extra field
        packed = read_at(descriptor, member.packed, member.offset + start)
    if len(packed) != member.packed:
        raise ValueError("it is cut short")
    content = packed if member.method == zipfile.ZIP_STORED else _inflate(packed, member.size)
    if zlib.crc32(content) != member.crc:
        raise ValueError("its checksum differs")
    return content


def _inflate(packed: bytes, size: int) -> bytes:
    try:
        # One more byte than stated is enough to detect a wrong size
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(content) != size:
        raise ValueError(f"it does not unpack to {size} bytes")
    return content
