"""A configuration with everything written out that depends on the machine or the folder it is used in."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from stages.config import Config, with_values
from stages.config_table import AUTO
from stages.inversion.overlap import can_overlap_on_cpu
from stages.machine.cuda_tape import can_record
from stages.machine.device import (
    can_compile_for_cpu,
    has_fast_bf16,
    resolve_acceleration,
    resolve_precision,
    resolve_threads,
)
from stages.models import FILE
from stages.paths import typed_path
from stages.schedule import Schedule

_PIXELS_WORTH_COMPILING = 2.5e8
"""Pixels that training steps see, from which on a run is compiled. With ResNet-32 and ResNet-20 on two cores a million
take a third of a second less, and compiling takes a minute and a half (benchmarks/LOG.md)."""


def resolved(config: Config, device: torch.device, schedule: Schedule) -> Config:
    """The configuration with what "auto" stands for on this machine, so that it repeats the run."""
    acceleration: str = config.run.acceleration
    if acceleration != AUTO or schedule.command != "invert":  # who learns from the images may take much longer
        is_worth_compiling = _is_worth_compiling(config, schedule)
        acceleration = resolve_acceleration(acceleration, device, is_worth_compiling=is_worth_compiling)
    return with_values(
        config,
        {
            "run.device": str(device),
            "run.precision": resolve_precision(config.run.precision, device),
            "run.acceleration": acceleration,
            "run.threads": resolve_threads(config.run.threads),
        },
    )


def automatic_keys(config: Config) -> list[str]:
    """The keys that `resolved` finds at "auto": on another machine, or at length, they may stand for others."""
    run = config.run
    found = {"device": run.device, "precision": run.precision, "acceleration": run.acceleration, "threads": run.threads}
    return [f"run.{key}" for key, value in found.items() if value == AUTO]


def warnings_of(
    wanted: Config, config: Config, device: torch.device, schedule: Schedule, *, is_resumption: bool
) -> tuple[str, ...]:
    """Where the resolved configuration cannot be, or do, what was wanted."""
    warnings = []
    if is_resumption and config.run.acceleration == "compile" and device.type == "cpu" and not can_compile_for_cpu():
        warnings.append("the run was compiled and this machine has no compiler for it: it goes on, not to the bit")
    if is_resumption and wanted.run.threads == AUTO:
        threads = config.run.threads
        warnings.append(f"the run had more threads than there are CPUs here: it goes on with {threads}, not to the bit")
    if not is_resumption and config.run.precision == "bf16" and not has_fast_bf16(device):
        warnings.append("run.precision is bf16, in which this CPU is no faster than in fp32: auto would take that")
    is_eager = resolve_acceleration(config.run.acceleration, device) == "eager"
    if is_eager and wanted.run.acceleration == "graphs":
        warnings.append(f"run.acceleration is graphs, which {device} has none of: steps run eagerly")
    elif not is_eager and device.type == "cuda" and not can_record(device):
        warnings.append(f"a recording has failed on {device}, and in this process steps run eagerly since")
    is_idle = not can_overlap_on_cpu(config.run.acceleration, int(config.run.threads))
    if schedule.overlaps and device.type == "cpu" and is_idle:
        is_compiled = config.run.acceleration == "compile"
        reason = "what is compiled takes all threads" if is_compiled else "run.threads is 1"
        warnings.append(f"inversion.overlap saves no time on this CPU: {reason}")
    return tuple(warnings)


def anchored(config: Config, teacher_file: Path) -> Config:
    """The configuration with its paths made absolute, so that the run can be resumed and repeated from any folder.

    `teacher_file` is what `teacher.weights` stands for. The name of a cached teacher has that of its model in it as it
    was given, so where that is a path, the teacher is no longer looked for by name.
    """
    paths = {"student.model": anchored_model(config.student.model)}
    paths["teacher.model"] = anchored_model(config.teacher.model)
    if config.teacher.weights != AUTO or paths["teacher.model"] != config.teacher.model:
        paths["teacher.weights"] = str(teacher_file.absolute())
    if config.evaluation.root is not None:
        paths["evaluation.root"] = str(typed_path(config.evaluation.root).absolute())
    return with_values(config, paths)


def anchored_model(name: str) -> str:
    """A network's name, its file made absolute where it names one: `FILE.py:FUNCTION`."""
    file = FILE.match(name)
    return name if file is None else f"{typed_path(file['path']).absolute()}:{file['factory']}"


def _is_worth_compiling(config: Config, schedule: Schedule) -> bool:
    """Whether a run on a CPU is so long that the time its compiler takes is won back."""
    if schedule.overlaps and can_overlap_on_cpu("eager", resolve_threads(config.run.threads)):
        return False  # what is compiled takes all threads, and leaves none for the other stage
    num_images = schedule.total_calls * config.inversion.steps * config.inversion.batch_size
    if "distillation" in schedule.stages:
        updates = schedule.distillation_epochs * config.num_distillation_steps
        num_images += updates * config.distillation.batch_size
    return num_images * math.prod(config.task.image_shape[1:]) >= _PIXELS_WORTH_COMPILING
