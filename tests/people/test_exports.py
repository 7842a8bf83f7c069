"""Exports, read back by a reader that knows only the published conventions."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinysight.people.answers import Answer, Answers, Mark, gather
from tinysight.people.exports import write_exports
from tinysight.people.simulation import Simulation
from tinysight.people.statistics import error_consistency

STUDY = Simulation(people=3, images=12, shared=4)
LONG = replace(STUDY, images=30, shared=10).draw(np.random.default_rng(3))[0]


def study() -> Answers:
    """Three people and the network; the first repeats one image, sees a catch, and cannot tell."""
    rows, _ = STUDY.draw(np.random.default_rng(3))
    rows[2] = replace(rows[2], response=None)
    rows.append(replace(rows[0], trial=13, kind="repeat"))
    rows.append(replace(rows[0], trial=14, image="easy.png", kind="catch"))
    return gather([_odd(row) for row in rows], STUDY.class_names)


def _odd(row: Answer) -> Answer:
    """Give images names of one's own: folders, underscores, and two that differ by these only."""
    names = {"image-0001.png": "a/b_1.png", "image-0002.png": "a_b/1.png"}
    return replace(row, image=names.get(row.image, f"folder/{row.image}"))


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def image_id(name: str) -> str:
    """The last part of a name, or two of ImageNet's, as published scripts have it."""
    parts = name.split("_")
    return "_".join(parts[-2:]) if parts[-2:][0].startswith("n0") else parts[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "new"
    write_exports(study(), path, name="shapes_96", networks=["network"], people="all")
    return path


def test_people_have_the_numbers_of_the_store_in_all_files(tmp_path: Path) -> None:
    stored = {"p-00": "p-0001", "p-01": "p-0004", "p-02": "p-0011"}
    rows = [replace(row, subject=stored.get(row.subject, row.subject)) for row in study().rows]
    again = gather(rows, STUDY.class_names)
    assert set(again.subjects) == {*stored.values(), "network"}
    written = write_exports(again, tmp_path, name="s", networks=["network"], people="all")
    assert list(written.people) == ["subject-02", "subject-05", "subject-12"]
    assert {row["annotator_id"] for row in read(tmp_path / "raw.csv")} == {"1", "4", "11"}


def test_model_vs_human_form_is_read_back(folder: Path) -> None:
    files = sorted((folder / "model-vs-human" / "shapes-96").iterdir())
    assert [file.name for file in files] == [
        "shapes-96_network_session-1.csv",
        *(f"shapes-96_subject-0{i}_session_1.csv" for i in (1, 2, 3)),
    ]
    columns = "subj,session,trial,rt,object_response,category,condition,imagename"
    everything: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        assert file.read_text("utf-8").splitlines()[0] == columns
        subject = file.name.split("_")[1]
        everything[subject] = read(file)
        assert {row["subj"] for row in everything[subject]} == {subject}
        trials = [int(row["trial"]) for row in everything[subject]]
        assert trials == list(range(1, len(trials) + 1))
    assert {row["rt"] for row in everything["network"]} == {"NaN"}
    first = everything["subject-01"]
    assert all(0 < float(row["rt"]) < 30 for row in first)
    assert [row["object_response"] == "na" for row in first].index(True) == 2
    assert {row["object_response"] for row in first} - {"na"} <= set(STUDY.class_names)
    assert Counter(row["condition"] for row in first) == Counter(main=8, core=4, repeat=1, catch=1)

    # Error consistency, as published scripts compute it within one condition
    def right(subject: str) -> dict[str, bool]:
        rows = [row for row in everything[subject] if row["condition"] == "core"]
        found = {
            image_id(row["imagename"]): row["object_response"] == row["category"] for row in rows
        }
        assert len(found) == len(rows) == 4
        return found

    a, b, c = right("subject-01"), right("subject-02"), right("network")
    assert a.keys() == b.keys() == c.keys()
    ours = study()
    for row in ours.of(["p-00"]).rows:
        if row.kind == "core":
            assert (row.response == row.target) in a.values()
    core = ours.only(ours.kind == "core")
    pair = np.array([[side[key] for key in a] for side in (a, b)])
    chance = pair[0].mean() * pair[1].mean() + (1 - pair[0].mean()) * (1 - pair[1].mean())
    expected = ((pair[0] == pair[1]).mean() - chance) / (1 - chance)
    found = error_consistency(core, "p-00", "p-01", np.random.default_rng(0)).value
    assert found == pytest.approx(expected)


def test_cifar10h_form_is_read_back(folder: Path) -> None:
    counts, shares = np.load(folder / "counts.npy"), np.load(folder / "probs.npy")
    images, raw = read(folder / "images.csv"), read(folder / "raw.csv")
    classes = (folder / "classes.txt").read_text("utf-8").split()
    assert classes == list(STUDY.class_names)
    assert counts.shape == shares.shape == (4 + 3 * 8, 10) and counts.dtype == np.int64
    again = np.zeros_like(counts)
    for row in raw:
        index, chosen = int(row["cifar10_test_test_idx"]), int(row["chosen_label"])
        assert row["true_category"] == classes[int(row["true_label"])]
        assert (chosen == -1) == (row["chosen_category"] == "na")
        assert chosen == -1 or row["chosen_category"] == classes[chosen]
        assert int(row["correct_guess"]) == (row["true_label"] == row["chosen_label"])
        assert int(row["is_attn_check"]) == (index == -99999)
        assert 100 < float(row["reaction_time"]) <= float(row["time_elapsed"])
        if index >= 0:
            assert images[index]["image"] == row["image_filename"]
            assert images[index]["category"] == row["true_category"]
            if chosen >= 0:
                again[index, chosen] += 1
    assert (again == counts).all() and counts.sum() == 3 * 12 - 1
    given = counts.sum(axis=1) > 0
    assert shares[given].sum(axis=1) == pytest.approx(1.0) and np.isnan(shares[~given]).all()
    assert {row["annotator_id"] for row in raw} == {"0", "1", "2"}


def test_further_guesses_have_a_file_of_their_own(folder: Path, tmp_path: Path) -> None:
    before, answers = {p.name: p.read_bytes() for p in folder.rglob("*.*")}, study()
    names = STUDY.class_names
    rows = [
        row if row.subject == "network" else replace(row, further=names[:2] if i == 3 else ())
        for i, row in enumerate(answers.rows)
    ]
    write_exports(
        gather(rows, names), tmp_path, name="shapes_96", networks=["network"], people="all"
    )
    after = {p.name: p.read_bytes() for p in tmp_path.rglob("*.*")}
    guesses = read(tmp_path / "further.csv")
    assert after.pop("further.csv") and after == before  # the published forms stay as they are
    trial = next(
        row for row in read(next(tmp_path.rglob("*01_session_1.csv"))) if row["trial"] == "4"
    )
    same = ("subj", "session", "trial", "imagename", "category")
    assert [[row[key] for key in same] for row in guesses] == 2 * [[trial[key] for key in same]]
    assert [(row["guess"], row["object_response"]) for row in guesses] == [
        ("2", names[0]), ("3", names[1]),
    ]  # fmt: skip


def test_names_of_images_stay_different_where_scripts_shorten_them(folder: Path) -> None:
    images = read(folder / "images.csv")
    short = [image_id(row["imagename"]) for row in images]
    assert len(set(short)) == len(images) and {"a/b_1.png", "a_b/1.png"} <= {
        row["image"] for row in images
    }
    assert not any(re.search(r"[_/]", name) for name in short)


@pytest.mark.parametrize(
    ("change", "networks", "message"),
    [
        (lambda rows: rows, [f"p-0{i}" for i in range(3)] + ["network"], "no person"),
        (lambda rows: [replace(row, target="na") for row in rows], ["network"], "'na'"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    change: Any, networks: list[str], message: str, tmp_path: Path
) -> None:
    answers = gather(
        change(study().rows), [*STUDY.class_names, *(["na"] if message == "'na'" else [])]
    )
    with pytest.raises(ValueError, match=message):
        write_exports(answers, tmp_path, name="x", networks=networks, people="all")
    assert list(tmp_path.iterdir()) == []


def test_who_is_excluded_is_left_out_unless_all_are_asked_for(tmp_path: Path) -> None:
    rows = [replace(row, seconds=0.1 if row.subject == "p-01" else row.seconds) for row in LONG]
    answers = gather(rows, STUDY.class_names)
    options: dict[str, Any] = {"name": "s", "networks": ["network"]}
    everybody = write_exports(answers, tmp_path, **options, people="all")
    assert read(tmp_path / "excluded.csv") == [
        {"subj": "subject-02", "answers": "30", "reason": "0.10 s in the median, under 0.6 s",
         "left_out": "no"}
    ]  # fmt: skip
    assert np.load(tmp_path / "counts.npy").sum() == 90 == sum(everybody.people.values())
    found = write_exports(answers, tmp_path, **options)  # over what was there
    assert (
        found.excluded == everybody.excluded == {"subject-02": "0.10 s in the median, under 0.6 s"}
    )
    assert found.people == {"subject-01": 30, "subject-03": 30} and found.networks == {
        "network": 50
    }
    assert read(tmp_path / "excluded.csv")[0]["left_out"] == "yes"
    counts, raw = np.load(tmp_path / "counts.npy"), read(tmp_path / "raw.csv")
    assert counts.shape == (50, 10) and counts.sum() == 60  # 10 shared images, 20 of each person
    assert {row["annotator_id"] for row in raw} == {"0", "2"}  # as subject-01 and subject-03
    files = sorted(path.name for path in (tmp_path / "model-vs-human" / "s").iterdir())
    assert files == ["s_network_session-1.csv", *(f"s_subject-0{i}_session_1.csv" for i in (1, 3))]
    seen = {row["imagename"] for row in read(tmp_path / "images.csv")}
    network = read(tmp_path / "model-vs-human" / "s" / files[0])
    assert {row["imagename"] for row in network} == seen
    assert [int(row["trial"]) for row in network] == list(range(1, 51))
    slow = [replace(row, seconds=0.1) for row in rows if row.subject != "network"]
    with pytest.raises(ValueError, match="--people all"):
        write_exports(gather(slow, STUDY.class_names), tmp_path, name="s")


def test_what_people_find_also_right_has_a_file_of_its_own(tmp_path: Path) -> None:
    answers = study()
    row = next(row for row in answers.rows if row.subject == "p-01")
    mark = Mark("p-01", row.image, row.target, "class-3", own=False, fits=True)
    options: dict[str, Any] = {"name": "s", "networks": ["network"]}
    write_exports(answers, tmp_path, **options, people="all", marks=[mark])
    imagename = {row["image"]: row["imagename"] for row in read(tmp_path / "images.csv")}
    assert read(tmp_path / "also_right.csv") == [
        {"subj": "subject-02", "imagename": imagename[row.image], "category": row.target,
         "name": "class-3", "given_by": "network", "also_right": "1"}
    ]  # fmt: skip
    write_exports(answers, tmp_path, **options, people="all")
    assert not (tmp_path / "also_right.csv").exists()
