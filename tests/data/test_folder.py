"""A folder of images becomes a dataset, or one clear line names what is in the way."""

from __future__ import annotations

import io
import json
import os
import pickle
import unicodedata
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinysight.data.build import build, check_index
from tinysight.data.dataset import Dataset, DatasetIndex
from tinysight.data.folder import FolderSource, split_counts
from tinysight.data.load import load_dataset
from tinysight.images import Fit


def picture(
    color: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (12, 10), form: str = "PNG"
) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, form)
    return buffer.getvalue()


def put(root: Path, *names: str, content: bytes | None = None) -> Path:
    """Write an image under each name, each of a color of its own."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            picture(tuple(os.fsencode(name)[-7:-4].rjust(3))) if content is None else content
        )  # type: ignore[arg-type]
    return root


def two_classes(root: Path, num: int = 10) -> Path:
    return put(root, *(f"{name}/{i:03}.png" for name in ("cat", "dog") for i in range(num)))


def listed(root: Path) -> DatasetIndex:
    index = FolderSource(root, "pets", image_size=8).index
    check_index("pets", index)
    return index


def imported(folder: Path, home: Path, name: str = "pets", **settings: object) -> Dataset:
    source = FolderSource(folder, name, **{"image_size": 8, **settings})  # type: ignore[arg-type]
    return build(source, home=home, workers=1)


def files_of(made: DatasetIndex, split: str) -> list[str]:
    start, stop = made.splits.get(split, (0, 0))
    return list(made.files[start:stop])


def refused(root: Path, pattern: str, **options: object) -> None:
    source = FolderSource(root, "pets", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=pattern) as caught:
        check_index(str(source.origin), source.index)
    assert "\n" not in str(caught.value)


def in_class(names: Iterable[str], class_name: str) -> int:
    return sum(f"{class_name}/" in f"/{name}" for name in names)


# Layouts that work.


def test_plain_folder_is_split_by_class(tmp_path: Path) -> None:
    made = listed(two_classes(tmp_path, 20))
    assert made.class_names == made.class_ids == ("cat", "dog")
    assert made.splits == {"train": (0, 28), "minival": (28, 32), "val": (32, 40)}
    for split, num in (("train", 14), ("minival", 2), ("val", 4)):
        assert [in_class(files_of(made, split), name) for name in ("cat", "dog")] == [num, num]
    assert made.labels.tolist() == [int(file.startswith("dog")) for file in made.files]
    assert len(made.boxes) == 0 and made.box_offsets.tolist() == [0] * 41
    assert made.notes == ()


def test_rows_of_a_split_are_ordered_by_class_and_file(tmp_path: Path) -> None:
    made = listed(two_classes(tmp_path))
    for split in made.splits:
        assert files_of(made, split) == sorted(files_of(made, split))


def test_split_is_the_same_in_any_location(tmp_path: Path) -> None:
    one = listed(two_classes(tmp_path / "a"))
    two = listed(two_classes(tmp_path / "b c"))
    assert (one.files, one.splits) == (two.files, two.splits)


def test_split_is_pinned(tmp_path: Path) -> None:
    """Pin the rule itself: a change would move images from val to train of existing datasets."""
    made = listed(two_classes(tmp_path))
    val = ["cat/003.png", "cat/004.png", "dog/003.png", "dog/004.png"]  # 21df, 29f7
    assert files_of(made, "val") == val
    assert files_of(made, "minival") == ["cat/000.png", "dog/000.png"]  # eea2


def test_split_does_not_depend_on_how_accents_are_encoded(tmp_path: Path) -> None:
    splits = []
    for form in ("NFC", "NFD"):
        names = [
            unicodedata.normalize(form, f"{name}/é{i}.png")
            for name in ("cat", "dog")
            for i in range(20)
        ]
        made = listed(put(tmp_path / form, *names))
        splits.append([unicodedata.normalize("NFC", file) for file in made.files])
    assert splits[0] == splits[1]


@pytest.mark.parametrize("num", [9, 10, 12, 14, 17])
def test_one_more_image_moves_at_most_one_across_each_border(tmp_path: Path, num: int) -> None:
    before = listed(two_classes(tmp_path, num))
    after = listed(put(tmp_path, "cat/new.png"))
    split_before = {file: split for split in before.splits for file in files_of(before, split)}
    split_after = {file: split for split in after.splits for file in files_of(after, split)}
    moved = [
        (split, split_after[file])
        for file, split in split_before.items()
        if split_after[file] != split
    ]
    assert len(moved) == len(set(moved)) <= 2
    assert ("val", "minival") not in moved and ("minival", "val") not in moved


def test_split_counts() -> None:
    for num, counts in ((1, (0, 0)), (2, (0, 1)), (3, (1, 1)), (4, (1, 1)), (5, (1, 1)),
                        (10, (1, 2)), (500, (50, 100))):  # fmt: skip
        assert split_counts(num, minival_share=0.1, val_share=0.2) == counts, num
    for num in range(1, 40):  # one stays in train, and a share of 0 means none
        minival, val = split_counts(num, minival_share=0.49, val_share=0.5)
        assert minival >= 0 and val >= 0 and num - minival - val >= 1
        assert split_counts(num, minival_share=0, val_share=0) == (0, 0)


def test_tiny_classes_are_noted(tmp_path: Path) -> None:
    two_classes(tmp_path)
    made = listed(put(tmp_path, "one/a.png", "two/a.png", "two/b.png"))
    for split, num_one, num_two in (("train", 1, 1), ("minival", 0, 0), ("val", 0, 1)):
        files = files_of(made, split)
        assert (in_class(files, "one"), in_class(files, "two")) == (num_one, num_two)
    assert made.notes == (
        "no image in minival for 2 of 4 classes: 'one', 'two'",
        "no image in val for 1 of 4 classes: 'one'",
    )


def test_only_single_images_make_a_train_split_and_notes(tmp_path: Path) -> None:
    made = listed(put(tmp_path, "a/1.png", "b/1.png"))
    assert made.splits == {"train": (0, 2)}
    assert len(made.notes) == 2


def test_given_val_is_kept_and_minival_comes_out_of_train(tmp_path: Path) -> None:
    two_classes(tmp_path / "train")
    put(tmp_path, "val/cat/v1.png", "val/dog/v2.png", "val/dog/v3.png")
    made = listed(tmp_path)
    assert made.splits == {"train": (0, 18), "minival": (18, 20), "val": (20, 23)}
    assert files_of(made, "val") == ["val/cat/v1.png", "val/dog/v2.png", "val/dog/v3.png"]
    assert all(file.startswith("train/") for file in files_of(made, "minival"))
    assert made.labels[20:].tolist() == [0, 1, 1]


def test_given_train_alone_is_split_as_the_class_folders_would_be(tmp_path: Path) -> None:
    plain = listed(two_classes(tmp_path / "plain"))
    inside = listed(two_classes(tmp_path / "split" / "train").parent)
    assert inside.files == tuple(f"train/{file}" for file in plain.files)
    assert inside.splits == plain.splits


@pytest.mark.parametrize("names", [("Train", "valid", "TEST"), ("training", "Validation", "test")])
def test_splits_under_their_other_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    two_classes(tmp_path / names[0])
    made = listed(put(tmp_path, f"{names[1]}/cat/v.png", f"{names[2]}/t.png"))
    assert made.splits == {"train": (0, 18), "minival": (18, 20), "val": (20, 21), "test": (21, 22)}
    assert made.files[20:] == (f"{names[1]}/cat/v.png", f"{names[2]}/t.png")
    assert made.notes[:2] == (f"{names[0]!r} is read as train", f"{names[1]!r} is read as val")


@pytest.mark.parametrize("outer", ["pets", "pets/photos"])
def test_single_folders_around_everything_are_entered(tmp_path: Path, outer: str) -> None:
    plain = listed(two_classes(tmp_path / "plain"))
    inside = listed(two_classes(tmp_path / "zipped" / outer).parents[outer.count("/")])
    assert inside.files == tuple(f"{outer}/{file}" for file in plain.files)
    assert inside.splits == plain.splits
    assert len(inside.notes) == 1 + outer.count("/") and "'pets'" in inside.notes[0]


def test_folders_above_and_below_the_given_one_are_noted(tmp_path: Path) -> None:
    put(tmp_path / "data", *(f"{name}/2024/{i}.png" for name in ("cat", "dog") for i in range(3)))
    assert "only folders in the class 'cat' ('2024'); 'dog'" in listed(tmp_path / "data").notes[-1]
    put(two_classes(tmp_path / "train").parent, "valid/cat/v.png")
    assert "'valid' next to it is not used" in listed(tmp_path / "train").notes[0]


def zipped(root: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root.parent))
    return path


def test_zip_is_imported_as_the_folder_in_it(tmp_path: Path) -> None:
    two_classes(tmp_path / "pets" / "Train", 40)
    put(tmp_path / "pets", "val/cat/v.jpg", content=picture(form="JPEG")[:-8])
    put(tmp_path / "pets", ".DS_Store", "Train/cat/._1.png")
    path = zipped(tmp_path / "pets", tmp_path / "pets.zip")
    folder, home = imported(tmp_path / "pets", tmp_path / "one"), tmp_path / "two"
    made = build(FolderSource(path, "pets", 8), home=home, workers=2)
    assert np.array_equal(made.images, folder.images)
    assert made.files == tuple(f"pets/{file}" for file in folder.files)
    assert "'pets/val/cat/v.jpg' is cut short" in str(made.notes)
    assert made.splits == folder.splits and made.source_state() == "same"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../outside.png", b"")
    assert made.source_state() == "changed"
    refused(path, "outside.png' has '..'")


def test_class_that_val_lacks_is_noted(tmp_path: Path) -> None:
    two_classes(tmp_path / "train")
    (tmp_path / "val/dog").mkdir(parents=True)
    made = listed(put(tmp_path, "val/cat/v.png"))
    assert made.notes == ("no image in val for 1 of 2 classes: 'dog'",)


def test_test_images_may_lie_loose_or_in_classes(tmp_path: Path) -> None:
    two_classes(tmp_path / "train")
    put(tmp_path, "test/x2.png", "test/x1.png", "test/dog/y.png")
    made = listed(tmp_path)
    assert files_of(made, "test") == ["test/dog/y.png", "test/x1.png", "test/x2.png"]
    assert made.labels[-3:].tolist() == [1, -1, -1]


def test_class_may_be_called_train_or_test(tmp_path: Path) -> None:
    made = listed(put(tmp_path, "train/1.png", "train/2.png", "bus/1.png", "test/1.png"))
    assert made.class_names == ("bus", "test", "train")


def test_folders_inside_a_class_belong_to_it(tmp_path: Path) -> None:
    made = listed(put(two_classes(tmp_path), "cat/2024/may/a.png", "cat/2023/a.png"))
    assert {"cat/2024/may/a.png", "cat/2023/a.png"} < set(made.files)


def test_hidden_entries_and_system_leftovers_are_ignored(tmp_path: Path) -> None:
    two_classes(tmp_path)
    names = [
        ".DS_Store",
        ".git/x.png",
        "__MACOSX/cat/._a.png",
        "cat/Thumbs.db",
        "cat/desktop.ini",
        "cat/._000.png",
    ]
    put(tmp_path, *names, "cat/@eaDir/thumb.jpg", "dog/Icon\r", content=b"junk")
    assert len(listed(tmp_path).files) == 20
    # a folder with images may have been meant as a class
    note = "hidden folders with images are left out: '.git'"
    assert note in listed(tmp_path).notes


def test_files_beside_class_folders_are_ignored_unless_they_are_images(tmp_path: Path) -> None:
    put(two_classes(tmp_path), "README.md", "labels.csv", content=b"hello")
    assert len(listed(tmp_path).files) == 20


NAMES = [
    *("tabby cat", 'it\'s "quoted"', "猫", "Ωmega_ß", "🐈‍⬛", "-rf", "--help", "100%", "כלב"),
    *("a;b&c$(d)`e`", "*?[x]", "back\\slash", "x" * 200),
]


def test_odd_names_work_from_end_to_end(tmp_path: Path) -> None:
    source = put(
        tmp_path / "my 'own' 📷", *(f"{name}/{name} {i}.png" for name in NAMES for i in range(3))
    )
    dataset = imported(source, tmp_path / "home", "odd")
    assert dataset.class_names == tuple(sorted(NAMES))
    assert len(dataset) == 3 * len(NAMES)
    for row, file in enumerate(dataset.files):
        assert (source / file).is_file()
        assert dataset.class_names[dataset.labels[row]] == file.split("/")[0]


def test_files_without_a_known_suffix_are_looked_into(tmp_path: Path) -> None:
    put(two_classes(tmp_path), "cat/4f2a", "cat/a.jpg_large")
    assert len(listed(tmp_path).files) == 22
    put(tmp_path, "dog/EMPTY.JPG", content=b"")  # an image by its name: decoding will refuse it
    assert "dog/EMPTY.JPG" in listed(tmp_path).files


def test_accents_are_normalized_for_names_and_kept_for_opening(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "café")
    put(tmp_path / "train", f"{decomposed}/{decomposed}.png", f"{decomposed}/b.png", "thé/a.png")
    source = FolderSource(put(tmp_path, "val/café/v.png"), "pets", 8)
    made, decode = source.index, source.decode
    assert made.class_names == ("café", "thé")
    assert made.labels.tolist() == [int("th" in file) for file in made.files]
    assert all(decode(row).shape == (8, 8, 3) for row in range(len(made.files)))


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    elsewhere = put(tmp_path / "elsewhere", "a.png", "b.png")
    root = two_classes(tmp_path / "root")
    (root / "cat/linked.png").symlink_to(elsewhere / "a.png")
    (root / "bird").symlink_to(elsewhere, target_is_directory=True)
    made = listed(root)
    assert {"cat/linked.png", "bird/a.png", "bird/b.png"} < set(made.files)


# Faults, one line each.


def test_missing_folders_and_files(tmp_path: Path) -> None:
    refused(tmp_path / "no such", "no such.*No such file.*expected FOLDER/<class>")
    refused(put(tmp_path, "pets.rar", content=b"RA") / "pets.rar", "neither a folder nor a .zip")
    refused(Path("x" * 5000), "too long")
    refused(Path("a\0b"), "null")


SAME_INSIDE = tuple(f"{part}/{own}/a.png" for part in ("one", "two") for own in ("cat", "dog"))
COCO_OF_SPLITS = ("train/a.png", "train/a_coco.json", "test/b.png", "test/b_coco.json")
NO_IMAGES = r"not images of a kind that .*JPEG, PNG, .*: 'cat/clip.mp4', 'cat/notes.txt'"
MIXED = (
    r"in the class 'Dataset' \('0', '1'\), and images in 'Examples'.*import \S+/Dataset --name pets"
)
REFUSED = [  # where two classes are, further files, what is refused
    (None, (), "has no class folder; expected FOLDER/<class>"),
    (None, ("a.png", "b.jpg"), r"outside of class folders \('a.png', 'b.jpg'\); expected FOLDER/"),
    (".", ("loose.png",), r"outside of class folders \('loose.png'\)"),
    (".", ("emu/.DS_Store", "fox/.x"), "no image in the class folder 'emu', 'fox'"),
    (None, ("cat/a.png",), "only one class, 'cat'; a classifier needs at least two"),
    ("train", ("val/cats/a.png",), r"val/cats is not a class of train/ \(did you mean 'cat'\?\)"),
    ("train", ("test/images/a.png",), "test/images is not a class.*into test/ itself"),
    ("train", ("val/a.png",), "val' has images outside of class folders"),
    ("train", ("extra/cat/a.png",), "next to train/ there is 'extra'"),
    ("train", ("val/cat/a.png", "Valid/cat/b.png"), "'Valid' and 'val', which both mean val"),
    (None, ("Train/a.png", "Test/cat/a.png"), "'Test', 'Train' but no class folder in train/"),
    (None, ("Examples/x.png", "Dataset/0/a.png", "Dataset/1/b.png"), MIXED),
    (None, ("a.png",), "is it one class of several. Then give its parent"),
    (None, SAME_INSIDE, r"same folders in each of 'one', 'two': 'cat', 'dog'.* name the folders t"),
    (None, COCO_OF_SPLITS, r"looks like COCO.*--boxes (?!\S*json)\S+"),
    ("images", ("annots/a.xml",), r"Pascal VOC.*'annots'; use: .* --boxes \S+/annots"),
    (None, ("train/images/a.png", "train/labels/a.txt", "valid/images/b.png"), "looks like YOLO"),
    (None, ("images/a.png", "annotations/all.json"), r"COCO.*--boxes \S+/annotations/all.json"),
    (".", ("cat/notes.txt", "cat/clip.mp4"), NO_IMAGES),
    ("train", ("wnids.txt",), "use: tinysight data get tiny-imagenet"),
    (".", ("cat/a\nb.png",), "line break, another control character"),
    (".", ("c\tat/a.png",), "line break, another control character"),
    (".", ("cat/bell\a.png",), "line break, another control character"),
    (".", ("cat/\u2028.png",), "line break, another control character"),
]


@pytest.mark.parametrize(("classes", "files", "pattern"), REFUSED)
def test_wrong_folders_are_one_clear_line(
    tmp_path: Path, classes: str | None, files: tuple[str, ...], pattern: str
) -> None:
    if classes is not None:
        two_classes(tmp_path / classes)
    for name in files:
        put(tmp_path, name, content=None if name.endswith(("png", "jpg")) else b"text")
    refused(tmp_path, pattern)


@pytest.mark.parametrize(
    "names", [("Cat", "cat", "dog"), ("café", unicodedata.normalize("NFD", "café"), "dog")]
)
def test_classes_that_differ_by_case_or_encoding_only(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    put(tmp_path, *(f"{name}/a.png" for name in names))
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system does not tell the two names apart")
    refused(tmp_path, "differ only by case or in how accents are encoded")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    try:
        put(two_classes(tmp_path), os.fsdecode(b"cat/caf\xe9.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    refused(tmp_path, "not UTF-8")


def test_a_folder_whose_own_name_is_not_utf8(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        two_classes(root)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    dataset = build(FolderSource(root, "pets", image_size=8), home=tmp_path / "data", workers=1)
    manifest = json.loads((tmp_path / "data/pets/manifest.json").read_bytes())
    assert manifest["source"]["path"] == str(root)
    assert load_dataset("pets", home=tmp_path / "data").digest == dataset.digest


def test_broken_link_and_pipe(tmp_path: Path) -> None:
    two_classes(tmp_path)
    os.mkfifo(tmp_path / "dog/pipe.png")
    refused(tmp_path, "pipe.png' is neither a file nor a folder")
    (tmp_path / "cat/gone.png").symlink_to("nowhere")
    refused(tmp_path, "gone.png'")


def test_folder_that_links_to_one_above_it(tmp_path: Path) -> None:
    (two_classes(tmp_path) / "cat/again").symlink_to(tmp_path, target_is_directory=True)
    refused(tmp_path, "is a link to a folder that contains it")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="rights do not bind this user (root)"
)
@pytest.mark.parametrize("name", ["cat", "cat/000.png", "cat/notes"])
def test_no_right_to_read(tmp_path: Path, name: str) -> None:
    locked = put(two_classes(tmp_path / "source"), "cat/notes") / name
    locked.chmod(0)
    try:
        with pytest.raises(ValueError, match=f"{name}.*ermission"):
            imported(tmp_path / "source", tmp_path / "home")
    finally:
        locked.chmod(0o700)


def test_settings_out_of_range(tmp_path: Path) -> None:
    two_classes(tmp_path)
    for size in (0, -1, 100_000):
        refused(tmp_path, f"image_size is {size}, expected 1 to", image_size=size)
    for shares in (
        {"val_share": -0.1},
        {"val_share": 1.0},
        {"minival_share": 0.9},
        {"val_share": float("nan")},
    ):
        refused(tmp_path, "together be under 1", **shares)


# Decoding and building.


def test_decode_gives_squares_of_the_size_and_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    put(two_classes(tmp_path, 3), "cat/000.png", content=picture((9, 8, 7), (3, 50)))
    source = FolderSource(tmp_path, "pets", 16)
    decode, row = source.decode, source.index.files.index("cat/000.png")
    assert np.array_equal(
        pickle.loads(pickle.dumps(decode))(row), np.full((16, 16, 3), (9, 8, 7), np.uint8)
    )


def test_all_formats_are_imported(tmp_path: Path) -> None:
    source = two_classes(tmp_path / "source", 3)
    files = ["cat/a.jpeg", "dog/b.webp", "cat/a.bmp", "cat/b.gif", "dog/c.tif", "dog/d.avif"]
    for file, form in zip(files, ("JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"), strict=True):
        put(source, file, content=picture((0, 0, 255), form=form))
    dataset = imported(source, tmp_path / "home")
    assert dataset.images.shape == (12, 8, 8, 3) and dataset.verify() == ()
    for file in files:
        assert (
            np.abs(dataset.images[dataset.files.index(file)].astype(int) - (0, 0, 255)).max() < 12
        )
    assert dataset.source_state() == "same"


def test_a_second_import_lists_nothing_and_changes_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tinysight")
    source, home = two_classes(tmp_path / "source"), tmp_path / "home"
    first = imported(source, home)
    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "index", property(lambda _: pytest.fail("listed again")))
        assert imported(source, home).digest == first.digest
    put(source, "cat/new.png")
    assert first.source_state() == "changed" and not caplog.messages
    assert len(imported(source, home)) == 21
    assert "changed" in caplog.messages[0]
    assert imported(source, home, image_size=9).image_size == 9
    assert imported(source, home, val_share=0.3).rows("val") == range(15, 21)
    more_minival = imported(source, home, val_share=0.3, minival_share=0.2)
    assert more_minival.rows("minival") == range(11, 15)


def test_name_taken_by_another_folder(tmp_path: Path) -> None:
    imported(two_classes(tmp_path / "one", 3), tmp_path / "home")
    with pytest.raises(ValueError, match="made from another source"):
        imported(two_classes(tmp_path / "two", 3), tmp_path / "home")


@pytest.mark.parametrize(
    ("sides", "fit", "expected"),
    [
        ((32, 32), "crop", 32),
        ((60, 90), "crop", 64),
        ((60, 90), "pad", 96),
        ((900, 600), "stretch", 128),
        ((3, 5), "crop", 32),
    ],
)
def test_auto_is_the_size_next_to_the_images_own(
    tmp_path: Path, sides: tuple[int, int], fit: Fit, expected: int
) -> None:
    two_classes(tmp_path)
    for path in tmp_path.rglob("*.png"):
        Image.new("RGB", sides).save(path)
    assert FolderSource(tmp_path, "pets", "auto", fit=fit).index.image_size == expected
    for size, times in ((expected, None), (expected * 2, "4.0 times"), (expected // 2, None)):
        notes = FolderSource(tmp_path, "pets", size, fit=fit).index.notes
        assert len(notes) == bool(times)
        assert not times or (times in notes[0] and f"as at {expected} (--size auto)" in notes[0])


def test_an_unreadable_file_stops_or_is_left_out_and_listed(tmp_path: Path) -> None:
    source, home = two_classes(tmp_path / "source"), tmp_path / "home"
    put(source, "cat/broken one.jpg", content=picture(form="JPEG")[:200])
    put(source, "dog/page.jpg", content=b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match=r"broken one\.jpg.*page\.jpg.*HTML") as caught:
        imported(source, home)
    assert "\n" not in str(caught.value) and str(caught.value).count("cannot read") == 1
    dataset = build(FolderSource(source, "pets", 8), home=home, workers=1, on_unreadable="skip")
    assert len(dataset) == 20
    assert sum("broken one.jpg" in note or "page.jpg" in note for note in dataset.notes) == 2


def test_a_class_emptied_by_leaving_out_is_an_error(tmp_path: Path) -> None:
    source = two_classes(tmp_path / "source", 6)
    put(source, *(f"owl/{i}.jpg" for i in range(6)), content=picture(form="JPEG")[:200])
    with pytest.raises(ValueError, match=r"no training image of class 'owl' is readable.*owl/"):
        build(FolderSource(source, "p", 8), home=tmp_path, workers=1, on_unreadable="skip")


@pytest.mark.parametrize("workers", [1, 2])
def test_images_cut_short_are_read_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    source = two_classes(tmp_path / "source", 40)
    put(source, "cat/cut.jpg", content=picture((0, 0, 255), (64, 64), "JPEG")[:-8])
    dataset = build(FolderSource(source, "pets", 8), home=tmp_path / "home", workers=workers)
    assert len(dataset) == 81 and not caplog.messages
    assert dataset.notes[0] == "1 image read with a warning"
    assert "cat/cut.jpg' is cut short" in dataset.notes[1]
    assert (dataset.images[dataset.files.index("cat/cut.jpg")][0, 0] // 8 == (0, 0, 31)).all()


def test_a_digest_does_not_depend_on_where_the_folder_is(tmp_path: Path) -> None:
    digests = []
    for place in ("here", "else/where"):
        source = two_classes(tmp_path / place / "pets", 12)
        put(source, "cat/cut.jpg", content=picture((0, 0, 255), (64, 64), "JPEG")[:-8])
        put(source, "dog/empty.jpg", content=b"")
        home = tmp_path / place / "home"
        made = build(FolderSource(source, "pets", 8), home=home, workers=1, on_unreadable="skip")
        assert str(tmp_path) not in str(made.notes) and "'dog/empty.jpg'" in str(made.notes)
        digests.append(made.digest)
    assert digests[0] == digests[1]
