"""The machine a run is on: which device, which precision, and how many threads."""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch.nn import functional as F

from stages.errors import ConfigError, MachineError
from stages.machine.control_groups import OWN_GROUPS, ControlGroups

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",
    "HOST_ALLOCATION_FAILED",
)
"""Words in the text of errors which say that memory is out and have no class of their own."""

_PERHAPS_OUT_OF_MEMORY = ("unable to find an engine to execute this computation", "CUBLAS_STATUS_NOT_INITIALIZED")
"""What cuDNN and cuBLAS say where they lack memory, and also where they do not fit the device."""

_LITTLE_MEMORY = 0.05
"""Share of a device's memory; where no more is free, it is what libraries lack."""

_MOST_THREADS_PER_CPU = 16
"""Threads for each CPU at most: more do not help, and some thousands end the process without a word."""


def num_usable_cpus(groups: ControlGroups = OWN_GROUPS) -> int:
    """CPUs this process may use: those it may run on, at most what a container or a job grants it, at least one."""
    num = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(num, groups.cpu_quota())))


def resolve_threads(threads: int | str) -> int:
    """CPU threads: `auto` is one for each usable CPU, at most OMP_NUM_THREADS where the user has set it.

    Raises ConfigError for far more threads than CPUs.
    """
    if threads != "auto":
        if int(threads) > _MOST_THREADS_PER_CPU * num_usable_cpus():
            raise ConfigError(
                f"`run.threads` is {threads}, and this process may use {num_usable_cpus()} CPU(s)",
                hint="use run.threads=auto",
            )
        return int(threads)
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(num_usable_cpus(), int(wanted)) if wanted.isdigit() and int(wanted) > 0 else num_usable_cpus()


def threads_to_measure(threads: int | str) -> int:
    """CPU threads for what a run has made: as many as it had, but no more than there are CPUs on this machine."""
    most = resolve_threads("auto")
    return most if threads == "auto" else min(most, int(threads))


