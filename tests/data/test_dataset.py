"""Open datasets: damage is named, fingerprints tell changes, views behave like prepared ones."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tinysight.data.build import build
from tinysight.data.dataset import (
    Dataset,
    View,
    data_home,
    list_datasets,
    make_view,
    open_dataset,
    source_fingerprint,
)


def test_rows_of_splits(built: Dataset) -> None:
    assert built.rows("train") == range(5) and built.rows("test") == range(8, 10)
    assert built.rows("train+minival") == range(6) == built.rows("minival+train")
    with pytest.raises(ValueError, match=r"no split 'valid'; it has train, minival, val, test"):
        built.rows("valid")
    with pytest.raises(ValueError, match="not adjacent"):
        built.rows("train+val")


def test_a_used_dataset_pickles_small(built: Dataset) -> None:
    assert built.images[5].max() == 5
    frozen = pickle.dumps(built)
    assert len(frozen) < 3000 and pickle.loads(frozen).images[5].max() == 5


def test_padded_boxes_have_the_largest_number_per_row(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path, {"name": "made", "splits": {}})
    dataset.__dict__["box_offsets"] = np.array([0, 2, 2, 3, 3])
    dataset.__dict__["boxes"] = np.arange(12, dtype=np.float32).reshape(3, 4)
    padded = dataset.padded_boxes(range(4))
    assert padded.shape == (4, 2, 4)
    assert padded[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert padded[2, 0].tolist() == [8, 9, 10, 11]
    assert np.isnan(padded[[1, 3]]).all() and np.isnan(padded[2, 1]).all()
    assert dataset.padded_boxes(range(1, 3)).tolist()[1] == [[8, 9, 10, 11]]
    assert dataset.padded_boxes(range(3, 4)).shape == (1, 0, 4)


def test_unknown_names_are_answered_with_the_nearest(built: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"it has none yet.*tinysight data get"):
        open_dataset("toys", home=tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"no dataset 'toy' in .*; it has toys; did you mean 'toys'\? Make one"
    ):
        open_dataset("toy", home=tmp_path)
    with pytest.raises(ValueError, match="is a folder but not a prepared dataset"):
        open_dataset(tmp_path)
    assert open_dataset(str(built.path), home=tmp_path / "nowhere").name == "toys"
    assert list_datasets(tmp_path) == ("toys",) and list_datasets(tmp_path / "nowhere") == ()


FILES = ("images", "labels", "boxes", "box_labels", "box_offsets", "digests")


@pytest.mark.parametrize("harm", ["gone", "short", "flipped"])
@pytest.mark.parametrize(
    "file", [*(f"{file}.npy" for file in FILES), "files.json", "manifest.json"]
)
def test_damage_is_named(built: Dataset, tmp_path: Path, file: str, harm: str) -> None:
    path = tmp_path / "toys" / file
    content = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    elif harm == "short":
        path.write_bytes(content[:-1])
    else:
        content[-9] ^= 1
        path.write_bytes(content)
    if (file, harm) == ("images.npy", "flipped"):  # pixels are left to verify
        damage = open_dataset("toys", home=tmp_path).verify()
        assert damage == ("images.npy: row 9 (9.png) is damaged",)
        return
    expected = "not a prepared dataset" if (file, harm) == ("manifest.json", "gone") else file
    with pytest.raises(ValueError, match=expected):
        open_dataset("toys", home=tmp_path)
    if file != "manifest.json":
        assert file in built.verify()[0]


def test_every_flipped_byte_is_noticed(built: Dataset, tmp_path: Path) -> None:
    generator = random.Random(0)
    for file in sorted((tmp_path / "toys").iterdir()):
        content = file.read_bytes()
        for place in generator.sample(range(len(content)), 20):
            flipped = bytes([content[place] ^ 1 << generator.randrange(8)])
            file.write_bytes(content[:place] + flipped + content[place + 1 :])
            try:
                damage = open_dataset("toys", home=tmp_path).verify()
            except ValueError as error:
                damage = (str(error),)
            in_source = b'"source"' in content[:place] and b'"notes"' in content[place:]
            source_only = file.name == "manifest.json" and in_source
            assert source_only or any(file.name in line for line in damage), (file.name, place)
        file.write_bytes(content)
    assert open_dataset("toys", home=tmp_path).verify() == ()


def test_another_format_is_refused(built: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "toys" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"format": "another/99"}))
    with pytest.raises(
        ValueError, match=r"format 'another/99', this version reads 'tinysight-dataset/1'"
    ):
        open_dataset("toys", home=tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="format 'list'"):
        open_dataset("toys", home=tmp_path)


def test_source_state(
    tmp_path: Path, toys: Callable[..., object], built: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.png").write_bytes(b"1")
    origin = {"kind": "toys", "path": str(folder), "fingerprint": source_fingerprint(folder)}
    dataset = build(toys(name="two", origin=origin), home=tmp_path)
    assert dataset.source_state() == "same"
    (folder / "deep" / "a.png").write_bytes(b"22")
    assert dataset.source_state() == "changed"

    def lost(path: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lost)
        assert dataset.source_state() == "gone"
    shutil.rmtree(folder)
    assert dataset.source_state() == "gone"
    assert built.source_state() == "unknown"


def test_fingerprints_tell_names_sizes_and_times_apart(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    seen = {source_fingerprint(tmp_path)}
    for change in (
        lambda: (tmp_path / "a").write_bytes(b"12"),
        lambda: os.utime(tmp_path / "a", ns=(0, 1)),
        lambda: (tmp_path / "a").rename(tmp_path / "b"),
        lambda: (tmp_path / "c").write_bytes(b""),
    ):
        change()
        seen.add(source_fingerprint(tmp_path))
    assert len(seen) == 5
    before = source_fingerprint(tmp_path / "b")
    os.utime(tmp_path / "b", ns=(0, 5))
    assert source_fingerprint(tmp_path / "b") == before  # of a file: its content
    (tmp_path / "b").write_bytes(b"13")
    assert source_fingerprint(tmp_path / "b") != before


def test_fingerprints_follow_links_and_skip_hidden_files(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(b"1")
    (folder / "class").symlink_to(elsewhere)
    (folder / "dangling").symlink_to(tmp_path / "nowhere")
    (folder / "class" / "back").symlink_to(folder)  # a loop
    before = source_fingerprint(folder)
    (folder / ".DS_Store").write_bytes(b"written by a file manager")
    assert source_fingerprint(folder) == before
    (elsewhere / "a.png").write_bytes(b"22")
    assert source_fingerprint(folder) != before


def test_data_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TINYSIGHT_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_home() == tmp_path / ".cache" / "tinysight"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_home() == Path("/cache/tinysight")
    monkeypatch.setenv("TINYSIGHT_DATA", "~/data")
    assert data_home() == tmp_path / "data"


class Negative:
    """Compose the negative of a dataset's image; picklable where this module can be imported."""

    def __init__(self, base: Dataset) -> None:
        self.base = base

    def __call__(self, row: int) -> np.ndarray:
        return 255 - self.base.images[row]


