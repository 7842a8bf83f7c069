"""Sort in a real browser: by mouse and by keyboard, at both widths; see the fixture `page`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinysight.corrections import current_labels, read_corrections

COLORS = {"a": (210, 30, 30), "b": (30, 30, 210), "c": (30, 210, 30)}
EACH = 20


@pytest.fixture(autouse=True)
def folder(project: Path) -> Iterator[Path]:
    """Sixty loose pictures of three colors, named by them."""
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir()
    for number in range(EACH):
        for name, color in COLORS.items():
            noise = np.random.default_rng(number).integers(-30, 30, (24, 24, 3))
            pixels = (noise + np.array(color)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(project / f"{name}{number}.png")
    yield project
    shutil.rmtree(project)


def labels(folder: Path) -> dict[str, str]:
    """Return the labels in the file, by picture."""
    lines = read_corrections(folder / "corrections.jsonl")
    paths = {line.sha256: line.path for line in lines}
    return {paths[digest]: label for digest, label in current_labels(lines).items()}


def opened(page: Any) -> None:
    page.get_by_role("link", name="Sort").click()
    arranged(page)


def arranged(page: Any) -> None:
    page.locator("#sort-groups:not([aria-busy]) .group").first.wait_for(timeout=60000)


def first_of(page: Any, count: int) -> list[str]:
    options = page.locator("#sort-groups [role=option]")
    return [str(options.nth(place).get_attribute("title")) for place in range(count)]


def status(page: Any, text: str) -> None:
    page.locator("#sort-status", has_text=text).wait_for()


def test_a_folder_is_sorted_by_keyboard(page: Any, folder: Path) -> None:
    opened(page)
    group = first_of(page, 5)
    assert len({name[0] for name in group}) == 1, "the first group is of one color"
    letter = group[0][0]
    page.locator("[role=option]").first.focus()
    page.keyboard.press("ArrowRight")
    for _ in range(2):
        page.keyboard.press("Shift+ArrowRight")
    assert page.locator("[aria-selected=true]").count() == 3
    page.keyboard.press("/")
    page.keyboard.type(f"{letter}<")
    page.keyboard.press("Enter")
    page.locator("#sort-error", has_text="a class's name has none of").wait_for()
    page.locator("#sort-groups:not([aria-busy])").wait_for(state="attached")
    page.keyboard.press("Backspace")  # what was refused is there to be corrected
    page.keyboard.press("Enter")
    status(page, f"3 pictures labeled {letter}. 3 of 60")
    assert labels(folder) == dict.fromkeys(group[1:4], letter)
    page.keyboard.press("Control+z")
    status(page, "Undone: 3 pictures")
    assert labels(folder) == {}
    arranged(page)
    for count in range(1, 100):  # as a person would: wrong ones by themselves, the rest at once
        if page.locator("#sort-status").inner_text().endswith("All are labeled."):
            break
        assert count < 30
        options = page.locator(".group").first.locator("[role=option]")
        shown = [str(options.nth(n).get_attribute("title")) for n in range(options.count())]
        most = max(COLORS, key=[name[0] for name in shown].count)
        for name in (name for name in shown if name[0] != most):
            page.locator(f"[title='{name}']").focus()
            given(page, name[0])
            page.locator(f"[title='{name}']").wait_for(state="detached")
        page.locator("[role=option]").first.focus()
        proposed = page.locator(".group").first.locator("h2 bdi")
        if proposed.count() and proposed.inner_text() == most:
            page.keyboard.press("Enter")
        else:
            page.keyboard.press("Control+a")
            given(page, most)
        page.locator(f"[title='{next(n for n in shown if n[0] == most)}']").wait_for(
            state="detached"
        )
        page.locator("#sort-groups:not([aria-busy])").wait_for(state="attached")
    assert labels(folder) == {
        f"{name}{number}.png": name for name in COLORS for number in range(EACH)
    }
    page.locator("#sort-judged", has_text="is right for 100.0 %").wait_for()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["corrections.jsonl", *labels(folder)]
    )


def given(page: Any, name: str) -> None:
    """Label what is chosen: by the key of the class, or by its name where it is new."""
    if page.locator("#sort-classes kbd", has_text=re.compile(f"^{name}$")).count():
        page.keyboard.press(name)
    else:
        page.keyboard.press("/")
        page.keyboard.type(name)
        page.keyboard.press("Enter")


def test_a_folder_is_sorted_by_mouse_and_learned(
    page: Any, folder: Path, barriers: Callable[[Any], list[str]]
) -> None:
    opened(page)
    found = {"groups": barriers(page)}
    options = page.locator("#sort-groups [role=option]")
    for name in ("cold", "<b>hot"):
        page.locator("#sort-class").fill(name)
        page.get_by_role("button", name="Label or add").click()
    page.locator("#sort-error", has_text="a class's name").wait_for(state="hidden")
    chosen = first_of(page, 4)
    options.nth(0).click()
    options.nth(3).click(modifiers=["Shift"])
    assert page.locator("[aria-selected=true]").count() == 4
    options.nth(1).click(modifiers=["Control"])
    page.locator("#sort-classes button", has_text="<b>hot").click()
    page.locator("#sort-error", has_text="a class's name has none of").wait_for()
    page.locator("#sort-classes button", has_text="cold").click()
    status(page, "3 pictures labeled cold")
    kept = [name for place, name in enumerate(chosen) if place != 1]
    assert labels(folder) == dict.fromkeys(kept, "cold")
    arranged(page)
    page.get_by_role("button", name="Choose all").first.click()
    page.locator("#sort-class").fill("warm")
    page.keyboard.press("Enter")
    status(page, "labeled warm")
    arranged(page)
    before = labels(folder)
    page.get_by_role("button", name=re.compile("^All are")).first.click()
    arranged(page)
    while labels(folder) == before:
        page.wait_for_timeout(100)
    page.locator("#undo-text", has_text=f"{len(labels(folder)) - len(before)} picture").wait_for()
    page.locator("#undo-button").click()
    status(page, "Undone")
    assert labels(folder) == before
    arranged(page)
    page.locator("#sort-classes button", has_text="cold").click()
    page.locator(".group h2", has_text="Labeled").wait_for()
    options.first.click()
    page.keyboard.press("Delete")
    status(page, "labeled no more")
    found["class"] = barriers(page)
    page.reload()
    page.locator("#sort-classes button", has_text="warm").wait_for(timeout=60000)
    now = len(labels(folder))
    status(page, f"{now} of 60 pictures labeled")
    page.get_by_role("button", name="Learn these classes").locator("visible=true").click()
    page.locator("#sort-status", has_text="Learned from").wait_for(timeout=60000)
    page.get_by_role("link", name="Ask").click()
    assert page.locator("#models option").all_inner_texts() == ["given", "taught here"]
    assert {view: rules for view, rules in found.items() if rules} == {}


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_chosen_pictures_are_asked_about(page: Any, folder: Path, by: str) -> None:
    opened(page)
    expected = sorted(first_of(page, 3))
    options, button = page.locator("[role=option]"), page.get_by_role("button", name="Ask about")
    options.nth(0).click()
    options.nth(2).click(modifiers=["Shift"])
    if by == "mouse":
        button.click()
    else:
        button.focus()
        page.keyboard.press("Enter")
    page.locator("#status", has_text="3 pictures answered").wait_for()
    assert sorted(page.locator(".card h2").all_inner_texts()) == expected


def class_x(page: Any) -> None:
    """Make the class x, whose key is x."""
    page.locator("#sort-class").fill("x")
    page.keyboard.press("Enter")
    page.locator("#sort-classes kbd", has_text="x").wait_for()


def two_labeled(page: Any, hold: Callable[[str], Callable[[], None]]) -> Callable[[], None]:
    """Label the first two pictures; return what lets the next groups come."""
    options = page.locator("#sort-groups [role=option]")
    options.nth(0).click()
    options.nth(1).click(modifiers=["Control"])
    release = hold("api/sort/groups")
    with page.expect_response("**/api/sort/groups"):
        page.keyboard.press("x")
    status(page, "2 pictures labeled x. 2 of 60")
    return release


def test_what_is_labeled_while_groups_are_made_does_not_come_back(
    page: Any, folder: Path, hold: Callable[[str], Callable[[], None]]
) -> None:
    opened(page)
    class_x(page)
    three = first_of(page, 3)
    release = two_labeled(page, hold)
    page.keyboard.press("x")
    status(page, "1 picture labeled x. 3 of 60")
    release()
    arranged(page)
    assert page.locator(f"[title='{three[2]}']").count() == 0
    assert labels(folder) == dict.fromkeys(three, "x")


def test_a_key_pressed_as_groups_come_labels_none_of_them(
    page: Any, folder: Path, hold: Callable[[str], Callable[[], None]]
) -> None:
    opened(page)
    class_x(page)
    release = two_labeled(page, hold)
    page.evaluate(
        """() => new MutationObserver((changes, observer) => {
            observer.disconnect();
            const key = new KeyboardEvent("keydown", { key: "x", bubbles: true });
            document.activeElement.dispatchEvent(key);
        }).observe(document.getElementById("sort-groups"), { childList: true })"""
    )
    release()
    status(page, "look at them first")
    arranged(page)
    assert len(labels(folder)) == 2
    page.keyboard.press("x")
    status(page, "1 picture labeled x. 3 of 60")


def test_keys_that_come_before_the_answer_are_of_the_next_picture(
    page: Any, folder: Path, hold: Callable[[str], Callable[[], None]]
) -> None:
    opened(page)
    class_x(page)
    first, second, third = first_of(page, 3)
    page.locator("[role=option]").first.focus()
    release = hold("api/sort/labels")
    for key in ("x", "x", "Control+z"):
        page.keyboard.press(key)
    page.keyboard.down("x")
    page.keyboard.down("x")  # as a held key repeats
    page.keyboard.up("x")
    assert first_of(page, 1) not in ([first], [second], [third])
    release()
    status(page, "2 of 60")
    page.locator("#sort-groups:not([aria-busy])").wait_for(state="attached")
    assert labels(folder) == dict.fromkeys((first, third), "x")
    page.keyboard.press("Control+z")
    status(page, "Undone: 1 picture labeled x. 1 of 60")
    assert labels(folder) == {first: "x"}


@pytest.mark.parametrize("shown", ["groups", "class"])
def test_what_could_not_be_labeled_is_there_again(page: Any, folder: Path, shown: str) -> None:
    opened(page)
    class_x(page)
    page.locator("[role=option]").first.focus()
    page.keyboard.press("Control+a")
    page.keyboard.press("x")
    page.locator("#undo-text", has_text="labeled x").wait_for()
    arranged(page)
    if shown == "class":
        page.locator("#sort-classes button", has_text="x").click()
        page.locator(".group h2", has_text="Labeled").wait_for()
    before, kept = first_of(page, 5), labels(folder)
    page.route("**/api/sort/labels", lambda route: route.fulfill(json={"error": "No space left"}))
    options = page.locator("#sort-groups [role=option]")
    options.nth(1).click()
    options.nth(3).click(modifiers=["Control"])
    page.keyboard.press("Delete" if shown == "class" else "x")
    page.locator("#sort-error", has_text="No space left").wait_for()
    assert first_of(page, 5) == before
    chosen = page.locator("[aria-selected=true]")
    assert [chosen.nth(n).get_attribute("title") for n in range(2)] == [before[1], before[3]]
    assert page.evaluate("document.activeElement.title") == before[3]
    assert labels(folder) == kept


def test_labels_given_elsewhere_are_not_lost_without_a_word(
    page: Any, folder: Path, client: Any
) -> None:
    opened(page)
    name = first_of(page, 1)[0]
    digest = page.locator("[role=option]").first.get_attribute("data-id")
    client.ask("/api/sort/labels", json.dumps({"labels": {digest: "elsewhere"}}).encode())
    page.locator("[role=option]").first.focus()
    page.keyboard.press("/")
    page.keyboard.type("here")
    page.keyboard.press("Enter")
    status(page, "1 picture labeled here. 1 had another label since these groups were made")
    assert labels(folder) == {name: "here"}
    page.locator("#sort-undo").click()
    status(page, "Undone: 1 picture labeled here")
    assert labels(folder) == {name: "elsewhere"}
    page.locator("[role=option]").nth(1).click()  # what is chosen is not kept for later
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("link", name="Sort").click()
    arranged(page)
    assert page.locator("[aria-selected=true]").count() == 0


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_the_model_proposes_its_classes(
    page: Any, folder: Path, by: str, barriers: Callable[[Any], list[str]]
) -> None:
    opened(page)
    chooser = page.get_by_label("Propose")
    if by == "mouse":
        chooser.select_option("given")
    else:
        chooser.focus()
        page.keyboard.press("ArrowDown")
    page.locator(".group h2", has_text="Probably <img src=x").first.wait_for(timeout=60000)
    keys = page.locator("#sort-classes kbd").all_inner_texts()
    assert keys == ["1", "2", "3"] and labels(folder) == {}
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    chooser.evaluate("""(select) => { // as arrow keys that pass by another one
        for (const value of ["", "given"]) {
            select.value = value;
            select.dispatchEvent(new Event("change"));
        }
    }""")
    page.wait_for_timeout(500)
    assert [url for url in sent if "propose" in url] == []
    assert barriers(page) == []
    page.locator("[role=option]").first.focus()
    page.keyboard.press("1")
    status(page, "1 picture labeled cat. 1 of 60")
    page.locator("#sort-undo").click()
    status(page, "Undone: 1 picture")
    arranged(page)
    chooser.select_option("")
    page.locator(".group h2", has_text="Alike").first.wait_for(timeout=60000)
    page.locator("#sort-undo").click()
    page.locator(".group h2", has_text="Probably <img src=x").first.wait_for(timeout=60000)
    arranged(page)
    chooser.select_option("")  # as the module's server had it
    page.locator(".group h2", has_text="Alike").first.wait_for(timeout=60000)
    arranged(page)


def test_a_class_keeps_its_key_whatever_classes_come(page: Any, folder: Path) -> None:
    opened(page)

    def make(name: str) -> None:
        page.locator("#sort-class").fill(name)
        page.keyboard.press("Enter")

    def keys() -> dict[str, str]:
        buttons = page.locator("#sort-classes button").all()
        return {str(b.get_attribute("data-class")): b.locator("kbd").inner_text() for b in buttons}

    for name in ("red", "green"):
        make(name)
    page.locator("#sort-classes button").nth(1).wait_for()
    assert keys() == {"red": "1", "green": "2"}
    page.locator("[role=option]").first.focus()
    page.keyboard.press("2")
    status(page, "1 picture labeled green. 1 of 60")
    arranged(page)
    page.locator("[role=option]").first.focus()
    page.keyboard.press("/")
    page.keyboard.type("blue")
    page.keyboard.press("Enter")
    status(page, "1 picture labeled blue. 2 of 60")  # in the order of the alphabet now
    assert keys() == {"red": "1", "green": "2", "blue": "3"}
    arranged(page)
    make("1")  # a digit is its own key
    page.locator("#sort-classes button").nth(3).wait_for()
    assert keys() == {"1": "1", "green": "2", "blue": "3", "red": "4"}
    page.locator("[role=option]").first.focus()
    page.keyboard.press("2")
    status(page, "1 picture labeled green. 3 of 60")


def test_an_empty_folder_and_class_folders_say_what_to_do(page: Any, folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    page.get_by_role("link", name="Sort").click()
    page.get_by_text("tinysight serve --folder PICTURES").wait_for(timeout=60000)
    for name in COLORS:
        (folder / name).mkdir()
        Image.new("RGB", (20, 20), COLORS[name]).save(folder / name / "1.png")
    page.reload()
    status(page, "3 of 3 pictures labeled. All are labeled.")
    page.get_by_role("button", name="Sort the 3 in class folders, too").click()
    status(page, "0 of 3 pictures labeled")
    page.locator("#undo-button").click()
    status(page, "3 of 3 pictures labeled. All are labeled.")


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_an_answer_is_corrected_and_undone(
    page: Any, folder: Path, by: str, barriers: Callable[[Any], list[str]]
) -> None:
    page.set_input_files("#files", [folder / "a0.png"])
    card = page.locator(".card")
    button = card.get_by_role("button", name="Correct")
    if by == "mouse":
        button.click()
        assert barriers(page) == []
        card.locator("form").get_by_role("button", name="dog").click()
    else:
        button.focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        assert not card.locator("form").is_visible()
        page.keyboard.press("Enter")
        page.keyboard.type("big <i>zebra")
        page.keyboard.press("Enter")
    name = "dog" if by == "mouse" else "big <i>zebra"
    card.get_by_text(f"Corrected: {name}").wait_for()
    assert labels(folder) == {"a0.png": name}
    old = read_corrections(folder / "corrections.jsonl")[0].old
    assert old == card.locator("li bdi").first.inner_text()
    page.locator("#undo-button").click()
    card.get_by_text("The correction is taken back.").wait_for()
    assert labels(folder) == {}
    if by == "keyboard":
        button.click()
        card.locator("form input").fill("x" * 80)
        (folder / "corrections.jsonl").unlink()
        (folder / "corrections.jsonl").mkdir()
        page.keyboard.press("Enter")
        card.get_by_text("Is a directory").wait_for()
        (folder / "corrections.jsonl").rmdir()


def test_a_correction_is_learned_with_the_classes_that_were_taught(page: Any, folder: Path) -> None:
    for name in COLORS:
        (folder / name).mkdir()
        for path in folder.glob(f"{name}*.png"):
            path.rename(folder / name / path.name)
    asked = folder / "c" / "c0.png"
    Image.open(asked).transpose(Image.Transpose.ROTATE_90).save(folder.parent / "new.png")
    page.get_by_role("link", name="Teach").click()
    page.get_by_role("button", name="Learn these classes").locator("visible=true").click()
    page.locator("#teach-status", has_text="Learned from").wait_for(timeout=60000)
    page.get_by_role("button", name="Try it").click()
    page.set_input_files("#files", [folder.parent / "new.png"])
    card = page.locator(".card")
    card.get_by_role("button", name="Correct").click()
    card.locator("form").get_by_role("button", name="b", exact=True).click()
    card.get_by_role("button", name="Learn with it").click()
    page.locator("#undo-text", has_text="A picture of b learned").wait_for(timeout=60000)
    assert len(list((folder / "b").iterdir())) == EACH + 1
    card.get_by_text("Learned as: b").wait_for()
    with page.expect_response("**/api/learn", timeout=60000):
        card.get_by_role("button", name="Undo").click()
    card.get_by_text("Corrected: b").wait_for()
    assert len(list((folder / "b").iterdir())) == EACH
