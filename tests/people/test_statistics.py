"""Known answers of published data, simulated people recovered, planted faults caught."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tinysight.people import breakdowns, statistics
from tinysight.people.answers import (
    Answer,
    Answers,
    exclusions,
    gather,
    network_answers,
    shown_names,
)
from tinysight.people.planning import Assumptions, alike, half_width, paired_answers
from tinysight.people.simulation import Simulation

CLASSES = ("cat", "dog", "owl")


def answer(trial: int, image: str = "", response: str | None = "cat", **changes: object) -> Answer:
    base = Answer(
        subject="a", session=1, trial=trial, image=image or f"{trial}.png", target="cat",
        response=response, seconds=2.0,
    )  # fmt: skip
    return replace(base, **changes)


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture(scope="module")
def published() -> Path:
    folder = os.environ.get("TINYSIGHT_PEOPLE")
    if not folder:
        pytest.skip("TINYSIGHT_PEOPLE is not set: the folder of published answers of people")
    return Path(folder)


@pytest.fixture(scope="module")
def sketch(published: Path) -> Answers:
    """800 answers of each of 7 people to sketches in 16 classes (Geirhos et al. 2021)."""
    rows = []
    for path in sorted((published / "sketch").glob("*.csv")):
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                said = line["object_response"]
                rows.append(
                    Answer(
                        subject=line["subj"], session=int(line["session"]),
                        trial=int(line["trial"]), image=line["imagename"].split("_")[-1],
                        target=line["category"], response=None if said == "na" else said,
                        seconds=float(line["rt"]) if line["rt"] != "NaN" else None, kind="core",
                    )
                )  # fmt: skip
    return gather(rows, sorted({row.target for row in rows}))


@pytest.mark.data
def test_people_keep_their_names_whoever_is_missing() -> None:
    assert shown_names(["p-0001", "p-0012"]) == {"p-0001": "subject-02", "p-0012": "subject-13"}
    assert shown_names(["b", "a"]) == {"b": "subject-01", "a": "subject-02"}


def test_published_agreement_is_reproduced(published: Path) -> None:
    counts = np.load(published / "cifar10h-counts.npy")
    found = statistics.agreement(counts)
    assert found.majority.mean() == pytest.approx(0.954, abs=5e-4)
    assert found.unanimous == pytest.approx(0.44, abs=5e-3)
    assert found.entropy.mean() == pytest.approx(0.22, abs=5e-3)


@pytest.mark.data
def test_published_accuracies_and_error_consistencies_are_reproduced(sketch: Answers) -> None:
    each = statistics.accuracies(sketch, rng())
    means = [0.941, 0.960, 0.828, 0.923, 0.928, 0.909, 0.926]
    assert [found.value for found in each.values()] == pytest.approx(means, abs=5.1e-4)
    assert all(found.low < found.value < found.high for found in each.values())
    mean = statistics.accuracy(sketch, rng())
    assert mean.value == pytest.approx(0.916, abs=5e-4)
    assert mean.low < 0.88 and 0.93 < mean.high < 0.96  # seven people differ by so much
    pairs = [
        statistics.error_consistency(sketch, a, b, rng(), 200)
        for a, b in combinations(sketch.subjects, 2)
    ]
    values = [pair.value for pair in pairs]
    found = [min(values), max(values), np.mean(values)]
    assert found == pytest.approx([0.182, 0.535, 0.370], abs=5e-4)
    assert all(pair.low < pair.value < pair.high for pair in pairs)


def test_simulated_people_of_known_ability_are_recovered_in_their_intervals() -> None:
    study = Simulation()
    draws = rng()
    truth = study.expected(study.ability, study.ability_sd)
    network = study.expected(study.network_ability)
    inside = np.zeros(3)
    each = []
    together = expected_kappa(study)
    for _ in range(100):
        rows, abilities = study.draw(draws)
        answers = gather(rows, study.class_names)
        people = answers.of([name for name in answers.subjects if name != "network"])
        mean = statistics.accuracy(people, draws, 100)
        against = statistics.difference(people, answers.of(["network"]), draws, 100)
        pairs = [(name, "network") for name in people.subjects]
        kappas = statistics.consistency(answers, pairs, draws, 100, people=people.subjects).mean
        inside += (
            mean.low < truth < mean.high,
            against.low < truth - network < against.high,
            kappas.low < together < kappas.high,
        )
        one = statistics.accuracy(people.of(["p-00"]), draws, 100)
        each.append(one.low < study.expected(abilities[0]) < one.high)
    assert (inside >= 90).all() and np.sum(each) >= 90


def expected_kappa(study: Simulation) -> float:
    """Return the mean error consistency of people with the network on infinitely many images."""
    grid = np.linspace(-6, 6, 241)
    weights = np.exp(-(grid**2) / 2) / np.exp(-(grid**2) / 2).sum()
    abilities = study.ability + study.ability_sd * grid[:, None]
    right, other = (
        1 / (1 + np.exp(study.difficulty_sd * grid - ability))
        for ability in (abilities, study.network_ability)
    )
    p, q = right @ weights, other @ weights
    same = (right * other + (1 - right) * (1 - other)) @ weights
    chance = p * q + (1 - p) * (1 - q)
    return float(weights @ ((same - chance) / (1 - chance)))


def test_consistency_of_many_pairs_leaves_out_who_is_always_right() -> None:
    said = {"a": "1101", "b": "1011", "c": "1111", "n": "1110"}
    rows = [
        answer(i, f"{i}.png", "cat" if right == "1" else "dog", subject=name)
        for name, side in said.items()
        for i, right in enumerate(side)
    ]
    rows = [row for row in rows if (row.subject, row.trial) != ("b", 0)]  # b did not see it
    answers = gather(rows, CLASSES)
    pairs = [("a", "b"), ("a", "c"), ("a", "n"), ("b", "n")]
    found = statistics.consistency(answers, pairs, rng(), people=["a", "b", "c"])
    assert found.values == pytest.approx([-0.5, np.nan, -1 / 3, -0.5], nan_ok=True)
    assert found.mean.value == pytest.approx(-4 / 9)
    assert found.mean.low <= -4 / 9 <= found.mean.high
    none = statistics.consistency(answers, [("a", "c")], rng())
    assert np.isnan([none.values[0], none.mean.value, none.mean.low]).all()


def test_accuracies_of_groups_are_drawn_towards_their_mean() -> None:
    right, counts = np.array([1.0, 40, 50, 90]), np.array([2.0, 50, 100, 100])
    found = np.array([each.value for each in statistics.shrink(right, counts)])
    mean = right.sum() / counts.sum()
    moved = (found - right / counts) / (mean - right / counts)
    weights = counts * moved / (1 - moved)  # of the mean, in answers
    assert weights == pytest.approx(weights[0]) and 2 < weights[0] < 20
    assert moved[0] > 0.6 and moved[2] < 0.1
    alike = statistics.shrink(np.array([7.0, 9]), np.array([10.0, 10]))  # as chance has it
    assert [each.value for each in alike] == pytest.approx(
        [0.8 - 0.1 * 10 / 49, 0.8 + 0.1 * 10 / 49]
    )
    few = statistics.shrink(np.array([17.0, 16, 15, 16, 12]), np.full(5, 20.0))
    assert few[4].high - few[4].low > 1.5 * (few[2].high - few[2].low)  # it may be another
    perfect = statistics.shrink(np.array([5.0, 7]), np.array([5.0, 7]))
    assert all(each.low < 0.9 < each.value == each.high == 1 for each in perfect)


def test_intervals_of_groups_hold_their_true_accuracies() -> None:
    draws = rng()
    inside = []
    for _ in range(50):
        truth, counts = draws.beta(16, 4, 24), draws.integers(5, 60, 24)
        found = statistics.shrink(draws.binomial(counts, truth) * 1.0, counts * 1.0)
        inside += [each.low < true < each.high for each, true in zip(found, truth, strict=True)]
    assert np.mean(inside) > 0.9


def test_a_difference_of_nothing_has_an_interval() -> None:
    rows = [answer(i, response="cat") for i in range(10)]
    people, same = gather(rows, CLASSES), [replace(row, subject="n") for row in rows]
    found = statistics.difference(people, gather(same, CLASSES), rng())
    assert found.value == 0 and 0.15 < found.high == -found.low < 0.25


def test_answers_to_images_that_all_saw_are_worth_less() -> None:
    rows = [
        answer(i, f"{i}.png", "cat" if i < 5 else "dog", subject=name)
        for name in "abcdefgh"
        for i in range(10)
    ]
    rows += [replace(row, image=f"{row.subject}{row.trial}", trial=50 + row.trial, target="owl")
             for row in rows]  # fmt: skip
    found = statistics.design_effects(gather(rows, CLASSES), np.array([0, 0, 1]))
    assert found == pytest.approx([8, 1])
    alone = gather([row for row in rows if row.subject == "a"], CLASSES)
    assert statistics.design_effects(alone, np.array([0, 0, 1])) == pytest.approx([1, 1])


def test_difference_to_a_network_is_of_the_same_images() -> None:
    said = {"a.png": ("cat", "dog"), "b.png": ("cat", "cat"), "c.png": ("dog", "dog")}
    people = gather(
        [answer(i, key, one) for i, (key, (one, _)) in enumerate(said.items())], CLASSES
    )
    rows = [answer(i, key, two, subject="n") for i, (key, (_, two)) in enumerate(said.items())]
    found = statistics.difference(people, gather(rows, CLASSES), rng())
    assert found.value == pytest.approx(1 / 3) and found.low < 0 < found.high
    with pytest.raises(ValueError, match=r"no answer to c\.png"):
        statistics.difference(people, gather(rows[:2], CLASSES), rng())


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("1100", "1100", 1.0),
        ("1100", "1010", 0.0),
        ("1100", "0011", -1.0),
        ("1110", "1011", -1 / 3),
        ("1111", "1010", np.nan),
        ("1010", "1111", np.nan),
        ("0000", "0000", np.nan),
    ],
)
def test_kappa_is_nan_at_ceiling(first: str, second: str, expected: float) -> None:
    sides = [np.array([int(c) for c in side], bool) for side in (first, second)]
    assert statistics.kappa(*sides) == pytest.approx(expected, nan_ok=True)
    rows = [
        answer(i, f"{i}.png", "cat" if right else "dog", subject=name)
        for name, side in zip("ab", sides, strict=True)
        for i, right in enumerate(side)
    ]
    found = statistics.error_consistency(gather(rows, CLASSES), "a", "b", rng())
    assert found.value == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found.low) == np.isnan(expected)


def test_alpha_of_a_worked_example() -> None:
    """Krippendorff's own: four observers, twelve units, alpha 0.743."""
    table = (
        "1 2 3 3 2 1 4 1 2 - - -", "1 2 3 3 2 2 4 1 2 5 - 3",
        "- 3 3 3 2 3 4 2 2 5 1 -", "1 2 3 3 2 4 4 1 2 5 1 -",
    )  # fmt: skip
    counts = np.zeros((12, 5), np.int64)
    for line in table:
        for unit, value in enumerate(line.split()):
            if value != "-":
                counts[unit, int(value) - 1] += 1
    found = statistics.alpha(counts, rng())
    assert found.value == pytest.approx(0.743, abs=5e-4)
    assert 0.3 < found.low < 0.6 and 0.85 < found.high <= 1
    assert np.isnan(statistics.alpha(counts[11:], rng()).value)  # one answer only
    assert np.isnan(statistics.alpha(np.array([[4, 0], [2, 0]]), rng()).value)


