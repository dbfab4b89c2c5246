"""What the benchmarks of speed share: timings with their spread, the machine they are of, and how they are told."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stages.machine.device import device_name

Clock = Callable[[], float]


def clock_of(device: torch.device) -> Clock:
    """Seconds at which everything that was asked of the device is done."""
    if device.type != "cuda":
        return time.perf_counter

    def now_s() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now_s


@dataclass(frozen=True)
class Spread:
    """Median and range of repeated measurements, in the unit of `values`."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def scaled(self, factor: float) -> Spread:
        return Spread(tuple(factor * value for value in self.values))

    def document(self) -> dict[str, Any]:
        return {"median": self.median, "min": min(self.values), "max": max(self.values), "values": list(self.values)}

    def __str__(self) -> str:
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2
        return f"{self.median:.{digits}f} ({min(self.values):.{digits}f} to {max(self.values):.{digits}f})"


def timed(call: Callable[[], object], *, repeats: int, clock: Clock, warmup: int = 1) -> Spread:
    """Seconds of `call`, `repeats` times, after `warmup` calls that do not count."""
    for _ in range(warmup):
        call()
    values = []
    for _ in range(repeats):
        began_s = clock()
        call()
        values.append(clock() - began_s)
    return Spread(tuple(values))


def machine(device: torch.device) -> dict[str, Any]:
    """The hardware and the versions that a measurement is of, and how busy the machine was with other things."""
    return {
        "processor": device_name(torch.device("cpu")),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def told_machine(facts: dict[str, Any]) -> str:
    """The machine in a line."""
    return (
        f"{facts['processor']}, {facts['cpus']} cpus, {facts['threads']} threads, {facts['cpu_capability']};"
        f" device {facts['device']}; python {facts['python']}, torch {facts['torch']}; load {facts['load'][0]}"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they must be, the first to the left and the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def write_json(path: Path | None, document: dict[str, Any]) -> None:
    """The document as a file, where one was asked for."""
    if path is not None:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
