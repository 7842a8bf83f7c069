"""Answers are kept once, in both kinds of databases; what is not kept is not acknowledged."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tinysight.people import store as module
from tinysight.people.answers import Mark
from tinysight.people.store import Game, Given, Shown, Store, UnavailableError

ITEMS = [Shown(i, f"{i}.png", "cat", "main") for i in range(3)]
CLASSES = ("cat", "dog")


@pytest.fixture
def url(database: Callable[[], str]) -> str:
    return database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(open_store(url)) as store:
        yield store


def open_store(url: str, digest: str = "d") -> Store:
    return Store(url, digest=digest, about={"seed": 1})


def register(store: Store, **changes: Any) -> tuple[str, list[str]]:
    """Enter a person; return the code and the keys of the items."""
    own = {"guesses": changes.get("guesses", 2)}
    code, _ = store.register(changes.get("game", "full"), CLASSES, lambda turn: ITEMS, **own)
    return code, [key for key, _, _ in store.person(code).items]


def test_a_person_is_found_again_with_what_was_answered(store: Store, url: str) -> None:
    code, keys = register(store)
    given = Given("dog", 1.25, ("cat",), "400x700@2")
    assert store.answer(code, keys[1], given) == given
    assert store.answer(code, keys[2], Given(None)) == Given(None)
    store.close()
    with closing(open_store(url)) as again:
        person = again.person(code)
        assert (person.game, person.number, person.classes) == ("full", 0, CLASSES)
        assert person.guesses == 2
        assert [item for _, item, _ in person.items] == ITEMS
        assert [kept for _, _, kept in person.items] == [None, given, Given(None)]
        assert again.about == {"seed": 1}
        answers = again.answers("full")
    assert [(a.subject, a.trial, a.image, a.response, a.seconds, a.further) for a in answers] == [
        ("p-0000", 2, "1.png", "dog", 1.25, ("cat",)),
        ("p-0000", 3, "2.png", None, None, ()),
    ]


def test_an_answer_that_is_sent_again_changes_nothing(store: Store) -> None:
    code, keys = register(store)
    first = store.answer(code, keys[0], Given("dog", 1.0))
    assert store.answer(code, keys[0], Given("cat", 9.0)) == first
    with ThreadPoolExecutor(8) as pool:  # two tabs, and a client that tries again
        found = list(pool.map(lambda n: store.answer(code, keys[1], Given("cat", n)), range(8)))
    assert len(set(found)) == 1
    assert len(store.answers("full")) == 2


def test_a_person_has_only_their_own_items(store: Store) -> None:
    (mine, keys), (other, _) = register(store), register(store, game="quick")
    for code, key in ((other, keys[0]), (mine, "guess"), ("", keys[0])):
        with pytest.raises(ValueError, match="no such image"):
            store.answer(code, key, Given("cat"))
    with pytest.raises(ValueError, match="no game of this code"):
        store.person("guess")
    store.answer(mine, keys[0], Given("cat"))
    assert store.answers("quick") == [] and len(store.answers("full")) == 1


def test_what_is_said_of_other_answers_is_kept_and_may_change(store: Store, url: str) -> None:
    (code, keys), (other, _) = register(store), register(store)
    store.answer(code, keys[0], Given("dog"))
    for wrong in ((code, keys[0], "cat"), (code, keys[1], "dog"), (other, keys[0], "dog")):
        with pytest.raises(ValueError, match="not an answer to be marked"):  # label, unanswered
            store.mark(*wrong, True)
    for fits in (True, True, False):
        store.mark(code, keys[0], "dog", fits)
    store.mark(code, keys[0], "owl", True)
    with closing(open_store(url)) as again:
        assert again.marks_of(code) == {keys[0]: {"dog": False, "owl": True}}
        assert again.marks_of(other) == {} and again.marks("quick") == []
        assert again.marks("full") == [
            Mark("p-0000", "0.png", "cat", "dog", own=True, fits=False),
            Mark("p-0000", "0.png", "cat", "owl", own=False, fits=True),
        ]
    assert store.delete(code) and store.marks("full") == []


def test_people_who_come_at_once_get_numbers_of_their_own(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        codes = [code for code, _ in pool.map(lambda _: register(store), range(24))]
    assert sorted(store.person(code).number for code in codes) == list(range(24))


def test_each_game_counts_its_own_people(store: Store) -> None:
    turns: list[int] = []

    def plan(turn: int) -> list[Shown]:
        turns.append(turn)
        return ITEMS

    games: list[Game] = ["full", "quick", "full", "quick", "full"]
    found = [store.register(game, CLASSES, plan) for game in games]
    assert turns == [0, 0, 1, 1, 2] and [number for _, number in found] == [0, 1, 2, 3, 4]
    assert all(store.person(code).number == number for code, number in found)
    store.delete(found[-1][0])
    assert store.register("full", CLASSES, plan)[1] == 5
    assert turns[-1] == 3  # of the deleted person nothing is planned again


def test_what_is_deleted_is_gone(store: Store, url: str, tmp_path: Path) -> None:
    code, keys = register(store)
    other, theirs = register(store)
    store.answer(code, keys[0], Given("dog", screen="a-rare-screen"))
    store.answer(other, theirs[0], Given("cat"))
    assert store.delete(code) is True and store.delete(code) is False
    with pytest.raises(ValueError, match="no game"):
        store.person(code)
    assert [answer.response for answer in store.answers("full")] == ["cat"]
    with store.engine.connect() as connection:
        counts = [connection.execute(sa.text(f"SELECT count(*) FROM {t}")).scalar() for t in
                  ("people", "items", "answers")]  # fmt: skip
    assert counts == [1, 3, 1]
    assert register(store) and store.person(register(store)[0]).number == 3  # none is used twice
    for path in tmp_path.glob("*.db*"):
        assert b"a-rare-screen" not in path.read_bytes() and code.encode() not in path.read_bytes()


def test_only_the_day_is_kept(store: Store) -> None:
    code, keys = register(store)
    store.answer(code, keys[0], Given("dog"))
    with store.engine.connect() as connection:
        row = connection.execute(sa.text("SELECT * FROM people")).one()
    assert set(row._mapping) == {"code", "number", "game", "classes", "day", "guesses"}
    assert row.day == time.strftime("%Y-%m-%d", time.gmtime())


def test_a_clock_that_is_set_back_changes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, keys = register(store)
    store.answer(code, keys[0], Given("dog"))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    store.answer(code, keys[1], Given("cat"))
    assert [answer.response for answer in store.answers("full")] == ["dog", "cat"]


def test_other_data_and_newer_versions_are_refused(store: Store, url: str) -> None:
    with pytest.raises(ValueError, match="other data"):
        open_store(url, "e")
    with pytest.raises(ValueError, match=r"a study of --seed 1; go on"):
        Store(url, digest="d", about={"seed": 2})
    with closing(Store(url, digest="d", about=None)) as again:
        assert again.about == {"seed": 1}
    with store.engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO schema_version VALUES (99)"))
    with pytest.raises(ValueError, match="version 99"):
        open_store(url)


def test_a_study_that_was_not_begun_is_not_read(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no study" if "postgres" in url else "not a file"):
        Store(url, digest="d", about=None)
    (tmp_path / "empty.db").touch()
    with pytest.raises(ValueError, match=r"empty\.db holds no study"):
        Store(str(tmp_path / "empty.db"), digest="d", about=None)
    for missing in (str(tmp_path / "missing.db"), f"sqlite:///{tmp_path}/missing.db"):
        with pytest.raises(ValueError, match=r"missing\.db is not a file"):
            Store(missing, digest="d", about=None)
    assert not (tmp_path / "missing.db").exists()


def test_another_programs_database_is_left_alone(url: str) -> None:
    with closing(open_store(url)) as store, store.engine.begin() as connection:
        others = sa.MetaData()
        others.reflect(connection)
        others.drop_all(connection)
        sa.Table("recipes", sa.MetaData(), sa.Column("name", sa.Text)).create(connection)
    with pytest.raises(ValueError, match="holds the table recipes, of another program"):
        open_store(url)


def test_a_database_of_an_older_version_is_brought_further(
    store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, keys = register(store)
    store.answer(code, keys[0], Given("dog"))
    step = ("ALTER TABLE people ADD COLUMN note TEXT NOT NULL DEFAULT 'x'",)
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, (*step, "SELECT wrong")))
    with pytest.raises(UnavailableError, match="wrong"):
        open_store(url)
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS[:-1], step))
    for _ in range(2):  # the step that failed left nothing, and none is done twice
        with closing(open_store(url)) as newer, newer.engine.connect() as connection:
            assert connection.execute(sa.text("SELECT note FROM people")).scalars().all() == ["x"]
    assert [answer.response for answer in store.answers("full")] == ["dog"]


def test_a_study_of_the_first_version_goes_on_with_further_guesses(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(module, "MIGRATIONS", module.MIGRATIONS[:1])
        with closing(open_store(url)) as store, store.engine.begin() as connection:
            for statement in (
                "UPDATE study SET next_number = 1",
                """INSERT INTO people VALUES ('c', 0, 'full', '["cat", "dog"]', '2026-01-01')""",
                "INSERT INTO items VALUES ('k', 'c', 1, 0, '0.png', 'cat', 'main'),"
                " ('m', 'c', 2, 1, '1.png', 'cat', 'main')",
                "INSERT INTO answers VALUES ('k', 'dog', 1.5, '[]', '')",
            ):
                connection.exec_driver_sql(statement)
    with closing(open_store(url)) as store:
        person = store.person("c")
        assert person.guesses == 1 and person.items[0][2] == Given("dog", 1.5)
        with pytest.raises(ValueError, match="asked for 1 guesses"):
            store.answer("c", "m", Given("dog", further=("cat",)))
        assert [item.row for _, item, _ in person.items] == [0, 1]
        code, keys = register(store, guesses=3)
        store.answer(code, keys[0], Given("dog", further=("cat",)))
        found = [(a.subject, a.response, a.further) for a in store.answers("full")]
        assert found == [("p-0000", "dog", None), ("p-0001", "dog", ("cat",))]
        assert store.classes("full") == CLASSES and store.classes("quick") is None
        turns: list[int] = []  # go on after those of both games
        for game in ("full", "quick"):
            store.register(game, CLASSES, lambda turn: turns.append(turn) or ITEMS)
        assert turns == [2, 1]


def test_two_servers_may_open_an_empty_database_at_once(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for opened in pool.map(lambda _: open_store(url), range(4)):
            opened.close()
    with closing(open_store(url)) as store:
        assert register(store)


def test_sqlite_is_durable_and_written_by_one(tmp_path: Path) -> None:
    with closing(open_store(str(tmp_path / "a.db"))) as store:
        found = {}
        for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete"):
            with store.engine.connect() as connection:
                found[name] = connection.exec_driver_sql(f"PRAGMA {name}").scalar()
        assert found == {
            "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1
        }  # fmt: skip
        assert store.engine.pool.size() == 1


def test_a_full_disk_acknowledges_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(open_store(str(path))) as store:
        code, keys = register(store)
        store.answer(code, keys[0], Given("dog"))
        with store.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(UnavailableError, match="full"):
            for _ in range(500):
                register(store)
        with store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 100000")
        store.answer(code, keys[1], Given("cat"))  # when there is room again
    with closing(open_store(str(path))) as again:
        assert [answer.response for answer in again.answers("full")] == ["dog", "cat"]


def test_a_write_that_the_system_refuses_acknowledges_nothing(tmp_path: Path) -> None:
    """The real refusal of the file system, by a limit on the size of files."""
    path = tmp_path / "a.db"
    acknowledged = tmp_path / "acknowledged"
    pid = os.fork()
    if pid == 0:
        try:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            store = open_store(str(path))
            size = path.stat().st_size + Path(f"{path}-wal").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 200_000, size + 200_000))
            done = []
            try:
                while True:
                    code, keys = register(store)
                    store.answer(code, keys[0], Given("dog"))
                    done.append(code)
            except UnavailableError:
                acknowledged.write_text(json.dumps(done))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    done = json.loads(acknowledged.read_text())
    with closing(open_store(str(path))) as store:
        assert len(done) > 2
        for code in done:
            assert store.person(code).items[0][2] == Given("dog")


def test_a_postgresql_that_may_only_be_read_acknowledges_nothing(postgresql: Any) -> None:
    url = postgresql.new_database()
    with closing(open_store(url)) as store:
        code, keys = register(store)
        with store.engine.connect() as connection:
            name = sa.engine.make_url(url).database
            query = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(query)
        store.close()  # its connections began before
        with pytest.raises(UnavailableError, match="read-only transaction"):
            store.answer(code, keys[0], Given("cat"))
        assert store.person(code).items[0][2] is None
        with closing(Store(url, digest="d", about=None)) as again:
            assert again.about == {"seed": 1}  # it can be reported


def test_a_database_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/a.db")) as store:
        code, keys = register(store)
    read_only = sqlite3.connect(f"file:{tmp_path}/a.db?mode=ro", uri=True)
    read_only.close()
    with closing(open_store(str(tmp_path / "a.db"))) as store:
        with store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")
        with pytest.raises(UnavailableError, match="readonly"):
            store.answer(code, keys[0], Given("cat"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/a.db", "missing is not a folder; make it, or name another"),
        ("folder", "folder is a folder; name a file in it"),
        ("text.db", "text.db is not a database of SQLite; name another"),
        ("text.db/a.db", "text.db is not a folder"),
        ("damaged.db", "damaged.db cannot be opened: .*malformed"),
    ],
)
def test_a_file_that_cannot_be_the_database_is_named_with_what_to_do(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.db").write_text("answers, and more than sixteen bytes")
    with closing(open_store(str(tmp_path / "damaged.db"))):
        pass
    with (tmp_path / "damaged.db").open("r+b") as file:
        file.seek(100)
        file.write(b"x" * 8000)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        open_store(str(tmp_path / name))
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(ValueError, match="names no file"):
        open_store("sqlite://")


def without_rights(act: Callable[[], None]) -> None:
    """Run as a user who may not do everything; root may, whatever the rights of files say."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            act()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("is_open", [False, True])
