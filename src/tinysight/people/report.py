"""The page of a study: index.html, results.json, figures/ and tables/ in a folder of its own."""

from __future__ import annotations

import json
import math
from dataclasses import astuple, fields, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from tinysight.analysis.errors import most_confused_classes
from tinysight.analysis.page import Page, data_uri
from tinysight.analysis.plots import confusion_figure
from tinysight.files import write_atomic
from tinysight.people import answers, breakdowns, plots, results
from tinysight.people.results import Findings, StudyResults
from tinysight.people.study import Study

SIDE = 112  # pixels of a picture on the page
MAX_PAIRS = 10  # of classes that people confuse most, and as many of networks
MAX_CLASSES = 12  # in the figures of confusions


def write_study(study: Study, found: StudyResults, out: Path, *, note: str = "") -> Path:
    """Write the page, results.json, figures and tables of a study; return the page's path.

    Args:
        note: in plain words, on top of the page.
    """
    out.mkdir(parents=True, exist_ok=True)
    plain = {"note": note, **as_plain(found)}
    text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = Page(out)
    values: dict[str, Any] = {"study": found, "note": note, "min_people": results.MIN_PEOPLE}
    values |= {
        "rules": answers.RULES,
        "wanted": results.WANTED,
        "min_shared": breakdowns.MIN_SHARED,
    }
    values |= {"found": found.findings, "sections": {}, "outcomes": breakdowns.OUTCOMES}
    if found.findings is not None:
        values["sections"] = _sections(study, found, found.findings, page)
    write_atomic(out / "results.json", text.encode("utf-8"))
    return page.write("people.html.j2", values)


def as_plain(value: Any) -> Any:
    """Return results as JSON has them: NaN is null, a matrix its non-zero [row, column, value]."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {key: as_plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        if value.ndim == 2:
            return [
                [*map(int, place), int(value[place])]
                for place in zip(*value.nonzero(), strict=True)
            ]
        return as_plain(value.tolist())
    if isinstance(value, list | tuple):
        return [as_plain(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    return value


def _sections(study: Study, found: StudyResults, own: Findings, page: Page) -> dict[str, Any]:
    """Draw the figures and write the tables; return what the template shows of them."""
    networks = {network.name: network for network in own.networks}
    rows = [("people, mean", own.headline.accuracy, "people, mean")]
    rows += [(name, network.accuracy, "networks") for name, network in networks.items()]
    each = sorted(own.people, key=lambda person: -person.accuracy.value)
    rows += [(person.name, person.accuracy, "each person") for person in each]
    groups = {plots.PEOPLE: [group.shrunk for group in own.groups]}
    groups |= {name: [group.networks[name] for group in own.groups] for name in networks}
    names = [group.name for group in own.groups]
    drawn: dict[str, tuple[Figure, str]] = {
        "accuracies": (plots.accuracies_figure(rows), "Accuracies, as in the tables."),
        "groups": (plots.groups_figure(names, groups), "Accuracy by class, as in the table."),
    }
    if own.session:
        parts = [f"{i} of {len(own.session)}" for i in range(1, len(own.session) + 1)]
        line = plots.bins_figure(parts, {plots.PEOPLE: own.session}, "part of a session")
        drawn["session"] = line, "Accuracy of people by part of a session."
    if networks:
        calibrations = {name: network.calibration for name, network in networks.items()}
        alt = "Share of people who answer as the network does, by its confidence."
        drawn["calibration"] = plots.calibration_figure(calibrations), alt
    if own.times:
        drawn["times"] = plots.times_figure(own.times.seconds), "Seconds per answer."
    made: dict[str, Any] = {
        name: page.add_figure(figure, name, alt=alt) for name, (figure, alt) in drawn.items()
    }
    made["difficulty"] = _difficulty(own, page)
    made |= _confusions(found, own, page)
    made["pictures"] = {
        image.row: data_uri(study.dataset.images[image.row], max_side=SIDE)
        for network in own.networks
        for images in network.images.values()
        for image in images
    }
    columns = ("name", "answers", "accuracy", "low", "high")
    people = [(p.name, p.answers, *astuple(p.accuracy)) for p in own.people]
    page.add_table("people", columns, people)
    header = ("name", "answers", "as_counted", "drawn_to_mean", "low", "high")
    classes = [(g.name, g.answers, g.people, *astuple(g.shrunk)) for g in own.groups]
    page.add_table("classes", header, classes)
    return made


def _difficulty(own: Findings, page: Page) -> list[tuple[Markup, str]]:
    bins = [(own.difficulty, "share of other people who are right")] if own.difficulty else []
    bins += [(each.difficulty, f"confidence of {each.name}") for each in own.networks]
    made = []
    for number, (each, label) in enumerate(bins):
        names = [f"{part.name}\nn = {part.answers:,}" for part in each]
        figure = plots.bins_figure(names, plots.bin_series(each), label)
        alt = f"Accuracy of people and networks by {label}."
        made.append((page.add_figure(figure, f"difficulty-{number}", alt=alt), label))
    return made


def _confusions(found: StudyResults, own: Findings, page: Page) -> dict[str, Any]:
    """Return the commonest confusions of people and networks, and figures of the same classes."""
    counts = {plots.PEOPLE: own.confusions} | {each.name: each.confusions for each in own.networks}
    totals = {name: part.sum(axis=1) for name, part in counts.items()}
    totals[plots.PEOPLE] = totals[plots.PEOPLE] + own.cannot_tell
    shares = {name: part / np.maximum(totals[name], 1)[:, None] for name, part in counts.items()}
    people = shares.pop(plots.PEOPLE)
    others = sum(shares.values(), np.zeros_like(people)) / max(len(shares), 1)
    both = people + others
    for part in (people, others, both):
        np.fill_diagonal(part, 0)
    places = [
        place
        for part in (people, others)
        for place in np.argsort(-part, axis=None, kind="stable")[:MAX_PAIRS]
        if part.flat[place] > 0
    ]
    names = found.class_names
    pairs: list[dict[str, Any]] = []
    for place in dict.fromkeys(places):
        i, j = divmod(int(place), len(names))
        parts = {name: (int(counts[name][i, j]), int(totals[name][i])) for name in counts}
        pairs.append({"true": names[i], "answer": names[j], "counts": parts})
    header = (
        "true",
        "answer",
        *(f"{what}, {name}" for name in counts for what in ("answers", "of")),
    )
    rows = [(p["true"], p["answer"], *chain(*p["counts"].values())) for p in pairs]
    page.add_table("confusions", header, rows)
    chosen = most_confused_classes(np.ceil(1000 * both).astype(np.int64), limit=MAX_CLASSES)
    figures = []
    for number, (name, part) in enumerate(counts.items()):
        if len(chosen) > 1:
            figure = confusion_figure(part, chosen, names)
            figure.axes[0].set_xlabel("answer")
            for bar in figure.axes[1:]:
                bar.set_ylabel("share of the true class's answers (%)")
            alt = f"Confusions of {name} among {len(chosen)} classes."
            figures.append((page.add_figure(figure, f"confusions-{number}", alt=alt), name))
    return {"pairs": pairs, "confusions": figures}
