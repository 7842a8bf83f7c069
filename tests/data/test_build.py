"""The pack store: what goes in comes out, and nothing that can happen in between leaves something
wrong.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tinysight
from tinysight.data import build, decoding, index
from tinysight.data.build import Dataset, DatasetIndex, open_dataset, prepare, write_pack

SIZE = 4
decode = functools.partial(
    np.full, (SIZE, SIZE, 3), dtype=np.uint8
)  # row i is all i; importable under any start method


def make_listing(num: int = 10, **changes: object) -> DatasetIndex:
    """Three splits, two classes, on even rows one box."""
    labels = np.arange(num) % 2
    labels[-2:] = -1
    boxed = np.arange(num) % 2 == 0
    made = DatasetIndex(
        name="toys",
        image_size=SIZE,
        class_names=("cat's cradle", "狗"),
        class_ids=("a", "b"),
        splits={
            "train": (0, num - 5),
            "minival": (num - 5, num - 4),
            "val": (num - 4, num - 2),
            "test": (num - 2, num),
        },
        files=tuple(f"{row}.png" for row in range(num)),
        labels=labels.astype(np.int64),
        boxes=np.array([[0, 1, 2, row % 3 + 1.5] for row in range(num) if boxed[row]], np.float32),
        box_labels=np.zeros(boxed.sum(), np.int64),
        box_offsets=np.concatenate([[0], np.cumsum(boxed)]).astype(np.int64),
        source={"kind": "toys", "path": "", "fingerprint": "1"},
        notes=("drawn",),
        extra={"words": {"a": "cat's cradle, game"}},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def decode_most(row: int) -> np.ndarray:
    if row in (1, 4, 8):
        raise ValueError(f"{row}.png: no image")
    return decode(row)


def leftovers(home: Path) -> list[str]:
    return sorted(entry.name for entry in home.iterdir() if not entry.name.endswith(".lock"))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    made = write_pack(
        make_listing(), decode, home=tmp_path, progress=lambda *step: steps.append(step)
    )
    opened = open_dataset("toys", home=tmp_path)
    assert opened == made
    assert opened.images.tolist() == np.stack([decode(row) for row in range(10)]).tolist()
    assert not opened.images.flags.writeable and not opened.labels.flags.writeable
    assert opened.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, -1, -1]
    assert (
        opened.files[3] == "3.png"
        and opened.class_names == ("cat's cradle", "狗")
        and opened.class_ids == ("a", "b")
    )
    assert opened.boxes_of(2).tolist() == [[0, 1, 2, 3.5]] and opened.boxes_of(3).shape == (0, 4)
    assert opened.boxes.dtype == np.float32 and opened.box_labels.tolist() == [0] * 5
    assert len(opened) == 10 and opened.notes == ("drawn",) and opened.manifest["extra"]["words"]
    assert opened.digests[7].tobytes() == hashlib.sha256(decode(7).tobytes()).digest()
    assert steps[-1] == (10, 10)
    assert opened.verify() == ()
    assert leftovers(tmp_path) == ["toys"]
    assert np.load(tmp_path / "toys" / "images.npy").shape == (
        10,
        SIZE,
        SIZE,
        3,
    )  # plain numpy reads it


def test_rows_of_splits(made: Dataset) -> None:
    assert made.rows("train") == range(5) and made.rows("test") == range(8, 10)
    assert made.rows("train+minival") == range(6) == made.rows("minival+train")
    with pytest.raises(
        ValueError, match=r"toys has no split 'valid'; it has train, minival, val, test"
    ):
        made.rows("valid")
    with pytest.raises(ValueError, match="side by side"):
        made.rows("train+val")


def test_pickles_small_after_use(tmp_path: Path) -> None:
    made = write_pack(make_listing(200), decode, home=tmp_path)
    assert made.images[5].max() == 5
    frozen = pickle.dumps(made)
    assert len(frozen) < 3000
    assert pickle.loads(frozen).images[5].max() == 5


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn", None])
def test_every_way_of_working_makes_the_same_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str | None
) -> None:
    alone = write_pack(make_listing(200), decode, home=tmp_path / "alone", workers=1)
    monkeypatch.setattr(decoding, "CHUNK_ROWS", 16)
    monkeypatch.setattr(
        decoding, "WRITE_BYTES", 5 * SIZE * SIZE * 3
    )  # several writes a task, the last one shorter
    if method is not None:
        monkeypatch.setattr(decoding, "_safe_start_method", lambda: method)
    together = write_pack(make_listing(200), decode, home=tmp_path / "together", workers=2)
    assert together.digest == alone.digest
    assert (together.path / "images.npy").read_bytes() == (alone.path / "images.npy").read_bytes()


@pytest.mark.parametrize("system", ["short writes", "no pwritev"])
def test_writes_whole_chunks_whatever_the_system_takes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    if system == "no pwritev":
        monkeypatch.delattr(os, "pwritev")
    else:
        monkeypatch.setattr(
            os, "pwritev", lambda file, images, at: os.pwrite(file, images[0][:7], at)
        )
    write, most = os.pwrite, 50
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[:most], at))
    assert write_pack(make_listing(), decode, home=tmp_path, workers=1).verify() == ()


def test_does_not_fork_beside_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "torch", pytest)
    assert decoding._safe_start_method() == "forkserver"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert decoding._safe_start_method() == "spawn"


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_images_stop_the_work_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(decoding, "CHUNK_ROWS", 2)
    monkeypatch.setattr(decoding, "_safe_start_method", lambda: "fork")
    with pytest.raises(
        ValueError, match=r"cannot read 1.png: no image; 4.png: no image; 8.png: no image; mend"
    ):
        write_pack(make_listing(), decode_most, home=tmp_path, workers=workers)
    assert leftovers(tmp_path) == []


def test_unreadable_images_are_left_out_and_listed(tmp_path: Path) -> None:
    made = write_pack(make_listing(), decode_most, home=tmp_path, on_unreadable="skip")
    kept = [0, 2, 3, 5, 6, 7, 9]
    assert made.images[:, 0, 0, 0].tolist() == kept
    assert made.files == tuple(f"{row}.png" for row in kept)
    assert made.labels.tolist() == [0, 0, 1, 1, 0, 1, -1]
    assert made.splits == {"train": (0, 3), "minival": (3, 4), "val": (4, 6), "test": (6, 7)}
    assert (
        made.boxes_of(1).tolist() == [[0, 1, 2, 3.5]]
        and made.boxes_of(2).size == 0
        and len(made.boxes) == 3
    )
    assert made.verify() == ()
    assert (
        "3 unreadable images were left out" in made.notes
        and "left out: 4.png: no image" in made.notes
    )


def test_gives_up_after_a_few_unreadable_images(tmp_path: Path) -> None:
    asked = []

    def nothing(row: int) -> np.ndarray:
        asked.append(row)
        raise ValueError(f"{row}.png: broken")

    with pytest.raises(ValueError, match=r"cannot read 0.png: broken; .*; and \d+ more"):
        write_pack(make_listing(2000), nothing, home=tmp_path, workers=1)
    assert len(asked) < 1000


def test_a_source_with_nothing_readable_is_an_error(tmp_path: Path) -> None:
    def nothing(row: int) -> np.ndarray:
        raise ValueError(f"{row}: broken")

    with pytest.raises(
        ValueError, match="all of the 10 are unreadable images; the first: 0: broken"
    ):
        write_pack(make_listing(), nothing, home=tmp_path, on_unreadable="skip")
    assert leftovers(tmp_path) == []


def test_duplicates_are_reported(tmp_path: Path) -> None:
    twin_of = {
        1: 0,
        2: 0,
        4: 3,
        9: 3,
        5: 5,
        7: 5,
    }  # labels 0/1/0; 1/0 and test; minival/val, both 1
    made = write_pack(make_listing(), lambda row: decode(twin_of.get(row, row)), home=tmp_path)
    assert made.manifest["duplicates"] == [
        {"files": ["0.png", "1.png", "2.png"], "labels": ["a", "b", "a"], "splits": ["train"] * 3},
        {
            "files": ["3.png", "4.png", "9.png"],
            "labels": ["b", "a", None],
            "splits": ["train", "train", "test"],
        },
        {"files": ["5.png", "7.png"], "labels": ["b", "b"], "splits": ["minival", "val"]},
    ]
    assert (
        "2 groups of identical images carry different labels (manifest: duplicates)" in made.notes
    )
    assert (
        "2 groups of identical images lie in more than one split (manifest: duplicates)"
        in made.notes
    )


def test_harmless_duplicates_are_not(tmp_path: Path) -> None:
    made = write_pack(make_listing(), lambda row: decode(0 if row == 2 else row), home=tmp_path)
    assert made.manifest["duplicates"] == [] and made.notes == ("drawn",)


def test_an_image_without_a_label_contradicts_none(tmp_path: Path) -> None:
    labels = good.labels.copy()
    labels[0] = -1
    made = write_pack(make_listing(labels=labels), lambda row: decode(max(row, 1)), home=tmp_path)
    assert made.manifest["duplicates"] == []


good = make_listing()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../toys"}, "cannot be named"),
        ({"name": ".toys"}, "cannot be named"),
        ({"name": ""}, "cannot be named"),
        ({"image_size": 0}, "image_size is 0"),
        ({"class_ids": ("a",)}, "differ in number"),
        ({"class_names": ("cat", "cat")}, "class name 'cat' comes twice"),
        ({"files": ("0.png", *good.files[:-1])}, "file '0.png' comes twice"),
        ({"splits": {"train": (0, 9)}}, "do not cover rows 0..10"),
        ({"splits": {"train": (0, 6), "val": (5, 10)}}, "do not cover"),
        ({"splits": {"val": (0, 5), "train": (5, 10)}}, "in order"),
        ({"splits": {"train": (0, 5), "valid": (5, 10)}}, "splits must be of"),
        ({"splits": {}}, "do not cover"),
        ({"labels": good.labels[:-1]}, r"labels is int64 \(9,\), expected int64 \(10,\)"),
        ({"labels": good.labels.astype(np.int32)}, "labels is int32"),
        ({"labels": good.labels + 1}, r"labels\[\[1\]\] is \[2\], expected -1..1"),
        ({"box_labels": good.box_labels - 1}, "box_labels"),
        ({"boxes": good.boxes[:, [2, 1, 0, 3]]}, "of 0.png is empty, inverted or outside"),
        ({"boxes": good.boxes * np.float32(np.nan)}, "empty, inverted or outside"),
        ({"boxes": good.boxes + 2}, "outside the image"),
        ({"box_offsets": good.box_offsets[::-1].copy()}, "box_offsets must rise from 0 to 5"),
        ({"box_offsets": np.minimum(good.box_offsets, 4)}, "box_offsets must rise"),
    ],
)
def test_a_listing_that_contradicts_itself_is_refused(
    changes: dict[str, object], message: str
) -> None:
    index.check_index(good)
    with pytest.raises(ValueError, match=message):
        index.check_index(make_listing(**changes))


def no_work() -> tuple[DatasetIndex, build.Decode]:
    raise AssertionError("the pack was there already")


def test_a_second_call_does_no_work(tmp_path: Path) -> None:
    source = {"kind": "toys", "path": "here", "fingerprint": "7", "settings": {"size": 4}}
    made = prepare("toys", lambda: (make_listing(), decode), source, home=tmp_path)
    assert made.manifest["source"] == source
    assert prepare("toys", no_work, source, home=tmp_path) == made


@pytest.mark.parametrize("change", [{"fingerprint": "8"}, {"settings": {"size": 5}}])
def test_a_changed_source_is_said_and_prepared_anew(
    tmp_path: Path, change: dict[str, object]
) -> None:
    source = {"kind": "toys", "path": "here", "fingerprint": "7", "settings": {"size": 4}}
    old = prepare("toys", lambda: (make_listing(), decode), source, home=tmp_path)
    said: list[str] = []
    new = prepare(
        "toys", lambda: (make_listing(12), decode), source | change, home=tmp_path, say=said.append
    )
    assert len(new) == 12 and len(said) == 1 and "changed since it was prepared" in said[0]
    assert old.labels.shape == (12,)  # the path now leads to the new one
    assert leftovers(tmp_path) == ["toys"]


def test_another_source_needs_another_name_or_a_word(tmp_path: Path) -> None:
    source = {"kind": "toys", "path": "here", "fingerprint": "7"}
    prepare("toys", lambda: (make_listing(), decode), source, home=tmp_path)
    other = {"kind": "toys", "path": "there", "fingerprint": "8"}
    with pytest.raises(
        ValueError, match=r"made from another source \(here, not there\); choose another name"
    ):
        prepare("toys", no_work, other, home=tmp_path)
    made = prepare("toys", lambda: (make_listing(12), decode), other, home=tmp_path, replace=True)
    assert len(made) == 12


def test_a_damaged_pack_is_prepared_anew(tmp_path: Path) -> None:
    source = {"kind": "toys", "path": "here", "fingerprint": "7"}
    made = prepare("toys", lambda: (make_listing(), decode), source, home=tmp_path)
    (made.path / "labels.npy").write_bytes(b"?")
    said: list[str] = []
    again = prepare(
        "toys", lambda: (make_listing(), decode), source, home=tmp_path, say=said.append
    )
    assert again.digest == made.digest and "labels.npy is damaged" in said[0]


def test_unknown_names_are_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"it has none yet.*tinysight data get"):
        open_dataset("toys", home=tmp_path / "nowhere")
    write_pack(make_listing(), decode, home=tmp_path)
    with pytest.raises(
        ValueError, match=r"no pack 'toy' in .*; it has toys; did you mean 'toys'\? Make one with"
    ):
        open_dataset("toy", home=tmp_path)
    with pytest.raises(ValueError, match="is a folder but no pack"):
        open_dataset(tmp_path)
    assert open_dataset(str(tmp_path / "toys"), home=tmp_path / "nowhere").name == "toys"
    assert (
        build.list_datasets(tmp_path) == ("toys",)
        and build.list_datasets(tmp_path / "nowhere") == ()
    )


FILES = ("images", "labels", "boxes", "box_labels", "box_offsets", "digests")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data home of one good pack, to be copied: writing one waits for the disk."""
    home = tmp_path_factory.mktemp("whole")
    write_pack(make_listing(), decode, home=home)
    return home


