"""A folder of class folders that a page fills: what is kept, undone, and refused."""

from __future__ import annotations

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


def test_nothing_outside_the_folder_is_touched(project: Project, tmp_path: Path) -> None:
    file = project.add("cat", PNG)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(PNG)
    for wrong in ("../other", "..", ".", "", ".removed", str(tmp_path / "other")):
        for act in (
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
