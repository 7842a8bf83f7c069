"""Evaluation: figures against a plain reference, scores on disk, and breaking off."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tinysight.config import Config
from tinysight.data import shapes, subset
from tinysight.data.dataset import Dataset
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import (
    Scores,
    Stopped,
    answer_test,
    check_data,
    evaluate_run,
    measure,
    num_learned,
    read_scores,
    run_model,
    write_scores,
)
from tinysight.models import create_model
from tinysight.predict.weights import ModelMetadata, weights_bytes
from tinysight.run import Run

CPU = Runtime(device=torch.device("cpu"), bf16=False)


def _scores(count: int = 200, num_classes: int = 10) -> Scores:
    generator = torch.Generator().manual_seed(0)
    return Scores(
        logits=torch.randn(count, num_classes, generator=generator) * 2,
        labels=torch.randint(0, num_classes, (count,), generator=generator),
        rows=torch.arange(50, 50 + count),
    )


@pytest.fixture
def finished(pack: Dataset, make_run: Callable[..., Config], tmp_path: Path) -> Run:
    """A folder with the weights of an untrained model, made for `pack`."""
    model = create_model("small", 24)
    metadata = ModelMetadata(
        model="small",
        options={},
        class_names=pack.class_names,
        class_ids=pack.class_ids,
        image_size=32,
        crop=24,
        input_size=28,
        flip_average=True,
        recipe="test",
        data="small",
        version="0",
    )
    (tmp_path / "weights.safetensors").write_bytes(weights_bytes(model, metadata))
    return Run(folder=tmp_path, config=make_run(), data_digest=pack.digest, machine={})


def test_figures_are_those_of_a_plain_reference() -> None:
    scores = _scores()
    metrics = measure(scores)
    wrong1 = wrong5 = 0
    loss = 0.0
    for logits, label in zip(scores.logits.double().tolist(), scores.labels.tolist(), strict=True):
        order = sorted(range(10), key=lambda k: -logits[k])
        wrong1 += order[0] != label
        wrong5 += label not in order[:5]
        loss += math.log(sum(math.exp(value) for value in logits)) - logits[label]
    assert (metrics.top1_error, metrics.top5_error) == (wrong1 / 200, wrong5 / 200)
    assert metrics.loss == pytest.approx(loss / 200, rel=1e-9)
    assert metrics.num_images == 200
    assert metrics.top1_low < metrics.top1_error < metrics.top1_high
    assert metrics.top5_low < metrics.top5_error < metrics.top5_high
    # Wilson's interval, by the formula
    share, z = wrong1 / 200, 1.959963984540054
    middle, half = share + z * z / 400, z * math.sqrt(share * (1 - share) / 200 + z * z / 160_000)
    assert metrics.top1_low == pytest.approx((middle - half) / (1 + z * z / 200))
    assert metrics.top1_high == pytest.approx((middle + half) / (1 + z * z / 200))
    assert 0 < metrics.calibration_error < 1


def test_unlabeled_images_are_left_out_and_none_labelled_is_refused() -> None:
    scores = _scores()
    some = scores.labels.clone()
    some[::2] = -1
    metrics = measure(Scores(logits=scores.logits, labels=some, rows=scores.rows))
    odd = measure(
        Scores(logits=scores.logits[1::2], labels=scores.labels[1::2], rows=scores.rows[1::2])
    )
    assert metrics == odd and metrics.num_images == 100
    with pytest.raises(ValueError, match="no image of this split has a label"):
        measure(Scores(logits=scores.logits, labels=torch.full_like(some, -1), rows=scores.rows))


def test_scores_come_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "scores" / "val.safetensors"
    write_scores(path, _scores(), {"split": "val"})
    found, expected = read_scores(path), _scores()
    assert all(
        torch.equal(getattr(found, name), getattr(expected, name))
        for name in ("logits", "labels", "rows")
    )
    assert [file.name for file in path.parent.iterdir()] == ["val.safetensors"]


def test_scores_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "val.safetensors"
    with pytest.raises(ValueError, match="tinysight evaluate"):
        read_scores(path)
    path.write_bytes(b"no scores at all")
    with pytest.raises(ValueError, match="tinysight evaluate"):
        read_scores(path)


class _Brightness(nn.Module):
    """Tells the mean of an image's left half; used to see which pixels a model is shown."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        left = images[..., : images.shape[-1] // 2].mean(dim=(2, 3))
        return torch.stack([left[:, 0], images.new_full((len(images),), images.shape[-1])], dim=1)


def test_a_model_is_shown_the_center_at_its_size_in_order(pack: Dataset) -> None:
    rows = pack.rows("val")
    scores = run_model(
        _Brightness(),
        pack.images,
        pack.labels,
        rows,
        crop=20,
        size=10,
        flip_average=False,
        runtime=CPU,
        batch_size=7,
    )
    expected = [pack.images[row][6:26, 6:16, 0].mean() for row in rows]
    assert np.allclose(
        scores.logits[:, 0], expected, atol=1.5
    )  # the resizing blurs across the middle
    assert (scores.logits[:, 1] == 10).all()
    assert scores.labels.tolist() == pack.labels[
        rows.start : rows.stop
    ].tolist() and scores.rows.tolist() == list(rows)


