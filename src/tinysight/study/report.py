"""What came of a study, from its folder alone: a table, the errors by epoch as a picture, a verdict
in words.

study.json, which names the members and their runs, and the runs' own log.jsonl and summary.json
are read; results.json, table.md, table.csv and figure.png are written. Runs that are not
finished are left out of the figures, and counted."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinysight.files import write_atomic
from tinysight.ops.metrics import wilson_interval
from tinysight.run import duration, read_lines
from tinysight.study.seeds import Paired, Summary, paired, summary

# Okabe and Ito's colors, which survive color blindness, in an order that survives a gray print with
# the line styles
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "os^Dv*P"
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 3)))


WORDS = ("name", "question", "source", "data", "images", "reference", "command")  # of study.json


@dataclass(frozen=True, kw_only=True)
class Course:
    """A finished run: errors by epoch, and those of the weights that were kept."""

    epochs: tuple[float, ...]
    errors: tuple[float, ...]  # top-1, monitored split
    top1_error: float
    top5_error: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """A member's line of the table; errors are shares."""

    label: str
    parameters: int
    num_train: int  # images learned from
    published: float | None
    planned: int
    courses: dict[int, Course]  # finished runs, by their place among the seeds
    difference: Paired | None  # to the reference

    @property
    def errors(self) -> Summary | None:
        """The errors over seeds."""
        return (
            summary([course.top1_error for course in self.courses.values()])
            if self.courses
            else None
        )


@dataclass(frozen=True, kw_only=True)
class Results:
    """A study's table and what it says in words."""

    name: str
    question: str
    source: str
    data: str
    images: int  # of the split that the errors are measured on
    command: str
    reference: str
    rows: tuple[Row, ...]

    @property
    def learned_from(self) -> str:
        """The data, and how many images of it the members learned from."""
        low, high = min(row.num_train for row in self.rows), max(row.num_train for row in self.rows)
        return f"{low:,}{'' if low == high else f' to {high:,}'} training images of {self.data}"

    @property
    def verdicts(self) -> list[str]:
        """A sentence for each comparison."""
        reference = next(row for row in self.rows if row.label == self.reference)
        return [_verdict(row, reference, self.images) for row in self.rows if row is not reference]


def report(folder: Path) -> Results:
    """Write a study's results.json, table.md, table.csv and figure.png into its folder; return what
    they hold.

    Raises:
        ValueError: the folder holds no study, or none of its runs is finished yet.
    """
    results = read_results(folder)
    write_atomic(folder / "results.json", (json.dumps(_plain(results), indent=1) + "\n").encode())
    write_atomic(folder / "table.md", (markdown(results)).encode())
    write_atomic(folder / "table.csv", (comma_separated(results)).encode())
    draw(results, folder / "figure.png")
    return results


def read_results(folder: Path) -> Results:
    """Read study.json and the runs it names; raise ValueError as `report` does."""
    path = folder / "study.json"
    try:
        content = json.loads(path.read_bytes())
        members = content["members"]
        courses = [
            {
                place: course
                for place, name in enumerate(m["runs"])
                if (course := _course(folder / name, m["final"]))
            }
            for m in members
        ]
        of_reference = courses[[m["label"] for m in members].index(content["reference"])]
        rows = tuple(
            Row(
                label=m["label"],
                parameters=m["parameters"],
                num_train=m["num_train"],
                published=m["published"],
                planned=len(m["runs"]),
                courses=own,
                difference=None
                if m["label"] == content["reference"]
                else _difference(own, of_reference),
            )
            for m, own in zip(members, courses, strict=True)
        )
        words = {name: content[name] for name in WORDS}
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path} is missing or damaged ({error}); `tinysight study` writes it"
        ) from None
    if not any(row.courses for row in rows):
        raise ValueError(f"no training of {folder} is finished yet, so there is nothing to report")
    return Results(rows=rows, **words)


def _monitored_error(line: dict[str, Any]) -> float:
    """Return what the training chose its best weights by: a localizer the share of objects it
    missed.
    """
    return float(1 - line["loc50"] if "loc50" in line else line["top1_error"])


