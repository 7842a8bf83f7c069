"""The quiz over HTTP and in a real browser: whole games by keyboard on drawn shapes."""

from __future__ import annotations

import http.client
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Resampling

from tinysight.data.dataset import Dataset, open_dataset
from tinysight.people.answers import RULES, gather
from tinysight.people.exports import write_exports
from tinysight.people.material import TABLE, Material
from tinysight.people.quiz import Quiz, create_app
from tinysight.people.report import write_study
from tinysight.people.results import analyze
from tinysight.people.store import Given, Store, UnavailableError
from tinysight.people.study import Study
from tinysight.server.http import serving

TOKEN = "a-token-of-the-tests"
NUM_IMAGES = 10  # with one catch image


@dataclass
class Running:
    """A server of a quiz that can be stopped and started again on its port."""

    material: Material
    store: Store
    port: int = 0
    link: str = ""
    guesses: int = 1
    token: str = TOKEN
    thread: threading.Thread | None = None

    def start(self) -> None:
        make_app = partial(create_app, Quiz(self.material, self.store, self.guesses))
        self.server, listener, self.link = serving(make_app, port=self.port, token=self.token)
        self.port = listener.getsockname()[1]
        run = {"sockets": [listener]}
        self.thread = threading.Thread(target=self.server.run, kwargs=run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def enter(self) -> str:
        """Enter a person of the full game; return the code."""
        return Quiz(self.material, self.store, self.guesses).enter("full")

    def stop(self) -> None:
        assert self.thread is not None
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def quiz(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """24 classes, two networks: one is always right, the other takes each class for the next."""
    labels = dataset.labels[slice(*dataset.splits["val"])]
    right = np.eye(24, dtype=np.float32)[labels]
    networks = {"best": right, "worst": np.roll(right, 1, axis=1)}
    material = Material(dataset, "val", networks, num_images=NUM_IMAGES)
    path = tmp_path_factory.mktemp("quiz") / "answers.db"
    running = Running(material, Store(str(path), digest=dataset.digest, about={}))
    running.start()
    yield running
    running.stop()
    running.store.close()


@pytest.fixture(params=[400, 1400])
def page(browser: Any, quiz: Running, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page at two widths, as a new person has it; nothing is wrong in its console."""
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(quiz.link)
    page.get_by_text("Would you like to take part?").wait_for()
    yield page
    width = page.evaluate("() => document.documentElement.scrollWidth")
    context.close()
    assert wrong == []
    assert width <= request.param, "the page is wider than the window"


def begin(page: Any, game: str, practice: bool = False) -> None:
    """Agree and begin a game by keyboard."""
    page.locator("#consent").focus()
    page.keyboard.press("Space")
    page.locator(f"#{game}").focus()
    page.keyboard.press("Enter")
    page.locator("#game").wait_for()
    if not practice:
        page.locator("#skip").click()
        if game == "quick":
            show(page)
        shown(page)


def show(page: Any) -> None:
    """Ask for the next picture of the quick game by keyboard."""
    page.wait_for_function("() => document.activeElement.id === 'show'")
    page.keyboard.press("Space")


def shown(page: Any) -> str:
    """Wait for the next picture of the game; return its key."""
    page.wait_for_function(
        "(before) => { const key = document.getElementById('game').dataset.shown;"
        " return key && key !== before && !key.startsWith('practice') }",
        arg=page.evaluate("() => window.before ?? ''"),
    )
    key: str = page.evaluate("() => window.before = document.getElementById('game').dataset.shown")
    return key


def press(page: Any, key: str) -> None:
    """Answer the picture of the quick game, once that is not too soon."""
    page.wait_for_function(
        "() => document.getElementById('game').dataset.shown"
        " && document.getElementById('picture').style.visibility === 'hidden'"
    )
    page.keyboard.press(key)


def code_of(page: Any) -> str:
    code: str = page.locator("#own").text_content()
    return code


def targets(quiz: Running, code: str) -> dict[str, str]:
    return {key: item.target for key, item, _ in quiz.store.person(code).items}


def type_name(page: Any, name: str) -> None:
    page.keyboard.type(name)
    page.keyboard.press("Enter")


def play(page: Any, quiz: Running, say: Any = type_name, wrong: int = 0) -> None:
    """Answer all that is left, the first `wrong` images as of another class."""
    code = code_of(page)
    right, person = targets(quiz, code), quiz.store.person(code)
    _, number, _, total = page.locator("#game-title").text_content().split()
    left = int(total) - int(number) + 1
    for number in range(left):
        target = right[page.evaluate("() => document.getElementById('game').dataset.shown")]
        other = next(name for name in person.classes if name != target)
        say(page, other if number < wrong else target)
        if number < left - 1:
            shown(page)
    page.locator("#result").wait_for()


def test_a_whole_full_game_by_keyboard(page: Any, quiz: Running, barriers: Any) -> None:
    assert barriers(page) == []
    assert page.locator("#full").is_disabled()
    assert page.locator("#rules").text_content() == "; or ".join(RULES)
    kept = page.locator("#start li", has_text="Kept:").first.text_content()
    for what in ("what you say at the end of other answers", "your window and of its pixels"):
        assert what in kept
    begin(page, "full", practice=True)
    assert barriers(page) == []
    names = practice(quiz)
    for number, name in enumerate(names):
        page.wait_for_function(
            "(key) => document.getElementById('game').dataset.shown === key",
            arg=f"practice-{len(names) - number}",
        )
        type_name(page, name if number else names[1])
        expected = f"Right: {name}" if number and names[1] != names[0] else f"It was {name}"
        page.get_by_text(expected, exact=True).wait_for()
    shown(page)
    play(page, quiz)
    code = page.locator("#own").text_content()
    kept = quiz.store.person(code)
    assert all(given and given.response == item.target for _, item, given in kept.items)
    assert all(
        given and given.seconds and given.screen.endswith("@1") for _, _, given in kept.items
    )
    rows = page.locator("#shares tr").all_text_contents()
    assert rows[0].startswith("you100.0 %") and rows[1].startswith("best100.0 %")
    assert rows[2].startswith("worst0.0 %")
    assert page.locator("#instructive figure").count() == 5
    first = page.locator("#instructive figcaption").first.locator("span").all_text_contents()
    assert first[:2] == ["✓ you", "✓ best"] and first[2].startswith("✗ worst: ")
    assert barriers(page) == []
    asked = page.locator("#instructive .also")
    assert asked.count() == 5  # what the worst network said
    legend = asked.nth(0).locator("legend").text_content()
    for button in ("No", "Yes"):
        asked.nth(0).get_by_role("button", name=button).press("Enter")
        pressed = asked.nth(0).locator(f"button[aria-pressed=true]:text-is('{button}')")
        pressed.wait_for()
    (said,) = [each for own in quiz.store.marks_of(code).values() for each in own.items()]
    assert said[1] is True and legend == f"Is {said[0]} right, too?"
    assert first[2] == f"✗ worst: {said[0]}"
    page.reload()
    pressed.wait_for()
    assert page.locator(".also [aria-pressed=true]").count() == 1
    assert barriers(page) == []
    delete(page, quiz, code, barriers)


def delete(page: Any, quiz: Running, code: str, barriers: Any, button: str = "delete") -> None:
    """Delete all answers of a code by keyboard; only after the question."""
    answered = count_kept(quiz, code)
    for sure in (False, True):
        page.locator(f"#{button}").focus()
        page.keyboard.press("Enter")
        page.get_by_role("dialog", name="Delete all answers of this code?").wait_for()
        assert barriers(page) == []
        assert f"{code}, {answered} of" in page.locator("#confirm-text").text_content()
        assert page.evaluate("() => document.activeElement.id") == "keep"
        if sure:
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.get_by_role("dialog").wait_for(state="hidden")
        if not sure:
            assert count_kept(quiz, code) == answered
    page.get_by_text(f"All answers of the code {code} are deleted.").wait_for()
    page.locator("#start").wait_for()
    with pytest.raises(ValueError, match="no game of this code"):
        quiz.store.person(code)
    left = page.evaluate("() => Object.keys(localStorage)")
    assert [name for name in left if code in name or "code" in name] == []
    assert barriers(page) == []


def test_a_game_is_deleted_while_it_is_played(page: Any, quiz: Running, barriers: Any) -> None:
    begin(page, "quick")
    code = code_of(page)
    press(page, "1")
    key = shown(page)
    page.locator("#delete").click()
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("2")  # is no answer while there is a question
    page.locator("#keep").click()
    wait_until_sent(page)
    assert count_kept(quiz, code) == 1
    assert page.evaluate("() => document.getElementById('game').dataset.shown") == key
    delete(page, quiz, code, barriers)
    begin(page, "full", practice=True)  # another game begins, without the message
    assert code_of(page) != code
    assert page.locator("#status").text_content() == ""


def test_a_game_is_deleted_or_found_by_its_code(page: Any, quiz: Running, barriers: Any) -> None:
    code = quiz.enter()
    page.locator("#code").fill(f" {code.upper()} ")
    delete(page, quiz, code, barriers, "delete-by-code")
    code = quiz.enter()
    for typed, said in (
        ("", "Type the code of your game first."),
        ("   ", "Type the code of your game first."),
        ("0123456789abcdef", "There is no game of this code; check its letters and digits"),
        *((odd, "There is no game of this code; it has letters and digits only.")
          for odd in ("a b", "a/b", "..", f"{code}/..", "?x", f"{code}#", "%2e%2e", "ключ", "🙂")),
    ):  # fmt: skip
        for button in ("Go on", "Delete its answers …"):
            page.locator("#status").evaluate("(status) => { status.textContent = '' }")
            page.locator("#code").fill(typed)
            page.get_by_role("button", name=button).click()
            page.get_by_text(said).wait_for()
            assert page.locator("#start").is_visible()
    assert page.locator("#status").bounding_box()["y"] < 900  # it is seen from the field
    page.locator("#code").fill(code)
    page.keyboard.press("Enter")
    page.locator("#skip").click()  # nothing was answered yet
    shown(page)
    assert code_of(page) == code and page.locator("#status").text_content() == ""


def test_a_game_that_was_deleted_elsewhere_ends_in_words(page: Any, quiz: Running) -> None:
    begin(page, "full")
    page.wait_for_load_state("networkidle")
    quiz.store.delete(code_of(page))
    type_name(page, "re")
    page.get_by_text("There is no game of this code any more: its answers were").wait_for()
    page.locator("#start").wait_for()
    assert page.evaluate("() => Object.keys(localStorage)") == []  # nothing finds the code
    code = quiz.enter()
    page.route("**/api/people/*/*", lambda route: route.fulfill(status=404, json={"error": "x"}))
    page.locator("#code").fill(code)
    page.keyboard.press("Enter")
    page.locator("#skip").click()
    page.get_by_text("There is no game of this code any more: its answers were").wait_for()
    page.locator("#start").wait_for()


def fail_by(fault: dict[str, Any] | None, route: Any) -> None:
    """Answer as something between the page and the database does that fails."""
    route.abort() if fault is None else route.fulfill(**fault)


NO_MACHINE_TEXT = ("{", "error", "Error", "fetch", "sqlite", "Not Found", "undefined", "null")


def test_nothing_of_the_machine_is_shown_to_players(page: Any, quiz: Running) -> None:
    page.locator("#consent").check()
    status = page.locator("#status")
    for fault, said in (
        (None, "The server does not answer. Try again in a moment."),
        ({"status": 503, "json": {"error": "the database did not take it (sqlite3: locked)"}},
         "The quiz cannot keep answers at the moment. Try again in a moment."),
        ({"status": 500, "body": "Internal Server Error"}, "The server cannot do this. Load the"),
        ({"status": 405, "json": {"error": "Method Not Allowed"}}, "The server cannot do this."),
        ({"status": 403, "body": "Open the link"}, "The quiz has a new link: open it, too."),
        ({"status": 200, "body": "<html>"}, "The server does not answer."),
    ):  # fmt: skip
        status.evaluate("(status) => { status.textContent = '' }")
        page.route("**/api/people", partial(fail_by, fault))
        page.locator("#full").click()
        page.get_by_text(said).wait_for()
        assert not [text for text in NO_MACHINE_TEXT if text in status.text_content()]
        page.unroute("**/api/people")
    page.locator("#consent").uncheck()
    begin(page, "full", practice=True)
    page.locator("#skip").click()
    shown(page)
    assert status.text_content() == ""


def test_the_page_goes_on_by_itself_at_its_beginning_and_its_end(page: Any, quiz: Running) -> None:
    begin(page, "quick")
    code = code_of(page)
    for key, item, _ in quiz.store.person(code).items:
        quiz.store.answer(code, key, Given(item.target, 1.0))
    for path in ("api/quiz", f"api/people/{code}", f"api/people/{code}/result"):
        page.route(f"**/{path}", partial(fail_by, None))
        page.reload()
        page.get_by_text("The server does not answer. This page goes on by itself.").wait_for()
        page.unroute(f"**/{path}")
        page.locator("#result").wait_for()
        assert page.locator("#status").text_content() == ""


def wait_until_sent(page: Any) -> None:
    """Wait until no answer waits in the browser."""
    page.wait_for_function(
        "() => Object.entries(localStorage).every(([k, v]) => !k.includes('outbox') || v === '{}')"
    )


def practice(quiz: Running) -> list[str]:
    data = quiz.material.dataset
    rows = quiz.material.practice(quiz.material.classes("full"))
    return [data.class_names[data.labels[row]] for row in rows]


def test_a_whole_quick_game_by_its_keys(
    page: Any, quiz: Running, barriers: Any, tmp_path: Path
) -> None:
    begin(page, "quick")
    assert barriers(page) == []
    person = quiz.store.person(code_of(page))
    assert len(person.classes) == 10
    page.wait_for_function("() => document.getElementById('picture').style.visibility === 'hidden'")
    page.evaluate(SHOWN_TIMES)

    def press_name(page: Any, name: str) -> None:
        press(page, str((person.classes.index(name) + 1) % 10))

    play(page, quiz, press_name, wrong=3)
    times = page.evaluate("() => window.times")
    assert len(times) >= 3 and min(times) >= 195 and np.median(times) < 400
    kept = quiz.store.person(page.locator("#own").text_content())
    assert (
        sum(given.response == item.target for _, item, given in kept.items if given)
        == NUM_IMAGES + 1 - 3
    )
    rows = quiz.store.answers("quick")
    assert len(rows) >= NUM_IMAGES + 1
    # report and export have the ten classes, for networks too, and the times
    study = Study(
        quiz.material, "quick", person.classes, gather(rows, quiz.material.dataset.class_names)
    )
    found = analyze(study, "all").findings
    assert found is not None and found.times is not None
    assert found.times.quartiles[1] == pytest.approx(
        np.median([row.seconds for row in rows if row.kind in ("core", "main")])
    )
    assert {name for name, own in zip(study.dataset.class_names, found.confusions, strict=True)
            if own.any()} <= set(person.classes)  # fmt: skip
    text = write_study(study, analyze(study, "all"), tmp_path / "report").read_text("utf-8")
    assert "a picture of 200 ms" in text and "in the median" in text
    networks = list(quiz.material.networks)
    write_exports(study.answers, tmp_path, name="s", networks=networks, people="all")
    trials = [line.split(",") for path in sorted((tmp_path / "model-vs-human" / "s").iterdir())
              for line in path.read_text("utf-8").splitlines()[1:]]  # fmt: skip
    assert {line[4] for line in trials} <= set(person.classes)
    assert all((line[3] == "NaN") == (line[0] in networks) for line in trials)


# Milliseconds that each picture was visible, by the style that hides it
SHOWN_TIMES = """() => {
    const picture = document.getElementById("picture");
    let since = null;
    window.times = [];
    new MutationObserver(() => {
        const visible = picture.style.visibility !== "hidden";
        if (visible && since === null) since = performance.now();
        if (!visible && since !== null) { times.push(performance.now() - since); since = null; }
    }).observe(picture, { attributes: true });
}"""
SHORTEST = """async ([name, classes]) => {
    const { matches } = await import("/static/names.js");
    const { synonyms } = window.quiz ??= await (await fetch("/api/quiz")).json();
    for (let length = 1; ; length++) {
        const typed = name.slice(0, length);
        const place = matches(classes, typed, synonyms).findIndex(([found]) => found === name);
        if (place === 0 || (place > 0 && length > 2)) return [typed, place];
    }
}"""


@pytest.mark.data
def test_a_class_of_200_takes_three_keys_and_enter(browser: Any, tmp_path: Path) -> None:
    """A full game on Tiny ImageNet by a player who types beginnings of names, then arrows."""
    try:
        data = open_dataset("tiny-imagenet")
    except ValueError as error:
        pytest.skip(str(error))
    store = Store(str(tmp_path / "a.db"), digest=data.digest, about={})
    running = Running(Material(data, "val", {}, num_images=NUM_IMAGES), store)
    running.start()
    page = browser.new_page()
    page.goto(running.link)
    page.get_by_text("Would you like to take part?").wait_for()
    begin(page, "full")

    def shortest(name: str) -> tuple[str, int]:
        typed, place = page.evaluate(SHORTEST, [name, data.class_names])
        return typed, place

    def say(page: Any, name: str) -> None:
        typed, place = shortest(name)
        page.keyboard.type(typed)
        for _ in range(place):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")

    keys = [len(typed) + place for typed, place in map(shortest, data.class_names)]
    assert len(keys) == 200 and np.mean(keys) <= 3 and max(keys) <= 6
    play(page, running, say)
    assert page.locator("#shares tr").first.text_content().startswith("you100.0 %")
    page.close()
    running.stop()
    store.close()


def test_arrows_the_mouse_and_not_knowing(page: Any, quiz: Running, barriers: Any) -> None:
    begin(page, "full")
    first = page.evaluate("() => window.before")
    page.keyboard.type("re")
    options = page.locator("#names li").all_text_contents()
    assert len(options) > 2
    page.keyboard.press("ArrowDown")
    assert page.locator("#name").get_attribute("aria-activedescendant") == "name-1"
    page.keyboard.press("Enter")
    second = shown(page)
    page.locator("#unknown").click()
    third = shown(page)
    assert page.locator("#feedback").text_content() == ""  # none but in practice
    page.locator("#classes > summary").click()
    page.locator("#groups > details > summary").first.click()
    button = page.locator("#groups .class button").first
    name = button.text_content()
    assert page.locator("#groups .class").first.locator("img").count() == 3  # per class in train
    assert barriers(page) == []
    button.click()
    shown(page)
    wait_until_sent(page)
    kept = {key: given for key, _, given in quiz.store.person(code_of(page)).items}
    assert [kept[key].response for key in (first, second, third)] == [options[1], None, name]


@pytest.fixture
def three_guesses(quiz: Running) -> Iterator[None]:
    quiz.stop()
    quiz.guesses = 3
    quiz.start()
    yield
    quiz.stop()
    quiz.guesses = 1
    quiz.start()


@pytest.fixture
def page_of_three_guesses(three_guesses: None, page: Any) -> Any:
    return page


def test_second_and_third_guesses_are_asked_for_where_they_are_wanted(
    page_of_three_guesses: Any, quiz: Running, barriers: Any
) -> None:
    page = page_of_three_guesses
    begin(page, "full")
    names = quiz.material.dataset.class_names
    keys = [page.evaluate("() => window.before")]
    for number, said in enumerate((names[:3], names[3:5], names[5:6], ())):
        for guess, name in enumerate(said):
            page.locator("#name:focus").wait_for()
            type_name(page, name)
            if guess < 2:
                page.get_by_label(("Second guess", "Third guess")[guess]).wait_for()
                assert barriers(page) == []
        if number == 0:
            keys.append(shown(page))
            continue
        if number == 1:
            page.keyboard.type(names[3])  # was said: it is not offered again
            assert names[3] not in page.locator("#names li").all_text_contents()
            page.keyboard.press("Escape")
            later(page)
            page.keyboard.press("Enter")
        else:
            later(page)
            page.locator("#unknown").click()
        keys.append(shown(page))
    wait_until_sent(page)
    person = quiz.store.person(code_of(page))
    kept = {key: given for key, _, given in person.items if given}
    assert [(kept[key].response, kept[key].further) for key in keys[:4]] == [
        (names[0], names[1:3]), (names[3], names[4:5]), (names[5], ()), (None, ()),
    ]  # fmt: skip
    rows = {
        row.trial: row
        for row in quiz.store.answers("full")
        if row.subject == f"p-{person.number:04}"
    }
    assert rows[1].further == tuple(names[1:3]) and len(rows) == 4


def later(page: Any) -> None:
    """Wait until a key counts that was struck twice before."""
    page.wait_for_timeout(200)


STRIKE = """(options) => document.getElementById("name").dispatchEvent(
    new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true, ...options }))"""


def test_enter_that_is_struck_twice_or_held_gives_up_no_guess(
    page_of_three_guesses: Any, quiz: Running
) -> None:
    page = page_of_three_guesses
    begin(page, "full")
    names, key = quiz.material.dataset.class_names, page.evaluate("() => window.before")
    second, third = page.get_by_label("Second guess"), page.get_by_label("Third guess")
    page.keyboard.type(names[0])
    page.evaluate(f"() => {{ const strike = {STRIKE}; strike({{}}); strike({{}}); }}")
    second.wait_for()
    page.keyboard.type(names[1])
    for options in ({"repeat": True}, {"isComposing": True}, {"keyCode": 229}):
        page.evaluate(STRIKE, options)
    assert third.is_hidden() and page.locator("#name").input_value() == names[1]
    page.keyboard.press("Enter")
    third.wait_for()
    later(page)
    page.keyboard.down("Enter")  # of two, the second is a repeat
    page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    assert shown(page) != key
    wait_until_sent(page)
    kept = [given for _, _, given in quiz.store.person(code_of(page)).items if given]
    assert [(given.response, given.further) for given in kept] == [(names[0], (names[1],))]


def test_enter_that_is_held_on_a_button_answers_once(page: Any) -> None:
    begin(page, "quick")
    later(page)
    page.locator("#unknown").focus()
    page.keyboard.down("Enter")
    shown(page)
    later(page)
    page.keyboard.down("Enter")  # a repeat, of a picture that may be answered
    page.keyboard.up("Enter")
    later(page)
    assert page.locator("#game-title").text_content().startswith("Image 2 of")


def test_a_picture_is_not_seen_under_the_number_of_the_next(page: Any, quiz: Running) -> None:
    held: list[Any] = []
    is_released = False

    def hold(route: Any) -> None:
        code, key = route.request.url.split("/")[-2:]
        is_free = is_released or key == quiz.store.person(code).items[0][0]
        route.continue_() if is_free else held.append(route)

    pictures = re.compile(r"/api/people/[a-z0-9]+/[0-9a-f]{24}$")
    page.route(pictures, hold)
    begin(page, "full")
    picture, name = page.locator("#picture"), page.locator("#name")
    assert picture.evaluate("(picture) => picture.style.visibility") == ""
    page.locator("#unknown").click()
    name.focus()
    page.locator("#game-title", has_text="Image 2 of").wait_for()
    assert picture.evaluate("(picture) => picture.style.visibility") == "hidden"
    page.keyboard.type("re")
    assert name.input_value() == "re"
    is_released = True
    for route in held:
        route.continue_()
    shown(page)
    assert picture.evaluate("(picture) => picture.style.visibility") == ""
    assert name.input_value() == "" and page.locator("#names li").count() == 0
    page.unroute_all(behavior="ignoreErrors")


def test_a_class_named_by_a_digit_has_that_key(page: Any) -> None:
    names = [*"012", "tea", *"456789"]

    def renamed(route: Any) -> None:
        route.fulfill(json=route.fetch().json() | {"classes": names})

    page.route(re.compile(r"/api/people/[a-z0-9]+$"), renamed)
    begin(page, "quick")
    assert page.locator("#keys kbd").all_inner_texts() == [*"0123456789"]
    with page.expect_request(lambda request: request.method == "POST") as sent:
        press(page, "5")
    assert json.loads(sent.value.post_data)["response"] == "5"
    page.unroute_all(behavior="ignoreErrors")


def test_a_reload_in_practice_goes_on_with_practice(page: Any, quiz: Running) -> None:
    picture = re.compile(r"/api/people/[a-z0-9]+/[0-9a-f]{24}$")
    page.route(picture, lambda route: None)  # no picture of the game comes
    begin(page, "full", practice=True)
    page.locator("#game[data-shown=practice-10]").wait_for()
    page.locator("#unknown").click()
    page.locator("#game-title", has_text="Practice: 9 to go").wait_for()
    page.reload()
    page.locator("#game-title", has_text="Practice: 10 to go").wait_for()
    page.locator("#skip").click()
    page.locator("#game-title", has_text="Image 1 of").wait_for()
    page.reload()  # practice is over, although no picture has come
    page.locator("#game-title", has_text="Image 1 of").wait_for()
    page.unroute(picture)
    page.reload()
    shown(page)


def test_a_double_click_is_one_person(page: Any, quiz: Running) -> None:
    entered: list[str] = []
    page.on("request", lambda each: entered.append(each.url) if each.method == "POST" else None)
    page.locator("#consent").check()
    page.locator("#full").dblclick()
    page.locator("#skip").click()
    shown(page)
    assert len(entered) == 1


def test_the_quick_game_begins_when_a_person_asks_for_it(page: Any, quiz: Running) -> None:
    begin(page, "quick", practice=True)
    title, ready = page.locator("#game-title"), page.locator("#ready")

    def is_asked(at: str) -> None:
        title.filter(has_text=at).wait_for()
        ready.wait_for()
        style = page.locator("#picture").evaluate("(picture) => picture.style.visibility")
        page.keyboard.press("1")  # answers nothing
        assert style == "hidden" and at in title.text_content()

    is_asked("Practice: 10 to go")
    show(page)
    page.wait_for_function("() => document.getElementById('game').dataset.shown === 'practice-10'")
    assert ready.is_hidden()
    press(page, "1")
    title.filter(has_text="Practice: 9 to go").wait_for()
    page.locator("#skip").click()
    is_asked("Image 1 of")
    show(page)
    shown(page)
    for number in (2, 3):  # these come at once
        press(page, "1")
        title.filter(has_text=f"Image {number} of").wait_for()
        assert ready.is_hidden()
        shown(page)
    page.reload()  # the third was shown
    title.filter(has_text="Image 3 of").wait_for()
    page.get_by_text("This picture was shown before the page was loaded again.").wait_for()
    assert ready.is_hidden()
    shown(page)
    page.keyboard.press("1")
    is_asked("Image 4 of")
    assert page.locator("#seen").is_hidden()
    page.locator("#game-title").click()  # the focus is elsewhere
    page.keyboard.press("Enter")
    shown(page)


def test_a_reload_between_two_guesses_asks_for_the_second_again(
    page_of_three_guesses: Any, quiz: Running
) -> None:
    page = page_of_three_guesses
    begin(page, "full")
    names, key = quiz.material.dataset.class_names, page.evaluate("() => window.before")
    code = code_of(page)
    type_name(page, names[0])
    page.get_by_label("Second guess").wait_for()
    asked = page.locator("#feedback").text_content()
    for _ in range(2):  # neither lost nor said twice
        page.reload()
        page.get_by_label("Second guess").wait_for()
        assert page.locator("#feedback").text_content() == asked
        assert page.evaluate("() => document.getElementById('game').dataset.shown") == key
    assert count_kept(quiz, code) == 0  # an answer is sent once, with all its guesses
    type_name(page, names[1])
    page.get_by_label("Third guess").wait_for()
    page.reload()
    page.get_by_label("Third guess").wait_for()
    page.locator("#name:focus").wait_for()
    later(page)
    page.keyboard.press("Enter")
    assert shown(page) != key
    page.get_by_label("What is it?").wait_for()
    wait_until_sent(page)
    page.reload()
    page.get_by_label("What is it?").wait_for()
    kept = {key: given for key, _, given in quiz.store.person(code).items if given}
    assert [(given.response, given.further) for given in kept.values()] == [(names[0], (names[1],))]
    assert list(kept) == [key] and kept[key].seconds > 0


def test_reload_and_another_tab_go_on_at_the_same_item(page: Any, quiz: Running) -> None:
    begin(page, "full")
    type_name(page, "re")
    key = shown(page)
    page.reload()
    page.wait_for_function(f"() => document.getElementById('game').dataset.shown === '{key}'")
    tab = page.context.new_page()
    tab.goto(quiz.link)
    tab.wait_for_function(f"() => document.getElementById('game').dataset.shown === '{key}'")
    tab.locator("#unknown").click()
    tab.wait_for_function(f"() => document.getElementById('game').dataset.shown !== '{key}'")
    page.locator("#name").focus()
    type_name(page, "re")  # the same image in the first tab: its answer is not kept
    page.wait_for_function(f"() => document.getElementById('game').dataset.shown !== '{key}'")
    page.go_back()
    page.go_forward()
    page.locator("#game").wait_for()
    person = quiz.store.person(code_of(page))
    kept = {key: given for key, _, given in person.items}
    assert kept[key] is not None and kept[key].response is None
    assert len([given for given in kept.values() if given]) == 2


def test_an_answer_of_another_device_counts_and_the_slower_one_is_told(
    page: Any, quiz: Running
) -> None:
    begin(page, "full")
    page.wait_for_load_state("networkidle")
    code, said = code_of(page), quiz.material.dataset.class_names[0]
    items = [key for key, _, _ in quiz.store.person(code).items]
    for each in items[:3]:  # by the other device
        quiz.store.answer(code, each, Given(said, 1.0))
    page.locator("#unknown").click()
    page.get_by_text("answered in another window before: that answer counts").wait_for()
    page.locator("#game-title", has_text="Image 4 of").wait_for()
    kept = {key: given for key, _, given in quiz.store.person(code).items if given}
    assert {key: given.response for key, given in kept.items()} == dict.fromkeys(items[:3], said)
    play(page, quiz)
    assert page.locator("#status").text_content() == ""


def test_a_picture_of_the_quick_game_is_shown_although_another_device_was_faster(
    page: Any, quiz: Running
) -> None:
    begin(page, "quick")
    code, items = code_of(page), quiz.store.person(code_of(page)).items
    said = quiz.store.person(code).classes[0]
    page.wait_for_load_state("networkidle")
    page.evaluate(SHOWN_TIMES)
    quiz.store.answer(code, items[0][0], Given(said, 1.0))
    press(page, "2")
    page.get_by_text("answered in another window before: that answer counts").wait_for()
    page.wait_for_function("() => window.times.length === 1")
    assert page.evaluate("() => window.times[0]") >= 195
    assert page.evaluate("() => document.getElementById('game').dataset.shown") == items[1][0]
    press(page, "3")  # what was said stands until the next answer
    page.locator("#game-title", has_text="Image 3 of").wait_for()
    assert page.locator("#status").text_content() == ""
    for key, _, _ in items[1:4]:
        quiz.store.answer(code, key, Given(said, 1.0))
    wait_until_sent(page)
    press(page, "2")  # of the third, which was answered; the fourth, too
    page.locator("#game-title", has_text="Image 5 of").wait_for()
    page.locator("#ready").wait_for()


def test_what_was_answered_is_not_asked_again_by_older_news(page: Any, quiz: Running) -> None:
    begin(page, "full")
    page.wait_for_load_state("networkidle")
    code, said = code_of(page), quiz.material.dataset.class_names[0]
    items = [key for key, _, _ in quiz.store.person(code).items]
    quiz.store.answer(code, items[0], Given(said, 1.0))
    news: list[Any] = []

    def hold(route: Any) -> None:
        news.append((route, route.fetch()))

    page.route(f"**/api/people/{code}", hold)
    page.locator("#unknown").click()  # another device was faster: what it answered is asked for
    page.locator("#game-title", has_text="Image 2 of").wait_for()
    shown(page)
    while not news:
        page.wait_for_timeout(20)
    page.locator("#unknown").click()
    page.locator("#game-title", has_text="Image 3 of").wait_for()
    wait_until_sent(page)
    route, answer = news[0]
    route.fulfill(response=answer)
    page.get_by_text("answered in another window before").wait_for()
    assert page.locator("#game-title").text_content().startswith("Image 3 of")
    assert page.evaluate("() => document.getElementById('game').dataset.shown") == items[2]


def test_answers_that_did_not_count_are_told_of_after_a_time_offline(
    page: Any, quiz: Running
) -> None:
    begin(page, "full")
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    for _ in range(3):
        type_name(page, "re")
        shown(page)
    status = page.locator("#status")
    status.filter(has_text="Nothing is lost: your answers wait here").wait_for()
    page.locator("#delete").click()  # its words are not overwritten
    status.filter(has_text="Nothing was deleted.").wait_for()
    code, said = code_of(page), quiz.material.dataset.class_names[0]
    for key, _, _ in quiz.store.person(code).items[:2]:
        quiz.store.answer(code, key, Given(said, 1.0))
    page.context.set_offline(False)
    wait_until_sent(page)
    status.filter(has_text="answered in another window before: that answer counts").wait_for()
    kept = [given.response for _, _, given in quiz.store.person(code).items if given]
    assert len(kept) == 3 and kept[:2] == [said, said]


def test_a_key_struck_twice_answers_once(page: Any, quiz: Running) -> None:
    begin(page, "quick")
    page.evaluate("""() => {
        const strike = () => document.body.dispatchEvent(
            new KeyboardEvent("keydown", { key: "4", bubbles: true }));
        const observer = new MutationObserver(() => { observer.disconnect(); strike(); });
        observer.observe(document.getElementById("game"), { attributeFilter: ["data-shown"] });
    }""")
    press(page, "4")  # and again as the next picture comes: nobody sees and answers so soon
    shown(page)
    press(page, "5")
    shown(page)
    wait_until_sent(page)
    person = quiz.store.person(code_of(page))
    given = [given for _, _, given in person.items if given]
    assert [each.response for each in given] == [person.classes[3], person.classes[4]]
    assert min(each.seconds for each in given) >= 0.15


def test_the_time_of_an_answer_goes_on_over_a_reload(page: Any, quiz: Running) -> None:
    begin(page, "quick")
    page.evaluate("""() => {
        const name = Object.keys(localStorage).find((each) => each.includes("draft"));
        const kept = JSON.parse(localStorage.getItem(name));
        localStorage.setItem(name, JSON.stringify({ ...kept, at: kept.at - 2000 }));
    }""")
    page.reload()
    page.get_by_text("This picture was shown before").wait_for()
    page.locator("#keys button").first.wait_for()
    shown(page)
    page.keyboard.press("1")
    wait_until_sent(page)
    (given,) = [given for _, _, given in quiz.store.person(code_of(page)).items if given]
    assert 2.0 <= given.seconds < 30


def test_who_does_not_count_is_told_at_the_end(page: Any, quiz: Running) -> None:
    begin(page, "full")
    play(page, quiz)
    page.get_by_text("By the rules your answers are not counted: 11 answers, fewer").wait_for()


def test_what_was_named_is_not_said_to_be_no_class(page_of_three_guesses: Any) -> None:
    page = page_of_three_guesses
    begin(page, "full")
    name = page.evaluate(
        "() => fetch('/api/quiz').then((a) => a.json()).then((q) => q.groups[0][1][0])"
    )
    type_name(page, name)
    page.get_by_label("Second guess").wait_for()
    page.keyboard.type(name)
    page.get_by_text("You named that already.").wait_for()


def test_a_name_that_no_class_has_is_said(page: Any, quiz: Running) -> None:
    begin(page, "full")
    nothing, name = page.get_by_text("No class has such a name."), page.locator("#name")
    for typed, seen in (("", False), ("zzz", True), ("re", False), ("  ", False)):
        name.fill(typed)
        assert nothing.is_visible() == seen, typed
    name.fill("zzz")
    page.locator("#unknown").click()
    shown(page)
    assert not nothing.is_visible()


def test_offline_for_a_while_and_back(page: Any, quiz: Running) -> None:
    begin(page, "full")
    page.wait_for_load_state("networkidle")
    quiz.stop()
    code = code_of(page)
    for _ in range(4):
        type_name(page, "re")
        shown(page)
    page.get_by_text("your answers wait here").wait_for()
    assert not any(given for _, _, given in quiz.store.person(code).items)
    quiz.start()
    deadline = time.monotonic() + 20
    while sum(given is not None for _, _, given in quiz.store.person(code).items) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    play(page, quiz)
    assert all(given for _, _, given in quiz.store.person(code).items)


def count_kept(quiz: Running, code: str) -> int:
    return sum(given is not None for _, _, given in quiz.store.person(code).items)


def test_answers_wait_five_minutes_offline_and_in_a_closed_page(page: Any, quiz: Running) -> None:
    begin(page, "full")
    page.wait_for_load_state("networkidle")  # all pictures are loaded
    code, context = code_of(page), page.context
    tab = context.new_page()
    tab.clock.install()
    tab.goto(quiz.link)
    shown(tab)
    tab.wait_for_load_state("networkidle")
    context.set_offline(True)
    for _ in range(3):
        type_name(tab, "re")
        shown(tab)
    tab.clock.run_for("05:00")
    tab.get_by_text("your answers wait here").wait_for()
    assert count_kept(quiz, code) == 0
    context.set_offline(False)
    deadline = time.monotonic() + 20
    while count_kept(quiz, code) < 3:
        assert time.monotonic() < deadline
        tab.clock.run_for(1000)
    context.set_offline(True)
    for _ in range(2):
        type_name(tab, "re")
        shown(tab)
    tab.close()
    assert count_kept(quiz, code) == 3
    context.set_offline(False)
    page.reload()  # any page of this browser sends what waits
    page.wait_for_function("() => document.getElementById('game-title').textContent[6] === '6'")
    while count_kept(quiz, code) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_quiz_with_a_new_link_gets_what_waits(page: Any, quiz: Running) -> None:
    begin(page, "full")
    page.wait_for_load_state("networkidle")
    quiz.stop()
    quiz.token = "another-token"
    quiz.start()
    try:
        type_name(page, "re")
        page.get_by_text("The quiz has a new link: open it").wait_for()
        assert count_kept(quiz, code_of(page)) == 0
        page.context.new_page().goto(quiz.link)
        deadline = time.monotonic() + 20
        while count_kept(quiz, code_of(page)) < 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        quiz.stop()
        quiz.token = TOKEN
        quiz.start()


def test_what_is_not_an_answer_is_refused_and_nothing_else_is_shown(quiz: Running) -> None:
    def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", quiz.port, timeout=20)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, content, {"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data if data[:4] == b"\x89PNG" else json.loads(data)

    _, made = ask("POST", "/api/people", {"game": "full"})
    own = f"/api/people/{made['code']}"
    _, state = ask("GET", own)
    key = state["items"][0]["key"]
    assert set(state["items"][0]) == {"key", "answered"}  # neither the class nor why it is shown
    good = {"response": state["classes"][0]}
    for path, body in (
        ("/api/people", {"game": "other"}),
        ("/api/people", b"not json"),
        (f"{own}/guess", good),
        (f"/api/people/guess/{key}", good),
        (f"{own}/{key}", {}),
        (f"{own}/{key}", {"response": "a class of another set"}),
        (f"{own}/{key}", good | {"seconds": -1}),
        (f"{own}/{key}", good | {"seconds": "1"}),
        (f"{own}/{key}", good | {"seconds": True}),
        (f"{own}/{key}", good | {"further": [1]}),
        (f"{own}/{key}", good | {"further": state["classes"][:3]}),
        (f"{own}/{key}", good | {"screen": "x" * 65}),
    ):
        status, found = ask("POST", path, body)
        assert status == 400 and found["error"], body
    assert ask("POST", f"{own}/{key}", b"x" * 5000)[0] == 413
    assert ask("GET", f"{own}/result")[0] == 400  # before all is answered
    assert ask("GET", f"{own}/guess")[0] == ask("GET", f"/api/people/x/{key}")[0] == 404
    status, picture = ask("GET", f"{own}/{key}")
    row = quiz.store.image_row(made["code"], key)
    enlarged = Image.fromarray(quiz.material.dataset.images[row]).resize(
        (320, 320), Resampling.BICUBIC
    )
    assert status == 200 and np.array_equal(Image.open(io.BytesIO(picture)), enlarged)
    val = quiz.material.rows.start
    for end, side in (("", 320), ("/small", 128)):
        assert ask("GET", f"/api/gallery/{val}{end}")[0] == 404
        status, picture = ask("GET", f"/api/gallery/0{end}")
        assert status == 200 and picture[16:24] == side.to_bytes(4, "big") * 2
    assert not any(given for _, _, given in quiz.store.person(made["code"]).items)
    status, kept = ask("POST", f"{own}/{key}", good | {"seconds": 1.5, "further": []})
    assert (status, kept) == (200, good)


def test_a_database_that_fails_acknowledges_nothing(
    quiz: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise UnavailableError("the database did not take it (disk full)")

    code, name = quiz.enter(), quiz.material.dataset.class_names[0]
    monkeypatch.setattr(quiz.store, "answer", fail)
    monkeypatch.setattr(quiz.store, "image_row", fail)
    for method, body in (("POST", json.dumps({"response": name}).encode()), ("GET", None)):
        connection = http.client.HTTPConnection("127.0.0.1", quiz.port, timeout=20)
        own = f"/api/people/{code}/y"
        connection.request(method, own, body, {"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        assert answer.status == 503 and "disk full" in json.loads(answer.read())["error"]
        assert answer.getheader("Retry-After") == "1"
        connection.close()


def test_names_are_found_by_few_letters(page: Any) -> None:
    names = ["rat, brown rat", "ratel", "golden retriever", "goldfish, Carassius", "crate", "gown"]
    names += ["cougar", "pumpkin"]
    find = (
        "async ([names, typed]) => (await import('/static/names.js')).matches(names, typed,"
        " {cougar: ['puma', 'mountain lion'], crate: ['go box']}).map(([name, other]) =>"
        " other ? `${name} (${other})` : name)"
    )
    for typed, expected in {
        "rat": ["rat, brown rat", "ratel", "crate"],
        "retriever golden": ["golden retriever"],
        "gold fish": ["goldfish, Carassius"],
        "gr": ["golden retriever"],
        "RETR": ["golden retriever"],
        "cara": ["goldfish, Carassius"],
        "go": ["gown", "golden retriever", "goldfish, Carassius", "crate (go box)"],
        "pum": ["pumpkin", "cougar (puma)"],
        "puma": ["cougar (puma)"],
        "lion": ["cougar (mountain lion)"],
        "brown r": ["rat, brown rat"],
        " ": [],
        "zz": [],
    }.items():
        assert page.evaluate(find, [names, typed]) == expected


@pytest.mark.parametrize(
    ("split", "networks", "num_images", "message"),
    [
        ("train", {}, 10, "examples, cannot be asked; choose minival or val$"),
        ("train+minival", {}, 10, "examples, cannot be asked"),
        ("test", {}, 10, "test of small cannot be shown: its images have no labels; choose min"),
        ("val", {"n": np.zeros((3, 24), np.float32)}, 10, "n has no answers"),
        ("val", {}, 25, "1 to 24"),
        ("vla", {}, 10, "no split"),
    ],
)
def test_material_that_does_not_fit_is_refused(
    dataset: Dataset, split: str, networks: Any, num_images: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Material(dataset, split, networks, num_images)


def test_the_quick_game_has_classes_that_networks_confuse(quiz: Running, dataset: Dataset) -> None:
    labels = dataset.labels[slice(*dataset.splits["val"])]
    logits = np.eye(24, dtype=np.float32)[np.where(labels == 3, 17, labels)]
    unknown = Material(dataset, "val", {}, num_images=8).classes("quick")
    assert len(set(unknown)) == 10 and unknown[:5] != (0, 1, 2, 3, 4)
    material = Material(dataset, "val", {"n": logits}, num_images=8)
    classes = material.classes("quick")
    assert len(set(classes)) == 10 and {3, 17} <= set(classes)
    row = next(row for row in material.rows if dataset.labels[row] == 3)
    assert material.network_answer("n", row, range(24)) == 17
    assert material.network_answer("n", row, [0, 3]) in (0, 3)  # among those that are shown
    (together,) = (name for name, group in material.groups.items() if 3 in group)
    assert sorted(i for group in material.groups.values() for i in group) == list(range(24))
    assert len(material.groups) <= 14 and 17 in material.groups[together]
    assert together == f"{dataset.class_names[17]}, {dataset.class_names[3]}"


def test_wnids_of_tiny_imagenet_have_groups_and_synonyms(dataset: Dataset) -> None:
    wnids = [w for line in TABLE.read_text().splitlines() for w in line.split(": ")[1].split()]
    assert len(wnids) == len(set(wnids)) == 200 and len(TABLE.read_text().splitlines()) == 14
    chosen = ["n02123045", "n02099601", "n07753592", *sorted(wnids)[50:71]]
    names = ["tabby", "golden retriever", "banana", *dataset.class_names[3:]]
    words = {"n02123045": "tabby, tabby cat", "n07753592": "banana"}
    extra = {"class_ids": chosen, "class_names": names, "extra": {"words": words}}
    of_wnids = replace(dataset, manifest=dataset.manifest | extra)
    material = Material(of_wnids, "val", {}, num_images=8)
    assert material.groups["Dogs, cats and farm animals"][:2] == [1, 0]
    assert 2 in material.groups["Food, fruit and plants"]
    assert sorted(i for group in material.groups.values() for i in group) == list(range(24))
    assert material.synonyms == {"tabby": ["tabby cat"]}
    chosen[5] = "n00000000"  # one that is not known: no groups by name
    others = Material(replace(of_wnids, manifest=of_wnids.manifest), "val", {}, num_images=8)
    assert "Food, fruit and plants" not in others.groups and len(others.groups) == 14


def test_the_quick_game_has_as_many_images_as_its_classes_have(dataset: Dataset) -> None:
    material = Material(dataset, "val", {}, num_images=24)
    assert len(material.plan("full", material.classes("full"), 0)) > 24
    shown = material.plan("quick", material.classes("quick"), 0)
    assert sum(item.kind in ("core", "main") for item in shown) == 10


def test_catch_images_were_shown_with_their_class_in_the_same_game(dataset: Dataset) -> None:
    material = Material(dataset, "val", {}, num_images=10)
    quick, examples = material.classes("quick"), sum(material.gallery.values(), ())
    for game, classes, seen in (
        ("full", material.classes("full"), examples),
        ("quick", quick, material.practice(quick)),
    ):
        for number in range(5):
            shown = material.plan(game, classes, number)
            (catch,) = (item.row for item in shown if item.kind == "catch")
            assert catch in seen


def test_people_of_the_quick_game_have_the_classes_of_those_before(
    quiz: Running, dataset: Dataset, tmp_path: Path
) -> None:
    labels = dataset.labels[slice(*dataset.splits["val"])]
    logits = np.eye(24, dtype=np.float32)[np.where(labels == 3, 17, labels)]
    others = Material(dataset, "val", {"n": logits}, num_images=8)
    first = Material(dataset, "val", {}, num_images=8)
    assert others.classes("quick") != first.classes("quick")
    with closing(Store(str(tmp_path / "a.db"), digest=dataset.digest, about={})) as store:
        codes = [Quiz(material, store).enter("quick") for material in (first, others)]
        one, two = (store.person(code) for code in codes)
    assert one.classes == two.classes
    assert {item.target for _, item, _ in two.items} <= set(two.classes)


def test_games_that_alternate_go_through_all_images(dataset: Dataset, tmp_path: Path) -> None:
    material = Material(dataset, "val", {}, num_images=10)
    with closing(Store(str(tmp_path / "a.db"), digest=dataset.digest, about={})) as store:
        quiz = Quiz(material, store)
        codes = [quiz.enter(game) for game in ("full", "quick", "full", "quick", "full")]
        people = [store.person(code) for code in codes]
    seen = {item.row for person in people[::2] for _, item, _ in person.items
            if item.kind in ("core", "main")}  # fmt: skip
    assert seen == set(material.rows)  # 2 for all, and 8 of each of three
    for turn, person in enumerate(people[::2]):
        shown = [item for _, item, _ in person.items]
        assert shown == material.plan("full", range(24), turn)


def test_an_answer_is_one_of_the_classes_of_its_game(quiz: Running) -> None:
    code = Quiz(quiz.material, quiz.store).enter("quick")
    person = quiz.store.person(code)
    other = next(n for n in quiz.material.dataset.class_names if n not in person.classes)
    (key, item, _), own = person.items[0], next(iter(person.classes))

    def post(path: str, body: Any) -> tuple[int, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", quiz.port, timeout=20)) as connection:
            address, head = f"/api/people/{code}/{path}", {"Authorization": f"Bearer {TOKEN}"}
            connection.request("POST", address, json.dumps(body).encode(), head)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    status, found = post(key, {"response": other})
    assert status == 400 and "not one of this game's classes" in found["error"]
    assert post(key, {"response": own, "further": [other]})[0] == 400
    assert count_kept(quiz, code) == 0
    assert post(key, {"response": item.target}) == (200, {"response": item.target})
    assert post(f"{key}/also", {"name": other, "fits": True})[0] == 400
    assert quiz.store.marks_of(code) == {}


def test_whoever_runs_the_quiz_is_told_who_began_and_who_is_done(
    quiz: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def ask(method: str, path: str, body: bytes | None = None) -> Any:
        with closing(http.client.HTTPConnection("127.0.0.1", quiz.port, timeout=20)) as connection:
            connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}"})
            return json.loads(connection.getresponse().read())

    with caplog.at_level("INFO", "tinysight"):
        code = ask("POST", "/api/people", b'{"game": "quick"}')["code"]
        person = quiz.store.person(code)
        for key, item, _ in person.items:
            quiz.store.answer(code, key, Given(item.target, 1.0))
        for _ in range(2):  # a page that is loaded again is no news
            assert "shares" in ask("GET", f"/api/people/{code}/result")
    assert [record.getMessage() for record in caplog.records] == [
        f"subject-{person.number + 1:02} began the quick game",
        f"subject-{person.number + 1:02} has answered all of the quick game",
    ]
