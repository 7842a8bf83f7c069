"""Precision is measured, the measurement itself is cheap, and freed memory is kept."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import pytest
import torch

from tinysight import device
from tinysight.device import select_device


class Machine:
    """Replace `matmul_rate`: fp32 at 100, bf16 by size; record the sizes of the bf16 products."""

    def __init__(self, **bf16: float) -> None:
        self.bf16 = {int(size.removeprefix("at")): rate for size, rate in bf16.items()}
        self.sizes: list[int] = []

    def __call__(self, dtype: torch.dtype, *, size: int, **rest: Any) -> float:
        if dtype == torch.float32:
            return 100.0
        self.sizes.append(size)
        return self.bf16[size]


@pytest.mark.parametrize(
    ("machine", "chosen", "sizes"),
    [
        (Machine(at128=0.5), False, [128]),  # emulated: a product of 768 would take seconds
        (Machine(at128=90.0, at768=110.0), False, [128, 768]),  # there, but no gain
        (Machine(at128=90.0, at768=400.0), True, [128, 768]),  # small products hide what it can do
    ],
)
def test_bf16_is_chosen_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, chosen: bool, sizes: list[int]
) -> None:
    monkeypatch.setattr(device, "matmul_rate", machine)
    assert select_device("cpu").bf16 == chosen
    assert machine.sizes == sizes
    assert select_device("cpu", "bf16").bf16
    assert not select_device("cpu", "fp32").bf16


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_freed_memory_is_kept_for_later_allocations() -> None:
    # A block that is allocated again and again is soon no longer zeroed page by page.
    program = """
import resource, sys, torch
from tinysight.device import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(25):  # the first ones find their place
    if turn == 15:
        before = faults()
    torch.ones(10 << 20)
print(faults() - before)
"""
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", program, how], check=True, capture_output=True
            ).stdout
        )
        for how in ("keep", "plain")
    }
    if faults["plain"] < 1000:
        pytest.skip("this system's pages are so large that they hardly count")
    assert faults["keep"] < faults["plain"] / 3
