"""Every study compares valid runs, the published figures are the report's, and a person's own file
is taken.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tinysight.models import count_parameters, create_model
from tinysight.recipes import RECIPES, recipe
from tinysight.settings import difference
from tinysight.study.definitions import STUDIES, Member, Study, study

CONFIG = recipe("quickstart")


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_compares_runs_that_begin_from_named_recipes(name: str) -> None:
    found = study(name)
    assert found.name == name
    assert found.compared_with in [member.label for member in found.members]
    assert all(member.config.recipe in RECIPES for member in found.members)
    for member in found.members:
        with torch.device("meta"):
            create_model(member.config.model.name, 200, **member.config.model.options)


def test_the_published_figures_are_the_reports() -> None:
    def published(name: str) -> list[float | None]:
        return [member.published for member in study(name).members]

    assert published("models") == [0.3756, 0.4350, 0.4531, 0.4722]
    assert published("weight-decay") == [0.437, 0.421, 0.432]


def test_each_study_varies_what_it_asks_about_and_nothing_else() -> None:
    decays = study("weight-decay").members
    assert [member.config.optimizer.weight_decay for member in decays] == [1e-4, 2e-4, 3e-4]
    assert [member.label for member in decays] == [f"weight decay {n}e-4" for n in (1, 2, 3)]
    assert len({repr(replace(m.config, optimizer=CONFIG.optimizer)) for m in decays}) == 1
    modern = study("weight-decay-modern").members
    assert [member.config.optimizer.weight_decay for member in modern] == [1e-4, 5e-4, 1e-3]
    assert [member.label for member in modern] == [
        f"weight decay {text}" for text in ("1e-4", "5e-4", "1e-3")
    ]
    assert len({repr(replace(m.config, optimizer=CONFIG.optimizer)) for m in modern}) == 1
    ways = study("initialization").members
    assert [member.config.model.init for member in ways] == ["xavier", "variance_scaling"]
    assert len({repr(replace(m.config, model=CONFIG.model)) for m in ways}) == 1
    counts = []
    for member in study("depth").members:
        with torch.device("meta"):
            counts.append(
                count_parameters(
                    create_model(member.config.model.name, 200, **member.config.model.options)
                )
            )
    assert counts[:2] == [5_012_616, 11_283_336] and counts[2] < 1_000_000


def test_each_member_of_the_light_study_changes_one_thing() -> None:
    light = study("report-light")
    reference, *others = light.members
    assert light.compared_with == reference.label
    assert reference.config.optimizer.weight_decay == 5e-4
    assert reference.config.model.init == "variance_scaling"
    changes = {other.label: difference(other.config, reference.config) for other in others}
    deep, few = "model.options.n=2", "model.options.filters=(16, 32, 64, 128)"
    assert {label: sorted(own) for label, own in changes.items()} == {
        **{f"weight decay {n}e-4": [f"optimizer.weight_decay=0.000{n}"] for n in (1, 2, 3)},
        "Xavier": ["model.init=xavier"],
        "18 layers": [deep],
        "18 layers, 16 to 128 filters": [few, deep],
    }


def test_an_unknown_study_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean weight-decay"):
        study("weight-deacy")
    for name in ("nope", "layers"):  # like nothing that there is
        with pytest.raises(ValueError, match=r"there are models, models-modern, .*, transfer"):
            study(name)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "Two words"}, "use lower-case letters"),
        ({"members": (Member(label="one", config=CONFIG),)}, "2 or more"),
        (
            {"members": (Member(label="One!", config=CONFIG), Member(label="one", config=CONFIG))},
            "a label of its own",
        ),
        (
            {"members": (Member(label="?", config=CONFIG), Member(label="one", config=CONFIG))},
            "a label of its own",
        ),
        ({"reference": "three"}, "expected a member's label"),
        (
            {
                "members": (
                    Member(label="one", config=CONFIG, published=43.5),
                    Member(label="two", config=CONFIG),
                )
            },
            "as a share",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused(changes: dict[str, object], complaint: str) -> None:
    sound = Study(
        name="own",
        question="?",
        source="ours",
        members=(Member(label="one", config=CONFIG), Member(label="two", config=CONFIG)),
    )
    with pytest.raises(ValueError, match=complaint):
        replace(sound, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "is not a file"),
        ("x = 1", "no function study"),
        ("def study():\n    return 3", "no function study"),
        ("def study(:", "line 1"),
    ],
)
def test_a_file_that_holds_no_study_is_refused(
    text: str | None, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        study(str(path))


def test_a_file_may_hold_dataclasses_and_what_it_cannot_import_is_one_line(tmp_path: Path) -> None:
    lines = [
        "from __future__ import annotations",
        "from dataclasses import dataclass",
        "from tinysight.study.definitions import depth, Study",
        "@dataclass",
        "class Mine:",
        "    number: int = 1",
        "def study() -> Study:",
        "    return depth()",
    ]
    good, missing = tmp_path / "good.py", tmp_path / "missing.py"
    good.write_text("\n".join(lines))
    assert study(str(good)).name == "depth"
    missing.write_text("import no_such_package_anywhere")
    with pytest.raises(ValueError, match=r"missing\.py cannot be run: No module named"):
        study(str(missing))
