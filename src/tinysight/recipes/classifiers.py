"""Recipes of classifiers."""

from __future__ import annotations

from dataclasses import replace

from tinysight.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)

RESNET10 = ModelConfig(name="resnet", options={"n": 1})
RESNET18 = ModelConfig(name="resnet", options={"n": 2})
VGG16 = ModelConfig(name="vgg", options={"depth": 16})
VGG19 = ModelConfig(name="vgg", options={"depth": 19, "linear_convolutions": False})
LIGHT_STEM = {"stem_kernel": 5, "stem_stride": 2, "first_stride": 1}  # ours; see models.resnet
RESNET10_LIGHT = ModelConfig(name="resnet", options={"n": 1, **LIGHT_STEM})
CROP_AND_FLIP = AugmentConfig(shift=0, rotation=0.0, contrast=(1.0, 1.0), gamma=(1.0, 1.0))


def quickstart() -> Config:
    """Train a small ResNet on the bundled drawn shapes, in minutes, without any download.

    Source: ours.
    Images: drawn.
    Hardware: any.
    Time: 10 epochs, 4 minutes on 2 cores without bf16.
    Result: 5.90 % top-1 error on val, fp32, one seed.
    """
    return Config(
        recipe="quickstart",
        data=DataConfig(name="shapes"),
        augment=replace(CROP_AND_FLIP, crop=1.0),  # the crop would cut objects at the edges
        model=ModelConfig(name="resnet", options={"n": 1, "filters": (16, 32, 64, 128)}),
        optimizer=OptimizerConfig(lr=0.1, weight_decay=5e-4, decay_all=False),
        schedule=ScheduleConfig(name="cosine", warmup=0.5),
        train=TrainConfig(
            epochs=10, batch_size=32, label_smoothing=0.05, log_every=40, flip_average=True
        ),
    )


def small() -> Config:
    """Train a small ResNet on your own pictures: the recipe to begin with.

    Source: ours: the network of quickstart, on images that are moved, too; epochs and batch size by
        the number of images, see training.scaling.
    Images: 20 to 20,000.
    Hardware: any.
    Time: 10 to 1,000 epochs, 55 s for 1,442 images on one core with bf16.
    Result: 0.49 % top-1 error on val (411) of 2,062 photographs of ten hand signs, one seed; 1.9 %
        from 30 of each, 14.7 % from 10, three draws (experiments/014); below 30 of each
        `tinysight finetune` is likely better.
    """
    base = quickstart()
    return replace(
        base,
        recipe="small",
        data=replace(base.data, name=""),
        augment=replace(base.augment, shift=4, probability=1.0),
        train=replace(base.train, epochs=0, batch_size=0),
    )


def resnet18_report() -> Config:
    """Train the report's 18-layer ResNet as published.

    Source: Wu et al. 2017, sections 3.1, 3.2, 3.6 and 4.6: 43.50 % top-1 validation error (42.1 %
        in its Table 3). Batch size, epochs, patience and the ranges of shift and rotation are ours:
        the report does not give them.
    Images: 10,000 or more.
    Hardware: a GPU; on 2 CPU cores with native bf16 about 8 minutes per epoch.
    Time: 60 epochs.
    Result: not yet run in full.
    """
    return Config(
        recipe="resnet18-report",
        model=RESNET18,
        optimizer=OptimizerConfig(lr=0.1, momentum=0.9, nesterov=True, weight_decay=2e-4),
        schedule=ScheduleConfig(name="plateau", factor=0.1, patience=3),
        train=TrainConfig(epochs=60, batch_size=128, keep_weights="best"),
    )


def resnet10_report() -> Config:
    """Train the report's 10-layer ResNet as published.

    Source: Wu et al. 2017, section 4.4 (Fig. 11): about the 18-layer model's error, learned faster
        at first.
    Images: 10,000 or more.
    Hardware: a GPU; on 2 CPU cores with native bf16 about 7 minutes per epoch.
    Time: 60 epochs.
    Result: not yet run in full.
    """
    return replace(resnet18_report(), recipe="resnet10-report", model=RESNET10)


