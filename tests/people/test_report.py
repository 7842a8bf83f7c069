"""A study's results and its page: planted answers give known numbers; few people stay unknown."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinysight.cli.people import _print_results
from tinysight.data.dataset import Dataset
from tinysight.people.answers import Answer, Mark, gather
from tinysight.people.material import Material
from tinysight.people.report import write_study
from tinysight.people.results import Findings, StudyResults, analyze
from tinysight.people.store import Game
from tinysight.people.study import Study

MakeStudy = Callable[..., Study]
FIVE = {
    "a": "....................xxxx",
    "b": "....................xxx?",
    "c": "xx..................xxx.",
    "d": "........................",
    "e": "x...................yyyx",
}
NETWORKS = {"net": "x...................xxx.", "perfect": 24 * "."}


@pytest.fixture
def make_study(dataset: Dataset) -> MakeStudy:
    """Make a study of 24 images that all people see, and a catch image.

    Answers are right ("."), the next class ("x"), the one after it ("y") or "I cannot tell" ("?").
    """
    names = dataset.class_names
    labels = dataset.labels[slice(*dataset.splits["val"])]

    def make(people: dict[str, str], game: Game = "full", **networks: str) -> Study:
        logits = {
            name: 5 * np.eye(24, dtype=np.float32)[[(i + shift(sign)) % 24 for i, sign in
                                                    zip(labels, said, strict=True)]]
            for name, said in networks.items()
        }  # fmt: skip
        material = Material(dataset, "val", logits, num_images=10)
        rows = []
        for name, said in people.items():
            for trial, (row, sign) in enumerate(zip(material.rows, said, strict=False), 1):
                target = int(dataset.labels[row])
                response = None if sign == "?" else names[(target + shift(sign)) % 24]
                rows.append(
                    Answer(subject=name, session=1, trial=trial, image=dataset.files[row],
                           target=names[target], response=response, kind="core",
                           seconds=1.0 if sign == "." else 3.0)
                )  # fmt: skip
            easy = {"image": "easy", "target": names[0], "response": names[0], "kind": "catch"}
            rows.append(replace(rows[-1], trial=99, **easy))
        return Study(material, game, names, gather(rows, names))

    return make


def shift(sign: str) -> int:
    return " ..xy".index(sign) - 2 if sign != "." else 0


def findings(study: Study) -> Findings:
    found = analyze(study).findings
    assert found is not None
    return found


def test_planted_answers_give_known_numbers(make_study: MakeStudy) -> None:
    found = findings(make_study(FIVE, **NETWORKS))
    assert found.headline.accuracy.value == pytest.approx(1 - 18 / 120)
    assert [person.accuracy.value * 24 for person in found.people] == pytest.approx(
        [20, 20, 19, 24, 19]
    )
    assert found.people[1].cannot_tell == 1 / 24 and found.cannot_tell.sum() == 1
    net, perfect = found.networks
    assert (net.accuracy.value, perfect.accuracy.value) == (20 / 24, 1)
    gaps = {name: gap.value for name, gap in found.headline.differences.items()}
    assert gaps == pytest.approx({"net": 102 / 120 - 100 / 120, "perfect": -18 / 120})
    assert all(gap.low < gap.value < gap.high for gap in found.headline.differences.values())
    # image 0: c, e wrong; 1: c wrong; 20 to 22: all but d wrong, the network too; 23: a, b, e wrong
    assert net.outcomes == {
        "both": 14, "only people": 4, "only the network": 6, "neither": 96,
    }  # fmt: skip
    assert [len(net.images[kind]) for kind in net.outcomes] == [3, 1, 1, 8]
    only = net.images["only people"][0]
    assert only.people[""] == 1 and sum(only.people.values()) == 5 and only.network == only.target
    assert perfect.images["only the network"] == () == perfect.images["both"]
    assert found.confusions.sum() == 119 and np.trace(found.confusions) == 102
    assert np.trace(net.confusions) == 20 and net.confusions.sum() == 24


def test_exchanged_images_are_caught_where_one_person_saw_them(make_study: MakeStudy) -> None:
    study = make_study({"a": FIVE["a"]}, **NETWORKS)
    rows = list(study.people.rows)
    rows[:2] = [replace(rows[0], image=rows[1].image), replace(rows[1], image=rows[0].image)]
    with pytest.raises(ValueError, match="exchanged"):
        replace(study, people=gather(rows, study.choices))


def test_error_consistency_is_not_defined_for_who_is_always_right(make_study: MakeStudy) -> None:
    found = findings(make_study(FIVE, **NETWORKS))
    net, perfect = found.networks
    assert (found.consistency.pairs, found.consistency.undefined) == (10, 4)
    assert (net.consistency.pairs, net.consistency.undefined) == (5, 1)
    assert perfect.consistency.undefined == 5 and np.isnan(perfect.consistency.mean.value)
    own = {person.name: person.consistency["net"] for person in found.people}
    chance = 400 / 576 + 16 / 576
    assert own["subject-01"] == pytest.approx((22 / 24 - chance) / (1 - chance))
    assert np.isnan(own["subject-04"])
    kappas = [value for value in own.values() if not np.isnan(value)]
    assert net.consistency.mean.value == pytest.approx(np.mean(kappas))
    assert net.consistency.mean.low < np.mean(kappas) < net.consistency.mean.high


def test_what_most_people_say_is_right_in_the_lenient_measure(make_study: MakeStudy) -> None:
    """Most say "x" of images 20 to 22: of five, a, b and c, which are half of the others for each
    of these, and more than half only for d and e, who say something else.
    """
    found = findings(make_study(FIVE, **NETWORKS)).lenient
    assert found is not None and (found.images, found.disputed) == (24, 3)
    assert [each.value for each in found.people] == pytest.approx([102 / 120, 102 / 120])
    assert [each.value for each in found.networks["net"]] == pytest.approx([20 / 24, 23 / 24])
    assert found.differences["net"].value == pytest.approx(102 / 120 - 23 / 24)
    four = FIVE | {"e": FIVE["a"]}
    kinder = findings(make_study(four, **NETWORKS)).lenient
    assert kinder is not None
    # of image 23 two say "x", which is half: not more
    assert [round(120 * each.value) for each in kinder.people] == [103, 103 + 12]
    fewer = {name: said for name, said in FIVE.items() if name in "abc"}
    assert findings(make_study(fewer)).lenient is None


def test_what_people_find_also_right_is_counted_apart(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study(FIVE | {"g": "xxx"}, **NETWORKS)
    own = replace(Mark("a", "", "", "", own=True, fits=True), image=study.people.images[0])
    marks = [own, replace(own, subject="b", fits=False), replace(own, subject="g"),
             replace(own, own=False, fits=False)]  # fmt: skip
    found = findings(replace(study, marks=tuple(marks)))
    assert {name: (each.people, each.asked) for name, each in found.also_right.items()} == {
        "their own answers": (2, 2), "answers of networks": (1, 1),  # g is excluded
    }  # fmt: skip
    both = found.also_right["their own answers"].share
    assert both.value == 0.5 and 0 < both.low < 0.5 < both.high < 1
    assert found.headline == findings(study).headline and findings(study).also_right == {}
    _, page, numbers = write(replace(study, marks=tuple(marks)), tmp_path)
    assert "Also right, as people say" in page
    assert numbers["findings"]["also_right"]["their own answers"]["share"]["value"] == 0.5


def test_further_guesses_count_where_they_were_asked_for(make_study: MakeStudy) -> None:
    study = make_study(FIVE, **NETWORKS)
    assert findings(study).guesses is None
    rows = [
        replace(row, further=(row.target,) if row.response else ())
        if row.subject in "ab" and row.kind == "core" else row
        for row in study.people.rows
    ]  # fmt: skip
    rows = [
        replace(row, further=("plain disc", "dotted disc")[: 2 * (row.trial == 1)])
        if row.response == row.target and row.further else row
        for row in rows
    ]  # fmt: skip
    asked = Study(study.material, "full", study.choices, gather(rows, study.choices))
    found = findings(asked).guesses
    assert found is not None and (found.guesses, found.answers, found.images) == (3, 48, 24)
    assert [round(48 * each.value) for each in found.people] == [40, 47]
    labels = study.dataset.labels[slice(*study.dataset.splits["val"])]
    lucky = [sign == "." or label < 2 for sign, label in zip(NETWORKS["net"], labels, strict=True)]
    strict, kinder = found.networks["net"]  # its second and third choice are the first classes
    assert (strict.value, kinder.value) == pytest.approx((20 / 24, np.mean(lucky)))
    assert kinder.value > strict.value


def test_difficulty_leaves_out_ones_own_answer(make_study: MakeStudy) -> None:
    found = findings(make_study(FIVE, **NETWORKS))
    bins = {each.name: each for each in found.difficulty}
    # of the others: 20 to 22 at most 1 of 4 right, 23 for a, b and e 2 of 4, for c and d 1 of 4
    assert [bins[name].answers for name in ("under 50 %", "all")] == [17, 18 * 5 + 1]
    assert bins["under 50 %"].people.value == pytest.approx(5 / 17)
    assert "50 to 75 %" not in bins  # of two images
    assert bins["all"].networks["net"].value == 1
    by_net = found.networks[0].difficulty
    assert [each.answers for each in by_net] == [60, 60]


def test_calibration_and_agreement(make_study: MakeStudy) -> None:
    found = findings(make_study(FIVE, **NETWORKS))
    own = found.networks[0].calibration
    sure = np.exp(5) / (np.exp(5) + 23)
    assert own.confidence == pytest.approx(sure)
    # the network's answer: 0 by c and e, 1 to 19 by all but c once, 20 to 22 by a, b, c, 23 by c, d
    same = 2 + 94 + 9 + 2
    assert own.agreement == pytest.approx(same / 120)
    assert own.error == pytest.approx(abs(sure - same / 120))
    assert own.label_error == pytest.approx(abs(sure - 20 / 24))
    bits = -np.log2([sure, (1 - sure) / 23])
    assert own.bits == pytest.approx((same * bits[0] + (119 - same) * bits[1]) / 119)
    assert found.agreement is not None and found.agreement.images == 24
    assert found.agreement.unanimous == pytest.approx(18 / 24)


def test_times_are_of_the_quick_game_only(make_study: MakeStudy) -> None:
    assert findings(make_study(FIVE)).times is None
    quick = findings(make_study(FIVE, "quick")).times
    assert quick is not None and (quick.right, quick.wrong) == (1.0, 3.0)
    assert quick.slower is not None and (quick.slower.mean, quick.slower.count) == (2.0, 4)


def test_who_is_excluded_counts_in_one_of_two_lines(make_study: MakeStudy) -> None:
    people = FIVE | {"f": 24 * "x", "g": "xxx"}
    found = analyze(make_study(people, **NETWORKS))
    assert found.excluded == {"subject-07": "4 answers, fewer than 20"}
    assert found.everybody.people == 7 and found.findings is not None
    assert found.findings.headline.people == 6
    assert found.everybody.accuracy.value == pytest.approx(102 / 147)
    assert found.findings.headline.accuracy.value == pytest.approx(102 / 144)
    everybody = analyze(make_study(people, **NETWORKS), "all")
    assert everybody.findings is not None and everybody.num_excluded == 1
    assert everybody.findings.headline.accuracy.value == pytest.approx(102 / 147)
    assert everybody.findings.headline.people == 7
    nobody = analyze(make_study({"g": "xxx"}))
    assert nobody.findings is None and nobody.everybody.accuracy.value == 0


def test_needed_answers_grow_with_the_square_of_the_interval(make_study: MakeStudy) -> None:
    found = findings(make_study(FIVE, **NETWORKS))
    need = found.needed["net"]
    gap = found.headline.differences["net"]
    assert need.half_width == pytest.approx((gap.high - gap.low) / 2)
    assert need.answers == pytest.approx(120 * (need.half_width / 0.03) ** 2, abs=1)


def write(study: Study, folder: Path) -> tuple[StudyResults, str, dict[str, Any]]:
    found = analyze(study)
    page = write_study(study, found, folder, note="A note.").read_text("utf-8")
    return found, page, json.loads((folder / "results.json").read_text("utf-8"))


@pytest.mark.parametrize("game", ["full", "quick"])
def test_the_page_and_its_numbers(make_study: MakeStudy, tmp_path: Path, game: Game) -> None:
    found, page, numbers = write(make_study(FIVE, game, **NETWORKS), tmp_path)
    assert "A note." in page and "85.0\u00a0%" in page and f"small, {game} game" in page
    assert page.count("data:image/webp") == sum(
        len(images) for network in found.findings.networks for images in network.images.values()
    )  # type: ignore[union-attr]
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)  # nothing else is loaded
    assert "not defined" in page and "subject-05" in page and "nan" not in page.split("<script>")[0]
    assert ("in the median" in page) == (game == "quick")
    seen = {"full": "were among the examples", "quick": "came in the practice"}[game]
    assert f"Catch images are training images that {seen}." in page
    own = numbers["findings"]
    assert own["headline"]["accuracy"]["value"] == pytest.approx(0.85)
    assert own["networks"][1]["consistency"]["mean"] == {"value": None, "low": None, "high": None}
    assert sum(count for _, _, count in own["confusions"]) == 119
    assert (tmp_path / "tables" / "people.csv").read_text("utf-8").count("\n") == 6
    with (tmp_path / "tables" / "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, group in zip(rows, found.findings.groups, strict=True):  # type: ignore[union-attr]
        values = [group.people, group.shrunk.value, group.shrunk.low, group.shrunk.high]
        columns = ("as_counted", "drawn_to_mean", "low", "high")
        assert [float(row[name]) for name in columns] == pytest.approx(values, abs=1e-6)


def test_few_people_are_not_shown_one_by_one(make_study: MakeStudy, tmp_path: Path) -> None:
    four = {name: said for name, said in FIVE.items() if name != "c"}
    found, page, numbers = write(make_study(four, "quick", net=NETWORKS["net"]), tmp_path)
    assert found.findings is not None and found.findings.people == ()
    assert "1 more is missing" in page
    written = page + json.dumps(numbers) + (tmp_path / "tables" / "people.csv").read_text("utf-8")
    assert "subject-" not in written
    found, page, numbers = write(make_study({"a": FIVE["a"], "g": "xxx"}), tmp_path)
    assert "4 more are missing" in page and "Excluded: 1." in page and found.num_excluded == 1
    assert "Everybody counts on this page" not in page
    study = make_study({"a": FIVE["a"], "g": "xxx"})
    page = write_study(study, analyze(study, "all"), tmp_path / "all").read_text("utf-8")
    assert "Everybody counts on this page" in page and "without the excluded" not in page
    assert "subject-" not in page + json.dumps(numbers)


@pytest.mark.parametrize("said", [24 * ".", 24 * "?"])
def test_all_answers_alike_have_a_page(make_study: MakeStudy, tmp_path: Path, said: str) -> None:
    people = dict.fromkeys("abcde", said)
    study = make_study(people, "quick", perfect=24 * ".", wrong=24 * "x")
    found, page, _ = write(study, tmp_path)
    assert found.findings is not None
    assert np.isnan(found.findings.consistency.mean.value)
    low, high = found.findings.headline.accuracy.low, found.findings.headline.accuracy.high
    assert 0 <= low < high <= 1 and "nan" not in page.split("<script>")[0]


SCROLLING = """() => [...document.querySelectorAll("figure.chart, .scroll")].map((box) => [
    `${box.tagName} ${box.querySelector("svg")?.getAttribute("aria-label")} `
        + getComputedStyle(box, "::before").content,
    box.scrollWidth > box.clientWidth + 1, box.dataset.more])"""


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_is_read_by_everybody(
    make_study: MakeStudy, tmp_path: Path, browser: Any, barriers: Any, width: int
) -> None:
    write(make_study(FIVE, "quick", **NETWORKS), tmp_path)
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((tmp_path / "index.html").as_uri())
    assert barriers(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    boxes = page.evaluate(SCROLLING)
    assert boxes and all(("sideways" in (more or "")) == wide for _, wide, more in boxes)
    assert [each for each in boxes if each[1] and "Scroll" not in each[0]] == []
    figures = [alt for alt, wide, _ in boxes if wide and alt.startswith("FIGURE")]
    assert all("Confusions of" in alt for alt in figures)  # a label per class takes its room
    assert any(wide for _, wide, _ in boxes) == (width == 400)
    # and each figure and table states what it shows
    assert page.locator("figure.chart figcaption").count() == page.locator("figure.chart").count()
    assert page.locator(".scroll caption").count() == page.locator(".scroll table").count() > 5
    page.close()


def test_nobody_counts(make_study: MakeStudy, tmp_path: Path) -> None:
    _, page, numbers = write(make_study({"g": "xxx"}), tmp_path)
    assert "No answers count yet" in page and numbers["findings"] is None


def test_the_printed_table(make_study: MakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    _print_results(analyze(make_study(FIVE | {"g": "xxx"}, net=NETWORKS["net"])))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "small val, full game"
    assert lines[1].startswith("  without the excluded   85.0 % (95 %: ")
    assert lines[1].endswith("   5 people, 120 answers")
    assert lines[2].startswith("  all people  ") and "82.9 %" in lines[2]
    assert lines[3] == "  excluded: subject-06, 4 answers, fewer than 20"
    assert "  83.3 % (95 %: " in lines[4] and "people +1.7 points (" in lines[4]
    assert re.fullmatch(r"  \+- 3 points take about [\d,]+ answers in all", lines[5])
    _print_results(analyze(make_study({"a": FIVE["a"]})))
    text = capsys.readouterr().out
    assert "from 5 people on: 4 missing" in text and "1 person, 24 answers" in text
