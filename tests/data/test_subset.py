"""One class of a dataset: its folds and negatives, no leak of val or the held-out fold, names."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tinysight.data.build import build
from tinysight.data.dataset import Dataset, list_datasets, open_dataset
from tinysight.data.shapes import Shapes
from tinysight.data.subset import (
    assign_folds,
    bundled_folds,
    find_class,
    has_class,
    one_class,
    slug,
    subset_name,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Scenes of one or two objects: 10 + 1 + 4 labeled images of each of 24 classes."""
    home = tmp_path_factory.mktemp("source")
    counts = {"num_train": 240, "num_minival": 24, "num_val": 96, "num_test": 4}
    scenes = Shapes(**counts, objects=(1, 2), image_size=32, name="scenes")
    return build(scenes, home=home, workers=1)


def files_of(dataset: Dataset, split: str, label: int) -> set[str]:
    return {dataset.files[row] for row in dataset.rows(split) if dataset.labels[row] == label}


def test_each_image_is_held_out_once(source: Dataset) -> None:
    name, wnid = source.class_names[3], source.class_ids[3]
    own = files_of(source, "train+minival", 3)
    assert len(own) == 11
    held: Counter[str] = Counter()
    held_negatives: Counter[str] = Counter()
    for fold in range(5):
        made = one_class(source, name, fold=fold)
        assert made.class_names == (name, "other") and made.class_ids == (wnid, "other")
        positives, negatives = (
            {split: files_of(made, split, label) for split in ("train", "minival", "val")}
            for label in (0, 1)
        )
        learned, chosen, val = (positives[split] | negatives[split] for split in positives)
        assert not learned & chosen
        assert all(file.startswith("val/") for file in val)
        assert not any(file.startswith("val/") for file in learned | chosen)
        assert positives["train"] | positives["minival"] == own
        assert len(negatives["train"]) + len(negatives["minival"]) == 11  # as many
        assert 2 <= len(positives["minival"]) <= 3 and 1 <= len(negatives["minival"]) <= 4
        held.update(positives["minival"])
        held_negatives.update(negatives["minival"])
        assert made.verify() == ()
    assert held == Counter(own) and set(held_negatives.values()) == {1}
    assert len(held_negatives) == 11


def test_identical_images_are_in_one_fold(source: Dataset) -> None:
    twins, name = Dataset(source.path, source.manifest), source.class_names[3]
    first = one_class(source, name)
    rows = {
        (split, label): [source.files.index(file) for file in sorted(files_of(first, split, label))]
        for split in ("train", "minival")
        for label in (0, 1)
    }
    digests = np.array(source.digests)
    pairs = [(rows["train", label][0], rows["minival", label][0]) for label in (0, 1)]
    for row, other in pairs:
        digests[other] = digests[row]
    twins.__dict__["digests"] = digests
    for fold in range(5):
        made, before = (one_class(each, name, fold=fold) for each in (twins, source))
        held = {source.files.index(made.files[row]) for row in made.rows("minival")}
        assert all((row in held) == (other in held) for row, other in pairs)
        assert set(made.files) == set(before.files)
        same = files_of(made, "minival", 0) == files_of(before, "minival", 0)
        same = same and files_of(made, "minival", 1) == files_of(before, "minival", 1)
        assert (made.digest == before.digest) == same
    twins.__dict__["digests"] = np.zeros_like(digests)
    with pytest.raises(ValueError, match=f"fold 1 of {name} of scenes holds .* identical ones"):
        one_class(twins, name, fold=1)


def test_images_of_several_classes_are_of_each(source: Dataset) -> None:
    mixed = Dataset(source.path, source.manifest)
    spans = [source.box_labels[slice(*source.box_offsets[row:][:2])] for row in range(len(source))]
    several = np.array([len(set(span.tolist())) > 1 for span in spans])
    mixed.__dict__["labels"] = np.where(several, -1, source.labels)
    holds = np.array([3 in span for span in spans])
    rows = np.array(source.rows("train+minival"))
    made = one_class(mixed, source.class_names[3], negatives=0)
    found = files_of(made, "train+minival", 0)
    assert found == {source.files[row] for row in rows[holds[rows]]}
    assert len(found) > len(files_of(source, "train+minival", 3))
    assert files_of(made, "val", 0) == {
        source.files[row] for row in source.rows("val") if holds[row]
    }
    assert made.notes[0] == f"{24 * 15 - len(made)} images of other classes left out"
    made = one_class(mixed, source.class_names[3], negatives=1000)
    others = {source.files[row] for row in rows[several[rows] & ~holds[rows]]}
    assert others and others <= files_of(made, "train+minival", 1)
    assert {made.files[row] for row in made.rows("minival")} & others


