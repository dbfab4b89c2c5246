"""What a run learns of its machine; a CUDA device is played where there is none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock, mock_open

import numpy as np
import pytest
import torch

from stages.errors import ConfigError, MachineError
from stages.machine.control_groups import ControlGroups
from stages.machine.device import (
    device_name,
    failure_of,
    has_fast_bf16,
    is_out_of_memory,
    num_usable_cpus,
    out_of_memory_is_told,
    prepare_device,
    resident_memory_mib,
    resolve_acceleration,
    resolve_device,
    resolve_precision,
    resolve_threads,
    utilisation,
    waited_for_cpu_s,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("name", "device"), [("auto", "cuda:0"), ("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")]
)
def test_devices_by_name(two_gpus: None, name: str, device: str) -> None:
    assert resolve_device(name) == torch.device(device)


def test_a_gpu_too_many(two_gpus: None) -> None:
    with pytest.raises(MachineError, match="no such device: `cuda:2`, this machine has 2") as refusal:
        resolve_device("cuda:2")
    assert refusal.value.hint == "use cuda:0 to cuda:1"


def test_without_a_gpu(no_gpu: None) -> None:
    assert resolve_device("auto") == CPU
    for name in ("cuda", "cuda:0"):
        with pytest.raises(MachineError, match=f"no such device: `{name}`, this machine has no usable CUDA device"):
            resolve_device(name)


@pytest.mark.parametrize(("capability", "is_fast"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16_of_a_gpu_follows_its_generation(monkeypatch: pytest.MonkeyPatch, capability, is_fast: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA Example")
    assert has_fast_bf16(CUDA) is is_fast
    assert resolve_precision("auto", CUDA) == ("bf16" if is_fast else "fp32")
    assert resolve_precision("fp32", CUDA) == "fp32"
    if is_fast:
        assert resolve_precision("bf16", CUDA) == "bf16"
    else:
        with pytest.raises(MachineError, match=r"is bf16, and cuda:0 \(NVIDIA Example\) does not compute in it"):
            resolve_precision("bf16", CUDA)


@pytest.mark.parametrize(
    ("processor", "instructions", "avx512_bf16", "amx", "is_fast"),
    [
        ("AMD EPYC", "DEFAULT", True, True, False),
        ("AMD EPYC", "AVX2", True, True, False),
        ("AMD EPYC", "AVX512", False, False, False),
        ("AMD EPYC", "AVX512", True, False, True),
        ("Intel(R) Xeon(R) Processor", "AVX512", False, False, False),
        ("Intel(R) Xeon(R) Processor", "AVX512", True, False, False),
        ("Intel(R) Xeon(R) Processor", "AVX512", False, True, True),
        ("Intel(R) Xeon(R) Processor", "AMX", True, True, True),
    ],
)
def test_bf16_of_a_cpu_follows_its_instructions(
    monkeypatch: pytest.MonkeyPatch, processor: str, instructions: str, avx512_bf16: bool, amx: bool, is_fast: bool
) -> None:
    monkeypatch.setattr("stages.machine.device.device_name", lambda _device: processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_fast_bf16(CPU) is is_fast
    assert resolve_precision("auto", CPU) == ("bf16" if is_fast else "fp32")


def test_a_machine_that_does_not_tell_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert device_name(CPU)


def test_this_cpu_can_be_asked() -> None:
    assert isinstance(has_fast_bf16(CPU), bool)


@pytest.mark.parametrize(
    ("wanted", "device", "resolved"),
    [
        ("auto", CPU, "eager"),
        ("auto", CUDA, "graphs"),
        ("graphs", CUDA, "graphs"),
        ("graphs", CPU, "eager"),
        ("eager", CUDA, "eager"),
        ("compile", CPU, "compile"),
        ("compile", CUDA, "compile"),
    ],
)
def test_graphs_are_for_devices_that_have_them(wanted: str, device: torch.device, resolved: str) -> None:
    assert resolve_acceleration(wanted, device) == resolved


@pytest.mark.parametrize(
    ("wanted", "device", "compiler", "is_worth_compiling", "resolved"),
    [
        ("auto", CPU, "sh", True, "compile"),
        ("auto", CPU, "sh", False, "eager"),
        ("auto", CPU, "no-such-compiler", True, "eager"),
        ("auto", CUDA, "sh", True, "graphs"),
        ("eager", CPU, "sh", True, "eager"),
    ],
)
def test_long_runs_are_compiled_where_there_is_a_compiler(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wanted: str,
    device: torch.device,
    compiler: str,
    is_worth_compiling: bool,
    resolved: str,
) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("stages.machine.device.sysconfig.get_path", lambda _name: str(tmp_path))
    monkeypatch.setattr("stages.machine.device.sys.platform", "linux")
    monkeypatch.setenv("CXX", compiler)
    assert resolve_acceleration(wanted, device, is_worth_compiling=is_worth_compiling) == resolved
    (tmp_path / "Python.h").unlink()
    without_headers = resolve_acceleration(wanted, device, is_worth_compiling=is_worth_compiling)
    assert without_headers == ("eager" if resolved == "compile" else resolved)


@pytest.fixture
def switches() -> Iterator[list[tuple[Any, str, bool]]]:
    """Settings of the whole process that a CUDA device wants, and how; put back when the test is over."""
    wanted = [
        (torch.backends.cudnn, "benchmark", True),
        (torch.backends.cudnn, "allow_tf32", False),
        (torch.backends.cuda.matmul, "allow_tf32", False),
    ]
    before = [getattr(owner, name) for owner, name, _ in wanted]
    yield wanted
    for (owner, name, _), value in zip(wanted, before, strict=True):
        setattr(owner, name, value)


def test_a_cuda_device_is_prepared_once_for_all(monkeypatch: pytest.MonkeyPatch, switches) -> None:
    chosen: list[torch.device] = []
    tried: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr("stages.machine.device._compute", tried.append)
    for owner, name, value in switches:
        setattr(owner, name, not value)
    prepare_device(CPU)
    assert [getattr(owner, name) for owner, name, _ in switches] == [not value for *_, value in switches]
    prepare_device(CUDA)
    assert [getattr(owner, name) for owner, name, _ in switches] == [value for *_, value in switches]
    assert chosen == tried == [CUDA]


def test_what_a_device_is_tried_with_any_device_can_do() -> None:
    state = torch.get_rng_state()
    assert failure_of(CPU) is None
    assert torch.equal(torch.get_rng_state(), state), "no draw is taken"


@pytest.mark.usefixtures("switches")
def test_a_cuda_device_that_computes_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_device: torch.device) -> None:
        raise error

    monkeypatch.setattr("stages.machine.device._compute", fail)
    error = RuntimeError("CUDA error: no kernel image is available for execution on the device\nFor debugging")
    assert failure_of(CUDA) == "CUDA error: no kernel image is available for execution on the device"
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    with pytest.raises(MachineError, match=r"^cuda:0 is there and cannot be used: CUDA error: no kernel") as refused:
        prepare_device(CUDA)
    assert refused.value.hint is not None
    assert "--device cpu" in refused.value.hint
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        failure_of(CUDA)


@pytest.mark.parametrize(
    ("message", "free", "is_memory"),
    [
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", 50, True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", 1, True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", 50, False),
        ("GET was unable to find an engine to execute this computation", 1, True),
        ("FIND was unable to find an engine to execute this computation", 50, False),
        ("CUDA error: an illegal memory access was encountered", 1, False),
    ],
)
def test_memory_that_is_out_is_known_by_what_libraries_say(
    monkeypatch: pytest.MonkeyPatch, message: str, free: int, is_memory: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * 2**30, 80 * 2**30))
    assert is_out_of_memory(RuntimeError(message)) is is_memory


def test_where_no_gpu_was_touched_none_is_asked_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert not is_out_of_memory(RuntimeError("GET was unable to find an engine to execute this computation"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_is_named_stays(precision: str) -> None:
    assert resolve_precision(precision, CPU) == precision


def test_cpus_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = ControlGroups(Path("nowhere"), Path("nowhere"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 5, 7}, raising=False)
    assert num_usable_cpus(nowhere) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 11)
    assert num_usable_cpus(nowhere) == 11


@pytest.mark.parametrize(
    ("granted", "num"),
    [("max 100000", 8), ("400000 100000", 4), ("150000 100000", 2), ("1000 100000", 1), ("9900000 100000", 8), ("", 8)],
)
def test_a_container_may_grant_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, granted: str, num: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_text(granted + "\n", encoding="ascii")
    assert num_usable_cpus(ControlGroups(tmp_path, tmp_path / "nowhere")) == num


@pytest.mark.parametrize(
    ("wanted", "num"), [(None, 4), ("3", 3), ("9", 4), ("0", 4), ("", 4), ("2,1", 4), ("nonsense", 4)]
)
def test_threads_follow_the_users_wish_downwards(monkeypatch: pytest.MonkeyPatch, wanted: str | None, num: int) -> None:
    monkeypatch.setattr("stages.machine.device.num_usable_cpus", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if wanted is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert resolve_threads("auto") == num
    assert resolve_threads(7) == 7


def test_thousands_of_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would end the process without a word."""
    monkeypatch.setattr("stages.machine.device.num_usable_cpus", lambda: 4)
    assert resolve_threads(64) == 64
    with pytest.raises(ConfigError, match=r"`run.threads` is 100000, and this process may use 4"):
        resolve_threads(100_000)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_memory_that_this_process_holds() -> None:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (resident_kib,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")]
    assert resident_memory_mib(CPU) == pytest.approx(resident_kib / 1024, abs=4)


def test_memory_of_a_gpu_is_what_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 3 * 2**20)
    assert resident_memory_mib(CUDA) == 3.0


