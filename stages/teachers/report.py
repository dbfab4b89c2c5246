"""What a teacher is and, with data at hand, how good: what `ssdkd teacher check` tells."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stages.config import Config
from stages.data.dataset import LabelledImages, real_images
from stages.errors import FileError, MachineError
from stages.evaluation.config import NO_DATA
from stages.evaluation.measure import doubt, measure
from stages.machine.device import MEASURING_HINT, out_of_memory_is_told, prepare_device, threads_to_measure
from stages.models.layers import bn_layers_that_run, num_parameters
from stages.models.normalized import NormalizedModel
from stages.tasks.task import task_of
from stages.teachers.load import LoadedTeacher, load_teacher


@dataclass(frozen=True, kw_only=True)
class TeacherReport:
    """A loaded teacher, its parts and its accuracy."""

    teacher: LoadedTeacher
    num_parameters: int

    layers: dict[str, int]
    """How many layers with weights of each kind it has, the most frequent first."""

    num_batch_norms: int
    """Layers whose running statistics L_BN (Eq. 1) goes by: those that run in eval mode."""

    images: LabelledImages | None
    """What it was measured on; None where there is no data, or it is missing."""

    metrics: dict[str, Any] | None
    """The task's metrics on these images."""

    missing: str | None
    """Why there are none, where the settings name some."""

    doubt: str | None
    """Why the metrics look like those of a teacher that is not what the settings say."""


@out_of_memory_is_told(MEASURING_HINT)
def report_teacher(config: Config, device: torch.device, *, must_measure: bool = False) -> TeacherReport:
    """Load the teacher as a run would, and look at it.

    Raises FileError where its file is missing or does not fit, and where `must_measure` and the data is missing.
    """
    torch.set_num_threads(threads_to_measure(config.run.threads))
    prepare_device(device)
    teacher = load_teacher(config, device)
    images = missing = metrics = None
    try:
        images = None if config.evaluation.data == NO_DATA else real_images(config)
    except (FileError, MachineError) as error:
        if must_measure:
            raise
        missing = error.message
    if images is not None:
        network = NormalizedModel.on(device, teacher.model, config.task)
        size = config.evaluation.batch_size
        metrics = measure(network, images, task_of(config.task), batch_size=size)
    return TeacherReport(
        teacher=teacher,
        num_parameters=num_parameters(teacher.model),
        layers=_count_layers(teacher.model),
        num_batch_norms=len(bn_layers_that_run(teacher.model, config.task.image_shape)),
        images=images,
        metrics=metrics,
        missing=missing,
        doubt=None if metrics is None else doubt(metrics, num_classes=config.task.num_classes),
    )


def _count_layers(model: nn.Module) -> dict[str, int]:
    kinds = (
        type(module).__name__
        for module in model.modules()
        if module is not model and any(True for _ in module.parameters(recurse=False))
    )
    return dict(Counter(kinds).most_common())
