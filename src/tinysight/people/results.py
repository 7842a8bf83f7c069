"""What a study of people and networks found, computed once from its answers.

Each number is of the people that stated rules do not exclude, unless all are asked for; the
headline is also there for everybody. Repeats and catch images are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tinysight.analysis.errors import count_confusions
from tinysight.analysis.statistics import Paired, paired
from tinysight.people import breakdowns, statistics
from tinysight.people.answers import Answers, Floats, Ints, Who, exclusions, shown_names
from tinysight.people.breakdowns import AlsoRight, Bin, Calibration, Group, Image, Lenient
from tinysight.people.statistics import Estimate
from tinysight.people.study import Study

SEED = 0  # of the intervals: the same answers give the same report
MIN_PEOPLE = 5  # before anything about each of them is shown
SESSION_PARTS = 5
WANTED = 0.03  # half-width of an interval, for which needed answers are counted
MAX_EACH = 30  # classes up to which each is a group


@dataclass(frozen=True, kw_only=True)
class Headline:
    """People's accuracy, and its difference to that of each network on the same images."""

    people: int
    answers: int
    images: int
    accuracy: Estimate
    differences: dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class PersonResult:
    """One person's accuracy, share of "I cannot tell", and error consistency with each network.

    `seconds` is the median time of an answer in the quick game, else NaN.
    """

    name: str
    answers: int
    accuracy: Estimate
    cannot_tell: float
    seconds: float
    consistency: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """The mean error consistency of pairs, of which `undefined` have an observer without errors (or
    without a right answer) and are left out.
    """

    mean: Estimate
    pairs: int
    undefined: int


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """A network on the images that people answered, each counted once.

    `outcomes` counts people's answers by who is wrong, as `images` has examples of: both,
    only people, only the network, neither. `confusions` (K, K) counts images by true class (rows)
    and answer. `difficulty` has bins by the network's confidence.
    """

    name: str
    accuracy: Estimate
    consistency: Consistency
    outcomes: dict[str, int]
    images: dict[str, tuple[Image, ...]]
    confusions: Ints
    difficulty: tuple[Bin, ...]
    calibration: Calibration


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How people agree on the images that two or more answered; means over images.

    `majority` is the share of the commonest answer, `entropy` in bits, `alpha` Krippendorff's.
    """

    images: int
    unanimous: float
    majority: float
    entropy: float
    alpha: Estimate


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds per answer: quartiles, and medians of right and wrong ones; `slower` is a person's
    median time of wrong answers minus that of right ones, None where nobody gave both.
    """

    quartiles: tuple[float, float, float]
    right: float
    wrong: float
    slower: Paired | None
    seconds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Needed:
    """The half-width of an interval now, and how many answers in all bring it to `WANTED`."""

    half_width: float
    answers: int


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that is found of the people that count."""

    headline: Headline
    people: tuple[PersonResult, ...]  # empty for fewer than MIN_PEOPLE
    networks: tuple[NetworkResult, ...]
    lenient: Lenient | None
    also_right: dict[str, AlsoRight]  # by whose answers they are
    guesses: Lenient | None  # right within as many guesses as people were asked for
    groups: tuple[Group, ...]
    difficulty: tuple[Bin, ...]  # by the share of other people who are right
    confusions: Ints  # (K, K) answers of people by true class (rows) and answer
    cannot_tell: Ints  # (K,) by true class
    session: tuple[Estimate, ...]  # accuracy in consecutive parts of a session
    learning: Paired | None
    repeated: Estimate
    consistency: Consistency
    agreement: Agreement | None
    times: Times | None
    needed: dict[str, Needed]  # "accuracy", and by network


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """The results of one game; `findings` is None where nobody's answers count."""

    data: str
    split: str
    game: str
    people: Who  # whose answers the findings are of
    class_names: tuple[str, ...]
    num_excluded: int
    excluded: dict[str, str]  # person -> reason; empty for fewer than MIN_PEOPLE people
    everybody: Headline
    findings: Findings | None


def analyze(study: Study, people: Who = "counted") -> StudyResults:
    """Compute the results of a study, with intervals drawn from a fixed seed."""
    rng = np.random.default_rng(SEED)
    shown = shown_names(study.people.subjects)
    excluded = exclusions(study.people)
    subjects = study.people.subjects
    kept = [name for name in subjects if people == "all" or name not in excluded]
    everybody, networks = _parts(study, subjects)
    return StudyResults(
        data=study.dataset.name,
        split=study.material.split,
        game=study.game,
        people=people,
        class_names=study.dataset.class_names,
        num_excluded=len(excluded),
        excluded={shown[name]: reason for name, reason in excluded.items()}
        if len(subjects) >= MIN_PEOPLE
        else {},
        everybody=_headline(everybody, networks, rng),
        findings=_findings(study, kept, shown, rng) if kept else None,
    )


def _parts(study: Study, names: Sequence[str]) -> tuple[Answers, dict[str, Answers]]:
    """Return the answers of people that count, and those of networks to the same images."""
    people = study.people.of(names).counted
    networks = {
        name: breakdowns.align(study.answers.of([name]), people.images) for name in study.networks
    }
    return people, networks


def _headline(
    people: Answers, networks: Mapping[str, Answers], rng: np.random.Generator
) -> Headline:
    return Headline(
        people=len(people.subjects),
        answers=len(people.rows),
        images=len(people.images),
        accuracy=statistics.accuracy(people, rng),
        differences={
            name: statistics.difference(people, own, rng) for name, own in networks.items()
        },
    )


