"""`ssdkd doctor`: what this machine has, what a run makes of it, and whether anything that a run needs is missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdkd_cli import console, diagnostics, options
from ssdkd_cli.diagnostics import ExitCode
from stages.errors import MachineError
from stages.machine.heap import keep_heap_warm
from stages.paths import user_cache
from stages.run_directory import RUNS_ROOT

if TYPE_CHECKING:
    import torch

NEEDED_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "safetensors",
    "PIL",
    "pydantic",
    "rich",
    "textual",
    "matplotlib",
    "tomli_w",
    "platformdirs",
)
"""By the names they are imported by."""

MIN_FREE_DISK_MIB = 500
"""A run of CIFAR networks with 5,000 images, its checkpoints and pictures, stays below that; not one of ResNet-18."""

_DISTRIBUTIONS = {"PIL": "pillow", "tomli_w": "tomli-w"}


def doctor(json: options.Json = False) -> int:
    """Report what this machine has for a run.

    Versions, devices, memory, folders, and what the settings that are "auto" come to here, and why. The exit code is 4
    if something that a run needs is missing.

    \b
    Example:
      ssdkd doctor
    """
    report = examine()
    if json:
        console.print_json(report)
    else:
        console.print_facts(_facts(report))
        for problem in report["problems"]:
            diagnostics.warn(problem)
    return ExitCode.MACHINE if report["problems"] else ExitCode.DONE


def examine() -> dict[str, Any]:
    """Everything the report holds; `problems` says in words what a run started here would miss."""
    problems: list[str] = []
    if RUNS_ROOT.exists() and not RUNS_ROOT.is_dir():
        problems.append(f"{RUNS_ROOT.resolve()} is a file: runs go to ./runs unless --out says otherwise")
    folder = RUNS_ROOT if RUNS_ROOT.is_dir() else Path()  # which may be a mount of its own
    packages = _packages(problems)
    has_torch = packages["torch"] is not None
    disk = shutil.disk_usage(folder)
    free_mib = disk.free // 2**20
    if free_mib < MIN_FREE_DISK_MIB:
        problems.append(
            f"only {free_mib} MiB of disk space are free here: `ssdkd run --dry-run` tells what a run takes"
        )
    is_writable = os.access(folder, os.W_OK | os.X_OK)
    if not is_writable:
        problems.append(f"{folder.resolve()} cannot be written: runs go to ./runs unless --out says otherwise")
    return {
        "ssdkd": _version("ssdkd"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "bytecode": _bytecode() if has_torch else None,
        "auto": _auto() if has_torch else None,
        "devices": _devices(problems) if has_torch else [],
        "cpu": _cpu() if has_torch else None,
        "memory_mib": _memory_mib(),
        "cache": _cache() if packages["platformdirs"] is not None else None,
        "folder": {"path": str(folder.resolve()), "writable": is_writable, "free_disk_mib": free_mib},
        "nvidia_ml_py": _version("nvidia-ml-py"),
        "nvml": _nvml(),
        "problems": problems,
    }


def _packages(problems: list[str]) -> dict[str, str | None]:
    """Versions of what a run imports; None, and a problem, for what cannot be imported."""
    versions: dict[str, str | None] = {}
    for name in NEEDED_PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken binary package raises OSError, RuntimeError, ...
            versions[name] = None
            problems.append(f"{name} cannot be imported: {error}")
        else:
            versions[name] = _version(_DISTRIBUTIONS.get(name, name)) or "unknown"
    return versions


def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _bytecode() -> dict[str, Any]:
    """Whether Python has kept torch's bytecode; where it cannot, every start compiles a thousand files."""
    import torch

    compiled = Path(importlib.util.cache_from_source(torch.__file__))
    is_kept = compiled.is_file()
    if is_kept:
        why = "Python compiles the packages once, and finds them compiled at every start"
    elif sys.dont_write_bytecode:
        why = "PYTHONDONTWRITEBYTECODE is set, so every start compiles torch anew, which takes seconds"
    else:
        why = f"{compiled.parent} cannot be written, so every start compiles torch anew, which takes seconds"
    return {"kept": is_kept, "why": why}


def _auto() -> dict[str, dict[str, Any]]:
    """What the settings whose value is "auto" come to here, and why."""
    from stages.machine.device import resolve_acceleration, resolve_device, resolve_precision, resolve_threads

    with warnings.catch_warnings(record=True) as caught:  # of a driver that is too old, for one
        warnings.simplefilter("always")
        device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    acceleration = resolve_acceleration("auto", device)
    return {
        "device": {"value": str(device), "why": _why_device(device, [str(entry.message) for entry in caught])},
        "precision": {"value": precision, "why": _why_precision(precision, device)},
        "acceleration": {"value": acceleration, "why": _why_acceleration(device)},
        "threads": {
            "value": resolve_threads("auto"),
            "why": f"the CPUs that this process may use, of {os.cpu_count()}, at most OMP_NUM_THREADS",
        },
    }


def _why_acceleration(device: torch.device) -> str:
    from stages.machine.device import can_compile_for_cpu

    if device.type != "cpu":
        return "the steps of training are recorded once on the GPU and replayed"
    if can_compile_for_cpu():
        return "auto compiles long runs, whose training steps see 250 million pixels or more; others gain nothing by it"
    return "compiling, which long runs gain by, takes Linux, a C++ compiler (g++ or CXX) and Python's header files"


