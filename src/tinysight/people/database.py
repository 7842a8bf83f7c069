"""Connections to the database of a study: a file of SQLite, or PostgreSQL on a server."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from tinysight.files import expand

SQLITE = b"SQLite format 3\0"  # how its files begin
BUSY_SECONDS = 10
MAX_CONNECTIONS = 10


def file_of(url: str) -> Path | None:
    """Return the file of SQLite that a URL or a path names; None for the URL of a server."""
    if "://" not in url:
        return expand(url).absolute()
    if not url.startswith("sqlite://"):
        return None
    if not (path := sa.make_url(url).database):
        raise ValueError(f"{url} names no file; expected sqlite:///FILE")
    return Path(path).absolute()


def is_writable(file: Path) -> bool:
    """Say whether SQLite can write a file and, next to it, the log of what is not yet in it."""
    return os.access(file.parent, os.W_OK) and (not file.exists() or os.access(file, os.W_OK))


def check_file(file: Path, *, begun: bool) -> None:
    """Raise ValueError where a file cannot be the database of a study; nothing is made."""
    other, first = "name another file by --db", b""
    try:
        if file.is_dir():
            raise ValueError(f"{file} is a folder; name a file in it by --db")
        if begun and not file.is_file():
            raise ValueError(f"{file} is not a file; `tinysight quiz` makes it, --db names another")
        if not file.parent.is_dir():
            raise ValueError(f"{file.parent} is not a folder; make it, or {other}")
        if file.is_file():
            with file.open("rb") as opened:
                first = opened.read(len(SQLITE))
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); {other}") from None
    if first not in (b"", SQLITE):
        raise ValueError(f"{file} is not a database of SQLite; {other}")
    if not begun and not is_writable(file):
        raise ValueError(
            f"{file} cannot be written; make it and its folder writable for you, or {other}"
        )


def server_engine(url: str) -> sa.Engine:
    """Return the connections to a database on a server."""
    kind = url.partition("://")[0]
    if kind not in ("postgresql", "postgres"):
        raise ValueError(f"{kind}:// is not a database that is known; expected sqlite:///FILE or"
                         " postgresql://USER@HOST/NAME")  # fmt: skip
    url = "postgresql+psycopg" + url.removeprefix(kind)
    options: dict[str, Any] = {"pool_pre_ping": True, "pool_size": MAX_CONNECTIONS}
    own = {"options": "-c synchronous_commit=on", "connect_timeout": BUSY_SECONDS}
    try:
        return sa.create_engine(url, **options, max_overflow=0, connect_args=own)
    except ImportError:
        raise ValueError("PostgreSQL needs psycopg: pip install 'tinysight[postgresql]'") from None


def file_engine(file: Path, *, read_only: bool = False, readers: int = 0) -> sa.Engine:
    """Return the connections to a file of SQLite: one that writes, or some that read."""
    url = sa.URL.create("sqlite", database=str(file))
    if read_only:
        query = {"mode": "ro", "uri": "true"}
        if not Path(f"{file}-wal").exists():  # nobody has it open; SQLite would want its log
            query["immutable"] = "1"
        url = sa.URL.create("sqlite", database=f"file:{quote(str(file))}", query=query)
    # One connection, so one writer: others wait for it
    pool: dict[str, Any] = {"pool_size": readers or 1, "max_overflow": 0}
    engine = sa.create_engine(url, **pool, connect_args={"timeout": BUSY_SECONDS})
    sa.event.listen(engine, "connect", _only_read if read_only else _set_up)
    begin = "BEGIN" if readers else "BEGIN IMMEDIATE"
    sa.event.listen(engine, "begin", lambda each: each.exec_driver_sql(begin))
    return engine


def _only_read(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say


def _set_up(connection: sqlite3.Connection, record: object) -> None:
    _only_read(connection, record)
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON",
                    "secure_delete = ON"):  # fmt: skip
        connection.execute(f"PRAGMA {setting}")
