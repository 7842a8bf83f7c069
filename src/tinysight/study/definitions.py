"""Named studies: functions that return a `Study`, a question and the configs that answer it.

A user's own study is a Python file with a function `study()`; docs/studies.md shows one.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tinysight.config import AugmentConfig, Config, ModelConfig, OptionValue
from tinysight.files import suggest
from tinysight.recipes import recipe


@dataclass(frozen=True, kw_only=True)
class Member:
    """One of the things compared: a config made from a named recipe, and its published error."""

    label: str
    config: Config
    published: float | None = None  # top-1 error on val, 0..1, of the source

    @property
    def slug(self) -> str:
        """The label as a folder's name: lower case, digits and hyphens."""
        return re.sub(r"[^a-z0-9.]+", "-", self.label.lower()).strip("-.")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question and the configs that answer it, each compared with the reference."""

    name: str
    question: str
    source: str
    members: tuple[Member, ...]
    reference: str = ""  # a member's label; "": the first

    def __post_init__(self) -> None:
        title, labels = f"study {self.name}", [member.label for member in self.members]
        slugs, known = {member.slug for member in self.members}, ", ".join(map(repr, labels))
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.name):
            raise ValueError(
                f"the study's name is {self.name!r}; use lower-case letters, digits, -"
            )
        if len(labels) < 2:
            raise ValueError(f"{title} has {len(labels)} members; compare 2 or more")
        if "" in slugs or len(slugs) < len(labels):
            rule = "give each member a label of its own, with letters or digits"
            raise ValueError(f"{title} has the labels {known}; {rule}")
        if self.reference and self.reference not in labels:
            found = f"{title} has the reference {self.reference!r}"
            raise ValueError(f"{found}; expected a member's label: {known}")
        for member in self.members:
            if member.published is not None and not 0 <= member.published <= 1:
                found = f"{member.label}: published is {member.published}"
                raise ValueError(f"{found}; give the error as a share, 0 to 1")

    @property
    def compared_with(self) -> str:
        """The reference's label."""
        return self.reference or self.members[0].label


def models() -> Study:
    """Compare the report's four networks, trained as published."""
    return Study(
        name="models",
        question="Which of the report's four networks has the lowest error?",
        source="Wu et al. 2017, section 4.1, Table 1 and Fig. 6",
        members=_networks("report"),
        reference="ResNet-18",
    )


def models_modern() -> Study:
    """Compare the same four networks, trained with methods found since."""
    return Study(
        name="models-modern",
        question="Which of the report's four networks has the lowest error by today's training?",
        source="ours; the published errors are those of Wu et al. 2017, Table 1",
        members=_networks("modern"),
        reference="ResNet-18",
    )


def _networks(training: str) -> tuple[Member, ...]:
    published = (
        ("Inception-ResNet", "inception-resnet", 0.3756),
        ("ResNet-18", "resnet18", 0.4350),
        ("VGG-19", "vgg19", 0.4531),
        ("VGG-16", "vgg16", 0.4722),
    )
    return tuple(
        Member(label=label, config=recipe(f"{name}-{training}"), published=error)
        for label, name, error in published
    )


def depth() -> Study:
    """Compare 10 layers with 18, and 18 wide ones with 18 narrow ones."""
    wide, narrow = "64 to 512 filters", "16 to 128 filters"
    base = recipe("resnet18-report")
    model = ModelConfig(name="resnet", options={"n": 2, "filters": (16, 32, 64, 128)})
    return Study(
        name="depth",
        question="Do more layers help, or more filters?",
        source="Wu et al. 2017, section 4.4, Fig. 11: 10 layers equal 18 and learn faster, "
        "few filters fall behind",
        members=(
            Member(label=f"10 layers, {wide}", config=recipe("resnet10-report")),
            Member(label=f"18 layers, {wide}", config=base),
            Member(label=f"18 layers, {narrow}", config=replace(base, model=model)),
        ),
        reference=f"18 layers, {wide}",
    )


def initialization() -> Study:
    """Compare the report's two initializations of the 18-layer ResNet."""
    base = recipe("resnet18-report")
    labels = {"Xavier": "xavier", "variance scaling": "variance_scaling"}
    return Study(
        name="initialization",
        question="Does the initialization matter?",
        source="Wu et al. 2017, section 4.5, Fig. 12: alike until the learning rate first falls, "
        "then variance scaling",
        members=tuple(
            Member(label=label, config=replace(base, model=replace(base.model, init=init)))
            for label, init in labels.items()
        ),
        reference="variance scaling",
    )


def weight_decay() -> Study:
    """Compare three weight decays on the 18-layer ResNet."""
    return Study(
        name="weight-decay",
        question="How much weight decay?",
        source="Wu et al. 2017, section 4.6, Table 3 and Fig. 13",
        members=_decays(recipe("resnet18-report"), {1e-4: 0.437, 2e-4: 0.421, 3e-4: 0.432}),
        reference="weight decay 2e-4",
    )


