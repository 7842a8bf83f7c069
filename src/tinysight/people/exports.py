"""Answers as files that published scripts of two studies read.

    images.csv                    index, imagename, image (its name in the dataset), category
    classes.txt                   one class per line, in the order of the columns
    counts.npy, probs.npy         (I, K) answers per image and class, and their shares; raw.csv
    model-vs-human/NAME/*.csv     one file per person or network and session
    further.csv                   second and third guesses, if anybody gave any
    also_right.csv                what people said of answers that are not the label, if anything
    excluded.csv                  whom the rules exclude, why, and whether they were left out

The first three are in the form of CIFAR-10H (Peterson et al. 2019), the last in that of
model-vs-human (Geirhos et al. 2021), whose images are identified by what follows the last
underscore of their names.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinysight.files import write_atomic
from tinysight.people.answers import (
    Answer,
    Answers,
    Mark,
    Who,
    exclusions,
    gather,
    numbered,
    shown_names,
)
from tinysight.people.statistics import count_answers

CANNOT_TELL = "na"
ALSO_COLUMNS = ("subj", "imagename", "category", "name", "given_by", "also_right")
EXCLUDED_COLUMNS = ("subj", "answers", "reason", "left_out")
GUESS_COLUMNS = ("subj", "session", "trial", "imagename", "category", "guess", "object_response")
NO_IMAGE = -99999  # index of a catch image, which is not one of the study
RAW_COLUMNS = (
    "annotator_id", "trial_index", "is_attn_check", "true_category", "chosen_category",
    "true_label", "chosen_label", "correct_guess", "cifar10_test_test_idx", "image_filename",
    "subcategory", "reaction_time", "time_elapsed",
)  # fmt: skip
TRIAL_COLUMNS = (
    "subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: people and networks with their numbers of answers.

    `excluded` are those whom the rules exclude, with the reason; they are left out unless everybody
    was asked for.
    """

    people: dict[str, int]
    networks: dict[str, int]
    excluded: dict[str, str]


def write_exports(
    answers: Answers,
    folder: Path,
    *,
    name: str,
    networks: Collection[str] = (),
    people: Who = "counted",
    marks: Sequence[Mark] = (),
) -> Exported:
    """Write the answers of people and networks into a folder, in both forms.

    People become "subject-01" and so on, see `shown_names`, whoever is left out.
    Repeats and catch images are not counted; the trials of people have them, with this as their
    condition.

    Args:
        name: of the study, in the names of files.
        networks: which of the subjects are networks.
        people: those that count by the rules, as in the report, or all.
        marks: what people said of answers that are not the label.

    Raises ValueError where a class has the name that stands for "I cannot tell", or no person
    answered or counts.
    """
    if CANNOT_TELL in answers.class_names:
        raise ValueError(f"a class is named {CANNOT_TELL!r}, which stands for no answer; rename it")
    everybody = [subject for subject in answers.subjects if subject not in networks]
    if not everybody:
        raise ValueError("no person answered; expected answers of people next to the networks'")
    shown = shown_names(everybody)
    excluded = exclusions(answers.of(everybody))
    kept = [each for each in everybody if people == "all" or each not in excluded]
    if not kept:
        raise ValueError(
            f"the rules exclude everybody ({shown[everybody[0]]}: {excluded[everybody[0]]});"
            " --people all writes their answers, too"
        )
    sizes = Counter(row.subject for row in answers.rows)
    reasons = {shown[each]: reason for each, reason in excluded.items()}
    left_out = "yes" if people == "counted" else "no"
    lines = [(shown[each], sizes[each], reason, left_out) for each, reason in excluded.items()]
    answers = _seen(answers, kept, networks)
    sizes = Counter(row.subject for row in answers.rows)  # networks have fewer now
    shown = {each: shown[each] for each in kept} | {each: _plain(each) for each in networks}
    if len(set(shown.values())) < len(shown):
        raise ValueError("two networks have one name in the files; rename one of the runs")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "excluded.csv", EXCLUDED_COLUMNS, lines)
    short = _short_names(answers.images)
    _write_counts(answers.of(kept).counted, short, folder)
    index = {image: i for i, image in enumerate(answers.of(kept).counted.images)}
    _write(folder / "raw.csv", RAW_COLUMNS, _raw(answers.of(kept), numbered(everybody), index))
    _write_if_any(folder / "further.csv", GUESS_COLUMNS, _guesses(answers.rows, shown, short))
    _write_if_any(folder / "also_right.csv", ALSO_COLUMNS, _also_right(marks, shown, short))
    _write_trials(answers, folder / "model-vs-human" / _plain(name), shown, short, networks)
    return Exported(
        people={shown[each]: sizes[each] for each in kept},
        networks={each: sizes[each] for each in networks},
        excluded=reasons,
    )


