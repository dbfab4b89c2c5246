"""A run of any preset, ready to be measured: ssdkd's own objects, and no file or data that is not at hand.

Where a preset's teacher is missing, one with random weights takes its place: it costs the same. Its batch-norm
statistics are those of noise, so that activations keep their size and nothing overflows.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.config import Config, load
from stages.errors import FileError
from stages.inversion.method import Inverted
from stages.inversion.stage import insert
from stages.models.build import build_generator, build_model
from stages.models.layers import bn_layers, statistics_taken_anew
from stages.models.weights import save_weights
from stages.planning.beginning import build_run, set_up_stages
from stages.planning.plan import Launch, Plan, plan
from stages.run import Run
from stages.stage import Stage
from stages.teachers.resolve import teacher_file

NOISE_BATCHES, NOISE_BATCH = 4, 64
FIXED_OVERRIDES = ("evaluation.data=none",)
"""No benchmark of speed opens real images: what evaluation costs is measured on noise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options by which every benchmark of speed is told what to measure."""
    parser.add_argument("--preset", action="append", default=[], help="as of `ssdkd run`; may be given again")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `ssdkd run`")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, help="write all numbers to this file, too")


@dataclass(frozen=True)
class Workload:
    """A run at its beginning with its stages set up, and what its teacher is."""

    planned: Plan
    run: Run
    stages: dict[str, Stage[Any]]
    teacher: str

    @property
    def first_epoch(self) -> int:
        """The first epoch in which the student learns and inversion is adversarial."""
        return self.run.schedule.warmup_epochs + 1


def build_workload(presets: Sequence[str], overrides: Sequence[str], *, device: str, folder: Path) -> Workload:
    """The run that `ssdkd run` would make of these settings; `folder` takes a random teacher where there is none.

    Raises ConfigError, FileError and MachineError as `ssdkd run` does.
    """
    config, teacher = with_teacher(
        presets, [*overrides, *([] if device == "auto" else [f"run.device={device}"])], folder
    )
    name = "+".join(presets) or "digits"
    planned = plan(config, Launch(command="run", preset_name=name, out=folder / "run"))
    run = build_run(planned)
    return Workload(planned, run, set_up_stages(run, ExitStack()), teacher)


def with_teacher(presets: Sequence[str], overrides: Sequence[str], folder: Path) -> tuple[Config, str]:
    """The settings with a teacher whose file is there, and what that is."""
    overrides = [*overrides, *FIXED_OVERRIDES]
    config = load(presets, overrides)
    try:
        return config, f"{config.teacher.model}, weights of {teacher_file(config).name}"
    except FileError:
        if config.teacher.weights != "auto":
            raise
    path = folder / "random-teacher.safetensors"
    if not path.exists():
        torch.manual_seed(config.run.seed)
        model = build_model(config.teacher.model, task=config.task, where="teacher.model")
        fit_to_noise(model, config.task.image_shape)
        save_weights(model, path)
    told = f"random weights, batch-norm statistics of {NOISE_BATCHES * NOISE_BATCH} noise images"
    return load(presets, [*overrides, f"teacher.weights={path}"]), f"{config.teacher.model}, {told}"


@torch.no_grad()
def fit_to_noise(model: nn.Module, image_shape: Sequence[int]) -> None:
    """Give a network's batch-norm layers the mean statistics of a few batches of normalised noise."""
    model.eval()
    with statistics_taken_anew(bn_layers(model)):
        for _ in range(NOISE_BATCHES):
            model(torch.randn(NOISE_BATCH, *image_shape))


def fill_buffer(run: Run, num: int) -> None:
    """Put `num` images into the buffer as inversion does; they come from `generated_images`."""
    batch_size = run.config.inversion.batch_size
    for images_BCHW in torch.split(generated_images(run.config, num), batch_size):
        target_B = torch.zeros(len(images_BCHW), dtype=torch.int64)
        inverted = Inverted(images_BCHW.to(run.device), target_B.to(run.device))
        insert(run, inverted, batch_size=batch_size)


@torch.no_grad()
def generated_images(config: Config, num: int) -> torch.Tensor:
    """Images [num, C, H, W] in [0, 1] of the preset's generator as it is before training: equal for equal settings."""
    torch.manual_seed(config.run.seed)
    inversion, shape = config.inversion, config.task.image_shape
    generator = build_generator(inversion.generator, latent_dim=inversion.latent_dim, image_shape=shape)
    batches = torch.randn(num, inversion.latent_dim).split(NOISE_BATCH)
    return torch.cat([generator(latent_BZ) for latent_BZ in batches])
