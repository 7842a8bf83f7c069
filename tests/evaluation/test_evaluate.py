"""Evaluation: metrics against a plain reference, files that read back equal, and stopping."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tinysight.api.evaluate import evaluate_files
from tinysight.cli.evaluate import print_metrics
from tinysight.config import Config
from tinysight.data.build import build
from tinysight.data.dataset import Dataset
from tinysight.data.shapes import Shapes
from tinysight.data.subset import one_class
from tinysight.device import Runtime
from tinysight.evaluation.ensemble import vote
from tinysight.evaluation.evaluate import (
    Evaluation,
    Stopped,
    check_data,
    evaluate_model,
    evaluate_run,
    num_learned,
    submit,
)
from tinysight.models import create_model
from tinysight.ops.boxes import Detections
from tinysight.predict.inference import Preprocessing
from tinysight.predict.metadata import ModelMetadata
from tinysight.predict.weights import weights_bytes
from tinysight.run import Run

CPU = Runtime(device=torch.device("cpu"), bf16=False)
MakeMetadata = Callable[..., ModelMetadata]


def made(count: int = 200, num_classes: int = 10, *, boxes: bool = False) -> Evaluation:
    generator = torch.Generator().manual_seed(0)
    detections = Detections(
        boxes=torch.rand(count, 3, 4, generator=generator),
        confidence=torch.rand(count, 3, generator=generator).sort(descending=True).values,
    )
    detections.confidence[::2, 1:] = 0
    return Evaluation(
        data="some",
        split="val",
        logits=torch.randn(count, num_classes, generator=generator) * 2,
        labels=torch.randint(0, num_classes, (count,), generator=generator),
        rows=torch.arange(50, 50 + count),
        detections=detections if boxes else None,
    )


@pytest.fixture
def finished(
    dataset: Dataset,
    make_config: Callable[..., Config],
    make_metadata: MakeMetadata,
    tmp_path: Path,
) -> Run:
    """A run with the weights of an untrained model."""
    run = Run(folder=tmp_path, config=make_config(), data_digest=dataset.digest, machine={})
    run.weights_path.write_bytes(weights_bytes(create_model("small", 24), make_metadata()))
    return run


def test_metrics_are_those_of_a_plain_reference() -> None:
    evaluation = made()
    metrics = evaluation.metrics
    wrong1 = wrong5 = 0
    loss = 0.0
    outputs = zip(evaluation.logits.double().tolist(), evaluation.labels.tolist(), strict=True)
    for logits, label in outputs:
        order = sorted(range(10), key=lambda k: -logits[k])
        wrong1 += order[0] != label
        wrong5 += label not in order[:5]
        loss += math.log(sum(math.exp(value) for value in logits)) - logits[label]
    assert (metrics.top1_error, metrics.top5_error) == (wrong1 / 200, wrong5 / 200)
    assert metrics.loss == pytest.approx(loss / 200, rel=1e-9)
    assert metrics.num_images == 200 and evaluation.top1_error == metrics.top1_error
    assert metrics.top5_low < metrics.top5_error < metrics.top5_high
    # Wilson's interval, by the formula
    share, z = wrong1 / 200, 1.959963984540054
    middle, half = share + z * z / 400, z * math.sqrt(share * (1 - share) / 200 + z * z / 160_000)
    assert metrics.top1_low == pytest.approx((middle - half) / (1 + z * z / 200))
    assert metrics.top1_high == pytest.approx((middle + half) / (1 + z * z / 200))
    assert 0 < metrics.calibration_error < 1


def test_unlabeled_images_are_left_out() -> None:
    evaluation = made()
    labels = evaluation.labels.clone()
    labels[::2] = -1
    part = {name: getattr(evaluation, name)[1::2] for name in ("logits", "labels", "rows")}
    metrics = replace(evaluation, labels=labels).metrics
    assert metrics == replace(evaluation, **part).metrics and metrics.num_images == 100
    with pytest.raises(ValueError, match="no image of val has a label"):
        _ = replace(evaluation, labels=torch.full_like(labels, -1)).metrics


def test_outputs_that_are_not_finite_are_named() -> None:
    evaluation = made(40, 7)
    evaluation.logits[3, 2], evaluation.logits[5] = math.nan, math.inf
    with pytest.raises(ValueError, match=r"for 2 of 40 images of val are not finite: the training"):
        _ = evaluation.metrics


def test_there_is_no_error_of_one_class_and_no_top5_of_five(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for classes, shown in ((6, True), (5, False)):
        evaluation = made()
        labels, logits = evaluation.labels % classes, evaluation.logits[:, :classes]
        evaluation = replace(evaluation, logits=logits, labels=labels)
        assert (evaluation.metrics.top5_error is not None) == shown
        print_metrics(evaluation)
        out = capsys.readouterr().out
        assert "top-1 error" in out and ("top-5 error" in out) == shown
        both = vote([("a", evaluation), ("b", evaluation)])
        assert [(own.top5_error is not None) for own in both.votes] == [shown] * 2
    one = made(boxes=True)
    one = replace(one, logits=one.logits[:, :1], labels=one.labels * 0)
    assert not one.is_labeled and math.isnan(one.metrics.top1_error)


@pytest.mark.parametrize("boxes", [True, False])
def test_an_evaluation_reads_back_equal(boxes: bool, tmp_path: Path) -> None:
    path, written = tmp_path / "scores" / "val.safetensors", made(boxes=boxes)
    written.save(path)
    read = Evaluation.load(path)
    assert (read.data, read.split) == ("some", "val")
    for name in ("logits", "labels", "rows"):
        assert torch.equal(getattr(read, name), getattr(written, name))
    assert (read.detections is not None) == boxes
    if read.detections is not None and written.detections is not None:
        assert torch.equal(read.detections.boxes, written.detections.boxes)
        assert torch.equal(read.detections.confidence, written.detections.confidence)
    assert [file.name for file in path.parent.iterdir()] == ["val.safetensors"]


def test_damaged_or_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "val.safetensors"
    with pytest.raises(ValueError, match=r"val\.safetensors .*`tinysight evaluate`"):
        Evaluation.load(path)
    path.write_bytes(b"not an evaluation")
    with pytest.raises(ValueError, match=r"val\.safetensors"):
        Evaluation.load(path)
    good = made(boxes=True)
    assert good.detections is not None
    tensors = {"logits": good.logits, "labels": good.labels, "rows": good.rows}
    tensors |= {"boxes": good.detections.boxes, "confidence": good.detections.confidence}
    header = {"tinysight": json.dumps({"data": "some", "split": "val"})}
    save_file(tensors, path, metadata=header)
    Evaluation.load(path)  # so what follows fails for what it changes
    changes: list[dict[str, Any]] = [
        {"rows": good.rows[1:]},
        {"labels": good.labels[None]},
        {"logits": good.logits * torch.inf},
        {"boxes": good.detections.boxes[1:]},
        {"boxes": good.detections.boxes * torch.nan},
        {"others": good.rows.clone()},
    ]
    for change in changes:
        save_file(tensors | change, path, metadata=header)
        with pytest.raises(ValueError, match=r"val\.safetensors"):
            Evaluation.load(path)
    save_file({name: tensors[name] for name in ("logits", "rows")}, path, metadata=header)
    with pytest.raises(ValueError, match=r"val\.safetensors"):
        Evaluation.load(path)


class _Brightness(nn.Module):
    """Return the mean of an image's left half and its width: which pixels a model sees."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        left = images[..., : images.shape[-1] // 2].mean(dim=(2, 3))
        return torch.stack([left[:, 0], images.new_full((len(images),), images.shape[-1])], dim=1)


