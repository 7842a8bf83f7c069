"""The commands: a study from its answers to the exported files, and what is refused."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch

from tinysight.api import quiz as module
from tinysight.data.build import build
from tinysight.data.dataset import Dataset
from tinysight.data.shapes import Shapes
from tinysight.evaluation.evaluate import Evaluation
from tinysight.people import store
from tinysight.people.material import Material
from tinysight.people.store import Given, Store

Tinysight = Callable[..., tuple[int, str, str]]
ABOUT = {"split": "val", "num_images": 10, "seed": 0}


@pytest.fixture
def study(dataset: Dataset, data_home: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    """Two people: one is always right, the other answers half."""
    monkeypatch.setenv("TINYSIGHT_DATA", str(data_home))
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path / "runs"))
    path = tmp_path / "answers.db"
    material = Material(dataset, "val", {}, num_images=10)
    with closing(Store(str(path), digest=dataset.digest, about=ABOUT)) as store:
        for limit in (99, 5):
            names = dataset.class_names
            code, _ = store.register("full", names, lambda n: material.plan("full", range(24), n))
            for key, item, _ in store.person(code).items[:limit]:
                store.answer(code, key, Given(item.target, 2.0))
    return path


def test_export_with_a_network(
    run_command: Tinysight, study: Path, tmp_path: Path, monkeypatch: Any, dataset: Dataset
) -> None:
    rows = dataset.rows("val")
    labels = torch.from_numpy(dataset.labels[rows.start : rows.stop].copy())
    logits = torch.eye(24)[(labels + 1) % 24]  # wrong everywhere
    evaluation = Evaluation("small", "val", logits, labels, torch.arange(rows.start, rows.stop))
    monkeypatch.setattr(module, "load_model", lambda source, device: None)
    monkeypatch.setattr(module.evaluations, "evaluate", lambda *a, **k: evaluation)
    (tmp_path / "weights").touch()
    monkeypatch.setattr(module, "find_weights", lambda source: tmp_path / "weights")
    out = tmp_path / "out"
    command = ["people", "export", "small", "--networks", "bundled", "--db", str(study)]
    status, _, err = run_command(*command, "--out", str(out))
    assert status == 1 and "the rules exclude everybody" in err and not out.exists()
    status, text, err = run_command(*command, "--out", str(out), "--people", "all")
    assert status == 0, err
    assert text.splitlines() == [
        f"16 answers of 2 people in {out}",
        "13 answers of 1 network to the same images",
        "  included all the same: subject-01, 11 answers, fewer than 20",
        "  included all the same: subject-02, 5 answers, fewer than 20",
    ]
    counts = np.load(out / "counts.npy")
    assert counts.sum() == counts.max(axis=1).sum()  # people were right
    files = sorted(path.name for path in (out / "model-vs-human" / "small-full").iterdir())
    assert files == [
        "small-full_bundled_session-1.csv",
        "small-full_subject-01_session_1.csv",
        "small-full_subject-02_session_1.csv",
    ]
    network = (out / "model-vs-human" / "small-full" / files[0]).read_text().splitlines()[1:]
    assert len(network) == len(counts)
    assert all(line.split(",")[4] != line.split(",")[5] for line in network)


@pytest.mark.parametrize("command", ["export", "report"])
def test_a_study_that_may_only_be_read(
    run_command: Tinysight, study: Path, tmp_path: Path, command: str, monkeypatch: Any
) -> None:
    """Nothing is written into its folder, which may be another person's, or a read-only disk."""
    monkeypatch.setattr(store, "is_writable", lambda file: False)
    (tmp_path / "theirs").mkdir()
    theirs, out = study.rename(tmp_path / "theirs" / "a.db"), tmp_path / "out"
    before = theirs.read_bytes(), theirs.parent.stat().st_mtime_ns
    words = ["--db", str(theirs), "--out", str(out), "--people", "all"]
    status, _, err = run_command("people", command, "small", *words)
    assert status == 0 and err == "" and any(out.iterdir())
    assert (theirs.read_bytes(), theirs.parent.stat().st_mtime_ns) == before


