"""`ssdkd evaluate`: measure the student of a run, or any weights that fit a preset's student, on real images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stages.config import Config, from_file
from stages.data.dataset import LabelledImages, real_images
from stages.errors import ConfigError, FileError
from stages.evaluation.config import NO_DATA
from stages.evaluation.measure import compare_with_teacher, measure, measure_with_teacher
from stages.machine.device import (
    MEASURING_HINT,
    out_of_memory_is_told,
    prepare_device,
    resolve_device,
    threads_to_measure,
)
from stages.machine.heap import keep_heap_warm
from stages.models.build import build_model
from stages.models.normalized import NormalizedModel
from stages.models.weights import load_weights
from stages.own_code import doubts_of_code
from stages.paths import in_shell
from stages.registry import find
from stages.run_directory import RunDirectory
from stages.run_directory.overview import is_as_begun
from stages.student import student_from
from stages.tasks.task import task_of
from stages.teachers.load import load_teacher
from stages.teachers.resolve import teacher_file

Warn = Callable[[str], object]


def _silent(_warning: str) -> None: ...


def evaluate_run(run: RunDirectory, config: Config, device: str, *, warn: Warn = _silent) -> dict[str, Any]:
    """The document of `evaluate RUN --json`: the run's student and its teacher on real images.

    `agreement` is measured on the run's hold-out of synthetic images. `warn` is told what `teacher check` warns of,
    inversion apart. Raises FileError where the run has no student yet, where the data is missing, or where a teacher
    that is there is damaged or, unless the settings name another one, not the one that the run had.
    """
    student_file = run.written_student()
    teacher_sha256 = run.manifest().get("teacher_sha256")
    if teacher_sha256 is not None and config.teacher != _own_settings(run).teacher:
        teacher_sha256 = None  # another one is asked for
    for doubt in doubts_of_code(config, run.manifest()):
        warn(doubt)
    return _evaluate(
        student_file, config, device, warn=warn, holdout_file=run.holdout_file, teacher_sha256=teacher_sha256
    )


def _own_settings(run: RunDirectory) -> Config:
    return from_file(run.written_settings(), installed_only=is_as_begun(run))


def evaluate_weights(path: Path, config: Config, device: str, *, warn: Warn = _silent) -> dict[str, Any]:
    """The document of `evaluate WEIGHTS --preset P --json`; the weights are of `student.model`, in any public layout.

    Without a run there is no synthetic hold-out: `agreement` is then measured on the real images. It and `teacher` are
    None where the preset's teacher is not at hand. `warn` is told of other weights in the file, too.
    """
    return _evaluate(path, config, device, warn=warn)


@out_of_memory_is_told(MEASURING_HINT)
def _evaluate(
    weights: Path,
    config: Config,
    device_name: str,
    *,
    warn: Warn,
    holdout_file: Path | None = None,
    teacher_sha256: str | None = None,
) -> dict[str, Any]:
    keep_heap_warm()
    device = resolve_device(device_name)
    prepare_device(device)
    torch.set_num_threads(threads_to_measure(config.run.threads))
    task = task_of(config.task)
    student = _student(weights, config, device, warn)
    teacher = _teacher_if_at_hand(config, device, teacher_sha256, warn)
    data = _real_images(config)
    size = config.evaluation.batch_size
    of_teacher = compared = None
    if teacher is None:
        of_student = measure(student, data, task, batch_size=size)
    else:
        of_teacher, of_student, compared = measure_with_teacher(teacher, student, data, task, batch_size=size)
        if holdout_file is not None:
            holdout_NCHW = _read_holdout(holdout_file)
            compared = None
            if holdout_NCHW is not None:
                compared = compare_with_teacher(teacher, student, holdout_NCHW, task, batch_size=size)
    return {
        "task": config.task.kind,
        "data": data.name,
        "split": data.split,
        "student": of_student,
        "teacher": of_teacher,
        "agreement": None if compared is None else compared.agreement,
    }


def _student(weights: Path, config: Config, device: torch.device, warn: Warn) -> NormalizedModel:
    try:
        return student_from(weights, config, device, warn=warn)
    except FileError as error:
        build_model(config.student.model, task=config.task, where="student.model")  # raises what is wrong with itself
        if not _fit_the_teacher(weights, config):
            raise
        raise FileError(
            f"the weights in `{weights}` are of the teacher's network, `{config.teacher.model}`, not of the student's,"
            f" `{config.student.model}`",
            hint=f"to measure them all the same: --set student.model={in_shell(config.teacher.model)}",
        ) from error


def _fit_the_teacher(weights: Path, config: Config) -> bool:
    try:
        load_weights(build_model(config.teacher.model, task=config.task, where="teacher.model"), weights)
    except (ConfigError, FileError):
        return False
    return True


def _teacher_if_at_hand(config: Config, device: torch.device, sha256: str | None, warn: Warn) -> NormalizedModel | None:
    try:
        find("models", config.teacher.model, where="teacher.model")
        teacher_file(config)
    except (ConfigError, FileError):  # it is not there, and the student can be measured without it
        return None
    loaded = load_teacher(config, device, is_inverted=False)
    if sha256 not in (None, loaded.sha256):
        raise FileError(
            f"{loaded.path} is not the teacher that this run had",
            hint="put the old file back, manifest.json has its sha256; or name this one by `--set teacher.weights`",
        )
    for warning in loaded.warnings:
        warn(warning)
    return NormalizedModel.on(device, loaded.model, config.task)


def _real_images(config: Config) -> LabelledImages:
    if config.evaluation.data == NO_DATA:
        raise ConfigError(
            "nothing to evaluate on: `evaluation.data` is none",
            hint="`--data imagefolder --root FOLDER`, or another data set (`ssdkd plugins ls` lists them)",
        )
    return real_images(config)


def _read_holdout(path: Path) -> Tensor | None:
    """The run's synthetic hold-out, or None where it kept none."""
    try:
        return load_file(path)["images"]
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, OSError) as error:
        raise FileError(
            f"{path} is damaged: {error}", hint="`ssdkd runs verify` looks at all files of the run"
        ) from error
