"""Tiny ImageNet: a small set of the same layout, made here; the published one if available."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinysight.data import tiny_imagenet
from tinysight.data.build import build
from tinysight.data.tiny_imagenet import Counts, TinyImageNet, decode_image, name_classes, prepare

EXPECT = Counts(classes=4, train_per_class=6, minival_per_class=2, val=5, test=3)
WNIDS = ("n01443537", "n00000001", "n02124075", "n12267677")  # not sorted, as published
WORDS = {
    "n01443537": "goldfish, Carassius auratus",
    "n00000001": "crane",
    "n02124075": "Egyptian cat",
    "n12267677": "potter's wheel, crane",
    "n99999999": "not of this set",
}


def jpeg(seed: int, mode: str = "RGB", size: int = 64) -> bytes:
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=60)
    return content.getvalue()


def make_set(root: Path) -> Path:
    """Draw the small set; image k of all has box (k, 2, k + 10, 63)."""
    files: dict[str, bytes] = {
        "wnids.txt": "".join(f"{wnid}\n" for wnid in WNIDS).encode(),
        "words.txt": "".join(f"{wnid}\t{line}\n" for wnid, line in WORDS.items()).encode(),
    }
    number = 0
    for wnid in WNIDS:
        lines = []
        for image in reversed(range(6)):
            files[f"train/{wnid}/images/{wnid}_{image}.JPEG"] = jpeg(
                number, "L" if image == 3 else "RGB"
            )
            lines.append(f"{wnid}_{image}.JPEG\t{number}\t2\t{number + 10}\t63\n")
            number += 1
        files[f"train/{wnid}/{wnid}_boxes.txt"] = "".join(lines).encode()
    for image in range(5):
        files[f"val/images/val_{image}.JPEG"] = jpeg(100 + image)
    files["val/val_annotations.txt"] = "".join(
        f"val_{image}.JPEG\t{WNIDS[image % 4]}\t{image}\t{image}\t{image}\t{image}\n"
        for image in range(5)
    ).encode()
    for image in range(3):
        files[f"test/images/test_{image}.JPEG"] = jpeg(200 + image)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("drawn") / "set")


@pytest.fixture
def folder(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "set")


def zip_up(folder: Path, target: Path, top: str = "tiny-imagenet-200/") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as writing:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                writing.write(path, top + path.relative_to(folder).as_posix())
    return target


def test_rows_labels_and_boxes(drawn: Path) -> None:
    source = TinyImageNet(drawn, EXPECT)
    made, decode = source.index, source.decode
    assert made.class_ids == tuple(sorted(WNIDS))
    assert made.class_names == ("crane", "goldfish", "Egyptian cat", "potter's wheel")
    words = made.extra["words"]
    assert words["n12267677"] == "potter's wheel, crane" and len(words) == 4
    assert made.splits == {"train": (0, 16), "minival": (16, 24), "val": (24, 29), "test": (29, 32)}
    val, test = (
        [f"{s}/images/{s}_{i}.JPEG" for i in range(n)] for s, n in (("val", 5), ("test", 3))
    )
    assert made.files[24:] == (*val, *test)
    train, minival = np.repeat(range(4), 4).tolist(), [0, 0, 1, 1, 2, 2, 3, 3]
    assert made.labels.tolist() == [*train, *minival, 1, 0, 2, 3, 1, -1, -1, -1]
    for row, file in enumerate(made.files[:24]):
        wnid, image = file.removesuffix(".JPEG").rpartition("/")[2].split("_")
        number = WNIDS.index(wnid) * 6 + 5 - int(image)  # how make_set numbered it
        assert made.class_ids[made.labels[row]] == wnid
        half_open = [number, 2, number + 11, 64]
        assert made.boxes[made.box_offsets[row]].tolist() == half_open
        expected = np.asarray(Image.open(drawn / file).convert("RGB"))
        assert np.array_equal(decode(row), expected)
        assert (np.ptp(expected, axis=2).max() == 0) == (image == "3")  # gray
    assert made.boxes[made.box_offsets[26]].tolist() == [2, 2, 3, 3]  # equal edges are one pixel
    assert made.box_offsets[29] == made.box_offsets[32] == 29
    assert made.box_labels.tolist() == made.labels[:29].tolist()


@pytest.mark.parametrize("inner", ["", "images/"])
def test_val_sorted_into_class_folders_is_the_same(folder: Path, drawn: Path, inner: str) -> None:
    for line in (folder / "val/val_annotations.txt").read_text().splitlines():
        image, wnid = line.split("\t")[:2]
        (folder / "val" / wnid / inner).mkdir(parents=True, exist_ok=True)
        (folder / "val/images" / image).rename(folder / "val" / wnid / inner / image)
    (folder / "val/images").rmdir()
    made, expected = TinyImageNet(folder, EXPECT).index, TinyImageNet(drawn, EXPECT).index
    assert made.files[24] == f"val/{made.class_ids[made.labels[24]]}/{inner}val_0.JPEG"
    assert made.labels.tolist() == expected.labels.tolist()
    assert made.boxes.tolist() == expected.boxes.tolist()
    path = folder / made.files[24]
    other = next(own for own in sorted((folder / "val").glob("n*")) if own.name not in str(path))
    path.rename(other / path.name)
    with pytest.raises(ValueError, match=r"val_0.JPEG, expected it in val/n\d+, its class in"):
        _ = TinyImageNet(folder, EXPECT).index


def test_train_and_minival_are_sorted_and_balanced(drawn: Path) -> None:
    made = TinyImageNet(drawn, EXPECT).index
    for start, stop, each in ((0, 16, 4), (16, 24, 2)):
        files = made.files[start:stop]
        assert set(Counter(file.split("/")[1] for file in files).values()) == {each}
        assert list(files) == sorted(files)
    chosen = {file.rpartition("/")[2] for file in made.files[16:24]}
    for wnid in WNIDS:  # those of the lowest digests, whatever else there is
        names = sorted(
            (f"{wnid}_{i}.JPEG" for i in range(6)),
            key=lambda name: hashlib.sha256(name.encode()).hexdigest(),
        )
        assert set(names[:2]) == {name for name in chosen if name.startswith(wnid)}


@pytest.mark.parametrize("top", ["tiny-imagenet-200/", "", "another/"])
def test_archive_and_folder_are_the_same_dataset(folder: Path, tmp_path: Path, top: str) -> None:
    (folder / ".DS_Store").write_text("")
    (folder / "train" / WNIDS[0] / "images" / ".DS_Store").write_text("")
    archive = zip_up(folder, tmp_path / "set.zip", top)
    one = prepare(folder, home=tmp_path / "one", expect=EXPECT)
    two = prepare(str(archive), home=tmp_path / "two", expect=EXPECT)
    assert one.digest == two.digest and np.array_equal(one.images, two.images)
    assert one.verify() == () and one.source_state() == two.source_state() == "same"
    assert one.manifest["source"]["decoder"].split()[0] in ("Pillow", "simplejpeg")


def test_the_folder_around_the_top_folder_will_do(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "around").mkdir()
    folder.rename(tmp_path / "around" / "tiny-imagenet-200")
    assert len(TinyImageNet(tmp_path / "around", EXPECT).index.files) == 32


def test_linked_folders_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    (folder / "train").rename(tmp_path / "elsewhere")
    (folder / "train").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder)
    assert len(TinyImageNet(folder, EXPECT).index.files) == 32


def test_a_second_call_does_no_work_and_a_change_is_noticed(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tinysight")
    home = tmp_path / "home"
    made = prepare(folder, home=home, expect=EXPECT)
    manifest = (home / "tiny-imagenet" / "manifest.json").stat().st_mtime_ns
    assert prepare(folder, home=home, expect=EXPECT).digest == made.digest
    assert prepare(None, home=home).digest == made.digest  # whatever it was made from, it is there
    assert (
        home / "tiny-imagenet" / "manifest.json"
    ).stat().st_mtime_ns == manifest and not caplog.messages
    (folder / "val" / "images" / "val_0.JPEG").write_bytes(jpeg(7))
    assert made.source_state() == "changed"
    again = prepare(folder, home=home, expect=EXPECT)
    assert again.digest != made.digest and "changed" in caplog.messages[0]
    archive = zip_up(folder, tmp_path / "set.zip")
    with pytest.raises(ValueError, match="made from another source"):
        prepare(archive, home=home, expect=EXPECT)
    assert prepare(archive, home=home, expect=EXPECT, replace=True).digest == again.digest


def test_from_an_address(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = zip_up(folder, tmp_path / "set.zip")
    caplog.set_level("INFO", "tinysight")
    home, steps = tmp_path / "home", []
    made = prepare(
        archive.as_uri(), home=home, expect=EXPECT, download_progress=lambda *s: steps.append(s)
    )
    assert (
        made.manifest["source"]["url"] == archive.as_uri()
        and steps[-1] == (archive.stat().st_size,) * 2
    )
    archive.unlink()
    again = prepare(made.manifest["source"]["url"], home=home, expect=EXPECT)
    assert again.digest == made.digest
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("downloading file:")


def test_only_the_default_address_must_give_the_published_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zip_up(folder, tmp_path / "set.zip")
    monkeypatch.setattr(tiny_imagenet, "URL", archive.as_uri())
    with pytest.raises(ValueError, match=r"has \d+ bytes, expected 248100043"):
        prepare(None, home=tmp_path / "home", expect=EXPECT)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere does not exist; expected a .zip, its unpacked folder, or an address"),
        ("", r"no wnids\.txt"),
        (".", r"no wnids\.txt; expected the folder tiny-imagenet-200"),
        ("text.zip", "not a usable zip"),
        ("empty.zip", r"wnids\.txt: found nothing"),
        ("ftp://host/a.zip", "expected an address that starts with"),
    ],
)
def test_bad_sources_are_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.zip").write_text("not found")
    zipfile.ZipFile("empty.zip", "w").close()
    with pytest.raises(ValueError, match=message) as caught:
        prepare(source, home=tmp_path / "home")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "home" / "tiny-imagenet").exists()


def edit(name: str, old: str, new: str, count: int = 1) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, count))

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def add(name: str, content: bytes = b"") -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    return change


def to_pipe(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).unlink()
        os.mkfifo(root / name)

    return change


FISH = "train/n01443537/n01443537_boxes.txt"
FIRST = "n01443537_5.JPEG\t0\t2\t10\t63"  # of its lines
NOTES = "val/val_annotations.txt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("wnids.txt"), r"wnids\.txt"),
        (edit("wnids.txt", "n01443537\n", ""), r"wnids\.txt: found 3 different wnids, expected 4"),
        (edit("wnids.txt", "n00000001", "n01443537"), "found 3 different wnids"),
        (edit("wnids.txt", "n01443537", "goldfish"),
         "found 'goldfish', expected lines like n01443537"),
        (edit("wnids.txt", "n01443537", "n01443538"), r"words\.txt: found no line for n01443538"),
        (remove("words.txt"), r"words\.txt: found nothing, expected this file"),
        (add("words.txt", b"\xff\xfe"), r"words\.txt: found bytes that are not text"),
        (edit("words.txt", "n00000001\t", "n00000001 "), "no line for n00000001"),
        (lambda root: shutil.rmtree(root / "train" / "n01443537"),
         r"n01443537/images: found 0 files, no n01443537_0"),
        (add("train/n07777777/images/n07777777_0.JPEG"),
         r"train/n07777777.*only the classes of wnids"),
        (remove("train/n01443537/images/n01443537_4.JPEG"), "found 5 files, no n01443537_4.JPEG"),
        (add("train/n01443537/images/n01443537_6.JPEG"), "found 7 files, also n01443537_6.JPEG"),
        (add("train/n01443537/images/n01443537_1.jpg"), "also n01443537_1.jpg"),
        (remove(FISH), r"n01443537_boxes\.txt: found nothing"),
        (edit(FISH, FIRST + "\n", ""),
         r"found 5 lines \(n01443537_5.JPEG\), expected one for each of 6"),
        (edit(FISH, FIRST, FIRST + "\n" + FIRST), r"found 7 lines \(an image twice\)"),
        (edit(FISH, "_5.JPEG", "_9.JPEG"), "found 6 lines"),
        (edit(FISH, FIRST, FIRST + "\t1"), "found 6 fields in .* expected 5"),
        (edit(FISH, FIRST, "n01443537_5.JPEG\t0\t2\t10"), "found 4 fields"),
        (edit(FISH, FIRST, FIRST[:-2] + "64"),
         r"the box 0 2 10 64 of n01443537_5.JPEG, expected x0 <= x1.* 0\.\.63"),
        (edit(FISH, "_5.JPEG\t0", "_5.JPEG\t-1"), "found the box -1 2 10 63"),
        (edit(FISH, "_5.JPEG\t0", "_5.JPEG\t0.5"), r"found the box 0\.5 2 10 63"),
        (edit(FISH, "_5.JPEG\t0", "_5.JPEG\t11"), "found the box 11 2 10 63"),
        (edit(FISH, "_5.JPEG\t0\t2\t10\t63", "_5.JPEG\t0\t2\t10\t1"), "found the box 0 2 10 1"),
        (edit(NOTES, "n01443537", "n99999999"),
         "found val_0.JPEG of 'n99999999', expected a wnid of wnids"),
        (edit(NOTES, "val_4.JPEG", "val_3.JPEG"),
         r"val_annotations.txt: found 5 lines \(val_4.JPEG\)"),
        (remove(NOTES), r"val_annotations\.txt: found nothing"),
        (remove("val/images/val_2.JPEG"), "val/images: found 4 files, no val_2.JPEG"),
        (lambda root: (root / "val/images/val_2.JPEG").rename(root / "val/images/2.JPEG"),
         "no val_2.JPEG"),
        (lambda root: shutil.rmtree(root / "test"), "test/images: found 0 files"),
        (add("test/images/test_3.JPEG"), "test/images: found 4 files, also test_3.JPEG"),
        (to_pipe("test/images/test_0.JPEG"), "test/images: found 2 files, no test_0.JPEG"),
    ],
)  # fmt: skip
def test_a_departure_is_named(folder: Path, change: Callable[[Path], None], message: str) -> None:
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        _ = TinyImageNet(folder, EXPECT).index
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_the_published_counts_are_the_default(drawn: Path) -> None:
    with pytest.raises(ValueError, match="found 4 different wnids, expected 200"):
        _ = TinyImageNet(drawn).index


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable JPEG"),
        (b"GIF89a", "not a readable JPEG"),
        (jpeg(1)[:700], "not a readable JPEG .*truncated"),
        (jpeg(1, size=63), "63x63 pixels, expected 64x64"),
        (jpeg(1) + bytes(1 << 20), "expected a JPEG of at most"),
    ],
)
def test_unreadable_images_are_named_or_left_out(
    folder: Path, tmp_path: Path, archived: bool, content: bytes, message: str
) -> None:
    (folder / "val" / "images" / "val_2.JPEG").write_bytes(content)
    source = zip_up(folder, tmp_path / "set.zip") if archived else folder
    with pytest.raises(ValueError, match=f"cannot read val/images/val_2.JPEG: .*{message}"):
        prepare(source, home=tmp_path / "home", expect=EXPECT)
    made = prepare(source, home=tmp_path / "home", expect=EXPECT, on_unreadable="skip")
    assert made.splits["val"] == (24, 28) and "val/images/val_2.JPEG" not in made.files
    assert any("val/images/val_2.JPEG" in note for note in made.notes)


def test_a_damaged_member_is_named(folder: Path, tmp_path: Path) -> None:
    archive = zip_up(folder, tmp_path / "set.zip")
    with zipfile.ZipFile(archive) as reading:
        place = reading.getinfo("tiny-imagenet-200/val/images/val_2.JPEG").header_offset
    content = bytearray(archive.read_bytes())
    content[place + 300] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"val/images/val_2\.JPEG is damaged"):
        prepare(archive, home=tmp_path / "home", expect=EXPECT)


def test_names_are_unique() -> None:
    words = {
        "n1": "crane",
        "n2": "crane, bird",
        "n3": "drum, barrel",
        "n4": "drum, membranophone",
        "n5": "bow",
        "n6": "bow",
    }
    assert name_classes(words) == (
        "crane", "crane, bird", "drum, barrel", "drum, membranophone", "bow (n5)", "bow (n6)",
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_both_decoders_agree(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    for seed in range(20):
        assert np.array_equal(
            decode_image(jpeg(seed, mode), fast=True), decode_image(jpeg(seed, mode))
        )
    for bad in (b"", jpeg(1)[:700], jpeg(1, size=32)):
        with pytest.raises(ValueError):
            decode_image(bad, fast=True)
    monkeypatch.setenv("TINYSIGHT_DECODER", "pillow")
    assert not tiny_imagenet.has_fast_decoder()
    monkeypatch.delenv("TINYSIGHT_DECODER")
    assert tiny_imagenet.has_fast_decoder()


@pytest.mark.parametrize("rounds", [300, pytest.param(10_000, marks=pytest.mark.reliability)])
@pytest.mark.parametrize("fast", [False, True])
def test_mutated_images_give_an_error_or_an_image(rounds: int, fast: bool) -> None:
    if fast:
        pytest.importorskip("simplejpeg")
    generator = random.Random(rounds)
    good = [jpeg(seed, mode) for seed in range(4) for mode in ("RGB", "L")]
    refused = 0
    for _ in range(rounds):
        content = bytearray(generator.choice(good))
        for _ in range(generator.choice((1, 2, 4, 16))):
            content[generator.randrange(min(len(content), generator.choice((700, 10_000))))] = (
                generator.randrange(256)
            )
        if generator.random() < 0.2:
            del content[generator.randrange(len(content)) :]
        try:
            image = decode_image(bytes(content), fast=fast)
        except ValueError:
            refused += 1
        else:
            assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert 0 < refused < rounds


def test_decode_is_picklable(drawn: Path) -> None:
    decode = TinyImageNet(drawn, EXPECT).decode
    assert np.array_equal(pickle.loads(pickle.dumps(decode))(3), decode(3))


@pytest.mark.data
def test_the_published_set(tmp_path: Path) -> None:
    """All 120,000: counts, boxes, duplicates, and every hundredth image."""
    source = os.environ.get("TINYSIGHT_TINY_IMAGENET")
    if not source:
        pytest.skip(
            "TINYSIGHT_TINY_IMAGENET is not set: the folder or archive of the published set"
        )
    published = TinyImageNet(Path(source))
    made, decode = published.index, published.decode
    assert made.splits == {
        "train": (0, 95_000),
        "minival": (95_000, 100_000),
        "val": (100_000, 110_000),
        "test": (110_000, 120_000),
    }
    assert set(np.bincount(made.labels[:95_000])) == {475} and set(
        np.bincount(made.labels[95_000:100_000])
    ) == {25}
    assert set(np.bincount(made.labels[100_000:110_000])) == {50}
    train = made.boxes[:100_000]
    assert (train == [0, 0, 64, 64]).all(axis=1).sum() == 5_706
    assert made.class_names[0] == "goldfish" and len(set(made.class_names)) == 200
    for row in range(0, 120_000, 100):
        assert decode(row).shape == (64, 64, 3)
    dataset = build(published, home=tmp_path)
    conflicts = [
        group for group in dataset.manifest["duplicates"] if len(set(group["labels"]) - {None}) > 1
    ]
    assert len(dataset.manifest["duplicates"]) == 37 and len(conflicts) == 27
    assert dataset.images.shape == (120_000, 64, 64, 3)
