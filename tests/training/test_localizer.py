"""Trainer, evaluating and using a localizer by the loop that trains classifiers; and what does not
fit together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tinysight.analysis.boxes import boxes_table, evaluate_boxes
from tinysight.analysis.comparison import write_comparison
from tinysight.analysis.plots import curves_figure
from tinysight.analysis.report import write_report
from tinysight.analysis.results import read_run as read_results
from tinysight.api.evaluate import evaluate_files
from tinysight.config import AugmentConfig, Config, LocalizerConfig
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import Evaluation, check_data, evaluate, evaluate_run
from tinysight.exporting.measured import export
from tinysight.models import create_model
from tinysight.models.localizer import Localizer, LocalizerOutput
from tinysight.ops import augment
from tinysight.ops.boxes import BoxTargets, Detections, HeadOutput
from tinysight.ops.detection_metrics import best_threshold
from tinysight.predict.decoding import Decoding
from tinysight.predict.inference import Preprocessing, detect
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.predictor import BUNDLED, Predictor
from tinysight.predict.weights import load_weights, weights_bytes
from tinysight.recipes import recipe
from tinysight.run import Run, read_lines, read_run
from tinysight.settings import override
from tinysight.training import augmentation, loop
from tinysight.training.distributed import DistributedContext
from tinysight.training.losses import localization
from tinysight.training.scaling import scaled
from tinysight.training.setup import (
    check,
    training_rows,
    warn_of_what_is_not_learned,
    with_pretrained_network,
)
from tinysight.training.trainer import Trainer

CPU = Runtime(device=torch.device("cpu"), bf16=False)
MakeConfig = Callable[..., Config]
MakeMetadata = Callable[..., ModelMetadata]
FINDING = {"localizer__head": "lstm", "augment__crop": 1.0, "augment__rotation": 0.0}
FINDING |= {"optimizer__lr": 0.01}


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "finder"


@pytest.fixture
def found(finder: Path, make_config: MakeConfig, dataset: Dataset) -> Path:
    """A finished localizer's folder."""
    if not finder.exists():
        loop.train(make_config(**FINDING), dataset, name=finder)
    return finder