@pytest.fixture
def made(whole: Path, tmp_path: Path) -> Dataset:
    shutil.copytree(whole / "toys", tmp_path / "toys")
    return open_dataset("toys", home=tmp_path)


@pytest.mark.parametrize(
    "file", [*(f"{file}.npy" for file in FILES), "files.json", "manifest.json"]
)
@pytest.mark.parametrize("harm", ["gone", "short", "flipped"])
def test_damage_is_named(made: Dataset, tmp_path: Path, file: str, harm: str) -> None:
    path = made.path / file
    content = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    elif harm == "short":
        path.write_bytes(content[:-1])
    else:
        content[-9] ^= 1
        path.write_bytes(content)
    if (file, harm) == ("images.npy", "flipped"):  # pixels are for verify
        assert open_dataset("toys", home=tmp_path).verify() == (
            "images.npy: row 9 (9.png) is not as it was written",
        )
    else:
        expected = "no pack" if (file, harm) == ("manifest.json", "gone") else file
        with pytest.raises(ValueError, match=expected):
            open_dataset("toys", home=tmp_path)
        if file != "manifest.json":
            assert file in made.verify()[0]


def test_every_flipped_byte_is_noticed(made: Dataset, tmp_path: Path) -> None:
    generator = random.Random(0)
    for file in sorted(made.path.iterdir()):
        content = file.read_bytes()
        for place in generator.sample(range(len(content)), 20):
            file.write_bytes(
                content[:place]
                + bytes([content[place] ^ 1 << generator.randrange(8)])
                + content[place + 1 :]
            )
            try:
                damage = open_dataset("toys", home=tmp_path).verify()
            except ValueError as error:
                damage = (str(error),)
            source_only = (
                file.name == "manifest.json"
                and b'"source"' in content[:place]
                and b'"notes"' in content[place:]
            )
            assert source_only or any(file.name in line for line in damage), (file.name, place)
        file.write_bytes(content)
    assert open_dataset("toys", home=tmp_path).verify() == ()


