"""Where answers are kept: SQLite by default, PostgreSQL by its URL.

An answer is committed before it is acknowledged, once per item that was shown: sent again, it
changes nothing. Nothing here asks what time it is; of a person only the day is kept. The schema is
plain SQL that both databases read, in steps that are applied in one transaction: one table says
how far a database is.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tinysight.people.answers import Answer, Kind, Mark
from tinysight.people.database import (
    MAX_CONNECTIONS,
    check_file,
    file_engine,
    file_of,
    is_writable,
    server_engine,
)

Game = Literal["full", "quick"]
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
    (
        "CREATE TABLE marks (key TEXT NOT NULL REFERENCES answers (key) ON DELETE CASCADE,"
        " name TEXT NOT NULL, fits INTEGER NOT NULL, PRIMARY KEY (key, name))",
    ),
    (
        "ALTER TABLE study ADD COLUMN next_full INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE study ADD COLUMN next_quick INTEGER NOT NULL DEFAULT 0",
        # Plans went by the number among the people of both games: go on after it
        "UPDATE study SET next_full = next_number, next_quick = next_number",
    ),
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

    @property
    def answers(self) -> list[Answer]:
        """What was answered so far."""
        return [
            _answer(self.number, trial, item, given, self.guesses)
            for trial, (_, item, given) in enumerate(self.items, 1)
            if given is not None
        ]


def _answer(number: int, trial: int, item: Shown, given: Given, guesses: int) -> Answer:
    return Answer(
        subject=f"p-{number:04}", session=1, trial=trial, image=item.image, target=item.target,
        kind=item.kind, response=given.response, seconds=given.seconds,
        further=None if guesses == 1 else given.further,
    )  # fmt: skip


class Store:
    """The answers of one study.

    Args:
        url: of the database, `sqlite:///FILE` or `postgresql://USER@HOST/NAME`, or a file.
        digest: of the dataset, which the study keeps.
        about: what the study is (split, number of images, seed), kept as JSON; None: as it was
            begun, which must have been. Then a file that cannot be written is only read.

    Raises ValueError where the database is of other data, another study or a newer version, or
    cannot be used.
    """

    def __init__(self, url: str, *, digest: str, about: dict[str, Any] | None) -> None:
        file = file_of(url)
        name, read_only = str(file or "the database"), False
        if file is None:
            self.engine = self.readers = server_engine(url)
        else:
            check_file(file, begun=about is None)
            read_only = about is None and not is_writable(file)
            self.readers = file_engine(file, read_only=read_only, readers=MAX_CONNECTIONS)
            self.engine = self.readers if read_only else file_engine(file)
        try:
            with self._transaction() as connection:
                found = _begin(connection, digest, about, name)
            if found[0] != digest:
                raise ValueError(f"{name} holds answers to other data; name another by --db")
            if about is not None and found[1] != json.dumps(about, sort_keys=True):
                raise ValueError(
                    f"{name} holds a study of {_options(found[1])}; go on with these settings, or"
                    " name another by --db"
                )
        except UnavailableError as error:
            self.close()
            hint = f"; copy it, and {name}-wal if it is there, to a folder that you can write"
            text = f"{name} cannot be opened: {error}{hint if read_only else ''}"
            raise UnavailableError(text) from None
        except ValueError:
            self.close()
            raise
        self.about: dict[str, Any] = json.loads(found[1])
        self.place = name if file else self.engine.url.render_as_string()  # without a password

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self.readers.dispose()

    def size(self) -> tuple[int, int]:
        """Return how many people answered, in both games, and how many answers they gave."""
        query = (
            "SELECT COUNT(DISTINCT items.code), COUNT(*) FROM answers"
            " JOIN items ON items.key = answers.key"
        )
        with self._transaction(write=False) as connection:
            people, answers = _rows(connection, query)[0]
        return int(people), int(answers)

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
    ) -> tuple[str, int]:
        """Enter a person; return the code that stands for them, and their number.

        To `plan` goes how many people of the game came before, deleted ones included.
        """
        code, before = secrets.token_hex(8), f"next_{game}"
        count = f"next_number = next_number + 1, {before} = {before} + 1"
        with self._transaction() as connection:
            number, turn = _rows(
                connection, f"UPDATE study SET {count} RETURNING next_number - 1, {before} - 1"
            )[0]
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
                for position, item in enumerate(plan(turn), 1)
            ]  # fmt: skip
            statement = "INSERT INTO items VALUES (:key, :code, :position, :row, :image, :target,"
            connection.execute(sa.text(f"{statement} :kind)"), rows)
        return code, int(number)

    def person(self, code: str) -> Person:
        """Return what a person was shown and answered; raise ValueError for an unknown code."""
        with self._transaction(write=False) as connection:
            query = "SELECT game, number, classes, guesses FROM people WHERE code = :code"
            found = _rows(connection, query, code=code)
            if not found:
                raise ValueError(
                    "there is no game of this code; check its letters and digits, or begin a new"
                    " game"
                )
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

    def mark(self, code: str, key: str, name: str, fits: bool) -> None:
        """Keep whether a class that is not the label of an answered item is also right; the last
        word of the person counts.

        Raises ValueError where the person answered no such item, or the class is its label.
        """
        statement = (
            "INSERT INTO marks SELECT answers.key, CAST(:name AS TEXT), CAST(:fits AS INTEGER)"
            " FROM answers JOIN items ON items.key = answers.key"
            " WHERE answers.key = :key AND code = :code AND target <> :name"
            " ON CONFLICT (key, name) DO UPDATE SET fits = excluded.fits"
        )
        with self._transaction() as connection:
            values = {"key": key, "code": code, "name": name, "fits": int(fits)}
            if not _run(connection, statement, **values).rowcount:
                raise ValueError("this is not an answer to be marked; load the page again")

    def marks_of(self, code: str) -> dict[str, dict[str, bool]]:
        """Return what a person said of classes, by the item's key."""
        query = (
            "SELECT marks.key, name, fits FROM marks JOIN items ON items.key = marks.key"
            " WHERE code = :code"
        )
        found: dict[str, dict[str, bool]] = {}
        with self._transaction(write=False) as connection:
            for key, name, fits in _rows(connection, query, code=code):
                found.setdefault(key, {})[name] = bool(fits)
        return found

    def marks(self, game: Game) -> list[Mark]:
        """Return what the people of a game said of classes that are not the label."""
        query = (
            "SELECT number, image, target, response, name, fits FROM marks"
            " JOIN answers ON answers.key = marks.key JOIN items ON items.key = marks.key"
            " JOIN people ON people.code = items.code WHERE game = :game"
            " ORDER BY number, position, name"
        )
        with self._transaction(write=False) as connection:
            rows = _rows(connection, query, game=game)
        return [
            Mark(f"p-{row[0]:04}", row[1], row[2], row[4], own=row[3] == row[4], fits=bool(row[5]))
            for row in rows
        ]

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
            "SELECT number, position, guesses, image_row, image, target, kind, response, seconds,"
            " further, screen FROM answers"
            " JOIN items ON items.key = answers.key JOIN people ON people.code = items.code"
            " WHERE game = :game ORDER BY number, position"
        )
        with self._transaction(write=False) as connection:
            rows = _rows(connection, query, game=game)
        return [
            _answer(number, position, Shown(*row[:4]), _given(row[4:]), guesses)
            for number, position, guesses, *row in rows
        ]

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