def test_pixels_boxes_and_labels_are_those_of_the_dataset(source: Dataset) -> None:
    made = one_class(source, source.class_names[3])
    rows = {file: row for row, file in enumerate(source.files)}
    others = [source.class_ids.index(one) for one in made.manifest["extra"]["others"]]
    assert len(set(others)) == 10 and 3 not in others
    fewer = 0
    for row, file in enumerate(made.files):
        old = rows[file]
        assert np.array_equal(made.images[row], source.images[old])
        labels = source.box_labels[slice(*source.box_offsets[old : old + 2])]
        expected = source.boxes_of(old)[labels == 3]
        assert np.array_equal(made.boxes_of(row), expected)
        assert (len(expected) > 0) == (made.labels[row] == 0)
        assert source.labels[old] in (3, *others)
        fewer += 0 < len(expected) < len(labels)
    assert fewer, "no scene has another object, whose box would have to go: nothing is tested"
    assert files_of(made, "val", 0) == files_of(source, "val", 3)
    val = set().union(*(files_of(source, "val", other) for other in others))
    with_class = {file for file in val if has_class(source, 3)[rows[file]]}
    assert with_class, "no image of another class holds this one too: nothing is tested"
    assert files_of(made, "val", 1) == val - with_class


def test_number_of_negatives(source: Dataset) -> None:
    none, few, many = (
        one_class(source, source.class_names[3], negatives=number) for number in (0, 7, 1000)
    )
    assert none.name == f"scenes.{source.class_ids[3]}.negatives0" and len(none) == 11 + 4
    assert set(none.labels.tolist()) == {0} and none.class_names[1] == "other"
    assert len(files_of(few, "train+minival", 1)) == 7
    # All that ten classes have without this one; each fold has a similar share of each class
    assert 60 < len(files_of(many, "train+minival", 1)) < 111
    held = [source.files.index(file) for file in files_of(many, "minival", 1)]
    per_class = Counter(source.labels[held].tolist())
    assert len(per_class) == 10 and max(per_class.values()) <= 3


def test_no_negative_holds_the_class(source: Dataset) -> None:
    next_to_another = 0
    for label in range(24):
        made = one_class(source, source.class_ids[label], negatives=1000)
        own = {file for row, file in enumerate(source.files) if source.labels[row] == label}
        assert {file for file, one in zip(made.files, made.labels, strict=True) if one == 0} == own
        next_to_another += int((has_class(source, label) & (source.labels != label)).sum())
    assert next_to_another > 24, "no image holds two classes: nothing is tested"


def test_the_digest_follows_from_the_parameters(source: Dataset) -> None:
    one = one_class(source, source.class_names[3])
    again = one_class(source, source.class_names[3].upper())
    assert again.digest == one.digest and again.name == one.name
    by_id = one_class(source, source.class_ids[3].upper(), name=one.name)
    other_fold = one_class(source, source.class_names[3], fold=1, name=one.name)
    assert by_id.digest == one.digest != other_fold.digest
    copy = pickle.loads(pickle.dumps(one))
    assert copy.digest == one.digest and np.array_equal(copy.images, one.images)


def test_folds_depend_on_names_alone() -> None:
    names = [f"a/{number}.png" for number in range(53)]
    mixed = names.copy()
    random.Random(1).shuffle(mixed)
    assert dict(zip(names, assign_folds(names), strict=True)) == dict(
        zip(mixed, assign_folds(mixed), strict=True)
    )
    assert sorted(Counter(assign_folds(names).tolist()).values()) == [10, 10, 11, 11, 11]
    assert (assign_folds(names) != assign_folds(names, seed=1)).any() and len(assign_folds([])) == 0


