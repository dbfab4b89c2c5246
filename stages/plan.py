"""Everything that can be known before the first step, read and checked before it; nothing is written here."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stages.buffer.file import BufferContents, BufferMeta, read_buffer
from stages.buffer.replay_buffer import ReplayBuffer
from stages.buffer.stored import insert_stored_rows
from stages.config import Config, with_values
from stages.cuda_graph import CudaTape, can_record
from stages.data.dataset import LabelledImages, real_images
from stages.device import (
    can_compile_for_cpu,
    out_of_memory_is_told,
    prepare_device,
    resolve_acceleration,
    resolve_device,
    resolve_precision,
    resolve_threads,
)
from stages.errors import ConfigError, FileError, MachineError
from stages.evaluation.config import NO_DATA
from stages.heap import keep_heap_warm
from stages.inversion.overlap import can_overlap_on_cpu
from stages.models.build import build_generator, build_model, check_in_training
from stages.models.normalized import NormalizedModel
from stages.models.weight_selection import NOTHING, Inheritance, select_weights
from stages.paths import typed_path
from stages.run import Run, derived_seed
from stages.run_directory import RUNS_ROOT, RunDirectory
from stages.schedule import Command, Schedule
from stages.scoring import score
from stages.tasks.task import Task, task_of
from stages.teachers.load import LoadedTeacher, load_teacher
from stages.teachers.obtain import ensure_teacher, must_train, teacher_to_train
from stages.teachers.resolve import AUTO
from stages.teachers.train import Progress

_OTHER_FILES_BYTES = 2**25
"""Events, pictures, the hold-out."""
_FACT_BYTES = 40
"""What the buffer keeps beside each image."""
_VIEW_BYTES = 5
"""What a cached view is kept as, without the logits."""
_MIXED_VIEW_BYTES = 38
"""The same where views are mixed in pairs."""
_PIXELS_WORTH_COMPILING = 2.5e8
"""Pixels that training steps see, from which on a run is compiled. With ResNet-32 and ResNet-20 on two cores a million
take a third of a second less, and compiling takes a minute and a half (benchmarks/LOG.md)."""
_MOST_WEIGHTS = 0.5
"""Share of the student's first weights from which on they can be called the teacher's."""


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
    device: str = "auto"
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
    """Keys that were "auto" and now have a value that suits this student and device: others may need another."""
    evaluation_data: LabelledImages | None
    generator_bytes: int
    """Size of the generator's weights; 0 where no images are made."""
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
            alpha=config.distillation.alpha,
            epsilon=config.distillation.epsilon,
            teacher_sha256=self.teacher.sha256,
        )

    @property
    def num_images(self) -> int:
        """Images that the run makes, the hold-out not counted."""
        return self.schedule.total_calls * self.config.inversion.batch_size

    @property
    def num_buffered(self) -> int:
        """Images that the buffer will hold at most."""
        num_stored = 0 if self.stored is None else len(self.stored)
        return min(self.config.buffer.capacity, max(self.num_images, num_stored))

    @property
    def buffer_bytes(self) -> int:
        """Size of the full buffer, with the cached views of its images."""
        view_bytes = 0
        if "distillation" in self.schedule.stages:
            logit_bytes = 2 if self.config.run.precision == "bf16" else 4
            num_labels = math.prod(self.task.label_shape(self.config.task.image_shape))
            num_logits = self.config.task.num_classes * num_labels
            look_bytes = _VIEW_BYTES if self.config.distillation.mix == "none" else _MIXED_VIEW_BYTES
            view_bytes = self.config.distillation.views * (look_bytes + logit_bytes * num_logits)
        return self.num_buffered * (_num_pixels(self.config) + _FACT_BYTES + view_bytes)

    def disk_bytes(self) -> int:
        """Disk that the run needs at its fullest: two checkpoints and one being written, buffer file and weights twice.

        A checkpoint has the buffer, the student with its momenta and its average, the generator with both of Adam's.
        """
        student = sum(parameter.numel() * 4 for parameter in self.student.parameters())
        checkpoint = self.buffer_bytes + 3 * student + 3 * self.generator_bytes + self._ahead_bytes
        return 3 * checkpoint + 2 * self.buffer_bytes + 3 * student + _OTHER_FILES_BYTES

    @property
    def _ahead_bytes(self) -> int:
        """Size of the images that are made for the next epoch before this one is over."""
        if not _overlaps(self.config, self.schedule):
            return 0
        return 4 * self.config.inversion.calls * self.config.inversion.batch_size * _num_pixels(self.config)

    def describe(self) -> dict[str, Any]:
        """What is going to happen, for people and for `--dry-run`."""
        config, learns = self.config, "distillation" in self.schedule.stages
        return {
            "command": self.launch.command,
            "preset": self.launch.preset_name,
            "stages": list(self.schedule.stages),
            "epochs": self.schedule.epochs,
            "warmup_epochs": self.schedule.warmup_epochs,
            "images_to_synthesize": self.num_images,
            "student_updates": self.schedule.distillation_epochs * config.num_distillation_steps,
            "teacher": config.teacher.model,
            "teacher_file": str(self.teacher.path),
            "student": config.student.model,
            "student_start": _start_told(self.inherited),
            "learning_rate": config.distillation.lr if learns else None,
            "augmentation": config.task.model_dump(include={"crop_padding", "horizontal_flip"}) if learns else None,
            "device": str(self.device),
            "precision": config.run.precision,
            "acceleration": resolve_acceleration(config.run.acceleration, self.device),
            "threads": config.run.threads,
            "evaluation_data": None if self.evaluation_data is None else self.evaluation_data.name,
            "images_set_aside": 0 if self.stored is None else config.evaluation.num_holdout,
            "buffer_mib": round(self.buffer_bytes / 2**20, 1),
            "disk_mib": round(self.disk_bytes() / 2**20, 1),
            "run_directory": str(self.launch.out) if self.launch.out else f"runs/{self.launch.run_name}-<time>",
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
    device = resolve_device(launch.device if launch.device != "auto" else config.run.device)
    prepare_device(device)
    wanted, config = config, _resolved(config, device, schedule)
    if not is_resumption:
        _check_stages(schedule, launch)
        if launch.out is not None:
            RunDirectory.refuse_used(launch.out)
        else:
            RunDirectory.refuse_unwritable(RUNS_ROOT)
    torch.set_num_threads(int(config.run.threads))
    data, warnings = _evaluation_data(config, launch, schedule)
    if is_resumption and config.run.acceleration == "compile" and device.type == "cpu" and not can_compile_for_cpu():
        warnings += ("the run was compiled and this machine has no compiler for it: it goes on, not to the bit",)
    if (wanted.run.acceleration, config.run.acceleration) == ("graphs", "eager"):
        warnings += (f"run.acceleration is graphs, which {device} and this torch have none of: steps run eagerly",)
    stored = None if launch.buffer is None else _stored_buffer(config, launch.buffer)
    task = task_of(config.task)
    torch.manual_seed(derived_seed(config.run.seed, "student"))
    student = build_model(config.student.model, task=config.task, where="student.model")
    if "distillation" in schedule.stages:
        check_in_training(student, config.student.model, task=config.task, where="student.model")
    if launch.train_teacher and launch.is_dry_run and must_train(config):
        teacher = teacher_to_train(config, device)
    else:
        if launch.train_teacher:
            ensure_teacher(config, device, training_progress)
        teacher = load_teacher(config, device, is_inverted="inversion" in schedule.stages)
    student, inherited = _with_first_weights(config, student, teacher.model)
    automatic = ["run.acceleration"] if wanted.run.acceleration == AUTO else []
    if "distillation" in schedule.stages:
        suitable = _suitable_values(config, inherited)
        config = with_values(config, suitable, place="auto")
        automatic += suitable
    if config.student.start == "teacher" and inherited.share < _MOST_WEIGHTS:
        share = f"{inherited.share:.1%}"
        warnings += (f"student.start is teacher, and only {share} of the student's weights have a counterpart",)
    if _overlaps(config, schedule) and device.type == "cpu":
        warnings += _overlap_warnings(config)
    if stored is not None:
        warnings += _stored_warnings(stored, config, launch, teacher)
    names = data.class_names if data is not None else None if stored is None else stored.meta.class_names
    planned = Plan(
        config=_anchored(config),
        launch=launch,
        schedule=schedule,
        device=device,
        task=task,
        teacher=teacher,
        student=student,
        inherited=inherited,
        automatic=tuple(automatic),
        evaluation_data=data,
        generator_bytes=_generator_bytes(config) if "inversion" in schedule.stages else 0,
        stored=stored,
        class_names=names,
        warnings=(*config.warnings, *teacher.warnings, *warnings),
    )
    if not is_resumption:
        _check_disk(planned)
    return planned


def build_run(planned: Plan) -> Run:
    """The state that the stages share, on the device, at its beginning."""
    config, device = planned.config, planned.device
    run = Run(
        config=config,
        schedule=planned.schedule,
        task=planned.task,
        device=device,
        precision=config.run.precision,
        tape=CudaTape(device) if config.run.acceleration != "eager" and can_record(device) else None,
        teacher=NormalizedModel.on(device, planned.teacher.model, config.task).eval().requires_grad_(False),
        student=NormalizedModel.on(device, copy.deepcopy(planned.student), config.task),
        buffer=ReplayBuffer(
            config.buffer,
            image_shape=config.task.image_shape,
            label_shape=planned.task.label_shape(config.task.image_shape),
            num_classes=config.task.num_classes,
            device=device,
            num_expected=planned.num_buffered,
        ),
        class_names=planned.class_names,
        evaluation_data=planned.evaluation_data,
    )
    if planned.stored is not None:
        _fill_from_file(
            run, planned.stored, is_same_teacher=planned.stored.meta.teacher_sha256 == planned.teacher.sha256
        )
    return run


def _resolved(config: Config, device: torch.device, schedule: Schedule) -> Config:
    """The configuration with everything that depends on the machine written out, so that it repeats the run."""
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


def _is_worth_compiling(config: Config, schedule: Schedule) -> bool:
    """Whether a run on a CPU is so long that the time its compiler takes is won back."""
    if _overlaps(config, schedule) and can_overlap_on_cpu("eager", resolve_threads(config.run.threads)):
        return False  # what is compiled takes all threads, and leaves none for the other stage
    num_images = schedule.total_calls * config.inversion.steps * config.inversion.batch_size
    if "distillation" in schedule.stages:
        updates = schedule.distillation_epochs * config.num_distillation_steps
        num_images += updates * config.distillation.batch_size
    return num_images * math.prod(config.task.image_shape[1:]) >= _PIXELS_WORTH_COMPILING


def _overlaps(config: Config, schedule: Schedule) -> bool:
    """Whether images are to be made while a student learns."""
    return config.inversion.overlap and {"inversion", "distillation"} <= set(schedule.stages)


def _anchored(config: Config) -> Config:
    """The configuration with its paths made absolute, so that the run can be resumed and repeated from any folder."""
    paths = {"student.model": _anchored_model(config.student.model)}
    if config.teacher.weights != AUTO:  # the name of a cached teacher has that of its model in it, as it was given
        paths["teacher.model"] = _anchored_model(config.teacher.model)
        paths["teacher.weights"] = str(typed_path(config.teacher.weights).absolute())
    if config.evaluation.root is not None:
        paths["evaluation.root"] = str(typed_path(config.evaluation.root).absolute())
    return with_values(config, paths)


def _anchored_model(name: str) -> str:
    file, suffix, factory = name.rpartition(".py:")
    return f"{typed_path(file).absolute()}{suffix}{factory}" if suffix else name


def _evaluation_data(
    config: Config, launch: Launch, schedule: Schedule
) -> tuple[LabelledImages | None, tuple[str, ...]]:
    if "evaluation" not in schedule.stages or config.evaluation.data == NO_DATA:
        return None, ()
    try:
        data = real_images(config)
    except FileError as error:
        if launch.evaluation_named:
            raise
        warning = f"the student will not be measured on real data: {error.message}"
        return None, (f"{warning} ({error.hint})" if error.hint else warning,)
    return data, ()


def _check_stages(schedule: Schedule, launch: Launch) -> None:
    """Raise ConfigError where nothing would come out of the stages: no one fills the buffer first, or no one learns."""
    idle = {"evaluation"} if launch.buffer is not None else {"evaluation", "distillation"}
    if set(schedule.stages) <= idle:
        raise ConfigError(
            f"nothing to do for `ssdkd {launch.command}`: of `run.stages` it has {list(schedule.stages)}"
            + ("" if launch.buffer is not None else ", and nothing that fills the buffer"),
            hint='`run.stages` is ["inversion", "distillation", "evaluation"] unless a preset changes it',
        )
    if {"inversion", "distillation"} <= set(schedule.stages) and schedule.warmup_epochs == 0:
        raise ConfigError(
            "`run.warmup_epochs` is 0: the hold-out is made at the end of warm-up, and the buffer looked at",
            hint="set it to 1 or more; the default is 20",
        )


def _stored_buffer(config: Config, path: Path) -> BufferContents:
    """The rows of the file that `distill` starts from, known to fit the task and to leave some to learn from."""
    rows = read_buffer(path)
    found = (rows.meta.task, list(rows.images.shape[1:]), rows.meta.num_classes)
    expected = (config.task.kind, list(config.task.image_shape), config.task.num_classes)
    if found != expected:
        raise FileError(
            f"{path} is for {found[0]}, images {found[1]} of {found[2]} classes;"
            f" the preset is for {expected[0]}, {expected[1]} of {expected[2]}",
            hint="name the preset that the buffer was made with (`--preset RUN/config.toml`)",
        )
    if len(rows) == 0:
        raise FileError(f"{path} holds no images", hint="`ssdkd invert` fills a buffer")
    num_holdout = config.evaluation.num_holdout
    if num_holdout >= len(rows):
        raise ConfigError(
            f"{path} has {len(rows)} images, evaluation.num_holdout would set {num_holdout} of them aside",
            hint=f"--set evaluation.num_holdout={len(rows) // 10}",
        )
    return rows


def _overlap_warnings(config: Config) -> tuple[str, ...]:
    if can_overlap_on_cpu(config.run.acceleration, int(config.run.threads)):
        return ()
    reason = "run.threads is 1" if config.run.acceleration != "compile" else "what is compiled takes all threads"
    return (f"inversion.overlap saves no time on this CPU: {reason}",)


def _stored_warnings(rows: BufferContents, config: Config, launch: Launch, teacher: LoadedTeacher) -> tuple[str, ...]:
    warnings = []
    if rows.meta.teacher_sha256 != teacher.sha256:
        warnings.append(
            f"{launch.buffer} was made from another teacher: classes, probabilities and priorities are computed anew"
        )
    num_left = len(rows) - config.evaluation.num_holdout
    if num_left > config.buffer.capacity:
        warnings.append(
            f"of {num_left} images in {launch.buffer} the newest {config.buffer.capacity} are used (buffer.capacity)"
        )
    return tuple(warnings)


def _fill_from_file(run: Run, rows: BufferContents, *, is_same_teacher: bool) -> None:
    """Set the hold-out aside, drawn at random, and put the rest into the buffer."""
    rng = torch.Generator().manual_seed(derived_seed(run.config.run.seed, "holdout"))
    is_held_out = np.zeros(len(rows), dtype=bool)
    is_held_out[torch.randperm(len(rows), generator=rng)[: run.config.evaluation.num_holdout].numpy()] = True
    if is_held_out.any():
        run.holdout_NCHW = torch.from_numpy(rows.images[is_held_out]).to(run.device)
    insert_stored_rows(run.buffer, rows, np.flatnonzero(~is_held_out))
    if is_same_teacher:
        return
    scores = score(run, run.buffer.column("images"), batch_size=run.config.evaluation.batch_size)
    run.buffer.column("teacher_class").copy_(scores.teacher_class_N)
    run.buffer.column("teacher_prob").copy_(scores.teacher_prob_N)
    run.buffer.column("priority").copy_(scores.divergence_N)


def _with_first_weights(config: Config, student: nn.Module, teacher: nn.Module) -> tuple[nn.Module, Inheritance]:
    """The student as it starts, and which shares of its weights are the teacher's."""
    start = config.student.start
    if start == "random":
        return student, NOTHING
    heir = copy.deepcopy(student)
    inherited = select_weights(heir, teacher)
    if inherited.share == 0 and start == "teacher":
        raise ConfigError(
            f'`student.start` is "teacher", and nothing in `{config.student.model}` has a counterpart in the teacher,'
            f" `{config.teacher.model}`",
            hint='name a student of the teacher\'s family, or set `student.start` to "random"',
        )
    return (student, NOTHING) if start == AUTO and inherited.share < _MOST_WEIGHTS else (heir, inherited)


def _suitable_values(config: Config, inherited: Inheritance) -> dict[str, Any]:
    """What "auto" stands for where it depends on the student's first weights."""
    values: dict[str, Any] = {}
    if config.student.start == AUTO:
        values["student.start"] = "teacher" if inherited.share > 0 else "random"
    if config.distillation.lr == AUTO:
        values["distillation.lr"] = config.distillation.learning_rate(whole_share=inherited.whole)
    return values


def _start_told(inherited: Inheritance) -> str:
    return f"{inherited.share:.1%} the teacher's weights" if inherited.share > 0 else "random weights"


def _generator_bytes(config: Config) -> int:
    inversion = config.inversion
    generator = build_generator(
        inversion.generator, latent_dim=inversion.latent_dim, image_shape=config.task.image_shape
    )
    return sum(parameter.numel() * parameter.element_size() for parameter in generator.parameters())


def _num_pixels(config: Config) -> int:
    channels, height, width = config.task.image_shape
    return channels * height * width


def _check_disk(planned: Plan) -> None:
    folder = (planned.launch.out or RUNS_ROOT).absolute()
    while not folder.exists():
        folder = folder.parent
    free_bytes, needed_bytes = shutil.disk_usage(folder).free, planned.disk_bytes()
    if free_bytes < needed_bytes:
        raise MachineError(
            f"not enough disk at {folder}: {free_bytes / 2**20:.0f} MiB free,"
            f" the run needs {needed_bytes / 2**20:.0f} MiB",
            hint="free some space, choose another --out, or lower buffer.capacity",
        )
