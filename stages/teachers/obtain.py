"""`--train-teacher`: where the preset's teacher is missing it is trained first, and kept for next time."""

from __future__ import annotations

from pathlib import Path

import torch

from stages.config import Config
from stages.errors import ConfigError, FileError
from stages.evaluation.config import NO_DATA
from stages.teachers.resolve import AUTO, cached_teacher_file, teacher_file
from stages.teachers.train import Progress, train_teacher


def ensure_teacher(config: Config, device: torch.device, progress: Progress) -> None:
    """Train the preset's teacher into the user's cache unless its file is there; `progress` hears of each epoch.

    The data is `evaluation.data`'s split "train". Raises FileError where that data is missing, ConfigError where the
    preset names none, or names a file of its own.
    """
    if config.teacher.weights == AUTO:
        try:
            teacher_file(config)
        except FileError:
            pass
        else:
            return
    elif Path(config.teacher.weights).expanduser().is_file():
        return
    else:
        raise ConfigError(
            f"the teacher's file {config.teacher.weights} is missing, and a trained one would not go there",
            hint="--set teacher.weights=auto with --train-teacher, or `ssdkd teacher train --out FILE`",
        )
    if config.evaluation.data == NO_DATA:
        raise ConfigError(
            "--train-teacher needs real, labelled data, and `evaluation.data` is none",
            hint="--set evaluation.data=imagefolder --set evaluation.root=FOLDER",
        )
    root = config.evaluation.root
    train_teacher(
        config,
        data=config.evaluation.data,
        root=None if root is None else Path(root).expanduser(),
        out=cached_teacher_file(config),
        device=device,
        seed=config.run.seed,
        progress=progress,
    )
