"""Run folders: created, found, written and read."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinysight.files import with_digits
from tinysight.recipes import recipe
from tinysight.run import Run, find_run, find_trained, new_folder, read_lines, read_run

CONFIG = recipe("quickstart")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def _run(folder: Path) -> Run:
    machine = {"device": "cpu", "bf16": False, "threads": 1, "processes": 1}
    return Run(folder=folder, config=CONFIG, data_digest="abc", machine=machine, command="train")


def test_new_folders_are_numbered_and_claimed(home: Path) -> None:
    names = [new_folder(CONFIG, None).relative_to(home).as_posix() for _ in range(3)]
    assert names == ["quickstart-shapes", "quickstart-shapes-2", "quickstart-shapes-3"]
    assert all((home / name).is_dir() for name in names)


def test_a_name_is_a_folder_under_the_home_or_a_path(home: Path, tmp_path: Path) -> None:
    assert new_folder(CONFIG, "mine") == home / "mine"
    assert new_folder(CONFIG, str(tmp_path / "some" / "where")) == tmp_path / "some" / "where"


def test_the_name_of_a_folder_of_any_bytes_is_in_that_of_a_run(home: Path) -> None:
    data = replace(CONFIG.data, name=os.fsdecode(b"b\xe4d"))
    assert new_folder(replace(CONFIG, data=data), None) == home / "quickstart-b-d"


def test_a_folder_that_tensorboard_cannot_write_into_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path / os.fsdecode(b"caf\xe9")))
    for name in (None, "a"):
        with pytest.raises(ValueError, match=r"is not UTF-8; give another by --name"):
            new_folder(CONFIG, name)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_or_empty_name_is_refused(home: Path) -> None:
    taken = new_folder(CONFIG, "mine")
    assert new_folder(CONFIG, "mine") == taken  # empty as yet
    (taken / "run.json").touch()
    with pytest.raises(ValueError, match="tinysight resume"):
        new_folder(CONFIG, "mine")
    for name in ("", ".", ".."):
        with pytest.raises(ValueError, match=f"--name '{name}'"):
            new_folder(CONFIG, name)


def test_a_run_reads_back_equal(tmp_path: Path) -> None:
    run = _run(tmp_path)
    run.write()
    assert read_run(tmp_path) == run
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert not {"folder", "retired"} & json.loads(run.record_path.read_bytes()).keys()
    replace(run, config=recipe("resnet10-laptop")).write()  # settings with tuples
    assert read_run(tmp_path).config == recipe("resnet10-laptop")


def _content(**changes: Any) -> str:
    good = {"format": 1, "config": {"recipe": "a"}, "data_digest": ""}
    return json.dumps({**good, "machine": {}, "versions": {}, "command": "", **changes})


@pytest.mark.parametrize(
    "content",
    [
        *(None, "", "[]", "{}", "\xff", _content(format=99), _content(config=[])),
        _content(config={"recipe": "a", "train": {"epochs": -1}}),
        _content(config={"recipe": "a", "train": {"epoch": 1}}),
        _content(machine=3),
    ],
)
def test_a_damaged_record_is_refused_by_name(content: str | None, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(_content())
    assert read_run(tmp_path).config.recipe == "a"  # so the test fails for what is changed
    (tmp_path / "run.json").unlink()
    if content is not None:
        (tmp_path / "run.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"run\.json"):
        read_run(tmp_path)


def test_a_run_is_found_by_path_and_by_name(home: Path) -> None:
    with pytest.raises(ValueError, match=r"none in .* yet"):
        find_run("mine")
    folder = new_folder(CONFIG, "mine")
    _run(folder).write()
    assert find_run("mine").folder == find_run(str(folder)).folder == folder
    with pytest.raises(ValueError, match="did you mean mine"):
        find_run("mien")


def test_what_is_trained_is_found_by_name_whatever_its_dots(home: Path, tmp_path: Path) -> None:
    run, file = home / "resnet18.v2", tmp_path / "weights.pth"
    with pytest.raises(ValueError, match=r"no run is named 'resnet18\.v2'"):
        find_trained("resnet18.v2")
    run.mkdir(parents=True)
    _run(run).write()
    assert find_trained("resnet18.v2") == find_trained(run) == run
    with pytest.raises(ValueError, match=r"no such file: '.*weights\.pth'"):
        find_trained(file)
    file.write_bytes(b"")
    assert find_trained(str(file)) == file


def test_files_about_other_data_have_its_name(tmp_path: Path) -> None:
    run = replace(_run(tmp_path), config=replace(CONFIG, data=replace(CONFIG.data, name="a/pets")))
    assert run.label("pets", "val") == "val"
    assert run.label("cats", "val") == "cats-val"
    for folder, name in (
        ("a/my 🐈 pets", "my - pets"),
        ("b/pets.zip", "pets"),
        ("b/.pets", "pets"),
    ):
        data = replace(CONFIG.data, name=str(tmp_path / folder))
        own = replace(run, config=replace(CONFIG, data=data))
        assert own.label(name, "val") == "val"
        assert own.label(with_digits(name, tmp_path / folder), "val") == "val"
        assert own.label(with_digits(name, tmp_path / "other"), "val") != "val"
    assert run.scores_path("cats-val", "-epoch-0002").name == "cats-val-epoch-0002.safetensors"


def test_a_summary_is_read_or_refused_by_name(tmp_path: Path) -> None:
    run = _run(tmp_path)
    assert run.summary() is None and run.monitored_error() is None
    run.summary_path.write_text('{"best_monitored_error": 0.25}')
    lines = [{"kind": "epoch", "top1_error": error} for error in (0.5, 0.25, 0.375)]
    run.log_path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run.monitored_error() == "last error on minival 37.50%, lowest 25.00%"
    kept = replace(run.config.train, keep_weights="best")
    best = replace(run, config=replace(run.config, train=kept))
    assert best.monitored_error() == "lowest error on minival 25.00%"
    run.summary_path.write_text('{"best_monitored_error": 0.25, "monitored_images": 8}')
    assert run.monitored_error() == "last error on minival 37.50% of 8 images, lowest 25.00%"
    assert best.monitored_error() == "lowest error on minival 25.00% of 8 images"
    run.summary_path.write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        run.summary()


def test_lines_leave_out_an_incomplete_last_one(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "none.jsonl") == []
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert read_lines(tmp_path / "log.jsonl") == [{"a": 1}, {"a": 2}]
