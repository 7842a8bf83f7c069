"""Answers of people and networks to the same images, checked and in columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

Kind = Literal["main", "core", "repeat", "catch"]
Who = Literal["counted", "all"]  # people that count by the rules, or everybody
MIN_CATCH_ACCURACY = 0.75
MIN_MISSED = 3  # catch images: of few, one or two say little about a person
MIN_SECONDS = 0.6  # of the median answer
MIN_ANSWERS = 20
RULES = (  # stated to people beforehand; who meets one of them does not count
    f"fewer than {MIN_ANSWERS} answers",
    f"{MIN_MISSED} or more catch images wrong, and under {100 * MIN_CATCH_ACCURACY:.0f} % right",
    f"a median answer under {MIN_SECONDS} s",
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one person or network answered to one image; classes by their names.

    `response` is None for "I cannot tell", which counts as wrong. `kind`: "main" images are a
    person's own, "core" images are shown to everybody, a "repeat" was shown before, and a "catch"
    is an image that all who look can answer. `seconds` is None for networks. `further` are the
    second and third guess; None where nobody asked for them.
    """

    subject: str
    session: int
    trial: int
    image: str
    target: str
    response: str | None
    seconds: float | None = None
    kind: Kind = "main"
    further: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Mark:
    """Whether a person, shown the label afterwards, finds another answer to an image also right.

    `own`: it was their own answer, else a network's.
    """

    subject: str
    image: str
    target: str
    name: str
    own: bool
    fits: bool


@dataclass(frozen=True)
class Answers:
    """N answers in columns; `subject`, `image`, `target` and `response` are indices.

    Made by `gather`, which checks them. `response` is -1 for "I cannot tell"; `seconds` is NaN
    where none is known.
    """

    class_names: tuple[str, ...]
    subjects: tuple[str, ...]
    images: tuple[str, ...]
    subject: Ints
    image: Ints
    target: Ints
    response: Ints
    session: Ints
    trial: Ints
    seconds: Floats
    kind: npt.NDArray[np.str_]
    rows: tuple[Answer, ...] = field(repr=False)

    @cached_property
    def correct(self) -> Bools:
        """Which answers are right (N,)."""
        return np.equal(self.response, self.target)

    def only(self, mask: Bools) -> Answers:
        """Keep the answers of a mask (N,); raises ValueError where none is left."""
        return gather([self.rows[i] for i in np.flatnonzero(mask)], self.class_names)

    def of(self, subjects: Collection[str]) -> Answers:
        """Keep the answers of some people or networks."""
        return self.only(np.array([row.subject in subjects for row in self.rows]))

    @cached_property
    def counted(self) -> Answers:
        """The first answers to the images of the study: without repeats and catch images."""
        return self.only(np.isin(self.kind, ["main", "core"]))


def gather(rows: Sequence[Answer], class_names: Sequence[str]) -> Answers:
    """Put answers into columns.

    Raises ValueError where there is none, a class is unknown, an answer is there twice, or one
    image has two classes (as when names of images were exchanged).
    """
    if not rows:
        raise ValueError("there are no answers; expected one or more of people or networks")
    index = {name: i for i, name in enumerate(class_names)}
    seen: set[tuple[Any, ...]] = set()
    targets: dict[str, str] = {}
    for row in rows:
        where = f"the answer {row.trial} of {row.subject!r} in session {row.session}"
        for name in (row.target, row.response, *(row.further or ())):
            if name is not None and name not in index:
                raise ValueError(f"{where} names {name!r}; expected one of {len(index)} classes")
        keys: list[tuple[Any, ...]] = [(row.subject, row.session, row.trial)]
        if row.kind != "repeat":
            keys.append((row.subject, row.image))
        if not seen.isdisjoint(keys):
            raise ValueError(f"{where} is there twice ({row.image}); expected each answer once")
        seen.update(keys)
        if targets.setdefault(row.image, row.target) != row.target:
            raise ValueError(
                f"{where}: {row.image} is {row.target!r} here and {targets[row.image]!r} elsewhere;"
                " expected one class per image: were names of images exchanged?"
            )
    subjects = tuple(dict.fromkeys(row.subject for row in rows))
    images = tuple(targets)
    subject_of = {name: i for i, name in enumerate(subjects)}
    image_of = {name: i for i, name in enumerate(images)}

    def column(values: Sequence[int]) -> Ints:
        return np.array(values, np.int64)

    return Answers(
        class_names=tuple(class_names),
        subjects=subjects,
        images=images,
        subject=column([subject_of[row.subject] for row in rows]),
        image=column([image_of[row.image] for row in rows]),
        target=column([index[row.target] for row in rows]),
        response=column([-1 if row.response is None else index[row.response] for row in rows]),
        session=column([row.session for row in rows]),
        trial=column([row.trial for row in rows]),
        seconds=np.array([np.nan if row.seconds is None else row.seconds for row in rows]),
        kind=np.array([row.kind for row in rows]),
        rows=tuple(rows),
    )