def _course(folder: Path, final: str) -> Course | None:
    if not (folder / "weights.safetensors").exists():
        return None
    lines = [line for line in read_lines(folder / "log.jsonl") if line["kind"] == "epoch"]
    kept = min(lines, key=_monitored_error) if final == "best" else lines[-1]
    return Course(
        epochs=tuple(line["epoch"] for line in lines),
        errors=tuple(line["top1_error"] for line in lines),
        top1_error=kept["top1_error"],
        top5_error=kept["top5_error"],
        seconds=float(json.loads((folder / "summary.json").read_bytes())["seconds"]),
    )


def _difference(courses: dict[int, Course], reference: dict[int, Course]) -> Paired | None:
    """Compare two members seed by seed: the same seed means the same order of images and the same
    cut-outs.
    """
    both = sorted(courses.keys() & reference.keys())
    if not both:
        return None
    return paired(
        [courses[seed].top1_error for seed in both], [reference[seed].top1_error for seed in both]
    )


def _verdict(row: Row, reference: Row, images: int) -> str:
    if row.difference is None or row.errors is None or reference.errors is None:
        return f"{row.label} cannot be compared with {reference.label} yet: no seed of both is finished."
    found = row.difference
    points = 100 * abs(found.mean)
    less = f"{points:.2f} points {'less' if found.mean < 0 else 'more'} than {reference.label}"
    if found.mean == 0:
        less = f"as often as {reference.label}"
    if found.interval is None:
        own, other = (
            wilson_interval(round(share * images), images)
            for share in (row.errors.mean, reference.errors.mean)
        )
        return (
            f"{row.label} errs {less}; one seed cannot tell whether that is larger than the noise between seeds (for "
            f"the choice of {images:,} images alone, 95 %: {100 * own[0]:.1f} to {100 * own[1]:.1f} % against "
            f"{100 * other[0]:.1f} to {100 * other[1]:.1f} %)."
        )
    low, high = 100 * found.interval[0], 100 * found.interval[1]
    noise = "larger" if found.significant else "not larger"
    return (
        f"{row.label} errs {less} ({found.count} seeds, 95 % interval of the difference {low:+.2f} to {high:+.2f}): "
        f"{noise} than the noise between seeds."
    )


HEADS = (
    "member",
    "parameters",
    "epochs",
    "runs",
    "top-1 error, %",
    "sd",
    "lowest to highest",
    "top-5, %",
    "published top-1, %",
)


def markdown(results: Results) -> str:
    """Return the table, with what its figures are and the verdicts, as a page of Markdown."""
    heads = [*HEADS, f"minus {results.reference} (95 %)", "time a run"]
    lines = [_bar(heads), _bar(["---"] * len(heads))]
    for row in results.rows:
        lines.append(_bar([row.label, f"{row.parameters / 1e6:.2f} M", *_cells(row)]))
    return "\n".join(
        [
            f"# {results.question}",
            "",
            f"Study `{results.name}` on {results.learned_from}. {results.source}.",
            f"Made by `{results.command}`.",
            "",
            *lines,
            "",
            *(f"- {sentence}" for sentence in results.verdicts),
            "",
            f"Errors are of the weights kept, on the {results.images:,} images of minival, mean over seeds; sd is "
            "between seeds. Published figures are of Tiny ImageNet's official val. Differences are in points, paired "
            "by seed (same order of images), with Student's interval, each for one comparison alone; which images are "
            "in minival adds to it.",
            "",
            "![errors by epoch](figure.png)",
            "",
        ]
    )


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cells(row: Row) -> list[str]:
    done = (
        f"{len(row.courses)} of {row.planned}"
        if len(row.courses) < row.planned
        else str(row.planned)
    )
    published = "" if row.published is None else f"{100 * row.published:.2f}"
    if row.errors is None:
        return ["", done, "", "", "", "", published, "", ""]
    found = row.errors
    courses = list(row.courses.values())
    spread = (
        ["", ""]
        if found.sd is None
        else [f"{100 * found.sd:.2f}", f"{100 * found.low:.2f} to {100 * found.high:.2f}"]
    )
    difference = ""
    if row.difference is not None:
        difference = f"{100 * row.difference.mean:+.2f}"
        if row.difference.interval is not None:
            low, high = row.difference.interval
            difference += f" ({100 * low:+.2f} to {100 * high:+.2f})"
    seconds = summary([course.seconds for course in courses]).mean
    top5 = summary([course.top5_error for course in courses]).mean
    epochs = f"{max(course.epochs[-1] for course in courses):g}"
    return [
        epochs,
        done,
        f"{100 * found.mean:.2f}",
        *spread,
        f"{100 * top5:.2f}",
        published,
        difference,
        duration(seconds),
    ]