def test_the_bundled_list_is_what_assign_folds_gives() -> None:
    names = [f"train/n01443537/images/n01443537_{number}.JPEG" for number in range(500)]
    expected = {
        name.rpartition("/")[2]: int(fold)
        for name, fold in zip(names, assign_folds(names), strict=True)
    }
    assert bundled_folds() == expected
    assert set(Counter(expected.values()).values()) == {100}


@pytest.mark.data
def test_the_goldfish_of_tiny_imagenet() -> None:
    if "tiny-imagenet" not in list_datasets():
        pytest.skip("TINYSIGHT_DATA does not hold tiny-imagenet")
    made = one_class(open_dataset("tiny-imagenet"), "Goldfish")
    assert made.name == "tiny-imagenet.goldfish" and len(made.boxes) == 550
    assert made.splits == {"train": (0, 800), "minival": (800, 1000), "val": (1000, 1550)}
    folds = bundled_folds()
    for split, count, wanted in (
        ("train", 400, {1, 2, 3, 4}),
        ("minival", 100, {0}),
        ("val", 50, None),
    ):
        files = files_of(made, split, 0)
        assert len(files) == count
        assert wanted is None or {folds[file.rpartition("/")[2]] for file in files} == wanted
    per_class = Counter(made.files[row].split("/")[1] for row in made.rows("minival"))
    assert sorted(per_class.values()) == [10] * 10 + [100]


def test_names() -> None:
    assert (
        slug("Egyptian cat") == "egyptian-cat"
        and slug("potter's wheel, crane") == "potter-s-wheel-crane"
    )
    assert slug("n01443537") == "n01443537" and slug("L'été") == "l-été"
    assert subset_name("a.b", "cat", 0, None) == "a.b.cat"
    assert subset_name("a", "cat", 2, 0) == "a.cat.fold2.negatives0"


def test_classes_are_found_in_any_case_and_the_nearest_is_named(source: Dataset) -> None:
    spaced = next(index for index, name in enumerate(source.class_names) if " " in name)
    name = source.class_names[spaced]
    for written in (name, name.upper(), slug(name), source.class_ids[spaced].upper()):
        assert find_class(source, written) == spaced
    with pytest.raises(ValueError, match=f"scenes has no class '{name}x'; did you mean '{name}'"):
        find_class(source, name + "x")
    with pytest.raises(ValueError, match="has no class 'qqqq'; there are"):
        find_class(source, "qqqq")
    twins = Dataset(
        source.path,
        {**source.manifest, "class_names": ["red cat", "Red-Cat", *source.class_names[2:]]},
    )
    with pytest.raises(ValueError, match="can be several classes of scenes: 'red cat', 'Red-Cat'"):
        find_class(twins, "RED CAT")
    assert find_class(twins, "Red-Cat") == 1


def test_impossible_views_are_one_clear_line(source: Dataset, tmp_path: Path) -> None:
    counts = {"num_train": 200, "num_minival": 0, "num_val": 0, "num_test": 0}
    small = build(Shapes(**counts, image_size=32, name="small"), home=tmp_path, workers=1)
    bare = Dataset(source.path, source.manifest)
    bare.__dict__["boxes"] = np.zeros((0, 4), np.float32)  # as a folder of images would be
    bare.__dict__["box_labels"] = np.zeros(0, np.int64)
    bare.__dict__["box_offsets"] = np.zeros(len(source) + 1, np.int64)
    for dataset, label, arguments, message in (
        (small, 20, {}, "of small has 8 images with boxes to choose from, 5 folds need 10"),
        (source, 3, {"fold": 5}, "fold is 5 of 5; give two folds or more, and a fold from 0 to 4"),
        (source, 3, {"folds": 1}, "fold is 0 of 1"),
        (source, 3, {"negatives": -1}, "negatives is -1"),
        (bare, 3, {}, "has no boxes; a localizer needs a dataset with boxes"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            one_class(dataset, dataset.class_names[label], **arguments)
        assert "\n" not in str(caught.value)
