"""Make the README's table of results from recorded rows, and list what has not been run yet.

    python benchmarks/results.py           put the tables of benchmarks/results.jsonl into README.md
    python benchmarks/results.py --check   fail when the README's tables are not those
    python benchmarks/results.py --add RUN [RUN ...] --hardware "2 cores of ..." --record
    experiments/NNN-question.md [--experiment "what was trained"]
                                           append an evaluated run, or one run with several seeds
    python benchmarks/results.py --add-row FILE --record experiments/NNN-question.md
                                           append the row that benchmarks/speedrun.py --out wrote

A row is one line of JSON: date, commit, command, data, recipe, parameters (of the classifier, and
with_box those of a localizer), images (learned from), hardware, minutes (of one training), seeds,
top1_error (of several seeds the mean, with top1_errors and top1_sd) and its interval, top5_error,
record (the page about it). Errors are shares of the official val, reported once. A run that does
not have its recipe's settings has `experiment`, a short title that the table shows in place of the
recipe. A row of "status": "not run" has recipe, target, needs and the command that will run it;
adding a row of that recipe removes it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "benchmarks" / "results.jsonl"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
MEASURED = {
    *(
        "date",
        "commit",
        "command",
        "data",
        "recipe",
        "parameters",
        "images",
        "hardware",
        "minutes",
        "seeds",
        "epochs",
    ),
    *("top1_error", "top5_error", "record"),
}
# Settings that a row may change and still be that recipe's result.
SAME_RECIPE = ("data.name", "data.train", "data.monitor", "train.seed", "train.device")
NOT_RUN = {"status", "recipe", "data", "target", "needs", "command"}
REPORT = (
    "| *the report's Inception-ResNet, 2017* | 8.3 M | 37.56 % | "
    "| | a GPU (K80) | not stated | | |",
    "| *the report's 18-layer ResNet, 2017* | 11.28 M | 43.50 % | 20.30 % "
    "| | a GPU (K80) | not stated | | |",
)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the measured rows by rising error, the report's own, and what is not run yet."""
    measured = sorted(
        (row for row in rows if not _waits(row)), key=lambda row: float(row["top1_error"])
    )
    waiting = [row for row in rows if _waits(row)]
    lines = [
        "| recipe or experiment | parameters | top-1 error | top-5 error "
        "| images | machine | time | seeds | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(_line, measured),
        *REPORT,
        "",
        "Errors are of the mean over an image and its mirror image; the report does not say how it "
        "evaluated. The error of one seed has its 95 %",
        "interval, of the 10,000 images alone, the mean of several their standard deviation. "
        "95,000 images are train, 100,000 minival, too.",
        "A row names its recipe, or the experiment where its settings differ; the full "
        "commands are",
        "in the experiments and in [benchmarks/results.jsonl](benchmarks/results.jsonl).",
    ]
    if waiting:
        lines += [
            "",
            "Not run yet:",
            "",
            "| recipes and the top-1 error to reach | needs | command |",
            "| --- | --- | --- |",
        ]
    for command, needs in dict.fromkeys((row["command"], row["needs"]) for row in waiting):
        alike = [
            f"{_what(row)}: {row['target']}"
            for row in waiting
            if (row["command"], row["needs"]) == (command, needs)
        ]
        lines.append(f"| {'; '.join(alike)} | {needs} | `{command}` |")
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    if row.get("top1_sd") is not None:
        spread = f"+- {100 * row['top1_sd']:.2f}"
    elif "top1_low" in row:
        spread = f"{100 * row['top1_low']:.1f} to {100 * row['top1_high']:.1f}"
    else:
        spread = "one seed"
    cells = [
        _what(row),
        f"{row['parameters'] / 1e6:.2f} M"
        + (f" ({row['with_box'] / 1e6:.2f} M with the box)" if "with_box" in row else ""),
        f"**{_percent(row['top1_error'])}** ({spread})",
        _percent(row["top5_error"]),
        f"{row['images']:,}",
        row["hardware"],
        f"{row['minutes']:.0f} min" if row["minutes"] >= 5 else f"{60 * row['minutes']:.1f} s",
        ", ".join(map(str, row["seeds"])),
        f"[{row['date']}]({row['record']})",
    ]
    return f"| {' | '.join(cells)} |"


def _what(row: dict[str, Any]) -> str:
    if "experiment" in row:
        return f"experiment {Path(row['record']).name[:3]}: {row['experiment']}"
    return f"`{row['recipe']}`" + (", speedrun" if row.get("kind") == "speedrun" else "")


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _waits(row: dict[str, Any]) -> bool:
    return row.get("status") == "not run"