def test_a_view_has_everything_that_a_prepared_dataset_has(
    built: Dataset, toys: Callable[..., object]
) -> None:
    def view_of(base: Dataset, parameters: str = "1") -> Dataset:
        view = View(base, toys().index, Negative(base))
        return make_view("toys.negative", view, kind="negative", parameters=parameters)

    view = view_of(built)
    assert (view.name, view.path, len(view)) == ("toys.negative", None, 10)
    assert view.images.shape == built.images.shape and view.images[3].max() == 252
    assert view.digests.shape == (10, 32) and not np.array_equal(view.digests, built.digests)
    for name in ("labels", "boxes", "box_labels", "box_offsets"):
        assert np.array_equal(getattr(view, name), getattr(built, name))
        assert not getattr(view, name).flags.writeable
    assert not view.images.flags.writeable and view.files == built.files
    assert view.source_state() == "unknown" and view.verify() == ()
    assert view_of(built).digest == view.digest != view_of(built, "2").digest
    other = build(toys(decode=lambda row: 1 + toys().decode(row)), home=built.path.parent / "two")
    assert view_of(other).digest != view.digest
    content = bytearray((built.path / "images.npy").read_bytes())
    content[-1] ^= 1
    (built.path / "images.npy").write_bytes(content)
    assert "row 9" in view_of(open_dataset(built.path)).verify()[0]
