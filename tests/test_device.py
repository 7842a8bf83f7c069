"""Precision is stated or measured, the measurement is cheap, and freed memory is kept."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
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
@pytest.mark.parametrize("listed", [None, "Features : fp asimd bf16\n"])
def test_bf16_is_measured_where_the_cpu_states_nothing(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    machine: Machine,
    chosen: bool,
    sizes: list[int],
    listed: str | None,
) -> None:
    if listed is not None:
        (tmp_path / "cpuinfo").write_text(listed)
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(device, "matmul_rate", machine)
    device._measured_bf16.cache_clear()
    machine.sizes.clear()
    for _ in range(2):  # one answer per process: a busy machine may measure another
        assert select_device("cpu").bf16 == chosen
    device._measured_bf16.cache_clear()
    assert machine.sizes == sizes
    assert select_device("cpu", "bf16").bf16
    assert not select_device("cpu", "fp32").bf16


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ("fpu avx2 avx512f avx512_vnni", False),
        ("fpu avx512f avx512_bf16 gfni", True),  # Zen 4
        ("fpu avx512_bf16 amx_bf16 amx_tile", True),  # Sapphire Rapids
        ("fpu avx_bf16x", False),
    ],
)
def test_what_an_x86_cpu_states_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, chosen: bool
) -> None:
    cpu = (
        f"processor\t: 0\nmodel name\t: avx512_bf16 in name\nflags\t\t: {flags}\nbugs\t: amx_bf16\n"
    )
    (tmp_path / "cpuinfo").write_text(cpu * 2)
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(device, "matmul_rate", None)
    assert select_device("cpu").bf16 == chosen


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
