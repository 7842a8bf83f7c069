"""The loop: faults stop it cleanly, runs start and resume, a seed decides everything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tinysight.config import Config
from tinysight.data.build import build
from tinysight.data.dataset import Dataset
from tinysight.data.shapes import Shapes
from tinysight.device import Runtime
from tinysight.evaluation.evaluate import Evaluation, evaluate_run
from tinysight.predict.weights import load_weights
from tinysight.run import read_run
from tinysight.settings import override
from tinysight.training import checkpoint, loop
from tinysight.training.callbacks import Callback
from tinysight.training.distributed import DistributedContext
from tinysight.training.loop import Interrupted, NonFinite, TimeUp
from tinysight.training.setup import channel_statistics, check
from tinysight.training.trainer import Trainer

MakeConfig = Callable[..., Config]


def make_trainer(config: Config, dataset: Dataset) -> Trainer:
    cpu = Runtime(device=torch.device("cpu"), bf16=False)
    return Trainer(config, dataset, cpu, DistributedContext())


class Signals(Callback):
    """Send signals to this process after its third step."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers or (signal.SIGTERM,)

    def on_step(self, step: int, values: dict[str, Any] | None) -> None:
        for number in self.numbers if step == 3 else ():
            os.kill(os.getpid(), number)


# ---------------------------------------------------------------- faults


def test_a_loss_that_is_not_finite_stops_before_the_optimizers_step(
    trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trainer.step
    seen: list[torch.Tensor] = []

    def spoil(self: Trainer, batch: Any) -> torch.Tensor:
        if self.step_number == 7:
            self.model.normalize.mean.fill_(torch.nan)  # type: ignore[union-attr,operator]
            seen.extend(parameter.detach().clone() for parameter in self.model.parameters())
        finite = real(self, batch)
        if self.step_number == 7 and seen:
            assert all(map(torch.equal, seen, self.model.parameters())), "the step was taken"
        return finite

    monkeypatch.setattr(Trainer, "step", spoil)
    expected = r"at step 8 \(epoch 2, lr 0\.05\); the last good state is step-00000005; try"
    with pytest.raises(NonFinite, match=expected):
        trial.go()
    assert seen and trial.saved() == ["step-00000005"] and trial.newest().step == 5
    assert all(torch.isfinite(value).all() for value in trial.newest().tensors.values())
    assert not trial.weights_path.exists()


def test_an_excessive_learning_rate_stops_the_training(trial: Any) -> None:
    with pytest.raises(NonFinite, match=r"no state was saved yet; try a lower optimizer\.lr"):
        trial.at(optimizer__lr=1e30).go()


def test_a_full_disk_stops_the_training_and_it_resumes_later(
    trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.whole()
    real = checkpoint.write_durable

    def full(path: Path, content: bytes) -> None:
        if "step-00000009" in str(path) and path.name == "state.safetensors":
            raise OSError(28, "No space left on device", str(path))
        real(path, content)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(checkpoint, "write_durable", full)
        trial.go()
    assert [path.name for path in (trial.folder / "checkpoints").iterdir()] == ["step-00000005"]
    trial.go()
    assert trial.differences() == []


@pytest.mark.parametrize(("lr", "ending"), [(0.05, Interrupted), (1e30, NonFinite)])
def test_no_thread_is_left_after_a_stop_or_an_error(lr: float, ending: Any, trial: Any) -> None:
    run = trial.at(data__prefetch=1, optimizer__lr=lr)
    with pytest.raises(ending) as kept:
        run.go(Signals())
    assert kept.traceback
    assert "prefetch" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"augment__crop": 0.2}, "see 6 pixels of the 32 of small, and needs 8; set larger shares"),
        ({"model__name": "resnett"}, "did you mean resnet"),
        ({"model__options": {"nn": 1}}, "no option 'nn'"),
        ({"train__device": "cuda:77"}, "the device is .*cuda:77"),
        ({"train__device": "gpu"}, "expected auto, cpu"),
    ],
)
def test_a_misfitting_config_is_refused_before_anything_is_written(
    changes: dict[str, Any], complaint: str, trial: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=complaint):
        trial.at(**changes).start()
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_processes_cannot_share_and_a_split_without_labels_are_refused(
    make_config: MakeConfig, dataset: Dataset, data_home: Path
) -> None:
    with pytest.raises(ValueError, match="evenly by 3 processes; set a multiple of 3"):
        check(make_config(), dataset, DistributedContext(size=3))
    counts = {"num_train": 24, "num_minival": 0, "num_val": 0, "num_test": 0}
    bare = build(Shapes(**counts, image_size=32, name="bare"), home=data_home, workers=1)
    with pytest.raises(ValueError, match=r"no labeled image in minival.*set data\.monitor=none"):
        check(make_config(), bare, DistributedContext())
    check(make_config(data__monitor="none", schedule__name="cosine"), bare, DistributedContext())


