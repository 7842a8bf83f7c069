"""The file of corrections: what was confirmed stays, what was cut short does not count."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinysight.corrections import (
    BoxCorrection,
    Correction,
    LabeledBox,
    append_corrections,
    current_boxes,
    current_labels,
    read_corrections,
)

A, B = "a" * 64, "b" * 64


def line(digest: str, new: str | None, old: str | None = None) -> Correction:
    return Correction(digest, "x/ü.png", old, new, "2026-11-28T09:00:00+00:00")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "corrections.jsonl"
    append_corrections(path, [line(A, "cat"), line(B, "dög\n")])
    return path


def test_later_lines_count_and_undone_ones_do_not(path: Path) -> None:
    append_corrections(path, [line(A, "dog", "cat"), line(B, None, "dög\n")])
    found = read_corrections(path)
    assert len(found) == 4 and found[1] == line(B, "dög\n")
    assert current_labels(found) == {A: "dog"}
    assert path.read_bytes().count(b"\n") == 4
    assert read_corrections(path.with_name("none")) == ()


def test_boxes_and_labels_are_apart(path: Path) -> None:
    box = LabeledBox((1, 2, 3.5, 4), "dog")
    given = [(A, (box,)), (B, (box,)), (A, ()), (B, None), ("c" * 64, (box, LabeledBox(box.box)))]
    lines = [BoxCorrection(d, "x", None, None, "", boxes) for d, boxes in given]
    append_corrections(path, lines)
    found = read_corrections(path)
    assert list(found[2:]) == lines
    assert current_labels(found) == {A: "cat", B: "dög\n"}
    assert current_boxes(found) == {A: (), "c" * 64: lines[-1].boxes}
    content = path.read_bytes()
    many = tuple(LabeledBox(box.box, "é" * 80) for _ in range(200))
    with pytest.raises(ValueError, match="give fewer boxes"):
        append_corrections(path, [BoxCorrection(A, "x", None, None, "", many)])
    assert path.read_bytes() == content


@pytest.mark.parametrize("cut", [1, 30, 120])
def test_a_torn_last_line_is_left_out_and_removed(path: Path, cut: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content + content[:-1][-150:][:cut] + b"\0" * (cut == 30))
    assert len(read_corrections(path)) == 2
    append_corrections(path, [line(A, None)])
    assert [each.new for each in read_corrections(path)] == ["cat", "dög\n", None]
    assert path.read_bytes().startswith(content)


def test_a_last_line_without_its_end_is_kept(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    append_corrections(path, [line(A, None)])
    assert [each.new for each in read_corrections(path)] == ["cat", "dög\n", None]


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_full_disk_leaves_the_file_as_it_was(
    path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write = path.read_bytes(), os.write

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def short(descriptor: int, content: bytes) -> int:
        monkeypatch.setattr(os, "write", fail)
        return write(descriptor, content[:10])

    monkeypatch.setattr(os, step, short if step == "write" else fail)
    with pytest.raises(OSError, match=r"No space left on device: .*corrections"):
        append_corrections(path, [line(A, "dog")])
    monkeypatch.undo()
    assert path.read_bytes() == before


def test_every_line_is_on_the_disk_before_it_is_confirmed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    append_corrections(path, [line(A, "dog")])
    assert synced == [path.stat().st_size]


@pytest.mark.parametrize(
    "bad",
    [
        "{}",
        "no",
        '["a"]',
        f'{{"sha256": "{A}", "new": 3}}',
        '{"new":1}',
        f'{{"sha256": "{A}", "new": "cat", "boxes": [{{"box": [1, 2, 3, Infinity]}}]}}',
    ],
)
def test_a_damaged_line_is_named(path: Path, bad: str) -> None:
    path.write_bytes(bad.encode() + b"\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"line 1 of .* is not a correction"):
        read_corrections(path)


WRITER = """
import sys
from pathlib import Path
from tinysight.corrections import Correction, append_corrections
for number in range(10000):
    lines = [Correction(f"{number:064x}", "x.png", None, str(part)) for part in range(3)]
    append_corrections(Path(sys.argv[1]), lines)
    print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    path = tmp_path / "corrections.jsonl"
    words = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 20:
            pass
        writer.kill()
        confirmed = 21 + len(writer.stdout.read().split())
    found = read_corrections(path)
    assert [int(line.sha256, 16) for line in found[: 3 * confirmed : 3]] == list(range(confirmed))