def _begin(
    connection: sa.Connection, digest: str, about: dict[str, Any] | None, name: str
) -> tuple[str, str]:
    """Return digest and about of the study, which begins here where none was begun."""
    if about is None and not _version(connection):
        raise ValueError(f"{name} holds no study; `tinysight quiz` begins one")
    _migrate(connection, name)
    found = _rows(connection, "SELECT digest, about FROM study")
    if found:
        return found[0][0], found[0][1]
    text = json.dumps(about, sort_keys=True)
    statement = "INSERT INTO study (digest, about, next_number) VALUES (:digest, :about, 0)"
    _run(connection, statement, digest=digest, about=text)
    return digest, text


def _options(about: str) -> str:
    """Return how a study was begun, as options."""
    known = json.loads(about)
    names = {"num_images": "images"}
    return " ".join(f"--{names.get(name, name)} {value}" for name, value in known.items())


def _version(connection: sa.Connection) -> int:
    if not sa.inspect(connection).has_table("schema_version"):
        return 0
    return _run(connection, "SELECT max(version) FROM schema_version").scalar() or 0


def _migrate(connection: sa.Connection, name: str) -> None:
    """Bring a database to the newest version, within the transaction."""
    if _version(connection) == len(MIGRATIONS):
        return  # nothing is written: it may be one that can only be read
    if connection.dialect.name == "postgresql":  # two servers that start at once
        _run(connection, "SELECT pg_advisory_xact_lock(745)")
    version = _version(connection)
    if not version and (others := sa.inspect(connection).get_table_names()):
        raise ValueError(
            f"{name} holds the table {others[0]}, of another program; name another by --db"
        )
    _run(connection, "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    if version > len(MIGRATIONS):
        raise ValueError(
            f"{name} has version {version}, this tinysight knows {len(MIGRATIONS)}; update it"
        )
    for number, statements in enumerate(MIGRATIONS[version:], version + 1):
        for statement in statements:
            _run(connection, statement)
        _run(connection, "INSERT INTO schema_version VALUES (:number)", number=number)
