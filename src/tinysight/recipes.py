"""Named configs. A recipe is a function that returns a `Config`; a variant is `replace(base, ...)`.

The first line of each docstring is what the recipe trains; `tinysight recipes` shows the labeled
lines. "Result" is what was measured (see experiments/), or states that nothing has been yet.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace

from tinysight.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LocalizerConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from tinysight.files import suggest

RESNET10 = ModelConfig(name="resnet", options={"n": 1})
RESNET18 = ModelConfig(name="resnet", options={"n": 2})
VGG16 = ModelConfig(name="vgg", options={"depth": 16})
VGG19 = ModelConfig(name="vgg", options={"depth": 19, "linear_convolutions": False})
LIGHT_STEM = {"stem_kernel": 5, "stem_stride": 2, "first_stride": 1}  # ours; see models.resnet
RESNET10_LIGHT = ModelConfig(name="resnet", options={"n": 1, **LIGHT_STEM})
# SGD at a high learning rate makes an LSTM diverge.
ADAM = OptimizerConfig(name="adam", lr=0.001, weight_decay=1e-4, decay_all=False)
FEWEST_IMAGES = 10_000  # for which the recipes made for Tiny ImageNet are a good choice
CROP_AND_FLIP = AugmentConfig(shift=0, rotation=0.0, contrast=(1.0, 1.0), gamma=(1.0, 1.0))


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
    """Train the report's 10-layer ResNet on a laptop's CPU in about an hour.

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
    """Train a 10-layer ResNet with a lighter stem by Muon, our best in an hour of a laptop's CPU.

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
    """Train the 18-layer ResNet of resnet10-light with CutMix, our best so far.

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


def localizer_goldfish() -> Config:
    """Train the report's localizer on one class, from 400 images of it and 400 of others.

    Source: Wu et al. 2017, sections 3.5 and 4.8: an encoder, an LSTM of 250 units and 5 steps over
        the entire image, the matching of Stewart et al. 2016; the rest is ours. Any class: --data
        tiny-imagenet.<name or wnid>; another fold held out: --data tiny-imagenet.goldfish.fold1.
    Images: 100 or more, with a box each.
    Hardware: any.
    Time: 30 epochs, 6 minutes on one core without bf16.
    Result: 71.2 % of 500 goldfish found (IoU of 0.5 or more; 95 %: 67.1 to 75.0) over five folds of
        minival, one seed; the median box finds 62.8 % (experiments/005).
    """
    filters = (32, 64, 128, 256)
    return Config(
        recipe="localizer-goldfish",
        data=DataConfig(name="tiny-imagenet.goldfish"),
        augment=replace(CROP_AND_FLIP, crop=1.0, shift=6, probability=1.0),
        model=ModelConfig(name="resnet", options={"n": 1, "filters": filters, **LIGHT_STEM}),
        localizer=LocalizerConfig(head="lstm", grid=1, giou_weight=0.2),
        optimizer=OptimizerConfig(lr=0.05, weight_decay=5e-4, decay_all=False),
        schedule=ScheduleConfig(name="cosine", warmup=2.0),
        train=TrainConfig(epochs=30, batch_size=32, label_smoothing=0.05, log_every=25),
    )


def localizer_joint() -> Config:
    """Train class and box together on all of Tiny ImageNet.

    Source: ours, after Wu et al. 2017, section 3.5. From a trained classifier:
        model.pretrained=RUN, and its model.options; localizer.frozen=true freezes its features,
        optimizer.lr=0.0003 fine-tunes them.
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


def localizer_small() -> Config:
    """Train a localizer on your own pictures with boxes, from the bundled weights.

    Source: ours: the bundled network and box head, trained on.
    Images: 50 or more, with boxes.
    Hardware: any.
    Time: 10 to 100 epochs, 120 of 131 photographs in 23 minutes on one core of a busy machine.
    Result: 57.6 % of 33 photographs of kangaroos found (IoU of 0.5 or more; 95 %: 40.8 to 72.8;
        best constant box 33.3 %) after 120 epochs on 131 others, one fold, one seed.
    """
    base = localizer_joint()
    return replace(
        base,
        recipe="localizer-small",
        data=DataConfig(name=""),
        model=replace(base.model, pretrained="bundled"),
        optimizer=replace(base.optimizer, lr=0.001),
        schedule=ScheduleConfig(name="cosine", warmup=2.0),
        train=replace(base.train, epochs=0, batch_size=16, sizes=(), log_every=20),
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

    Source: ours: the network of quickstart; epochs and batch size by the number of images, see
        training.scaling.
    Images: 20 to 20,000.
    Hardware: any.
    Time: 10 to 100 epochs, 150 s for 1,442 images on one core of a busy machine.
    Result: 2.19 % top-1 error on val of 2,062 photographs of ten hand signs, one seed.
    """
    base = quickstart()
    return replace(
        base,
        recipe="small",
        data=replace(base.data, name=""),
        train=replace(base.train, epochs=0, batch_size=0),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        *(
            quickstart,
            small,
            localizer_goldfish,
            localizer_joint,
            localizer_small,
            localizer_scenes,
            localizer_shapes,
        ),
        *(resnet10_laptop, resnet10_light, resnet10_report),
        *(resnet18_light, resnet18_report, resnet18_modern),
        *(inception_resnet_report, inception_resnet_modern),
        *(vgg16_report, vgg16_modern, vgg19_report, vgg19_modern),
    )
}


def recipe(name: str) -> Config:
    """Return the config of a recipe; raise ValueError with the nearest name if there is none."""
    if name not in RECIPES:
        raise ValueError(f"no recipe is named {name!r}; {suggest(name, RECIPES)}")
    return RECIPES[name]()


def labeled(name: str) -> dict[str, str]:
    """Return the labeled lines of a recipe's docstring: Source, Images, Hardware, Time, Result."""
    text = inspect.getdoc(RECIPES[name]) or ""
    found = re.split(r"^([A-Z]\w+): ", text, flags=re.MULTILINE)[1:]
    return {
        key: " ".join(value.split()) for key, value in zip(found[::2], found[1::2], strict=True)
    }


def better_for(name: str, num_images: int) -> str:
    """Return a phrase that names a recipe for so few images; "" where `name` is as good."""
    made_for_many = name in RECIPES and recipe(name).data.name == "tiny-imagenet"
    if not made_for_many or num_images >= FEWEST_IMAGES or recipe(name).localizer.finds:
        return ""
    return f"{name} is made for {FEWEST_IMAGES:,} and more: `small` is quicker and likely better"