def test_another_format_is_refused(made: Dataset, tmp_path: Path) -> None:
    manifest = json.loads((made.path / "manifest.json").read_text("utf-8"))
    (made.path / "manifest.json").write_text(json.dumps(manifest | {"format": "tinysight-pack/99"}))
    with pytest.raises(
        ValueError, match=r"format 'tinysight-pack/99', this version reads 'tinysight-pack/1'"
    ):
        open_dataset("toys", home=tmp_path)
    (made.path / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="format 'list'"):
        open_dataset("toys", home=tmp_path)


def test_says_whether_its_source_changed(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.png").write_bytes(b"1")
    source = {"kind": "toys", "path": str(folder), "fingerprint": build.source_fingerprint(folder)}
    made = write_pack(make_listing(source=source), decode, home=tmp_path)
    assert made.source_state() == "same"
    (folder / "deep" / "a.png").write_bytes(b"22")
    assert made.source_state() == "changed"
    shutil.rmtree(folder)
    assert made.source_state() == "gone"
    assert write_pack(make_listing(name="drawn"), decode, home=tmp_path).source_state() == "unknown"


def test_fingerprints_tell_names_sizes_and_times_apart(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    seen = {build.source_fingerprint(tmp_path)}
    for change in (
        lambda: (tmp_path / "a").write_bytes(b"12"),
        lambda: os.utime(tmp_path / "a", ns=(0, 1)),
        lambda: (tmp_path / "a").rename(tmp_path / "b"),
        lambda: (tmp_path / "c").write_bytes(b""),
    ):
        change()
        seen.add(build.source_fingerprint(tmp_path))
    assert len(seen) == 5
    before = build.source_fingerprint(tmp_path / "b")
    os.utime(tmp_path / "b", ns=(0, 5))
    assert build.source_fingerprint(tmp_path / "b") == before  # of a file: what is in it
    (tmp_path / "b").write_bytes(b"13")
    assert build.source_fingerprint(tmp_path / "b") != before


def test_data_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TINYSIGHT_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert build.data_home() == tmp_path / ".cache" / "tinysight"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert build.data_home() == Path("/cache/tinysight")
    monkeypatch.setenv("TINYSIGHT_DATA", "~/data")
    assert build.data_home() == tmp_path / "data"


@pytest.mark.parametrize("stage", ["reserve", "small file"])
def test_a_full_disk_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_pack(make_listing(), decode, home=tmp_path)
    monkeypatch.setattr(
        *((os, "posix_fallocate") if stage == "reserve" else (build, "write_durable")), full
    )
    with pytest.raises(ValueError, match=r"disk of .* is full: toys needs about .* GB"):
        write_pack(make_listing(12), decode, home=tmp_path)
    assert (
        leftovers(tmp_path) == ["toys"] and len(open_dataset("toys", home=tmp_path)) == 10
    )  # the old one stays


def test_reserves_without_posix_fallocate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    assert write_pack(make_listing(), decode, home=tmp_path).verify() == ()


def test_a_home_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write in .*set TINYSIGHT_DATA"):
        write_pack(make_listing(), decode, home=tmp_path / "file" / "home")


def kill_at_7(row: int) -> np.ndarray:
    if row == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(row)


def wrong_shape(row: int) -> np.ndarray:
    return np.zeros((SIZE, SIZE), np.uint8)


def test_a_killed_worker_is_an_error_not_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "CHUNK_ROWS", 2)
    monkeypatch.setattr(decoding, "_safe_start_method", lambda: "fork")
    with pytest.raises(
        ChildProcessError, match=r"a decoding process died .signal SIGKILL.*fewer workers"
    ):
        write_pack(make_listing(200), kill_at_7, home=tmp_path, workers=2)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_wrong_decode_is_an_error_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(decoding, "CHUNK_ROWS", 2)
    monkeypatch.setattr(decoding, "_safe_start_method", lambda: "fork")
    with pytest.raises(TypeError, match=r"gave uint8 \(4, 4\), expected uint8 \(4, 4, 3\)"):
        write_pack(make_listing(), wrong_shape, home=tmp_path, workers=workers)
    assert leftovers(tmp_path) == []


def test_what_dead_processes_left_is_cleared_or_finished(tmp_path: Path) -> None:
    made = write_pack(make_listing(), decode, home=tmp_path)
    write_pack(make_listing(name="toys2"), decode, home=tmp_path)
    made.path.rename(tmp_path / ".toys.old-1")  # died between the two renames
    for name in (".toys.tmp-1", ".toys.tmp-22", ".toys2.tmp-1"):
        (tmp_path / name).mkdir()
    assert prepare("toys", no_work, good.source, home=tmp_path).digest == made.digest
    assert leftovers(tmp_path) == [
        ".toys2.tmp-1",
        "toys",
        "toys2",
    ]  # another name is another lock's affair


def test_a_crash_between_the_two_renames_keeps_the_old_pack(
    made: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def crash(self: Path, target: Path) -> Path:
        if ".tmp-" in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        write_pack(make_listing(12), decode, home=tmp_path)
    assert prepare("toys", no_work, good.source, home=tmp_path).digest == made.digest
    assert leftovers(tmp_path) == ["toys"]


PROGRAM = """
import os, sys, time
from pathlib import Path
import numpy as np
from tinysight.data import build, decoding

home, rows, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
decoding.CHUNK_ROWS = 4
log = os.open(home / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def decode(row):
    time.sleep(pause)
    os.write(log, b"%d %d\\n" % (row, os.getpid()))
    return np.full((8, 8, 3), row, np.uint8)

def make():
    no = np.zeros(0, np.int64)
    return build.DatasetIndex(
        name="toys", image_size=8, class_names=("a", "b"), class_ids=("a", "b"), splits={"train": (0, rows)},
        files=tuple(map(str, range(rows))), labels=np.arange(rows) % 2, boxes=np.zeros((0, 4), np.float32),
        box_labels=no, box_offsets=np.zeros(rows + 1, np.int64), source=source,
    ), decode

source = {"kind": "toys", "path": "here", "fingerprint": sys.argv[4]}
print("go", flush=True)
print(build.prepare("toys", make, source, home=home / "data", workers=2).digest, flush=True)
"""


def start(home: Path, rows: int, pause: float, fingerprint: str = "1") -> subprocess.Popen[str]:
    program = home / "program.py"
    if not program.exists():
        program.write_text(PROGRAM)
    environment = os.environ | {
        "PYTHONPATH": str(Path(tinysight.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(program), str(home), str(rows), str(pause), fingerprint]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.split()[-1]


def decoded(home: Path) -> list[tuple[int, int]]:
    lines = (home / "log").read_text().splitlines()
    return [(int(row), int(process)) for row, process in (line.split() for line in lines)]


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(condition: functools.partial[bool] | object, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("num", [3, pytest.param(8, marks=pytest.mark.reliability)])
def test_several_at_once_do_the_work_once(tmp_path: Path, num: int) -> None:
    processes = [start(tmp_path, 60, 0.005) for _ in range(num)]
    assert len({finish(process) for process in processes}) == 1
    assert sorted(row for row, _ in decoded(tmp_path)) == list(range(60))
    assert leftovers(tmp_path / "data") == ["toys"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_preparation_leaves_no_process(tmp_path: Path, kill: signal.Signals) -> None:
    process = start(tmp_path, 400, 0.02)
    assert wait_until(
        lambda: (tmp_path / "log").exists() and len({p for _, p in decoded(tmp_path)}) == 2
    )
    if kill == signal.SIGINT:
        os.killpg(process.pid, kill)  # as a terminal does: to the whole group
    else:
        process.send_signal(kill)
    _, err = process.communicate(timeout=20)
    workers = {worker for _, worker in decoded(tmp_path)}
    assert wait_until(lambda: not any(map(alive, workers)))
    if kill == signal.SIGINT:
        assert (
            err.count("Traceback") == 1 and "KeyboardInterrupt" in err
        )  # the parent's, no worker's
        assert leftovers(tmp_path / "data") == []
    else:
        assert [name.split("-")[0] for name in leftovers(tmp_path / "data")] == [".toys.tmp"]


def test_workers_leave_ctrl_c_to_the_parent(tmp_path: Path) -> None:
    process = start(tmp_path, 100, 0.005)
    assert wait_until(
        lambda: (tmp_path / "log").exists() and len({p for _, p in decoded(tmp_path)}) == 2
    )
    for worker in {worker for _, worker in decoded(tmp_path)}:
        os.kill(worker, signal.SIGINT)
    assert finish(process)


@pytest.mark.parametrize("rounds", [5, pytest.param(200, marks=pytest.mark.reliability)])
def test_kills_at_any_moment_leave_the_old_pack_the_new_one_or_none(
    tmp_path: Path, rounds: int
) -> None:
    generator = random.Random(rounds)
    began = time.monotonic()
    expected = finish(start(tmp_path, 40, 0.001))
    whole = time.monotonic() - began
    names = {str(number) for number in range(rounds)}
    survived = 0
    for number in range(rounds):
        process = start(
            tmp_path, 40, 0.001, fingerprint=str(number)
        )  # a changed source: replaces what is there
        assert process.stdout is not None and process.stdout.readline() == "go\n"
        time.sleep(generator.uniform(0, whole * 0.6))
        process.kill()
        process.communicate()
        try:
            found = open_dataset("toys", home=tmp_path / "data")
        except ValueError:
            found = None
            assert list((tmp_path / "data").glob(".toys.old-*")), "neither pack is there"
        if found is not None:
            assert found.digest == expected and found.verify() == ()
            survived += found.manifest["source"]["fingerprint"] == str(number)
            assert found.manifest["source"]["fingerprint"] in names
    assert finish(start(tmp_path, 40, 0.001, fingerprint="last")) == expected
    assert leftovers(tmp_path / "data") == ["toys"]
    assert rounds < 100 or 0 < survived < rounds  # the kills came before and after the renames


def test_packs_of_the_same_content_have_the_same_digest(tmp_path: Path) -> None:
    other = {"kind": "zip", "path": "elsewhere", "fingerprint": "2"}
    one: Dataset = write_pack(make_listing(), decode, home=tmp_path / "one")
    two = write_pack(make_listing(source=other), decode, home=tmp_path / "two")
    three = write_pack(make_listing(), lambda row: decode(row + 1), home=tmp_path / "three")
    assert one.digest == two.digest != three.digest


def test_fingerprints_follow_links_and_leave_hidden_files_out(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(b"1")
    (folder / "class").symlink_to(elsewhere)
    (folder / "dangling").symlink_to(tmp_path / "nowhere")
    (folder / "class" / "back").symlink_to(folder)  # a circle
    before = build.source_fingerprint(folder)
    (folder / ".DS_Store").write_bytes(b"seen by a file manager")
    assert build.source_fingerprint(folder) == before
    (elsewhere / "a.png").write_bytes(b"22")
    assert build.source_fingerprint(folder) != before


def test_boxes_of_rows_are_padded_to_the_most_of_any(tmp_path: Path) -> None:
    pack = Dataset(path=tmp_path, manifest={"name": "made", "splits": {}})
    pack.__dict__["box_offsets"] = np.array([0, 2, 2, 3, 3])
    pack.__dict__["boxes"] = np.arange(12, dtype=np.float32).reshape(3, 4)
    padded = pack.padded_boxes(range(4))
    assert padded.shape == (4, 2, 4)
    assert padded[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] and padded[2, 0].tolist() == [
        8,
        9,
        10,
        11,
    ]
    assert np.isnan(padded[[1, 3]]).all() and np.isnan(padded[2, 1]).all()
    assert pack.padded_boxes(range(1, 3)).tolist()[1] == [[8, 9, 10, 11]]
    assert pack.padded_boxes(range(3, 4)).shape == (1, 0, 4)