def network_answers(
    name: str,
    logits: npt.NDArray[np.floating[Any]],
    network_classes: Sequence[str],
    people: Answers,
    rows_of: dict[str, int],
) -> list[Answer]:
    """Return a network's answers to the images that people answered, once per image.

    `logits` are (M, K), and `rows_of` gives the row of each image. Raises ValueError where the
    network's classes are others, or in another order.
    """
    if tuple(network_classes) != people.class_names:
        raise ValueError(
            f"the classes of {name} are not those of the answers, or not in their order; evaluate"
            " the network on the dataset that the people saw"
        )
    shown = {row.image: row for row in people.rows if row.kind != "repeat"}
    missing = [image for image in shown if image not in rows_of]
    if missing:
        raise ValueError(f"{name} has no answer to {missing[0]}; evaluate it on that split")
    best = {image: int(logits[rows_of[image]].argmax()) for image in shown}
    return [
        Answer(
            subject=name, session=1, trial=trial, image=image, target=row.target,
            response=people.class_names[best[image]], kind=row.kind,
        )
        for trial, (image, row) in enumerate(shown.items(), 1)
    ]  # fmt: skip


def numbered(people: Sequence[str]) -> dict[str, int]:
    """Return the numbers of people, from 0.

    That of "p-0000" is the store's: it stays, whoever is deleted or answers later. Other names are
    numbered in their order.
    """
    kept = [name.removeprefix("p-") for name in people]
    numbers = map(int, kept) if all(map(str.isdecimal, kept)) else range(len(people))
    return dict(zip(people, numbers, strict=True))


def shown_names(people: Sequence[str]) -> dict[str, str]:
    """Return what people are called in exports and reports."""
    return {name: shown_name(number) for name, number in numbered(people).items()}


def shown_name(number: int) -> str:
    """Return what a person is called: "subject-01" for number 0."""
    return f"subject-{number + 1:02}"


def exclusions(answers: Answers) -> dict[str, str]:
    """Return the people whose answers do not count, with the reason, by `RULES`.

    Three catch images must be missed: a person who is right in 90 % of them misses one of one or
    of two in 10 or 19 of 100 sessions, but three of six (100 images) in less than 2 of 100.
    """
    found = {}
    for i, name in enumerate(answers.subjects):
        own = answers.subject == i
        catches = own & (answers.kind == "catch")
        seconds = answers.seconds[own][~np.isnan(answers.seconds[own])]
        if own.sum() < MIN_ANSWERS:
            found[name] = f"{own.sum()} answers, fewer than {MIN_ANSWERS}"
        elif (missed := (~answers.correct[catches]).sum()) >= MIN_MISSED and missed > (
            1 - MIN_CATCH_ACCURACY
        ) * catches.sum():
            found[name] = f"{missed} of {catches.sum()} catch images wrong"
        elif len(seconds) and np.median(seconds) < MIN_SECONDS:
            found[name] = f"{np.median(seconds):.2f} s in the median, under {MIN_SECONDS} s"
    return found
