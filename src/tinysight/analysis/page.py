"""A page in a folder of its own: index.html, figures as PNG and SVG, tables as CSV."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from tinysight import __version__
from tinysight.analysis.plots import BLUE, GRID, INK, ORANGE, PAPER, QUIET, style
from tinysight.run import duration

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Page:
    """The folder of a page; figures/ and tables/ are created in it."""

    path: Path

    def __post_init__(self) -> None:
        for name in ("figures", "tables"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def add_figure(self, figure: Figure, name: str, *, alt: str) -> Markup:
        """Write a figure as PNG and SVG, and return it as an <svg> element; `alt` describes it."""
        file = io.StringIO()
        with style():
            figure.savefig(self.path / "figures" / f"{name}.png", dpi=150)
            figure.savefig(file, format="svg", metadata={"Date": None})
        path = self.path / "figures" / f"{name}.svg"
        path.write_text(file.getvalue(), encoding="utf-8", errors="replace")
        return Markup(_inline(file.getvalue(), name, alt))  # matplotlib escapes texts

    def add_table(self, name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Write a table as CSV; texts that a spreadsheet would run get an apostrophe."""
        path = self.path / "tables" / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows([_cell(value) for value in row] for row in rows)

    def write(self, template: str, values: dict[str, Any]) -> Path:
        """Fill a template and write index.html."""
        text = _environment().get_template(template).render(version=__version__, **values).lstrip()
        path = self.path / "index.html"
        path.write_text(text, encoding="utf-8", errors="replace")  # file names may be malformed
        return path


def _environment() -> jinja2.Environment:
    options: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    loader, strict = jinja2.PackageLoader("tinysight.analysis"), jinja2.StrictUndefined
    environment = jinja2.Environment(loader=loader, undefined=strict, **options)
    folder = resources.files("tinysight.analysis") / "templates"
    environment.globals["css"] = Markup((folder / "style.css").read_text("utf-8"))
    environment.globals["js"] = Markup((folder / "page.js").read_text("utf-8"))
    environment.filters["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f}\u00a0%"
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["duration"] = duration
    return environment


def _inline(text: str, name: str, alt: str) -> str:
    """Turn an SVG file into an element with the page's colors, no background, and unique ids."""
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for old, new in (
        (' id="', f' id="{name}-'),
        ("url(#", f"url(#{name}-"),
        ('href="#', f'href="#{name}-'),
        (INK, "currentColor"),
        (QUIET, "var(--quiet)"),
        (GRID, "var(--line)"),
        (BLUE, "var(--blue)"),  # brighter on a dark page
        (ORANGE, "var(--orange)"),
        (f"fill: {PAPER}", "fill: none"),
        ("'DejaVu Sans'", "inherit"),
    ):
        text = text.replace(old, new)
    head, _, rest = text.partition(">")
    head = re.sub(r' width="([\d.]+pt)" height="[\d.]+pt"', r' style="--width: \1"', head)
    return f'{head} role="img" aria-label="{escape(alt)}">{rest}'


def _cell(value: object) -> object:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
    if isinstance(value, float):
        if value != value:
            return ""
        return float(f"{value:.6g}") if abs(value) < 1 else round(value, 6)
    return "" if value is None else value


def data_uri(image: npt.NDArray[np.uint8], *, max_side: int = 224) -> str:
    """Return an image, uint8 (H, W, 3), as a `data:` address that holds a WebP file."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((max_side, max_side))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
