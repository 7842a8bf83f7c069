"""Checkpoints are whole or refused: damage, crashes before every file operation, full disks, and
what is kept.
"""

from __future__ import annotations

import errno
import json
import os
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from tinysight.files import write_atomic
from tinysight.training import checkpoint
from tinysight.training.checkpoint import State, load, load_newest, prune, save, saved

Fork = Callable[[Callable[[], None]], int]


def _state(step: int, size: int = 3) -> State:
    generator = torch.Generator().manual_seed(step)
    return State(
        step=step,
        tensors={
            "model|weight": torch.randn(size, size, generator=generator),
            "model|count": torch.tensor(step),
            "random|0|cpu": torch.randint(0, 256, (16,), dtype=torch.uint8, generator=generator),
            "optimizer|weight|empty": torch.zeros(0, 2),
        },
        scalars={"step": step, "best_error": None, "rate": {"scale": 0.1}, "log_bytes": 10 * step},
    )


def _same(one: State, other: State) -> bool:
    return (
        (one.step, one.scalars) == (other.step, other.scalars)
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
        and all(value.dtype == other.tensors[name].dtype for name, value in one.tensors.items())
    )


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_state_comes_back_equal(tmp_path: Path) -> None:
    path = save(_state(7), tmp_path / "runs" / "checkpoints")
    assert path.name == "step-00000007" and _same(load(path), _state(7))
    assert _names(path) == ["manifest.json", "state.json", "state.safetensors"]


def test_tensors_in_any_layout_are_kept_by_value(tmp_path: Path) -> None:
    tensor = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tensors = {"a": tensor, "b": tensor[:, 1], "c": torch.nn.Parameter(tensor[0].mT)}
    found = load(save(State(step=1, tensors=tensors, scalars={}), tmp_path)).tensors
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_the_newest_is_loaded_by_number_not_by_name_or_age(tmp_path: Path) -> None:
    for step in (100_000_000, 9, 99_999_999, 10):
        save(_state(step), tmp_path)
    assert [path.name for path in saved(tmp_path)][-2:] == ["step-99999999", "step-100000000"]
    state, complaints = load_newest(tmp_path)
    assert state is not None and state.step == 100_000_000 and complaints == []


def test_where_nothing_was_saved_there_is_nothing(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "none") == (None, []) and saved(tmp_path / "none") == []
    (tmp_path / "step-00000001.tmp-77").mkdir()
    (tmp_path / "notes").mkdir()
    assert load_newest(tmp_path) == (None, [])


def test_a_state_saved_again_replaces_the_first(tmp_path: Path) -> None:
    save(_state(7), tmp_path)
    newer = State(step=7, tensors=_state(8).tensors, scalars={"step": 7})
    save(newer, tmp_path)
    assert _same(load(tmp_path / "step-00000007"), newer)
    prune(tmp_path, keep=2, best=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]


# ---------------------------------------------------------------- damage


def _flip(path: Path, position: int, mask: int) -> Callable[[], None]:
    content = bytearray(path.read_bytes())
    whole = bytes(content)
    content[position] ^= mask
    path.write_bytes(content)
    return lambda: (path.write_bytes(whole), None)[1]


@pytest.mark.parametrize("rounds", [60, pytest.param(500, marks=pytest.mark.reliability)])
def test_a_flipped_byte_is_refused_and_the_older_state_used(rounds: int, tmp_path: Path) -> None:
    older = _state(1)
    save(older, tmp_path)
    choices = random.Random(rounds)
    for number in range(rounds):
        newer = save(_state(2 + number, size=1 + number % 5), tmp_path)
        file = newer / ("manifest.json", "state.json", "state.safetensors")[number % 3]
        position = choices.randrange(file.stat().st_size)
        _flip(file, position, choices.randrange(1, 256))
        with pytest.raises(ValueError) as error:
            load(newer)
        message = str(error.value)
        assert str(newer) in message and "\n" not in message, (file.name, position)
        state, complaints = load_newest(tmp_path)
        assert state is not None and _same(state, older)
        assert len(complaints) == 1 and str(newer) in complaints[0]
        prune(tmp_path, keep=2, best=None)
    assert [path.name for path in saved(tmp_path)] == ["step-00000001"]


def test_every_byte_of_a_manifest_counts(tmp_path: Path) -> None:
    path = save(_state(100), tmp_path)
    manifest = path / "manifest.json"
    whole = manifest.read_bytes()
    step = whole.index(b"100")
    flips = [(position, 1 << position % 8) for position in range(0, len(whole), 3)]
    flips.append((step + 1, ord("0") ^ ord(".")))  # "step": 1.0
    flips.append((whole.index(b"\n"), ord("\n") ^ ord(" ")))  # the same JSON
    for position, mask in flips:
        restore = _flip(manifest, position, mask)
        with pytest.raises(ValueError, match="step-00000100"):
            load(path)
        restore()
    assert _same(load(path), _state(100))


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "state.safetensors"])
def test_a_missing_or_cut_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = save(_state(3), tmp_path)
    (path / name).write_bytes((path / name).read_bytes()[:-1])
    with pytest.raises(ValueError, match=name):
        load(path)
    (path / name).unlink()
    with pytest.raises(ValueError, match=name):
        load(path)


