"""Packs that are cut from others: the commands that make them, and the names that are enough to
have them made.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tinysight.cli.datasets import open_or_draw
from tinysight.data import shapes
from tinysight.data.dataset import Dataset

Tinysight = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def scenes(home: Path) -> Dataset:
    """10 + 1 + 5 images of each class, under a name with a dot in it."""
    counts = {"num_train": 240, "num_minival": 24, "num_val": 120, "num_test": 0}
    return shapes.prepare(home=home, **counts, image_size=32, name="my.scenes", workers=1)


@pytest.fixture
def tinysight(
    scenes: Dataset, home: Path, monkeypatch: pytest.MonkeyPatch, run_command: Tinysight
) -> Tinysight:
    """Run a command line in this process; return exit status, output and errors."""
    monkeypatch.setenv("TINYSIGHT_DATA", str(home))
    return run_command


def test_the_commands_make_what_the_names_make(
    tinysight: Tinysight, scenes: Dataset, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "my.scenes").symlink_to(scenes.path)
    for words, name in (
        (("one-class", "my.scenes", "Plain Disc", "--fold", "2"), "my.scenes.plain-disc.fold2"),
        (
            ("one-class", "my.scenes", "plain-disc", "--negatives", "5"),
            "my.scenes.plain-disc.negatives5",
        ),
        (("one-class", "my.scenes", "plain-disc"), "my.scenes.plain-disc"),
        (("mosaics", "my.scenes", "plain-disc"), "my.scenes.plain-disc.mosaics"),
        (("mosaics", "my.scenes"), "my.scenes.mosaics"),
    ):
        status, out, err = tinysight("data", *words)
        assert status == 0, err
        assert out.startswith(f"{name}: ")
        by_name = open_or_draw(name, tmp_path)
        assert by_name.digest == open_or_draw(name, home).digest and by_name.path.parent == tmp_path
    status, out, err = tinysight("data", "info", "my.scenes.plain-disc")
    assert "source: one-class my.scenes (a pack)" in out


def test_a_name_is_enough_once_and_is_said(
    scenes: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.scenes").symlink_to(scenes.path)
    name = "my.scenes.plain-disc.fold1"
    made = open_or_draw(name, tmp_path)
    assert capsys.readouterr().err == f"making {name}: plain disc of my.scenes\n"
    assert open_or_draw(name, tmp_path) == made and capsys.readouterr().err == ""
    # The pack of one class does not shadow its source: this is the class of my.scenes
    open_or_draw("my.scenes.plain-disc", tmp_path)
    scene = open_or_draw("my.scenes.plain-disc.mosaics", tmp_path)
    assert scene.manifest["source"]["path"] == "my.scenes"


def test_shapes_of_several_objects(
    tinysight: Tinysight, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = {}

    def prepare(*, home: Path, objects: tuple[int, int], name: str, **others: object) -> Dataset:
        asked[name] = objects
        counts = {"num_train": 24, "num_minival": 0, "num_val": 0, "num_test": 0}
        return original(home=home, objects=objects, name=name, workers=1, image_size=32, **counts)

    original = shapes.prepare
    monkeypatch.setattr(shapes, "prepare", prepare)
    home = ("--data-dir", str(tmp_path))
    for words in ((), ("--objects", "2,4"), ("--objects", "3, 3", "--name", "three")):
        status, _, err = tinysight("data", "get", "shapes", *words, *home)
        assert status == 0, err
    assert open_or_draw("shapes-1-2", tmp_path).name == "shapes-1-2"
    assert asked == {"shapes": (1, 1), "shapes-2-4": (2, 4), "three": (3, 3), "shapes-1-2": (1, 2)}
    with pytest.raises(ValueError, match="1 <= fewest <= most"):
        monkeypatch.undo()
        open_or_draw("shapes-4-2", tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("one-class", "my.scenes", "plain disk"), "did you mean 'plain disc'?"),
        (("one-class", "shapez", "plain disc"), "there is no pack 'shapez'"),
        (("one-class", "tiny-imagenet", "goldfish"), "tinysight data get tiny-imagenet"),
        (("one-class", "tiny-imagenet.goldfish", "goldfish"), "`tinysight data get tiny-imagenet`"),
        (("one-class", "my.scenes.disc", "disc"), "my.scenes has no class 'disc'"),
        (("mosaics", "my.scenes", "plain disk"), "did you mean 'plain disc'?"),
        (("get", "shapes", "--objects", "2"), "give FEWEST,MOST, as 2,4"),
        (("get", "shapes", "--objects", "4,2"), "1 <= fewest <= most"),
        (("get", "tiny-imagenet", "--objects", "2,4"), "--objects and --name are for shapes"),
    ],
)
def test_bad_input_is_one_clear_line(
    tinysight: Tinysight, words: tuple[str, ...], expected: str
) -> None:
    status, out, err = tinysight("data", *words)
    assert (status, out) == (1, "")
    assert expected in err and err.startswith("error: ") and err.count("\n") == 1


def test_every_command_teaches_by_example(tinysight: Tinysight) -> None:
    for command in ("one-class", "mosaics"):
        status, out, _ = tinysight("data", command, "--help")
        assert status == 0 and "Examples" in out
        assert f"tinysight data {command}" in " ".join(out.split())
