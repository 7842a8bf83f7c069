"""Where people and networks err: by class, by difficulty, image by image, and by a kinder measure.

`people` are first answers of people (N,) to I images, and `networks` those of each network to the
same images, once each and in their order, as `align` makes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinysight.analysis.errors import Reliability, reliability
from tinysight.people import statistics
from tinysight.people.answers import Answers, Bools, Floats, Mark, gather
from tinysight.people.statistics import Estimate

MIN_SHARED = 4  # people per image, for what needs others' answers to it
BINS = 5  # of images, by a network's confidence
MIN_BIN = 10  # images in each of these
MIN_IMAGES = 4  # in a bin by people
SHARES = {"under 50 %": 0.0, "50 to 75 %": 0.5, "75 to 99 %": 0.75, "all": 1.0}  # right, from
SHARE_BINS = 10  # of a network's confidence, against people's answers
OUTCOMES = ("both", "only people", "only the network", "neither")  # who is wrong
MAX_IMAGES = 8  # of each outcome

Networks = Mapping[str, Answers]


@dataclass(frozen=True, kw_only=True)
class Lenient:
    """Accuracies by a kinder measure next to the strict one, on the same answers."""

    images: int
    answers: int
    people: tuple[Estimate, Estimate]  # strict, kinder
    networks: dict[str, tuple[Estimate, Estimate]]
    differences: dict[str, Estimate]  # people minus network, by the kinder measure
    disputed: int = 0  # images to which most people gave one class that is not the label
    guesses: int = 1  # that count


@dataclass(frozen=True, kw_only=True)
class AlsoRight:
    """The share of answers other than the label that people found right, too, with Wilson's
    interval, as if they did not depend on each other.
    """

    people: int
    asked: int
    share: Estimate


@dataclass(frozen=True, kw_only=True)
class Group:
    """The accuracy in a group of classes, as it is and drawn towards the mean of all groups."""

    name: str
    answers: int
    people: float
    shrunk: Estimate
    networks: dict[str, Estimate]  # drawn towards the network's own mean


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Accuracies on images of similar difficulty."""

    name: str
    answers: int
    people: Estimate
    networks: dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class Image:
    """What people and a network answered to an image; "" is "I cannot tell"."""

    name: str
    row: int
    target: str
    people: dict[str, int]
    network: str
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A network's confidence against people: the share of their answers that are its own.

    Means over people's answers. `error` is the mean gap of confidence and that share over the bins,
    `label_error` of confidence and accuracy; `bits` is the cross-entropy of people's answers.
    """

    bins: Reliability
    confidence: float
    agreement: float
    error: float
    label_error: float
    bits: float


def align(own: Answers, images: Sequence[str]) -> Answers:
    """Return a network's answers to some images, in their order."""
    rows = {row.image: row for row in own.rows}
    return gather([rows[image] for image in images], own.class_names)


def lenient(people: Answers, networks: Networks, rng: np.random.Generator) -> Lenient | None:
    """Count as right, too, what more than half of the other people answered to an image.

    Only images that at least four people answered tell what most say; None without any. A person's
    own answer is not among those that are counted for it.
    """
    shared = np.bincount(people.image)[people.image] >= MIN_SHARED
    if not shared.any():
        return None
    people = people.only(shared)
    counts, totals = statistics.count_answers(people), np.bincount(people.image)
    others = counts[people.image, people.response] - 1
    given = people.response >= 0
    right = people.correct | (given & (2 * others > totals[people.image] - 1))
    most, commonest = 2 * counts.max(axis=1) > totals, counts.argmax(axis=1)
    kinder = {}
    for name, own in networks.items():
        own = align(own, people.images)
        kinder[name] = own.correct | (most & (own.response == commonest))
    labels = np.zeros(len(totals), np.int64)
    labels[people.image] = people.target
    disputed = int((most & (commonest != labels)).sum())
    return measure(people, right, networks, kinder, rng, disputed=disputed)