def test_a_state_under_another_steps_name_is_refused(tmp_path: Path) -> None:
    save(_state(3), tmp_path).rename(tmp_path / "step-00000004")
    with pytest.raises(ValueError, match="does not describe step-00000004"):
        load(tmp_path / "step-00000004")


def test_another_format_is_refused_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(_state(3), tmp_path)
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    with pytest.raises(ValueError, match="has format 1; this version reads format 99"):
        load(path)


def test_when_every_state_is_damaged_training_does_not_start_over_in_silence(
    tmp_path: Path,
) -> None:
    for step in (1, 2):
        (save(_state(step), tmp_path) / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no state .* is intact; remove it to train from"):
        load_newest(tmp_path)
    assert len(saved(tmp_path)) == 2


# ---------------------------------------------------------------- what is kept


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 8):
        save(_state(step), tmp_path)
    (tmp_path / "step-00000003.tmp-1").mkdir()
    prune(tmp_path, keep=2, best=3)
    assert [path.name[-1] for path in sorted(tmp_path.iterdir())] == ["3", "6", "7"]
    prune(tmp_path, keep=2, best=None)
    assert [path.name[-1] for path in sorted(tmp_path.iterdir())] == ["6", "7"]


def test_damaged_states_neither_push_good_ones_out_nor_stay(tmp_path: Path) -> None:
    for step in (1, 5, 9, 10):
        save(_state(step), tmp_path)
    for step in (9, 10):
        (tmp_path / f"step-{step:08d}" / "state.json").write_text("damaged")
    state, complaints = load_newest(tmp_path)
    assert state is not None and state.step == 5 and len(complaints) == 2
    assert len(list(tmp_path.glob("step-*.damaged"))) == 2  # until the next state is safe
    assert load_newest(tmp_path)[1] == []
    save(_state(12), tmp_path)
    prune(tmp_path, keep=2, best=1)
    assert _names(tmp_path) == ["step-00000001", "step-00000005", "step-00000012"]


# ---------------------------------------------------------------- crashes and full disks


class _Countdown:
    """Ends the process, as a power cut would, before its file operation of a given number."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.count = 0

    def __call__(self, tear: Callable[[], None] = lambda: None) -> None:
        self.count += 1
        if self.count == self.left:
            tear()
            os._exit(77)


def _saves(folder: Path) -> None:
    """Save a sequence of states as a training does, one of them again under its own name."""
    for step in (1, 2, 3, 3):
        save(_state(step), folder)
        prune(folder, keep=2, best=1)


_OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def _crash_before(
    fork: Fork, number: int, work: Callable[[], None], report: Path | None = None
) -> int:
    """Run `work` until before its operation `number`; half of what was not yet synced is lost."""

    def child() -> None:
        countdown = _Countdown(number)

        def fsync(descriptor: Any) -> None:
            def tear() -> None:
                with suppress(OSError):  # a folder
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)

            countdown(tear)

        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            if event in _OPERATIONS:
                countdown()

        os.fsync = fsync  # type: ignore[assignment]
        sys.addaudithook(audit)
        work()
        if report is not None:
            os.write(os.open(report, os.O_WRONLY | os.O_CREAT), str(countdown.count).encode())

    return os.waitstatus_to_exitcode(os.waitpid(fork(child), 0)[1])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux")
def test_a_crash_before_any_file_operation_leaves_an_older_or_the_newer_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork: Fork
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and no power is cut here
    report = tmp_path / "count"
    assert _crash_before(fork, 0, lambda: _saves(tmp_path / "whole"), report) == 0
    num_operations = int(report.read_text()) - 1  # the report is the last one
    assert num_operations >= 45

    reached = 0
    for number in range(1, num_operations + 1):
        folder = tmp_path / f"crash-{number}"
        assert _crash_before(fork, number, lambda folder=folder: _saves(folder)) == 77  # type: ignore[misc]
        state, complaints = load_newest(folder)
        assert complaints == [], number  # nothing broken ever had a final name
        step = 0 if state is None else state.step
        assert step >= reached, number  # what was once there is not lost again
        reached = step
        if state is not None:
            assert _same(state, _state(step))
        _saves(folder)  # and the next ones find nothing in their way
        assert [int(path.name[5:]) for path in saved(folder)] == [1, 2, 3]
        assert len(list(folder.iterdir())) == 3
    assert reached == 3


@pytest.mark.parametrize("part", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("again", [False, True])
def test_a_full_disk_leaves_earlier_states_and_nothing_else(
    part: str, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(_state(1), tmp_path)
    save(_state(2), tmp_path)
    real = os.fsync

    def full(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        save(_state(2 if again else 3), tmp_path)
    assert error.value.errno == errno.ENOSPC and str(error.value.filename).endswith(part)
    assert _names(tmp_path) == ["step-00000001", "step-00000002"]
    assert all(_same(load(tmp_path / f"step-{step:08d}"), _state(step)) for step in (1, 2))


def test_a_rename_that_fails_gives_the_old_state_its_name_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(_state(2), tmp_path)
    real = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if ".tmp-old-" not in self.name and ".tmp-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        save(_state(2), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    assert _same(load(tmp_path / "step-00000002"), _state(2))


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"

    def full(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, json.dumps({"a": 1}).encode())
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
