"""What a training is made of, checked before it starts: rows, model, weights, run and machine."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from tinysight import models
from tinysight.config import OPERATIONAL, Config
from tinysight.data.batches import chosen_rows
from tinysight.data.dataset import Dataset
from tinysight.data.soft_labels import read_soft_labels
from tinysight.device import Runtime
from tinysight.models.classifier import Classifier
from tinysight.models.init import INITIALIZATIONS
from tinysight.models.localizer import Localizer
from tinysight.ops.boxes import to_cxcywh
from tinysight.predict.metadata import HEAD_SETTINGS
from tinysight.predict.pretrained import NAMES, read_pretrained
from tinysight.recipes import RECIPES, recipe
from tinysight.run import Run, check_writable, find_trained
from tinysight.settings import change, parse_assignments
from tinysight.text import pluralize
from tinysight.training import checkpoint, optimizers
from tinysight.training.distributed import DistributedContext
from tinysight.training.recording import check_layers

logger = logging.getLogger("tinysight")
Rows = npt.NDArray[np.int64]
MIN_INPUT = 8  # pixels per side
# What else may change when a run is resumed: neither the order of images nor the state's form
# depends on it.
CHANGEABLE = (
    *("optimizer.lr", "optimizer.weight_decay", "optimizer.sgd_ratio"),
    *(
        "train.epochs",
        "train.early_stopping",
        "train.sizes",
        "train.label_smoothing",
        "train.flip_average",
    ),
    "train.cuda_graph",
)


def training_rows(config: Config, dataset: Dataset, distributed: DistributedContext) -> Rows:
    """Return the rows to train on; raise ValueError where config, dataset or processes misfit."""
    _check_sizes(config, dataset, distributed)
    rows = chosen_rows(dataset, config.data.train, config.data.fraction)
    name, finds = dataset.name, config.localizer.finds
    fewest = max(2, config.augment.group) * distributed.size
    labeled = dataset.labels[rows] >= 0
    if not labeled.any() and config.localizer.classifies:
        raise ValueError(
            f"no training image of {name} has a class of its own, as the objects in it are of "
            "several; use a localizer with localizer.box_classes=true, such as localizer-many"
        )
    if not finds:
        rows = rows[labeled]
        if len(dataset.class_names) < 2:
            raise ValueError(f"{name} has one class, and a classifier needs two; use a localizer")
    mixes = config.augment.mixup or config.augment.cutmix
    if mixes and config.localizer.classifies and len(dataset.class_names) < 2:
        raise ValueError(
            f"{name} has one class, and mixed images teach a localizer classes alone; leave "
            "augment.mixup and augment.cutmix at 0"
        )
    if len(rows) < fewest:
        raise ValueError(
            f"{name} has {pluralize(len(rows), 'training image')}; a training needs {fewest}"
        )
    if finds and not np.diff(dataset.box_offsets)[rows].any():
        raise ValueError(
            f"no training image of {name} has a box, so there is nothing to learn to find; use "
            "data with boxes (tiny-imagenet, shapes, your own by --boxes), or localizer.head=none"
        )
    _check_monitored(config, dataset)
    return rows


def _check_sizes(config: Config, dataset: Dataset, distributed: DistributedContext) -> None:
    size, batch_size = dataset.image_size, config.train.batch_size
    if (smallest := min(side for _, side in config.input_sizes(size))) < MIN_INPUT:
        raise ValueError(
            f"the network would see {smallest} pixels of the {size} of {dataset.name}, and needs "
            f"{MIN_INPUT}; set larger shares in augment.crop and train.sizes"
        )
    group, processes = config.augment.group, distributed.size
    if batch_size % (group * processes):
        why = f" (mixing takes images in groups of {group})" if group > 1 else ""
        raise ValueError(
            f"train.batch_size {batch_size} cannot be shared evenly by {processes} processes{why}; "
            f"set a multiple of {group * processes}"
        )


def _check_monitored(config: Config, dataset: Dataset) -> None:
    split = config.data.monitor
    rows = list(dataset.rows(split)) if split in dataset.splits else []
    lacking = ""
    if split == "none":
        return
    if config.localizer.finds:
        if not np.diff(dataset.box_offsets)[rows].any():
            lacking = f"no image of {split} of {dataset.name} has a box, so there is nothing"
    elif not (dataset.labels[rows] >= 0).any():
        lacking = f"{dataset.name} has no labeled image in {split}, so there is no error"
    if lacking:
        raise ValueError(
            f"{lacking} to monitor; set data.monitor=none, with train.keep_weights=last and a "
            "schedule other than plateau"
        )


def check(config: Config, dataset: Dataset, distributed: DistributedContext) -> None:
    """Raise ValueError where `config` cannot be trained on `dataset`; costs no memory or time."""
    rows = training_rows(config, dataset, distributed)
    if config.data.soft_labels:
        read_soft_labels(config.data.soft_labels, dataset, rows)
    with torch.device("meta"):
        model = create_model(config, len(dataset.class_names))
    if config.model.pretrained:
        pretrained_weights(config, dataset.class_ids)
    check_layers(model, config.train.record)
    optimizers.check(model, config.optimizer)


def soft_labels(config: Config, dataset: Dataset, rows: Rows) -> Tensor | None:
    """Return the shares of each class (N, K) that people gave, if the config names a file."""
    if not config.data.soft_labels:
        return None
    targets, shared = read_soft_labels(config.data.soft_labels, dataset, rows)
    message = "%d of the %d training images have soft labels, the others labels"
    logger.info(message, shared[rows].sum(), len(rows))
    return torch.from_numpy(targets)


def create_model(config: Config, num_classes: int) -> Classifier | Localizer:
    """Create the model, not yet initialized."""
    classifier = models.create_model(config.model.name, num_classes, **config.model.options)
    classifier.frozen_norms = config.model.frozen_norms
    settings = config.localizer
    if not settings.finds:
        return classifier
    own = {name: getattr(settings, name) for name in (*HEAD_SETTINGS, "frozen")}
    of_boxes = num_classes if settings.box_classes else 0
    return Localizer(classifier, classifies=settings.classifies, num_classes=of_boxes, **own)


def initialize(
    model: Classifier | Localizer,
    config: Config,
    dataset: Dataset,
    rows: Rows,
    *,
    generator: torch.Generator,
) -> None:
    """Draw the weights, and take normalization and the head's mean box from the training rows."""
    classifier = model.encoder if isinstance(model, Localizer) else model
    INITIALIZATIONS[config.model.init](classifier, generator=generator)
    classifier.normalize.set_statistics(*channel_statistics(dataset.images, rows))
    if isinstance(model, Localizer):
        boxes = np.concatenate([dataset.boxes_of(row) for row in rows.tolist()])
        mean = to_cxcywh(torch.from_numpy(boxes).double().mean(dim=0) / dataset.image_size).float()
        prior = len(boxes) / len(rows) / config.localizer.num_predictions
        model.initialize(mean, prior=min(max(prior, 0.01), 0.5), generator=generator)