def within_guesses(
    people: Answers, networks: Networks, shares: Mapping[str, Floats], rng: np.random.Generator
) -> Lenient:
    """Count as right, too, further guesses of people who were asked for them, and as many of each
    network, given its probabilities (I, K).
    """
    rows = people.rows
    number = max(1 + len(row.further or ()) for row in rows)
    right = np.array([row.target in (row.response, *(row.further or ())) for row in rows])
    labels = np.zeros(len(people.images), np.int64)
    labels[people.image] = people.target
    kinder = {
        name: (np.argsort(-own, axis=1, kind="stable")[:, :number] == labels[:, None]).any(axis=1)
        for name, own in shares.items()
    }
    return measure(people, right, networks, kinder, rng, guesses=number)


def measure(
    people: Answers,
    right: Bools,
    networks: Networks,
    kinder: Mapping[str, Bools],
    rng: np.random.Generator,
    *,
    disputed: int = 0,
    guesses: int = 1,
) -> Lenient:
    """Compare a kinder measure with the strict one, given what is right by it: answers of people
    (N,), and of each network (I,).
    """
    pairs, differences = {}, {}
    for name, own in networks.items():
        own, mine = align(own, people.images), kinder[name]
        pairs[name] = statistics.accuracy(own, rng), statistics.accuracy(own, rng, right=mine)
        values = right.astype(np.float64) - mine[people.image]
        differences[name] = statistics.mean_difference(values, people, rng)
    return Lenient(
        images=len(people.images),
        answers=len(people.rows),
        people=(statistics.accuracy(people, rng), statistics.accuracy(people, rng, right=right)),
        networks=pairs,
        differences=differences,
        disputed=disputed,
        guesses=guesses,
    )


def also_right(marks: Sequence[Mark], people: Collection[str]) -> dict[str, AlsoRight]:
    """Return what some people said of their own answers and of networks' that are not the label."""
    found = {}
    for name, own in (("their own answers", True), ("answers of networks", False)):
        said = [mark for mark in marks if mark.own == own and mark.subject in people]
        if said:
            who = len({mark.subject for mark in said})
            share = statistics.share([mark.fits for mark in said])
            found[name] = AlsoRight(people=who, asked=len(said), share=share)
    return found


def group(
    people: Answers, networks: Networks, groups: Mapping[str, Sequence[int]]
) -> tuple[Group, ...]:
    """Return the accuracy in each group of classes that was shown; see `statistics.shrink`.

    People's answers to one image are alike, so they count as fewer: `statistics.design_effects`.
    """
    group_of = np.full(len(people.class_names), -1)
    for number, members in enumerate(groups.values()):
        group_of[list(members)] = number
    shown, index = np.unique(group_of[people.target], return_inverse=True)
    place = np.zeros(len(people.class_names), np.int64)
    place[people.target] = index

    def shrink(answers: Answers) -> tuple[Floats, Floats, list[Estimate]]:
        where, effects = place[answers.target], statistics.design_effects(answers, place)
        counts = np.bincount(where).astype(np.float64)
        right = np.bincount(where, answers.correct).astype(np.float64)
        return right, counts, statistics.shrink(right / effects, counts / effects)

    right, counts, shrunk = shrink(people)
    others = {name: shrink(own)[2] for name, own in networks.items()}
    names = list(groups)
    return tuple(
        Group(
            name=names[number],
            answers=int(counts[i]),
            people=float(right[i] / counts[i]),
            shrunk=shrunk[i],
            networks={network: found[i] for network, found in others.items()},
        )
        for i, number in enumerate(shown)
    )