def test_utilisation_of_cpus_is_their_share_of_the_time() -> None:
    assert utilisation(CPU, elapsed_s=10.0, cpu_s=20.0, num_threads=4) == 0.5
    assert utilisation(CPU, elapsed_s=10.0, cpu_s=50.0, num_threads=4) == 1.0
    assert utilisation(CPU, elapsed_s=0.0, cpu_s=0.0, num_threads=4) is None


class _NvmlError(Exception):
    """NVML's errors are of a kind of their own (a partitioned GPU: "not supported")."""


@pytest.mark.parametrize("error", [ModuleNotFoundError("pynvml"), RuntimeError("driver"), _NvmlError("not supported")])
def test_utilisation_that_cannot_be_had_ends_no_run(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_device: torch.device) -> int:
        raise error

    monkeypatch.setattr(torch.cuda, "utilization", fail)
    assert utilisation(CUDA, elapsed_s=1.0, cpu_s=1.0, num_threads=4) is None
    monkeypatch.setattr(torch.cuda, "utilization", lambda _device: 37)
    assert utilisation(CUDA, elapsed_s=1.0, cpu_s=1.0, num_threads=4) == 0.37


def test_out_of_memory_is_an_error_with_a_hint() -> None:
    with pytest.raises(MachineError, match="out of memory: 2 GiB") as error, out_of_memory_is_told():
        raise torch.OutOfMemoryError("2 GiB")
    assert "batch_size" in (error.value.hint or "")
    with pytest.raises(MachineError) as other, out_of_memory_is_told("something smaller"):
        raise torch.OutOfMemoryError("2 GiB")
    assert other.value.hint == "something smaller"
    with pytest.raises(MachineError, match="DefaultCPUAllocator"), out_of_memory_is_told():
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(MachineError, match="out of memory: Unable to allocate"), out_of_memory_is_told():
        np.empty(2**60, dtype=np.uint8)
    with pytest.raises(MachineError, match="out of memory: MemoryError"), out_of_memory_is_told():
        raise MemoryError
    for message in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"):
        with pytest.raises(MachineError, match=f"out of memory: .*{message}"), out_of_memory_is_told():
            raise RuntimeError(f"{message}\nFor debugging")
    with pytest.raises(RuntimeError, match="something else"), out_of_memory_is_told():
        raise RuntimeError("something else")
    with pytest.raises(ValueError, match="mine"), out_of_memory_is_told():
        raise ValueError("mine")


def test_time_waited_for_a_cpu_is_the_second_number_of_the_kernels_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which the first is time on a CPU, in nanoseconds too, and the last a count."""
    opened = mock_open(read_data="1000000000 2500000000 7\n")
    monkeypatch.setattr("builtins.open", opened)
    assert waited_for_cpu_s() == 2.5
    assert opened.call_args.args[0] == "/proc/thread-self/schedstat"


@pytest.mark.parametrize("unreadable", [mock_open(read_data=""), Mock(side_effect=FileNotFoundError)])
def test_time_waited_for_a_cpu_is_not_known_everywhere(monkeypatch: pytest.MonkeyPatch, unreadable: Mock) -> None:
    monkeypatch.setattr("builtins.open", unreadable)
    assert waited_for_cpu_s() is None
