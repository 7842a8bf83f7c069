"""A run as plain, frozen values: two levels, validated on construction, written down before the
first step.
"""

from __future__ import annotations

import ast
import difflib
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

OptionValue = int | float | str | bool | tuple[int, ...]


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pack, and which of its splits play which part."""

    name: str = "tiny-imagenet"
    train: str = "train"  # rows that are learned from: "train" or "train+minival"
    monitor: str = (
        "minival"  # rows evaluated after each epoch, for choices; "none" for no such evaluation
    )
    fraction: float = 1.0  # class-balanced share of the training rows, always the same ones
    prefetch: int = 1  # batches read ahead when the images are not on the device; changes no result

    def __post_init__(self) -> None:
        _require(
            self.train in ("train", "train+minival"),
            "data.train",
            self.train,
            "train, train+minival",
        )
        _require(
            self.monitor in ("minival", "none"),
            "data.monitor",
            self.monitor,
            "minival, none (val is for reports)",
        )
        _require(
            not (self.train == "train+minival" and self.monitor == "minival"),
            "data.monitor",
            self.monitor,
            "none, because data.train=train+minival learns from minival",
        )
        _require(0 < self.fraction <= 1, "data.fraction", self.fraction, "above 0, at most 1")
        _require(0 <= self.prefetch <= 64, "data.prefetch", self.prefetch, "0 to 64")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What happens to a training image; each method strikes each image with `probability` (the crop
    always).
    """

    # pixels of the window cut out, at random in training, at the center in evaluation; 0: no crop
    crop: int = 56
    flip: float = 0.5  # probability of a horizontal flip
    shift: int = 4  # largest translation in pixels
    rotation: float = 10.0  # largest angle in degrees
    contrast: tuple[float, float] = (0.9, 1.08)  # range of the factor
    gamma: tuple[float, float] = (0.9, 1.08)  # range of the exponent
    probability: float = 0.5  # of shift, rotation, contrast and gamma each
    trivial_augment: bool = (
        False  # one random operation of random strength besides, after TrivialAugment
    )
    erase: float = 0.0  # probability that a window is painted over
    mixup: float = (
        0.0  # alpha of Beta(alpha, alpha), the share of the image itself in a mixture; 0: no Mixup
    )
    cutmix: float = 0.0  # the same for CutMix; with both, each mixed image takes either
    mix_probability: float = 0.5  # probability that an image is mixed
    mix_until: float = 0.9  # share of the training after which no image is mixed

    def __post_init__(self) -> None:
        _require(self.crop >= 0, "augment.crop", self.crop, "0 (none) or a number of pixels")
        for name in ("flip", "probability", "erase", "mix_probability", "mix_until"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"augment.{name}", value, "0 to 1")
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            _require(0 <= value <= 100, f"augment.{name}", value, "0 (none) to 100, as 0.2 or 1")
        _require(self.shift >= 0, "augment.shift", self.shift, "0 or more pixels")
        _require(0 <= self.rotation <= 180, "augment.rotation", self.rotation, "0 to 180 degrees")
        for name in ("contrast", "gamma"):
            value = getattr(self, name)
            ordered = len(value) == 2 and 0 < value[0] <= value[1]
            _require(
                ordered,
                f"augment.{name}",
                value,
                "two positive numbers, the lower first, as 0.9,1.08",
            )

    @property
    def mixes(self) -> bool:
        """Whether images are mixed at all."""
        return bool(self.mix_probability and (self.mixup or self.cutmix))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A name out of `models.MODELS` and the keyword arguments it is built with."""

    name: str = "resnet"
    options: dict[str, OptionValue] = field(default_factory=dict)
    init: str = "variance_scaling"

    def __post_init__(self) -> None:
        allowed = ("variance_scaling", "xavier", "torch")
        _require(self.init in allowed, "model.init", self.init, ", ".join(allowed))


@dataclass(frozen=True, kw_only=True)
class LocalizerConfig:
    """Whether the network also finds boxes, and how; `head` "none" leaves a classifier."""

    head: str = "none"  # none, mlp, lstm or centernet
    grid: int = (
        1  # cells along a side of the image: 1 or 4 as the report may be read, 16 for centernet
    )
    num_steps: int = 5  # lstm: the most boxes a cell emits
    overlap: str = (
        "iou"  # what matching calls an overlap: "iou" of 0.25, or "center" within the true box
    )
    feedback: bool = False  # lstm: a step sees the box before it
    shared: bool = False  # lstm: all steps share the layers that read box and confidence
    cell_scale: float = 1.0  # above 1, cells also answer for centers just beyond their edges
    loss_weight: float = 1.0  # of confidence and box against the classification
    box_weight: float = 5.0  # of the L1 distance, in sides of the image, against the confidence
    giou_weight: float = 0.0  # of 1 - GIoU against the L1 distance
    class_loss_weight: float = 1.0  # weight of the classification; 0: the logits are not trained
    decoding: str = (
        "filter"  # "filter": all boxes above the threshold; "stop": a cell's answers end below it
    )
    threshold: float = 0.5  # confidence from which a box is accepted
    nms_iou: float = 0.5  # IoU above which the less confident of two boxes is left out; 1: none is
    encoder: str = ""  # run folder or weights file that the encoder begins with; "": from scratch
    frozen: bool = False  # the encoder keeps those weights

    def __post_init__(self) -> None:
        heads = ("none", "mlp", "lstm", "centernet")
        _require(self.head in heads, "localizer.head", self.head, ", ".join(heads))
        _require(1 <= self.grid <= 32, "localizer.grid", self.grid, "1 to 32 cells")
        _require(
            self.head != "mlp" or self.grid == 1,
            "localizer.grid",
            self.grid,
            "1 with localizer.head=mlp",
        )
        _require(
            self.head != "centernet" or self.grid >= 8,
            "localizer.grid",
            self.grid,
            "8 or more with localizer.head=centernet",
        )
        _require(1 <= self.num_steps <= 50, "localizer.num_steps", self.num_steps, "1 to 50")
        _require(
            self.overlap in ("iou", "center"), "localizer.overlap", self.overlap, "iou, center"
        )
        _require(
            1 <= self.cell_scale <= 3,
            "localizer.cell_scale",
            self.cell_scale,
            "1 (each center in one cell) to 3",
        )
        for name in ("loss_weight", "box_weight"):
            _require(getattr(self, name) > 0, f"localizer.{name}", getattr(self, name), "above 0")
        for name in ("giou_weight", "class_loss_weight"):
            _require(
                getattr(self, name) >= 0, f"localizer.{name}", getattr(self, name), "0 or more"
            )
        _require(
            self.decoding in ("filter", "stop"), "localizer.decoding", self.decoding, "filter, stop"
        )
        _require(0 < self.threshold < 1, "localizer.threshold", self.threshold, "between 0 and 1")
        _require(0 < self.nms_iou <= 1, "localizer.nms_iou", self.nms_iou, "above 0, at most 1")
        _require(
            not self.frozen or bool(self.encoder),
            "localizer.frozen",
            True,
            "false without localizer.encoder",
        )

    @property
    def finds(self) -> bool:
        """Whether there is a head that finds boxes."""
        return self.head != "none"


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How a gradient becomes a step."""

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9  # sgd, muon and rmsprop
    nesterov: bool = True  # sgd and muon
    sgd_ratio: float = 5.0  # muon: the rate of what is no kernel, trained by SGD, in lr
    decay: float = 0.9  # rmsprop: of the moving average of squared gradients
    betas: tuple[float, float] = (0.9, 0.999)  # adam: decays of both moving averages
    epsilon: float = 1e-8  # adam: added to the root; rmsprop: inside it, as TensorFlow 1 has it
    weight_decay: float = 2e-4  # added to the gradient, times the weight (L2)
    decay_all: bool = True  # False: no weight decay on norms and biases

    def __post_init__(self) -> None:
        names = ("sgd", "rmsprop", "adam", "muon")
        _require(self.name in names, "optimizer.name", self.name, ", ".join(names))
        _require(self.lr > 0, "optimizer.lr", self.lr, "above 0")
        for name, value in (("momentum", self.momentum), ("decay", self.decay)):
            _require(0 <= value < 1, f"optimizer.{name}", value, "0 up to, not including, 1")
        _require(
            all(0 <= beta < 1 for beta in self.betas),
            "optimizer.betas",
            self.betas,
            "0 up to, not including, 1, each",
        )
        _require(
            self.name != "sgd" or self.momentum > 0 or not self.nesterov,
            "optimizer.nesterov",
            self.nesterov,
            "false when momentum is 0",
        )
        _require(self.sgd_ratio > 0, "optimizer.sgd_ratio", self.sgd_ratio, "above 0")
        _require(self.epsilon > 0, "optimizer.epsilon", self.epsilon, "above 0")
        _require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over time, as a factor on `optimizer.lr`."""

    name: str = "plateau"
    warmup: float = 0.0  # epochs of linear growth from 0
    factor: float = (
        0.1  # plateau: what the rate is multiplied by; exponential: the same, an epoch, bit by bit
    )
    patience: int = 3  # plateau: epochs without a better monitored error before that
    cycles: int = 4  # cyclic: how often the rate falls from the peak to 0, along a cosine

    def __post_init__(self) -> None:
        allowed = ("plateau", "exponential", "cosine", "cyclic", "linear", "constant")
        _require(self.name in allowed, "schedule.name", self.name, ", ".join(allowed))
        _require(self.warmup >= 0, "schedule.warmup", self.warmup, "0 or more epochs")
        _require(0 < self.factor < 1, "schedule.factor", self.factor, "between 0 and 1")
        _require(self.patience >= 0, "schedule.patience", self.patience, "0 or more epochs")
        _require(self.cycles >= 1, "schedule.cycles", self.cycles, "1 or more")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how large a step, and what is kept."""

    epochs: int = 60
    batch_size: int = 128  # over all processes together
    label_smoothing: float = 0.0
    ema_decay: float = 0.0  # of the exponentially averaged weights; 0: none
    sizes: tuple[
        tuple[float, int], ...
    ] = ()  # (share of the training, pixels): growing resolution; (): the crop
    flip_average: bool = False  # evaluate on the image and its mirror image
    snapshots: int = (
        0  # weights kept on the way, to vote: at the end of the last so many cycles or epochs
    )
    snapshot_every: int = 1  # epochs between two of them, where schedule.name is not cyclic
    keep_weights: str = (
        "last"  # weights to keep at the end: "last", or "best" on the monitored split
    )
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"  # "bf16" where it is native, else "fp32"
    compile: bool = False
    log_every: int = 50  # steps
    checkpoint_minutes: float = 10.0  # and at the end of every epoch
    keep: int = 2  # checkpoints, beside the best
    record: tuple[
        str, ...
    ] = ()  # layers whose activations are recorded, names as in `model.named_modules()`
    record_every: int = 50  # steps

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "train.epochs", self.epochs, "1 or more")
        _require(self.batch_size >= 2, "train.batch_size", self.batch_size, "2 or more")
        _require(
            0 <= self.label_smoothing < 1,
            "train.label_smoothing",
            self.label_smoothing,
            "0 up to 1",
        )
        _require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "0 up to 1")
        starts = [start for start, _ in self.sizes]
        growing = starts == sorted(set(starts)) and (not starts or starts[0] == 0)
        sound = growing and all(0 <= start < 1 and pixels >= 8 for start, pixels in self.sizes)
        _require(
            sound,
            "train.sizes",
            self.sizes,
            "pairs (share, pixels), shares growing from 0 up to 1, as '((0,40),(0.7,56))'",
        )
        _require(self.snapshots >= 0, "train.snapshots", self.snapshots, "0 or more")
        _require(
            self.snapshot_every >= 1,
            "train.snapshot_every",
            self.snapshot_every,
            "1 or more epochs",
        )
        _require(
            self.keep_weights in ("last", "best"),
            "train.keep_weights",
            self.keep_weights,
            "last, best",
        )
        _require(0 <= self.seed < 2**31, "train.seed", self.seed, "0 to 2147483647")
        _require(
            self.precision in ("auto", "bf16", "fp32"),
            "train.precision",
            self.precision,
            "auto, bf16, fp32",
        )
        _require(self.log_every >= 1, "train.log_every", self.log_every, "1 or more steps")
        _require(
            self.checkpoint_minutes > 0,
            "train.checkpoint_minutes",
            self.checkpoint_minutes,
            "above 0",
        )
        _require(self.keep >= 2, "train.keep", self.keep, "2 or more")
        _require(self.record_every >= 1, "train.record_every", self.record_every, "1 or more steps")
        _require(
            not (self.record and self.compile),
            "train.compile",
            True,
            "false while train.record names layers",
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a training, but the data's own pixels."""

    recipe: str
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = field(default_factory=ModelConfig)
    localizer: LocalizerConfig = LocalizerConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        if self.schedule.warmup >= self.train.epochs:
            raise ValueError(
                f"schedule.warmup is {self.schedule.warmup:g} epochs of {self.train.epochs} in all; "
                "set it below train.epochs"
            )
        if self.localizer.finds:
            self._check_augmentation_of_boxes()
        needs_monitor = self.schedule.name == "plateau" or self.train.keep_weights == "best"
        if needs_monitor and self.data.monitor == "none":
            raise ValueError(
                "data.monitor is 'none', but schedule.name=plateau and train.keep_weights=best choose by the monitored error; "
                "set data.monitor=minival, or schedule.name=cosine and train.keep_weights=last"
            )
        if self.schedule.name == "cyclic" and self.train.epochs % self.schedule.cycles:
            raise ValueError(
                f"{self.train.epochs} epochs make no {self.schedule.cycles} equal cycles; "
                "set train.epochs to a multiple of schedule.cycles"
            )
        if self.schedule.name == "cyclic" and self.train.snapshot_every != 1:
            raise ValueError(
                f"train.snapshot_every is {self.train.snapshot_every}, but with schedule.name=cyclic snapshots fall on "
                "the ends of cycles; leave it at 1"
            )
        first = self.train.epochs - (self.train.snapshots - 1) * self._snapshot_spacing
        if self.train.snapshots and first < 1:
            raise ValueError(
                f"train.snapshots is {self.train.snapshots}, one every {self._snapshot_spacing} epochs, but there are "
                f"{self.train.epochs} epochs; set fewer snapshots, or more epochs"
            )

    def _check_augmentation_of_boxes(self) -> None:
        if self.augment.mixes:
            raise ValueError(
                "augment.mixup and augment.cutmix mix images whose boxes cannot be mixed; set both to 0, or "
                "localizer.head=none"
            )
        if self.augment.rotation > 5 or self.augment.trivial_augment:
            raise ValueError(
                f"augment.rotation is {self.augment.rotation:g} and augment.trivial_augment is {self.augment.trivial_augment}; the box "
                "around a turned box is too large beyond 5 degrees: set augment.rotation to 5 or less and "
                "augment.trivial_augment=false, or localizer.head=none"
            )

    @property
    def _snapshot_spacing(self) -> int:
        return (
            self.train.epochs // self.schedule.cycles
            if self.schedule.name == "cyclic"
            else self.train.snapshot_every
        )

    def snapshot_epochs(self) -> list[int]:
        """Return the numbers of epochs done, ascending, after which the weights are kept to vote."""
        behind = range(self.train.snapshots)
        return sorted(self.train.epochs - number * self._snapshot_spacing for number in behind)


def to_dict(run: Config) -> dict[str, Any]:
    """Return `run` as nested plain values; tuples stay tuples (JSON makes them lists, `from_dict`
    takes both).
    """
    return asdict(run)


def from_dict(values: dict[str, Any]) -> Config:
    """Rebuild a run from `to_dict`'s form or its JSON; raise ValueError for unknown or ill-typed
    fields.
    """
    run = Config(recipe=str(values.get("recipe", "")))
    flat: dict[str, Any] = {}
    for section, content in values.items():
        if section == "recipe":
            continue
        _nearest(section, [f.name for f in fields(Config)], "section")
        for name, value in content.items():
            flat[f"{section}.{name}"] = value
    return override(run, flat)


def override(run: Config, changes: dict[str, Any]) -> Config:
    """Return `run` with `{"section.field": value}` changed; strings are parsed by the field's type.

    Raises:
        ValueError: a field is unknown (the nearest name is given), or a value does not fit.
    """
    sections: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        section, _, rest = path.partition(".")
        names = [f.name for f in fields(Config) if is_dataclass(getattr(run, f.name))]
        if not rest:
            known = [f"{s}.{f.name}" for s in names for f in fields(getattr(run, s))]
            _nearest(path, known, "field")
        _nearest(section, names, "section")
        current = getattr(run, section)
        name, _, option = rest.partition(".")
        _nearest(
            name, [f.name for f in fields(current)], f"field of {section}", prefix=f"{section}."
        )
        changed = sections.setdefault(section, {})
        if option:
            if name != "options":
                raise ValueError(f"{path} goes a level too deep; {section}.{name} is a plain value")
            changed[name] = {**changed.get(name, getattr(current, name)), option: _literal(value)}
        else:
            annotation = typing.get_type_hints(type(current))[name]
            changed[name] = _convert(value, annotation, path)
    return replace(
        run,
        **{
            section: replace(getattr(run, section), **changed)
            for section, changed in sections.items()
        },
    )


def difference(run: Config, base: Config) -> list[str]:
    """Return the settings, as a command line takes them, that make `run` of `base`; `recipe` is no
    setting.

    `override(base, parse_assignments(difference(run, base)))` is `run` again, with its lists
    turned into tuples."""
    settings = []
    for section, values in to_dict(run).items():
        if section == "recipe":
            continue
        for name, value in values.items():
            before = getattr(getattr(base, section), name)
            if name == "options" and before.keys() <= value.keys():
                changed = {
                    option: item
                    for option, item in value.items()
                    if _differs(item, before.get(option))
                }
                settings += [
                    f"{section}.{name}.{option}={item!r}" for option, item in changed.items()
                ]
            elif _differs(value, before):
                settings.append(
                    f"{section}.{name}={value if isinstance(value, str) else repr(value)}"
                )
    return settings


def _differs(value: Any, before: Any) -> bool:
    return bool(value != before) or isinstance(value, bool) != isinstance(before, bool)  # True == 1


def parse_assignments(assignments: list[str]) -> dict[str, str]:
    """Split `["train.epochs=8", ...]` into a dict; raise ValueError for what is not
    `section.field=value`.
    """
    changes: dict[str, str] = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise ValueError(
                f"{assignment!r} is no setting; write section.field=value, as train.epochs=8"
            )
        if path in changes:
            raise ValueError(f"{path} is set twice; set it once")
        changes[path] = value
    return changes


def _nearest(name: str, known: list[str], kind: str, prefix: str = "") -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:  # "epochs" is nearer to "train.epochs" than difflib thinks
        close = [k for k in known if k.endswith(f".{name}")][:1]
    hint = f"did you mean {prefix}{close[0]}?" if close else f"there are {', '.join(known)}"
    raise ValueError(f"no {kind} is named {prefix}{name}; {hint}")


def _literal(value: Any) -> Any:
    if not isinstance(value, str):
        return _tuples(value)
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return _tuples(ast.literal_eval(value))
    except (
        ValueError,
        SyntaxError,
        TypeError,
        MemoryError,
        RecursionError,
    ):  # all that literal_eval may raise
        return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _convert(value: Any, annotation: Any, path: str) -> Any:
    """Turn a command line's string or JSON's value into the type that a field declares."""
    literal = value if annotation is str else _literal(value)
    if annotation == tuple[str, ...] and isinstance(literal, str):
        literal = tuple(part.strip() for part in literal.split(",") if part.strip())
    if _fits(literal, annotation):
        return float(literal) if annotation is float else _floats(literal, annotation)
    raise ValueError(f"{path} is {value!r}; expected {_describe(annotation)}")


def _fits(value: Any, annotation: Any) -> bool:
    if annotation is float:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) < float("inf")
        )
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        return isinstance(value, annotation)
    if origin is tuple and isinstance(value, tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    return origin is dict and isinstance(value, dict)


def _floats(value: Any, annotation: Any) -> Any:
    arguments = typing.get_args(annotation)
    if isinstance(value, tuple) and arguments:
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_floats(item, kind) for item, kind in zip(value, kinds, strict=True))
    if isinstance(value, dict):
        return {str(key): _tuples(item) for key, item in value.items()}
    return float(value) if annotation is float else value


def _describe(annotation: Any) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a word",
        tuple[float, float]: "two numbers, as 0.9,1.08",
        tuple[tuple[float, int], ...]: "pairs (share, pixels), as ((0,40),(0.7,56))",
    }
    return names.get(annotation, f"a value like {str(annotation).replace('typing.', '')}")
