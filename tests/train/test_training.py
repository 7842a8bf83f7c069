"""What a run learns from, and what it is then not to be judged on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tinysight.config import Run
from tinysight.data import one_class, shapes
from tinysight.data.pack import Pack
from tinysight.train.training import num_learned

MakeRun = Callable[..., Run]


def test_images_of_another_fold_have_been_learned_from(make_run: MakeRun, tmp_path: Path) -> None:
    counts = {"num_train": 240, "num_minival": 24, "num_val": 24, "num_test": 0}
    scenes = shapes.prepare(home=tmp_path, **counts, image_size=32, name="scenes", workers=1)
    first, second = (one_class.prepare(scenes, scenes.class_names[2], home=tmp_path, fold=fold) for fold in (0, 1))
    run = make_run(train__batch_size=2)
    trained_on = {first.files[row] for row in first.rows("train")}
    shared = trained_on & {second.files[row] for row in second.rows("minival")}
    assert shared
    assert num_learned(run, first, second, "minival") == len(shared)
    assert num_learned(run, first, first, "minival") == num_learned(run, first, second, "val") == 0


def test_a_split_that_was_learned_from_counts_whole_or_by_its_share(pack: Pack, make_run: MakeRun) -> None:
    run = make_run(data__train="train+minival", data__monitor="none", schedule__name="linear")
    assert num_learned(run, pack, pack, "minival") == 24
    assert num_learned(make_run(data__fraction=1 / 3), pack, pack, "train") == 24


def test_pixels_count_and_not_names(pack: Pack, make_run: MakeRun, tmp_path: Path) -> None:
    counts = {"num_train": 72, "num_minival": 24, "num_val": 24, "num_test": 12}
    other = shapes.prepare(home=tmp_path, **counts, image_size=32, objects=(2, 2), name="other", workers=1)
    assert set(other.files) == set(pack.files)
    assert num_learned(make_run(), pack, other, "train") == 0
    assert num_learned(make_run(), pack, pack, "train+minival") == 72
