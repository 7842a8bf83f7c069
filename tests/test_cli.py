"""The command line: all commands once, help, and one clear line for each wrong input."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinysight.data.build import build
from tinysight.data.dataset import Dataset
from tinysight.data.shapes import Shapes
from tinysight.recipes import RECIPES


@dataclass(frozen=True)
class Tinysight:
    """Run a command in this process, in an empty home; return exit status, output and errors."""

    run: Callable[..., tuple[int, str, str]]

    def __call__(self, *words: str) -> tuple[int, str, str]:
        return self.run(*words)

    def ok(self, *words: str) -> str:
        status, out, err = self.run(*words)
        assert status == 0, err
        return out

    def refused(self, *words: str) -> str:
        status, _, err = self.run(*words)
        assert status == 1 and err.count("error: ") == 1, err
        return err


@pytest.fixture
def tinysight(monkeypatch: pytest.MonkeyPatch, run_command: Any, tmp_path: Path) -> Tinysight:
    monkeypatch.setenv("TINYSIGHT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return Tinysight(run_command)


@pytest.fixture
def tiny(tmp_path: Path) -> Dataset:
    """A few drawn scenes, under the name that the quickstart recipe asks for."""
    shapes = Shapes(num_train=96, num_minival=24, num_val=24, num_test=5)
    return build(shapes, home=tmp_path / "data", workers=1)


SMALL = ["train.epochs=1", "train.batch_size=32", "model.options.filters=(4,8)"]
SMALL += ["train.device=cpu", "augment.crop=1"]


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def write_photos(folder: Path, *, size: tuple[int, int], count: int = 3) -> list[Path]:
    """Make two classes of noise, with names that need care."""
    generator = np.random.default_rng(0)
    paths = [
        folder / name / f"{number}.png" for name in ("red cats", "l'été") for number in range(count)
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return paths


def test_train_evaluate_submit_and_predict(
    tinysight: Tinysight, tiny: Dataset, tmp_path: Path
) -> None:
    status, out, err = tinysight("train", "quickstart", "--name", "first", *SMALL)
    assert (status, "error" in out.lower()) == (0, True), err
    folder = tmp_path / "runs" / "first"
    names = "run.json log.jsonl timing.jsonl weights.safetensors summary.json curves.png"
    for name in names.split():
        assert (folder / name).stat().st_size > 0, name
    assert list((folder / "tensorboard").iterdir())
    assert json.loads((folder / "run.json").read_text())["config"]["train"]["epochs"] == 1

    out = tinysight.ok("evaluate", "first", "--json")
    metrics = json.loads(out)
    assert metrics["num_images"] == 24
    assert 0 <= metrics["top1_low"] <= metrics["top1_error"] <= metrics["top1_high"] <= 1
    assert (folder / "scores" / "val.safetensors").exists()
    assert picture_size(folder / "predictions-val.png") > (400, 100)

    out = tinysight.ok("submit", "first")
    answers = (folder / "submission.txt").read_text().splitlines()
    assert len(answers) == 5
    assert [line.split()[0] for line in answers] == [Path(name).name for name in tiny.files[-5:]]
    assert {line.split(maxsplit=1)[1] for line in answers} <= set(tiny.class_ids)

    Image.fromarray(np.array(tiny.images[0])).resize((200, 150)).save(tmp_path / "a photo.png")
    Path(tmp_path / "text.jpg").write_text("no image")
    status, out, err = tinysight(
        "predict", "first", "a photo.png", "text.jpg", "--json", "--top", "3"
    )
    assert status == 1
    assert err.count("\n") == 1
    assert "text.jpg" in err
    (found,) = json.loads(out)
    assert found["image"] == "a photo.png"
    assert [set(row) for row in found["top"]] == [{"class", "id", "probability"}] * 3
    probabilities = [row["probability"] for row in found["top"]]
    assert probabilities == sorted(probabilities, reverse=True)

    assert "is finished" in tinysight.refused("resume", "first")

    write_photos(tmp_path / "first", size=(40, 50))  # a folder with the run's name
    assert "is a folder and a run; give" in tinysight.refused("predict", "first")
    out = tinysight.ok("predict", "first", "first", "--draw", "sheet.png")
    assert out.count(".png\n") == 6 and out.startswith("first/l'été/0.png\n")
    assert picture_size(tmp_path / "sheet.png") > (1024, 512)
    metrics = json.loads(tinysight.ok("evaluate", "first", "--json"))
    assert metrics["num_images"] == 24


@pytest.mark.usefixtures("tiny")
def test_evaluate_warns_of_training_images(tinysight: Tinysight) -> None:
    both = ("data.train=train+minival", "data.monitor=none")
    tinysight.ok("train", "quickstart", "--name", "both", *SMALL, *both)
    status, _, err = tinysight("evaluate", "both", "--split", "minival")
    assert status == 0 and "was trained on 24 of these 24 images" in err
    assert "warning" not in tinysight("evaluate", "both")[2]
    assert (
        "on 120 of these 120 images" in tinysight("evaluate", "both", "--split", "train+minival")[2]
    )


def test_exported_weights_predict_and_evaluate_as_the_bundled_model_would(
    tinysight: Tinysight, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinysight.predict import predictor

    tinysight.ok("train", "quickstart", "--name", "first", *SMALL)
    tinysight.ok("evaluate", "first")
    before = sorted((tmp_path / "runs" / "first").rglob("*"))
    out = tinysight.ok("export", "first", "--half", "--out", "half.safetensors")
    assert (
        f"{(tmp_path / 'half.safetensors').stat().st_size / 1e6:.2f} MB in half.safetensors" in out
    )

    photo = tmp_path / "photo"  # no suffix: it is an image because it is a file
    Image.fromarray(np.array(tiny.images[0])).resize((200, 150)).save(photo, "PNG")
    answers = []
    for name in ("BUNDLED", "BUNDLED_ONNX"):
        monkeypatch.setattr(predictor, name, tmp_path / "half.safetensors")
    for words in (
        ("half.safetensors", "photo"),
        ("--model", "half.safetensors", "photo"),
        ("photo",),
    ):
        status, out, err = tinysight("predict", *words, "--json")
        assert status == 0, err
        assert ("bundled model: quickstart, 24 classes of shapes" in err) == (words == ("photo",))
        answers.append(json.loads(out))
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 1
    status, out, err = tinysight("predict", "missing.jpg")
    assert (status, "missing.jpg" in err.splitlines()[-1], out) == (1, True, "")

    out = tinysight.ok("evaluate", "bundled", "--json")
    metrics = json.loads(out)
    assert (
        json.loads(tinysight("evaluate", "half.safetensors", "--data", "shapes", "--json")[1])
        == metrics
    )
    assert predictor.load_model().metadata.results["val"] == {"data": "shapes", **metrics}
    assert sorted((tmp_path / "runs" / "first").rglob("*")) == before, "nothing is written"

    monkeypatch.setattr(predictor, "BUNDLED_ONNX", tmp_path / "none.onnx")
    status, _, err = tinysight("predict", "photo")
    assert (status, err.count("\n"), "lacks none.onnx" in err) == (1, 1, True)


def test_quickstart_ends_with_predictions_and_next_steps(
    tinysight: Tinysight, tiny: Dataset, tmp_path: Path
) -> None:
    out = tinysight.ok("quickstart", "--name", "first", *SMALL)
    assert out.count("\n  ") > 12 and "shapes val, 24 images" in out
    assert f"tinysight report {tmp_path / 'runs' / 'first'}" in out
    assert (tmp_path / "runs" / "first" / "predictions-val.png").is_file()


def test_data_commands(tinysight: Tinysight, tiny: Dataset, tmp_path: Path) -> None:
    out = tinysight.ok("data", "info", "shapes", "--verify")
    assert "149 images of 64x64, 24 classes" in out
    assert "matches its checksum" in out
    for words, picture in (
        (("show", "shapes", "--count", "6"), "shapes-train.png"),
        (("augment", "shapes"), "shapes-augment.png"),
    ):
        status, out, err = tinysight("data", *words)
        assert (status, out.strip()) == (0, picture), err
        assert picture_size(tmp_path / picture) > (300, 100)
    assert tinysight.ok("data", "list").splitlines()[1].split()[:2] == ["shapes", "149"]


def test_import_and_train_on_own_images(tinysight: Tinysight, tmp_path: Path) -> None:
    write_photos(tmp_path / "pets", size=(40, 50), count=12)
    out = tinysight.ok("data", "import", "pets", "--name", "pets", "--size", "32", "--workers", "1")
    assert "24 images of 32x32, 2 classes" in out
    out = tinysight.ok(
        "train", "quickstart", "--data", "pets", "train.batch_size=8", *SMALL[2:], SMALL[0]
    )
    out = tinysight.ok("evaluate", "quickstart-pets")
    assert "top-1 error" in out

    folder = tmp_path / "runs" / "quickstart-pets"
    own = (folder / "evaluation-val.json").read_bytes()
    tinysight("data", "import", "pets", "--name", "again", "--size", "32", "--workers", "1")
    out = tinysight.ok("evaluate", "quickstart-pets", "--data", "again")
    assert (folder / "evaluation-again-val.json").exists()
    assert (folder / "evaluation-val.json").read_bytes() == own, "the run's own figures stay"
    tinysight("data", "import", "pets", "--name", "larger", "--size", "48", "--workers", "1")
    assert "takes images of 32 pixels" in tinysight.refused(
        "evaluate", "quickstart-pets", "--data", "larger"
    )
    assert "no split 'test'" in tinysight.refused("submit", "quickstart-pets")
    write_photos(tmp_path / "few", size=(20, 20))
    status, _, err = tinysight("data", "import", "few", "--name", "pets", "--workers", "1")
    assert (status, "--replace" in err) == (1, True), (
        "another source does not take a dataset's place unasked"
    )


def test_import_of_boxes_without_class_folders(tinysight: Tinysight, tmp_path: Path) -> None:
    write_photos(tmp_path / "pets", size=(40, 40), count=4)
    text = "<annotation><object><name>pet</name><bndbox>{}</bndbox></object></annotation>"
    corners = {"xmin": 1, "ymin": 5, "xmax": 20, "ymax": 40}
    box = text.format("".join(f"<{name}>{value}</{name}>" for name, value in corners.items()))
    for photo in (tmp_path / "pets").rglob("*.*"):
        name = f"{photo.parent.name}-{photo.name}"
        photo.rename(tmp_path / "pets" / name)
        (tmp_path / "pets" / name).with_suffix(".xml").write_text(box)
    words = ("data", "import", "pets", "--name", "pets", "--size", "32", "--workers", "1")
    assert "go with --boxes" in tinysight.refused(*words, "--boxes-origin", "0")
    assert "expected auto, 0, 1" in tinysight.refused(*words, "--boxes", "pets", "--boxes-origin=2")
    out = tinysight.ok(*words, "--boxes", "pets")
    for part in (
        "8 images of 32x32, 1 class",
        "boxes per class: pet 8",
        "boxes: 8 in 8 images, up to 1 in one; 0 images without; smallest 16.0 x 28.8 pixels",
        "note: boxes: Pascal VOC, in pixels counted from 1 (none begins before 1, 8 of xmax and",
    ):
        assert part in out
    assert "use a localizer" in tinysight.refused("train", "quickstart", "--data", "pets", *SMALL)


def test_without_minival_the_error_names_the_setting(tinysight: Tinysight, tmp_path: Path) -> None:
    write_photos(tmp_path / "few", size=(40, 40), count=2)
    tinysight.ok("data", "import", "few", "--name", "few", "--size", "32", "--workers", "1")
    assert "set data.monitor=none" in tinysight.refused(
        "train", "quickstart", "--data", "few", *SMALL
    )
    tinysight.ok("train", "quickstart", "--data", "few", "data.monitor=none", *SMALL)


def test_a_run_folder_with_only_a_lock_is_free(
    tinysight: Tinysight, tiny: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "runs" / "early").mkdir(parents=True)
    (tmp_path / "runs" / "early" / ".lock").touch()
    tinysight.ok("train", "quickstart", "--name", "early", *SMALL)
    assert "tinysight resume" in tinysight.refused("train", "quickstart", "--name", "early", *SMALL)


def test_submit_to_a_missing_folder_is_refused(tinysight: Tinysight, tiny: Dataset) -> None:
    tinysight.ok("train", "quickstart", "--name", "first", *SMALL)
    status, _, err = tinysight("submit", "first", "--out", "no/such/a.txt")
    assert (status, err) == (1, "error: there is no folder no/such; create it first\n")


def test_ensembles_of_snapshots_and_of_runs(
    tinysight: Tinysight, tiny: Dataset, tmp_path: Path
) -> None:
    cyclic = "schedule.name=cyclic schedule.cycles=2 schedule.warmup=0 train.snapshots=2"
    tinysight.ok(
        "train", "quickstart", "--name", "first", *SMALL[1:], *cyclic.split(), "train.epochs=2"
    )
    out = tinysight.ok("ensemble", "first", "--snapshots", "2")
    for part in ("first epoch-0001", "first epoch-0002", "mean probability"):
        assert part in out
    assert json.loads((tmp_path / "runs/first/ensemble-val.json").read_text())["num_images"] == 24
    tinysight.ok("train", "quickstart", "--name", "second", *SMALL, "train.seed=1")
    status, out, _ = tinysight(
        "ensemble", "first", "second", "--split", "minival", "--out", "vote.json", "--json"
    )
    assert status == 0 and json.loads(out) == json.loads((tmp_path / "vote.json").read_text())
    assert [member["name"] for member in json.loads(out)["members"]] == ["first", "second"]
    assert "has 2 snapshots, --snapshots asks for 3" in tinysight.refused(
        "ensemble", "first", "second", "--snapshots", "3"
    )


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("train quikstart", "did you mean quickstart?"),
        ("train quickstart train.epocs=3", "did you mean train.epochs?"),
        ("train quickstart epochs=3", "did you mean train.epochs?"),
        ("train quickstart train.epochs", "expected section.field=value"),
        ("train quickstart train.epochs=many", "expected a whole number"),
        ("train quickstart train.epochs=-1", "at least 0"),
        ("train quickstart train.batch_size=1", "2 or more, or 0: automatic"),
        ("train small", "give --data"),
        ("recipes smal", "did you mean small?"),
        ("train quickstart model.name=resnext --data shapes", "did you mean resnet?"),
        ("train quickstart model.options.depth=3", "there are n, filters, first_stride"),
        ("train quickstart model.options.depth=3 --show", "there are n, filters, first_stride"),
        ("train quickstart model.name=vgg --show", "has no option"),
        ("train quickstart model.options.n=deep", "expected a whole number"),
        (
            "train quickstart 'model.options.filters=(8,'\"'\"'a'\"'\"')'",
            "expected whole numbers with commas between",
        ),
        ("train quickstart --data shapes data.name=pets", "give one of them"),
        ("train quickstart train.device=meta", "expected auto, cpu, cuda"),
        ("train quickstart augment.crop=0.1", "set larger shares in augment.crop"),
        ("train quickstart train.device=gpu", "expected auto, cpu, cuda"),
        ("train quickstart --data shapez", "shapes"),
        ("train quickstart data.monitor=val", "val is for reports"),
        ("train resnet18-report data.monitor=none", "choose by the monitored error"),
        ("train quickstart --resume", "give --name"),
        ("study dept --data shapes", "did you mean depth?"),
        ("study missing.py --data shapes", "missing.py is not a file"),
        ("study notes.py --data shapes", "notes.py, line 1"),
        ("study depth --data shapez", "shapes"),
        ("study depth --data shapes --seeds 0", "--seeds is 0"),
        ("study depth --data shapes --epochs 0", "--epochs is 0"),
        ("study depth --data shapes --subset 2", "--subset is 2"),
        ("study depth --data shapes --name ..", "cannot name a run"),
        ("study depth --data shapes --recipes modern", "belongs to the study models, not to depth"),
        ("study models --data shapes --recipes new", "expected published or modern"),
        ("study depth --data shapes --ray --minutes 9", "give one of them"),
        ("study depth --data shapes train.seed=3", "use --seeds"),
        ("study depth --data shapes augment.crop=65", "augment.crop is 65.0; allowed: above 0"),
        ("study depth --data shapes --report-only", "study-depth-shapes is finished yet"),
        ("ensemble nothing", "no run is named 'nothing'"),
        (
            "train quickstart schedule.name=cyclic schedule.cycles=4",
            "allowed: a multiple of schedule.cycles, which is 4",
        ),
        ("train quickstart train.snapshots=13", "train.snapshots is 13; allowed: fewer"),
        ("train quickstart optimizer.name=lion", "allowed: sgd, rmsprop, adam"),
        (
            "train quickstart augment.mixup=1 train.batch_size=31",
            "mixing takes images in groups of 2",
        ),
        ("quickstart name=x", "no field is named name"),
        ("train quickstart --from bundled model.pretrained=lite0", "--from is bundled, model.pret"),
        ("train quickstart --from ''", "--from is empty; give bundled, lite0, a run or a file"),
        ("train quickstart --minutes 9 train.stop_after_minutes=3", "give one of them"),
        ("resume nothing", "no run is named 'nothing'"),
        ("evaluate nothing", "no run is named 'nothing'"),
        ("submit nothing", "no run is named 'nothing'"),
        ("predict nothing x.png", "no run is named 'nothing'"),
        ("predict --model notes.txt x.png", "is not a readable safetensors file"),
        ("predict nothing", "no run is named 'nothing'"),
        (
            "predict nothing.safetensors x.png",
            "no such file: 'nothing.safetensors'; expected a run or a file of",
        ),
        ("predict best.pt x.png", "best.pt is a PyTorch or pickle file"),
        ("predict x.png best.pt", "best.pt is a model by its name; give one model, before"),
        ("predict unfinished", "unfinished is a model, and no image is given"),
        ("predict unfinished 'photos/*.gif'", "'photos/*.gif' has no image"),
        ("predict x.png --csv x.txt", "--csv is x.txt; give a file .csv"),
        ("predict --model nothing x.png", "no run is named 'nothing'"),
        ("predict --model photos x.png", "no run is named 'photos'"),
        ("predict --model unfinished x.png", "is not finished"),
        ("evaluate notes.txt", "is not a readable safetensors file"),
        ("export nothing --out x.safetensors", "no run is named 'nothing'"),
        ("export bundled --out x.bin", "ends in .onnx"),
        ("export bundled --out no/such/x.safetensors", "there is no folder no/such"),
        ("data get imagenet", "there are tiny-imagenet and shapes"),
        ("data get shapes --source x.zip", "it has no --source"),
        ("data get tiny-imagenet --source missing.zip", "missing.zip"),
        ("data get tiny-imagenet --source notes.txt", "notes.txt"),
        ("data info shapez", "shapes"),
        ("data show shapes --split training", "train"),
        ("data show shapes --class 'plain disk'", "did you mean 'plain disc'?"),
        ("data show shapes --out sheet.gif", "end it in .png"),
        ("data show shapes --out no/such/sheet.png", "there is no folder no/such"),
        ("data augment shapes --row 149", "rows 0 to 148"),
        ("data import missing --name pets", "missing"),
        ("data import . --name ../pets", "../pets"),
        ("data import photos/pets --name pets --data-dir photos", "exists and is not a dataset"),
    ],
)
def test_bad_input_is_one_clear_line(
    tinysight: Tinysight, tiny: Dataset, tmp_path: Path, command: str, expected: str
) -> None:
    for name in ("notes.txt", "notes.py", "best.pt"):
        (tmp_path / name).write_text("not what it should be")
    photos = write_photos(tmp_path / "photos" / "pets", size=(40, 50))
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "run.json").write_text("{}")
    status, out, err = tinysight(*shlex.split(command))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert expected in err and err.startswith("error: ")
    assert not (tmp_path / "runs").exists(), "nothing is begun that cannot be"
    assert all(photo.exists() for photo in photos), "a person's pictures are never touched"


@pytest.mark.parametrize(
    ("words", "expected"), [(("trian",), "train"), (("predict",), "RUN|WEIGHTS")]
)
def test_usage_errors_exit_with_status_2(
    tinysight: Tinysight, words: tuple[str, ...], expected: str
) -> None:
    status, _, err = tinysight(*words)
    assert status == 2
    assert expected in err


def test_the_help_of_every_command_has_examples(tinysight: Tinysight) -> None:
    commands = [f"data {name}" for name in ("get", "import", "info", "show", "augment")]
    commands += ["quickstart", "recipes", "studies", "train", "resume", "study", "evaluate"]
    for command in (*commands, "predict", "submit", "ensemble", "export", "report"):
        out = tinysight.ok(*command.split(), "-h")
        assert "Examples" in out and f"tinysight {command}" in " ".join(out.split()), command


@pytest.mark.parametrize(
    ("words", "default"),
    [
        (("train",), "the recipe's"),
        (("train",), "RECIPE-DATA"),
        (("study",), "as its recipe does"),
        (("study",), "study-STUDY-DATA"),
        (("report",), "RUN/report, or"),
        (("ensemble",), "ensemble-SPLIT.json in the first run"),
        (("submit",), "RUN/submission.txt"),
        (("data", "get"), "the published URL"),
        (("data", "import"), "all cores"),
        (("data", "show"), "NAME-SPLIT.png"),
        (("data", "list"), "$TINYSIGHT_DATA or ~/.cache/tinysight"),
    ],
)
def test_help_describes_defaults(
    tinysight: Tinysight, words: tuple[str, ...], default: str
) -> None:
    out = tinysight.ok(*words, "--help").replace("│", "")
    assert "".join(default.split()) in "".join(out.split()), "lines may break after a hyphen"


def test_version_is_an_option(tinysight: Tinysight) -> None:
    from tinysight import __version__

    assert tinysight("--version") == (0, f"{__version__}\n", "")


def test_recipes_are_listed(tinysight: Tinysight) -> None:
    out = tinysight.ok("recipes")
    assert [name for name in RECIPES if f"\n{name} " not in f"\n{out}"] == []
    described = tinysight.ok("recipes", "resnet18-report")
    assert described.startswith("Train the report's 18-layer ResNet") and "Result: " in described


def test_studies_are_listed(tinysight: Tinysight) -> None:
    out = tinysight.ok("studies")
    for word in ("models", "depth", "initialization", "weight-decay", "Fig. 11", "10 layers"):
        assert word in out, word


def test_train_with_resume_continues_the_same_run_only(
    tinysight: Tinysight, tiny: Dataset, tmp_path: Path
) -> None:
    words = ("train", "quickstart", "--name", "job", "--resume", *SMALL)
    status, _, err = tinysight(*words, "--minutes", "0.00001")
    assert (status, "state saved" in err) == (75, True), err
    tinysight.ok(*words)
    folder = tmp_path / "runs" / "job"
    weights = folder / "weights.safetensors"
    trained, stamp = weights.read_bytes(), weights.stat().st_mtime_ns
    status, _, err = tinysight(*words)
    assert (status, "is finished" in err) == (0, True)
    assert weights.stat().st_mtime_ns == stamp, "it was left alone"
    weights.unlink()  # as if it had been stopped before the end
    status, _, err = tinysight(*words)
    assert (status, "resuming after step" in err) == (0, True), err
    assert weights.read_bytes() == trained
    status, _, err = tinysight(*words[:-1], "augment.crop=0.9")
    assert status == 1
    assert "holds another run: it has augment.crop=1.0; choose another --name" in err
    status, _, err = tinysight("resume", "job", "train.epochs=7", "--minutes", "0.00001")
    assert (status, "state saved" in err) == (75, True), err


def test_show_prints_the_config_and_trains_nothing(tinysight: Tinysight, tmp_path: Path) -> None:
    status, out, _ = tinysight(
        "train", "resnet18-modern", "--data", "pets", "--show", "optimizer.lr=0.05"
    )
    shown = json.loads(out)
    assert status == 0
    assert (shown["data"]["name"], shown["optimizer"]["lr"]) == ("pets", 0.05)
    assert not (tmp_path / "runs").exists()
