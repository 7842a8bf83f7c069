"""Building datasets: what goes in comes out, and no fault in between leaves anything wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinysight.data import build as module
from tinysight.data import decode
from tinysight.data.build import build, check_index
from tinysight.data.dataset import Dataset, DatasetIndex, open_dataset

Toys = Callable[..., Any]
Leftovers = Callable[[Path], list[str]]
SIZE = 4


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give several workers something to do, without the cost of a fresh interpreter."""
    monkeypatch.setattr(decode, "CHUNK_ROWS", 2)
    monkeypatch.setattr(decode, "_safe_start_method", lambda: "fork")


def decode_most(row: int) -> np.ndarray:
    if row in (1, 4, 8):
        raise ValueError(f"{row}.png: not an image")
    return np.full((SIZE, SIZE, 3), row, np.uint8)


def decode_none(row: int) -> np.ndarray:
    raise ValueError(f"{row}.png: broken")


def test_what_is_built_is_read(tmp_path: Path, toys: Toys, leftovers: Leftovers) -> None:
    steps: list[tuple[int, int]] = []
    built = build(toys(), home=tmp_path, progress=lambda *step: steps.append(step))
    opened = open_dataset("toys", home=tmp_path)
    assert (opened.path, opened.digest) == (built.path, built.digest)
    assert opened.images.tolist() == [[[[row] * 3] * SIZE] * SIZE for row in range(10)]
    assert not opened.images.flags.writeable and not opened.labels.flags.writeable
    assert opened.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, -1, -1]
    assert opened.files[3] == "3.png" and opened.class_ids == ("a", "b")
    assert opened.class_names == ("cat's cradle", "狗")
    assert opened.boxes_of(2).tolist() == [[0, 1, 2, 3.5]] and opened.boxes_of(3).shape == (0, 4)
    assert opened.boxes.dtype == np.float32 and opened.box_labels.tolist() == [0] * 5
    assert len(opened) == 10 and opened.notes == ("drawn",) and opened.manifest["extra"]["words"]
    assert opened.digests[7].tobytes() == hashlib.sha256(bytes([7] * 48)).digest()
    assert steps[-1] == (10, 10)
    assert opened.verify() == ()
    assert leftovers(tmp_path) == ["toys"]
    images = np.load(tmp_path / "toys" / "images.npy")  # plain numpy reads it
    assert images.shape == (10, SIZE, SIZE, 3)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn", None])
def test_every_start_method_builds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: Toys, method: str | None
) -> None:
    alone = build(toys(200), home=tmp_path / "alone", workers=1)
    monkeypatch.setattr(decode, "CHUNK_ROWS", 16)
    monkeypatch.setattr(decode, "WRITE_BYTES", 5 * SIZE * SIZE * 3)  # several writes per task
    if method is not None:
        monkeypatch.setattr(decode, "_safe_start_method", lambda: method)
    together = build(toys(200), home=tmp_path / "together", workers=2)
    assert together.digest == alone.digest
    one, two = ((tmp_path / name / "toys" / "images.npy") for name in ("alone", "together"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("system", ["short writes", "no pwritev", "no fallocate"])
def test_writes_everything_whatever_the_system_offers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: Toys, system: str
) -> None:
    if system == "no fallocate":
        monkeypatch.delattr(os, "posix_fallocate")
    elif system == "no pwritev":
        monkeypatch.delattr(os, "pwritev")
    else:
        monkeypatch.setattr(
            os, "pwritev", lambda file, parts, at: os.pwrite(file, parts[0][:7], at)
        )
    write, most = os.pwrite, 50
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[:most], at))
    assert build(toys(), home=tmp_path, workers=1).verify() == ()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("workers", [1, 2])
def test_builds_without_posix_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: Toys, workers: int
) -> None:
    for name in ("pread", "pwrite", "pwritev", "posix_fallocate", "fstatvfs", "sched_getaffinity"):
        monkeypatch.delattr(os, name)
    monkeypatch.delattr(signal, "pthread_sigmask")
    source = toys(200, decode=decode_most)
    built = build(source, home=tmp_path, workers=workers, on_unreadable="skip")
    assert len(built) == 197 and built.verify() == () and decode.usable_cores() >= 1


def test_does_not_fork_next_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "torch", pytest)
    assert decode._safe_start_method() == "forkserver"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert decode._safe_start_method() == "spawn"


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_images_stop_the_build_by_name(
    tmp_path: Path, toys: Toys, leftovers: Leftovers, workers: int
) -> None:
    reasons = "; ".join(f"{row}.png: not an image" for row in (1, 4, 8))
    with pytest.raises(ValueError, match=f"cannot read {reasons}; repair"):
        build(toys(decode=decode_most), home=tmp_path, workers=workers)
    assert leftovers(tmp_path) == []


