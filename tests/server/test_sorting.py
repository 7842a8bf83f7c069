"""Sort over HTTP: pictures are looked at, grouped, labeled, learned; nothing is moved."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest
from PIL import Image

from tinysight.corrections import BoxCorrection, LabeledBox, read_corrections
from tinysight.server.sorting import Sorting

COLORS = {"red & hot": (200, 40, 40), "blue": (40, 40, 200), "green": (40, 200, 40)}


def paint(path: Path, color: tuple[int, int, int], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-40, 40, (32, 32, 3))
    Image.fromarray((noise + np.array(color)).clip(0, 255).astype(np.uint8)).save(path)


def ask(client: Any, path: str, content: Any = None) -> dict[str, Any]:
    body = None if content is None else json.dumps(content).encode()
    status, answer = client.ask(f"/api/sort{path}", body)
    assert status == 200, answer
    return dict(json.loads(answer))


def looked(client: Any) -> dict[str, Any]:
    """Look at the folder as it is now; return what there is then."""
    ask(client, "/folders?are_classes", {})
    ask(client, "?look")
    return waited(client)


def waited(client: Any) -> dict[str, Any]:
    """Return what there is when all pictures have been looked at."""
    deadline = time.monotonic() + 60
    while (found := ask(client, "")).get("looking"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@pytest.fixture
def folder(project: Path) -> Iterator[Path]:
    """Twelve loose pictures of two colors, six in a class folder, and a file that is none."""
    shutil.rmtree(project, ignore_errors=True)
    for seed in range(6):
        paint(project / f"r{seed}.png", COLORS["red & hot"], seed)
        paint(project / "2024" / f"b{seed}.png", COLORS["blue"], seed)
        paint(project / "green" / f"g{seed}.png", COLORS["green"], seed)
    (project / "broken.png").write_bytes(b"no picture, but long enough to have a signature")
    yield project
    shutil.rmtree(project)


def files_of(folder: Path) -> dict[str, tuple[bytes, float]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "corrections.jsonl"
    }


def test_a_folder_is_sorted_in_groups_and_learned(client: Any, folder: Path) -> None:
    before = files_of(folder)
    found = looked(client)
    assert (found["pictures"], found["labeled"], found["in_folders"]) == (18, 12, 12)
    assert found["failed"][0].startswith("broken.png: ") and found["num_failed"] == 1
    assert ask(client, "/folders", {}) == {}
    assert ask(client, "")["labeled"] == 0
    groups = ask(client, "/groups", {})["groups"]
    sizes = [(group["class"], len(group["pictures"])) for group in groups]
    assert sizes == [*[(None, 4)] * 4, (None, 2)]
    named = {each["name"]: each["id"] for group in groups for each in group["pictures"]}
    assert {"2024/b0.png", "green/g5.png"} < set(named)
    status, content = client.ask(f"/api/sort/picture/{named['r0.png']}")
    assert (status, Image.open(io.BytesIO(content)).size) == (200, (32, 32))
    file = f"/api/sort/file/{named['r0.png']}"
    assert client.ask(file) == (200, (folder / "r0.png").read_bytes())
    assert client.ask("/api/sort/file/none")[0] == 404
    (folder / "r0.png").rename(folder / "away")
    status, answer = client.ask(file)
    assert (status, json.loads(answer)) == (404, {"error": "r0.png: No such file or directory"})
    (folder / "away").rename(folder / "r0.png")
    some = {named[f"r{n}.png"]: "red & hot" for n in range(3)}
    some |= {named[f"2024/b{n}.png"]: "blue" for n in range(3)}
    assert set(ask(client, "/labels", {"labels": some})["old"].values()) == {None}
    groups = {each["class"]: each["pictures"] for each in ask(client, "/groups", {})["groups"]}
    assert {each["name"] for each in groups["red & hot"]} >= {"r3.png", "r4.png", "r5.png"}
    assert ask(client, "/judge", {})["error_rate"] == 0.0
    rest = {named[f"r{n}.png"]: "red & hot" for n in range(3, 6)}
    rest |= {digest: name.partition("/")[0] for name, digest in named.items() if "/g" in name}
    ask(client, "/labels", {"labels": rest | {named["r0.png"]: "blue"}})
    undone = ask(client, "/labels", {"labels": {named["r0.png"]: "red & hot"}})
    assert undone["old"] == {named["r0.png"]: "blue"}
    own = ask(client, f"/class/{quote('red & hot')}")["pictures"]
    assert [len(own), own[0]["name"]] == [6, "r0.png"]
    assert ask(client, "")["labeled"] == 15
    learned = ask(client, "/learn", {})
    assert (learned["num_images"], learned["error_rate"]) == (12, 0.0)  # a fifth is val
    assert sorted(json.loads(client.ask("/api/models")[1])["taught"]["classes"]) == sorted(COLORS)
    assert files_of(folder) == before


def test_a_model_proposes_the_classes(client: Any, folder: Path) -> None:
    looked(client)
    ask(client, "/folders", {})
    groups = ask(client, "/groups", {})["groups"]
    named = {each["name"]: each["id"] for group in groups for each in group["pictures"]}
    some = {named[f"r{n}.png"]: "red & hot" for n in range(6)}
    some |= {named[f"2024/b{n}.png"]: "blue" for n in range(6)}
    ask(client, "/labels", {"labels": some})
    ask(client, "/learn", {})
    ask(client, "/labels", {"labels": dict.fromkeys(some)})
    found = ask(client, "")
    before = found["classes"]
    assert (found["labeled"], found["proposing"], {"name": "blue", "count": 0} in before) == (
        0,
        "",
        False,
    )
    assert set(found["models"]) == {"given", "taught"}
    ask(client, "/propose?model=taught", {})
    waited(client)
    (folder / "late.png").write_bytes((folder / "r1.png").read_bytes() + b"later")
    found = looked(client)  # what is new since is asked about, too
    ask(client, "/folders", {})
    learned = json.loads(client.ask("/api/models")[1])["taught"]["classes"]
    assert [each["name"] for each in found["classes"]][: len(learned)] == learned
    groups = {each["class"]: each["pictures"] for each in ask(client, "/groups", {})["groups"]}
    found = {name: {each["name"] for each in pictures} for name, pictures in groups.items()}
    assert found["red & hot"] > {*(f"r{n}.png" for n in range(6)), "late.png"}  # and green ones
    assert found["blue"] >= {f"2024/b{n}.png" for n in range(6)}
    assert not any(name.startswith("2024/") for name in found["red & hot"])
    ask(client, "/propose", {})
    found = waited(client)
    assert (found["proposing"], found["classes"]) == ("", before)
    assert {each["class"] for each in ask(client, "/groups", {})["groups"]} == {None}
    status, answer = client.ask("/api/sort/propose?model=none", b"{}")
    assert "no model 'none'" in json.loads(answer)["error"] and status == 200


def test_class_folders_are_learned_with_loose_pictures_left_out(client: Any, folder: Path) -> None:
    shutil.copy(folder / "green" / "g0.png", folder / "again.png")  # before it in the alphabet
    found = looked(client)
    assert (found["pictures"], found["labeled"]) == (18, 12)
    assert {each["name"]: each["count"] for each in found["classes"]} == {"2024": 6, "green": 6}
    named, learned = (command.split() for command in found["commands"])
    assert Path(named[-1]) == folder / "corrections.jsonl"
    assert learned[:2] + learned[3:] == ["tinysight", "finetune", "--from", "bundled"]
    assert read_corrections(folder / "corrections.jsonl") == ()
    assert ask(client, "/learn", {})["num_images"] == 10  # two are kept back
    status, answer = client.ask("/api/learn", b"")
    assert status == 200
    assert json.loads(answer)["error"].startswith(
        "outside of the classes' folders: again.png and 7 more; open Sort"
    )


def test_folders_that_were_chosen_to_be_none_are_none_to_what_is_learned(
    client: Any, folder: Path
) -> None:
    looked(client)
    ask(client, "/folders", {})
    groups = ask(client, "/groups", {})["groups"]
    named = {each["name"]: each["id"] for group in groups for each in group["pictures"]}
    ask(client, "/labels", {"labels": {named[f"r{n}.png"]: "ab"[n % 2] for n in range(6)}})
    found = waited(client)
    assert found["labeled"] == 6 and "--skip-unreadable" in found["commands"][0]  # one is broken
    ask(client, "/learn", {})
    assert json.loads(client.ask("/api/models")[1])["taught"]["classes"] == ["a", "b"]
    (*_, line) = read_corrections(folder / "corrections.jsonl")
    assert line.path.startswith(("2024", "green")) and (line.old, line.new) == (None, None)
    assert looked(client)["labeled"] == 6


def test_a_server_that_was_started_again_looks_before_it_labels(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", COLORS["blue"], 0)
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()

    class Here:
        async def run(self, act: Any, *arguments: Any) -> Any:
            return act(*arguments)

        async def read(self, *arguments: Any) -> Any:
            return SimpleNamespace(square=np.zeros((8, 8, 3), np.uint8))

    async def body(request: Any) -> bytes:
        return json.dumps({"labels": {digest: "blue"}}).encode()

    async def label() -> dict[str, Any]:
        own: Any = SimpleNamespace(begin=lambda _: (8, "crop", set()), look=lambda *_: None)
        here: Any = Here()
        sorting = Sorting(tmp_path, here, here, own, models={}, use=lambda _: None, body=body)
        return await sorting._label(None)  # type: ignore[arg-type]

    assert asyncio.run(label()) == {"old": {digest: None}}
    assert [line.new for line in read_corrections(tmp_path / "corrections.jsonl")] == ["blue"]


def test_what_was_confirmed_is_there_after_the_file_is_read_again(
    client: Any, folder: Path
) -> None:
    looked(client)
    named = {
        e["name"]: e["id"] for g in ask(client, "/groups", {})["groups"] for e in g["pictures"]
    }
    ask(client, "/labels", {"labels": {named["r0.png"]: "red", named["r1.png"]: "red"}})
    ask(client, "/labels", {"labels": {named["r1.png"]: None}})
    lines = read_corrections(folder / "corrections.jsonl")
    assert [(line.path, line.old, line.new) for line in lines] == [
        ("r0.png", None, "red"),
        ("r1.png", None, "red"),
        ("r1.png", "red", None),
    ]
    assert lines[0].time.endswith("+00:00")
    (folder / "r0.png").rename(folder / "renamed.png")
    with (folder / "corrections.jsonl").open("a") as file:
        file.write('{"sha256": "torn')
    found = looked(client)
    assert found["labeled"] == 13 and {"name": "red", "count": 1} in found["classes"]


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("/labels", {"labels": {"0" * 64: "red"}}, "not in the folder"),
        ("/labels", {"labels": 3}, "expected"),
        ("/labels", [], "expected"),
        ("/labels", {"labels": {"ID": "../x"}}, "a class's name"),
        ("/labels", {"labels": {"ID": ""}}, "a class's name"),
        ("/labels", {"labels": {"ID": 0}}, "expected"),
        ("/labels", {"labels": {"ID": False}}, "expected"),
    ],
)
def test_labels_that_cannot_be_kept_are_refused(
    client: Any, folder: Path, path: str, content: Any, words: str
) -> None:
    looked(client)
    assert words in ask(client, path, content)["error"]
    assert (folder / "corrections.jsonl").read_bytes() == b""


def test_a_full_disk_is_said_and_nothing_is_confirmed(
    client: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked(client)
    one = ask(client, "/groups", {})["groups"][0]["pictures"][0]["id"]

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        error = ask(client, "/labels", {"labels": {one: "red"}})["error"]
    assert error.startswith("No space left on device: ") and "corrections.jsonl" in error
    assert ask(client, "")["labeled"] == 12


def test_a_damaged_file_is_named(client: Any, folder: Path) -> None:
    (folder / "corrections.jsonl").write_text("{}\n")
    assert "line 1 of" in looked(client)["error"]
    (folder / "corrections.jsonl").unlink()
    assert looked(client)["labeled"] == 12


@pytest.mark.parametrize("digest", ["0" * 64, "..%2Fbroken.png", "broken.png"])
def test_only_pictures_of_the_folder_are_shown(client: Any, folder: Path, digest: str) -> None:
    looked(client)
    assert client.ask(f"/api/sort/picture/{digest}")[0] == 404


def test_an_answer_is_corrected(client: Any, folder: Path) -> None:
    data = (folder / "r0.png").read_bytes()
    for query in ("old=dog&new=red", "old=red"):
        status, content = client.ask(f"/api/corrections?name=a%2Fb.png&{query}", data)
        assert (status, json.loads(content)) == (200, {})
    first, second = read_corrections(folder / "corrections.jsonl")
    assert first.sha256 == hashlib.sha256(data).hexdigest() == second.sha256
    assert [(each.old, each.new) for each in (first, second)] == [("dog", "red"), ("red", None)]
    for new in ("", "%20", "a%0Ab", "x" * 201):
        status, content = client.ask(f"/api/corrections?new={new}", data)
        assert "a class's name" in json.loads(content)["error"]
    assert len(read_corrections(folder / "corrections.jsonl")) == 2


def test_boxes_are_kept_and_wrong_ones_refused(client: Any, folder: Path) -> None:
    data = (folder / "r0.png").read_bytes()

    def send(boxes: object, body: bytes = data) -> str:
        query = urlencode({"name": "b.png", "label": "red", "boxes": json.dumps(boxes)})
        status, content = client.ask(f"/api/boxes?{query}", body)
        assert status == 200
        return str(json.loads(content).get("error", ""))

    good = {"box": [0, 0.5, 32, 32], "label": "blue"}
    for boxes in ([good, {"box": [1, 2, 3, 4]}], [], None):
        assert send(boxes) == ""
    path, nan, huge = folder / "corrections.jsonl", float("nan"), 10**400
    lines = read_corrections(path)
    assert [(each.old, each.new) for each in lines] == [("red", "red")] * 3
    assert looked(client)["commands"][0].endswith("corrections.jsonl")  # none is left
    found = [each.boxes for each in lines if isinstance(each, BoxCorrection)]
    kept = (LabeledBox((0, 0.5, 32, 32), "blue"), LabeledBox((1, 2, 3, 4)))
    assert found == [kept, (), None]
    outside = ([0, 0, 33, 9], [0, 0, 9, 33], [-1, 0, 9, 9], [0, -1, 9, 9], [0, 0, 1, 9])
    for box in (*outside, [0, 0, 9, 1]):
        assert "within the picture's 32 x 32" in send([good, {"box": box}])
    empty = ([3, 3, 3, 9], [3, 9, 9, 3], [0, 0, nan, 9], [0, 0, huge, 9], [0, 0, True, 9])
    for wrong in (*empty, ["0", 0, 9, 9], [0, 0, 9], "box", None):
        assert "box 2 is" in send([good, {"box": wrong}])
    assert "at most 200 boxes" in send([good] * 201)
    assert "expected a list" in send({"box": [0, 0, 9, 9]})
    assert "expected a name" in send([good | {"label": 3}])
    assert "a class's name" in send([good | {"label": "a\nb"}])
    assert send([good], b"no picture, but long enough for a signature") != ""
    assert "expected ?boxes=" in json.loads(client.ask("/api/boxes?boxes=[", data)[1])["error"]
    assert read_corrections(path) == lines
    assert send([good]) == ""
    assert looked(client)["commands"][0].endswith("corrections.jsonl --only-labels")
    assert looked(client)["labeled"] == 12


def test_a_picture_keeps_the_class_of_its_folder(client: Any, folder: Path) -> None:
    looked(client)
    ids = {each["name"]: each["id"] for each in ask(client, "/class/green")["pictures"]}
    one, other = ids["green/g0.png"], ids["green/g1.png"]
    ask(client, "/labels", {"labels": {one: "blue"}})
    error = ask(client, "/labels", {"labels": {one: None, other: None}})["error"]
    assert "g1.png cannot be without a class: its folder is its class" in error
    assert ask(client, "/labels", {"labels": {one: "green"}}) == {"old": {one: "blue"}}
    assert "its folder is its class" in ask(client, "/labels", {"labels": {one: None}})["error"]
    ask(client, "/folders", {})
    assert ask(client, "/labels", {"labels": {one: None}}) == {"old": {one: "green"}}


def test_names_that_are_there_are_given_again(client: Any, folder: Path) -> None:
    (folder / "green").rename(folder / "why?")  # as systems other than Windows allow
    looked(client)
    one = ask(client, f"/class/{quote('why?', safe='')}")["pictures"][0]["id"]
    data = (folder / "r0.png").read_bytes()
    assert client.ask("/api/corrections?name=r0.png&old=dog&new=what%3F", data)[0] == 200
    loose = hashlib.sha256(data).hexdigest()
    old = ask(client, "/labels", {"labels": {one: "red", loose: "red"}})["old"]
    assert old == {one: "why?", loose: "what?"}
    assert ask(client, "/labels", {"labels": old}) == {"old": {one: "red", loose: "red"}}
    assert "a class's name has" in ask(client, "/labels", {"labels": {one: "who?"}})["error"]