def test_an_ensemble_answers_by_the_mean_probability(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = dataset.rows("val")
    labels = torch.from_numpy(dataset.labels[rows.start : rows.stop].copy())
    place = torch.arange(rows.start, rows.stop)
    generator = torch.Generator().manual_seed(0)
    both = {name: 3 * torch.randn(len(labels), 24, generator=generator) for name in ("a", "b")}
    asked: list[str] = []

    def evaluated(source: Path, *given: Any, **rest: Any) -> Evaluation:
        asked.append(source.name)
        return Evaluation("small", "val", both[source.name], labels, place)

    monkeypatch.setattr(module, "load_model", lambda source, device: source)
    monkeypatch.setattr(module.evaluations, "evaluate", evaluated)
    monkeypatch.setattr(module, "find_weights", lambda name: tmp_path / name)
    for name in both:
        (tmp_path / name).write_text(name)
    common = (dataset, "val", "cpu", tmp_path / "home")
    found = module._logits(["a", "a+b"], *common)
    assert asked == ["a", "b"]  # each once
    assert np.array_equal(module._logits(["a"], *common)["a"], both["a"].numpy())
    assert asked == ["a", "b"]  # and in no later quiz
    for kept in (tmp_path / "home").rglob("scores-*"):
        kept.write_bytes(b"damaged")
    module._logits(["a"], *common)
    (tmp_path / "a").write_text("other weights")
    module._logits(["a"], *common)
    assert asked == ["a", "b", "a", "a"]
    assert list(found) == ["a", "a+b"] and np.array_equal(found["a"], both["a"].numpy())
    expected = (both["a"].softmax(1) + both["b"].softmax(1)) / 2
    torch.testing.assert_close(torch.from_numpy(found["a+b"]).softmax(1), expected)
    for twice in (["a", "a"], ["a+a"], ["a+b", "a+b"]):
        with pytest.raises(ValueError, match="given twice"):
            module._logits(twice, *common)


def test_a_report(run_command: Tinysight, study: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["people", "report", "small", "--db", str(study)]
    status, text, err = run_command(*command)
    assert status == 0, err
    assert "2 people, 14 answers" in text and "all have fewer than 20 answers; or" in text
    assert text.endswith("report quiz-small-full/index.html\n")
    assert "No answers count yet" in Path("quiz-small-full/index.html").read_text("utf-8")
    (tmp_path / "file").touch()
    status, _, err = run_command(*command, "--out", "file")
    assert status == 1 and "file; it is a file where a folder is needed" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["export", "report"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--db", "missing.db"], "not a file"),
        (["--game", "quick"], "no answers in the quick game of small"),
        (["--networks", "no-such-run"], "no-such-run"),
    ],
)
def test_what_has_no_answers(
    run_command: Tinysight,
    study: Path,
    tmp_path: Path,
    command: str,
    words: list[str],
    message: str,
) -> None:
    out = ["--out", str(tmp_path / "out")]
    status, _, err = run_command("people", command, "small", "--db", str(study), *out, *words)
    assert status == 1 and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "vla"], "no split"),
        (["--images", "25"], "1 to 24"),
        (["--images", "11"], "go on with these settings"),
        (["--images", "10", "--host", "0.0.0.0"], "names no address"),
        (["--images", "10", "--networks", "no-such-run"], "no-such-run"),
        (["--images", "10", "--token", "short"], "the token has 5 characters"),
        (["--split", "train"], "cannot be asked; choose minival or val"),
        (["--images", "10", "--db", "mysql://u:secret@h/x"], "expected sqlite"),
    ],
)
def test_a_quiz_that_cannot_begin_says_why(
    run_command: Tinysight, study: Path, words: list[str], message: str
) -> None:
    status, _, err = run_command("quiz", "small", "--db", str(study), *words)
    refused = [line for line in err.splitlines() if not line.startswith("warning: nobody will")]
    assert status == 1 and message in refused[0] and len(refused) == 1
    assert "secret" not in err


