"""The public functions: what they return and write, in any order of imports, from Python alone."""

from __future__ import annotations

import ast
import inspect
import json
import pkgutil
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinysight as ts
from tinysight.api import train as training
from tinysight.data.build import build
from tinysight.data.folder import FolderSource
from tinysight.data.shapes import Shapes
from tinysight.training.loop import Interrupted

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "api.md"
SMALL = {
    "epochs": 1,
    "batch_size": 32,
    "device": "cpu",
    "crop": 1.0,
    "model.options.filters": (4, 8),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small `shapes` in data/, and images to classify in examples/."""
    home = tmp_path_factory.mktemp("api")
    small = Shapes(name="shapes", num_train=64, num_minival=24, num_val=24, num_test=0)
    build(small, home=home / "data", workers=1)
    (home / "examples").symlink_to(ROOT / "examples")
    return home


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("TINYSIGHT_DATA", "data")
    monkeypatch.delenv("TINYSIGHT_RUNS", raising=False)


@pytest.fixture(scope="module")
def run(home: Path) -> ts.Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("TINYSIGHT_DATA", "data")
        patch.delenv("TINYSIGHT_RUNS", raising=False)
        return ts.train("quickstart", "shapes", name="first", **SMALL)


def test_train_returns_the_finished_run_and_resume_leaves_it_alone(run: ts.Run) -> None:
    assert run.is_finished and run.folder == Path("runs/first")
    assert (run.config.train.epochs, run.config.augment.crop) == (1, 1.0)
    assert run.curves_path.stat().st_size > 0
    again = ts.train("quickstart", ts.load_dataset("shapes"), name="first", resume=True, **SMALL)
    assert again == run
    with pytest.raises(ValueError, match=r"optimizer\.lr=.*choose another"):
        ts.train("quickstart", "shapes", name="first", resume=True, lr=0.3, **SMALL)


def test_a_finished_run_is_trained_for_longer_also_minute_by_minute() -> None:
    own = {"name": "longer", **SMALL}
    first = ts.train("quickstart", "shapes", **own)
    own |= {"resume": True, "epochs": 3}
    stopped = ts.train("quickstart", "shapes", **own, stop_after_minutes=1e-6)
    assert not stopped.is_finished and (first.folder / "epochs-0001").is_dir()
    longer = ts.train("quickstart", "shapes", **own)
    assert longer.is_finished and longer.config.train.epochs == 3
    assert [line["epoch"] for line in longer.log() if line["kind"] == "epoch"] == [1, 2, 3]
    written = longer.weights_path.stat().st_mtime_ns
    assert ts.train("quickstart", "shapes", **own).weights_path.stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="2, but 3 are done"):
        ts.train("quickstart", "shapes", **(own | {"epochs": 2}))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"epocs": 3}, r"train\.epochs"),
        ({"train.epocs": 3}, r"train\.epochs"),
        ({"name_": "x"}, "name_"),
        ({"rate": 1}, "no field is named rate"),
        ({"epochs": -1}, r"train\.epochs is -1"),
        ({"epochs": "many"}, r"train\.epochs is 'many'"),
        ({"init": "zeros"}, r"model\.init is 'zeros'"),
        ({"resume": True}, "name=..."),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], complaint: str) -> None:
    before = set(Path("runs").glob("*"))
    with pytest.raises(ValueError, match=complaint):
        ts.train("quickstart", "shapes", **settings)
    assert set(Path("runs").glob("*")) == before


def test_a_name_of_two_sections_needs_the_section() -> None:
    with pytest.raises(ValueError, match=r"data\.name or model\.name"):
        training._full_names(ts.recipe("quickstart"), {"name": "x"})


def test_evaluate_writes_what_the_command_writes(run: ts.Run) -> None:
    evaluation = ts.evaluate(run)
    assert isinstance(evaluation, ts.Evaluation)
    assert evaluation.logits.shape == (24, 24)
    written = json.loads(run.evaluation_path("val").read_text())
    assert written["top1_error"] == evaluation.top1_error
    assert run.scores_path("val").is_file() and run.predictions_path("val").is_file()
    half = ts.evaluate("first", split="minival", data="shapes")
    assert half.split == "minival" and run.scores_path("minival").is_file()
    before = sorted(run.folder.rglob("*"))
    same = ts.evaluate(run.weights_path)
    assert same.top1_error == evaluation.top1_error
    assert sorted(run.folder.rglob("*")) == before, "of a weights file nothing is written"


def test_a_folder_measured_in_part_says_how_all_of_it_is(
    tmp_path: Path, messages: list[str]
) -> None:
    for place in ("one", "mine"):
        for number in range(80):
            path = tmp_path / place / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (number, len(place), 9)).save(path)
    run = ts.train("quickstart", str(tmp_path / "one"), name="of-one", **SMALL)
    mine = ts.load_dataset(str(tmp_path / "mine"))
    measured = len(mine.rows("val"))
    messages.clear()
    for model in (run, run.weights_path):
        assert len(ts.evaluate(model, data=mine).labels) == measured
        how = "--split train+minival+val measures all 80"
        assert messages == [f"val is measured, {measured} images of mine; {how}"]
        messages.clear()
        assert len(ts.evaluate(model, "train+minival+val", data=mine).labels) == 80
        ts.evaluate(model, "minival", data=mine)
        ts.evaluate(model)  # its own data
        ts.evaluate(model, data=str(tmp_path / "one"))
        assert messages == []


def test_report_and_compare_return_their_pages(run: ts.Run) -> None:
    assert ts.report(run) == run.report_path / "index.html"
    other = ts.train("quickstart", "shapes", name="second", seed=1, **SMALL)
    page = ts.compare([run, str(other.folder)], split="minival")
    assert page.parent == run.comparison_path and page.is_file()
    with pytest.raises(ValueError, match="2 or more"):
        ts.compare([run])


def test_load_model_takes_runs_files_and_nothing(run: ts.Run) -> None:
    image = Path("examples/images").glob("*.png").__next__()
    answers = [
        ts.load_model(source).predict(form)
        for source in (run, "first", str(run.folder), run.weights_path)
        for form in (image, str(image), Image.open(image), np.asarray(Image.open(image)))
    ]
    assert len({(answer.label, answer.probabilities) for answer in answers}) == 1
    several = ts.load_model(run).predict([image, image])
    assert [one.label for one in several] == [answers[0].label] * 2
    bundled = ts.load_model()
    assert len(bundled.metadata.class_names) == 200 and bundled.predict(image).boxes is not None
    with pytest.raises(ValueError, match="did you mean first"):
        ts.load_model("frist")
    with pytest.raises(ValueError, match=r"threshold is 2"):
        ts.load_model(threshold=2.0)


def test_recipes_and_models_by_name() -> None:
    assert "quickstart" in ts.list_recipes()
    assert all(text.endswith(".") for text in ts.list_recipes().values())
    assert isinstance(ts.recipe("quickstart"), ts.Config)
    model = ts.create_model("resnet", 10, n=1, filters=(4, 8))
    assert sum(parameter.numel() for parameter in model.parameters()) < 10_000


def test_no_public_name_is_a_module_too() -> None:
    modules = {module.name for module in pkgutil.iter_modules(ts.__path__)}
    assert not modules & set(ts.__all__)


def test_the_page_describes_every_public_name_and_no_other() -> None:
    described = re.findall(r"^### `(?:ts\.)?(\w+)", PAGE.read_text(), flags=re.MULTILINE)
    assert sorted(described) == sorted(ts.__all__)
    for name in ts.__all__:
        assert getattr(ts, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = ts.trian  # type: ignore[attr-defined]


def test_the_page_has_the_arguments_of_every_function() -> None:
    described = re.findall(r"^### `ts\.(\w+)(\(.*\))`$", PAGE.read_text(), flags=re.MULTILINE)
    assert len(described) > 10
    for name, text in described:
        expected = []
        for each in inspect.signature(getattr(ts, name)).parameters.values():
            default = getattr(each.default, "__name__", repr(each.default))
            expected.append((each.name, "" if each.default is each.empty else default))
        arguments = ast.parse(f"def f{text}: ...").body[0].args  # type: ignore[attr-defined]
        plain = [*arguments.posonlyargs, *arguments.args]
        given = [""] * (len(plain) - len(arguments.defaults)) + arguments.defaults
        pairs = [*zip(plain, given, strict=True)]
        pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        found = [(each.arg, value and ast.unparse(value)) for each, value in pairs]
        found += [(arguments.kwarg.arg, "")] if arguments.kwarg else []
        assert found == expected, name


def test_a_page_and_scores_are_written_where_a_path_in_the_home_says(
    run: ts.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ts.report(run, "minival", out="~/page", probe=False).is_relative_to(tmp_path / "page")
    evaluation = ts.evaluate(run, "minival")
    evaluation.save("~/scores.safetensors")
    assert (tmp_path / "scores.safetensors").is_file()
    again = ts.Evaluation.load(str(tmp_path / "scores.safetensors"))
    assert again.top1_error == evaluation.top1_error and not Path("~").exists()


def test_a_run_with_a_dot_in_its_name_becomes_a_folder(run: ts.Run) -> None:
    shutil.copytree(run.folder, "runs/first.fold0")
    assert ts.export("first.fold0", to="hub") == Path("first.fold0-hub")
    with pytest.raises(ValueError, match="what is exported to hub is a folder"):
        ts.export("first.fold0", to="hub", out="x.onnx")


def test_settings_of_boxes_are_refused_by_a_classifier(run: ts.Run) -> None:
    for own in ({"threshold": 0.3}, {"decoding": "stop"}):
        for ask in (ts.load_model, ts.evaluate):
            with pytest.raises(ValueError, match=f"{next(iter(own))} is of a localizer"):
                ask(run, **own)  # type: ignore[operator]


def test_the_examples_of_the_page_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the recipe made small; each block goes on from the ones before it."""
    from tinysight import recipes

    small = ts.recipe("quickstart")
    small = replace(
        small,
        model=replace(small.model, options={"n": 1, "filters": (4, 8)}),
        augment=replace(small.augment, crop=1.0),
    )
    monkeypatch.setitem(recipes.RECIPES, "quickstart", lambda: small)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: ts.train("quickstart", [1, 2]), "list"),
        (lambda: ts.evaluate(["a"]), "list"),
        (lambda: ts.report(["a", "b"]), "list"),
        (lambda: ts.load_model(3), "int"),
        (lambda: ts.load_dataset(None), "NoneType"),
        (lambda: ts.load_model().predict(None), "NoneType"),
        (lambda: ts.load_model().predict(np.zeros((0, 0, 3), np.uint8)), r"\(0, 0, 3\)"),
    ],
)
def test_an_argument_of_a_wrong_type_is_named(call: Callable[[], object], kind: str) -> None:
    with pytest.raises(ValueError, match=kind):
        call()


