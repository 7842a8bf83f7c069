"""A folder of class folders that a page fills: what is kept, undone, and refused."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinysight.server.project import ClassFolder, Project, checked

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
JPEG = b"\xff\xd8\xff" + b"\0" * 40


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "pets")
    assert project.classes() == []
    for name in ("cat", "dog"):
        project.create(name)
    return project


def test_pictures_are_kept_byte_for_byte_under_their_class(project: Project) -> None:
    png, jpeg = project.add("cat", PNG), project.add("cat", JPEG)
    assert (png[-4:], jpeg[-4:]) == (".png", ".jpg")
    assert project.picture("cat", png).read_bytes() == PNG
    assert project.add("cat", PNG) == png
    assert project.classes() == [
        ClassFolder("cat", tuple(sorted((png, jpeg)))),
        ClassFolder("dog", ()),
    ]
    with pytest.raises(ValueError, match="in cat already"):
        project.add("dog", PNG)


def test_every_change_has_its_inverse(project: Project) -> None:
    file = project.add("cat", PNG)
    before = project.classes()
    project.remove("cat", file)
    assert project.classes()[0].files == ()
    project.restore("cat", file)
    assert project.classes() == before
    project.move("cat", file, "dog")
    assert project.classes()[1].files == (file,)
    project.move("dog", file, "cat")
    project.rename("cat", "lynx")
    assert [known.name for known in project.classes()] == ["dog", "lynx"]
    project.rename("lynx", "cat")
    assert project.classes() == before
    project.remove("cat", file)
    project.delete("cat")
    project.restore("cat", file)
    assert project.classes() == before


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("cat", True),
        ("big cat", True),
        ("größe 10", True),
        ("猫", True),
        ("c++", True),
        ("", False),
        (".", False),
        ("..", False),
        (".hidden", False),
        (" cat", False),
        ("cat.", False),
        ("a/b", False),
        ("a\\b", False),
        ("<img>", False),
        ("a\nb", False),
        ("a\0b", False),
        ("\u202ecat", False),
        ("\ud800", False),
        ("x" * 81, False),
    ],
)
def test_names_are_plain(name: str, valid: bool) -> None:
    if valid:
        assert checked(name) == name
    else:
        with pytest.raises(ValueError, match="a class's name has"):
            checked(name)


def test_a_picture_of_a_folder_with_any_name_is_put_back(project: Project) -> None:
    name = "cafe\u0301 " + "x" * 90  # as macOS spells it, and longer than a name given here
    (project.folder / name).mkdir(parents=True)
    file = project.add(name, PNG)
    project.remove(name, file)
    project.restore(name, file)
    assert project.picture(name, file).is_file()
    for other in ("..", "../x", "none"):
        with pytest.raises(ValueError, match="was not taken out"):
            project.restore(other, file)


def test_letters_of_two_characters_are_one_name() -> None:
    for name in ("CON", "nul.txt", "com1"):
        with pytest.raises(ValueError, match="a device on Windows"):
            checked(name)
    assert checked("console") == "console"
    assert checked("cafe\u0301") == "caf\u00e9"


def test_nothing_outside_the_folder_is_touched(project: Project, tmp_path: Path) -> None:
    file = project.add("cat", PNG)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(PNG)
    for wrong in ("../other", "..", ".", "", ".removed", str(tmp_path / "other")):
        for act in (
            lambda name: project.create(name),
            lambda name: project.picture(name, "a.png"),
            lambda name: project.remove(name, "a.png"),
            lambda name: project.restore(name, "a.png"),
            lambda name: project.move("cat", file, name),
            lambda name: project.rename(name, "new"),
            lambda name: project.rename("cat", name),
            lambda name: project.add(name, JPEG),
            lambda name: project.delete(name),
        ):
            with pytest.raises(ValueError, match=r"class|taken out"):
                act(wrong)
    for wrong in ("../dog", "../../other/a.png", "", "."):
        with pytest.raises(ValueError, match="no picture"):
            project.remove("cat", wrong)
        with pytest.raises(ValueError, match="not taken out"):
            project.restore("cat", wrong)
    assert project.classes()[0].files == (file,)
    assert (tmp_path / "other" / "a.png").read_bytes() == PNG


def test_a_class_with_pictures_is_not_deleted_and_names_are_not_taken_twice(
    project: Project,
) -> None:
    project.add("cat", PNG)
    with pytest.raises(ValueError, match="has pictures"):
        project.delete("cat")
    with pytest.raises(ValueError, match="dog already"):
        project.rename("cat", "dog")
    (project.folder / "dog" / "notes.txt").write_text("mine")
    (project.folder / "dog" / "a.png.tmp-77").write_text("half a picture")
    with pytest.raises(ValueError, match="not pictures"):
        project.delete("dog")
    (project.folder / "dog" / "notes.txt").unlink()
    project.delete("dog")
    assert [known.name for known in project.classes()] == ["cat"]


ADDING = """
import sys
from pathlib import Path
from tinysight.server.project import Project
project, number = Project(Path(sys.argv[1])), int(sys.argv[2])
project.create("cat")
while True:
    number += 1
    data = b"\\x89PNG\\r\\n\\x1a\\n" + number.to_bytes(4, "big") * 50_000
    file = project.add("cat", data)
    if number % 3 == 0:
        project.remove("cat", file)
    print(number, file, flush=True)
"""


def test_what_was_confirmed_survives_kill_minus_nine(tmp_path: Path) -> None:
    number, kept, taken = 0, set[str](), set[str]()
    for seed in range(4):
        command = [sys.executable, "-c", ADDING, str(tmp_path / "pets"), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(random.Random(seed).uniform(0.0, 0.1))
            process.kill()
            for line in [first, *process.stdout]:
                number, file = int(line.split()[0]), line.split()[1]
                (taken if number % 3 == 0 else kept).add(file)
        number += 1  # which may be there without having been confirmed
        project = Project(tmp_path / "pets")
        [found] = project.classes()
        assert kept <= set(found.files)
        for name in found.files:  # nothing is there in part
            data = project.picture("cat", name).read_bytes()
            assert name.startswith(hashlib.sha256(data).hexdigest()[:16])
        for name in taken - set(found.files):
            project.restore("cat", name)
            project.remove("cat", name)
    assert len(kept) >= 4
