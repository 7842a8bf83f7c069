"""Localizers that learn from mixed images: their classes, and no boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tinysight.config import AugmentConfig, Config, LocalizerConfig
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.models.localizer import LocalizerOutput
from tinysight.ops import mixing
from tinysight.ops.boxes import BoxTargets, HeadOutput
from tinysight.run import read_lines
from tinysight.training import augmentation, loop, losses, setup
from tinysight.training.distributed import DistributedContext
from tinysight.training.trainer import Trainer

MakeConfig = Callable[..., Config]
FINDING = {"localizer__head": "lstm", "augment__crop": 1.0, "augment__rotation": 0.0}


def drawn(count: int = 16, **changes: Any) -> augmentation.AugmentParams:
    settings = AugmentConfig(**({"crop": 1.0, "cutmix": 1.0, "probability": 0.0} | changes))
    generator = torch.Generator().manual_seed(3)
    sides = {"source_size": 64, "crop": 64}
    return augmentation.sample(count, settings=settings, generator=generator, **sides)


@pytest.mark.parametrize("changes", [{}, {"cutmix": 0.0, "mixup": 0.4}])
@pytest.mark.parametrize("mixing_on", [True, False])
def test_what_is_mixed_has_no_known_box(changes: dict[str, Any], mixing_on: bool) -> None:
    params = drawn(**changes)
    images = torch.zeros(16, 64, 64, 3, dtype=torch.uint8)
    images[torch.arange(16) % 2 == 1] = 200  # whatever an image has of its partner changes it
    seen, _, targets = augmentation.apply(
        images, torch.arange(16), params, crop=64, size=64, mixing_on=mixing_on
    )
    changed = (seen != images.permute(0, 3, 1, 2)).flatten(1).any(1)
    assert (0 < changed.sum() < 16) if mixing_on else not changed.any()
    assert (targets is not None) == mixing_on
    boxes = torch.tensor([[[16.0, 16, 48, 48], [torch.nan] * 4]]).expand(16, 2, 4)
    found = augmentation.apply_to_boxes(boxes, params, crop=64, mixing_on=mixing_on)
    assert found.lost_cxcywh is not None
    known = ~found.boxes_cxcywh.isnan().any(-1)
    assert torch.equal(known[:, 0], ~changed) and not known[:, 1].any()
    lost = ~found.lost_cxcywh.isnan().any(-1)
    assert torch.equal(lost, changed[:, None].expand(16, 2))
    assert (found.lost_cxcywh[changed] == torch.tensor([0.5, 0.5, 1.0, 1.0])).all()


@pytest.mark.parametrize(("head", "grid"), [("mlp", 1), ("lstm", 2), ("centernet", 8)])
def test_mixed_images_teach_two_classes_and_neither_box_nor_confidence(
    head: str, grid: int
) -> None:
    params, labels = drawn(), torch.arange(16) % 3
    images = torch.zeros(16, 64, 64, 3, dtype=torch.uint8)
    augmented = augmentation.apply(images, labels, params, crop=64, size=64, mixing_on=True)
    boxes = torch.tensor([[[16.0, 16, 48, 48]]]).expand(16, 1, 4)
    targets = augmentation.apply_to_boxes(boxes, params, crop=64)
    generator = torch.Generator().manual_seed(0)
    steps = 2 if head == "lstm" else 1
    shape = (16, grid, grid, steps)
    logits = torch.randn(16, 3, generator=generator, requires_grad=True)
    own = torch.rand(*shape, 4, generator=generator).requires_grad_()
    confidence = torch.randn(shape, generator=generator, requires_grad=True)
    loss, *_ = losses.localization(
        LocalizerOutput(logits, HeadOutput(own, confidence)),
        augmented.labels,
        targets,
        settings=LocalizerConfig(head=head, grid=grid, num_steps=steps),
        mixed=augmented.targets,
        label_smoothing=0.1,
    )
    of_logits, of_boxes, of_confidence = torch.autograd.grad(loss, (logits, own, confidence))
    assert params.mixes is not None and augmented.targets is not None
    mixed = params.mixes.mixed
    for gradient in (of_boxes, of_confidence):
        assert torch.equal(gradient.flatten(1).any(1), ~mixed)
    assert of_logits.any(1).all()
    alone = mixing.cross_entropy(logits, augmented.targets, label_smoothing=0.1)
    expected = torch.autograd.grad(alone, logits)[0] * LocalizerConfig().class_loss_weight
    assert torch.allclose(of_logits, expected)


def test_a_localizer_is_trained_with_cutmix_until_mixing_ends(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []
    plain = losses.localization

    def noting(*args: Any, mixed: mixing.Targets | None, **own: Any) -> losses.Losses:
        shares.append(1.0 if mixed is None else float((mixed.weight == 1).float().mean()))
        return plain(*args, mixed=mixed, **own)

    monkeypatch.setattr(losses, "localization", noting)
    own = {**FINDING, "augment__cutmix": 1.0, "augment__mix_until": 0.5}
    loop.train(make_config(**own), dataset, name=tmp_path / "run")
    half = len(shares) // 2
    assert half > 2 and 0.2 < sum(shares[:half]) / half < 0.8  # half of the images are mixed
    assert shares[half + 1 :] == [1.0] * len(shares[half + 1 :])
    steps = [line for line in read_lines(tmp_path / "run" / "log.jsonl") if "box_loss" in line]
    assert steps[0]["box_loss"] > 0 and 0 < steps[0]["top1_error"] <= 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"augment__mix_probability": 1.0}, "less than 1 with a localizer.head, as mixed images"),
        ({"localizer__class_loss_weight": 0.0}, r"augment\.cutmix is 1\.0; allowed: 0 with a loc"),
        ({"localizer__box_classes": True}, r"augment\.cutmix is 1\.0; allowed: 0 with a loc"),
    ],
)
def test_mixing_that_would_teach_nothing_is_refused(
    make_config: MakeConfig, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        make_config(**FINDING, augment__cutmix=1.0, **changes)
    make_config(**FINDING, **changes)


def test_one_class_has_nothing_to_mix(make_config: MakeConfig, dataset: Dataset) -> None:
    one = replace(dataset, manifest={**dataset.manifest, "class_names": ["a"], "class_ids": ["a"]})
    config = make_config(**FINDING, augment__cutmix=1.0)
    setup.training_rows(config, dataset, DistributedContext())
    with pytest.raises(ValueError, match="has one class, and mixed images teach"):
        setup.training_rows(config, one, DistributedContext())


@pytest.mark.parametrize("head", ["mlp", "lstm", "centernet"])
def test_every_parameter_has_a_gradient_where_no_image_has_a_label(
    head: str, make_config: MakeConfig, dataset: Dataset
) -> None:
    """Processes exchange gradients of all parameters, whatever the images of each have."""
    own = {"localizer__head": head, "localizer__grid": 8 if head == "centernet" else 1}
    training = Trainer(
        make_config(**FINDING | own),
        dataset,
        Runtime(device=torch.device("cpu"), bf16=False),
        DistributedContext(),
    )
    batch = training.loader.batch(0)
    output = training.model(torch.rand(4, 3, 32, 32) * 255)
    found = losses.localization(
        output,
        torch.full((4,), -1),
        BoxTargets(torch.rand(4, 1, 4) / 2 + 0.25),
        settings=training.config.localizer,
        label_smoothing=0.1,
    )
    found.loss.backward()
    missing = [name for name, p in training.model.named_parameters() if p.grad is None]
    assert batch.labels is not None and not missing
    assert not training.model.encoder.head.weight.grad.any()  # type: ignore[union-attr]
