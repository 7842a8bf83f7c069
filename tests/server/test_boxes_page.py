"""Boxes drawn over a picture in a real browser, by mouse, finger and keyboard, and imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tinysight as ts
from tinysight.corrections import BoxCorrection, read_corrections

WIDTH, HEIGHT = 300, 200
ANSWER = {
    "top": [{"class": "dog", "id": "c", "probability": 0.9}],
    "boxes": [{"box": [20.4, 30.0, 119.6, 90.0], "confidence": 0.8}],
    "width": WIDTH,
    "height": HEIGHT,
}
Boxes = list[tuple[tuple[float, ...], str | None]]


@pytest.fixture
def editor(page: Any, project: Path) -> Any:
    """The editor of a picture in which the model has found one box."""
    project.mkdir(exist_ok=True)
    (project / "corrections.jsonl").unlink(missing_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(project / "a.png")
    page.route("**/api/predict*", lambda route: route.fulfill(json=ANSWER))
    page.set_input_files("#files", project / "a.png")
    page.get_by_role("button", name="Correct boxes").press("Enter")
    page.locator("dialog.boxes").wait_for()
    return page.locator("dialog.boxes")


def kept(project: Path) -> list[Boxes | None]:
    """The boxes of each line of the file."""
    found: list[Boxes | None] = []
    for line in read_corrections(project / "corrections.jsonl"):
        assert isinstance(line, BoxCorrection) and (line.path, line.old) == ("a.png", line.new)
        own = line.boxes
        found.append(None if own is None else [(tuple(each.box), each.label) for each in own])
    return found


def drag(page: Any, start: tuple[int, int], end: tuple[int, int], by: str) -> None:
    """Drag from one point to another, in pixels of the picture."""
    frame = page.locator(".stage").bounding_box()
    scale = frame["width"] / WIDTH
    (x0, y0), *way = [
        (frame["x"] + x * scale, frame["y"] + y * scale)
        for x, y in (start, ((start[0] + end[0]) // 2, (start[1] + end[1]) // 2), end)
    ]
    if by == "touch":
        session = page.context.new_cdp_session(page)
        kinds = [("touchStart", [(x0, y0)]), *(("touchMove", [xy]) for xy in way), ("touchEnd", [])]
        for kind, points in kinds:
            given = [{"x": x, "y": y} for x, y in points]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": given})
        return
    page.mouse.move(x0, y0)
    page.mouse.down()
    for x, y in way:
        page.mouse.move(x, y)
    page.mouse.up()


def saved(page: Any, editor: Any) -> None:
    editor.wait_for(state="detached")
    page.get_by_text("Boxes corrected.").wait_for()


@pytest.mark.parametrize("by", ["mouse", "touch"])
def test_what_is_drawn_is_imported(
    page: Any, editor: Any, project: Path, tmp_path: Path, by: str
) -> None:
    editor.get_by_role("button", name="Delete box").click()
    assert "nothing is here" in editor.get_by_role("status").inner_text()
    drag(page, (200, 120), (130, 60), by)  # from its lower right corner; nothing shifts
    drag(page, (165, 90), (175, 95), by)  # moved
    drag(page, (10, 100), (90, 190), by)
    editor.get_by_label("Class").fill("cat")
    drag(page, (175, 100), (175, 100), by)  # a click chooses
    assert editor.get_by_label("Class").input_value() == "dog"
    drag(page, (90, 190), (100, 250), by)  # the other's corner, beyond the picture
    assert editor.get_by_label("Class").input_value() == "cat"
    editor.get_by_role("button", name="Save boxes").click()
    saved(page, editor)
    page.get_by_text("Corrected: 1 dog, 1 cat").wait_for()
    assert page.locator(".card svg rect:not(.shade)").count() == 2
    drawn = [(140, 65, 210, 125), (10, 100, 100, 200)]
    [found] = kept(project)
    assert found is not None and [label for _, label in found] == ["dog", "cat"]
    np.testing.assert_allclose([box for box, _ in found], drawn, atol=1)
    given = project / "corrections.jsonl"
    own: dict[str, Any] = {"corrections": given, "data_dir": tmp_path, "image_size": WIDTH}
    data = ts.import_dataset(project, "drawn", **own)
    bar = (WIDTH - HEIGHT) // 2  # above the picture, in its square
    expected = np.array(drawn) + np.array((0, bar, 0, bar))
    np.testing.assert_allclose(data.boxes, expected, atol=1)
    assert [data.class_names[label] for label in data.box_labels] == ["dog", "cat"]


def test_everything_by_keyboard(
    page: Any, editor: Any, project: Path, barriers: Callable[[Any], list[str]]
) -> None:
    press = page.keyboard.press
    for key in ("n", "ArrowLeft", "ArrowUp", "ArrowUp", "Shift+ArrowRight", "Shift+ArrowUp"):
        press(key)
    step = 2  # of 300 pixels
    new = (113 - step, 75 - 2 * step, 188, 125 - 3 * step)
    assert f"Box 2 of 2: {new[0]}, {new[1]} to {new[2]}, {new[3]}" in editor.inner_text()
    assert barriers(page) == []
    press("Shift+Tab")
    assert "Box 1 of 2: 20, 30 to 120, 90" in editor.inner_text()
    press("Delete")
    press("Control+z")
    press("Tab")
    press("Tab")  # from the boxes to the class
    page.keyboard.type("bird")
    press("Enter")
    assert page.evaluate("document.activeElement.ariaLabel").startswith("Box 2 of 2: ")
    press("Enter")
    saved(page, editor)
    first: Boxes = [((20, 30, 120, 90), "dog"), (new, "bird")]
    assert kept(project) == [first]
    page.get_by_role("button", name="Undo").press("Enter")
    page.get_by_text("Corrected:").wait_for(state="detached")
    assert kept(project) == [first, None]
    button = page.get_by_role("button", name="Correct boxes")
    button.press("Enter")
    press("Delete")
    press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "Correct boxes"
    page.get_by_role("button", name="Undo").press("Enter")  # the editor again, as it was left
    page.get_by_text("nothing is here").wait_for()
    press("Enter")
    saved(page, editor)
    assert kept(project) == [first, None, []]
    assert page.locator(".card svg rect").count() == 0


def test_boxes_are_saved_once(
    page: Any, editor: Any, project: Path, hold: Callable[[str], Callable[[], None]]
) -> None:
    release = hold("api/boxes")
    for key in ("Enter", "Enter", "n", "Escape"):
        page.keyboard.press(key)
    release()
    saved(page, editor)
    first: Boxes = [((20, 30, 120, 90), "dog")]
    assert kept(project) == [first]
    assert page.locator(".card svg rect:not(.shade)").count() == 1
    page.get_by_role("button", name="Undo").press("Enter")
    page.get_by_text("Corrected:").wait_for(state="detached")
    assert kept(project) == [first, None]


def test_what_cannot_be_saved_is_said(page: Any, editor: Any, project: Path) -> None:
    page.route("**/api/boxes*", lambda route: route.fulfill(json={"error": "No space left: x"}))
    page.keyboard.press("Enter")
    editor.get_by_text("No space left: x").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "Save boxes"
    page.unroute("**/api/boxes*")
    editor.get_by_role("button", name="Save boxes").click()
    saved(page, editor)
    content = json.loads((project / "corrections.jsonl").read_text())
    assert content["boxes"] == [{"box": [20, 30, 120, 90], "label": "dog"}]
