"""Recording activations: exact figures, the same log after an interruption, no trace in the
training, refusals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tinysight.config import Config, TrainConfig
from tinysight.data.dataset import Dataset
from tinysight.settings import from_dict, override
from tinysight.training.distributed import DistributedContext
from tinysight.training.recording import SAMPLE, Recorder, check_layers, describe
from tinysight.training.setup import check

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize("count", [1, 1000, SAMPLE, SAMPLE + 1, 5 * SAMPLE + 3])
def test_figures_are_those_of_all_values(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(0)).relu() * 3 - 0.25 * (
        count == 1
    )
    statistics, sample = describe(values.reshape(1, -1))
    array = values.double().numpy()
    expected = [array.max(), array.mean(), array.std(), array.min(), (array == 0).mean()]
    np.testing.assert_allclose(statistics.numpy(), expected, atol=1e-6)
    assert 1 <= len(sample) <= SAMPLE
    assert set(sample.tolist()) <= set(values.tolist())


def test_only_the_steps_that_are_due_are_recorded_and_no_hook_stays() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
    recorder = Recorder(model, ("0", "1"), every=3)
    images = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    for step in range(1, 8):
        with recorder.watch(step):
            model(images * step)
        assert not model[0]._forward_hooks and not model[1]._forward_hooks
    recorded = recorder.take()
    assert [(item.step, item.layer) for item in recorded] == [
        (3, "0"),
        (3, "1"),
        (6, "0"),
        (6, "1"),
    ]
    with torch.no_grad():
        linear = model[0](images * 3)
    assert recorded[0].statistics["min"] == pytest.approx(float(linear.min()))
    assert recorded[1].statistics["max"] == pytest.approx(float(linear.relu().max()))
    assert recorded[1].statistics["sparsity"] == pytest.approx(float((linear <= 0).float().mean()))
    assert recorder.take() == []


def test_the_log_is_the_same_after_an_interruption(trial: Any) -> None:
    broken = trial.at("broken", train__record=("norm", "head"), train__record_every=3)
    broken.stop_at(7)  # between two lines of the log, after step 6, which was recorded
    broken.go()
    whole = broken.at("whole")
    whole.go()
    assert broken.traces()["log"] == whole.traces()["log"]
    lines = whole.lines("distribution")
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert all(set(line["layers"]) == {"norm", "head"} for line in lines)
    for values in (values for line in lines for values in line["layers"].values()):
        assert values["min"] <= values["mean"] <= values["max"]


def test_recording_changes_nothing_else(trial: Any) -> None:
    plain = trial.at("plain", train__epochs=1)
    recorded = trial.at("rec", train__epochs=1, train__record=("norm",), train__record_every=2)
    plain.go()
    recorded.go()
    weights = load_file(plain.weights_path)
    others = load_file(recorded.weights_path)
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    kept = [line for line in recorded.lines() if line["kind"] != "distribution"]
    assert kept == plain.lines()


def test_histograms_are_on_the_board(trial: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trial.at(train__epochs=1, train__record=("head",), train__record_every=2).go()
    folder = str(trial.folder / "tensorboard")
    board = EventAccumulator(folder, size_guidance={"histograms": 0})
    board.Reload()
    assert [event.step for event in board.Histograms("activations/head")] == [2, 4]


def test_an_unknown_layer_is_refused_before_anything_is_written(
    dataset: Dataset, make_config: MakeConfig
) -> None:
    with pytest.raises(
        ValueError,
        match=r"train\.record names 'nrom', which the model does not have; near it are norm",
    ):
        check(make_config(train__record=("nrom",)), dataset, DistributedContext())
    with pytest.raises(ValueError, match="near it are"):
        check_layers(nn.Sequential(nn.Linear(2, 2)), ["zzzz"])


def test_layers_come_from_the_command_line_and_from_json() -> None:
    run = override(Config(recipe="test"), {"train.record": "blocks.3.0,head"})
    assert run.train.record == ("blocks.3.0", "head")
    assert override(run, {"train.record": ""}).train.record == ()
    assert from_dict(asdict(run) | {"recipe": "test"}) == run
    with pytest.raises(
        ValueError, match=r"train.compile is True; allowed: false while train.record names layers"
    ):
        TrainConfig(record=("head",), compile=True)