def with_pretrained_network(config: Config) -> Config:
    """Return a config with the network of the weights to start from, unless it names its own.

    A run's name becomes its folder.
    """
    source = config.model.pretrained
    if source not in ("", *NAMES):
        source = str(find_trained(source))
    config = replace(config, model=replace(config.model, pretrained=source))
    model, known = config.model, config.recipe in RECIPES
    own = recipe(config.recipe).model if known else model
    given = known and (own.name, own.options, own.init) != (model.name, model.options, model.init)
    if given or not model.pretrained:
        return config
    _, metadata = read_pretrained(model.pretrained)
    return replace(config, model=replace(model, name=metadata.model, options=metadata.options))


def pretrained_weights(config: Config, class_ids: Sequence[str]) -> dict[str, Tensor]:
    """Return the state to start from, under the names that the model of `config` has.

    Of a classifier a localizer gets the encoder; of a localizer a classifier gets the encoder, and
    a localizer the box head too where it has the same settings. Layers of other classes than
    `class_ids`, in this order, are left out. Raises ValueError when there are no weights, or they
    are of another network.
    """
    model = config.model
    trained, metadata = read_pretrained(model.pretrained)
    name, options = metadata.model, metadata.options
    if (name, options) != (model.name, model.options):
        raise ValueError(
            f"model.pretrained {model.pretrained} is another network than {model.name} "
            f"{model.options or ''}; leave the settings of model out, or give model.name={name} "
            f'"model.options={options}"'
        )
    same_classes = metadata.class_ids == tuple(class_ids)
    encoder = trained.encoder if isinstance(trained, Localizer) else trained
    last = _last_layer(encoder)
    kept = {k: v for k, v in encoder.state_dict().items() if same_classes or not k.startswith(last)}
    if not config.localizer.finds:
        return kept
    state = {f"encoder.{key}": value for key, value in kept.items()}
    own = {key: getattr(config.localizer, key) for key in HEAD_SETTINGS}
    if isinstance(trained, Localizer) and own == {k: metadata.localizer[k] for k in HEAD_SETTINGS}:
        for key, value in trained.head.state_dict().items():
            if same_classes or not key.startswith("classes."):
                state[f"head.{key}"] = value
    return state


