"""How good a network is: on real, labelled images, or against its teacher on any images. Always in fp32.

Legend: N images, B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.data.dataset import LabelledImages
from stages.divergence import agreement
from stages.errors import ConfigError
from stages.evaluation.calibration import CalibrationError
from stages.machine.device import without_kernel_search
from stages.models.layers import evaluating
from stages.models.normalized import NormalizedModel
from stages.tasks.task import Metrics, Task


@torch.no_grad()
def measure(model: NormalizedModel, data: LabelledImages, task: Task, *, batch_size: int) -> dict[str, Any]:
    """The task's metrics of a network on labelled images: for classification top1, top5, loss, num_samples.

    Raises ConfigError where a task of others' gives no numbers.
    """
    metrics = task.new_metrics()
    with _measuring(model):
        for images_BCHW, labels_B in _batches(data, batch_size, model.device):
            metrics.update(model(images_BCHW), labels_B)
    return _results(metrics, task)


@contextmanager
def _measuring(*models: NormalizedModel) -> Iterator[None]:
    """The networks as they are measured; afterwards as they were."""
    with ExitStack() as stack:
        stack.enter_context(without_kernel_search())  # batches of a size of their own, and the last one of another
        for model in models:
            stack.enter_context(evaluating(model))
        yield


def _batches(data: LabelledImages, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and their labels, on the device."""
    batches = zip(torch.split(data.images_NCHW, batch_size), torch.split(data.labels_N, batch_size), strict=True)
    return ((images_BCHW.to(device), labels_B.to(device)) for images_BCHW, labels_B in batches)


def _results(metrics: Metrics, task: Task) -> dict[str, Any]:
    """The metrics, the one that sums up the others first. Raises ConfigError where a task gives something else."""
    found = metrics.result()
    if task.headline not in found or not all(isinstance(value, int | float) for value in found.values()):
        raise ConfigError(
            f"the task's metrics are {found}: they must be numbers, and `{task.headline}` one of them",
            hint="`stages.api` says what a plugin's task gives",
        )
    return {task.headline: found[task.headline]} | found


DOUBT_HINT = (
    "was it trained on these classes in this order (class folders count in alphabetical order: 0, 1, 10, 2), and do"
    " task.mean and task.std fit it?"
)


def doubt(teacher: Mapping[str, Any], *, num_classes: int) -> str | None:
    """Why a teacher's metrics on real images are not to be trusted: they are hardly better than chance. Else None."""
    top1, chance = teacher.get("top1"), 1 / num_classes
    if top1 is None or top1 > chance + (1 - chance) / 10:
        return None
    return f"the teacher is hardly better than chance on the real images (top-1 {top1:.1%} of {num_classes} classes)"


@dataclass(frozen=True)
class TeacherComparison:
    """What a student's predictions have to do with its teacher's, on any images."""

    agreement: float
    """The share of images on which the two name the same class."""

    agreement_by_chance: float
    """What a student would have that knows nothing and names the class that the teacher names most often."""

    ece: float
    """Expected calibration error: how far the student's confidence, its highest softmax probability, is from the share
    of images on which it names the teacher's class (`stages.evaluation.calibration`)."""


@torch.no_grad()
def compare_with_teacher(
    teacher: NormalizedModel, student: NormalizedModel, images_NCHW: Tensor, task: Task, *, batch_size: int
) -> TeacherComparison:
    """Compare the two on images (uint8 [N, C, H, W], N > 0). In dense tasks the calibration counts pixels."""
    comparing = _Comparing(task, teacher.device)
    with _measuring(teacher, student):
        for batch_BCHW in torch.split(images_NCHW, batch_size):
            images_BCHW = batch_BCHW.to(teacher.device)
            comparing.update(teacher(images_BCHW), student(images_BCHW))
    return comparing.result()


@torch.no_grad()
def measure_with_teacher(
    teacher: NormalizedModel, student: NormalizedModel, data: LabelledImages, task: Task, *, batch_size: int
) -> tuple[dict[str, Any], dict[str, Any], TeacherComparison]:
    """The teacher's metrics, the student's, and their comparison on the same images; each network sees them once."""
    comparing, of_teacher, of_student = _Comparing(task, teacher.device), task.new_metrics(), task.new_metrics()
    with _measuring(teacher, student):
        for images_BCHW, labels_B in _batches(data, batch_size, teacher.device):
            teacher_logits_BK, student_logits_BK = teacher(images_BCHW), student(images_BCHW)
            of_teacher.update(teacher_logits_BK, labels_B)
            of_student.update(student_logits_BK, labels_B)
            comparing.update(teacher_logits_BK, student_logits_BK)
    return _results(of_teacher, task), _results(of_student, task), comparing.result()


class _Comparing:
    """Adds up what `TeacherComparison` says, batch by batch."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self._task = task
        self._num = 0
        self._agree = torch.zeros((), dtype=torch.float64, device=device)
        self._teacher_counts_K = torch.zeros(task.num_classes, dtype=torch.int64, device=device)
        self._calibration = CalibrationError(device)

    def update(self, teacher_logits_BK: Tensor, student_logits_BK: Tensor) -> None:
        """Add a batch."""
        is_same_B = agreement(teacher_logits_BK, student_logits_BK)
        self._num += len(is_same_B)
        self._agree += self._task.per_sample(is_same_B.double()).sum()
        teacher_class_B = teacher_logits_BK.argmax(dim=1)
        self._teacher_counts_K += torch.bincount(teacher_class_B.flatten(), minlength=self._task.num_classes)
        _, confidence_B = self._task.predict(student_logits_BK)
        self._calibration.update(confidence_B, is_same_B)

    def result(self) -> TeacherComparison:
        """Of all batches together; there must be one."""
        by_chance = self._teacher_counts_K.max() / self._teacher_counts_K.sum()
        return TeacherComparison(
            agreement=float(self._agree) / self._num,
            agreement_by_chance=float(by_chance),
            ece=self._calibration.result(),
        )