def inception_resnet_report() -> Config:
    """Train the report's Inception-ResNet, its best model, as published.

    Source: Wu et al. 2017, sections 3.3 and 3.6: 37.56 % top-1 validation error. Batch size,
        epochs, weight decay and momentum are ours: the report does not give them. Without
        momentum the network hardly learns: 78.0 % on minival after 14 epochs.
    Images: 10,000 or more.
    Hardware: a GPU.
    Time: 40 epochs; the learning rate ends at 1.5 % of the first.
    Result: not yet run in full; 59.66 % on val after 12 epochs (experiments/007).
    """
    return Config(
        recipe="inception-resnet-report",
        model=ModelConfig(name="inception_resnet"),
        optimizer=OptimizerConfig(
            name="rmsprop", lr=0.05, decay=0.9, epsilon=1.0, momentum=0.9, weight_decay=2e-4
        ),
        schedule=ScheduleConfig(name="exponential", factor=0.9),
        train=TrainConfig(epochs=40, batch_size=128, keep_weights="best"),
    )


def vgg16_report() -> Config:
    """Train the report's VGG-16 as published.

    Source: Wu et al. 2017, sections 3.4 and 3.6: 47.22 % top-1 validation error. "L2
        regularization" without a number: 2e-4 is ours, as are batch size and epochs.
    Images: 10,000 or more.
    Hardware: a GPU.
    Time: 40 epochs; the learning rate ends at 1.5 % of the first.
    Result: not yet run in full.
    """
    return Config(
        recipe="vgg16-report",
        model=VGG16,
        optimizer=OptimizerConfig(name="adam", lr=0.001, weight_decay=2e-4),
        schedule=ScheduleConfig(name="exponential", factor=0.9),
        train=TrainConfig(epochs=40, batch_size=128, keep_weights="best"),
    )


def vgg19_report() -> Config:
    """Train the report's VGG-19 as published.

    Source: Wu et al. 2017, sections 3.4 and 3.6: 45.31 % top-1 validation error. The same
        settings are ours as in vgg16-report. Without 1x1 convolutions its 41.44 M parameters come
        nearest to the published 40.2 M.
    Images: 10,000 or more.
    Hardware: a GPU.
    Time: 40 epochs; the learning rate ends at 1.5 % of the first.
    Result: not yet run in full.
    """
    return replace(vgg16_report(), recipe="vgg19-report", model=VGG19)


def resnet18_modern() -> Config:
    """Train the same 18-layer ResNet by a modern recipe.

    Source: ours: weight decay 5e-4 except for norms and biases, warm-up and cosine, label
        smoothing, averaged weights, crop and flip only.
    Images: 10,000 or more.
    Hardware: a GPU; on 2 CPU cores with native bf16 about 8 minutes per epoch.
    Time: 60 epochs.
    Result: not yet run in full.
    """
    return Config(
        recipe="resnet18-modern",
        augment=CROP_AND_FLIP,
        model=RESNET18,
        optimizer=OptimizerConfig(lr=0.2, weight_decay=5e-4, decay_all=False),
        schedule=ScheduleConfig(name="cosine", warmup=3.0),
        train=TrainConfig(
            epochs=60, batch_size=256, label_smoothing=0.1, ema_decay=0.999, flip_average=True
        ),
    )


def inception_resnet_modern() -> Config:
    """Train the same Inception-ResNet by the recipe of resnet18-modern.

    Source: ours; see resnet18-modern.
    Images: 10,000 or more.
    Hardware: a GPU.
    Time: 60 epochs.
    Result: not yet run in full; 46.83 % on val after 12 epochs (experiments/007).
    """
    model = ModelConfig(name="inception_resnet")
    return replace(resnet18_modern(), recipe="inception-resnet-modern", model=model)


def vgg16_modern() -> Config:
    """Train the same VGG-16 by the recipe of resnet18-modern, at a lower learning rate.

    Source: ours; see resnet18-modern. A fifth of its learning rate, as there are no shortcuts: a
        guess, not tuned.
    Images: 10,000 or more.
    Hardware: a GPU.
    Time: 60 epochs.
    Result: not yet run in full.
    """
    base = resnet18_modern()
    optimizer = replace(base.optimizer, lr=0.04)
    return replace(base, recipe="vgg16-modern", model=VGG16, optimizer=optimizer)