def _findings(
    study: Study, kept: Sequence[str], shown: Mapping[str, str], rng: np.random.Generator
) -> Findings:
    people, networks = _parts(study, kept)
    headline = _headline(people, networks, rng)
    together = people if not networks else study.answers.of([*kept, *networks])
    parts = statistics.session_parts(people, SESSION_PARTS)
    session = [people.only(parts == part) for part in range(SESSION_PARTS) if (parts == part).any()]
    halves = {"accuracy": headline.accuracy} | headline.differences
    pairs = list(combinations(people.subjects, 2))
    enough = len(kept) >= MIN_PEOPLE
    return Findings(
        headline=headline,
        people=_people(people, together, study, shown, rng) if enough else (),
        networks=tuple(_network(study, people, own, together, rng) for own in networks.values()),
        lenient=breakdowns.lenient(people, networks, rng),
        also_right=breakdowns.also_right(study.marks, kept),
        guesses=_guesses(study, people, networks, rng),
        groups=breakdowns.group(people, networks, _groups(study)),
        difficulty=breakdowns.difficulty_by_people(people, networks, rng),
        confusions=_confusions(people),
        cannot_tell=np.bincount(
            people.target[people.response < 0], minlength=len(people.class_names)
        ),
        session=tuple(statistics.accuracy(part, rng) for part in session),
        learning=statistics.learning(people) if session else None,
        repeated=statistics.repeated(study.people.of(kept), rng),
        consistency=_consistency(people, pairs, kept, rng),
        agreement=_agreement(statistics.count_answers(people), rng),
        times=_times(people) if study.game == "quick" else None,
        needed={name: _needed(found, headline.answers) for name, found in halves.items()},
    )


def _guesses(
    study: Study, people: Answers, networks: Mapping[str, Answers], rng: np.random.Generator
) -> Lenient | None:
    asked = np.array([row.further is not None for row in people.rows])
    if not asked.any():
        return None
    asked_people = people.only(asked)
    images = asked_people.images
    shares = {name: study.probabilities(name, images) for name in networks}
    return breakdowns.within_guesses(asked_people, networks, shares, rng)


def _groups(study: Study) -> dict[str, list[int]]:
    names = study.dataset.class_names
    if len(names) <= MAX_EACH:
        return {name: [i] for i, name in enumerate(names)}
    return study.material.groups


def _people(
    people: Answers,
    together: Answers,
    study: Study,
    shown: Mapping[str, str],
    rng: np.random.Generator,
) -> tuple[PersonResult, ...]:
    kappas = {
        network: statistics.kappas(together, [(name, network) for name in people.subjects])
        for network in study.networks
    }
    found = []
    for i, name in enumerate(people.subjects):
        own = people.of([name])
        seconds = float(np.nanmedian(own.seconds)) if study.game == "quick" else float("nan")
        found.append(
            PersonResult(
                name=shown[name],
                answers=len(own.rows),
                accuracy=statistics.accuracy(own, rng),
                cannot_tell=float((own.response < 0).mean()),
                seconds=seconds,
                consistency={network: float(each[i]) for network, each in kappas.items()},
            )
        )
    return tuple(found)


def _network(
    study: Study, people: Answers, own: Answers, together: Answers, rng: np.random.Generator
) -> NetworkResult:
    name = own.subjects[0]
    probabilities = study.probabilities(name, people.images)
    confidence = probabilities.max(axis=1)
    pairs = [(person, name) for person in people.subjects]
    return NetworkResult(
        name=name,
        accuracy=statistics.accuracy(own, rng),
        consistency=_consistency(together, pairs, people.subjects, rng),
        outcomes=breakdowns.outcomes(people, own),
        images=breakdowns.examples(people, own, confidence, study.rows),
        confusions=_confusions(own),
        difficulty=breakdowns.difficulty_by_network(people, name, own, confidence, rng),
        calibration=breakdowns.calibrate(people, own, probabilities),
    )


def _confusions(answers: Answers) -> Ints:
    given, number = answers.response >= 0, len(answers.class_names)
    return count_confusions(answers.target[given], answers.response[given], number)


def _consistency(
    answers: Answers,
    pairs: Sequence[tuple[str, str]],
    people: Sequence[str],
    rng: np.random.Generator,
) -> Consistency:
    found = statistics.consistency(answers, pairs, rng, people=people)
    return Consistency(
        mean=found.mean, pairs=len(pairs), undefined=int(np.isnan(found.values).sum())
    )


def _agreement(counts: Ints, rng: np.random.Generator) -> Agreement | None:
    counts = counts[counts.sum(axis=1) > 1]
    if not len(counts):
        return None
    found = statistics.agreement(counts)
    return Agreement(
        images=len(counts),
        unanimous=found.unanimous,
        majority=float(found.majority.mean()),
        entropy=float(found.entropy.mean()),
        alpha=statistics.alpha(counts, rng),
    )


def _times(people: Answers) -> Times | None:
    known = ~np.isnan(people.seconds)
    if not known.any():
        return None
    medians: list[tuple[float, float]] = []
    for i in range(len(people.subjects)):
        own = known & (people.subject == i)
        wrong, right = own & ~people.correct, own & people.correct
        if wrong.any() and right.any():
            medians.append((_median(people.seconds[wrong]), _median(people.seconds[right])))
    low, middle, high = np.percentile(people.seconds[known], [25, 50, 75]).tolist()
    slow, fast = zip(*medians, strict=True) if medians else ((), ())
    return Times(
        quartiles=(low, middle, high),
        right=_median(people.seconds[known & people.correct]),
        wrong=_median(people.seconds[known & ~people.correct]),
        slower=paired(slow, fast) if medians else None,
        seconds=tuple(people.seconds[known].tolist()),
    )


def _median(values: Floats) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _needed(found: Estimate, answers: int) -> Needed:
    """Assume that more answers come of people and images as those so far do."""
    half = (found.high - found.low) / 2
    return Needed(half_width=half, answers=math.ceil(answers * (half / WANTED) ** 2))
