"""Run folders: chosen, found, written and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinysight import run as runs
from tinysight.recipes import recipe

RUN = recipe("quickstart")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def _record(folder: Path) -> runs.Record:
    return runs.Record(
        folder=folder,
        run=RUN,
        data_digest="abc",
        machine={"device": "cpu", "bf16": False, "threads": 1, "processes": 1},
        versions=runs.versions(),
        command="tinysight train quickstart",
    )


def test_new_folders_are_numbered_and_claimed(home: Path) -> None:
    names = [runs.new_folder(RUN, None).relative_to(home).as_posix() for _ in range(3)]
    assert names == ["quickstart-shapes", "quickstart-shapes-2", "quickstart-shapes-3"]
    assert all((home / name).is_dir() for name in names)


def test_a_name_is_a_word_under_the_home_or_a_path(home: Path, tmp_path: Path) -> None:
    assert runs.new_folder(RUN, "mine") == home / "mine"
    assert runs.new_folder(RUN, str(tmp_path / "else" / "where")) == tmp_path / "else" / "where"


def test_a_taken_or_empty_name_is_refused(home: Path) -> None:
    taken = runs.new_folder(RUN, "mine")
    assert runs.new_folder(RUN, "mine") == taken  # empty as yet
    (taken / "run.json").touch()
    with pytest.raises(ValueError, match="tinysight resume"):
        runs.new_folder(RUN, "mine")
    for name in ("", ".", ".."):
        with pytest.raises(ValueError, match="no name for a run"):
            runs.new_folder(RUN, name)


def test_a_record_comes_back_equal(tmp_path: Path) -> None:
    record = _record(tmp_path)
    runs.write_record(record)
    assert runs.read_record(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_record_with_tuples_comes_back_equal(tmp_path: Path) -> None:
    record = replace(_record(tmp_path), run=recipe("resnet10-laptop"))
    runs.write_record(record)
    assert runs.read_record(tmp_path).run == recipe("resnet10-laptop")


def _changed(**changes: Any) -> str:
    good = {
        "format": 1,
        "run": {"recipe": "a"},
        "data_digest": "",
        "machine": {},
        "versions": {},
        "command": "",
    }
    return json.dumps({**good, **changes})


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        "{}",
        "\xff",
        _changed(format=99),
        _changed(run=[]),
        _changed(run={"recipe": "a", "train": {"epochs": 0}}),
        _changed(run={"recipe": "a", "train": {"epoch": 1}}),
        _changed(machine=3),
    ],
)
def test_a_damaged_record_is_refused_by_name(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"run\.json"):
        runs.read_record(tmp_path)


def test_a_whole_record_of_that_form_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        _changed()
    )  # so that the test above fails for what it changes
    assert runs.read_record(tmp_path).run.recipe == "a"


def test_a_run_is_found_by_path_and_by_name(home: Path) -> None:
    folder = runs.new_folder(RUN, "mine")
    runs.write_record(_record(folder))
    assert runs.find("mine") == folder and runs.find(str(folder)) == folder
    with pytest.raises(ValueError, match="did you mean mine"):
        runs.find("mien")


def test_where_there_is_no_run_it_says_so(home: Path) -> None:
    with pytest.raises(ValueError, match="holds none yet"):
        runs.find("mine")


def test_lines_leave_out_the_last_one_that_was_cut_short(tmp_path: Path) -> None:
    assert runs.read_lines(tmp_path / "none.jsonl") == []
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert runs.read_lines(tmp_path / "log.jsonl") == [{"a": 1}, {"a": 2}]