def _last_layer(encoder: Classifier) -> str:
    """Return how the names of the last layer's weights begin: a VGG's head has others before."""
    head = encoder.head
    return f"head.{len(head) - 1}." if isinstance(head, nn.Sequential) else "head."


def load_pretrained(model: nn.Module, config: Config, class_ids: Sequence[str]) -> str:
    """Load `model.pretrained`, and say which layers do not fit and stay as they are initialized."""
    own = model.state_dict()
    weights = pretrained_weights(config, class_ids)
    fitting = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    model.load_state_dict(own | fitting)
    finds = config.localizer.finds  # then all of `head.` is the box head's
    rest = own.keys() - fitting.keys()
    new = {"box head" if finds and name.startswith("head.") else "last layer" for name in rest}
    start = f"begins with the {config.model.name} of {config.model.pretrained}"
    return f"{start}; new: {', '.join(sorted(new))}" if new else f"{start}, all layers"


def warn_of_what_is_not_learned(config: Config, dataset: Dataset) -> None:
    """Warn of images without a label, or too small for pretrained weights, and of many objects.

    And say so where the images of minival are neither learned from nor watched.
    """
    unused = "minival" in dataset.splits and config.data.monitor == "none"
    if unused and config.data.train == "train":
        message = "the %d images of minival are not used; data.train=train+minival learns from them"
        logger.info(message, len(dataset.rows("minival")))
    if config.model.pretrained:
        learned = read_pretrained(config.model.pretrained)[1].input_size
        seen = config.input_sizes(dataset.image_size)[-1][1]
        if 2 * seen < learned:
            message = (
                "%s learned from images of %d pixels, and the network sees %d here, of %s: "
                "import them again with --size %d"
            )
            logger.warning(message, config.model.pretrained, learned, seen, dataset.name, learned)
    rows = dataset.rows(config.data.train)
    unlabeled = int((dataset.labels[rows.start : rows.stop] < 0).sum())
    if unlabeled and not config.localizer.finds:
        message = (
            "%d of the %d training images of %s have no class of their own (none, or objects of "
            "several) and are left out; a localizer, such as localizer-small, learns from all"
        )
        logger.warning(message, unlabeled, len(rows), dataset.name)
    most = int(np.diff(dataset.box_offsets)[rows.start : rows.stop].max(initial=0))
    predictions = config.localizer.num_predictions
    if config.localizer.finds and most > predictions:
        more = {"lstm": "localizer.num_steps or localizer.grid", "centernet": "localizer.grid"}
        message = (
            "some images of %s have %d objects, and the head has %d predictions: the rest is never "
            "learned; for more set %s"
        )
        further = more.get(config.localizer.head, "localizer.head=lstm or centernet")
        logger.warning(message, dataset.name, most, predictions, further)