def _seen(answers: Answers, people: Collection[str], networks: Collection[str]) -> Answers:
    """Keep the answers of some people, and those of networks to the images that these saw, whose
    trials are numbered again.
    """
    rows = [row for row in answers.rows if row.subject in people]
    images = {row.image for row in rows}
    for network in networks:
        own = (r for r in answers.rows if r.subject == network and r.image in images)
        rows += [replace(row, trial=trial) for trial, row in enumerate(own, 1)]
    return gather(rows, answers.class_names)


def _write_counts(counted: Answers, short: Mapping[str, str], folder: Path) -> None:
    """Write images.csv, classes.txt and the two arrays."""
    targets = {row.image: row.target for row in counted.rows}
    lines = [(i, short[image], image, targets[image]) for i, image in enumerate(counted.images)]
    _write(folder / "images.csv", ("index", "imagename", "image", "category"), lines)
    write_atomic(folder / "classes.txt", "".join(f"{c}\n" for c in counted.class_names).encode())
    counts = count_answers(counted)
    with np.errstate(invalid="ignore"):  # NaN where nobody could tell
        _save(folder / "probs.npy", counts / counts.sum(axis=1, keepdims=True))
    _save(folder / "counts.npy", counts)


def _write_trials(
    answers: Answers,
    folder: Path,
    shown: Mapping[str, str],
    short: Mapping[str, str],
    networks: Collection[str],
) -> None:
    """Write one file per subject and session; remove those of an earlier export."""
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    for subject in shown:
        own = answers.of([subject])
        for session in sorted({row.session for row in own.rows}):
            mark = "-" if subject in networks else "_"  # as the published files are named
            file = f"{folder.name}_{shown[subject]}_session{mark}{session}.csv"
            rows = sorted((r for r in own.rows if r.session == session), key=lambda r: r.trial)
            lines = [_trial(row, shown[subject], short[row.image]) for row in rows]
            _write(folder / file, TRIAL_COLUMNS, lines)
            written.add(file)
    for path in folder.iterdir():
        if path.name.startswith(f"{folder.name}_") and path.name not in written:
            path.unlink()


def _trial(row: Answer, subject: str, image: str) -> tuple[Any, ...]:
    seconds = "NaN" if row.seconds is None else row.seconds
    response = row.response or CANNOT_TELL
    return subject, row.session, row.trial, seconds, response, row.target, row.kind, image


def _guesses(
    rows: Sequence[Answer], shown: Mapping[str, str], short: Mapping[str, str]
) -> Iterable[tuple[Any, ...]]:
    """Return the lines of further.csv."""
    for row in rows:
        for number, guess in enumerate(row.further or (), 2):
            where = shown[row.subject], row.session, row.trial, short[row.image]
            yield *where, row.target, number, guess


def _also_right(
    marks: Sequence[Mark], shown: Mapping[str, str], short: Mapping[str, str]
) -> Iterable[tuple[Any, ...]]:
    """Return the lines of also_right.csv."""
    for mark in marks:
        if mark.subject in shown:
            where = shown[mark.subject], short[mark.image], mark.target, mark.name
            yield *where, "person" if mark.own else "network", int(mark.fits)


def _raw(
    answers: Answers, people: dict[str, int], index: dict[str, int]
) -> Iterable[tuple[Any, ...]]:
    """Return the lines of raw.csv; times are in milliseconds, of a session's own clock."""
    elapsed: dict[tuple[str, int], float] = {}
    for i in np.lexsort((answers.trial, answers.session, answers.subject)):
        row = answers.rows[i]
        key = (row.subject, row.session)
        elapsed[key] = elapsed.get(key, 0.0) + 1000 * (row.seconds or 0.0)
        if row.kind == "repeat":
            continue
        yield (
            people[row.subject], row.trial, int(row.kind == "catch"), row.target,
            row.response or CANNOT_TELL, answers.target[i], answers.response[i],
            int(answers.correct[i]), index.get(row.image, NO_IMAGE), row.image, row.target,
            "" if row.seconds is None else round(1000 * row.seconds), round(elapsed[key]),
        )  # fmt: skip


def _short_names(images: Sequence[str]) -> dict[str, str]:
    """Name images without underscores or folders, each by another name."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for i, image in enumerate(images):
        name = _plain(image)
        names[image] = name if name not in taken else f"{i}-{name}"
        taken.add(names[image])
    return names


def _plain(name: str) -> str:
    return "".join("-" if letter in '_/\\:*?"<>|' else letter for letter in name).strip(". ")


def _write(path: Path, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *lines])
    write_atomic(path, text.getvalue().encode("utf-8"))


def _write_if_any(path: Path, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Write lines, or remove those of an earlier export."""
    if some := list(lines):
        _write(path, columns, some)
    else:
        path.unlink(missing_ok=True)


def _save(path: Path, array: np.typing.NDArray[Any]) -> None:
    content = io.BytesIO()
    np.save(content, array)
    write_atomic(path, content.getvalue())