def test_the_log_tells_how_boxes_are_learned(found: Path) -> None:
    lines = read_lines(found / "log.jsonl")
    steps = [line for line in lines if line["kind"] == "train"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert all(line["box_loss"] > 0 and line["confidence_loss"] > 0 for line in steps)
    assert steps[-1]["confidence_loss"] < steps[0]["confidence_loss"]
    summary = json.loads((found / "summary.json").read_text())  # judged by what it misses
    assert summary["best_monitored_error"] == min(1 - line["loc50"] for line in epochs)
    assert all(0 <= line["loc50"] <= 1 and 0 < line["mean_iou"] < 1 for line in epochs)


def test_a_stored_evaluation_has_the_boxes(found: Path, dataset: Dataset) -> None:
    detections = evaluate_run(read_run(found), dataset, "val").detections
    stored = Evaluation.load(read_run(found).scores_path("val")).detections
    assert detections is not None and stored is not None
    assert torch.equal(stored.boxes, detections.boxes) and (detections.confidence > 0).any()
    assert (detections.confidence.diff(dim=1) <= 0).all()


def test_the_threshold_is_the_best_on_minival_and_used_by_all(
    found: Path, make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    predictor = Predictor(found)
    on_minival = evaluate(predictor, dataset, "minival")
    gt_boxes = torch.from_numpy(dataset.padded_boxes(dataset.rows("minival")))
    assert on_minival.detections is not None and predictor.decoding is not None
    best, f1 = best_threshold(on_minival.detections, gt_boxes)
    assert 0 < f1 < 1 and predictor.decoding.threshold == pytest.approx(best) != 0.5
    evaluate_run(read_run(found), dataset, "val")
    assert read_results(found, dataset).threshold == predictor.decoding.threshold
    fixed = {"localizer__threshold": 0.3, "train__epochs": 1}
    loop.train(make_config(**FINDING, **fixed), dataset, name=tmp_path / "fixed")
    none = {"data__monitor": "none", "schedule__name": "cosine", "train__epochs": 1}
    loop.train(make_config(**FINDING, **none), dataset, name=tmp_path / "none")
    assert LocalizerConfig(head="centernet", grid=8).first_threshold == 0.3
    for name, threshold in (("fixed", 0.3), ("none", 0.5)):
        assert Predictor(tmp_path / name).decoding.threshold == threshold  # type: ignore[union-attr]


def test_an_exported_localizer_has_its_localization(
    found: Path, dataset: Dataset, tmp_path: Path
) -> None:
    evaluate_run(read_run(found), dataset, "val")
    made = export(read_run(found).weights_path, tmp_path / "out.safetensors", dataset, half=True)
    assert made.localization is not None and made.localization.num_images == 24
    predictor = Predictor(made.path)
    stored = predictor.metadata.results["val"]
    gt_boxes = torch.from_numpy(dataset.padded_boxes(range(len(dataset))))
    again = evaluate(predictor, dataset, "val").localization(gt_boxes)
    assert (stored["loc50"], stored["mean_iou"]) == (again.loc50, again.mean_iou)
    assert 0 < stored["mean_iou"] < 1


def test_a_predictor_finds_on_canvases_of_other_sizes(found: Path, dataset: Dataset) -> None:
    predictor = Predictor(found)
    images = np.array(dataset.images[:2])
    logits, *alone = predictor.outputs(images)
    assert np.array_equal(logits, predictor.network.logits(images).numpy())
    canvas = np.full((1, 64, 64, 3), 127, np.uint8)
    canvas[0, 32:, 32:] = images[0]
    _, *wide = predictor.outputs(canvas)
    boxes, confidence, *_ = wide
    assert boxes.shape[-1] == 4 and boxes.max() <= 64
    assert ((boxes[..., 2:] - boxes[..., :2])[confidence > 0] > 0).all()
    num_wide, num_alone = ((found[1][0] > 0).sum() for found in (wide, alone))
    assert num_wide > num_alone  # four windows answer


def test_boxes_on_a_larger_canvas_are_in_its_pixels() -> None:
    classifier = create_model("resnet", 3, n=1, filters=(4, 8, 8, 8))
    model = Localizer(classifier, head="mlp", grid=1).eval()
    mean = torch.tensor([0.5, 0.5, 0.5, 0.25])
    model.initialize(
        mean, prior=0.5, generator=torch.Generator().manual_seed(0)
    )  # it answers so whatever it sees
    decoding = Decoding(decoding="filter", threshold=0.5, nms_iou=1.0)
    preprocessing = Preprocessing(image_size=64, crop=64, input_size=48, flip_average=True)
    images = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    _, finding = detect(model, images, preprocessing, decoding, CPU)
    expected = {(16.0 + x, 24.0 + y, 48.0 + x, 40.0 + y) for x in (0, 64) for y in (0, 64)}
    boxes = finding.boxes[0][finding.confidence[0] > 0]
    assert {tuple(box) for box in boxes.round(decimals=3).tolist()} == expected


def test_a_classifier_finds_nothing(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    loop.train(make_config(train__epochs=1), dataset, name=tmp_path / "run")
    with pytest.raises(ValueError, match="is a classifier, which finds no boxes"):
        Predictor(tmp_path / "run").predict(dataset.images[0], canvas=32)


def test_of_other_classes_only_the_last_layer_is_left_out(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    vgg = {"model__name": "vgg", "model__options": {"filters": (2, 2, 4, 4, 4), "hidden": 8}}
    trained = loop.train(make_config(**vgg, train__epochs=1), dataset, name=tmp_path / "run")
    weights = load_weights(trained.weights_path)[0].state_dict()
    last = {f"head.{len(trained_head(trained)) - 1}.{name}" for name in ("weight", "bias")}
    for ids, left_out in ((dataset.class_ids, set()), (dataset.class_ids[::-1], last)):
        other = replace(dataset, manifest={**dataset.manifest, "class_ids": list(ids)})
        config = make_config(**vgg, model__pretrained=str(trained.folder))
        training = Trainer(config, other, CPU, DistributedContext())
        given = training.load_pretrained()
        assert given.endswith("; new: last layer" if left_out else ", all layers")
        own = training.model.state_dict()
        assert {name for name in own if not own[name].equal(weights[name])} == left_out


def trained_head(run: Run) -> nn.Sequential:
    head = load_weights(run.weights_path)[0].head
    assert isinstance(head, nn.Sequential)
    return head


def test_a_run_is_begun_from_by_its_name(
    make_config: MakeConfig, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYSIGHT_RUNS", str(found.parent))
    config = with_pretrained_network(make_config(**FINDING, model__pretrained=found.name))
    assert config.model.pretrained == str(found)
    with pytest.raises(ValueError, match="no run is named 'nothing'"):
        with_pretrained_network(make_config(model__pretrained="nothing"))
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_bytes((found / "run.json").read_bytes())
    with pytest.raises(ValueError, match=r"begun has no weights\.safetensors: the run is not fin"):
        with_pretrained_network(make_config(model__pretrained="begun"))


def test_muon_is_refused_where_it_would_train_nothing(
    make_config: MakeConfig, dataset: Dataset
) -> None:
    vgg = {"model__name": "vgg", "model__options": {"filters": (2, 2, 4, 4, 4), "hidden": 8}}
    with pytest.raises(ValueError, match="no convolution without a bias"):
        check(make_config(**vgg, optimizer__name="muon"), dataset, DistributedContext())
    check(make_config(**vgg), dataset, DistributedContext())


def test_an_encoder_begins_with_a_runs_weights(
    make_config: MakeConfig, dataset: Dataset, found: Path
) -> None:
    classifier = Predictor(found).network.model.state_dict()
    for frozen in (False, True):
        config = make_config(**FINDING, model__pretrained=str(found), localizer__frozen=frozen)
        check(config, dataset, DistributedContext())
        training = Trainer(config, dataset, CPU, DistributedContext())
        training.load_pretrained()
        assert isinstance(training.model, Localizer)
        own = training.model.encoder.state_dict()
        assert all(torch.equal(own[name], classifier[name]) for name in classifier)
        training.step(training.loader.batch(0))
        own = training.model.encoder.state_dict()
        kept = {name for name in classifier if torch.equal(own[name], classifier[name])}
        assert ("convolution.weight" in kept) == ("norm.running_mean" in kept) == frozen
        assert "head.weight" not in kept


@pytest.mark.parametrize(("grid", "taken"), [(1, True), (2, False)])
def test_a_localizer_begins_with_a_box_head_of_the_same_settings(
    grid: int, taken: bool, make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    trained = loop.train(
        make_config(**FINDING, localizer__grid=1, train__epochs=1), dataset, name=tmp_path / "run"
    )
    source = {"model__pretrained": str(trained.folder), "localizer__grid": grid}
    training = Trainer(make_config(**FINDING, **source), dataset, CPU, DistributedContext())
    assert training.load_pretrained().endswith(", all layers" if taken else "; new: box head")
    weights, _ = load_weights(trained.weights_path)
    assert isinstance(training.model, Localizer) and isinstance(weights, Localizer)
    pairs = zip(training.model.head.parameters(), weights.head.parameters(), strict=False)
    assert all(one.equal(other) for one, other in pairs) is taken
    encoder = zip(training.model.encoder.parameters(), weights.encoder.parameters(), strict=True)
    assert all(one.equal(other) for one, other in encoder)


def test_a_classifier_begins_with_the_encoder_of_the_bundled_localizer(dataset: Dataset) -> None:
    config = with_pretrained_network(
        override(
            recipe("small"),
            {"model.pretrained": "bundled", "model.frozen_norms": True, "train.epochs": 1},
        )
    )
    assert config.model.options["stem_kernel"] == 5  # not the network of `small`
    training = Trainer(scaled(config, 72), dataset, CPU, DistributedContext())
    training.load_pretrained()
    weights, _ = load_weights(BUNDLED)
    assert isinstance(weights, Localizer)
    own, bundled = training.model.state_dict(), weights.encoder.state_dict()
    differing = {name for name in own if not own[name].equal(bundled[name])}
    assert differing == {"head.weight", "head.bias"}  # of other classes


def test_a_frozen_encoder_comes_out_of_a_training_as_it_went_in(
    make_config: MakeConfig, dataset: Dataset, found: Path, tmp_path: Path
) -> None:
    encoder = {"model__pretrained": str(found), "localizer__frozen": True}
    config = make_config(**FINDING, **encoder, train__epochs=1)
    loop.train(config, dataset, name=tmp_path / "run")
    before, after = (
        Predictor(folder).network.model.state_dict() for folder in (found, tmp_path / "run")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}


def test_what_does_not_fit_is_refused(
    make_config: MakeConfig, dataset: Dataset, found: Path, tmp_path: Path
) -> None:
    other = {"model__options": {"norm": True}, "model__pretrained": str(found)}
    for changes, complaint in (
        (other, r"""or give model.name=small "model.options=\{'dropout': 0.3\}\""""),
        ({"train__record": ("norm",)}, "norm"),
        ({"model__pretrained": str(tmp_path / "none")}, "is not a file"),
    ):
        with pytest.raises(ValueError, match=complaint):
            check(make_config(**{**FINDING, **changes}), dataset, DistributedContext())
    for layer in ("encoder.norm", "head.lstm"):
        check(make_config(**FINDING, train__record=(layer,)), dataset, DistributedContext())
    for changes, complaint in (
        ({"augment__rotation": 6.0}, "at most 5"),
        ({"augment__crop": 0.75}, r"augment\.crop is 0\.75; allowed: 1 with a localizer\.head"),
        ({"augment__trivial_augment": True}, "augment.trivial_augment is True; allowed: false"),
        ({"augment__mosaic": 0.5, "localizer__head": "none"}, "0 without a localizer.head"),
        ({"localizer__head": "detr"}, "allowed: none, mlp, lstm, centernet"),
        ({"localizer__head": "mlp", "localizer__grid": 4}, "1 with localizer.head=mlp"),
        ({"localizer__head": "centernet"}, "8 or more with localizer.head=centernet"),
        ({"localizer__frozen": True}, "false without model.pretrained"),
        ({"model__frozen_norms": True}, "model.frozen_norms is True; allowed: false without"),
        ({"localizer__threshold": 1.0}, "at least 0, below 1"),
        ({"localizer__overlap": "l1"}, "iou, center"),
    ):
        with pytest.raises(ValueError, match=complaint):
            make_config(**{**FINDING, **changes})
    frozen = {"model__pretrained": str(found), "localizer__frozen": True}
    with pytest.raises(
        ValueError, match=r"encoder_ratio is 0\.1; allowed: 1 with localizer\.frozen"
    ):
        make_config(**FINDING, **frozen, optimizer__encoder_ratio=0.1)


def test_data_without_boxes_are_refused(
    make_config: MakeConfig, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    minival, counts = dataset.rows("minival"), np.diff(dataset.box_offsets)
    counts[minival.start : minival.stop] = 0
    for counted, complaint in (
        (counts, "no image of minival of small has a box"),
        (counts * 0, "no training image of small has a box"),  # nor of minival: not said first
    ):
        offsets = np.concatenate(([0], counted.cumsum()))
        monkeypatch.setitem(dataset.__dict__, "box_offsets", offsets)
        with pytest.raises(ValueError, match=complaint):
            check(make_config(**FINDING), dataset, DistributedContext())


def test_weights_of_larger_images_are_warned_of(
    make_config: MakeConfig, make_metadata: MakeMetadata, dataset: Dataset, tmp_path: Path,
    messages: list[str],
) -> None:  # fmt: skip
    sizes = {"image_size": 64, "crop": 64, "input_size": 64}
    metadata = make_metadata(options={"dropout": 0.3}, **sizes)
    path = tmp_path / "start.safetensors"
    path.write_bytes(weights_bytes(create_model("small", 24, dropout=0.3), metadata))
    warn_of_what_is_not_learned(make_config(model__pretrained=str(path)), dataset)
    assert "learned from images of 64 pixels, and the network sees 24 here" in messages[-1]
    assert "import them again with --size 64" in messages[-1]


def test_more_objects_than_predictions_are_warned_of(
    make_config: MakeConfig, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    config = make_config(**FINDING, localizer__num_steps=2)
    warn_of_what_is_not_learned(config, dataset)
    offsets = dataset.box_offsets.copy()
    offsets[1:] += 2
    monkeypatch.setitem(dataset.__dict__, "box_offsets", offsets)
    warn_of_what_is_not_learned(
        make_config(**FINDING, localizer__num_steps=2, localizer__grid=2), dataset
    )
    assert messages == []
    warn_of_what_is_not_learned(config, dataset)
    (message,) = messages
    assert "warning" in message and "have 3 objects, and the head has 2 predictions" in message


def test_images_of_minival_that_nothing_uses_are_counted(
    make_config: MakeConfig, dataset: Dataset, messages: list[str]
) -> None:
    unwatched = {"data__monitor": "none", "schedule__name": "cosine"}
    for own in ({}, {**unwatched, "data__train": "train+minival"}):
        warn_of_what_is_not_learned(make_config(**own), dataset)
    assert messages == []
    warn_of_what_is_not_learned(make_config(**unwatched), dataset)
    how = "data.train=train+minival learns from them"
    assert messages == [f"the {len(dataset.rows('minival'))} images of minival are not used; {how}"]


def test_images_without_a_class_are_counted_for_a_classifier(
    make_config: MakeConfig, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    warn_of_what_is_not_learned(make_config(), dataset)
    assert messages == []
    labels = dataset.labels.copy()
    labels[:5] = -1
    monkeypatch.setitem(dataset.__dict__, "labels", labels)
    warn_of_what_is_not_learned(make_config(**FINDING), dataset)  # it learns their boxes
    assert messages == []
    warn_of_what_is_not_learned(make_config(), dataset)
    assert "5 of the 72 training images of small have no class of their own" in messages[0]


def test_a_smaller_dataset_than_the_training_images_is_refused(
    found: Path, dataset: Dataset
) -> None:
    metadata = Predictor(found).metadata
    check_data(replace(metadata, image_size=24, crop=24), dataset)  # a larger one is a canvas
    with pytest.raises(ValueError, match="takes images of 48 pixels"):
        check_data(replace(metadata, image_size=48, crop=48), dataset)


def test_the_fit_of_the_data_goes_into_the_weights_and_another_is_warned_of(
    make_config: MakeConfig, dataset: Dataset, messages: list[str]
) -> None:
    padded = Dataset(dataset.path, dataset.manifest | {"extra": {"fit": "pad"}})
    trainer = Trainer(make_config(), padded, CPU, DistributedContext())
    metadata = trainer.metadata({}, {})
    check_data(metadata, padded)
    assert metadata.fit == "pad" and messages == []
    check_data(metadata, dataset)
    assert messages == [
        "warning: small was imported with --fit crop, and the model learned from images with "
        "--fit pad"
    ]


def test_the_weights_say_how_large_the_boxes_were(found: Path, dataset: Dataset) -> None:
    sides = [
        ((x1 - x0) * (y1 - y0)) ** 0.5
        for row in dataset.rows("train")
        for x0, y0, x1, y1 in dataset.boxes_of(row).tolist()
    ]
    found_side = Predictor(found).metadata.localizer["box_side"]
    assert min(sides) < found_side < max(sides)
    below = sum(side < found_side - 0.01 for side in sides) / len(sides)
    above = sum(side > found_side + 0.01 for side in sides) / len(sides)
    assert below < 0.5 and above <= 0.5


def test_another_threshold_and_decoding_may_be_asked_for(found: Path, dataset: Dataset) -> None:
    images = np.array(dataset.images[:4])
    filtered = Predictor(found, threshold=0.2).outputs(images).confidence
    stopped = Predictor(found, decoding="stop").outputs(images).confidence
    assert Predictor(found, threshold=0.2).decoding.threshold == 0.2  # type: ignore[union-attr]
    assert filtered is not None and stopped is not None
    assert (stopped.sum(axis=1) <= filtered.sum(axis=1) + 1e-6).all()


def test_boxes_go_with_their_pixels_through_the_treatment() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[[10.0, 20.0, 30.0, 44.0], [math.nan] * 4]]).expand(40, 2, 4)
    images = torch.zeros(40, 64, 64, 3, dtype=torch.uint8)
    images[:, 20:44, 10:30] = 255
    settings = AugmentConfig(
        crop=1.0, shift=6, rotation=0.0, contrast=(1.0, 1.0), gamma=(1.0, 1.0), probability=1.0
    )
    drawn = augmentation.sample(40, settings=settings, source_size=64, crop=64, generator=generator)
    pixels, *_ = augmentation.apply(
        images, torch.zeros(40), drawn, crop=64, size=64, mixing_on=False
    )
    gt_boxes, lost, *_ = augmentation.apply_to_boxes(boxes, drawn, crop=64)
    assert lost is not None and lost.isnan().all() and gt_boxes[:, 1].isnan().all()
    for image, (x, y, width, height) in zip(
        pixels[:, 0] > 127, (gt_boxes[:, 0] * 64).tolist(), strict=True
    ):
        rows, columns = image.any(dim=1).nonzero()[:, 0], image.any(dim=0).nonzero()[:, 0]
        seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert [int(value) for value in seen] == [
            x - width / 2,
            y - height / 2,
            x + width / 2,
            y + height / 2,
        ]


def test_a_box_that_the_window_cuts_by_more_than_half_is_lost() -> None:
    neutral = augment.center(3, 64, 64)
    drawn = augmentation.AugmentParams(draws=replace(neutral, shift_x=torch.full((3,), -12.0)))
    boxes = torch.tensor(
        [
            [[0.0, 10.0, 20.0, 30.0], [40.0, 40.0, 60.0, 60.0]],  # 8 of 20 columns stay
            [[4.0, 10.0, 24.0, 30.0], [math.nan] * 4],  # 12 of 20
            [[math.nan] * 4, [math.nan] * 4],
        ]
    )
    gt_boxes, lost, *_ = augmentation.apply_to_boxes(boxes, drawn, crop=64)
    assert lost is not None and lost.isnan().any(-1).tolist() == [[False, True]] + [[True] * 2] * 2
    assert lost[0, 0].tolist() == [4 / 64, 20 / 64, 8 / 64, 20 / 64]
    assert gt_boxes[0, 0].isnan().all() and not gt_boxes[0, 1].isnan().any()
    assert gt_boxes[1, 0].tolist() == [6 / 64, 20 / 64, 12 / 64, 20 / 64]


def test_mosaics_teach_several_boxes_until_mixing_ends() -> None:
    settings = AugmentConfig(crop=1.0, mosaic=1.0, probability=0.0, flip=0.0)
    generator = torch.Generator().manual_seed(0)
    drawn = augmentation.sample(8, settings=settings, source_size=64, crop=64, generator=generator)
    boxes = torch.tensor([[[24.0, 24, 40, 40]]]).expand(8, 1, 4)
    labels, images = torch.arange(8), torch.zeros(8, 64, 64, 3, dtype=torch.uint8)
    images[:, 24:40, 24:40] = 255
    for mixing_on in (True, False):
        how: dict[str, Any] = {"crop": 64, "mixing_on": mixing_on}
        augmented = augmentation.apply(images, labels, drawn, size=64, **how)
        found = augmentation.apply_to_boxes(boxes, drawn, labels=labels[:, None], **how)
        assert found.lost_cxcywh is not None and found.labels is not None
        counts = (~found.boxes_cxcywh.isnan().any(-1)).sum(1)
        both = counts + (~found.lost_cxcywh.isnan().any(-1)).sum(1)
        if mixing_on:
            assert augmented.labels.tolist() == [-1] * 8 and float(counts.float().mean()) > 2
            assert both.tolist() == [4] * 8
            assert found.labels[5].tolist() == [5, 6, 7, 4]
        else:
            assert augmented.labels.tolist() == list(range(8)) and counts.tolist() == [1] * 8
            assert torch.equal(augmented.images, images.permute(0, 3, 1, 2).float())
        for image, own in zip(augmented.images[:, 0], found.boxes_cxcywh, strict=True):
            whole = own[~own.isnan().any(-1)]
            x, y = (whole[:, :2] * 64).long().unbind(-1)
            assert (image[y, x] > 254).all()  # the centers of boxes are white


def test_the_figures_of_an_epoch_are_those_of_the_top_box() -> None:
    nan = [math.nan] * 4
    gt_boxes = torch.tensor(
        [[nan, nan], [[0.0, 0, 10, 10], [20, 20, 40, 40]], [[0.0, 0, 10, 10], nan], [nan, nan]]
    )
    boxes = torch.tensor(
        [
            [[20.0, 20, 40, 40], [0, 0, 10, 10]],
            [[0.0, 0, 10, 4], [0, 0, 10, 10]],
            [[0.0, 0, 1, 1]] * 2,
        ]
    )
    evaluation = Evaluation(
        data="d",
        split="val",
        logits=torch.zeros(3, 2),
        labels=torch.zeros(3),
        rows=torch.tensor([1, 2, 3]),
        detections=Detections(boxes=boxes, confidence=torch.tensor([[0.9, 0.1]] * 3)),
    )
    figures = evaluation.localization(gt_boxes)
    assert (figures.num_images, figures.loc50) == (2, 0.5)
    assert figures.mean_iou == pytest.approx(0.7)


def unlabeled(dataset: Dataset, rows: slice) -> Dataset:
    """Return the dataset with boxes and without the labels of some images."""
    made = Dataset(dataset.path, dataset.manifest)
    labels = dataset.labels.copy()
    labels[rows] = -1
    made.__dict__["labels"] = labels
    return made


def test_images_without_a_label_have_boxes_to_learn_and_no_class() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator, requires_grad=True)
    candidates = HeadOutput(torch.full((4, 1, 1, 1, 4), 0.5), torch.zeros(4, 1, 1, 1))
    lost = torch.tensor([[0.5, 0.5, 0.2, 0.2]]).expand(4, 1, 4)
    nothing = BoxTargets(torch.full((4, 1, 4), math.nan), lost)  # no loss of boxes
    settings = LocalizerConfig(head="mlp")
    losses = {}
    for labels in ([0, 1, 2, 1], [0, -1, 2, -1], [-1] * 4):
        own = torch.tensor(labels)
        loss = localization(
            LocalizerOutput(logits, candidates),
            *(own, nothing),
            settings=settings,
            label_smoothing=0.0,
        ).loss
        known = own >= 0
        expected = torch.nn.functional.cross_entropy(logits[known], own[known], reduction="sum") / 4
        assert loss.item() == pytest.approx(expected.item())
        losses[sum(labels)] = loss
    (gradient,) = torch.autograd.grad(losses[0], logits)
    assert bool(gradient[[0, 2]].any()) and not gradient[[1, 3]].any()


@pytest.mark.parametrize("every", [False, True])
def test_a_localizer_learns_from_images_without_a_label(
    every: bool, make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    data = unlabeled(dataset, slice(None) if every else slice(None, None, 2))
    settings = FINDING | {"localizer__class_loss_weight": float(not every)}
    loop.train(make_config(**settings), data, name=tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "log.jsonl")
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert all(line["loc50"] >= 0 and math.isnan(line["top1_error"]) == every for line in epochs)
    run = read_run(tmp_path / "run")
    evaluation = evaluate_run(run, data, "val")
    assert evaluation.is_labeled == (not every)
    written = json.loads(run.evaluation_path("val").read_text())
    assert ("top1_error" in written) == (not every)
    assert curves_figure(lines).axes[1].get_ylabel() == "loss, box included"
    page = write_report(read_results(run.folder, data), tmp_path / "report").read_text("utf-8")
    assert ("<dt>top-1 error" in page) == (not every) and "surest box right" in page


def test_what_has_no_class_to_learn(make_config: MakeConfig, dataset: Dataset) -> None:
    one = DistributedContext()
    none, half = unlabeled(dataset, slice(None)), unlabeled(dataset, slice(None, None, 2))
    with pytest.raises(ValueError, match=r"localizer\.box_classes=true"):
        check(make_config(**FINDING), none, one)
    with pytest.raises(ValueError, match="has a class of its own"):
        check(make_config(), none, one)
    rows = training_rows(make_config(), half, one)
    assert (half.labels[rows] >= 0).all()
    assert len(rows) == (half.labels[half.rows("train")] >= 0).sum()


@pytest.mark.parametrize("head", ["lstm", "mlp", "centernet"])
def test_boxes_learn_classes_of_their_own(
    head: str, make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    grid = 8 if head == "centernet" else 1
    own = {"localizer__head": head, "localizer__grid": grid, "localizer__box_classes": True}
    # no image has a class, or nothing learns it: boxes have
    data = unlabeled(dataset, slice(0 if head == "mlp" else None))
    loop.train(make_config(**FINDING | own), data, name=tmp_path / "run")
    run, predictor = read_run(tmp_path / "run"), Predictor(tmp_path / "run")
    assert all(math.isnan(line["top1_error"]) for line in run.log())  # no image has a class
    assert not run.config.localizer.classifies and not predictor.metadata.classifies
    evaluation = evaluate_run(run, data, "val")
    stored = Evaluation.load(run.scores_path("val")).detections
    assert not evaluation.is_labeled and not Evaluation.load(run.scores_path("val")).is_labeled
    written = evaluate_files(run, "val", data=data)
    assert written.boxes is not None and written.boxes["by_class"] == []
    assert "some predictions" not in written.files and not run.predictions_path("val").exists()
    assert set(json.loads(run.evaluation_path("val").read_bytes())) == {"split", "data"}
    page = write_report(read_results(run.folder, data), tmp_path / "report").read_text("utf-8")
    assert f"evaluated on {len(data.rows('val'))} images" in page
    assert "top-1 error" not in page and "By class" not in page
    with pytest.raises(ValueError, match="has no error to compare"):
        write_comparison([read_results(run.folder, data)], tmp_path / "compared")
    assert evaluation.detections is not None and stored is not None
    assert stored.labels is not None and evaluation.detections.labels is not None
    assert torch.equal(stored.labels, evaluation.detections.labels)
    numbers = evaluate_boxes(data, "val", evaluation.detections)
    boxes = np.concatenate(
        [data.box_labels[data.box_offsets[n] : data.box_offsets[n + 1]] for n in data.rows("val")]
    )
    counts = {data.class_names[label]: int((boxes == label).sum()) for label in set(boxes.tolist())}
    assert {row["name"]: row["num_objects"] for row in numbers["by_kind"]} == counts
    assert all(row["name"] in boxes_table(numbers) for row in numbers["by_kind"])
    found = predictor.predict(np.array(data.images[0]))
    assert len(found.box_labels) == len(found.boxes) > 0
    assert set(found.box_labels) <= set(data.class_names)
    # the head of another kind takes over what it has
    settings = {**FINDING, **own, "localizer__box_classes": False, "train__epochs": 1}
    settings["model__pretrained"] = str(tmp_path / "run")
    loop.train(make_config(**settings), dataset, name=tmp_path / "next")