def with_table(readme: str, rows: list[dict[str, Any]]) -> str:
    """Return the README's text with the table between its marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(
            f"README.md lacks the marks {BEGIN} and {END}; put them where the table belongs"
        )
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the recorded rows; raise ValueError that names the line when one lacks something."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        row = json.loads(line)
        if missing := sorted((NOT_RUN if _waits(row) else MEASURED) - row.keys()):
            raise ValueError(f"{path}, line {number}, lacks {', '.join(missing)}")
        rows.append(row)
    return rows


def row_of(
    folders: list[Path], *, hardware: str, record: str, experiment: str | None = None
) -> dict[str, Any]:
    """Return the row of an evaluated run, or of several that differ in their seed only."""
    import torch

    from tinysight import models
    from tinysight import run as runs
    from tinysight.predict.predictor import Predictor
    from tinysight.recipes import RECIPES
    from tinysight.settings import difference
    from tinysight.training.setup import create_model

    records = [runs.read_run(folder) for folder in folders]
    first = records[0]
    for other in records[1:]:
        alike = replace(
            other.config, train=replace(other.config.train, seed=first.config.train.seed)
        )
        if alike != first.config:
            raise ValueError(
                replace(other, config=alike).mismatch(first.config)
                + "; give runs that differ in their seed"
            )
    seeds = [each.config.train.seed for each in records]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"the seeds are {', '.join(map(str, seeds))}; give each once")
    base = RECIPES[first.config.recipe]() if first.config.recipe in RECIPES else first.config
    changed = [
        setting
        for setting in difference(first.config, base)
        if setting.partition("=")[0] not in SAME_RECIPE
    ]
    if changed and experiment is None:
        raise ValueError(
            f"{folders[0]} is not {first.config.recipe} as it stands ({', '.join(changed)}); "
            "give a short title by --experiment"
        )
    evaluations = [json.loads((folder / "evaluation-val.json").read_bytes()) for folder in folders]
    summaries = [json.loads((folder / "summary.json").read_bytes()) for folder in folders]
    num_classes = len(Predictor(folders[0]).metadata.class_names)
    stamp = max((folder / "evaluation-val.json").stat().st_mtime for folder in folders)
    names = ["top1_error", "top5_error", "loss", "calibration_error"]
    if len(folders) == 1:
        names[1:1] = ["top1_low", "top1_high"]
    errors = [each["top1_error"] for each in evaluations]
    several = (
        {"top1_errors": errors, "top1_sd": round(statistics.stdev(errors), 6)}
        if len(errors) > 1
        else {}
    )
    with torch.device("meta"):
        entire = models.count_parameters(create_model(first.config, num_classes))
    train = first.config.train
    return {
        "date": datetime.fromtimestamp(stamp, tz=UTC).date().isoformat(),
        "commit": first.versions.get("commit", ""),
        "command": portable(first.command),
        "data": first.config.data.name,
        "recipe": first.config.recipe,
        **({} if experiment is None else {"experiment": experiment}),
        "parameters": models.num_parameters(
            first.config.model.name, num_classes, first.config.model.options
        ),
        **({"with_box": entire} if first.config.localizer.finds else {}),
        "images": int(round(summaries[0]["steps"] * train.batch_size / train.epochs, -2)),
        "hardware": hardware,
        "minutes": round(statistics.mean(each["seconds"] for each in summaries) / 60, 1),
        "seeds": seeds,
        "epochs": train.epochs,
        **{name: round(statistics.mean(each[name] for each in evaluations), 6) for name in names},
        **several,
        "record": record,
    }


def portable(command: str) -> str:
    """Return a command without paths of its machine: --data-dir, --name, an encoder's folder."""
    lines = [line.partition("  # ") for line in command.splitlines()]
    return "\n".join(_portable_line(line) + mark + remark for line, mark, remark in lines)


def _portable_line(command: str) -> str:
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word == "--data-dir":
            next(words)
        elif word == "--name" and "/" in (name := next(words)):
            continue
        elif word == "--name":
            kept += [word, name]
        elif word.startswith("model.pretrained=") and "/" in word:
            kept.append(f"model.pretrained=runs/{word.rpartition('/')[2]}")
        else:
            kept.append(word)
    if "--name" not in kept:
        kept = [word for word in kept if word != "--resume"]  # which needs a name
    return shlex.join(kept)


def with_row(rows: list[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows and a new one, without the row of what was still to be run."""
    speedrun = row.get("kind") == "speedrun"
    as_published = "experiment" not in row

    def answered(waiting: dict[str, Any]) -> bool:
        if speedrun or waiting.get("kind") == "speedrun":
            return speedrun and waiting.get("kind") == "speedrun"
        return as_published and (waiting["recipe"], waiting["data"]) == (row["recipe"], row["data"])

    return [*(each for each in rows if not (_waits(each) and answered(each))), row]


def main() -> None:
    """Write, check or extend the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--add", type=Path, metavar="RUN", nargs="+")
    parser.add_argument("--add-row", type=Path, metavar="FILE")
    parser.add_argument("--hardware")
    parser.add_argument("--record")
    parser.add_argument(
        "--experiment", help="short title of a run that is not its recipe as it stands"
    )
    arguments = parser.parse_args()
    try:
        rows = read_rows(ROWS)
        if arguments.add or arguments.add_row:
            if not arguments.record or not (arguments.hardware or arguments.add_row):
                parser.error("--add needs --hardware and --record, --add-row needs --record")
            if not (ROOT / arguments.record).is_file():
                parser.error(f"there is no page {arguments.record}; write it first")
            if arguments.add:
                row = row_of(
                    arguments.add,
                    hardware=arguments.hardware,
                    record=arguments.record,
                    experiment=arguments.experiment,
                )
            else:
                row = {**json.loads(arguments.add_row.read_bytes()), "record": arguments.record}
                if row["split"] != "val":
                    raise ValueError(
                        f"the row's errors are {row['split']}'s; results are reported on val"
                    )
            rows = with_row(rows, row)
            ROWS.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = with_table(old, rows)
    if arguments.check and new != old:
        sys.exit("README.md's table of results is stale; run `python benchmarks/results.py`")
    if not arguments.check:
        readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
