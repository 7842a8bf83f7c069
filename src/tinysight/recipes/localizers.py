"""Recipes of localizers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinysight.config import (
    Config,
    DataConfig,
    LocalizerConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from tinysight.recipes.classifiers import (
    CROP_AND_FLIP,
    LIGHT_STEM,
    RESNET10_LIGHT,
    quickstart,
    resnet10_laptop,
    resnet14_light,
)

# SGD at a high learning rate makes an LSTM diverge.
ADAM = OptimizerConfig(name="adam", lr=0.001, weight_decay=1e-4, decay_all=False)


def localizer_small() -> Config:
    """Train a localizer on your own pictures with boxes, from the bundled weights.

    Source: ours: the bundled network, its norms fixed, and a map of centers (Zhou et al. 2019);
        images of 96 pixels are best.
    Images: 50 or more, with boxes.
    Hardware: any.
    Time: 10 to 100 epochs; 30 of 131 photographs of 96 pixels take 3 minutes of one core with bf16.
    Result: 78.0 % of 164 photographs of kangaroos found (IoU of 0.5 or more; 95 %: 71.1 to 83.7;
        best constant box 29.3 %) after 30 epochs, five folds, one seed (experiments/008).
    """
    base = localizer_joint()
    return replace(
        base,
        recipe="localizer-small",
        data=DataConfig(name=""),
        augment=replace(base.augment, zoom=1.6, stretch=1.2),
        model=replace(base.model, pretrained="bundled", frozen_norms=True),
        localizer=LocalizerConfig(head="centernet", grid=24, giou_weight=1.0, box_classes=True),
        schedule=ScheduleConfig(name="cosine", warmup=2.0),
        train=replace(base.train, epochs=0, batch_size=16, sizes=(), log_every=20),
    )


def localizer_many() -> Config:
    """Train a localizer from scratch where an image has many small objects, such as cells.

    Source: ours: a small ResNet of stride 8 and a map of centers (Zhou et al. 2019); images of 128
        pixels or more.
    Images: 100 or more, with boxes.
    Hardware: any.
    Time: 10 to 100 epochs; 60 of 253 images of 128 pixels take 7 minutes on 2 cores.
    Result: mAP50 91.5 % over three kinds of blood cells, 87.7 % without classes, on 74 images of
        val, after 60 epochs, one seed (experiments/008).
    """
    base = localizer_small()
    options: dict[str, Any] = {"n": 1, "filters": (32, 64, 128), **LIGHT_STEM}
    return replace(
        base,
        recipe="localizer-many",
        augment=replace(base.augment, zoom=1.4),
        model=ModelConfig(name="resnet", options=options),
        localizer=replace(base.localizer, grid=32),
        optimizer=replace(base.optimizer, lr=0.002),
        train=replace(base.train, batch_size=8),
    )


def localizer_goldfish() -> Config:
    """Train a localizer of one class, from 400 images of it, with a box each, and 400 of others.

    Source: ours, for the question of Wu et al. 2017, sections 3.5 and 4.8: several objects, from
        images with one box. A map of centers (Zhou et al. 2019), and mosaics. Theirs is
        localizer.head=lstm localizer.grid=1. Any class: --data tiny-imagenet.<name or wnid>;
        another fold held out: --data tiny-imagenet.goldfish.fold1.
    Images: 100 or more, with a box each.
    Hardware: any.
    Time: 120 epochs, 17 minutes of one busy core with bf16.
    Result: 78.2 % of 500 goldfish in five folds found (IoU of 0.5 or more; 95 %: 74.4 to 81.6; the
        median box 62.8 %), AP50 71.7 % on mosaics of val, one seed (experiments/009).
    """
    filters = (32, 64, 128, 256)
    own: dict[str, Any] = {"shift": 6, "probability": 1.0, "zoom": 1.4, "mosaic": 0.5}
    return Config(
        recipe="localizer-goldfish",
        data=DataConfig(name="tiny-imagenet.goldfish"),
        augment=replace(CROP_AND_FLIP, crop=1.0, **own),
        model=ModelConfig(name="resnet", options={"n": 1, "filters": filters, **LIGHT_STEM}),
        localizer=LocalizerConfig(head="centernet", grid=16, giou_weight=1.0),
        optimizer=ADAM,
        schedule=ScheduleConfig(name="cosine", warmup=2.0),
        train=TrainConfig(
            epochs=120,
            batch_size=32,
            label_smoothing=0.05,
            ema_decay=0.99,
            log_every=25,
            flip_average=True,
        ),
    )


def localizer_joint() -> Config:
    """Train class and box together on all of Tiny ImageNet.

    Source: ours, after Wu et al. 2017, section 3.5. From a trained classifier:
        model.pretrained=RUN; localizer.frozen=true freezes its features, optimizer.lr=0.0003
        fine-tunes them.
    Images: 10,000 or more, with a box each.
    Hardware: 2 CPU cores.
    Time: 4 epochs from scratch: not yet run; 0.6 of an epoch on a frozen encoder: 6 minutes on 2
        cores without bf16.
    Result: 66.9 % of the objects of val found (best constant box 58.0 %), 41.40 % top-1 error, on
        an encoder of 42.89 % (experiments/006, 2 epochs, 19 minutes with bf16); 63.7 % found, 56.74
        % error, on the frozen encoder of experiments/004 (56.60 %), one seed (experiments/005).
    """
    base = resnet10_laptop()
    return replace(
        base,
        recipe="localizer-joint",
        augment=replace(CROP_AND_FLIP, crop=1.0, shift=6, probability=1.0),
        model=RESNET10_LIGHT,
        localizer=LocalizerConfig(head="lstm", grid=1, giou_weight=0.5),
        optimizer=ADAM,
        train=replace(base.train, epochs=4, sizes=((0.0, 0.625), (0.6, 0.75), (0.85, 0.875))),
    )


def localizer_light() -> Config:
    """Train class and box together, from scratch: our best in four hours of 2 CPU cores.

    Source: ours: localizer-joint with the layers of resnet14-light, without squeeze-and-excitation,
        CutMix, Muon, averaged weights and a narrower head.
    Images: 10,000 or more, with a box each.
    Hardware: 2 CPU cores with native bf16.
    Time: 27 epochs: 3 h 35 min.
    Result: 36.53 % top-1 error on val, 70.5 % of the objects found (best constant box 58.0 %), with
        data.train=train+minival data.monitor=none, one seed (experiments/013).
    """
    base, classifier = localizer_joint(), resnet14_light()
    sizes = ((0.0, 0.5), (0.407, 0.75), (0.778, 1.0))
    return replace(
        base,
        recipe="localizer-light",
        augment=replace(base.augment, cutmix=1.0, mix_until=0.9),
        model=replace(classifier.model, options={**classifier.model.options, "squeeze": 0}),
        localizer=replace(base.localizer, width=64, loss_weight=0.5),
        optimizer=replace(classifier.optimizer, sgd_ratio=2.4),
        train=replace(classifier.train, epochs=27, sizes=sizes),
    )


def localizer_shapes() -> Config:
    """Train a small localizer on the bundled drawn shapes, without any download.

    Source: ours; the head is the LSTM by cells of Stewart et al. 2016.
    Images: drawn.
    Hardware: any.
    Time: 6 epochs, 9 minutes on one core without bf16.
    Result: 98.4 % of the objects of minival found (IoU of 0.5 or more), 67.2 % top-1 error (the
        class takes longer); one seed, first version of the shapes.
    """
    base = quickstart()
    return replace(
        base,
        recipe="localizer-shapes",
        augment=replace(base.augment, shift=6, probability=1.0),
        localizer=LocalizerConfig(head="lstm", grid=4, giou_weight=0.5),
        optimizer=ADAM,
        train=replace(base.train, epochs=6),
    )


def localizer_scenes() -> Config:
    """Train a localizer on drawn scenes of two to four shapes.

    Source: ours; the head is the LSTM by cells of Stewart et al. 2016.
    Images: drawn.
    Hardware: any.
    Time: 12 epochs, 18 minutes on one core without bf16.
    Result: 99.9 % of the objects of minival found at one false positive per image, 93.2 % of the
        counts right; one seed, first version of the shapes.
    """
    base = localizer_shapes()
    return replace(
        base,
        recipe="localizer-scenes",
        data=DataConfig(name="shapes-2-4"),
        localizer=replace(base.localizer, class_loss_weight=0.0),
        train=replace(base.train, epochs=12),
    )
