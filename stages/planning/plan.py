"""Everything that can be known before the first step, read and checked before it; nothing of the run is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.buffer.file import BufferContents, BufferMeta
from stages.config import Config, with_values
from stages.data.dataset import UNSPLIT, LabelledImages, real_images
from stages.errors import FileError, MachineError, NotDownloadedError
from stages.evaluation.config import NO_DATA
from stages.machine.device import out_of_memory_is_told, prepare_device, resolve_acceleration, resolve_device
from stages.machine.heap import keep_heap_warm
from stages.models import FOR_SMALL_IMAGES
from stages.models.build import build_model, check_in_training
from stages.models.layers import bn_layers_that_run, num_parameters
from stages.models.weight_selection import Inheritance
from stages.planning import first_weights, resolution, stored_buffer
from stages.planning.footprint import Footprint, check_disk, check_memory, footprint_of
from stages.planning.idle_settings import warnings_of
from stages.planning.launch_checks import refuse_futile, refuse_without_loss
from stages.run import derived_seed
from stages.run_directory import RUNS_ROOT, RunDirectory
from stages.schedule import Command, Schedule
from stages.tasks.task import Task, task_of
from stages.teachers.load import LoadedTeacher, load_teacher
from stages.teachers.obtain import TRAINING_SPLIT, ensure_teacher, must_train, teacher_to_train
from stages.teachers.train import Progress, untrained_teacher

_LARGE_IMAGE = 96
"""Pixels along the longer side, from which on networks for small images cost too much."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a run was asked for, beside its configuration."""

    command: Command
    preset_name: str
    out: Path | None = None
    buffer: Path | None = None
    """The buffer file that `distill` starts from."""
    train_teacher: bool = False
    command_line: tuple[str, ...] = ()
    evaluation_named: bool = False
    """Whether the user, and not only the preset, named the evaluation data: then it must be there."""
    is_dry_run: bool = False
    """Whether nothing is to be left behind: a missing teacher is then checked for and not trained."""
    seed_in_name: int | None = None
    """Set where the run is one of a group with different seeds."""

    @property
    def run_name(self) -> str:
        """What the run's folder is named after."""
        return self.preset_name if self.command == "run" else f"{self.command}-{self.preset_name}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that can start: its resolved configuration and all it was given, loaded and checked."""

    config: Config
    launch: Launch
    schedule: Schedule
    device: torch.device
    task: Task
    teacher: LoadedTeacher
    student: nn.Module
    inherited: Inheritance
    """The shares of its first weights that are the teacher's."""
    automatic: tuple[str, ...]
    """Keys that were "auto" and now have a value that suits this student and machine: others may need another."""
    evaluation_data: LabelledImages | None
    footprint: Footprint
    stored: BufferContents | None
    """The buffer that `distill` starts from."""
    class_names: tuple[str, ...] | None
    """Names of the classes, where a data set or a buffer knows them."""
    warnings: tuple[str, ...]

    def buffer_meta(self) -> BufferMeta:
        """What the buffer's file says of its samples."""
        config = self.config
        return BufferMeta(
            task=config.task.kind,
            num_classes=config.task.num_classes,
            class_names=self.class_names,
            mean=config.task.mean,
            std=config.task.std,
            capacity=config.buffer.capacity,
            alpha=config.distillation.alpha if config.distillation.sampling == "priority" else 0.0,
            epsilon=config.distillation.epsilon,
            teacher_sha256=self.teacher.sha256,
        )

    def describe(self) -> dict[str, Any]:
        """What is going to happen, for people and for `--dry-run`."""
        config, learns = self.config, "distillation" in self.schedule.stages
        augmentation = config.task.model_dump(include={"crop_padding", "horizontal_flip"})
        label = RunDirectory.label(self.launch.run_name, "<time>", seed=self.launch.seed_in_name)
        return {
            "command": self.launch.command,
            "preset": self.launch.preset_name,
            "stages": list(self.schedule.stages),
            "epochs": self.schedule.epochs,
            "warmup_epochs": self.schedule.warmup_epochs,
            "images_to_synthesize": self.footprint.num_images,
            "student_updates": self.schedule.distillation_epochs * config.num_distillation_steps if learns else 0,
            "teacher": config.teacher.model,
            "teacher_file": str(self.teacher.path),
            "teacher_parameters": num_parameters(self.teacher.model),
            "student": config.student.model,
            "student_parameters": num_parameters(self.student),
            "generator_parameters": self.footprint.generator_parameters or None,
            "student_start": first_weights.told(self.inherited),
            "learning_rate": config.distillation.lr if learns else None,
            "augmentation": augmentation if learns or "inversion" in self.schedule.stages else None,
            "device": str(self.device),
            "precision": config.run.precision,
            "acceleration": resolve_acceleration(config.run.acceleration, self.device),
            "threads": config.run.threads,
            "evaluation_data": None if self.evaluation_data is None else self.evaluation_data.name,
            "images_set_aside": None if self.stored is None else config.evaluation.num_holdout,
            "buffer_mib": self.footprint.buffer_mib,
            "disk_mib": self.footprint.disk_mib,
            "run_directory": str(self.launch.out or RUNS_ROOT / label),
        }


