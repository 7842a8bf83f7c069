"""Make the pictures of the page in docs/ again, of drawn shapes: needs chromium, half a minute.

python benchmarks/page_pictures.py [--out docs]
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
LOOKS = {"wide": (1400, 900, "light"), "narrow": (400, 860, "dark")}
NUM_COLORS = 256
MAX_HEIGHT = 1150
PASTED = """async () => {
    const { drawn, SHAPES } = await import("/static/shapes.js");
    const transfer = new DataTransfer();
    for (const kind of Object.keys(SHAPES)) {
        const pictures = await drawn(kind, 3);
        for (const { name, blob } of pictures) transfer.items.add(new File([blob], name));
    }
    window.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer}));
}"""
SEEDED = "let seed = 7; Math.random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;"


def keep(page: Any, path: Path) -> None:
    """Write what is seen of a page, with few colors, as a small PNG."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)
    height = page.evaluate(
        "document.querySelector('main:not([hidden])').getBoundingClientRect().bottom"
    )
    clip = {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": min(MAX_HEIGHT, height)}
    image = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip))).convert("RGB")
    image.quantize(NUM_COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}  {path.stat().st_size / 1000:.0f} kB")


def teach(page: Any) -> None:
    page.get_by_role("link", name="Teach").click()
    page.locator("#teach-folder", has_text="Kept in").wait_for()
    if page.locator("#examples").is_visible():
        page.get_by_role("button", name="Try it with drawn shapes").click()
        page.get_by_text("12 pictures added to triangle", exact=True).wait_for()
    page.get_by_role("button", name="Learn these classes").click()
    page.get_by_text(re.compile("^Learned from")).wait_for(timeout=120_000)
    page.locator("#undo").wait_for(state="hidden")
    page.evaluate(
        """() => {
            const line = document.getElementById("teach-folder");
            line.textContent = line.textContent.replaceAll(/[^ ]+[/]pictures/g, "pictures");
        }"""
    )


def ask(page: Any) -> None:
    page.get_by_role("button", name="Try it", exact=True).click()
    page.evaluate(PASTED)
    page.locator("#status", has_text=re.compile("pictures answered")).wait_for()
    for number in range(4):
        card = page.locator(".card").nth(number)
        card.get_by_role("button", name="Heat map").click()
        card.locator("svg.heat").wait_for()
    for number in range(2):
        card = page.locator(".card").nth(number)
        card.get_by_role("button", name="Nearest").click()
        card.locator(".nearest li").first.wait_for(timeout=120_000)


def runs(page: Any) -> None:
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("button", name=re.compile("^finetune")).first.click()
    page.locator("#run svg").first.wait_for()


def sort(page: Any) -> None:
    page.get_by_role("link", name="Sort").click()
    page.locator("#sort-groups h2, #sort-folders:not([hidden])").first.wait_for()
    if page.locator("#sort-folders").is_visible():  # the server remembers it
        page.locator("#sort-folders").click()
        page.get_by_label("Propose").select_option("taught")
    page.locator("#sort-groups:not([aria-busy]) h2", has_text="Probably").nth(2).wait_for()
    page.locator("#undo").wait_for(state="hidden")
    for picture in page.locator(".group").first.locator("img").all():
        picture.scroll_into_view_if_needed()
    page.locator("[role=option]").first.focus()
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    page.evaluate(
        """() => {
            document.getElementById("sort-commands").remove();
            window.scrollTo(0, 0);
        }"""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    out: Path = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ |= {"TINYSIGHT_DATA": f"{home}/data", "TINYSIGHT_RUNS": f"{home}/runs"}
        command = [sys.executable, "-m", "tinysight", "serve"]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=home) as server,
            sync_playwright() as playwright,
        ):
            assert server.stdout is not None
            link = next(line for line in server.stdout if "http" in line).strip()
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            try:
                for look, (width, height, scheme) in LOOKS.items():
                    size = {"width": width, "height": height}
                    page = chromium.new_page(viewport=size, color_scheme=scheme)
                    page.add_init_script(SEEDED)
                    page.goto(link)
                    for view in (teach, ask, runs, sort):
                        view(page)
                        keep(page, out / f"page-{view.__name__}-{look}.png")
            finally:  # else what goes wrong would wait for the server for ever
                chromium.close()
                server.terminate()


if __name__ == "__main__":
    main()
