"""What a run takes of memory and of disk at its fullest, known before it starts."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from stages.buffer.replay_buffer import bytes_per_sample
from stages.config import Config
from stages.distillation.views import bytes_per_view
from stages.errors import MachineError
from stages.machine.memory import machine_memory
from stages.models.build import build_generator
from stages.run_directory import RUNS_ROOT
from stages.schedule import Schedule
from stages.tasks.task import Task

OTHER_FILES_BYTES = 2**25
"""Events, pictures, the headers of tensor files."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Images and bytes of a run, and how large its generator is."""

    num_images: int
    """Images that the run makes, the hold-out not counted."""

    num_buffered: int
    """Images that the buffer will hold at most."""

    generator_parameters: int
    """Parameters of the generator; 0 where no images are made."""

    buffer_bytes: int
    """Size of the full buffer, with the cached views of its images."""

    disk_bytes: int
    """Disk at its fullest: two checkpoints and one being written; buffer, hold-out and weights twice."""

    saving_bytes: int
    """Of these, what the next save takes beside the files of the one before."""

    @property
    def buffer_mib(self) -> float:
        """`buffer_bytes` for people [MiB]."""
        return round(self.buffer_bytes / 2**20, 1)

    @property
    def disk_mib(self) -> float:
        """`disk_bytes` for people [MiB]."""
        return round(self.disk_bytes / 2**20, 1)


def footprint_of(config: Config, schedule: Schedule, *, task: Task, student: nn.Module, num_stored: int) -> Footprint:
    """The footprint of a run whose buffer starts with `num_stored` images."""
    num_images = schedule.total_calls * config.inversion.batch_size
    num_buffered = min(config.buffer.capacity, max(num_images, num_stored))
    image_shape, label_shape = config.task.image_shape, task.label_shape(config.task.image_shape)
    row_bytes = num_buffered * bytes_per_sample(image_shape, label_shape)
    buffer_bytes = row_bytes
    if "distillation" in schedule.stages:
        num_logits = config.task.num_classes * math.prod(label_shape)
        view_bytes = bytes_per_view(config.distillation.mix, num_logits=num_logits, precision=config.run.precision)
        buffer_bytes += num_buffered * config.distillation.views * view_bytes
    holdout_bytes = config.evaluation.num_holdout * math.prod(image_shape)
    student_bytes = sum(parameter.numel() * 4 for parameter in student.parameters())
    generator = list(_generator(config).parameters()) if "inversion" in schedule.stages else []
    generator_bytes = sum(parameter.numel() * parameter.element_size() for parameter in generator)
    # The buffer, the student with its momenta and its average, the best one, the generator with both of Adam's.
    num_students = 4 if config.evaluation.select_best else 3
    checkpoint_bytes = buffer_bytes + holdout_bytes + num_students * student_bytes + 3 * generator_bytes
    checkpoint_bytes += _ahead_bytes(config, schedule)
    return Footprint(
        num_images=num_images,
        num_buffered=num_buffered,
        generator_parameters=sum(parameter.numel() for parameter in generator),
        buffer_bytes=buffer_bytes,
        disk_bytes=3 * checkpoint_bytes + 2 * (row_bytes + holdout_bytes) + 3 * student_bytes + OTHER_FILES_BYTES,
        saving_bytes=checkpoint_bytes + row_bytes + OTHER_FILES_BYTES,
    )


def check_memory(footprint: Footprint, device: torch.device, *, hint: str) -> None:
    """Raise MachineError where the buffer alone is more than what is left of main memory.

    The system ends a process that takes too much without a word, and the buffer would do so only once it is full. On a
    GPU its memory is taken before the first step.
    """
    memory = machine_memory()
    if device.type == "cuda" or memory is None or footprint.buffer_bytes <= memory.available:
        return
    raise MachineError(
        f"not enough memory: {memory.available / 2**20:,.0f} MiB are available, the full buffer takes"
        f" {footprint.buffer_mib:,.0f} MiB",
        hint=hint,
    )


def check_disk(needed_bytes: int, out: Path | None, *, hint: str) -> None:
    """Raise MachineError where so much would fill the disk that `out`, or the folder of runs, is on."""
    folder = (out or RUNS_ROOT).absolute()
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise MachineError(
            f"not enough disk at {folder}: {free_bytes / 2**20:.0f} MiB free,"
            f" the run needs {needed_bytes / 2**20:.0f} MiB",
            hint=hint,
        )


def _ahead_bytes(config: Config, schedule: Schedule) -> int:
    """Size of the images that are made for the next epoch before this one is over."""
    if not schedule.overlaps:
        return 0
    return 4 * config.inversion.calls * config.inversion.batch_size * math.prod(config.task.image_shape)


def _generator(config: Config) -> nn.Module:
    inversion = config.inversion
    return build_generator(inversion.generator, latent_dim=inversion.latent_dim, image_shape=config.task.image_shape)
