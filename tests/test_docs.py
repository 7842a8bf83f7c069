"""What the documents say: every command in them parses, its recipes and fields exist, links lead
somewhere.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from tinysight import cli
from tinysight.recipes import RECIPES, recipe
from tinysight.settings import override, parse_assignments

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
USAGE_ERROR = typer.BadParameter.__mro__[1]  # click's, wherever this version of typer keeps it
COMMANDS = typer.main.get_command(cli.app)


def commands(text: str) -> list[str]:
    """Find the lines of shell blocks, and the inline code, that call tinysight with arguments
    spelled out.
    """
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`(tinysight [^`]+)`", text)
    found = [
        re.sub(r"^.*?-m tinysight|^(\w+=\S+ )*tinysight", "tinysight", line.split(" #")[0])
        for line in lines + inline
    ]
    return [line for line in found if line.startswith("tinysight") and "..." not in line]


def check_command(line: str) -> None:
    """Parse a command line against the real commands, without running anything; raise when it would
    be refused.
    """
    words = shlex.split(line)[1:]
    command = COMMANDS
    while hasattr(command, "commands"):
        assert words, line
        if words[0].startswith("-"):
            return
        command = command.commands[words.pop(0)]
    if not words:  # named, not shown in use
        return
    context = command.make_context(command.name, words, resilient_parsing=False)
    if command.name == "train":
        placeholder = context.params["recipe"].isupper()
        run = recipe("quickstart" if placeholder else context.params["recipe"])
        settings = [word for word in context.params["settings"] or [] if not word.startswith("[")]
        override(run, dict(parse_assignments(settings)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    for line in commands(page.read_text(encoding="utf-8")):
        check_command(line)


@pytest.mark.parametrize(
    "wrong",
    [
        "tinysight trian quickstart",
        "tinysight train quickstart train.epocs=1",
        "tinysight train quikstart",
        "tinysight evaluate run --spilt val",
        "tinysight predict --tpo 3 photo.jpg",
    ],
)
def test_the_check_finds_what_is_wrong(wrong: str) -> None:
    with pytest.raises((KeyError, ValueError, USAGE_ERROR)):
        check_command(wrong)


def test_the_search_finds_the_commands() -> None:
    assert len(commands((ROOT / "README.md").read_text(encoding="utf-8"))) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_recipes_are_documented() -> None:
    texts = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in RECIPES:
        assert name in texts, name


def test_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's Python example, on a few drawn shapes."""
    from tinysight.data.build import build
    from tinysight.data.shapes import CLASS_NAMES, Shapes

    monkeypatch.setenv("TINYSIGHT_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYSIGHT_RUNS", raising=False)
    build(
        Shapes(num_train=64, num_minival=24, num_val=24, num_test=0),
        home=tmp_path / "data",
        workers=1,
    )
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    exec(compile(example, "README.md", "exec"), {})
    error, label = capsys.readouterr().out.splitlines()[-2:]
    assert 0 <= float(error) <= 1 and label in CLASS_NAMES
    assert (tmp_path / "runs/quickstart-shapes/evaluation-val.json").is_file()


def test_the_study_of_ones_own_is_one(tmp_path: Path) -> None:
    """The example of docs/studies.md, planned as its command plans it."""
    from tinysight.study.definitions import study
    from tinysight.study.plan import plan

    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(), flags=re.DOTALL
    )
    assert len(example.split("\n\n\n")[1].splitlines()) <= 10
    path = tmp_path / "my_study.py"
    path.write_text(example)
    jobs = plan(study(str(path)), tmp_path, data="shapes", epochs=3, seeds=3)
    assert [job.config.optimizer.lr for job in jobs] == [0.05, 0.2, 0.8] * 3
    base = recipe("quickstart")
    warmup = base.schedule.warmup * 3 / base.train.epochs
    assert jobs[1].arguments()[-2:] == [f"schedule.warmup={warmup}", "train.epochs=3"]


def test_every_study_is_documented() -> None:
    from tinysight.study.definitions import STUDIES

    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in STUDIES)
