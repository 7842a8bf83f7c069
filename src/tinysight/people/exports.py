"""Answers as files that published scripts of two studies read.

    images.csv                    index, imagename, image (its name in the dataset), category
    classes.txt                   one class per line, in the order of the columns
    counts.npy, probs.npy         (I, K) answers per image and class, and their shares; raw.csv
    model-vs-human/NAME/*.csv     one file per person or network and session
    further.csv                   second and third guesses, where people were asked for them

The first three are in the form of CIFAR-10H (Peterson et al. 2019), the last in that of
model-vs-human (Geirhos et al. 2021), whose images are identified by what follows the last
underscore of their names.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinysight.files import write_atomic
from tinysight.people.answers import Answer, Answers, shown_names
from tinysight.people.statistics import count_answers

CANNOT_TELL = "na"
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


def write_exports(
    answers: Answers, folder: Path, *, name: str, networks: Collection[str] = ()
) -> None:
    """Write the answers of people and networks into a folder, in both forms.

    People become "subject-01" and so on in the order of `answers.subjects`. Repeats and catch
    images are not counted; the trials of people have them, with this as their condition.

    Args:
        name: of the study, in the names of files.
        networks: which of the subjects are networks.

    Raises ValueError where a class has the name that stands for "I cannot tell", or no person
    answered.
    """
    if CANNOT_TELL in answers.class_names:
        raise ValueError(f"a class is named {CANNOT_TELL!r}, which stands for no answer; rename it")
    people = [subject for subject in answers.subjects if subject not in networks]
    if not people:
        raise ValueError("no person answered; expected answers of people next to the networks'")
    counted = answers.of(people).counted
    short = _short_names(answers.images)
    shown = shown_names(people)
    shown |= {network: _plain(network) for network in networks}
    if len(set(shown.values())) < len(shown):
        raise ValueError("two networks have one name in the files; rename one of the runs")
    folder.mkdir(parents=True, exist_ok=True)
    targets = {row.image: row.target for row in counted.rows}
    lines = [(i, short[image], image, targets[image]) for i, image in enumerate(counted.images)]
    _write(folder / "images.csv", ("index", "imagename", "image", "category"), lines)
    write_atomic(folder / "classes.txt", "".join(f"{c}\n" for c in answers.class_names).encode())
    counts = count_answers(counted)
    with np.errstate(invalid="ignore"):  # NaN where nobody could tell
        _save(folder / "probs.npy", counts / counts.sum(axis=1, keepdims=True))
    _save(folder / "counts.npy", counts)
    raw = _raw(answers.of(people), people, {image: i for i, image in enumerate(counted.images)})
    _write(folder / "raw.csv", RAW_COLUMNS, raw)
    if any(row.further is not None for row in answers.rows):
        _write(folder / "further.csv", GUESS_COLUMNS, _guesses(answers.rows, shown, short))
    trials = folder / "model-vs-human" / _plain(name)
    trials.mkdir(parents=True, exist_ok=True)
    for subject in shown:
        own = answers.of([subject])
        for session in sorted({row.session for row in own.rows}):
            mark = "-" if subject in networks else "_"  # as the published files are named
            file = f"{_plain(name)}_{shown[subject]}_session{mark}{session}.csv"
            rows = sorted((r for r in own.rows if r.session == session), key=lambda r: r.trial)
            written = [_trial(row, shown[subject], short[row.image]) for row in rows]
            _write(trials / file, TRIAL_COLUMNS, written)


def _trial(row: Answer, subject: str, image: str) -> tuple[Any, ...]:
    seconds = "NaN" if row.seconds is None else row.seconds
    response = row.response or CANNOT_TELL
    return subject, row.session, row.trial, seconds, response, row.target, row.kind, image


def _guesses(
    rows: Sequence[Answer], shown: dict[str, str], short: dict[str, str]
) -> Iterable[tuple[Any, ...]]:
    """Return the lines of further.csv."""
    for row in rows:
        for number, guess in enumerate(row.further or (), 2):
            where = shown[row.subject], row.session, row.trial, short[row.image]
            yield *where, row.target, number, guess


def _raw(
    answers: Answers, people: Sequence[str], index: dict[str, int]
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
            people.index(row.subject), row.trial, int(row.kind == "catch"), row.target,
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


def _save(path: Path, array: np.typing.NDArray[Any]) -> None:
    content = io.BytesIO()
    np.save(content, array)
    write_atomic(path, content.getvalue())