def channel_statistics(images: Any, rows: Any, limit: int = 4000) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (3,) in 0..255 over at most `limit` rows of images (N, S, S, 3)."""
    chosen = np.asarray(rows)[:: -(-len(rows) // limit)]
    pixels = np.take(images, chosen, axis=0).reshape(-1, 3)
    counts = np.stack([np.bincount(pixels[:, channel], minlength=256) for channel in range(3)])
    values = np.arange(256)
    mean = (counts * values).sum(axis=1) / len(pixels)  # of integers: exact
    variance = (counts * values**2).sum(axis=1) / len(pixels) - mean**2
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(variance)).float()


def changed_run(run: Run, settings: Sequence[str]) -> Run:
    """Return a run with some settings changed, and in its command since which step.

    Changes of operational settings alone are not recorded: they are for this time only. Raises
    ValueError where a setting cannot change, where the run has one that is no more, or where its
    folder has a name that `check_writable` refuses.
    """
    check_writable(run.folder)  # it may have been moved
    if run.retired:
        gone = " ".join(run.retired_assignments)
        raise ValueError(
            f"{run.folder} was trained with {gone}, which this version does not have; "
            "go on by the version that began it (see run.json), or train a new run"
        )
    if not settings:
        return run
    changes = parse_assignments(list(settings))
    allowed = (*CHANGEABLE, *OPERATIONAL)
    if fixed := [name for name in changes if name not in allowed]:
        raise ValueError(
            f"{fixed[0]} cannot change during a training; these can: {', '.join(allowed)}; "
            "for all others train a new run"
        )
    scalars: dict[str, Any] = {"step": 0, "epochs_done": 0}
    for path in reversed(checkpoint.saved(run.checkpoints_path)):
        with suppress(ValueError):  # damaged: the one before it is used
            scalars = checkpoint.load(path).scalars
            break
    config = change(run.config, dict(changes))
    epochs, done = config.train.epochs, scalars["epochs_done"]
    if "train.epochs" in changes and epochs <= done:
        raise ValueError(f"train.epochs is {epochs}, but {done} are done; set more")
    if set(changes) <= set(OPERATIONAL):
        return replace(run, config=config)
    words = shlex.join(["tinysight", "resume", run.folder.name, *settings])
    command = f"{run.command}  # stopped at step {scalars['step']}\n{words}"
    return replace(run, config=config, command=command)


def check_longer(run: Run, changed: Run) -> None:
    """Raise ValueError unless a finished run has something to do with the changed settings."""
    before, after, summary = run.config.train, changed.config.train, run.summary() or {}
    done = summary.get("epochs", before.epochs)
    stopped = done < before.epochs and after.early_stopping == before.early_stopping
    if after.epochs <= done or stopped:
        early = " train.early_stopping=0" if done < before.epochs else ""
        raise ValueError(
            f"{run.folder} is finished after {pluralize(done, 'epoch')}; `tinysight evaluate "
            f"{run.folder}` measures it, `tinysight resume {run.folder} "
            f"train.epochs={2 * done}{early}` trains on"
        )
    if not checkpoint.saved(run.checkpoints_path):
        raise ValueError(
            f"{run.folder} has no checkpoint left to go on from; start a new run from its weights "
            f"by model.pretrained={run.folder}"
        )


def machine(runtime: Runtime, distributed: DistributedContext) -> dict[str, object]:
    """Describe what the arithmetic depends on, for run.json."""
    kind, processes = runtime.device.type, distributed.size
    name = torch.cuda.get_device_name(runtime.device) if kind == "cuda" else kind
    own = {"device": name, "bf16": runtime.bf16, "threads": torch.get_num_threads()}
    return {**own, "processes": processes}


def warn_of_differences(run: Run, now: dict[str, Any]) -> None:
    """Warn where machine or versions are not those that a run began with."""
    before = {**run.machine, **run.versions}
    counted = now.keys() - {"python", "pillow", "safetensors"}
    changed = [key for key in now if key in counted and before.get(key) != now[key]]
    if changed:
        differing = "; ".join(f"{key} {before.get(key)} -> {now[key]}" for key in changed)
        message = "not as it began (%s): the result will be alike, not the same bytes"
        logger.warning(message, differing)


@contextmanager
def locked(run: Run, distributed: DistributedContext) -> Iterator[None]:
    """Hold the run's lock; raise ValueError in every process when another training holds it."""
    lock, taken = FileLock(run.lock_path), 0
    if distributed.is_main:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            taken = 1
    if any(distributed.all_reduce_max(taken)):
        raise ValueError(f"another process is training {run.folder}; wait for it, or stop it first")
    try:
        yield
    finally:
        lock.release()
