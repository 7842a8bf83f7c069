"""The page runs from disk without a network, and answers as ONNX Runtime does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinysight.exporting.page import WEB, page_of
from tinysight.images import FITS, Fit, to_square
from tinysight.predict.onnx_file import onnx_bytes
from tinysight.predict.predictor import Predictor

from .conftest import NAMES, Written, metadata_of

Write = Callable[[str], Written]


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Write the page of a model, open it from disk with the network off, and expect no error."""
    faults: list[str] = []
    contexts = []

    def open_(files: Written, *, width: int = 1400, **changes: Any) -> tuple[Any, Predictor]:
        kind = files.onnx.parent.name.rstrip("0123456789")
        metadata = replace(metadata_of(kind), **changes)
        (tmp_path / "model.onnx").write_bytes(onnx_bytes(files.body, metadata))
        content = page_of((tmp_path / "model.onnx").read_bytes(), metadata)
        (tmp_path / "page.html").write_bytes(content)
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, offline=True))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on("request", lambda each: each.url.startswith("http") and faults.append(each.url))
        page.goto((tmp_path / "page.html").as_uri())
        page.get_by_text("Ready", exact=True).wait_for()
        return page, Predictor(tmp_path / "model.onnx")

    yield open_
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Wide, high, small and transparent pictures, and a text."""
    rng = np.random.default_rng(0)
    sizes = {"wide": (40, 133, 3), "high": (90, 37, 3), "small": (5, 9, 3), "clear": (50, 60, 4)}
    paths = []
    for name, shape in sizes.items():
        pixels = rng.integers(0, 256, shape, np.uint8)
        pixels[..., 3:] = np.where(pixels[..., 3:] > 127, 255, 0)
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def read(page: Any) -> dict[str, tuple[str, list[tuple[str, float]], list[float]]]:
    """Read each card: name -> title, bars, numbers of the first box."""
    found = {}
    for card in page.locator("article").all():
        name, *rest = card.locator("p").all_inner_texts()
        bars = [bar.locator("span").all_inner_texts() for bar in card.locator("li").all()]
        shares = [(label, float(share.removesuffix(" %"))) for label, share in bars]
        box = (
            [float(n) for n in re.findall(r"[\d.]+", rest[0].split("; ")[0].rsplit("(", 1)[-1])]
            if rest
            else []
        )
        found[name] = (card.locator("h2").inner_text(), shares, box)
    return found


@pytest.mark.parametrize(
    ("kind", "fit", "width"),
    [("classifier", "pad", 400), ("lstm", "stretch", 1400), ("centernet", "crop", 400)],
)
def test_the_page_answers_as_onnx_runtime_does(
    kind: str, fit: str, width: int, written: Write, opened: Any, pictures: list[Path]
) -> None:
    least = 1e9 if kind == "classifier" else None
    page, model = opened(written(kind), width=width, fit=fit, none_below=least)
    page.set_input_files("#files", pictures)
    page.locator("article").nth(len(pictures) - 1).wait_for()
    found, num_boxes = read(page), 0
    paragraphs = [card.locator("p").all_inner_texts() for card in page.locator("article").all()]
    texts = {own[0]: own[-1] for own in paragraphs}
    for path in pictures:
        title, bars, box = found[path.name]
        expected = model.predict(path, top=3)
        if kind == "centernet":  # its boxes have the classes
            assert (title, bars) == (f"{expected.num_accepted} found", [])
            assert texts[path.name].split(" (")[0] == (*expected.accepted_labels, "no box found")[0]
            expected = replace(expected, class_names=(), probabilities=())
        else:
            assert title == ("none of these" if expected.is_none else expected.label)
        assert dict(bars) == pytest.approx(
            {label: 100 * share for label, share in expected.top}, abs=0.06
        )
        numbers = [
            number for corners, share in expected.accepted[:1] for number in (*corners, 100 * share)
        ]
        assert box == pytest.approx(numbers, abs=0.6)
        num_boxes += len(numbers) // 5
    assert kind == "classifier" or num_boxes > 1
    boxes = [each.bounding_box() for each in page.locator("body, article, #drop, button").all()]
    assert all(box["x"] + box["width"] <= width for box in boxes if box), "it fits the width"
    if kind == "centernet":
        return
    titles = set(page.locator("h2").all_inner_texts())
    assert titles <= {*NAMES, "none of these"}, "names are text: nothing ran"


def test_pictures_come_by_keyboard_drop_paste_and_camera(
    written: Write,
    opened: Any,
    pictures: list[Path],
    choose_by_enter: Callable[..., None],
    barriers: Callable[[Any], list[str]],
) -> None:
    page, _ = opened(written("classifier"))
    page.bring_to_front()
    page.keyboard.press("Tab")
    assert page.locator("#files:focus").count() == 1
    choose_by_enter(page, pictures[0])
    page.locator("article").nth(0).wait_for()
    make = """(bytes) => { const data = new DataTransfer(), pixels = new Uint8Array(bytes);
      data.items.add(new File([pixels], "<b>dropped</b>.png", {type: "image/png"}));
      data.items.add(new File(["no picture"], "broken.png", {type: "image/png"}));
      for (const kind of ["drop", "paste"]) {
        const event = new Event(kind, {bubbles: true, cancelable: true});
        event.dataTransfer = event.clipboardData = data;
        document.body.dispatchEvent(event);
      } }"""
    page.evaluate(make, list(pictures[1].read_bytes()))
    page.locator("article").nth(4).wait_for()
    titles = page.locator("h2").all_inner_texts()
    assert titles.count("cannot be read") == 2 and page.locator("article b").count() == 0
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take the picture").click()
    page.locator("article").nth(5).wait_for()
    assert page.locator("article p").first.inner_text() == "camera 1"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Take the picture").wait_for(state="hidden")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save answers").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == "file,class,probability" and len(lines) == 5
    assert barriers(page) == []
    page.get_by_role("button", name="Clear").click()
    assert page.locator("article").count() == 0


def test_boxes_of_large_pictures_are_in_their_pixels(
    written: Write, opened: Any, tmp_path: Path
) -> None:
    page, model = opened(written("lstm"), fit="stretch")
    (tmp_path / "broken.png").write_text("no picture")
    page.set_input_files("#files", tmp_path / "broken.png")
    page.get_by_role("button", name="Clear").click()  # of what could not be read, too
    path, size = tmp_path / "large.png", (6000, 4000)
    Image.effect_noise((6, 4), 200).convert("RGB").resize(size, Image.Resampling.NEAREST).save(path)
    page.set_input_files("#files", path)
    page.locator("article").wait_for()
    [(_, _, box)] = read(page).values()
    expected = model.predict(path).accepted[0][0]
    assert box[:4] == pytest.approx(expected, abs=100)
    assert max(expected) > 1000


def test_what_a_page_holds_cannot_leave_its_place(written: Write) -> None:
    files = written("classifier")
    hostile = replace(
        metadata_of("classifier"), recipe="</title><script>alert(1)</script>", data="{{wasm}}"
    )
    text = page_of(files.onnx.read_bytes(), hostile).decode()
    assert len(re.findall("<script", text)) == 4 and "<img" not in text
    (block,) = re.findall(r'id="metadata">(.*?)</script>', text)
    assert json.loads(block)["class_names"] == list(NAMES)
    (policy,) = re.findall(r'Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy and "'unsafe-inline'" not in policy
    assert "'unsafe-eval'" not in policy and "connect-src" not in policy


@pytest.mark.parametrize("fit", FITS)
def test_the_page_resizes_as_predict_does(fit: Fit, browser: Any) -> None:
    """To the byte, whatever the shape: Pillow by itself takes the rows of tall pictures first."""
    script = (WEB / "page.js").read_text(encoding="utf-8")
    start, end = script.index("const ONE = "), script.index("function overlap(")
    resizing = f"const SIZE = 64, metadata = {{ fit: {fit!r} }};" + script[start:end]
    page = browser.new_page()
    for width, height in ((70, 100), (100, 70), (96, 150), (30, 200), (64, 64), (150, 151)):
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        given = {"data": pixels.ravel().tolist(), "width": width, "height": height, "step": 3}
        found = page.evaluate(f"(image) => {{ {resizing} return [...square(image).data]; }}", given)
        expected = to_square(Image.fromarray(pixels), 64, fit)
        assert found == expected.ravel().tolist(), (width, height)
    page.close()