def test_flip_average_is_the_mean_over_the_mirror_image(pack: Dataset) -> None:
    scores = run_model(
        _Brightness(),
        pack.images,
        pack.labels,
        range(4),
        crop=32,
        size=32,
        flip_average=True,
        runtime=CPU,
    )
    expected = pack.images[:4, :, :, 0].mean(axis=(1, 2))
    assert np.allclose(scores.logits[:, 0], expected, atol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_put_back_even_when_broken_off(
    training: bool, pack: Dataset, small_models: object
) -> None:
    model = create_model("small", 24, dropout=0.5).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done: list[int] = []

    def stop(count: int) -> None:
        assert not model.training
        done.append(count)
        if len(done) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        run_model(
            model,
            pack.images,
            pack.labels,
            range(30),
            crop=24,
            size=24,
            flip_average=True,
            runtime=CPU,
            batch_size=10,
            each_batch=stop,
        )
    assert done == [10, 20] and model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_is_evaluated_and_its_files_say_the_same(finished: Run, pack: Dataset) -> None:
    label, scores, metrics = evaluate_run(finished, "val", pack=pack, runtime=CPU)
    assert label == "val"
    again = read_scores(finished.scores_path("val"))
    assert torch.equal(again.logits, scores.logits) and measure(again) == metrics
    content = json.loads((finished.evaluation_path("val")).read_text())
    assert content == {"split": "val", "data": "small", **asdict(metrics)}


def test_an_interrupted_evaluation_leaves_the_earlier_one(finished: Run, pack: Dataset) -> None:
    evaluate_run(finished, "val", pack=pack, runtime=CPU)
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_run(finished, "val", pack=pack, runtime=CPU, each_batch=stop)
    assert {
        path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()
    } == before


def test_an_unlabeled_or_unknown_split_is_refused_before_any_work(
    finished: Run, pack: Dataset
) -> None:
    for split, complaint in (("test", "tinysight submit"), ("vall", "no split 'vall'")):
        with pytest.raises(ValueError, match=complaint):
            evaluate_run(
                finished,
                split,
                pack=pack,
                runtime=CPU,
                each_batch=lambda done: pytest.fail("worked"),
            )


def test_a_pack_of_other_classes_is_refused(pack: Dataset) -> None:
    size = pack.image_size
    metadata = ModelMetadata(
        model="resnet",
        options={},
        class_names=pack.class_names,
        class_ids=pack.class_ids,
        image_size=size,
        crop=8,
        input_size=8,
        flip_average=False,
        recipe="",
        data="",
        version="",
    )
    check_data(metadata, pack)
    for ids in (pack.class_ids[:-1], pack.class_ids[::-1]):
        with pytest.raises(ValueError, match="use the data it was trained on"):
            check_data(replace(metadata, class_ids=ids, class_names=ids), pack)
    with pytest.raises(ValueError, match=f"takes images of {size + 1} pixels"):
        check_data(replace(metadata, image_size=size + 1), pack)


def test_the_answers_are_one_line_an_image(finished: Run, pack: Dataset) -> None:
    count = answer_test(finished, finished.submission_path, pack=pack, runtime=CPU)
    lines = [line.split(" ") for line in (finished.submission_path).read_text().splitlines()]
    assert count == 12 == len(lines)
    assert [name for name, _ in lines] == [f"{number:05d}" for number in range(12)]
    guesses = read_scores(finished.scores_path("test")).logits.argmax(dim=1)
    assert [answer for _, answer in lines] == [pack.class_ids[guess] for guess in guesses.tolist()]


def test_images_of_another_fold_have_been_learned_from(
    make_run: Callable[..., Config], tmp_path: Path
) -> None:
    counts = {"num_train": 240, "num_minival": 24, "num_val": 24, "num_test": 0}
    scenes = shapes.prepare(home=tmp_path, **counts, image_size=32, name="scenes", workers=1)
    first, second = (
        subset.prepare(scenes, scenes.class_names[2], home=tmp_path, fold=fold) for fold in (0, 1)
    )
    run = make_run(train__batch_size=2)
    trained_on = {first.files[row] for row in first.rows("train")}
    shared = trained_on & {second.files[row] for row in second.rows("minival")}
    assert shared
    assert num_learned(run, first, second, "minival") == len(shared)
    assert num_learned(run, first, first, "minival") == num_learned(run, first, second, "val") == 0


def test_a_split_that_was_learned_from_counts_whole_or_by_its_share(
    pack: Dataset, make_run: Callable[..., Config]
) -> None:
    run = make_run(data__train="train+minival", data__monitor="none", schedule__name="linear")
    assert num_learned(run, pack, pack, "minival") == 24
    assert num_learned(make_run(data__fraction=1 / 3), pack, pack, "train") == 24


def test_pixels_count_and_not_names(
    pack: Dataset, make_run: Callable[..., Config], tmp_path: Path
) -> None:
    counts = {"num_train": 72, "num_minival": 24, "num_val": 24, "num_test": 12}
    other = shapes.prepare(
        home=tmp_path, **counts, image_size=32, objects=(2, 2), name="other", workers=1
    )
    assert set(other.files) == set(pack.files)
    assert num_learned(make_run(), pack, other, "train") == 0
    assert num_learned(make_run(), pack, pack, "train+minival") == 72
