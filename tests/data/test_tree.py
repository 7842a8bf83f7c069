"""Paths, folders and patterns stand for images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tinysight.data.tree import find_images


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b/2.png", "b/c/1.JPG", "a [1].png", ".hidden/x.png", "b/.y.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")
    (tmp_path / "b" / "notes.txt").write_text("a text")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["b"], ["b/2.png", "b/c/1.JPG"]),
        (["."], ["a [1].png", "b/2.png", "b/c/1.JPG"]),
        (["b/*"], ["b/2.png", "b/c/1.JPG"]),
        (["**/*.JPG"], ["b/c/1.JPG"]),
        (["a [1].png", "missing.png", "b/notes.txt"], ["a [1].png", "missing.png", "b/notes.txt"]),
    ],
)
@pytest.mark.usefixtures("pictures")
def test_paths_stand_for_images(paths: list[str], expected: list[str]) -> None:
    assert [str(path) for path in find_images(paths)] == expected


def test_home_is_expanded(pictures: Path) -> None:
    assert find_images(["~/b/*.png"]) == find_images([str(pictures / "b/2.png")])


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("path", ["empty", "*.gif", "b/*.txt"])
def test_nothing_found_is_an_error(path: str) -> None:
    with pytest.raises(ValueError, match="has no image of a kind that is read"):
        find_images([path])