def test_agreement_of_counted_answers() -> None:
    rows = [
        answer(1, "x", said, subject=name)
        for name, said in zip("abcd", ["cat", "cat", "dog", None], strict=True)
    ]
    counts = statistics.count_answers(gather(rows, CLASSES))
    assert counts.tolist() == [[2, 1, 0]]
    found = statistics.agreement(np.vstack([counts, [[0, 0, 0]], [[0, 4, 0]]]))
    assert found.majority.tolist() == [pytest.approx(2 / 3), 1.0] and found.unanimous == 0.5
    assert found.entropy == pytest.approx([0.9183, 0.0], abs=1e-4)


def test_a_bin_of_confidences_shows_where_it_ends() -> None:
    people = gather([answer(i, subject=s) for i in range(20) for s in "ab"], CLASSES)
    network = gather([answer(i, subject="n") for i in range(20)], CLASSES)
    confidence = np.r_[np.linspace(0.0512, 0.0543, 10), np.linspace(0.06, 0.9, 10)]
    found = breakdowns.difficulty_by_network(people, "n", network, confidence, rng())
    assert [each.name for each in found] == ["5.1 to 5.4 %", "6 to 90 %"]


def test_learning_and_repeats() -> None:
    def person(name: str, said: Sequence[str]) -> list[Answer]:
        return [answer(i, f"{i}", each, subject=name) for i, each in enumerate(said)]

    rows = person("a", ["dog", "dog", "cat", "cat"]) + person("b", ["dog", "cat", "cat", "dog"])
    found = statistics.learning(gather(rows, CLASSES))
    assert found.mean == 0.5 and found.interval is not None
    again = [answer(8, "1", "dog", kind="repeat"), answer(9, "2", None, kind="repeat")]
    same = statistics.repeated(gather(rows + again, CLASSES), rng())
    assert same.value == 0.5 and 0 < same.low < 0.5 < same.high < 1
    assert np.isnan(statistics.repeated(gather(rows, CLASSES), rng()).value)
    assert gather(rows + again, CLASSES).counted.trial.max() == 3