def resolve_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` stands for. Raises MachineError where there is none."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise MachineError(
            f"no such device: `{name}`, this machine has no usable CUDA device",
            hint="use --device cpu, or install a torch build and a driver that fit (`ssdkd doctor` shows both)",
        )
    index = int(name.partition(":")[2] or 0)
    num_devices = torch.cuda.device_count()
    if index >= num_devices:
        raise MachineError(
            f"no such device: `{name}`, this machine has {num_devices} CUDA device(s)",
            hint=f"use cuda:0 to cuda:{num_devices - 1}",
        )
    return torch.device("cuda", index)


LESS_OF_A_RUN = (
    "lower inversion.batch_size (and raise inversion.calls by as much, for as many images), distillation.batch_size,"
    " evaluation.batch_size or buffer.capacity, or name another --device"
)

MEASURING_HINT = "lower evaluation.batch_size, for example by `--set evaluation.batch_size=64`, or use --device cpu"


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch, or what it calls, or Python itself has found too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
        return True
    return any(words in str(error) for words in _PERHAPS_OUT_OF_MEMORY) and _is_nearly_full()


def _is_nearly_full() -> bool:
    """Whether hardly any memory of the current CUDA device is free."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    free, total = torch.cuda.mem_get_info()
    return free < _LITTLE_MEMORY * total


@contextmanager
def out_of_memory_is_told(hint: str = LESS_OF_A_RUN) -> Iterator[None]:
    """Where the device runs out of memory in this context, MachineError is raised, with what to do about it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise MachineError(f"the device is out of memory: {what}", hint=hint) from error


def device_name(device: torch.device) -> str:
    """What the device is called by its maker."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):  # there on Linux, but for some sandboxes
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def has_fast_bf16(device: torch.device) -> bool:
    """Whether networks run faster in bf16 than in fp32, decided from what the device is and never by timing.

    Of CPUs these are the ones with AMX, and AMD's with AVX512-BF16. On Intel's, that multiplies no more numbers a cycle
    than fp32 has, and networks take longer; a virtual machine may have it alone, where the processor has AMX, too.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if torch.backends.cpu.get_cpu_capability() not in ("AVX512", "AMX"):
        return False
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and "Intel" not in device_name(device)


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "fp32" or "bf16": `auto` is bf16 where that is faster. Raises MachineError for bf16 on a GPU that has none."""
    if precision == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    if precision == "bf16" and device.type == "cuda" and not has_fast_bf16(device):
        raise MachineError(
            f"`run.precision` is bf16, and {device} ({device_name(device)}) does not compute in it",
            hint="NVIDIA's GPUs do since Ampere (A100, RTX 30): name another --device, or begin a run in fp32",
        )
    return precision


def can_compile_for_cpu() -> bool:
    """Whether torch's compiler finds what it needs for a CPU: Linux, a C++ compiler and Python's header files."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return sys.platform == "linux" and shutil.which(os.environ.get("CXX", "g++")) is not None and header.is_file()


def has_graphs(device: torch.device) -> bool:
    """Whether steps can be recorded on a device of its kind."""
    return device.type == "cuda"


def resolve_acceleration(acceleration: str, device: torch.device, *, is_worth_compiling: bool = False) -> str:
    """ "eager", "graphs" or "compile".

    `auto` is graphs where the device can record them, and compile on a CPU that can where the run is worth it.
    """
    if acceleration == "auto" and device.type == "cpu" and is_worth_compiling and can_compile_for_cpu():
        return "compile"
    if acceleration in ("auto", "graphs"):
        return "graphs" if has_graphs(device) else "eager"
    return acceleration


def prepare_device(device: torch.device) -> None:
    """Settings of a CUDA device for the whole process; a CPU needs none.

    Raises MachineError where the device is there and computes nothing.
    """
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True  # shapes are the same in every step: the fastest kernels are worth a search
    # fp32 is what it says: TF32 would cut it to 11 bits. Networks in a hurry run in bf16.
    with warnings.catch_warnings():  # the names have changed, and torch 2.8 has only these
        warnings.filterwarnings("ignore", message="Please use the new API")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    failure = failure_of(device)
    if failure is not None:
        raise MachineError(
            f"{device} is there and cannot be used: {failure}",
            hint="`--device cpu` does without it; `ssdkd doctor` shows what torch was built for and what is here",
        )


@contextmanager
def without_kernel_search() -> Iterator[None]:
    """Within this context cuDNN takes the kernels that should be fast: to try them all pays for training steps only.

    It holds for all threads. What was taken for batches of a shape stays, also for a training step on such batches.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def failure_of(device: torch.device) -> str | None:
    """Why a device that torch sees computes nothing; None where it does. Out of memory is raised as it is.

    A build of torch without kernels for this GPU, a cuDNN that does not fit, a GPU that another process keeps for
    itself: each shows at the first computation only.
    """
    try:
        _compute(device)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return str(error).splitlines()[0]
    return None


def _compute(device: torch.device) -> None:
    """What networks are made of: a convolution, a matrix product and their gradients. Waits for the device."""
    weight = torch.ones(4, 3, 3, 3, device=device, requires_grad=True)
    features_BC = F.conv2d(torch.ones(2, 3, 8, 8, device=device), weight).flatten(1)
    (features_BC @ features_BC.T).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    weight.grad.sum().item()


def resident_memory_mib(device: torch.device) -> float | None:
    """Memory the process holds: on the device for CUDA, resident set otherwise [MiB]."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device) / 2**20
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a kernel file, read each epoch
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def waited_for_cpu_s() -> float | None:
    """Seconds in which this thread was ready and others had the CPU; None where the system does not count them."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:  # noqa: PTH123 - a kernel file
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):  # not Linux, or a kernel without it
        return None


def utilisation(device: torch.device, *, elapsed_s: float, cpu_s: float, num_threads: int) -> float | None:
    """Share of the device in use, in [0, 1]: NVML's word for a CUDA device, else CPU time over threads and time."""
    if device.type == "cuda":
        try:
            return torch.cuda.utilization(device) / 100
        except Exception:  # nvidia-ml-py is optional, and its errors (a partitioned GPU) are of a kind of their own
            return None
    if elapsed_s <= 0:
        return None
    return min(1.0, cpu_s / (elapsed_s * num_threads))
