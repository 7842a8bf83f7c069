"""Where answers are kept: SQLite by default, PostgreSQL by its URL.

An answer is committed before it is acknowledged, once per item that was shown: sent again, it
changes nothing. Nothing here asks what time it is; of a person only the day is kept. The schema is
plain SQL that both databases read, in steps that are applied in one transaction: one table says
how far a database is.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tinysight.files import expand
from tinysight.people.answers import Answer, Kind

Game = Literal["full", "quick"]
BUSY_SECONDS = 10
MAX_CONNECTIONS = 10
# Each entry brings a database one version further; entries that were released never change
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE study (digest TEXT NOT NULL, about TEXT NOT NULL, next_number INTEGER"
        " NOT NULL)",
        "CREATE TABLE people (code TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE,"
        " game TEXT NOT NULL, classes TEXT NOT NULL, day TEXT NOT NULL)",
        "CREATE TABLE items (key TEXT PRIMARY KEY,"
        " code TEXT NOT NULL REFERENCES people (code) ON DELETE CASCADE,"
        " position INTEGER NOT NULL, image_row INTEGER NOT NULL, image TEXT NOT NULL,"
        " target TEXT NOT NULL, kind TEXT NOT NULL, UNIQUE (code, position))",
        "CREATE TABLE answers (key TEXT PRIMARY KEY REFERENCES items (key) ON DELETE CASCADE,"
        " response TEXT, seconds DOUBLE PRECISION, further TEXT NOT NULL, screen TEXT NOT NULL)",
    ),
    ("ALTER TABLE people ADD COLUMN guesses INTEGER NOT NULL DEFAULT 1",),
)


# One statement, as each is a journey to PostgreSQL; it returns nothing where nothing was kept
KEEP = (
    "INSERT INTO answers SELECT key, CAST(:response AS TEXT), CAST(:seconds AS DOUBLE PRECISION),"
    " :further, :screen FROM items JOIN people ON people.code = items.code"
    " WHERE key = :key AND items.code = :code AND guesses > :number"
    " ON CONFLICT (key) DO NOTHING RETURNING key"
)


class UnavailableError(ValueError):
    """The database did not take what it was given; nothing was acknowledged."""


@dataclass(frozen=True)
class Shown:
    """An image to show: its row and name in the dataset, its class, and why it is shown."""

    row: int
    image: str
    target: str
    kind: Kind


@dataclass(frozen=True)
class Given:
    """What a person answered to an item; None for "I cannot tell".

    `further` are the second and third guess, `screen` is the size of the window and of a pixel.
    """

    response: str | None
    seconds: float | None = None
    further: tuple[str, ...] = ()
    screen: str = ""


@dataclass(frozen=True)
class Person:
    """A person's game, the classes to choose from, and the items: (key, item, answer or None).

    `guesses` are asked per item, 1 to 3.
    """

    game: Game
    number: int
    classes: tuple[str, ...]
    items: tuple[tuple[str, Shown, Given | None], ...]
    guesses: int


class Store:
    """The answers of one study.

    Args:
        url: of the database, `sqlite:///FILE` or `postgresql://USER@HOST/NAME`, or a file.
        digest: of the dataset, which the study keeps.
        about: what the study is (split, number of images, seed), kept as JSON; None: as it was
            begun, which must have been.

    Raises ValueError where the database is of other data, another study or a newer version, or
    cannot be used.
    """

    def __init__(self, url: str, *, digest: str, about: dict[str, Any] | None) -> None:
        if about is None and "://" not in url and not expand(url).is_file():
            raise ValueError(f"{url} is not a file; `tinysight quiz` makes it, --db names another")
        self.engine = _engine(url)
        on_server = self.engine.dialect.name == "postgresql"
        self.readers = self.engine if on_server else _engine(url, readers=MAX_CONNECTIONS)
        try:
            with self._transaction() as connection:
                _migrate(connection)
                found = _rows(connection, "SELECT digest, about FROM study")
                if not found and about is None:
                    raise ValueError("the database holds no study; `tinysight quiz` begins one")
                if not found:
                    found = [(digest, json.dumps(about, sort_keys=True))]
                    statement = "INSERT INTO study VALUES (:digest, :about, 0)"
                    _run(connection, statement, digest=digest, about=found[0][1])
            if found[0][0] != digest:
                raise ValueError("the database holds answers to other data; name another by --db")
            if about is not None and found[0][1] != json.dumps(about, sort_keys=True):
                raise ValueError(
                    f"the database holds a study of {found[0][1]}; go on with these settings, or"
                    " name another by --db"
                )
        except ValueError:
            self.close()
            raise
        self.about: dict[str, Any] = json.loads(found[0][1])

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self.readers.dispose()

    def image_row(self, code: str, key: str) -> int | None:
        """Return the row of the image that a person's item shows; None where there is no such."""
        query = "SELECT image_row FROM items WHERE key = :key AND code = :code"
        with self._transaction(write=False) as connection:
            found = _rows(connection, query, key=key, code=code)
        return int(found[0][0]) if found else None

    def classes(self, game: Game) -> tuple[str, ...] | None:
        """Return what the people of a game choose from; None where nobody has begun it."""
        query = "SELECT classes FROM people WHERE game = :game ORDER BY number LIMIT 1"
        with self._transaction(write=False) as connection:
            found = _rows(connection, query, game=game)
        return tuple(json.loads(found[0][0])) if found else None

    def register(
        self,
        game: Game,
        classes: Sequence[str],
        plan: Callable[[int], Sequence[Shown]],
        guesses: int = 1,
    ) -> str:
        """Enter a person, whose number goes to `plan`; return the code that stands for them."""
        code = secrets.token_hex(8)
        with self._transaction() as connection:
            number = _run(
                connection,
                "UPDATE study SET next_number = next_number + 1 RETURNING next_number - 1",
            ).scalar_one()
            person = {"code": code, "number": number, "game": game}
            person |= {"classes": json.dumps(list(classes)), "guesses": guesses}
            person |= {"day": datetime.now(UTC).date().isoformat()}
            statement = (
                "INSERT INTO people VALUES (:code, :number, :game, :classes, :day, :guesses)"
            )
            _run(connection, statement, **person)
            rows = [
                {"key": secrets.token_hex(12), "code": code, "position": position, "row": item.row,
                 "image": item.image, "target": item.target, "kind": item.kind}
                for position, item in enumerate(plan(number), 1)
            ]  # fmt: skip
            statement = "INSERT INTO items VALUES (:key, :code, :position, :row, :image, :target,"
            connection.execute(sa.text(f"{statement} :kind)"), rows)
        return code

    def person(self, code: str) -> Person:
        """Return what a person was shown and answered; raise ValueError for an unknown code."""
        with self._transaction(write=False) as connection:
            query = "SELECT game, number, classes, guesses FROM people WHERE code = :code"
            found = _rows(connection, query, code=code)
            if not found:
                raise ValueError("no person has this code; begin again, or check its letters")
            query = (
                "SELECT items.key, image_row, image, target, kind, answers.key, response, seconds,"
                " further, screen FROM items LEFT JOIN answers ON answers.key = items.key"
                " WHERE code = :code ORDER BY position"
            )
            rows = _rows(connection, query, code=code)
        items = [(row[0], Shown(*row[1:5]), _given(row[6:]) if row[5] else None) for row in rows]
        game, number, classes, guesses = found[0]
        return Person(game, number, tuple(json.loads(classes)), tuple(items), guesses)

    def answer(self, code: str, key: str, given: Given) -> Given:
        """Keep an answer and return it; where the item has one, keep and return that one.

        Raises ValueError where the person has no such item or was not asked for as many guesses,
        UnavailableError where it is not kept.
        """
        values = {"key": key, "response": given.response, "seconds": given.seconds}
        values |= {"further": json.dumps(given.further), "screen": given.screen}
        values |= {"code": code, "number": len(given.further)}
        with self._transaction() as connection:
            if _rows(connection, KEEP, **values):
                return given
            query = (
                "SELECT guesses, answers.key, response, seconds, further, screen FROM items"
                " JOIN people ON people.code = items.code"
                " LEFT JOIN answers ON answers.key = items.key"
                " WHERE items.key = :key AND items.code = :code"
            )
            if not (found := _rows(connection, query, key=key, code=code)):
                raise ValueError("no such image was shown to this person; load the page again")
            if found[0][1] is None:
                raise ValueError(f"this person is asked for {found[0][0]} guesses, not for more")
            return _given(found[0][2:])

    def delete(self, code: str) -> bool:
        """Delete a person and all that they answered; say whether there was one."""
        with self._transaction() as connection:
            done = _run(connection, "DELETE FROM people WHERE code = :code", code=code)
            deleted = bool(done.rowcount)
        if self.engine.dialect.name == "sqlite":  # out of the file's log, too
            with closing(self.engine.raw_connection()) as raw:
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted

    def answers(self, game: Game) -> list[Answer]:
        """Return all answers of a game; people are named by their numbers, not their codes."""
        query = (
            "SELECT number, position, image, target, kind, response, seconds, guesses, further"
            " FROM answers"
            " JOIN items ON items.key = answers.key JOIN people ON people.code = items.code"
            " WHERE game = :game ORDER BY number, position"
        )
        with self._transaction(write=False) as connection:
            rows = _rows(connection, query, game=game)
        return [
            Answer(
                subject=f"p-{row[0]:04}", session=1, trial=row[1], image=row[2], target=row[3],
                kind=row[4], response=row[5], seconds=row[6],
                further=None if row[7] == 1 else tuple(json.loads(row[8])),
            )
            for row in rows
        ]  # fmt: skip

    @contextmanager
    def _transaction(self, *, write: bool = True) -> Iterator[sa.Connection]:
        """Commit what is done, all or nothing; raise UnavailableError where that fails."""
        try:
            with (self.engine if write else self.readers).begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            reason = str(error.orig if isinstance(error, DBAPIError) else error)
            reason = " ".join(reason.split()) or type(error).__name__
            raise UnavailableError(f"the database did not take it ({reason})") from None