@out_of_memory_is_told()
def plan(
    config: Config, launch: Launch, *, is_resumption: bool = False, training_progress: Progress = lambda *_: None
) -> Plan:
    """Check everything and load it; with `launch.train_teacher` a missing teacher is trained, last of all.

    Raises ConfigError, FileError or MachineError; leaves nothing behind but that teacher.
    """
    keep_heap_warm()
    schedule = Schedule.of(launch.command, config)
    device = resolve_device(config.run.device)
    prepare_device(device)
    wanted, config = config, resolution.resolved(config, device, schedule)
    if not is_resumption:
        refuse_futile(config, schedule, has_buffer=launch.buffer is not None)
        _refuse_place(launch)
    torch.set_num_threads(int(config.run.threads))
    data, warnings = _evaluation_data(config, launch, schedule)
    warnings += resolution.warnings_of(wanted, config, device, schedule, is_resumption=is_resumption)
    task = task_of(config.task)
    stored = None if launch.buffer is None else stored_buffer.read(config, launch.buffer)
    student = _untaught_student(config, schedule)
    num_stored = 0 if stored is None else len(stored)
    footprint = footprint_of(config, schedule, task=task, student=student, num_stored=num_stored)
    _refuse_too_large(footprint, launch, device, is_resumption=is_resumption)
    teacher = _teacher(config, launch, schedule, device, student, training_progress)  # it may take hours of training
    automatic = resolution.automatic_keys(wanted)
    config, student, inherited, suitable = _fitted_to_teacher(config, schedule, student, teacher.model)
    automatic += suitable
    warnings += first_weights.warnings_of(config, inherited)
    if "distillation" in schedule.stages:
        warnings += _warnings_of_size(config, student, teacher.model)
    if stored is not None and launch.buffer is not None:
        warnings += stored_buffer.warnings_of(stored, config, path=launch.buffer, teacher_sha256=teacher.sha256)
    return Plan(
        config=resolution.anchored(config, teacher.path),
        launch=launch,
        schedule=schedule,
        device=device,
        task=task,
        teacher=teacher,
        student=student,
        inherited=inherited,
        automatic=tuple(automatic),
        evaluation_data=data,
        footprint=footprint,
        stored=stored,
        class_names=_class_names(data, stored),
        warnings=(*warnings_of(wanted, schedule), *teacher.warnings, *warnings),
    )


def _refuse_place(launch: Launch) -> None:
    if launch.out is not None:
        RunDirectory.refuse_used(launch.out)
    else:
        RunDirectory.refuse_unwritable(RUNS_ROOT)


def _untaught_student(config: Config, schedule: Schedule) -> nn.Module:
    """The student with weights drawn by the run's seed, known to train where it is to learn."""
    torch.manual_seed(derived_seed(config.run.seed, "student"))
    student = build_model(config.student.model, task=config.task, where="student.model")
    if "distillation" in schedule.stages:
        batch_size = config.distillation.batch_size
        check_in_training(student, config.student.model, task=config.task, where="student.model", batch_size=batch_size)
    return student