def test_a_database_is_refused_before_networks_take_their_time(
    run_command: Tinysight, study: Path, monkeypatch: Any
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(module, "_logits", lambda *given: asked.append(given) or {})
    words = ["--db", str(study), "--networks", "bundled"]
    status, _, err = run_command("quiz", "small", *words, "--images", "11")
    assert status == 1 and "go on with these settings" in err and not asked


def test_a_refused_quiz_makes_no_file(
    run_command: Tinysight, study: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for words, message in (
            (["--host", "0.0.0.0"], "names no address"),
            (["--host", "192.0.2.1"], "--token"),
            (["--token", "short"], "5 characters"),
            (["--token", "my secret token"], "other characters"),
            (["--token", "geheimes-w\u00f6rtchen"], "other characters"),
            (["--host", "192.0.2.1", "--token", "t" * 20], "give another --host"),
            (["--port", str(taken.getsockname()[1])], "give another --port"),
            (["--split", "test"], "no labels"),
            (["--images", "25"], "1 to 24"),
            (["--networks", "no-such-run"], "no-such-run"),
            (["--db", "missing/a.db"], "missing is not a folder; make it"),
            (["--db", str(study)], "go on with these settings"),
        ):
            status, _, err = run_command("quiz", "small", "--images", "20", *words)
            assert status == 1 and message in err, words
            assert list(Path.cwd().iterdir()) == [], words


def test_two_quizzes_of_different_data_have_a_database_each(
    run_command: Tinysight, study: Path, dataset: Dataset, data_home: Path
) -> None:
    """Also while the first one has it open, and whoever asks: a quiz, a report or an export."""
    other = build(
        Shapes(num_train=48, num_minival=0, num_val=24, num_test=0, image_size=32, name="other"),
        home=data_home,
        workers=1,
    )
    assert other.class_names == dataset.class_names
    with closing(Store(str(study), digest=dataset.digest, about=ABOUT)) as store:
        before = store.answers("full")
        for command in (["quiz"], ["people", "report"], ["people", "export"]):
            words = (
                ["--out", str(study.parent / "out")]
                if command[0] == "people"
                else ["--images", "10"]
            )
            status, _, err = run_command(*command, "other", "--db", str(study), *words)
            assert status == 1 and f"{study} holds answers to other data" in err
            assert not (study.parent / "out").exists()
        assert store.answers("full") == before


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a quiz that was started answers: what it asks, and a person of each game."""
    found: list[Any] = []

    def run(server: Any, listener: Any, link: str, started: Any) -> None:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        token = {"Authorization": f"Bearer {link.partition('=')[2]}"}
        for path, body in (
            ("/api/quiz", None),
            ("/api/people", {"game": "full"}),
            ("/api/people", {"game": "quick"}),
        ):
            address = link.partition("/?")[0] + path
            data = None if body is None else json.dumps(body).encode()
            with urlopen(Request(address, data, token), timeout=30) as answer:
                found.append(json.load(answer))
        server.should_exit = True
        thread.join(30)

    monkeypatch.setattr(module.http, "run", run)
    return found


def test_a_preview_keeps_no_answers(
    run_command: Tinysight, study: Path, asked: list[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    before = study.read_bytes()
    command = ["quiz", "small", "--images", "20", "--preview"]
    for words in ([], ["--db", str(study)], ["--db", "new.db"]):
        status, _, err = run_command(*command, *words)
        assert status == 0 and "\npreview: answers are not kept\n" in err
    assert [each["preview"] for each in asked[::3]] == [True] * 3 and all(asked)
    assert study.read_bytes() == before and list(tmp_path.glob("*.db")) == [study]


@pytest.mark.parametrize(
    ("images", "few"), [(17, ["full", "quick"]), (18, ["quick"]), (20, ["quick"])]
)
def test_a_quiz_in_which_nobody_can_count_warns(
    run_command: Tinysight,
    study: Path,
    asked: list[Any],
    tmp_path: Path,
    images: int,
    few: list[str],
    dataset: Dataset,
) -> None:
    path = tmp_path / "new.db"
    status, _, err = run_command("quiz", "small", "--images", str(images), "--db", str(path))
    assert status == 0
    lines = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert [line.split(" game: ")[0].split()[-1] for line in lines] == few
    hints = {"full": "ask for more images per person", "quick": "val has no more images of its"}
    for line, game in zip(lines, few, strict=True):
        assert f"who has fewer than 20 answers is excluded; {hints[game]}" in line
    assert err.splitlines()[len(few)] == f"{path}: 0 answers of 0 people so far"
    report = f"next: tinysight people report small --db {path}"
    assert err.splitlines()[-1] == report
    assert asked[0]["preview"] is False and "nobody" not in json.dumps(asked)
    with closing(Store(str(path), digest=dataset.digest, about=None)) as store:
        sizes = [len(store.person(each["code"]).items) for each in asked[1:]]
    assert [size < 20 for size in sizes] == ["full" in few, "quick" in few]


def test_a_plan(run_command: Tinysight) -> None:
    status, text, _ = run_command("people", "plan", "--shared", "0")
    assert status == 0 and "+- 3.9 points" in text and "1,339 to 1,730 answers" in text
    assert "+- 8.3 points" in run_command("people", "plan", "--shared", "1")[1]
    assert "+- 0.8 points" in run_command("people", "plan", "--accuracy", "1")[1]
    assert "of 1 answer\n" in run_command("people", "plan", "--people", "1", "--images", "1")[1]
    for option, value in (("accuracy", "1.2"), ("network", "57"), ("within", "3")):
        status, text, err = run_command("people", "plan", f"--{option}", value)
        assert (status, text) == (1, "") and f"{option} is {float(value)}" in err
