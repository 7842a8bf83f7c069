"""`kill -9` of the server, and of the database, behind real HTTP: no acknowledged answer is lost,
none is doubled.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tinysight.data.dataset import Dataset
from tinysight.people.store import Store

TOKEN = "a-token-of-the-tests"
NAMES = ("p", "q")


class Lives:
    """A server that is killed and started again on one port."""

    def __init__(self, url: str, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, str(Path(__file__).with_name("lives.py")), url]
        environment = os.environ | {"TINYSIGHT_DATA": str(home), "OMP_NUM_THREADS": "1"}
        self.launcher = subprocess.Popen(
            [*command, str(self.port), TOKEN], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.pid = 0

    def start(self) -> None:
        assert self.launcher.stdin and self.launcher.stdout
        self.launcher.stdin.write("start\n")
        self.launcher.stdin.flush()
        self.pid = int(self.launcher.stdout.readline())

    def kill(self) -> None:
        """Kill it, and wait until its port is free."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            while True:
                os.kill(self.pid, 0)
                time.sleep(0.001)

    def close(self) -> None:
        self.kill()
        assert self.launcher.stdin and self.launcher.stdout
        self.launcher.stdin.close()
        assert self.launcher.wait(30) == 0
        self.launcher.stdout.close()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and answer; 0 where the connection broke."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, None
        finally:
            connection.close()


class Player:
    """Answers as fast as it can, and asks again until it is acknowledged; notes what was."""

    def __init__(self, lives: Lives, seed: int) -> None:
        self.lives, self.random = lives, random.Random(seed)
        self.kept: dict[tuple[str, str], str | None] = {}
        self.wrong: list[str] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._play)
        self.thread.start()

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        while not self.stop.is_set():
            status, found = self.lives.ask(method, path, body)
            if status == 200:
                return found
            if status not in (0, 503):
                self.wrong.append(f"{method} {path}: {status} {found}")
            time.sleep(0.005)
        return None

    def _play(self) -> None:
        while not self.stop.is_set():
            person = self._ask("POST", "/api/people", {"game": "full"})
            if (
                person is None
                or (shown := self._ask("GET", f"/api/people/{person['code']}")) is None
            ):
                return
            for item in shown["items"]:
                key, said = (person["code"], item["key"]), self.random.choice(shown["classes"])
                kept = self._ask("POST", f"/api/people/{key[0]}/{key[1]}", {"response": said})
                if kept is None:
                    return
                self.kept[key] = kept["response"]
                if kept["response"] != said:
                    self.wrong.append(f"{key}: {said} became {kept}")
                if self.random.random() < 0.1:  # a second tab answers otherwise
                    again = self._ask("POST", f"/api/people/{key[0]}/{key[1]}", {"response": None})
                    if again is not None and again["response"] != said:
                        self.wrong.append(f"{key}: {said} was overwritten by {again}")


def open_again(url: str, home: Path) -> Store:
    manifest = json.loads((home / "small" / "manifest.json").read_text())
    return Store(url, digest=manifest["digest"], about={})


@contextmanager
def played(url: str, home: Path, fewest: int) -> Iterator[tuple[Lives, list[Player]]]:
    """Let people play during the body; then compare what was acknowledged and what is kept."""
    lives = Lives(url, home)
    lives.start()
    everyone = [Player(lives, seed) for seed in range(4)]
    try:
        yield lives, everyone
    finally:
        for player in everyone:
            player.stop.set()
        for player in everyone:
            player.thread.join(30)
        lives.close()
    assert [fault for player in everyone for fault in player.wrong] == []
    kept = {key: said for player in everyone for key, said in player.kept.items()}
    with closing(open_again(url, home)) as store:
        people = {code: store.person(code) for code in {code for code, _ in kept}}
        rows = store.answers("full")
    found = {
        (code, key): given.response
        for code, person in people.items()
        for key, _, given in person.items
        if given is not None
    }
    lost = {key: said for key, said in kept.items() if found.get(key, "") != said}
    assert lost == {} and len(kept) >= fewest
    assert len({(row.subject, row.trial) for row in rows}) == len(rows)


def acknowledged(players: list[Player]) -> int:
    return sum(len(player.kept) for player in players)