# ---------------------------------------------------------------- runs: start and resume


def test_a_run_resumes_from_its_folder_alone(trial: Any, messages: list[str]) -> None:
    trial.start(stop=6)
    run = trial.resume()
    assert any("resuming after step-00000006" in text for text in messages)
    assert not any("not as it began" in text for text in messages)
    assert trial.differences() in ([], ["weights"])  # the metadata has the commit
    summary = run.summary() or {}
    assert (summary["steps"], summary["epochs"]) == (14, 3) and summary["seconds"] > 0
    errors = [line["top1_error"] for line in trial.lines("epoch")]
    assert len(errors) == 3 and summary["best_monitored_error"] == min(errors)
    assert summary["monitored_images"] == len(trial.dataset.rows("minival"))
    metrics = evaluate_run(trial.run, trial.dataset, "minival").metrics
    assert metrics.top1_error == pytest.approx(errors[-1])


@pytest.mark.parametrize(
    ("monitor", "seconds", "saves"), [("minival", 15.0, 3), ("none", 15.0, 1), ("none", 0.0, 3)]
)
def test_short_epochs_without_a_measurement_are_not_saved_one_by_one(
    monitor: str, seconds: float, saves: int, trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, save = [], checkpoint.save
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", seconds)
    monkeypatch.setattr(
        checkpoint, "save", lambda state, path: (steps.append(state.step), save(state, path))
    )
    trial.at(data__monitor=monitor, schedule__name="cosine").go()
    assert len(steps) == saves and steps[-1] == 14


def test_a_resumed_run_may_change_settings_and_records_since_when(trial: Any) -> None:
    trial = trial.at(schedule__name="constant", schedule__warmup=0.0)
    trial.start(stop=6)
    for setting, complaint in (
        ("train.batch_size=8", "cannot change during a training; these can: optimizer.lr"),
        ("train.epochs=1", "train.epochs is 1, but 1 are done"),
        ("optimizer.lr=-1", "optimizer.lr is -1"),
        ("optimizer.lrr=1", "optimizer.lrr cannot change"),
        ("optimizer.sgd_ratio=3", "optimizer.sgd_ratio has no effect with optimizer.name=sgd"),
    ):
        with pytest.raises(ValueError, match=complaint):
            trial.resume(settings=[setting])
    assert trial.run.config == trial.config
    trial.resume(settings=["optimizer.lr=0.01", "train.epochs=2"])
    expected = override(trial.config, {"optimizer.lr": 0.01, "train.epochs": 2})
    assert trial.run.config == expected
    command = "  # stopped at step 6\ntinysight resume run optimizer.lr=0.01 train.epochs=2"
    assert trial.run.command.endswith(command)
    rates = {line["step"]: line["lr"] for line in trial.lines("train")}
    assert rates[4] == 0.05 and rates[8] == rates[9] == 0.01 and max(rates) == 9


def test_a_run_in_a_folder_that_is_not_utf8_is_not_continued(trial: Any, tmp_path: Path) -> None:
    trial.start(stop=3)
    moved = trial.run.folder.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(ValueError, match=r"is not UTF-8; give another by --name"):
        loop.resume(read_run(moved), trial.dataset)


def test_a_run_with_a_setting_that_is_gone_is_read_and_not_continued(trial: Any) -> None:
    trial.start(stop=3)
    content = json.loads(trial.run.record_path.read_bytes())
    content["config"]["augment"]["erase"] = 0.25
    trial.run.record_path.write_text(json.dumps(content))
    run = read_run(trial.run.folder)
    assert run.config == trial.config
    for settings in ([], ["train.epochs=3"]):
        with pytest.raises(ValueError, match=r"was trained with augment.erase=0.25, which this"):
            loop.resume(run, trial.dataset, settings=settings)
    assert json.loads(run.record_path.read_bytes()) == content


def test_a_finished_run_changed_data_and_a_second_process_are_refused(
    trial: Any, data_home: Path
) -> None:
    trial.start(stop=3)
    counts = {"num_train": 72, "num_minival": 24, "num_val": 24, "num_test": 11}
    other = build(Shapes(**counts, image_size=32, name="other"), home=data_home, workers=1)
    with pytest.raises(ValueError, match=r"the data other are not those that .* began with"):
        loop.resume(trial.run, other)
    refused = []

    class Second(Callback):
        def on_step(self, step: int, values: dict[str, Any] | None) -> None:
            if step == 5:
                with pytest.raises(ValueError, match=r"another process is training .*/run; wait"):
                    trial.resume()
                refused.append(step)

    trial.resume(callback=Second())
    assert refused
    with pytest.raises(
        ValueError, match=r"is finished after 3 epochs; .*train.epochs=6. trains on"
    ):
        trial.resume()
    with pytest.raises(ValueError, match="exists; continue it by `tinysight resume"):
        trial.start()


def test_a_finished_run_trained_for_longer_is_as_if_it_had_not_ended(trial: Any) -> None:
    trial.start()
    weights = trial.weights_path.read_bytes()
    (trial.folder / "evaluation-val.json").write_text("of 3 epochs")
    (trial.folder / "notes.txt").write_text("a person's")
    trial.resume(settings=["train.epochs=5"], stop=16)
    assert not trial.run.is_finished
    trial.resume()
    other = trial.at("other")
    other.start()
    other.weights_path.unlink()  # as if it had been interrupted in its last moment
    other.resume(settings=["train.epochs=5"])
    assert trial.differences(other.traces()) == []
    assert trial.run.summary()["epochs"] == 5 and trial.newest().step == 23
    assert (trial.folder / "epochs-0003/weights.safetensors").read_bytes() == weights
    names = {path.name for path in (trial.folder / "epochs-0003").iterdir()}
    assert names == {"weights.safetensors", "summary.json", "evaluation-val.json"}
    assert (trial.folder / "notes.txt").exists()
    for settings in ((), ("train.epochs=5",), ("optimizer.lr=0.1",)):
        with pytest.raises(ValueError, match=r"is finished after 5 epochs|but 5 are done"):
            trial.resume(settings=settings)
    shutil.rmtree(trial.folder / "checkpoints")
    with pytest.raises(ValueError, match=r"no checkpoint left .* model\.pretrained="):
        trial.resume(settings=["train.epochs=7"])


def test_three_epochs_and_two_more_are_five_where_the_rate_is_constant(trial: Any) -> None:
    same: dict[str, Any] = {"schedule__name": "constant", "schedule__warmup": 0}
    three, five = (trial.at(f"of-{n}", **same, train__epochs=n) for n in (3, 5))
    three.start()
    three.resume(settings=["train.epochs=5"])
    five.start()
    assert three.differences(five.traces()) == []


def test_a_run_next_to_an_unfinished_one_is_warned_of(
    trial: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path))
    with pytest.raises(TimeUp):
        loop.train(override(trial.config, {"train.stop_after_minutes": 1e-9}), trial.dataset)
    run = loop.train(trial.config, trial.dataset)
    first = tmp_path / run.folder.name.removesuffix("-2")
    assert run.folder.name.endswith("-2") and run.is_finished
    assert sum(f"continue it by: tinysight resume {first}" in text for text in messages) == 1