def test_an_interval_at_ceiling_is_not_empty() -> None:
    found = statistics.accuracy(gather([answer(i) for i in range(30)], CLASSES), rng())
    assert found.value == found.high == 1 and 0.8 < found.low < 0.95


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"count": 19}, "19 answers"),
        ({"seconds": 0.5}, "0.50 s"),
        ({"wrong": 1, "catches": 1}, None),
        ({"wrong": 2, "catches": 2}, None),
        ({"wrong": 3, "catches": 3}, "3 of 3 catch images wrong"),
        ({"wrong": 2}, None),
        ({"wrong": 3}, "3 of 5 catch images wrong"),
        ({"wrong": 3, "catches": 12}, None),
        ({"wrong": 4, "catches": 12}, "4 of 12 catch images wrong"),
    ],
)
def test_exclusions_by_stated_rules(changes: dict[str, float], reason: str | None) -> None:
    rows = [
        answer(i, seconds=changes.get("seconds", 0.7),
               kind="catch" if i < changes.get("catches", 5) else "main",
               response="owl" if i < changes.get("wrong", 0) else "cat")
        for i in range(int(changes.get("count", 25)))
    ]  # fmt: skip
    found = exclusions(gather(rows, CLASSES))
    assert list(found) == (["a"] if reason else [])
    assert reason is None or reason in found["a"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are no answers"),
        ([answer(1), answer(1)], "twice"),
        ([answer(1, "x"), answer(2, "x")], "twice"),
        ([answer(1, "x"), answer(1, "x", subject="b", target="dog")], "exchanged"),
        ([answer(1, response="cow")], "'cow'"),
    ],
)
def test_a_planted_fault_is_caught(rows: list[Answer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gather(rows, CLASSES)


def test_a_network_answers_the_same_images_in_the_same_classes() -> None:
    people = gather([answer(1, "x"), answer(2, "y", target="owl")], CLASSES)
    logits = np.array([[0, 1, 2.0], [5, 1, 2]])
    rows = network_answers("n", logits, CLASSES, people, {"x": 1, "y": 0})
    assert [row.response for row in rows] == ["cat", "owl"]
    assert [row.target for row in rows] == ["cat", "owl"]
    with pytest.raises(ValueError, match="order"):
        network_answers("n", logits, CLASSES[::-1], people, {"x": 1, "y": 0})
    with pytest.raises(ValueError, match="no answer to y"):
        network_answers("n", logits, CLASSES, people, {"x": 1})


def test_the_plan_of_a_study() -> None:
    assume = Assumptions()
    assert half_width(20, 50, 0.0, assume) == pytest.approx(0.039, abs=5e-4)
    assert half_width(20, 50, 1.0, assume) == pytest.approx(0.083, abs=5e-4)
    assert round(paired_answers(0.03, assume), -1) == 1730
    assert round(paired_answers(0.03, alike(assume)), -1) == 1340
    for wrong in ({"accuracy": 1.1}, {"network": 0.0}, {"people_share": 0.6}, {"kappa": 0.9}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(assume, **wrong)


def test_a_plan_for_people_who_are_expected_to_be_right() -> None:
    sure = Assumptions(accuracy=1.0, people_share=0.0, image_share=0.0)
    wilson = stats.binomtest(1000, 1000).proportion_ci(method="wilson")
    assert half_width(20, 50, 0.0, sure) == pytest.approx((1 - wilson.low) / 2)
    # they differ from the network where that is wrong, whatever kappa
    assert alike(sure).kappa == pytest.approx(0.0)
    assert alike(sure).paired_variance == pytest.approx(0.57 * 0.43)
    nearly = replace(sure, accuracy=0.95)
    assert alike(nearly).paired_variance == pytest.approx(0.38 - 0.38**2)  # never only the network
    with pytest.raises(ValueError, match="both 1"):
        replace(sure, network=1.0)