def kill_servers(url: str, home: Path, times: int) -> None:
    rng = random.Random(5)
    with played(url, home, times) as (lives, players):
        for _ in range(times):
            before, deadline = acknowledged(players), time.monotonic() + 30
            while acknowledged(players) == before and time.monotonic() < deadline:
                time.sleep(0.001)
            assert acknowledged(players) > before, "nothing is acknowledged any more"
            time.sleep(rng.expovariate(1 / 0.02))
            lives.kill()
            lives.start()


def kill_databases(server: Any, home: Path, times: int) -> None:
    """Kill the postmaster and processes that serve the study, at random."""
    rng, backends = random.Random(6), 0
    with played(server.new_database(), home, 5 * times) as (_, players):
        for number in range(times):
            before, deadline = acknowledged(players), time.monotonic() + 60
            while acknowledged(players) < before + 5 and time.monotonic() < deadline:
                time.sleep(0.001)
            assert acknowledged(players) >= before + 5, "nothing is acknowledged any more"
            time.sleep(rng.expovariate(1 / 0.05))
            if number % 2 and server.kill_backend(rng):
                backends += 1
            else:
                server.kill()
                server.start()
        server.wait()  # what is kept is read next
    assert backends >= 0.8 * (times // 2)


def test_no_acknowledged_answer_is_lost_when_the_server_is_killed(
    database: Callable[[], str], data_home: Path, dataset: Dataset
) -> None:
    url = database()
    kill_servers(url, data_home, 100 if url.startswith("sqlite") else 20)


def test_no_acknowledged_answer_is_lost_when_the_database_is_killed(
    postgresql: Any, data_home: Path, dataset: Dataset
) -> None:
    kill_databases(postgresql, data_home, 4)


@pytest.mark.reliability
def test_a_thousand_kills_of_the_server(
    database: Callable[[], str], data_home: Path, dataset: Dataset
) -> None:
    kill_servers(database(), data_home, 1000)


@pytest.mark.reliability
def test_a_hundred_kills_of_the_database(
    postgresql: Any, data_home: Path, dataset: Dataset
) -> None:
    kill_databases(postgresql, data_home, 100)


def test_a_game_in_a_browser_goes_on_when_the_server_is_killed_twice(
    browser: Any, database: Callable[[], str], data_home: Path, dataset: Dataset
) -> None:
    url = database()
    lives = Lives(url, data_home)
    lives.start()
    while lives.ask("GET", "/api/quiz")[0] != 200:
        time.sleep(0.01)
    page = browser.new_page()
    try:
        page.goto(f"http://127.0.0.1:{lives.port}/?token={TOKEN}")
        page.locator("#consent").check()
        page.locator("#full").click()
        page.locator("#skip").click()
        said: dict[str, str] = {}
        number = total = 0
        while True:
            page.wait_for_function(
                """(said) => {
                    const { shown = "practice" } = document.getElementById("game").dataset;
                    return !document.getElementById("result").hidden
                        || (!(shown in said) && !shown.startsWith("practice"));
                }""",
                arg=said,
            )
            if page.locator("#result").is_visible():
                break
            key = page.evaluate("() => document.getElementById('game').dataset.shown")
            said[key] = dataset.class_names[number % 24]
            number += 1
            if number == 1:
                page.wait_for_load_state("networkidle")  # all pictures are loaded
                total = int(page.locator("#game-title").text_content().split()[-1])
            if number == total:
                lives.kill()
            page.evaluate(SAY, said[key])
            if number == 6:  # while the answer is on its way, or just kept
                lives.kill()
            if number in (7, total):
                page.get_by_text("your answers wait here").wait_for()
            if number in (9, total):
                lives.start()
        code = page.locator("#own").text_content()
        assert page.locator("#status").text_content() == ""
    finally:
        page.close()
        lives.close()
    with closing(open_again(url, data_home)) as store:
        kept = {key: given.response for key, _, given in store.person(code).items if given}
        assert kept == said
        assert len(store.answers("full")) == len(said) == len(store.person(code).items)


SAY = """(name) => {
    const field = document.getElementById("name");
    field.value = name;
    field.dispatchEvent(new Event("input"));
    field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
}"""
