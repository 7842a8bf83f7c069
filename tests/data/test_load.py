"""Loading by name or folder: names are enough for views and drawn scenes, folders are imported."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinysight.data import load
from tinysight.data.annotations import BoxRules
from tinysight.data.boxed_folder import BoxedFolderSource
from tinysight.data.build import build, features_folder, remove_dataset
from tinysight.data.dataset import Dataset, list_datasets, open_dataset
from tinysight.data.folder import FolderSource
from tinysight.data.load import load_dataset
from tinysight.data.shapes import Shapes
from tinysight.data.subset import one_class

Tinysight = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def scenes(home: Path) -> Dataset:
    """10 + 1 + 5 images of each class, under a name with a dot in it."""
    counts = {"num_train": 240, "num_minival": 24, "num_val": 120, "num_test": 0}
    return build(Shapes(**counts, image_size=32, name="my.scenes"), home=home, workers=1)


@pytest.fixture
def tinysight(
    scenes: Dataset, home: Path, monkeypatch: pytest.MonkeyPatch, run_command: Tinysight
) -> Tinysight:
    """Run a command line in this process; return exit status, output and errors."""
    monkeypatch.setenv("TINYSIGHT_DATA", str(home))
    return run_command


def put_pets(root: Path, num: int = 3) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(num):
            color = (40 * number, 80, 200 if name == "cat" else 10)
            Image.new("RGB", (20, 10), color).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("name", "kind", "fold", "negatives"),
    [
        ("my.scenes.plain-disc", "one-class", 0, None),
        ("my.scenes.plain-disc.fold2", "one-class", 2, None),
        ("my.scenes.plain-disc.fold1.negatives5", "one-class", 1, 5),
        ("my.scenes.plain-disc.mosaics", "mosaics", None, None),
        ("my.scenes.mosaics", "mosaics", None, None),
    ],
)
def test_views_are_made_from_their_name_and_write_nothing(
    scenes: Dataset, home: Path, name: str, kind: str, fold: int | None, negatives: int | None
) -> None:
    before = sorted(home.rglob("*"))
    view = load_dataset(name, home=home)
    assert (view.name, view.path) == (name, None)
    assert (
        view.manifest["source"]["kind"] == kind and view.manifest["source"]["path"] == "my.scenes"
    )
    assert load_dataset(name, home=str(home)).digest == view.digest
    if fold is not None:
        same = one_class(scenes, "Plain Disc", fold=fold, negatives=negatives)
        assert same.digest == view.digest and same.name == name
    assert sorted(home.rglob("*")) == before


def test_names_of_shapes_state_the_number_of_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: Tinysight
) -> None:
    def small(*, name: str, objects: tuple[int, int]) -> Shapes:
        counts = {"num_train": 24, "num_minival": 0, "num_val": 0, "num_test": 0}
        return Shapes(name=name, objects=objects, image_size=32, **counts)

    monkeypatch.setattr(load, "Shapes", small)
    assert load_dataset("shapes", home=tmp_path).manifest["source"]["fingerprint"].endswith("1x1")
    two = load_dataset("shapes-1-2", home=tmp_path)
    assert two.manifest["source"]["fingerprint"].endswith("1x2")
    assert load_dataset("shapes-1-2", home=tmp_path).digest == two.digest
    assert load_dataset(two, home="nowhere") is two
    assert list_datasets(tmp_path) == ("shapes", "shapes-1-2")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="1 <= fewest <= most"):
        load_dataset("shapes-4-2", home=tmp_path)


def test_a_folder_is_imported_once_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    folder = put_pets(tmp_path / "my 🐈 pets")
    steps: list[tuple[int, int]] = []
    first = load_dataset("~/my 🐈 pets", home=home, progress=lambda *step: steps.append(step))
    assert first.name == "my - pets" and first.image_size == 64 and steps[-1] == (6, 6)
    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "index", property(lambda _: pytest.fail("listed again")))
        for same in (folder, str(folder), "my 🐈 pets", first.path, str(first.path), first.name):
            assert load_dataset(same, home=home).digest == first.digest
    assert load_dataset(folder, home=home, image_size=32).image_size == 32
    stretched = load_dataset(folder, home=home, image_size="auto", fit="stretch")
    assert (first.fit, stretched.fit, stretched.image_size) == ("crop", "stretch", 32)
    put_pets(folder, 4)
    changed = load_dataset(folder, home=home)
    assert (len(changed), changed.image_size, changed.fit) == (8, 32, "stretch")  # as before


def test_options_of_a_folder_are_refused_for_what_is_prepared(
    scenes: Dataset, home: Path, tmp_path: Path
) -> None:
    for given in ("my.scenes", scenes):
        with pytest.raises(
            ValueError, match=r"image_size is of a folder .* my\.scenes is prepared"
        ):
            load_dataset(given, home=home, image_size=96)
    with pytest.raises(ValueError, match="fit is of a folder"):
        load.load_at_size("my.scenes", 64, home=home, fit="pad")


@pytest.mark.parametrize("view", ["fold0", "draw2-0"])
def test_views_of_shapes_draw_the_shapes_first(
    view: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"num_train": 240, "num_minival": 24, "num_val": 48, "num_test": 0, "image_size": 32}
    monkeypatch.setattr(load, "Shapes", partial(Shapes, **few))
    found = load_dataset(f"shapes.{view}", home=tmp_path)
    assert found.name == f"shapes.{view}" and len(found.class_names) == 24
    assert list(list_datasets(tmp_path)) == ["shapes"]


def test_a_zip_is_imported_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(put_pets(tmp_path / "pets").parent)
    shutil.make_archive("animals", "zip", tmp_path, "pets")
    made = [load_dataset(name, home=tmp_path) for name in ("animals.zip", Path("animals.zip"))]
    assert made[0].name == "animals" and made[0].digest == made[1].digest
    assert made[0].class_names == ("cat", "dog")


def test_a_changed_folder_with_boxes_needs_its_boxes_again(tmp_path: Path) -> None:
    folder = put_pets(tmp_path / "pets")
    lines = [f"{name}/{n}.png,5,0,15,10" for name in ("cat", "dog") for n in range(3)]
    (tmp_path / "boxes.csv").write_text("\n".join(["file,x0,y0,x1,y1", *lines]))
    source = BoxedFolderSource(folder, "pets", 32, boxes=tmp_path / "boxes.csv")
    boxed = build(source, home=tmp_path / "home", workers=1)
    assert load_dataset(folder, home=tmp_path / "home").digest == boxed.digest
    put_pets(folder, 4)
    with pytest.raises(ValueError, match=r"has changed since .* tinysight data import .* --boxes"):
        load_dataset(folder, home=tmp_path / "home")


def test_the_command_that_imports_again_can_be_pasted_and_keeps_the_settings(
    tmp_path: Path,
) -> None:
    folder = put_pets(tmp_path / "my pets")
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\ncat/0.png,5,0,15,10\n")
    rules = BoxRules("empty", skip_bad=True, origin="0")
    own: dict[str, Any] = {"boxes": tmp_path / "boxes.csv", "rules": rules, "fit": "stretch"}
    build(BoxedFolderSource(folder, "my pets", 32, **own), home=tmp_path / "home", workers=1)
    put_pets(folder, 4)
    with pytest.raises(ValueError) as caught:
        load_dataset(folder, home=tmp_path / "home")
    expected = ["--name", "my pets", "--boxes", "FILE", "--size", "32", "--fit", "stretch"]
    expected += ["--unlabeled", "empty", "--boxes-origin", "0", "--skip-bad-boxes"]
    words = shlex.split(str(caught.value).partition("import it again: ")[2])
    assert words == ["tinysight", "data", "import", str(folder), *expected]


def test_a_second_folder_of_a_name_has_a_dataset_of_its_own(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first, second = (put_pets(tmp_path / name / "pictures", 3 + n) for n, name in enumerate("ab"))
    one, two = (load_dataset(folder, home=home, image_size=8) for folder in (first, second))
    assert one.name == "pictures" and re.fullmatch(r"pictures-[0-9a-f]{4}", two.name)
    assert load_dataset(second, home=home).digest == two.digest != one.digest
    sized = [load.load_at_size(folder, 16, home=home, fit="pad") for folder in (first, second)]
    assert [len(data) for data in sized] == [6, 8]
    assert sized[1].name == sized[0].name + two.name.removeprefix("pictures")
    remove_dataset("pictures", home)
    assert load_dataset(second, home=home).name == two.name  # as before
    assert load.find_prepared(str(second), home=home).digest == two.digest


def test_what_is_not_readable_is_skipped_of_a_folder_that_was_imported_before(
    tmp_path: Path,
) -> None:
    home, folder = tmp_path / "home", put_pets(tmp_path / "pets")
    load_dataset(folder, home=home, image_size=8)
    (folder / "cat/9.png").write_bytes(b"text")
    with pytest.raises(ValueError, match="skip-unreadable"):
        load.load_at_size(folder, 8, home=home)
    assert len(load.load_at_size(folder, 8, home=home, on_unreadable="skip")) == 6


def test_a_dataset_by_name_whose_source_has_changed_is_warned_of(
    tmp_path: Path, messages: list[str]
) -> None:
    home, folder = tmp_path / "home", put_pets(tmp_path / "pets")
    load_dataset(folder, home=home, image_size=8)
    assert load.load_at_size("pets", 8, home=home).name == "pets" and messages == []
    put_pets(folder, 4)
    assert len(load.load_at_size("pets", 8, home=home)) == 6
    assert messages == [f"warning: {load.CHANGED % 'pets'}"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my.scenes.plain-disk", "did you mean 'plain disc'?"),
        ("my.scenes.plain-disk.mosaics", "did you mean 'plain disc'?"),
        ("my.scenes.disc.fold1", "my.scenes has no class 'disc'"),
        ("my.scenes.plain-disc.fold5", "fold is 5 of 5"),
        ("shapez.plain-disc", "there is no dataset 'shapez.plain-disc'"),
        ("my.scene", "did you mean 'my.scenes'?"),
        ("tiny-imagenet.goldfish.fold2", "use: tinysight data get tiny-imagenet"),
        ("./nowhere", "'nowhere' is not a folder"),
    ],
)
def test_unknown_names_are_one_clear_line(
    tinysight: Tinysight, home: Path, name: str, expected: str
) -> None:
    with pytest.raises(ValueError) as caught:
        load_dataset(name, home=home)
    assert expected in str(caught.value)
    status, out, err = tinysight("data", "info", name)
    assert (status, out) == (1, "")
    assert expected in err and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("get", "shapes", "--objects", "2"), "give MIN,MAX, for example 2,4"),
        (("get", "shapes", "--objects", "4,2"), "1 <= fewest <= most"),
        (("get", "tiny-imagenet", "--objects", "2,4"), "--objects and --name are for shapes"),
        (("get", "shapes", "--source", "x"), "shapes is drawn"),
        (("get", "shapez"), "there are tiny-imagenet and shapes"),
        (("show", "my.scenes", "--split", "test"), "has no such image in test"),
    ],
)
def test_bad_commands_are_one_clear_line(
    tinysight: Tinysight, words: tuple[str, ...], expected: str
) -> None:
    status, out, err = tinysight("data", *words)
    assert (status, out) == (1, "")
    assert expected in err and err.startswith("error: ") and err.count("\n") == 1


def test_commands_take_names_of_views(
    tinysight: Tinysight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = tinysight("data", "info", "my.scenes.plain-disc", "--verify")
    assert status == 0, err
    assert "source: one-class, a view of my.scenes" in out and "checksum" in out
    status, out, err = tinysight("data", "show", "my.scenes.mosaics", "--count", "4")
    assert status == 0, err
    with Image.open(tmp_path / out.strip()) as sheet:
        assert np.asarray(sheet).std() > 10


def test_datasets_are_listed_with_their_sizes(
    tinysight: Tinysight, home: Path, scenes: Dataset
) -> None:
    broken = home / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "manifest.json").write_text("{")
    status, out, _ = tinysight("data", "list")
    lines = [line.split() for line in out.splitlines()]
    assert status == 0 and lines[0] == ["name", "images", "classes", "pixels", "MB", "source"]
    assert ["my.scenes", "384", "24", "32", "1.2", "shapes"] in [line[:6] for line in lines]
    assert scenes.num_bytes == sum(file.stat().st_size for file in (home / "my.scenes").iterdir())
    (damaged,) = (line for line in out.splitlines() if line.startswith("broken"))
    assert "manifest.json is damaged" in damaged


def test_only_datasets_are_removed_and_only_when_confirmed(
    tinysight: Tinysight, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pets = build(FolderSource(put_pets(tmp_path / "pets"), "pets", 8), home=home, workers=1).path
    assert pets is not None
    asked = []
    monkeypatch.setattr("typer.confirm", lambda text, abort: asked.append(text) or exit(1))
    assert tinysight("data", "remove", "pets")[0] == 1 and pets.is_dir()
    assert asked == [f"remove {pets} (0 MB)?"]
    (pets / "mine.jpg").touch()
    status, _, err = tinysight("data", "remove", "pets", "--yes")
    assert status == 1 and "is not a dataset" in err and (pets / "mine.jpg").exists()
    (pets / "mine.jpg").unlink()
    kept = [features_folder(home, one) for one in (open_dataset("pets", home=home).digest, "other")]
    for folder in kept:
        (folder / "of an encoder").mkdir(parents=True)
    assert tinysight("data", "remove", "pets", "--yes")[0] == 0 and not pets.exists()
    assert [folder.exists() for folder in kept] == [False, True]
    build(FolderSource(tmp_path / "pets", "pets", 8), home=home, workers=1)
    (pets / "labels.npy").unlink()  # damaged ones go, too
    assert tinysight("data", "remove", "pets", "--yes")[0] == 0 and not pets.exists()
    assert not list(home.glob(".pets.tmp*")) and (tmp_path / "pets" / "cat").is_dir()
    for name in ("pets", "../pets", ".", ""):
        assert tinysight("data", "remove", name, "--yes")[0] == 1


def test_a_zip_by_its_bare_name_is_found_again_once_it_was_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("my pets.zip", "w") as archive:
        for number in range(24):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(buffer, "PNG")
            archive.writestr(f"{'cat' if number % 2 else 'dog'}/{number}.png", buffer.getvalue())
    first = load_dataset("my pets.zip", home=tmp_path / "data")
    assert load_dataset("my pets.zip", home=tmp_path / "data").digest == first.digest
    assert first.class_names == ("cat", "dog")