def vgg19_modern() -> Config:
    """Train the same VGG-19 by the recipe of vgg16-modern.

    Source: ours; see vgg16-modern.
    Images: 10,000 or more.
    Hardware: a GPU.
    Time: 60 epochs.
    Result: not yet run in full.
    """
    return replace(vgg16_modern(), recipe="vgg19-modern", model=VGG19)


def resnet10_laptop() -> Config:
    """Train the report's 10-layer ResNet on 2 CPU cores in about an hour.

    Source: ours, by known methods for short trainings (high learning rate, linear decay, small
        images first).
    Images: 10,000 or more.
    Hardware: 2 CPU cores with native bf16.
    Time: 10 epochs: 65 minutes, 47 of them on one core.
    Result: 47.40 % top-1 error on val, learning from train and minival, one seed (experiments/001).
    """
    sizes = ((0.0, 0.625), (0.6, 0.75), (0.8, 0.875))
    return Config(
        recipe="resnet10-laptop",
        augment=CROP_AND_FLIP,
        model=RESNET10,
        optimizer=OptimizerConfig(lr=0.5, weight_decay=5e-4, decay_all=False),
        schedule=ScheduleConfig(name="linear", warmup=0.5),
        train=TrainConfig(
            epochs=10, batch_size=128, label_smoothing=0.1, sizes=sizes, flip_average=True
        ),
    )


def resnet10_light() -> Config:
    """Train a 10-layer ResNet with a lighter stem by Muon, our best in an hour of 2 CPU cores.

    Source: ours: resnet10-laptop with a stem of 5x5 and stride 2, kernels updated by
        orthogonal steps (Jordan et al. 2024), and 32 pixels at first.
    Images: 10,000 or more.
    Hardware: 2 CPU cores with native bf16.
    Time: 14 epochs: 57 minutes.
    Result: 42.89 % top-1 error on val with data.train=train+minival data.monitor=none, one seed
        (experiments/006).
    """
    base = resnet10_laptop()
    sizes = ((0.0, 0.5), (0.28, 0.625), (0.64, 0.75), (0.86, 0.875))
    return replace(
        base,
        recipe="resnet10-light",
        model=RESNET10_LIGHT,
        optimizer=replace(base.optimizer, name="muon", lr=0.025, sgd_ratio=20.0),
        train=replace(base.train, epochs=14, batch_size=256, sizes=sizes),
    )


def resnet18_light() -> Config:
    """Train the 18-layer ResNet of resnet10-light with CutMix, our best on a GPU so far.

    Source: ours: resnet10-light with 18 layers, CutMix on half of the images, averaged weights.
    Images: 10,000 or more.
    Hardware: a GPU, or 2 CPU cores with native bf16 and an evening.
    Time: 18 epochs: 172 s on an H200 next to two other trainings.
    Result: 40.32 % top-1 error on val, one seed (experiments/007).
    """
    base = resnet10_light()
    return replace(
        base,
        recipe="resnet18-light",
        augment=replace(base.augment, cutmix=1.0, mix_until=0.8),
        model=ModelConfig(name="resnet", options={"n": 2, **LIGHT_STEM}),
        train=replace(base.train, epochs=18, ema_decay=0.998),
    )


def resnet14_light() -> Config:
    """Train 14 layers with averaging shortcuts: our best in two hours of 2 CPU cores.

    Source: ours: resnet18-light with one residual unit fewer in the first block and in the last,
        averaging shortcuts (He et al. 2019) and squeeze-and-excitation (Hu et al. 2018).
    Images: 10,000 or more.
    Hardware: 2 CPU cores with native bf16.
    Time: 16 epochs: 118 minutes.
    Result: 39.74 % top-1 error on val with data.train=train+minival data.monitor=none, one seed
        (experiments/011).
    """
    base = resnet18_light()
    return replace(
        base,
        recipe="resnet14-light",
        model=ModelConfig(
            name="resnet",
            options={"units": (1, 2, 2, 1), "squeeze": 16, "pooled_shortcut": True, **LIGHT_STEM},
        ),
        train=replace(base.train, epochs=16),
    )