_text = lru_cache(maxsize=None)(sa.text)


def _given(row: Sequence[Any]) -> Given:
    return Given(row[0], row[1], tuple(json.loads(row[2])), row[3])


def _run(connection: sa.Connection, statement: str, **values: Any) -> sa.CursorResult[Any]:
    return connection.execute(_text(statement), values)


def _rows(connection: sa.Connection, query: str, **values: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in _run(connection, query, **values)]


def _engine(url: str, readers: int = 0) -> sa.Engine:
    """Return the connections to a database; of SQLite one that writes, or some that read."""
    if "://" not in url:
        url = f"sqlite:///{expand(Path(url)).absolute()}"
    kind = url.partition("://")[0]
    if kind in ("postgresql", "postgres"):
        url = "postgresql+psycopg" + url.removeprefix(kind)
        options: dict[str, Any] = {"pool_pre_ping": True, "pool_size": MAX_CONNECTIONS}
        own = {"options": "-c synchronous_commit=on", "connect_timeout": BUSY_SECONDS}
        try:
            return sa.create_engine(url, **options, max_overflow=0, connect_args=own)
        except ImportError:
            raise ValueError(
                "PostgreSQL needs psycopg: pip install 'tinysight[postgresql]'"
            ) from None
    if kind != "sqlite":
        raise ValueError(f"{kind}:// is not a database that is known; expected sqlite:///FILE or"
                         " postgresql://USER@HOST/NAME")  # fmt: skip
    # One connection, so one writer: others wait for it
    pool: dict[str, Any] = {"pool_size": readers or 1, "max_overflow": 0}
    engine = sa.create_engine(url, **pool, connect_args={"timeout": BUSY_SECONDS})
    sa.event.listen(engine, "connect", _set_up)
    begin = "BEGIN" if readers else "BEGIN IMMEDIATE"
    sa.event.listen(engine, "begin", lambda each: each.exec_driver_sql(begin))
    return engine


def _set_up(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON",
                    "secure_delete = ON"):  # fmt: skip
        connection.execute(f"PRAGMA {setting}")


def _migrate(connection: sa.Connection) -> None:
    """Bring a database to the newest version, within the transaction."""
    if connection.dialect.name == "postgresql":  # two servers that start at once
        _run(connection, "SELECT pg_advisory_xact_lock(745)")
    _run(connection, "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    version = _run(connection, "SELECT max(version) FROM schema_version").scalar() or 0
    if version > len(MIGRATIONS):
        raise ValueError(
            f"the database has version {version}, this tinysight knows {len(MIGRATIONS)}; update it"
        )
    for number, statements in enumerate(MIGRATIONS[version:], version + 1):
        for statement in statements:
            _run(connection, statement)
        _run(connection, "INSERT INTO schema_version VALUES (:number)", number=number)
