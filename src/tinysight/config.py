"""The settings of a training run as plain, frozen values, validated on construction.

Two levels: `Config` holds one dataclass per section. Limits are declared next to the fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

OptionValue = int | float | str | bool | tuple[int, ...]
# Settings that change no result: two runs that differ in them alone are the same training.
OPERATIONAL = (
    *("data.prefetch", "train.log_every", "train.checkpoint_minutes"),
    *("train.keep", "train.stop_after_minutes"),
)


@dataclass(frozen=True)
class Interval:
    """Numbers between two bounds in mathematical notation, as "[0, 1)"; of a tuple each item."""

    text: str

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, tuple):
            return all(item in self for item in value)
        low, high = map(float, self.text[1:-1].split(","))
        closed = (self.text[0] == "[" and value == low) or (self.text[-1] == "]" and value == high)
        return low < value < high or closed

    def __str__(self) -> str:
        low, high = self.text[1:-1].split(", ")
        lower = f"{'at least' if self.text[0] == '[' else 'above'} {low}"
        upper = f", {'at most' if self.text[-1] == ']' else 'below'} {high}"
        return lower + upper * (high != "inf")


def within(interval: str, default: float | tuple[float, ...]) -> Any:
    """Declare a field for numbers of an interval, such as "(0, 1]" or "[0, inf)"."""
    return field(default=default, metadata={"allowed": Interval(interval)})


def one_of(*choices: str) -> Any:
    """Declare a field for one of several words, the first by default."""
    return field(default=choices[0], metadata={"allowed": choices})


def _require(condition: bool, name: str, value: object, allowed: object) -> None:
    if not condition:
        text = ", ".join(allowed) if isinstance(allowed, tuple) else allowed
        raise ValueError(f"{name} is {value!r}; allowed: {text}")


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base of the sections: checks the value of each field."""

    def __post_init__(self) -> None:
        section = type(self).__name__.removesuffix("Config").lower()
        for item in fields(self):
            if allowed := item.metadata.get("allowed"):
                value = getattr(self, item.name)
                _require(value in allowed, f"{section}.{item.name}", value, allowed)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Which dataset, and the parts that its splits play."""

    name: str = "tiny-imagenet"
    train: str = one_of("train", "train+minival")  # rows to learn from
    # rows evaluated after each epoch, for choices; none: no such evaluation
    monitor: str = one_of("minival", "none")
    fraction: float = within("(0, 1]", 1.0)  # class-balanced share of the training rows
    soft_labels: str = ""  # file with shares of people's answers as targets; see data.soft_labels
    prefetch: int = within("[0, 64]", 1)  # batches read ahead when images are not on device

    def __post_init__(self) -> None:
        allowed = "minival, none (val is for reports)"
        _require(self.monitor != "val", "data.monitor", self.monitor, allowed)
        super().__post_init__()
        held_out = self.train == "train" or self.monitor == "none"
        allowed = "none, because data.train=train+minival learns from minival"
        _require(held_out, "data.monitor", self.monitor, allowed)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Section):
    """Training-time augmentation; see `ops.augment`, `ops.mixing` and `ops.trivial_augment`."""

    crop: float = within("(0, 1]", 0.875)  # side of the window, as a share of the image's side
    flip: float = within("[0, 1]", 0.5)  # probability of a horizontal flip
    shift: int = within("[0, inf)", 4)  # largest translation in pixels
    rotation: float = within("[0, 180]", 10.0)  # largest angle in degrees
    contrast: tuple[float, float] = (0.9, 1.08)  # range of the factor
    gamma: tuple[float, float] = (0.9, 1.08)  # range of the exponent
    zoom: float = within("[1, 8]", 1.0)  # largest factor of enlarging and of making smaller
    stretch: float = within("[1, 2]", 1.0)  # largest change of width over height
    # that shift, rotation, contrast, gamma, zoom and stretch are each applied to an image
    probability: float = within("[0, 1]", 0.5)
    trivial_augment: bool = False  # also one random operation of random strength per image
    # alpha of Beta(alpha, alpha), the image's own share in a mixture; 0: no mixup
    mixup: float = within("[0, 100]", 0.0)
    cutmix: float = within("[0, 100]", 0.0)  # the same; with both, an image takes either
    mix_probability: float = within("[0, 1]", 0.5)  # that an image is mixed
    # probability that an image becomes a mosaic of four, of a localizer
    mosaic: float = within("[0, 1]", 0.0)
    mix_until: float = within("[0, 1]", 0.9)  # share of the training with mixed images and mosaics

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("contrast", "gamma"):
            value = getattr(self, name)
            ordered = len(value) == 2 and 0 < value[0] <= value[1]
            allowed = "two positive numbers, the lower first, such as 0.9,1.08"
            _require(ordered, f"augment.{name}", value, allowed)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed at all."""
        return bool(self.mix_probability and (self.mixup or self.cutmix))

    @property
    def group(self) -> int:
        """Images of a batch that are mixed with one another."""
        return 4 if self.mosaic else 2 if self.mixes else 1


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """A name in `models.MODELS`, and the keyword arguments it is created with."""

    name: str = "resnet"
    options: dict[str, OptionValue] = field(default_factory=dict)
    init: str = one_of("variance_scaling", "xavier", "torch")
    # weights to start from: a run, a weights file, `bundled`, or `lite0`; "": none
    pretrained: str = ""
    # batch norms of the encoder keep the running statistics of model.pretrained
    frozen_norms: bool = False