def comma_separated(results: Results) -> str:
    """Return the table as CSV, one line a member; errors are shares, times seconds."""
    rows = _plain(results)["members"]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [name for name in rows[0] if name != "top1_errors"], extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _plain(results: Results) -> dict[str, Any]:
    members = []
    for row in results.rows:
        found, courses = row.errors, list(row.courses.values())
        low, high = (row.difference.interval if row.difference else None) or (None, None)
        members.append(
            {
                "member": row.label,
                "parameters": row.parameters,
                "num_train": row.num_train,
                "epochs": max((course.epochs[-1] for course in courses), default=None),
                "runs": len(courses),
                "runs_planned": row.planned,
                "top1_error": found.mean if found else None,
                "top1_sd": found.sd if found else None,
                "top1_lowest": found.low if found else None,
                "top1_highest": found.high if found else None,
                "top5_error": summary([course.top5_error for course in courses]).mean
                if courses
                else None,
                "published_top1_error": row.published,
                "difference": row.difference.mean if row.difference else None,
                "difference_low": low,
                "difference_high": high,
                "pairs": row.difference.count if row.difference else None,
                "seconds": summary([course.seconds for course in courses]).mean
                if courses
                else None,
                "top1_errors": {seed: course.top1_error for seed, course in row.courses.items()},
            }
        )
    words = {name: getattr(results, name) for name in WORDS}
    return {**words, "members": members, "verdicts": results.verdicts}


def draw(results: Results, path: Path) -> None:
    """Draw top-1 error by epoch: a line a member, a band from lowest to highest seed (as Wu et al.
    2017, Fig. 6).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, row in enumerate(results.rows):
        if not row.courses:
            continue
        courses = list(row.courses.values())
        epochs = courses[0].epochs
        by_epoch = [
            summary([100 * error for error in errors])
            for errors in zip(*(c.errors for c in courses), strict=True)
        ]
        color, style = COLORS[number % len(COLORS)], STYLES[number % len(STYLES)]
        seeds = f" ({len(courses)} seeds)" if len(courses) > 1 else ""
        marker = MARKERS[number % len(MARKERS)] if len(epochs) <= 20 else ""
        axes.plot(
            epochs,
            [s.mean for s in by_epoch],
            color=color,
            ls=style,
            lw=1.8,
            marker=marker,
            ms=4,
            label=row.label + seeds,
        )
        if len(courses) > 1:
            low, high = [s.low for s in by_epoch], [s.high for s in by_epoch]
            axes.fill_between(epochs, low, high, color=color, alpha=0.18, lw=0)
    axes.set(xlabel="epoch", ylabel="top-1 error on minival (%)")
    axes.set_title(f"{results.question}\n{results.learned_from}", loc="left", fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    last = max(
        (course.epochs[-1] for row in results.rows for course in row.courses.values()), default=1
    )
    margin = 0.02 * last if last > 1 else 0.5
    axes.set_xlim(1 - margin, last + margin)
    axes.set_axisbelow(True)
    axes.grid(visible=True, color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, handlelength=3.2)
    temporary = path.with_name(f"{path.stem}.tmp-{os.getpid()}.png")
    figure.savefig(temporary, dpi=120)
    temporary.replace(path)