def test_a_file_that_may_only_be_read_is_read_but_no_quiz_begins(is_open: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:  # whose parents all may enter
        path = Path(folder, "of # 100% ?.db")
        store = open_store(str(path))
        code, keys = register(store)
        store.answer(code, keys[0], Given("dog"))
        if not is_open:
            store.close()
        before = {each: each.read_bytes() for each in Path(folder).iterdir()}
        for each in before:
            each.chmod(0o444)
        Path(folder).chmod(0o555)

        def look() -> None:
            with closing(Store(str(path), digest="d", about=None)) as found:
                assert [answer.response for answer in found.answers("full")] == ["dog"]
                assert found.about == {"seed": 1} and found.classes("full") == CLASSES
            with pytest.MonkeyPatch.context() as newer:
                newer.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, ("SELECT 1",)))
                with pytest.raises(ValueError, match=r"copy it, .* to a folder that you can write"):
                    Store(str(path), digest="d", about=None)
            for name in (path, Path(folder, "new.db")):
                with pytest.raises(ValueError, match="cannot be written; make it and its folder"):
                    open_store(str(name))

        without_rights(look)
        path.chmod(0o000)

        def refuse() -> None:
            with pytest.raises(ValueError, match=r"cannot be read \(Permission denied\)"):
                Store(str(path), digest="d", about=None)

        without_rights(refuse)
        Path(folder).chmod(0o755)
        assert {each: each.stat().st_size for each in Path(folder).iterdir()} == {
            each: len(content) for each, content in before.items()
        }
        store.close()


@pytest.mark.parametrize("url", ["mysql://x", "oracle://u:secret@h/x"])
def test_other_databases_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(ValueError, match="expected sqlite") as found:
        open_store(url)
    assert "secret" not in str(found.value)


def test_a_postgresql_that_is_not_there_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(UnavailableError, match="refused") as found:
        open_store("postgresql://someone:secret@127.0.0.1:1/x")
    assert "secret" not in str(found.value)
