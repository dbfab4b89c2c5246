"""`--train-teacher`: where the preset's teacher is missing it is trained first, and kept for next time."""

from __future__ import annotations

import torch

from stages.config import Config, with_values
from stages.config_table import AUTO
from stages.data.dataset import real_images
from stages.errors import ConfigError, FileError, NotDownloadedError
from stages.evaluation.config import NO_DATA
from stages.models.build import build_model
from stages.paths import typed_path
from stages.teachers.load import LoadedTeacher
from stages.teachers.resolve import cached_teacher_file, teacher_file
from stages.teachers.train import Progress, train_teacher

TRAINING_SPLIT = "train"


def must_train(config: Config) -> bool:
    """Whether the preset's teacher is missing and can be trained.

    Raises ConfigError where the preset names a file of its own, no data to train on, or no name to keep it under.
    """
    if config.teacher.weights == AUTO:
        try:
            teacher_file(config)
        except FileError:
            cached_teacher_file(config)
        else:
            return False
    elif typed_path(config.teacher.weights).is_file():
        return False
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
    return True


def ensure_teacher(config: Config, device: torch.device, progress: Progress) -> None:
    """Train the preset's teacher into the user's cache unless its file is there; `progress` hears of each epoch.

    The data is `evaluation.data`'s split "train". Raises FileError where that data is missing, and as `must_train`.
    """
    if not must_train(config):
        return
    path = cached_teacher_file(config)
    trained = train_teacher(
        config, out=path, device=device, seed=config.run.seed, split=TRAINING_SPLIT, progress=progress
    )
    if trained.path != path:  # another process was faster, and its teacher is as good
        trained.path.unlink()


def teacher_to_train(config: Config, device: torch.device) -> LoadedTeacher:
    """The teacher that `ensure_teacher` would train, as it is before; its data is known to be there afterwards.

    Raises FileError where the data is missing or does not fit.
    """
    path = cached_teacher_file(config)
    warnings: tuple[str, ...] = ()
    try:
        real_images(with_values(config, {"evaluation.download": False}), split=TRAINING_SPLIT)
    except NotDownloadedError:
        if not config.evaluation.download:
            raise
        warnings = ("the images that the teacher learns are not here yet: the run would download them first",)
    model = build_model(config.teacher.model, task=config.task, where="teacher.model")
    model.to(device).eval().requires_grad_(False)
    data = f"{config.evaluation.data}, split {TRAINING_SPLIT}"
    warning = f"the teacher is missing: it is trained first on {data}, into {path}"
    return LoadedTeacher(model, path, sha256="", warnings=(*warnings, warning))