def difficulty_by_network(
    people: Answers, name: str, own: Answers, confidence: Floats, rng: np.random.Generator
) -> tuple[Bin, ...]:
    """Return accuracies by a network's confidence (I,) in its answer, lowest first, on as many
    images in each bin.
    """
    order = np.argsort(confidence, kind="stable")
    found = []
    for places in np.array_split(order, np.clip(len(order) // MIN_BIN, 1, BINS)):
        inside = np.zeros(len(confidence), bool)
        inside[places] = True
        low, high = 100 * confidence[places].min(), 100 * confidence[places].max()
        digits = int(round(low) == round(high))  # "5 to 5 %" tells nothing
        title = f"{low:.{digits}f} to {high:.{digits}f} %"
        found.append(_bin(title, people, inside[people.image], {name: own}, inside, rng))
    return tuple(found)


def difficulty_by_people(
    people: Answers, networks: Networks, rng: np.random.Generator
) -> tuple[Bin, ...]:
    """Return accuracies by the share of people who are right about an image, for people of the
    others. Only images that at least four people answered are counted, and bins of four or more.
    """
    totals, right = np.bincount(people.image), np.bincount(people.image, people.correct)
    shared = totals >= MIN_SHARED
    others = (right[people.image] - people.correct) / np.maximum(totals[people.image] - 1, 1)
    borders = list(SHARES.values())[1:]
    of_answers, of_images = (np.digitize(share, borders) for share in (others, right / totals))
    found = []
    for number, title in enumerate(SHARES):
        chosen = shared[people.image] & (of_answers == number)
        if len(np.unique(people.image[chosen])) >= MIN_IMAGES:
            inside = shared & (of_images == number)
            found.append(_bin(title, people, chosen, networks, inside, rng))
    return tuple(found)


def _bin(
    name: str, people: Answers, chosen: Bools, networks: Networks, inside: Bools,
    rng: np.random.Generator,
) -> Bin:  # fmt: skip
    return Bin(
        name=name,
        answers=int(chosen.sum()),
        people=statistics.accuracy(people.only(chosen), rng),
        networks={
            network: statistics.accuracy(own.only(inside), rng)
            if inside.any()
            else statistics.NOTHING
            for network, own in networks.items()
        },
    )


def outcomes(people: Answers, own: Answers) -> dict[str, int]:
    """Count people's answers by who is wrong, in the order of `OUTCOMES`."""
    right = own.correct[people.image]
    kinds = 2 * people.correct + right  # 0: both wrong
    counts = dict(zip(range(4), np.bincount(kinds, minlength=4).tolist(), strict=True))
    return dict(zip(OUTCOMES, (counts[0], counts[1], counts[2], counts[3]), strict=True))


def examples(
    people: Answers, own: Answers, confidence: Floats, rows: Mapping[str, int]
) -> dict[str, tuple[Image, ...]]:
    """Return images per outcome, the clearest first: those about which most people agree.

    People are wrong about an image where more than half of them are. Images of "neither" begin with
    those of which the network is least sure.
    """
    totals, right = np.bincount(people.image), np.bincount(people.image, people.correct)
    wrong = 2 * right < totals
    said: list[Counter[str]] = [Counter() for _ in totals]
    for row, image in zip(people.rows, people.image.tolist(), strict=True):
        said[image][row.response or ""] += 1
    found = {}
    for number, kind in enumerate(OUTCOMES):
        places = np.flatnonzero(2 * ~wrong + own.correct == number)
        clear = np.abs(2 * right - totals)[places]
        sure = confidence[places] * (1 if kind != "neither" else -1)
        keys = (-sure, -clear) if kind != "neither" else (-clear, -sure)
        chosen = places[np.lexsort(keys)][:MAX_IMAGES]
        found[kind] = tuple(
            Image(
                name=people.images[i],
                row=rows[people.images[i]],
                target=own.rows[i].target,
                people=dict(said[i].most_common()),
                network=own.rows[i].response or "",
                confidence=float(confidence[i]),
            )
            for i in chosen
        )
    return found


def calibrate(people: Answers, own: Answers, probabilities: Floats) -> Calibration:
    """Compare a network's probabilities (I, K) with what people answered, answer by answer.

    "I cannot tell" is not the network's answer; in the cross-entropy it is left out.
    """
    confidence = probabilities.max(axis=1)[people.image]
    same = people.response == own.response[people.image]
    right = own.correct[people.image]
    bins, labels = (reliability(confidence, each, num_bins=SHARE_BINS) for each in (same, right))
    given = people.response >= 0
    said = probabilities[people.image[given], people.response[given]]
    return Calibration(
        bins=bins,
        confidence=float(confidence.mean()),
        agreement=float(same.mean()),
        error=_gap(bins),
        label_error=_gap(labels),
        bits=float(-np.log2(np.maximum(said, 1e-12)).mean()) if given.any() else float("nan"),
    )


def _gap(bins: Reliability) -> float:
    some = bins.counts > 0
    gaps = np.abs(bins.confidence - bins.accuracy)[some]
    return float((gaps * bins.counts[some]).sum() / bins.counts.sum())