def _why_device(device: torch.device, complaints: list[str]) -> str:
    import torch

    if device.type == "cuda":
        return f"torch, built for CUDA {torch.version.cuda}, can use {torch.cuda.device_count()} GPU(s)"
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    if complaints:
        return f"torch cannot use CUDA: {complaints[0].splitlines()[0]}"
    return f"torch, built for CUDA {torch.version.cuda}, finds no GPU with a driver"


def _why_precision(precision: str, device: torch.device) -> str:
    what = "GPU" if device.type == "cuda" else "CPU"
    if precision == "bf16":
        return f"the {what} multiplies bf16 matrices faster; losses and statistics are fp32 all the same"
    return f"the {what} has no hardware that multiplies bf16 matrices faster than fp32 ones"


def _devices(problems: list[str]) -> list[dict[str, Any]]:
    """The CUDA devices torch sees; a problem for each that it cannot use."""
    import torch

    from stages.machine.device import has_fast_bf16

    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "device": f"cuda:{index}",
                "name": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "memory_mib": properties.total_memory // 2**20,
                "free_memory_mib": _free_memory_mib(index, problems),
                "bf16": has_fast_bf16(torch.device("cuda", index)),
            }
        )
    return devices


def _free_memory_mib(index: int, problems: list[str]) -> int | None:
    """The free memory of a CUDA device [MiB] after a computation on it; None, and a problem, where that fails."""
    import torch

    from stages.machine.device import failure_of

    try:
        failure = failure_of(torch.device("cuda", index))
        if failure is None:
            return torch.cuda.mem_get_info(index)[0] // 2**20
    except RuntimeError as error:
        failure = str(error).splitlines()[0]
    problems.append(f"cuda:{index} is there and cannot be used: {failure}")
    return None


def _cpu() -> dict[str, Any]:
    import torch

    from stages.machine.device import device_name, has_fast_bf16, num_usable_cpus

    cpu = torch.device("cpu")
    return {
        "name": device_name(cpu),
        "threads": num_usable_cpus(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16": has_fast_bf16(cpu),
        "keeps_freed_memory": keep_heap_warm(),
    }


def _nvml() -> dict[str, Any]:
    """Whether NVIDIA's management library answers: how busy a GPU is comes from there."""
    try:
        import pynvml
    except ImportError:
        return {"usable": False, "why": "nvidia-ml-py is not installed"}
    try:
        pynvml.nvmlInit()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return {"usable": False, "why": f"it does not answer: {error}"}
    return {"usable": True, "why": f"nvidia-ml-py {_version('nvidia-ml-py')}"}


def _memory_mib() -> dict[str, int] | None:
    """Memory of the machine, and what is free for a new process; None where the system does not say."""
    from stages.machine.memory import machine_memory

    memory = machine_memory()
    return None if memory is None else {"total": memory.total // 2**20, "available": memory.available // 2**20}


def _cache() -> dict[str, Any] | None:
    """Where teachers that were trained or fetched are kept, and which are there; None where there is no such place."""
    try:
        folder = user_cache()
    except MachineError:  # a run that needs it says so
        return None
    teachers = sorted(path.name for path in (folder / "teachers").glob("*.safetensors"))
    return {"path": str(folder), "teachers": teachers}


def _facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The report for people, a line for each thing."""
    cpu, memory, cache, folder = report["cpu"], report["memory_mib"], report["cache"], report["folder"]
    yield "ssdkd", report["ssdkd"]
    yield "Python", f"{report['python']}, {sys.executable}"
    yield "platform", report["platform"]
    yield "packages", ", ".join(f"{name} {found or 'MISSING'}" for name, found in report["packages"].items())
    if report["bytecode"] is not None:
        yield "bytecode", f"{'kept' if report['bytecode']['kept'] else 'not kept'}: {report['bytecode']['why']}"
    for name, resolved in (report["auto"] or {}).items():
        yield name, f"auto is {resolved['value']} here: {resolved['why']}"
    if cpu is not None:
        yield "heap", _about_heap(keeps_freed_memory=cpu["keeps_freed_memory"])
        yield "CPU", f"{cpu['name']}, {cpu['instructions']}, fast bf16: {_yes_no(cpu['bf16'])}"
    for gpu in report["devices"]:
        free_mib = gpu["free_memory_mib"]
        memory_of_gpu = f"{gpu['memory_mib']:,} MiB, {'unusable' if free_mib is None else f'{free_mib:,} MiB free'}"
        what = f"{gpu['name']}, compute capability {gpu['capability']}"
        yield gpu["device"], f"{what}, {memory_of_gpu}, fast bf16: {_yes_no(gpu['bf16'])}"
    effect = "" if report["nvml"]["usable"] or not report["devices"] else "; how busy the GPU is will not be shown"
    yield "NVML", f"{'there' if report['nvml']['usable'] else 'not there'}: {report['nvml']['why']}{effect}"
    if memory is not None:
        yield "memory", f"{memory['total']:,} MiB, {memory['available']:,} MiB available"
    if cache is not None:
        yield "cache", f"{cache['path']}, teachers in it: {', '.join(cache['teachers']) or 'none'}"
    yield "runs go to", f"{folder['path']}, {folder['free_disk_mib']:,} MiB free"
    yield "result", "see the warnings" if report["problems"] else "everything a run needs is here"


def _about_heap(*, keeps_freed_memory: bool) -> str:
    if keeps_freed_memory:
        return "kept warm: what a step frees stays with the process, and the next step has it without a page fault"
    return "not kept warm, for want of glibc: memory goes back to the system at every step, which slows down a CPU"


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"
