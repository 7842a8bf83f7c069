"""The README's table of results, made from recorded rows.

    python benchmarks/results.py           put the table of benchmarks/results.jsonl into README.md
    python benchmarks/results.py --check   fail when the README's table is not that one
    python benchmarks/results.py --add RUN --hardware "2 cores of ..." --record experiments/NNN-question.md
                                           append the row of an evaluated run, then put the table into README.md

A row is one line of JSON: date, commit, command, data, recipe, parameters, hardware, minutes, seeds, num_train,
top1_error and its interval, top5_error, record (the page that tells more). Errors are shares of the official val,
reported once.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table, the lowest error first, behind the report's own row."""
    lines = [
        "| recipe | parameters | top-1 error | top-5 error | trained on | time | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: row["top1_error"]):
        low, high = (f"{100 * row[name]:.1f}" for name in ("top1_low", "top1_high"))
        cells = [
            f"`{row['recipe']}`",
            f"{row['parameters'] / 1e6:.2f} M",
            f"**{100 * row['top1_error']:.2f} %** ({low} to {high})",
            f"{100 * row['top5_error']:.2f} %",
            row["hardware"],
            f"{row['minutes']:.0f} min",
            f"[{row['date']}]({row['record']})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    report = ["the report's 18-layer ResNet, 2017", "11.28 M", "43.50 %", "20.30 %", "a GPU (K80)", "not stated", ""]
    lines.append(f"| {' | '.join(report)} |")
    return "\n".join(lines)


def with_table(readme: str, rows: list[dict[str, Any]]) -> str:
    """Return the README's text with the table between its marks; raise ValueError when the marks are missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md lacks the marks {BEGIN} and {END}; put them where the table belongs")
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the recorded rows."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def row_of(folder: Path, *, hardware: str, record: str) -> dict[str, Any]:
    """Return the row of a finished run that was evaluated on val."""
    from tinysight import models, runs
    from tinysight.deploy.predictor import Predictor

    told = runs.read_record(folder)
    evaluation = json.loads((folder / "evaluation-val.json").read_text(encoding="utf-8"))
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    num_classes = len(Predictor(folder).card.class_names)
    model = models.build(told.run.model.name, num_classes, told.run.model.options)
    errors = ("top1_error", "top1_low", "top1_high", "top5_error", "loss", "calibration_error")
    return {
        "date": datetime.fromtimestamp((folder / "evaluation-val.json").stat().st_mtime, tz=UTC).date().isoformat(),
        "commit": told.versions.get("commit", ""),
        "command": told.command,
        "data": told.run.data.name,
        "recipe": told.run.recipe,
        "parameters": models.count_parameters(model),
        "hardware": hardware,
        "minutes": round(summary["seconds"] / 60, 1),
        "seeds": [told.run.train.seed],
        "epochs": told.run.train.epochs,
        **{name: round(evaluation[name], 6) for name in errors},
        "record": record,
    }


def main() -> None:
    """Write, check or extend the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--add", type=Path, metavar="RUN")
    parser.add_argument("--hardware")
    parser.add_argument("--record")
    arguments = parser.parse_args()
    check = arguments.check
    if arguments.add:
        if not (arguments.hardware and arguments.record):
            parser.error("--add needs --hardware and --record")
        row = row_of(arguments.add, hardware=arguments.hardware, record=arguments.record)
        with (ROOT / "benchmarks" / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = with_table(old, read_rows(ROOT / "benchmarks" / "results.jsonl"))
    if check and new != old:
        sys.exit("README.md's table of results is stale; run `python benchmarks/results.py`")
    if not check:
        readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
