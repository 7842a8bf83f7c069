"""The journal of a training: it goes on as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinysight.config import Config
from tinysight.run import Run, read_lines
from tinysight.training.log import RunLogger


def _run(folder: Path) -> Run:
    return Run(folder=folder, config=Config(recipe="test"), data_digest="", machine={})


def _write(folder: Path, steps: range, *, step: int = 0, log_bytes: int = 0) -> int:
    journal = RunLogger(_run(folder), step=step, log_bytes=log_bytes)
    for number in steps:
        journal.write("train", number, {"loss": number / 3}, images_per_s=100.0)
    length = journal.sync()
    journal.close()
    return length


def test_what_a_checkpoint_does_not_know_of_is_written_anew(tmp_path: Path) -> None:
    whole, other = tmp_path / "whole", tmp_path / "other"
    for folder in (whole, other):
        folder.mkdir()
    _write(whole, range(1, 9))
    length = _write(other, range(1, 4))
    assert length == (other / "log.jsonl").stat().st_size
    _write(other, range(4, 7), step=3, log_bytes=length)
    _write(other, range(4, 9), step=3, log_bytes=length)
    assert (other / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    assert [line["step"] for line in read_lines(other / "log.jsonl")] == list(range(1, 9))


def test_the_clocks_file_goes_on_behind_a_line_cut_short_and_counts_all_sittings(
    tmp_path: Path,
) -> None:
    length = _write(tmp_path, range(1, 4))
    lines = [{"kind": "train", "step": step, "seconds": 100.0 * step} for step in range(1, 6)]
    for _ in range(3):  # killed again and again
        (tmp_path / "timing.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr'
        )
        _write(tmp_path, range(4, 6), step=3, log_bytes=length)
        found = read_lines(tmp_path / "timing.jsonl")
        assert [line["step"] for line in found] == [1, 2, 3, 4, 5]
        assert (
            found[3]["seconds"] >= 500.0
        )  # the time of steps that were lost is spent all the same


def test_a_log_shorter_than_the_checkpoint_says_is_refused(tmp_path: Path) -> None:
    length = _write(tmp_path, range(1, 4))
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"log\.jsonl is shorter"):
        _write(tmp_path, range(4, 6), step=3, log_bytes=length)


def test_a_cut_last_line_of_the_log_is_cut_off(tmp_path: Path) -> None:
    length = _write(tmp_path, range(1, 4))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    _write(tmp_path, range(4, 5), step=3, log_bytes=length)
    assert [line["step"] for line in read_lines(tmp_path / "log.jsonl")] == [1, 2, 3, 4]


def test_tensorboard_gets_the_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    length = _write(tmp_path, range(1, 6))
    _write(tmp_path, range(4, 9), step=3, log_bytes=length // 5 * 3)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {event.step: event.value for event in events.Scalars("train/loss")}
    assert sorted(found) == list(range(1, 9)) and found[6] == pytest.approx(2.0)
    assert "train/images_per_s" in events.Tags()["scalars"]


def test_a_damaged_line_of_the_clock_stops_no_training(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"")
    (tmp_path / "timing.jsonl").write_bytes(b"\x00\x00\n")
    journal = RunLogger(_run(tmp_path), step=0, log_bytes=0)
    journal.close()
    (tmp_path / "log.jsonl").write_bytes(b'{"kind": "train"}\n\x00\n')
    with pytest.raises(ValueError, match=r"log.jsonl, line 2, is damaged"):
        read_lines(tmp_path / "log.jsonl")
