"""Learning rates against their formulas, and the plateau against torch's."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tinysight.training.schedules import LRSchedule


def test_warmup_grows_in_equal_steps_to_the_peak() -> None:
    for name in ("plateau", "cosine", "linear", "constant"):
        rate = LRSchedule(name=name, total=20, warmup=4)
        assert [rate.at(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine_linear_and_constant_are_their_formulas() -> None:
    cosine, linear = (LRSchedule(name=name, total=14, warmup=4) for name in ("cosine", "linear"))
    for step in range(4, 14):
        assert linear.at(step) == pytest.approx((14 - step) / 10)
        assert cosine.at(step) == pytest.approx((1 + math.cos(math.pi * (step - 4) / 10)) / 2)
    assert {LRSchedule(name="constant", total=14).at(step) for step in range(14)} == {1.0}


@pytest.mark.parametrize("epoch", [4.0, 6.25])
def test_exponential_is_the_reports_equation_4(epoch: float) -> None:
    rate = LRSchedule(name="exponential", total=40, epoch=epoch, factor=0.9)
    for step in range(40):
        assert rate.at(step) == pytest.approx(0.9 ** (step / epoch))
    assert LRSchedule(name="exponential", total=40, epoch=4.0, factor=0.9).at(8) == pytest.approx(
        0.81
    )


def test_cyclic_is_one_cosine_a_cycle() -> None:
    rate, alone = LRSchedule(name="cyclic", total=21, cycles=3), LRSchedule(name="cosine", total=7)
    assert [rate.at(step) for step in range(21)] == pytest.approx(
        3 * [alone.at(step) for step in range(7)]
    )
    uneven = [LRSchedule(name="cyclic", total=20, cycles=3).at(step) for step in range(20)]
    assert [step for step in range(1, 20) if uneven[step] > uneven[step - 1]] == [7, 14]


@pytest.mark.parametrize("warmup", [0, 10, 11])
def test_a_warmup_as_long_as_the_training_divides_by_nothing(warmup: int) -> None:
    for name in ("cosine", "linear"):
        assert all(
            0 <= LRSchedule(name=name, total=10, warmup=warmup).at(step) <= 1 for step in range(10)
        )


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_the_plateau_falls_when_torchs_does(patience: int) -> None:
    errors = [
        0.9,
        0.8,
        0.8,
        0.85,
        0.7,
        0.7,
        0.7,
        0.7,
        0.7,
        0.71,
        0.72,
        0.73,
        0.5,
        0.5,
        0.6,
        0.55,
        0.54,
        0.53,
    ]
    rate = LRSchedule(name="plateau", total=100, factor=0.1, patience=patience)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.1, patience=patience, threshold=0.0, eps=0.0
    )
    course = []
    for error in errors:
        rate.observe(error)
        reference.step(error)
        course.append(rate.at(50))
        assert course[-1] == pytest.approx(optimizer.param_groups[0]["lr"])
    assert min(course) < 1


def test_only_the_plateau_listens() -> None:
    rate = LRSchedule(name="constant", total=10, patience=0)
    for _ in range(5):
        rate.observe(0.5)
    assert rate.at(3) == 1.0


@pytest.mark.parametrize("observed", [[], [0.5], [0.5, 0.6], [0.5, 0.6, 0.7, 0.4]])
def test_its_state_goes_through_json(observed: list[float]) -> None:
    rate = LRSchedule(name="plateau", total=10, patience=1, factor=0.3)
    for error in observed:
        rate.observe(error)
    other = LRSchedule(name="plateau", total=10, patience=1, factor=0.3)
    other.restore(json.loads(json.dumps(rate.state())))
    assert other == rate
