"""The one style of all figures, and the forms they are given out in: PNG, SVG, and SVG inside a
page.

Colors are those of Okabe and Ito, told apart by color-blind readers and in print; lines differ
in dashes or marks too."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
)
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
INK, QUIET, GRID, PAPER = "#222222", "#5f5f5f", "#dcdcdc", "#ffffff"

_STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # a class may be called "$"
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",  # text stays text: it can be searched and read out
    "svg.hashsalt": "tinysight",  # the same figure is the same file
}


@contextmanager
def style() -> Iterator[None]:
    """Be the context (also a decorator) in which every figure is drawn and written."""
    with rc_context(_STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        # A class may be named in a script that the PNG's font lacks; the page's own font has it
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        yield


def new_figure(width: float = 7.2, height: float = 4.0) -> Figure:
    """Make an empty figure of that many inches, laid out so that nothing is cut."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def per_cent(axes: Axes, *, x: bool = False, y: bool = True) -> None:
    """Let an axis of per cent begin at 0 and end at 100."""
    if x:
        axes.set_xlim(0, 100)
    if y:
        axes.set_ylim(0, 100)


def write_figure(figure: Figure, folder: Path, name: str, *, alt: str) -> str:
    """Write `name`.png and `name`.svg, and return the figure as an <svg> element for a page.

    In the page ink has the page's color, there is no background, and ids are the figure's own.
    `alt` is what a reader hears who does not see it."""
    file = io.StringIO()
    with style():
        figure.savefig(folder / f"{name}.png", dpi=150)
        figure.savefig(file, format="svg", metadata={"Date": None})
    (folder / f"{name}.svg").write_text(file.getvalue(), encoding="utf-8", errors="replace")
    return _inline(file.getvalue(), name, alt)


def _inline(text: str, name: str, alt: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    text = (
        text.replace(INK, "currentColor")
        .replace(QUIET, "var(--quiet)")
        .replace(GRID, "var(--line)")
    )
    text = text.replace(BLUE, "var(--blue)").replace(
        ORANGE, "var(--orange)"
    )  # brighter on a dark page
    text = text.replace(f"fill: {PAPER}", "fill: none").replace("'DejaVu Sans'", "inherit")
    head, _, rest = text.partition(">")
    head = re.sub(r' (width|height)="[\d.]+pt"', "", head)
    return f'{head} role="img" aria-label="{escape(alt)}">{rest}'