def test_another_machine_or_version_is_warned_of(trial: Any, messages: list[str]) -> None:
    trial.start(stop=3)
    path = trial.folder / "run.json"
    content = json.loads(path.read_text())
    content["machine"]["threads"] = 99
    content["versions"]["torch"] = "2.0"
    path.write_text(json.dumps(content))
    trial.resume()
    (warning,) = [text for text in messages if "not as it began" in text]
    for part in ("threads 99 -> ", "torch 2.0 -> ", "not the same bytes"):
        assert part in warning


def test_a_kill_before_the_weights_are_written_can_be_resumed(trial: Any) -> None:
    trial.start()
    expected = trial.traces()
    trial.weights_path.unlink()
    trial.resume()
    assert trial.differences(expected) == [] and trial.run.is_finished


def test_the_best_weights_are_kept_when_asked_for(
    messages: list[str], trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial.at(train__keep_weights="best", train__epochs=5)
    errors = iter([0.9, 0.2, 0.7, 0.2, 0.8])
    real = Evaluation.metrics.func  # type: ignore[attr-defined]
    monkeypatch.setattr(
        Evaluation, "metrics", property(lambda self: replace(real(self), top1_error=next(errors)))
    )
    trial.go()
    best = trial.folder / "checkpoints" / "step-00000009"
    assert [name[-2:] for name in trial.saved()] == ["09", "18", "23"]
    average = checkpoint.load(best).tensors
    kept = load_file(trial.weights_path)
    assert all(torch.equal(value, average[f"ema|{name}"]) for name, value in kept.items())

    trial.weights_path.unlink()
    (best / "state.json").write_text("{}")
    trial.go()
    assert any("keeping the last weights in place of the best" in text for text in messages)


def test_snapshots_are_the_weights_after_the_last_epochs(trial: Any) -> None:
    trial.at(train__snapshots=2, train__keep_weights="last").go()
    kept = sorted((trial.folder / "snapshots").iterdir())
    assert [path.name for path in kept] == ["epoch-0002.safetensors", "epoch-0003.safetensors"]
    (first, early), (last, late) = (load_weights(path) for path in kept)
    assert (early.results["epochs"], late.results["epochs"]) == (2, 3)
    final = load_weights(trial.weights_path)[0].state_dict()
    assert all(torch.equal(value, last.state_dict()[name]) for name, value in final.items())
    assert not torch.equal(first.state_dict()["head.weight"], final["head.weight"])


def test_mixing_ends_where_it_should_and_lowers_no_label(
    make_config: MakeConfig, dataset: Dataset
) -> None:
    mixing = {"mixup": 1.0, "mix_probability": 1.0, "mix_until": 0.5}
    changes = {f"augment__{name}": value for name, value in mixing.items()}
    seen: list[list[torch.Tensor]] = []
    for config in (make_config(train__ema_decay=0.0, **more) for more in (changes, {})):
        trainer, inputs = make_trainer(config, dataset), []
        trainer.forward.register_forward_pre_hook(
            lambda _, images, inputs=inputs: inputs.append(images[0].clone())
        )
        for number in range(trainer.total_steps):
            trainer.step(trainer.loader.batch(number))
        seen.append(inputs)
    assert [torch.equal(*pair) for pair in zip(*seen, strict=True)] == [False] * 7 + [True] * 7


# ---------------------------------------------------------------- what decides a training


def test_a_seed_decides_every_byte(trial: Any) -> None:
    torch.manual_seed(12345)  # the caller's: of no influence, and left as it is
    before = torch.get_rng_state()
    for prefetch in (0, 7):
        again = trial.at(f"again-{prefetch}", data__prefetch=prefetch)
        again.start()
        assert again.differences(trial.whole()) in ([], ["weights"])
    assert torch.equal(before, torch.get_rng_state())
    other = trial.at(train__seed=1)
    other.go()
    changed = other.differences(trial.whole())
    assert {"log", "head.weight", "state ema|head.weight"} <= set(changed)


def test_signal_handlers_are_restored(trial: Any) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    trial.stop_at(2)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_ctrl_c_quits_at_once(trial: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        trial.go(Signals(signal.SIGINT, signal.SIGINT))


def test_gradients_lie_in_memory_as_their_parameters_do(
    make_config: MakeConfig, dataset: Dataset
) -> None:
    config = make_config(model__name="resnet", model__options={"n": 1, "filters": (4, 8)})
    trainer = make_trainer(config, dataset)
    for number in range(2):
        trainer.step(trainer.loader.batch(number))
    for parameter in trainer.model.parameters():
        assert parameter.grad is not None and parameter.grad.stride() == parameter.stride()


def test_the_log_has_epoch_and_size_of_each_step(trial: Any) -> None:
    trial.at(train__sizes=((0.0, 0.5), (0.5, 0.75))).go()
    lines, steps = trial.lines("train"), [4, 5, 8, 9, 12, 14]
    assert [line["step"] for line in lines] == steps
    assert [line["size"] for line in lines] == [16, 16, 24, 24, 24, 24]
    expected = [step * 16 / 72 for step in steps]
    assert [line["epoch"] for line in lines] == pytest.approx(expected, abs=1e-4)
    assert all(0 < line["loss"] < 10 and 0 <= line["top1_error"] <= 1 for line in lines)


def test_a_callback_knows_that_larger_images_take_longer(trial: Any) -> None:
    costs = []

    class Watch(Callback):
        def on_start(self, *, step: int, total: int, work: Callable[[int], float] = float) -> None:
            costs.extend(work(number) for number in (step, 3, 7, total))

    trial.at(train__sizes=((0.0, 0.5), (0.5, 0.75))).go(Watch())  # 7 steps of 16 pixels, 7 of 24
    small, large = 16**1.4, 24**1.4
    assert costs == pytest.approx([0, 3 * small, 7 * small, 7 * (small + large)])


def test_channel_statistics_are_numpys() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    mean, std = channel_statistics(images, np.arange(3, 17))
    assert np.allclose(mean, images[3:17].mean(axis=(0, 1, 2)))
    assert np.allclose(std, images[3:17].std(axis=(0, 1, 2)))
    flat = np.full((5, 4, 4, 3), 77, dtype=np.uint8)
    assert channel_statistics(flat, range(5))[1].tolist() == [0.0, 0.0, 0.0]
    limited, _ = channel_statistics(images, np.arange(20), limit=5)
    assert torch.equal(limited, channel_statistics(images[::4], np.arange(5))[0])