def test_a_model_sees_the_center_at_its_size_in_order(dataset: Dataset) -> None:
    rows = dataset.rows("val")
    preprocessing = Preprocessing(image_size=32, crop=20, input_size=10, flip_average=False)
    found = evaluate_model(_Brightness(), dataset, "val", preprocessing, runtime=CPU, batch_size=7)
    expected = torch.tensor([dataset.images[row][6:26, 6:16, 0].mean() for row in rows])
    assert (found.logits[:, 0] - expected).abs().max() < 1.5  # resizing blurs the middle
    assert (found.logits[:, 1] == 10).all()
    assert found.labels.tolist() == dataset.labels[rows.start : rows.stop].tolist()
    assert found.rows.tolist() == list(rows)
    part = range(rows.start + 3, rows.start + 8)
    joined = Evaluation.join(
        [
            evaluate_model(_Brightness(), dataset, "val", preprocessing, runtime=CPU, rows=part)
            for part in (range(rows.start, part.start), part)
        ]
    )
    assert torch.equal(joined.logits, found.logits[:8]) and joined.rows.tolist() == list(rows)[:8]
    own = {"runtime": CPU, "rows": range(rows.start, rows.start)}
    nothing = evaluate_model(_Brightness(), dataset, "val", preprocessing, **own)
    for parts in ([nothing, joined], [joined, nothing]):  # of more processes than images
        assert torch.equal(Evaluation.join(parts).logits, joined.logits)
    assert len(Evaluation.join([nothing, nothing]).rows) == 0


