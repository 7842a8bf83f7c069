"""The plan of a study: one training a member and seed, each stated whole by its command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinysight import run as runs
from tinysight.config import Config, ModelConfig
from tinysight.data.dataset import Dataset
from tinysight.recipes import recipe
from tinysight.settings import change, parse_assignments
from tinysight.study import plan
from tinysight.study.definitions import STUDIES, Member, Study, study
from tinysight.training.scaling import scaled

MODERN = recipe("resnet18-modern")


def two(one: Config, other: Config) -> Study:
    members = (Member(label="One thing", config=one), Member(label="Other: thing", config=other))
    return Study(name="own", question="Which?", source="ours", members=members)


PAIR = two(
    MODERN, replace(MODERN, model=ModelConfig(name="resnet", options={"n": 1, "filters": (4, 8)}))
)


def planned(of: Study = PAIR, **options: Any) -> list[plan.Job]:
    return plan.plan(of, Path("runs/study"), **{"data": "small", **options})


def test_a_job_for_each_member_and_seed_seed_by_seed() -> None:
    jobs = planned(epochs=6, seeds=2, subset=0.1, settings=["train.batch_size=32"])
    names = ["one-thing-seed0", "other-thing-seed0", "one-thing-seed1", "other-thing-seed1"]
    assert [job.folder for job in jobs] == [Path("runs/study") / name for name in names]
    assert [job.config.train.seed for job in jobs] == [0, 0, 1, 1]
    for job in jobs:
        assert (job.config.data.name, job.config.data.fraction) == ("small", 0.1)
        assert (job.config.train.epochs, job.config.train.batch_size) == (6, 32)
        assert job.config.optimizer == MODERN.optimizer


def test_the_warm_up_keeps_its_share_of_a_shorter_training() -> None:
    assert MODERN.schedule.warmup == 3 and MODERN.train.epochs == 60
    assert [job.config.schedule.warmup for job in planned(epochs=1)] == [0.05, 0.05]
    assert planned()[0].config.schedule == MODERN.schedule
    assert planned(epochs=1, settings=["schedule.warmup=0.5"])[0].config.schedule.warmup == 0.5


def test_without_options_a_recipe_keeps_its_own() -> None:
    small = replace(MODERN, data=replace(MODERN.data, fraction=0.25))
    jobs = planned(two(small, replace(small, train=replace(small.train, batch_size=64))))
    assert [job.config.data.fraction for job in jobs] == [0.25, 0.25]
    assert [job.config.train.epochs for job in jobs] == [60, 60]


@pytest.mark.parametrize("of", [PAIR, *map(study, STUDIES)], ids=lambda of: str(of.name))
def test_a_jobs_command_line_states_its_run(of: Study) -> None:
    for job in planned(of, epochs=3, seeds=2, subset=0.5):
        words = job.arguments(Path("packs"))
        assert words[:2] == ["train", job.config.recipe]
        assert words[2:9] == [
            *("--data", "small", "--name", str(job.folder.absolute()), "--resume"),
            *("--data-dir", str(Path("packs").absolute())),
        ]
        stated = change(recipe(words[1]), dict(parse_assignments(words[9:])))  # as it is typed
        assert replace(stated, data=replace(stated.data, name="small")) == job.config


def test_a_run_with_automatic_epochs_is_the_same_training(dataset: Dataset, tmp_path: Path) -> None:
    small = recipe("small")
    of = two(small, replace(small, optimizer=replace(small.optimizer, lr=0.2)))
    jobs = plan.plan(of, tmp_path, data=dataset.name)
    for job in jobs:
        config = scaled(job.config, 72)
        assert config.train.epochs and config.train.batch_size
        run = runs.Run(folder=job.folder, config=config, data_digest=dataset.digest, machine={})
        job.folder.mkdir()
        run.write()
    plan.check(jobs, dataset)
    with pytest.raises(ValueError, match=r"optimizer\.lr"):
        plan.check([replace(jobs[0], folder=jobs[1].folder)], dataset)


def test_a_localizer_that_does_not_classify_is_refused() -> None:
    many = recipe("localizer-many")
    with pytest.raises(ValueError, match="One thing: no class of the image is learned"):
        planned(two(many, replace(many, train=replace(many.train, seed=1))))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"seeds": 0}, "--seeds is 0"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"subset": 1.5}, "--subset is 1.5"),
        ({"subset": 0.0}, "--subset is 0"),
        ({"settings": ["train.epochs=3"]}, "use --epochs"),
        ({"settings": ["train.seed=3"]}, "use --seeds"),
        ({"settings": ["data.name=pets"]}, "use --data"),
        ({"settings": ["data.fraction=0.1"]}, "use --subset"),
        ({"settings": ["train.epocs=3"]}, "did you mean"),
        ({"settings": ["data.monitor=none"]}, "no error to compare"),
        ({"settings": ["optimizer.sgd_ratio=3"]}, "sgd_ratio has no effect in any member"),
        (
            {"settings": ["model.options={'n': 1}"]},
            "'One thing' and 'Other: thing' have the same settings",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        planned(**options)


def test_a_member_without_a_named_recipe_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"One thing: no recipe is named 'mine'.*make it from a named recipe"
    ):
        planned(two(replace(MODERN, recipe="mine"), MODERN))


def test_what_does_not_fit_the_data_or_the_folders_is_refused(
    dataset: Dataset, tmp_path: Path
) -> None:
    def jobs(**options: Any) -> list[plan.Job]:
        return plan.plan(PAIR, tmp_path, data="small", settings=["augment.crop=0.75"], **options)

    with pytest.raises(ValueError, match=r"One thing: .* 3 pixels of the 32 of small"):
        plan.check(planned(settings=["augment.crop=0.1"]), dataset)
    plan.check(jobs(), dataset)
    first = jobs()[0]
    first.folder.mkdir(parents=True)
    record = runs.Run(
        folder=first.folder,
        config=first.config,
        data_digest=dataset.digest,
        machine={},
        versions={},
        command="",
    )
    record.write()
    plan.check(jobs(seeds=2), dataset)  # more seeds may be added to what is there
    with pytest.raises(
        ValueError, match=r"holds another run: it has .*train\.epochs=60.*choose another --name"
    ):
        plan.check(jobs(epochs=2), dataset)
    replace(record, data_digest="other").write()
    with pytest.raises(ValueError, match="other data of the name small; choose another --name"):
        plan.check(jobs(), dataset)