def test_unreadable_images_are_left_out_and_listed(tmp_path: Path, toys: Toys) -> None:
    built = build(toys(decode=decode_most), home=tmp_path, on_unreadable="skip")
    kept = [0, 2, 3, 5, 6, 7, 9]
    assert built.images[:, 0, 0, 0].tolist() == kept
    assert built.files == tuple(f"{row}.png" for row in kept)
    assert built.labels.tolist() == [0, 0, 1, 1, 0, 1, -1]
    assert built.splits == {"train": (0, 3), "minival": (3, 4), "val": (4, 6), "test": (6, 7)}
    assert built.boxes_of(1).tolist() == [[0, 1, 2, 3.5]] and len(built.boxes) == 3
    assert built.boxes_of(2).size == 0 and built.verify() == ()
    assert "3 unreadable images left out" in built.notes
    assert "left out: 4.png: not an image" in built.notes


def test_what_was_unreadable_is_tried_again(
    tmp_path: Path, toys: Toys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tinysight")
    partial = build(toys(decode=decode_most), home=tmp_path, on_unreadable="skip")
    again = build(toys(decode=decode_most), home=tmp_path, on_unreadable="skip")
    assert again.digest == partial.digest and len(again) == 7
    with pytest.raises(ValueError, match="cannot read"):
        build(toys(decode=decode_most), home=tmp_path)
    assert len(build(toys(), home=tmp_path)) == 10
    assert caplog.messages[-1] == "toys: lacks images that could not be read; preparing it again"


def test_to_replace_always_builds(tmp_path: Path, toys: Toys) -> None:
    assert build(toys(), home=tmp_path).images[3, 0, 0, 0] == 3
    black = toys(decode=lambda row: np.zeros((4, 4, 3), np.uint8))
    assert build(black, home=tmp_path, workers=1).images[3, 0, 0, 0] == 3
    assert build(black, home=tmp_path, workers=1, replace=True).images[3, 0, 0, 0] == 0


def test_stops_after_a_few_unreadable_images(tmp_path: Path, toys: Toys) -> None:
    asked = []

    def decode_nothing(row: int) -> np.ndarray:
        asked.append(row)
        raise ValueError(f"{row}.png: broken")

    with pytest.raises(ValueError, match=r"cannot read 0.png: broken; .*; and \d+ more"):
        build(toys(2000, decode=decode_nothing), home=tmp_path, workers=1)
    assert len(asked) < 1000


def test_a_source_with_nothing_readable_is_an_error(
    tmp_path: Path, toys: Toys, leftovers: Leftovers
) -> None:
    with pytest.raises(
        ValueError, match=r"none of 10 images is readable; the first: 0.png: broken"
    ):
        build(toys(decode=decode_none), home=tmp_path, on_unreadable="skip")
    assert leftovers(tmp_path) == []


def copies(toys: Toys, of: dict[int, int], **changes: object) -> Any:
    """Make toys of which some images are copies of others."""
    source = toys(**changes)
    fill = source.decode
    source.decode = lambda row: fill(of.get(row, row))
    return source


def test_duplicates_are_reported(tmp_path: Path, toys: Toys) -> None:
    # Labels 0/1/0; 1/0 and test; minival/val, both 1
    built = build(copies(toys, {1: 0, 2: 0, 4: 3, 9: 3, 7: 5}), home=tmp_path)
    assert built.manifest["duplicates"] == [
        {"files": ["0.png", "1.png", "2.png"], "labels": ["a", "b", "a"], "splits": ["train"] * 3},
        {
            "files": ["3.png", "4.png", "9.png"],
            "labels": ["b", "a", None],
            "splits": ["train", "train", "test"],
        },
        {"files": ["5.png", "7.png"], "labels": ["b", "b"], "splits": ["minival", "val"]},
    ]
    assert [note.partition(" (")[0] for note in built.notes] == [
        "drawn",
        "2 groups of identical images with different labels",
        "2 groups of identical images in several splits",
    ]


def test_harmless_duplicates_are_not_reported(tmp_path: Path, toys: Toys) -> None:
    same_label = build(copies(toys, {2: 0}), home=tmp_path)
    assert same_label.manifest["duplicates"] == [] and same_label.notes == ("drawn",)
    labels = toys().index.labels.copy()
    labels[0] = -1
    unlabeled = build(copies(toys, {0: 1}, name="two", labels=labels), home=tmp_path)
    assert unlabeled.manifest["duplicates"] == []


@pytest.mark.parametrize("name", ["../toys", ".toys", "", " a", "a/b", "-x", "a\nb"])
def test_impossible_names_are_refused(tmp_path: Path, toys: Toys, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be named"):
        build(toys(name=name), home=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: {"image_size": 0}, "image_size is 0"),
        (lambda _: {"class_ids": ("a",)}, "differ in number"),
        (lambda _: {"class_names": ("cat", "cat")}, "class name 'cat' is repeated"),
        (lambda good: {"files": ("0.png", *good.files[:-1])}, "file '0.png' is repeated"),
        (lambda _: {"splits": {"train": (0, 9)}}, "do not cover rows 0 to 10"),
        (lambda _: {"splits": {"train": (0, 6), "val": (5, 10)}}, "do not cover"),
        (lambda _: {"splits": {"val": (0, 5), "train": (5, 10)}}, "in this order"),
        (lambda _: {"splits": {"train": (0, 5), "valid": (5, 10)}}, "splits must be from"),
        (lambda _: {"splits": {}}, "do not cover"),
        (lambda good: {"labels": good.labels[:-1]}, r"int64 \(9,\), expected int64 \(10,\)"),
        (lambda good: {"labels": good.labels.astype(np.int32)}, "labels is int32"),
        (lambda good: {"labels": good.labels + 1}, r"labels\[\[1\]\] is \[2\], expected -1 to 1"),
        (lambda good: {"box_labels": good.box_labels - 1}, "box_labels"),
        (lambda good: {"boxes": good.boxes[:, [2, 1, 0, 3]]}, "of 0.png is empty, inverted or"),
        (lambda good: {"boxes": good.boxes * np.float32(np.nan)}, "empty, inverted or outside"),
        (lambda good: {"boxes": good.boxes + 2}, "outside the image"),
        (lambda good: {"box_offsets": good.box_offsets[::-1].copy()}, "must rise from 0 to 5"),
        (lambda good: {"box_offsets": np.minimum(good.box_offsets, 4)}, "must rise"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(
    toys: Toys, change: Callable[[DatasetIndex], dict[str, object]], message: str
) -> None:
    good = toys().index
    check_index("toys", good)
    with pytest.raises(ValueError, match=message):
        check_index("toys", toys(**change(good)).index)


ORIGIN = {"kind": "toys", "path": "here", "fingerprint": "7", "settings": {"size": 4}}


class Unread:
    """A source whose dataset exists: nothing of it may be read."""

    name = "toys"

    def __init__(self, origin: dict[str, object]) -> None:
        self.origin = origin

    def __getattr__(self, name: str) -> None:
        pytest.fail(f"{name} was read, and the dataset is there already")


def test_a_second_build_does_no_work_even_in_a_read_only_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: Toys
) -> None:
    built = build(toys(origin=ORIGIN), home=tmp_path)
    assert built.manifest["source"] == ORIGIN
    monkeypatch.setattr(module.filelock, "FileLock", lambda _: pytest.fail("locked"))
    assert build(Unread(ORIGIN), home=tmp_path).digest == built.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": "8"}, "toys: changed since it was prepared;"),
        ({"settings": {"size": 5}}, "toys: was prepared with other settings or labels;"),
    ],
)
def test_a_changed_source_is_logged_and_built_again(
    tmp_path: Path,
    toys: Toys,
    leftovers: Leftovers,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, object],
    said: str,
) -> None:
    caplog.set_level("INFO", "tinysight")
    old = build(toys(origin=ORIGIN), home=tmp_path)
    new = build(toys(12, origin=ORIGIN | change), home=tmp_path)
    assert len(new) == 12 and len(caplog.messages) == 1
    assert caplog.messages[0].startswith(said)
    assert old.labels.shape == (12,)  # the path now leads to the new one
    assert leftovers(tmp_path) == ["toys"]