@dataclass(frozen=True, kw_only=True)
class LocalizerConfig(Section):
    """Whether and how the network also predicts boxes; with `head` "none" it is a classifier."""

    head: str = one_of("none", "mlp", "lstm", "centernet")
    # cells along a side of the image: 1 or 4 as the report may be read, 16 for centernet
    grid: int = within("[1, 32]", 1)
    # mlp and lstm: features of each position that they read, of 4 x 4 in an image or one in a cell
    width: int = within("[8, 512]", 128)
    num_steps: int = within("[1, 50]", 5)  # lstm: the most boxes per cell
    # overlap in matching: an IoU of 0.25 or more, or the center within the true box
    overlap: str = one_of("iou", "center")
    feedback: bool = False  # lstm: each step sees the box of the step before
    shared: bool = False  # lstm: all steps share the layers that read box and confidence
    # above 1, cells are also matched to objects with centers just beyond their edges
    cell_scale: float = within("[1, 3]", 1.0)
    loss_weight: float = within("(0, inf)", 1.0)  # of confidence and box
    box_weight: float = within("(0, inf)", 5.0)  # of the L1 distance, in sides of the image
    giou_weight: float = within("[0, inf)", 0.0)  # of 1 - GIoU, added to the L1 distance
    class_loss_weight: float = within("[0, inf)", 1.0)  # 0: the class is not trained
    box_classes: bool = False  # each box has a class, and the image has none of its own
    # filter: all boxes above the threshold; stop: the boxes of a cell end with the first below it
    decoding: str = one_of("filter", "stop")
    # confidence from which a box is accepted; 0: the best on minival; without one 0.5, or 0.3 of
    # centernet, whose loss allows for mistakes next to a center
    threshold: float = within("[0, 1)", 0.0)
    nms_iou: float = within("(0, 1]", 0.5)  # larger IoUs are duplicates; 1: keep all
    frozen: bool = False  # the encoder keeps the weights of model.pretrained

    def __post_init__(self) -> None:
        super().__post_init__()
        name, grid = "localizer.grid", self.grid
        _require(self.head != "mlp" or grid == 1, name, grid, "1 with localizer.head=mlp")
        allowed = "8 or more with localizer.head=centernet"
        _require(self.head != "centernet" or grid >= 8, name, grid, allowed)

    @property
    def finds(self) -> bool:
        """Whether there is a head that predicts boxes."""
        return self.head != "none"

    @property
    def first_threshold(self) -> float:
        """The threshold until one is chosen."""
        return self.threshold or (0.3 if self.head == "centernet" else 0.5)

    @property
    def classifies(self) -> bool:
        """Whether a class of the entire image is learned."""
        return not self.finds or (self.class_loss_weight > 0 and not self.box_classes)

    @property
    def num_predictions(self) -> int:
        """The most boxes per image that the head predicts."""
        return self.grid**2 * (self.num_steps if self.head == "lstm" else 1)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """The optimizer and its hyperparameters."""

    name: str = one_of("sgd", "rmsprop", "adam", "muon")
    lr: float = within("(0, inf)", 0.1)
    encoder_ratio: float = within("(0, 1]", 1.0)  # lr of all but the heads, as a multiple of lr
    momentum: float = within("[0, 1)", 0.9)  # sgd, muon and rmsprop
    nesterov: bool = True  # sgd and muon
    # muon: learning rate of all other parameters, trained by SGD, as a multiple of lr
    sgd_ratio: float = within("(0, inf)", 5.0)
    decay: float = within("[0, 1)", 0.9)  # rmsprop: of the average of squared gradients
    betas: tuple[float, float] = within("[0, 1)", (0.9, 0.999))  # adam: of both averages
    # adam: added to the root; rmsprop: inside the root, as in TensorFlow 1
    epsilon: float = within("(0, inf)", 1e-8)
    weight_decay: float = within("[0, inf)", 2e-4)  # L2: the gradient plus this times the weight
    decay_all: bool = True  # False: no weight decay on norms and biases

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = self.name != "sgd" or self.momentum > 0 or not self.nesterov
        _require(valid, "optimizer.nesterov", self.nesterov, "false when momentum is 0")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Section):
    """The learning-rate schedule, a factor on `optimizer.lr`."""

    name: str = one_of("plateau", "exponential", "cosine", "cyclic", "linear", "constant")
    warmup: float = within("[0, inf)", 0.0)  # epochs of linear growth from 0
    # plateau: factor of each drop; exponential: factor per epoch, applied step by step
    factor: float = within("(0, 1)", 0.1)
    patience: int = within("[0, inf)", 3)  # plateau: epochs without a better monitored error
    cycles: int = within("[1, inf)", 4)  # cyclic: number of cosine falls from the peak to 0


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """How long to train, in which steps, and what to keep."""

    # 0 for either: by the number of images, see training.scaling
    epochs: int = within("[0, inf)", 60)
    batch_size: int = within("[0, inf)", 128)  # over all processes together
    # epochs without a better monitored error after which the training ends; 0: never
    early_stopping: int = within("[0, inf)", 0)
    # weight of a class's images in the loss, 1 / share of the class to this power
    class_balance: float = within("[0, 1]", 0.0)
    label_smoothing: float = within("[0, 1)", 0.0)
    ema_decay: float = within("[0, 1)", 0.0)  # of the averaged weights; 0: no averaging
    sizes: tuple[tuple[float, float], ...] = ()  # growing: (share of training, of image's side)
    flip_average: bool = False  # evaluate on the image and its mirror image
    # weights kept for an ensemble, at the end of the last cycles or epochs
    snapshots: int = within("[0, inf)", 0)
    snapshot_every: int = within("[1, inf)", 1)  # epochs, unless schedule.name is cyclic
    keep_weights: str = one_of("last", "best")  # best: on the monitored split
    seed: int = within("[0, 2147483647]", 0)
    device: str = "auto"
    precision: str = one_of("auto", "bf16", "fp32")  # auto: bf16 where it is native
    compile: bool = False
    cuda_graph: bool = True  # on one GPU, a classifier's steps are captured once and replayed
    log_every: int = within("[1, inf)", 50)  # steps
    # state is saved this often, and at ends of epochs (of short ones, not of each)
    checkpoint_minutes: float = within("(0, inf)", 10.0)
    keep: int = within("[2, inf)", 2)  # checkpoints, in addition to the best
    stop_after_minutes: float = within("[0, inf)", 0.0)  # save and stop, to resume later; 0: never
    record: tuple[str, ...] = ()  # layers whose activations are recorded, by their module names
    record_every: int = within("[1, inf)", 50)  # steps

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.batch_size != 1, "train.batch_size", 1, "2 or more, or 0: automatic")
        starts = [start for start, _ in self.sizes]
        growing = starts == sorted(set(starts)) and (not starts or starts[0] == 0)
        valid = growing and all(0 <= start < 1 and 0 < share <= 4 for start, share in self.sizes)
        allowed = "pairs of shares, the first growing from 0 up to 1, as '((0,0.625),(0.7,0.875))'"
        _require(valid, "train.sizes", self.sizes, allowed)
        allowed = "false while train.record names layers"
        _require(not (self.record and self.compile), "train.compile", True, allowed)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that determines a training run, except the data's own pixels."""

    recipe: str
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = field(default_factory=ModelConfig)
    localizer: LocalizerConfig = LocalizerConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        train, schedule, augment = self.train, self.schedule, self.augment
        if schedule.name == "plateau" or train.keep_weights == "best" or train.early_stopping:
            allowed = "minival with schedule.name=plateau, train.keep_weights=best or "
            allowed += "train.early_stopping, which choose by the monitored error; without it set "
            allowed += "another schedule, such as cosine, and train.keep_weights=last"
            _require(self.data.monitor != "none", "data.monitor", "none", allowed)
        if schedule.name == "cyclic":
            allowed = f"a multiple of schedule.cycles, which is {schedule.cycles}"
            _require(train.epochs % schedule.cycles == 0, "train.epochs", train.epochs, allowed)
            allowed = "1 with schedule.name=cyclic, as snapshots are taken at the ends of cycles"
            every = train.snapshot_every
            _require(every == 1, "train.snapshot_every", every, allowed)
        allowed = f"fewer, or more epochs: they do not fit in train.epochs={train.epochs}"
        fit = not (train.snapshots and train.epochs) or self.snapshot_epochs()[0] >= 1
        _require(fit, "train.snapshots", train.snapshots, allowed)
        frozen, allowed = self.localizer.frozen, "false without model.pretrained"
        for name, value in (
            ("localizer.frozen", frozen),
            ("model.frozen_norms", self.model.frozen_norms),
        ):
            _require(not value or bool(self.model.pretrained), name, True, allowed)
        ratio, allowed = self.optimizer.encoder_ratio, "1 with localizer.frozen=true"
        _require(ratio == 1 or not frozen, "optimizer.encoder_ratio", ratio, allowed)
        allowed = "0 without a localizer.head, as a mosaic has no class of its own"
        finds = self.localizer.finds
        _require(finds or not augment.mosaic, "augment.mosaic", augment.mosaic, allowed)
        allowed = "left out with a localizer that learns no class of the image"
        given = self.data.soft_labels
        _require(not given or self.localizer.classifies, "data.soft_labels", given, allowed)
        if finds:
            allowed = "less than 1 with a localizer.head, as mixed images teach it no boxes"
            some = not augment.mixes or augment.mix_probability < 1
            _require(some, "augment.mix_probability", augment.mix_probability, allowed)
            allowed = "0 with a localizer that learns no class of the image"
            for name in ("mixup", "cutmix") if not self.localizer.classifies else ():
                value = getattr(augment, name)
                _require(not value, f"augment.{name}", value, allowed)
            _require(augment.crop == 1, "augment.crop", augment.crop, "1 with a localizer.head")
            allowed = "at most 5 with a localizer.head: the box around a rotated box gets too large"
            _require(augment.rotation <= 5, "augment.rotation", augment.rotation, allowed)
            allowed = "false with a localizer.head, as it rotates by more than 5 degrees"
            _require(not augment.trivial_augment, "augment.trivial_augment", True, allowed)

    def crop_side(self, image_size: int) -> int:
        """Return the side in pixels of the window that is cut out of images."""
        return max(1, round(self.augment.crop * image_size))

    def input_sizes(self, image_size: int) -> tuple[tuple[float, int], ...]:
        """Return the pixels that the network sees, from which share of the training on."""
        sizes = self.train.sizes or ((0.0, self.augment.crop),)
        return tuple((start, max(1, round(share * image_size))) for start, share in sizes)

    def snapshot_epochs(self) -> list[int]:
        """Return the numbers of finished epochs, ascending, after which snapshots are kept."""
        train, cyclic = self.train, self.schedule.name == "cyclic"
        spacing = train.epochs // self.schedule.cycles if cyclic else train.snapshot_every
        return [train.epochs - number * spacing for number in reversed(range(train.snapshots))]
