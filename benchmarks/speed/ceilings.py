"""What the device can do at best, measured: square matrix products, and copying memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from measuring import clock_of, timed

GEMM_SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Far above any cache."""

REPEATS = 5


@dataclass(frozen=True)
class Ceilings:
    """The best of several: products of a precision [FLOP/s], and memory read and written [bytes/s]."""

    flop_per_s: dict[str, float]
    bytes_per_s: float

    def best_with(self, other: Ceilings) -> Ceilings:
        """The higher of each: on a machine that does other things too, both are below the truth."""
        return Ceilings(
            {name: max(rate, other.flop_per_s[name]) for name, rate in self.flop_per_s.items()},
            max(self.bytes_per_s, other.bytes_per_s),
        )

    def floor_s(self, flop: float, num_bytes: float, precision: str) -> float:
        """The least time for so much: arithmetic and memory at the same time, each at its best."""
        return max(flop / self.flop_per_s[precision], num_bytes / self.bytes_per_s)


def measure_ceilings(device: torch.device) -> Ceilings:
    """Ceilings of `device` with as many threads as torch has now."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    sizes = GEMM_SIZES[device.type]
    return Ceilings(
        {name: max(_gemm_rate(size, dtype, device) for size in sizes) for name, dtype in dtypes.items()},
        _copy_rate(device),
    )


def _gemm_rate(size: int, dtype: torch.dtype, device: torch.device) -> float:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    return 2 * size**3 / _best_s(lambda: torch.mm(left, right, out=product), device)


def _copy_rate(device: torch.device) -> float:
    source = torch.zeros(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)
    return 2 * source.nbytes / _best_s(lambda: copy.copy_(source), device)


def _best_s(call: Callable[[], object], device: torch.device) -> float:
    return min(timed(call, repeats=REPEATS, clock=clock_of(device), warmup=2).values)