def test_another_source_needs_another_name_or_replace(tmp_path: Path, toys: Toys) -> None:
    build(toys(origin=ORIGIN), home=tmp_path)
    other = {"kind": "toys", "path": "there", "fingerprint": "8"}
    with pytest.raises(
        ValueError, match=r"another source \(here, not there\); choose another name"
    ):
        build(Unread(other), home=tmp_path)
    assert len(build(toys(12, origin=other), home=tmp_path, replace=True)) == 12


def test_a_damaged_dataset_is_built_again(
    built: Dataset, tmp_path: Path, toys: Toys, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "toys" / "labels.npy").write_bytes(b"?")
    assert build(toys(), home=tmp_path).digest == built.digest
    assert "labels.npy is damaged" in caplog.messages[0]


def test_nothing_but_a_dataset_is_replaced(tmp_path: Path, toys: Toys) -> None:
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "diary.txt").write_text("dear diary")
    with pytest.raises(ValueError, match="exists and is not a dataset"):
        build(toys(), home=tmp_path, replace=True)
    assert (tmp_path / "toys" / "diary.txt").exists()


def test_the_digest_is_of_the_content_not_of_the_source(tmp_path: Path, toys: Toys) -> None:
    other = {"kind": "zip", "path": "elsewhere", "fingerprint": "2"}
    one = build(toys(), home=tmp_path / "one")
    two = build(toys(origin=other), home=tmp_path / "two")
    three = build(copies(toys, {1: 0}), home=tmp_path / "three")
    assert one.digest == two.digest != three.digest