def test_an_interrupted_training_is_no_ordinary_exception_and_says_how_to_continue(
    run: ts.Run,
) -> None:
    error = Interrupted(signal.SIGTERM, run)
    assert isinstance(error, KeyboardInterrupt) and not isinstance(error, Exception)
    assert "SIGTERM" in str(error) and str(run.folder) in str(error) and "resume=True" in str(error)


def test_a_training_says_that_the_pictures_have_changed_since_they_were_imported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(12):
        folder = tmp_path / "pets" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(folder / f"{number}.png")
    source = FolderSource(tmp_path / "pets", "pets", 32)
    build(source, home=tmp_path / "data", workers=1)
    for changed in (False, True):
        if changed:
            (tmp_path / "pets" / "cat" / "1.png").unlink()
        caplog.clear()
        ts.train("quickstart", "pets", data_dir=tmp_path / "data", **SMALL)
        said = [text for text in caplog.messages if "the source of pets has changed" in text]
        assert len(said) == changed


def test_what_is_printed_is_one_helpful_line(run: ts.Run) -> None:
    data, model = ts.load_dataset("shapes"), ts.load_model(run)
    first = repr(data)
    assert first.startswith("<Dataset shapes: 112 images of 64x64, 24 classes (")
    assert first.endswith("; train 64, minival 24, val 24>")
    assert repr(run).startswith("<Run runs/first: quickstart on shapes, finished, last error on")
    assert repr(model) == f"<Predictor runs/first/weights.safetensors: {model.metadata.describe()}>"
    answer = model.predict("examples/images/plain-cross.png")
    share = f"{answer.label} {answer.probability:.1%}"
    assert repr(answer) == f"<Prediction plain-cross.png: {share}>"
    boxes = "1 box accepted>"
    assert repr(ts.load_model().predict("examples/images/plain-cross.png")).endswith(boxes)


def test_pictures_with_boxes_are_imported_from_python(tmp_path: Path) -> None:
    for number in range(10):
        folder = tmp_path / "birds"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (40, 20), (20 * number, 0, 0)).save(folder / f"{number}.png")
    rows = "".join(f"{number}.png,0,0,20,20,owl\n" for number in range(9))
    (tmp_path / "birds.csv").write_text(f"file,x0,y0,x1,y1,class\n{rows}")
    own = {"boxes": str(tmp_path / "birds.csv"), "data_dir": str(tmp_path / "data")}
    with pytest.raises(ValueError, match=r"does not mention 1 image"):
        ts.import_dataset(tmp_path / "birds", "birds", **own)
    data = ts.import_dataset(tmp_path / "birds", "birds", **own, unlabeled="skip", image_size=40)
    assert (len(data), data.class_names, data.fit) == (9, ("owl",), "pad")
    assert data.boxes.tolist() == [[0, 10, 20, 30]] * 9  # in the padded square
    with pytest.raises(ValueError, match="go with --boxes"):
        ts.import_dataset(tmp_path / "birds", "other", unlabeled="skip")
