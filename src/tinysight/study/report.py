"""The results of a study, from its folder alone: a table, errors by epoch as a figure, verdicts.

Reads study.json, which names the members and their runs, and each run's log.jsonl and summary.json;
writes results.json, table.md, table.csv and figure.png. Unfinished runs are counted and left out.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinysight.analysis.pictures import save_figure
from tinysight.analysis.plots import Curve, overlaid_curves
from tinysight.analysis.statistics import Paired, Summary, compared, paired, summarize
from tinysight.files import write_atomic
from tinysight.ops.metrics import wilson_interval
from tinysight.run import duration, read_lines
from tinysight.text import pluralize

FIELDS = ("name", "question", "source", "data", "images", "reference", "command")  # of study.json
COPIED = ("parameters", "num_train", "published")  # from a member of study.json to its Row
HEADER = (
    *("member", "parameters", "epochs", "runs", "top-1 error, %", "sd", "lowest to highest"),
    *("top-5, %", "published top-1, %", "minus {reference} (95 %)", "time per run"),
)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """Errors by epoch on the monitored split, and those of the weights that were kept."""

    epochs: tuple[float, ...]
    errors: tuple[float, ...]  # top-1
    top1_error: float
    top5_error: float | None  # there is none of five classes or fewer
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """A member's row of the table; errors are shares."""

    label: str
    parameters: int
    num_train: int  # training images
    published: float | None
    num_planned: int
    runs: dict[int, FinishedRun]  # by seed
    difference: Paired | None  # to the reference

    @property
    def errors(self) -> Summary | None:
        """The errors over seeds."""
        return self._over_seeds("top1_error")

    @property
    def by_seed(self) -> dict[int, float]:
        """The error of each seed."""
        return _by_seed(self.runs)

    def _over_seeds(self, name: str) -> Summary | None:
        values = [getattr(run, name) for run in self.runs.values()]
        return summarize(values) if values and None not in values else None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values, None where there are none yet."""
        errors = self.errors
        top5, seconds = self._over_seeds("top5_error"), self._over_seeds("seconds")
        low, high = (self.difference.interval if self.difference else None) or (None, None)
        return {
            "member": self.label,
            "parameters": self.parameters,
            "num_train": self.num_train,
            "epochs": max((run.epochs[-1] for run in self.runs.values()), default=None),
            "runs": len(self.runs),
            "runs_planned": self.num_planned,
            "top1_error": errors and errors.mean,
            "top1_sd": errors and errors.sd,
            "top1_lowest": errors and errors.low,
            "top1_highest": errors and errors.high,
            "top5_error": top5 and top5.mean,
            "published_top1_error": self.published,
            "difference": self.difference and self.difference.mean,
            "difference_low": low,
            "difference_high": high,
            "pairs": self.difference and self.difference.count,
            "seconds": seconds and seconds.mean,
            "top1_errors": self.by_seed,
        }


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """A study's table, and what may be concluded from it."""

    name: str
    question: str
    source: str
    data: str
    images: int  # of the split that the errors are measured on
    command: str
    reference: str
    rows: tuple[Row, ...]

    @property
    def trained_on(self) -> str:
        """The dataset, and how many of its images the members were trained on."""
        counts = [row.num_train for row in self.rows]
        most = f" to {max(counts):,}" if max(counts) > min(counts) else ""
        return f"{min(counts):,}{most} training images of {self.data}"

    @property
    def verdicts(self) -> list[str]:
        """A sentence for each comparison with the reference."""
        (reference,) = (row for row in self.rows if row.label == self.reference)
        other = reference.label, reference.by_seed, self.images
        return [
            verdict(row.label, row.by_seed, *other, row.difference)
            for row in self.rows
            if row is not reference
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        members = [row.to_dict() for row in self.rows]
        fields = {name: getattr(self, name) for name in FIELDS}
        return {**fields, "members": members, "verdicts": self.verdicts}


def report(folder: Path) -> StudyResults:
    """Write a study's results.json, table.md, table.csv and figure.png into its folder."""
    results = read_results(folder)
    text = json.dumps(results.to_dict(), indent=1) + "\n"
    write_atomic(folder / "results.json", text.encode())
    write_atomic(folder / "table.md", markdown(results).encode())
    write_atomic(folder / "table.csv", to_csv(results).encode())
    draw(results, folder / "figure.png")
    return results


def read_results(folder: Path) -> StudyResults:
    """Read study.json and its runs; raise ValueError if there is none, or no run is finished."""
    path = folder / "study.json"
    try:
        content = json.loads(path.read_bytes())
        members = content["members"]
        finished = {
            member["label"]: {
                seed: _read_run(folder / name, member["keep_weights"])
                for seed, name in enumerate(member["runs"])
                if (folder / name / "weights.safetensors").exists()
            }
            for member in members
        }
        errors = {label: _by_seed(own) for label, own in finished.items()}
        differences = compared(errors, content["reference"])
        rows = tuple(
            Row(
                num_planned=len(member["runs"]),
                runs=finished[member["label"]],
                difference=differences.get(member["label"]),
                **{name: member[name] for name in ("label", *COPIED)},
            )
            for member in members
        )
        fields = {name: content[name] for name in FIELDS}
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        what = f"{path} is missing or damaged ({error})"
        raise ValueError(f"{what}; `tinysight study` writes it") from None
    if not any(row.runs for row in rows):
        raise ValueError(f"no training of {folder} is finished yet, so there is nothing to report")
    return StudyResults(rows=rows, **fields)


def _monitored_error(line: dict[str, Any]) -> float:
    """Return what the best weights were chosen by: of a localizer, the surest boxes that miss."""
    return float(1 - line["loc50"] if "loc50" in line else line["top1_error"])


def _read_run(folder: Path, keep_weights: str) -> FinishedRun:
    lines = [line for line in read_lines(folder / "log.jsonl") if line["kind"] == "epoch"]
    kept = min(lines, key=_monitored_error) if keep_weights == "best" else lines[-1]
    return FinishedRun(
        epochs=tuple(line["epoch"] for line in lines),
        errors=tuple(line["top1_error"] for line in lines),
        top1_error=kept["top1_error"],
        top5_error=kept["top5_error"],
        seconds=float(json.loads((folder / "summary.json").read_bytes())["seconds"]),
    )


def _by_seed(runs: dict[int, FinishedRun]) -> dict[int, float]:
    return {seed: run.top1_error for seed, run in runs.items()}


def verdict(
    label: str,
    errors: dict[int, float],
    reference: str,
    others: dict[int, float],
    images: int,
    difference: Paired | None = None,
) -> str:
    """Compare errors by seed with those of a reference, in a sentence; `images` measured them.

    `difference` is that of `compared`; None: of these two alone.
    """
    both = sorted(errors.keys() & others.keys())
    if not both:
        return f"{label} and {reference}: no seed of both is finished yet."
    if difference is None:
        difference = paired([errors[seed] for seed in both], [others[seed] for seed in both])
    points = f"{100 * abs(difference.mean):.2f} points"
    if points == "0.00 points":
        points = "less than 0.01 points"
    error = f"{points} {'lower' if difference.mean < 0 else 'higher'} than that of {reference}"
    if difference.mean == 0:
        error = f"equal to that of {reference}"
    if difference.interval is None:
        own, other = (
            "{:.1f} to {:.1f} %".format(*(100 * x for x in wilson_interval(wrong, images)))
            for wrong in (round(found[both[0]] * images) for found in (errors, others))
        )
        return (
            f"{label}: error {error}; one seed cannot show whether that is more than the noise "
            f"between seeds (for the choice of {images:,} images alone, 95 %: {own} against "
            f"{other})."
        )
    low, high = (100 * bound for bound in difference.interval)
    noise = "larger" if difference.significant else "not larger"
    pairs = pluralize(difference.count, "seed")
    if difference.own_noise:
        pairs += " of these two alone, as one of them varies more than the others"
    return (
        f"{label}: error {error} ({pairs}, 95 % interval of the "
        f"difference {low:+.2f} to {high:+.2f}): {noise} than the noise between seeds."
    )


def markdown(results: StudyResults) -> str:
    """Return the table, what its numbers are, and the verdicts, as a page of Markdown."""
    header = [name.format(reference=results.reference) for name in HEADER]
    lines = [header, ["---"] * len(header), *map(_cells, results.rows)]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return f"""# {results.question}

Study `{results.name}` on {results.trained_on}. {results.source}.
Made by `{results.command}`.

{chr(10).join(table)}

{chr(10).join(f"- {sentence}" for sentence in results.verdicts)}

Errors are those of the weights kept, on the {results.images:,} images of minival, mean over seeds;
sd is between seeds. Published errors are on Tiny ImageNet's official val. Differences are in
points, paired by seed (same order of images), with Student's interval for each comparison alone, of
the noise of all runs together, but for members whose seeds lie further apart than those of the
others (F test, 1 %: then of these pairs alone); the choice of the images in minival adds to it.

![errors by epoch](figure.png)
"""


def _cells(row: Row) -> list[str]:
    values = row.to_dict()

    def percent(*names: str, form: str = ".2f", joint: str = " to ") -> str:
        found = [values[name] for name in names]
        return "" if None in found else joint.join(f"{100 * value:{form}}" for value in found)

    difference = percent("difference", form="+.2f")
    if interval := percent("difference_low", "difference_high", form="+.2f"):
        difference += f" ({interval})"
    several = len(row.runs) > 1
    unfinished = f" of {row.num_planned}" if len(row.runs) < row.num_planned else ""
    return [
        row.label,
        f"{row.parameters / 1e6:.2f} M",
        f"{values['epochs']:g}" if row.runs else "",
        f"{len(row.runs)}{unfinished}",
        percent("top1_error"),
        percent("top1_sd"),
        percent("top1_lowest", "top1_highest") if several else "",
        percent("top5_error"),
        percent("published_top1_error"),
        difference,
        duration(values["seconds"]) if row.runs else "",
    ]


def to_csv(results: StudyResults) -> str:
    """Return the table as CSV, one line per member; errors are shares, times seconds."""
    rows = [row.to_dict() for row in results.rows]
    text = io.StringIO()
    names = [name for name in rows[0] if name != "top1_errors"]
    writer = csv.DictWriter(text, names, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def draw(results: StudyResults, path: Path) -> None:
    """Plot top-1 error by epoch: a line per member, a band from the lowest to the highest seed."""
    curves = []
    for row in results.rows:
        if runs := list(row.runs.values()):
            curves.append(Curve(row.label, runs[0].epochs, [run.errors for run in runs]))
    title = f"{results.question}\n{results.trained_on}"
    figure = overlaid_curves(curves, ylabel="top-1 error on minival (%)", title=title)
    save_figure(figure, path)