@pytest.mark.parametrize(
    ("stage", "code", "said"),
    [
        ("reserve", errno.ENOSPC, "disk of .* is full: toys needs about .* GB"),
        ("small file", errno.ENOSPC, "disk of .* is full: toys needs about .* GB"),
        ("reserve", errno.EFBIG, r"cannot hold a file as large as the images of toys: .*ulimit"),
    ],
)
def test_a_full_disk_is_one_clear_line(
    built: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    toys: Toys,
    leftovers: Leftovers,
    stage: str,
    code: int,
    said: str,
) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    where = (os, "posix_fallocate") if stage == "reserve" else (module, "write_durable")
    monkeypatch.setattr(*where, full)
    with pytest.raises(ValueError, match=said):
        build(toys(12, origin=ORIGIN), home=tmp_path, replace=True)
    assert leftovers(tmp_path) == ["toys"]  # the old one
    assert open_dataset("toys", home=tmp_path).digest == built.digest


def test_an_impossible_home_is_one_clear_line(tmp_path: Path, toys: Toys) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write in .*set TINYSIGHT_DATA"):
        build(toys(), home=tmp_path / "file" / "home")


def kill_at_7(row: int) -> np.ndarray:
    if row == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full((SIZE, SIZE, 3), row, np.uint8)


def wrong_shape(row: int) -> np.ndarray:
    return np.zeros((SIZE, SIZE), np.uint8)


@pytest.mark.usefixtures("small_chunks")
def test_a_killed_worker_is_an_error_not_a_hang(
    tmp_path: Path, toys: Toys, leftovers: Leftovers
) -> None:
    with pytest.raises(ChildProcessError, match=r"a decoding process died.*fewer workers"):
        build(toys(200, decode=kill_at_7), home=tmp_path, workers=2)
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_wrong_decode_is_an_error_of_the_program(
    tmp_path: Path, toys: Toys, leftovers: Leftovers, workers: int
) -> None:
    with pytest.raises(TypeError, match=r"returned uint8 \(4, 4\), expected uint8 \(4, 4, 3\)"):
        build(toys(decode=wrong_shape), home=tmp_path, workers=workers)
    assert leftovers(tmp_path) == []


def test_leftovers_of_killed_processes_are_removed_or_finished(
    built: Dataset, tmp_path: Path, toys: Toys, leftovers: Leftovers
) -> None:
    build(toys(name="toys2"), home=tmp_path)
    (tmp_path / "toys").rename(tmp_path / ".toys.old-1")  # killed between the two renames
    for name in (".toys.tmp-1", ".toys.tmp-22", ".toys2.tmp-1"):
        (tmp_path / name).mkdir()
    assert build(Unread(toys().origin), home=tmp_path).digest == built.digest
    assert leftovers(tmp_path) == [".toys2.tmp-1", "toys", "toys2"]  # another name, another lock


def test_a_crash_between_the_two_renames_keeps_the_old_dataset(
    built: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    toys: Toys,
    leftovers: Leftovers,
) -> None:
    rename = Path.rename

    def crash(self: Path, target: Path) -> Path:
        if ".tmp-" in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        build(toys(12, origin=ORIGIN), home=tmp_path, replace=True)
    assert build(Unread(toys().origin), home=tmp_path).digest == built.digest
    assert leftovers(tmp_path) == ["toys"]


def test_a_script_without_main_guard_builds_in_workers(tmp_path: Path) -> None:
    """torch makes the workers new processes, which must not run the script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from tinysight.data.build import build\n"
        "from tinysight.data.shapes import Shapes\n"
        "shapes = Shapes(num_train=600, num_minival=0, num_val=0, num_test=0, image_size=32)\n"
        "print(len(build(shapes, home=Path(sys.argv[1]), workers=2)), __file__)\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stdout.split()) == (0, ["600", str(script)]), done.stderr
