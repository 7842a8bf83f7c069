"""The example study in docs/: its export, read independently, gives the numbers of the report."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "people-example"
EXPORT = FOLDER / "export"
COLUMNS = ["subj", "session", "trial", "rt", "object_response", "category", "condition"]
NETWORKS = ["quickstart-shapes", "four-epochs"]
Rows = list[dict[str, str]]


def read(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trials() -> dict[str, Rows]:
    """The trials of each subject, by the names of the files."""
    found: dict[str, Rows] = {}
    for path in sorted((EXPORT / "model-vs-human" / "shapes-full").iterdir()):
        name = re.fullmatch(r"shapes-full_([^_]+)_session([_-])1\.csv", path.name)
        assert name is not None and (name[2] == "-") == (name[1] in NETWORKS), path.name
        found[name[1]] = read(path)
    return found


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "full" / "results.json").read_text("utf-8"))
    return found


def counted(rows: Rows) -> dict[str, bool]:
    """Whether each image that counts was answered rightly."""
    return {
        row["imagename"]: row["object_response"] == row["category"]
        for row in rows
        if row["condition"] in ("core", "main")
    }


def test_columns_and_types(trials: dict[str, Rows]) -> None:
    classes = (EXPORT / "classes.txt").read_text("utf-8").splitlines()
    assert len(trials) == 12 + len(NETWORKS) and len(classes) == 24
    category: dict[str, str] = {}
    for subject, rows in trials.items():
        assert all(list(row) == [*COLUMNS, "imagename"] for row in rows)
        assert {(row["subj"], int(row["session"])) for row in rows} == {(subject, 1)}
        assert [int(row["trial"]) for row in rows] == list(range(1, len(rows) + 1))
        times = [float(row["rt"]) for row in rows]
        assert all(math.isnan(t) if subject in NETWORKS else 0 < t < 60 for t in times)
        assert {row["object_response"] for row in rows} <= {*classes, "na"}
        first = [row["imagename"] for row in rows if row["condition"] != "repeat"]
        assert len(set(first)) == len(first) and "_" not in "".join(first)
        assert {row["condition"] for row in rows} <= {"core", "main", "repeat", "catch"}
        for row in rows:
            assert category.setdefault(row["imagename"], row["category"]) == row["category"]
    core = [
        {row["imagename"] for row in rows if row["condition"] == "core"}
        for subject, rows in trials.items()
        if len(rows) > 50
    ]
    assert core[0] and all(images == core[0] for images in core)


def test_accuracies_and_error_consistencies_are_those_of_the_report(
    trials: dict[str, Rows], numbers: dict[str, Any]
) -> None:
    own = numbers["findings"]
    assert set(numbers["excluded"]) == {"subject-08", "subject-12"}
    assert len(own["people"]) == 12
    right = {subject: counted(rows) for subject, rows in trials.items()}
    for person in own["people"]:
        mine = right[person["name"]]
        assert person["accuracy"]["value"] == pytest.approx(np.mean(list(mine.values())))
        for network, value in person["consistency"].items():
            pair = np.array([(said, right[network][image]) for image, said in mine.items()])
            p, q = pair.mean(axis=0)
            chance = p * q + (1 - p) * (1 - q)
            same = (pair[:, 0] == pair[:, 1]).mean()
            expected = None if p in (0, 1) else pytest.approx((same - chance) / (1 - chance))
            assert value == expected
    excluded = {row["subj"]: row["reason"] for row in read(EXPORT / "excluded.csv")}
    assert excluded == numbers["excluded"] and not set(excluded) & set(trials)
    judged = read(EXPORT / "also_right.csv")
    for whose, given_by in (("their own answers", "person"), ("answers of networks", "network")):
        said = [int(row["also_right"]) for row in judged if row["given_by"] == given_by]
        found = own["also_right"][whose]
        assert found["asked"] == len(said) > 0
        assert found["share"]["value"] == pytest.approx(np.mean(said))
    images = {image for person in own["people"] for image in right[person["name"]]}
    for network in own["networks"]:
        mean = np.mean([right[network["name"]][image] for image in images])
        assert network["accuracy"]["value"] == pytest.approx(mean)


def test_counts_and_further_guesses_fit_the_trials(trials: dict[str, Rows]) -> None:
    counts, shares = np.load(EXPORT / "counts.npy"), np.load(EXPORT / "probs.npy")
    images = read(EXPORT / "images.csv")
    classes = (EXPORT / "classes.txt").read_text("utf-8").splitlines()
    again = np.zeros_like(counts)
    row_of = {line["imagename"]: int(line["index"]) for line in images}
    said: dict[tuple[str, str], Rows] = {}
    for subject, rows in trials.items():
        for row in rows if subject not in NETWORKS else ():
            said[subject, row["trial"]] = [row]
            if row["condition"] in ("core", "main") and row["object_response"] != "na":
                again[row_of[row["imagename"]], classes.index(row["object_response"])] += 1
    assert (again == counts).all() and counts.dtype == np.int64
    some = counts.sum(axis=1) > 0
    assert shares[some] == pytest.approx(counts[some] / counts[some].sum(axis=1, keepdims=True))
    further = read(EXPORT / "further.csv")
    assert {row["guess"] for row in further} == {"2", "3"}
    for row in further:
        (trial,) = said[row["subj"], row["trial"]]
        assert (trial["imagename"], trial["category"]) == (row["imagename"], row["category"])
        assert row["object_response"] in classes and trial["object_response"] != "na"
        assert row["object_response"] != trial["object_response"]


def test_it_is_small_and_says_that_it_is_simulated(numbers: dict[str, Any]) -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert "simulated" in numbers["note"] and "simulated" in (FOLDER / "README.md").read_text()
    for game in ("full", "quick"):
        page = (FOLDER / game / "index.html").read_text("utf-8")
        assert "These people are simulated" in page