def test_flip_average_is_the_mean_over_the_mirror_image(dataset: Dataset) -> None:
    preprocessing = Preprocessing(image_size=32, crop=32, input_size=32, flip_average=True)
    found = evaluate_model(
        _Brightness(), dataset, "train", preprocessing, runtime=CPU, rows=range(4)
    )
    expected = torch.from_numpy(dataset.images[:4, :, :, 0].mean(axis=(1, 2))).float()
    assert torch.allclose(found.logits[:, 0], expected, atol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_restored_even_when_stopped(
    training: bool, dataset: Dataset, small_models: object
) -> None:
    model = create_model("small", 24, dropout=0.5).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        assert not model.training
        calls.append((done, total))
        if len(calls) == 2:
            raise Stopped

    preprocessing = Preprocessing(image_size=32, crop=24, input_size=24, flip_average=True)
    with pytest.raises(Stopped):
        evaluate_model(
            model, dataset, "train", preprocessing, runtime=CPU, batch_size=10, progress=stop
        )
    assert calls == [(10, 72), (20, 72)] and model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_runs_evaluation_is_written_and_an_interrupted_one_changes_nothing(
    finished: Run, dataset: Dataset
) -> None:
    evaluation = evaluate_run(finished, dataset, "val")
    stored = Evaluation.load(finished.scores_path("val"))
    assert torch.equal(stored.logits, evaluation.logits) and stored.metrics == evaluation.metrics
    content = json.loads(finished.evaluation_path("val").read_text())
    assert content == {"split": "val", "data": "small", **asdict(evaluation.metrics)}

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = files()
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(finished, dataset, "val", progress=stop)
    assert files() == before


def test_an_unlabeled_or_unknown_split_is_refused_before_any_work(
    finished: Run, dataset: Dataset
) -> None:
    def worked(done: int, total: int) -> None:
        pytest.fail("an image was evaluated")

    for split, complaint in (("test", "tinysight submit"), ("vall", "no split 'vall'")):
        with pytest.raises(ValueError, match=complaint):
            evaluate_run(finished, dataset, split, progress=worked)
        with pytest.raises(ValueError, match=complaint):
            evaluate_files(finished.weights_path, split, data=dataset, device="cpu")


def test_a_dataset_of_other_classes_or_size_is_refused(
    dataset: Dataset, make_metadata: MakeMetadata
) -> None:
    check_data(make_metadata(), dataset)
    for ids in (dataset.class_ids[:-1], dataset.class_ids[::-1]):
        with pytest.raises(ValueError, match="use the data it was trained on"):
            check_data(make_metadata(class_ids=ids, class_names=ids), dataset)
    with pytest.raises(ValueError, match="takes images of 33 pixels"):
        check_data(make_metadata(image_size=33), dataset)


def test_a_submission_has_one_line_per_image(
    finished: Run, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = submit(finished, finished.submission_path, dataset)
    lines = [line.split(" ") for line in finished.submission_path.read_text().splitlines()]
    assert count == 12 == len(lines)
    assert [name for name, _ in lines] == [f"{number:05d}" for number in range(12)]
    best = Evaluation.load(finished.scores_path("test")).logits.argmax(dim=1).tolist()
    assert [answer for _, answer in lines] == [dataset.class_ids[index] for index in best]

    # the same name in two folders: the path below the split's folder
    first = dataset.rows("test").start
    files = [f"test/{'ab'[row % 2]}/{(row - first) // 2}.png" for row in range(len(dataset))]
    monkeypatch.setitem(dataset.__dict__, "files", tuple(files))
    submit(finished, finished.submission_path, dataset)
    names = [line.split(" ")[0] for line in finished.submission_path.read_text().splitlines()]
    assert len(set(names)) == 12
    assert names == [file.removeprefix("test/") for file in files[first:]]


def test_images_of_another_fold_have_been_learned_from(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    counts = {"num_train": 240, "num_minival": 24, "num_val": 24, "num_test": 0}
    scenes = build(Shapes(**counts, image_size=32, name="scenes"), home=tmp_path, workers=1)
    first, second = (one_class(scenes, scenes.class_names[2], fold=fold) for fold in (0, 1))
    config = make_config(train__batch_size=2)
    trained_on = {first.files[row] for row in first.rows("train")}
    shared = trained_on & {second.files[row] for row in second.rows("minival")}
    assert shared
    assert num_learned(config, first, second, "minival") == len(shared)
    assert (
        num_learned(config, first, first, "minival")
        == num_learned(config, first, second, "val")
        == 0
    )


def test_a_training_split_counts_in_full_or_by_its_fraction(
    dataset: Dataset, make_config: Callable[..., Config]
) -> None:
    config = make_config(data__train="train+minival", data__monitor="none", schedule__name="linear")
    assert num_learned(config, dataset, dataset, "minival") == 24
    assert num_learned(make_config(data__fraction=1 / 3), dataset, dataset, "train") == 24


def test_learned_images_are_known_by_pixels_not_by_names(
    dataset: Dataset, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    counts = {"num_train": 72, "num_minival": 24, "num_val": 24, "num_test": 12}
    other = build(
        Shapes(**counts, image_size=32, objects=(2, 2), name="other"), home=tmp_path, workers=1
    )
    assert set(other.files) == set(dataset.files)
    assert num_learned(make_config(), dataset, other, "train") == 0
    assert num_learned(make_config(), dataset, dataset, "train+minival") == 72