def weight_decay_modern() -> Study:
    """Compare weight decays, wider apart, on the 18-layer ResNet by today's training."""
    return Study(
        name="weight-decay-modern",
        question="How much weight decay along a cosine, without any on norms and biases?",
        source="ours: 1e-4 to 5e-4 look worth 4 to 6 points across published results on this data",
        members=_decays(recipe("resnet18-modern"), {1e-4: None, 5e-4: None, 1e-3: None}),
        reference="weight decay 5e-4",
    )


def _decays(base: Config, published: dict[float, float | None]) -> tuple[Member, ...]:
    return tuple(
        Member(
            label=f"weight decay {decay:.0e}".replace("e-0", "e-"),
            config=replace(base, optimizer=replace(base.optimizer, weight_decay=decay)),
            published=error,
        )
        for decay, error in published.items()
    )


def _light() -> Config:
    """Return the 10-layer ResNet with the light stem by SGD, on 32 of 64 pixels: minutes each."""
    muon, sgd = recipe("resnet10-light"), recipe("resnet10-laptop").optimizer
    return replace(muon, optimizer=sgd, train=replace(muon.train, sizes=((0.0, 0.5),), epochs=6))


def report_light() -> Study:
    """Ask the report's three questions of one short training, each change next to the same."""
    base = _light()
    deep = replace(base.model, options=base.model.options | {"n": 2})
    few = replace(deep, options=deep.options | {"filters": (16, 32, 64, 128)})
    models = {
        "Xavier": replace(base.model, init="xavier"),
        "18 layers": deep,
        "18 layers, 16 to 128 filters": few,
    }
    reference = "the recipe"  # 10 layers of 64 to 512 filters, variance scaling, 5e-4
    return Study(
        name="report-light",
        question="Do initialization, weight decay, layers and filters matter to a short training?",
        source="after Wu et al. 2017, sections 4.4 to 4.6",
        members=(
            Member(label=reference, config=base),
            *_decays(base, dict.fromkeys((1e-4, 2e-4, 3e-4))),
            *(Member(label=name, config=replace(base, model=own)) for name, own in models.items()),
        ),
        reference=reference,
    )


def methods() -> Study:
    """Compare a short training with and without each method that the package offers."""
    base = replace(_light(), optimizer=recipe("resnet10-light").optimizer)
    train = base.train
    augmented = {
        "whole images": replace(base.augment, crop=1.0, shift=4, probability=1.0),
        "the report's augmentation": AugmentConfig(),
        "TrivialAugment": replace(base.augment, trivial_augment=True),
        "Mixup": replace(base.augment, mixup=0.2),
        "CutMix": replace(base.augment, cutmix=1.0),
    }
    options: dict[str, dict[str, OptionValue]] = {
        "squeeze-and-excitation": {"squeeze": 16},
        "averaging shortcuts": {"pooled_shortcut": True},
    }
    configs = {
        "the recipe": base,
        "SGD, not Muon": _light(),
        **{
            name: replace(base, model=replace(base.model, options=base.model.options | own))
            for name, own in options.items()
        },
        "no label smoothing": replace(base, train=replace(train, label_smoothing=0.0)),
        "no mirror image at evaluation": replace(base, train=replace(train, flip_average=False)),
        "averaged weights": replace(base, train=replace(train, ema_decay=0.998)),
        "growing resolution": replace(
            base, train=replace(train, sizes=((0.0, 0.375), (0.4, 0.5), (0.8, 0.625)))
        ),
        **{name: replace(base, augment=augment) for name, augment in augmented.items()},
    }
    return Study(
        name="methods",
        question="What does each method bring to a short training?",
        source="ours: resnet10-light on 32 pixels, one thing changed in each",
        members=tuple(Member(label=label, config=own) for label, own in configs.items()),
    )


_ALL = (
    *(models, models_modern, depth, initialization, weight_decay, weight_decay_modern),
    *(report_light, methods),
)
TRANSFER = "transfer"  # of study.transfer, which takes other options
STUDIES: dict[str, Callable[[], Study]] = {make.__name__.replace("_", "-"): make for make in _ALL}


def study(name: str) -> Study:
    """Return the study of that name, or the one that `study()` in a Python file returns."""
    if name in STUDIES:
        return STUDIES[name]()
    if name.endswith(".py"):
        return _from_file(Path(name))
    hint = suggest(name, [*STUDIES, TRANSFER], cutoff=0.5)
    raise ValueError(f"no study is named {name!r}; {hint} (or give a .py file)")


def _from_file(path: Path) -> Study:
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected a Python file with a function study()")
    specification = importlib.util.spec_from_file_location(f"study_{path.stem}", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up there
    try:
        specification.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from None
    except (ImportError, NameError) as error:
        raise ValueError(f"{path} cannot be run: {error}") from None
    make = getattr(module, "study", None)
    made = make() if callable(make) else None
    if not isinstance(made, Study):
        expected = "a tinysight.study.definitions.Study; see docs/studies.md"
        raise ValueError(f"{path} has no function study() that returns {expected}")
    return made