def _refuse_too_large(footprint: Footprint, launch: Launch, device: torch.device, *, is_resumption: bool) -> None:
    """Raise MachineError or FileError where memory or disk cannot hold the run; when it goes on, less is written."""
    fewer = "lower buffer.capacity or distillation.views, or use a machine with more"
    check_memory(footprint, device, hint="go on on a machine with more" if is_resumption else fewer)
    if not is_resumption:
        hint = "free some space, or start with another --out or a lower buffer.capacity"
        check_disk(footprint.disk_bytes, launch.out, hint=hint)


def _teacher(
    config: Config,
    launch: Launch,
    schedule: Schedule,
    device: torch.device,
    student: nn.Module,
    training_progress: Progress,
) -> LoadedTeacher:
    """The teacher at hand, or one trained now; where nothing is to be left behind, one that has learned nothing yet."""
    if _trains_teacher(config, launch):
        _fitted_to_teacher(config, schedule, student, untrained_teacher(config))  # what does not fit is refused before
        if launch.is_dry_run:
            return teacher_to_train(config, device)
        ensure_teacher(config, device, training_progress)
    return load_teacher(config, device, is_inverted="inversion" in schedule.stages)


def _trains_teacher(config: Config, launch: Launch) -> bool:
    return launch.train_teacher and must_train(config)


def _warnings_of_size(config: Config, student: nn.Module, teacher: nn.Module) -> tuple[str, ...]:
    name, side = config.student.model, max(config.task.image_shape[1:])
    doubts = []
    if side >= _LARGE_IMAGE and any(spec.match(name) is not None for spec in FOR_SMALL_IMAGES):
        doubts.append(
            f"the student `{name}` is made for images of some 32 pixels and multiplies {(side / 32) ** 2:.0f} times as"
            f" much with {side}: torchvision's networks (`torchvision:resnet18`, for example) make them smaller sooner"
        )
    if num_parameters(student) > num_parameters(teacher):
        doubts.append(
            f"the student `{name}` is larger than the teacher `{config.teacher.model}`:"
            f" {num_parameters(student):,} parameters for {num_parameters(teacher):,}"
        )
    return tuple(doubts)


def _class_names(data: LabelledImages | None, stored: BufferContents | None) -> tuple[str, ...] | None:
    if data is not None and data.class_names is not None:
        return data.class_names
    return None if stored is None else stored.meta.class_names


def _fitted_to_teacher(
    config: Config, schedule: Schedule, student: nn.Module, teacher: nn.Module
) -> tuple[Config, nn.Module, Inheritance, dict[str, Any]]:
    """The settings with the values that suit the student's first weights in place of "auto", the student as it starts,
    what of it is the teacher's, and these values.

    Raises ConfigError where they do not go with the others, or nothing of the loss is left with this teacher.
    """
    refuse_without_loss(config, schedule, num_batch_norms=len(bn_layers_that_run(teacher, config.task.image_shape)))
    student, inherited = first_weights.with_first_weights(config, student, teacher)
    suitable = first_weights.suitable_values(config, inherited) if "distillation" in schedule.stages else {}
    return with_values(config, suitable, place="auto"), student, inherited, suitable


def _evaluation_data(
    config: Config, launch: Launch, schedule: Schedule
) -> tuple[LabelledImages | None, tuple[str, ...]]:
    if "evaluation" not in schedule.stages or config.evaluation.data == NO_DATA:
        return None, ()
    only_asks = launch.is_dry_run and config.evaluation.download
    try:
        data = real_images(with_values(config, {"evaluation.download": False}) if only_asks else config)
    except (FileError, MachineError) as error:
        if only_asks and isinstance(error, NotDownloadedError):
            return None, ("the real images are not here yet: the run would download them first",)
        if launch.evaluation_named:
            raise
        warning = f"the student will not be measured on real data: {error.message}"
        return None, (f"{warning} ({error.hint})" if error.hint else warning,)
    if data.split in (UNSPLIT, TRAINING_SPLIT) and _trains_teacher(config, launch):
        return data, ("student and teacher will be measured on the images that the teacher is trained on",)
    return data, ()
