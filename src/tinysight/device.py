"""What this machine computes with: detected or measured, never assumed."""

from __future__ import annotations

import ctypes
import platform
import re
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from tinysight.text import pluralize

CPU_INFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and in which precision a model runs."""

    device: torch.device
    bf16: bool

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context for a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def describe(self) -> str:
        """Return a phrase such as "cpu (2 threads), bf16"."""
        where = f"cpu ({pluralize(torch.get_num_threads(), 'thread')})"
        if self.device.type == "cuda":
            where = torch.cuda.get_device_name(self.device)
        return f"{where}, {'bf16' if self.bf16 else 'fp32'}"


def select_device(device: str = "auto", precision: str = "auto", *, local_rank: int = 0) -> Runtime:
    """Choose device and precision; raise ValueError for a device that does not exist."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"the device is {device!r}; expected auto, cpu, cuda or cuda:N")
    selected = torch.device(device)
    if selected.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"the device is {device!r}, but torch finds no CUDA device here; choose cpu"
            )
        selected = torch.device("cuda", local_rank if selected.index is None else selected.index)
        count = torch.cuda.device_count()
        if selected.index >= count:
            raise ValueError(f"the device is {selected}, but there are {count} CUDA devices here")
        torch.cuda.set_device(selected)
    bf16 = precision == "bf16" or (precision == "auto" and native_bf16(selected))
    return Runtime(device=selected, bf16=bf16)


def native_bf16(device: torch.device) -> bool:
    """Return whether bfloat16 pays: as a CUDA device or, on Linux, an x86 CPU states it; other
    CPUs are measured once per process.

    What is stated is the same each time. What is measured may not be, on a busy machine, and two
    evaluations of one model then differ in the third digit of their logits.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    stated = _cpu_flags()
    return bool(stated & BF16_FLAGS) if stated else _measured_bf16()


def _cpu_flags() -> set[str]:
    """Return the instruction sets of an x86 CPU; empty where the system does not list them."""
    try:
        listed = re.search(r"^flags\s*:(.*)$", CPU_INFO.read_text("utf-8"), re.MULTILINE)
    except OSError:
        return set()
    return set(listed[1].split()) if listed else set()


@cache
def _measured_bf16() -> bool:
    # Emulation can be 300 times slower: a small product shows it in 30 ms, while the one that
    # decides would take 8 s
    return _bf16_gain(128) > 0.05 and _bf16_gain(768) > 1.3


def _bf16_gain(size: int) -> float:
    bf16, fp32 = (
        matmul_rate(dtype, size=size, seconds=0.05) for dtype in (torch.bfloat16, torch.float32)
    )
    return bf16 / fp32


def matmul_rate(
    dtype: torch.dtype,
    *,
    size: int = 2048,
    seconds: float = 0.5,
    device: torch.device | str = "cpu",
) -> float:
    """Return the best rate of a square matrix product, in floating-point operations per second."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(size, size, generator=generator).to(device, dtype)
    b = torch.randn(size, size, generator=generator).to(device, dtype)
    a @ b  # warm-up: libraries are chosen and loaded at the first product
    best = 0.0
    deadline = time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < deadline:
        synchronize(a.device)
        start = time.perf_counter()
        a @ b
        synchronize(a.device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def synchronize(device: torch.device) -> None:
    """Wait for the work queued on `device`, to measure time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def prepare_training(device: torch.device) -> None:
    """Make what a training repeats fast, for as long as this process lives.

    On a GPU cuDNN times its convolutions at the first of each size, and takes the fastest.
    """
    if device.type == "cpu":
        keep_freed_memory()
    else:
        torch.backends.cudnn.benchmark = True


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for later allocations, as long as this process lives.

    By default it returns large blocks to the system and gets them again, page by page and zeroed,
    several times per step, which took a tenth of the processor time of the report's 18-layer ResNet
    (benchmarks/README.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max = -1, -4  # the numbers in malloc.h
    library = ctypes.CDLL(None)
    library.mallopt(mmap_max, 0)
    library.mallopt(trim_threshold, -1)
