"""A finished student, for those who want to use it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.config import Config, from_file
from stages.models.build import build_model
from stages.models.normalized import NormalizedModel
from stages.models.weights import load_weights, warnings_of_others
from stages.own_code import doubts_of_code
from stages.run_directory.lookup import resolve_run
from stages.run_directory.overview import is_as_begun

_OVERSHOOT = 0.5
"""How far outside of [0, 1] a pixel may be: resizing overshoots by less, other scales by more."""

_LARGEST_NORMALIZED = 20.0
"""What is larger was not normalised: it counts from 0 to 255."""

_OTHER_SIZE = 1.5
"""How many times as large as those it learned from images may be, or as small: 288 in place of 224 pixels is usual."""

_FRAMES_OF_A_CALL = 5
"""From `_doubts` of images back to whoever calls the module: the warning names their line."""


class LoadedStudent(NormalizedModel):
    """A student that looks at the first images it gets, and warns of what makes its logits plausible and wrong: of
    images that are normalised already, of bytes as floats, and of a size that it has never seen.
    """

    learned_from: tuple[int, int] | None = None
    """Height and width of the images that it learned from [pixels]; None: any size will do."""
    _has_looked = False

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of the images."""
        if not self._has_looked and not torch.compiler.is_compiling() and not _is_traced(images_BCHW):
            self._has_looked = True
            self._look_at(images_BCHW)
        return super().forward(images_BCHW)

    def _look_at(self, images_BCHW: Tensor) -> None:
        for doubt in (_of_scale(images_BCHW), _of_size(images_BCHW, self.learned_from)):
            if doubt is not None:
                warnings.warn(doubt, stacklevel=_FRAMES_OF_A_CALL)


def _is_traced(images_BCHW: Tensor) -> bool:
    """Whether this is no image to look at, but what stands for one where a network is looked at."""
    is_plain = type(images_BCHW) in (Tensor, nn.Parameter) and not images_BCHW.is_meta
    return not is_plain or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _of_scale(images_BCHW: Tensor) -> str | None:
    if not images_BCHW.is_floating_point() or images_BCHW.numel() == 0:
        return None
    low, high = (value.item() for value in images_BCHW.detach().float().aminmax())
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return None
    is_in_bytes = high > _LARGEST_NORMALIZED
    way_out = "divide them by 255, or give it uint8" if is_in_bytes else "leave the normalisation to it"
    return f"these images are from {low:.3g} to {high:.3g}, and a student takes them from 0 to 1: {way_out}"


def _of_size(images_BCHW: Tensor, learned_from: tuple[int, int] | None) -> str | None:
    if learned_from is None or images_BCHW.ndim != 4:
        return None
    sides = tuple(images_BCHW.shape[2:])
    if all(own / _OTHER_SIZE <= side <= own * _OTHER_SIZE for side, own in zip(sides, learned_from, strict=True)):
        return None
    given, learned = (f"{height} x {width}" for height, width in (sides, learned_from))
    return f"these images are of {given} pixels, and the student learned from {learned}: scale them to that"


def load_student(run: str | Path) -> NormalizedModel:
    """The student of a run, by its path or its name in ./runs: on the CPU, in eval mode, with its normalisation.

    It maps images [B, C, H, W], float in [0, 1] or uint8, to logits [B, K]; its attribute `model` is the network alone.
    Images of other types or numbers of channels are refused with TypeError or ValueError. Warns, as Python does, where
    the file of yours that makes the network has changed since the run, and where the first images that it gets are not
    in [0, 1] or far from the size that it learned from.
    Raises FileError where there is no such run, or it has no student yet or a damaged one.
    """
    directory = resolve_run(str(run))
    weights = directory.written_student()
    config = from_file(directory.written_settings(), installed_only=is_as_begun(directory))
    for doubt in doubts_of_code(config, directory.manifest(), keys=("student.model",)):
        warnings.warn(doubt, stacklevel=2)
    return student_from(weights, config, torch.device("cpu"))


def student_from(
    weights: Path, config: Config, device: torch.device, *, warn: Callable[[str], object] = lambda _: None
) -> NormalizedModel:
    """The student that a preset names, with weights from a file in any public layout, in eval mode on the device.

    `warn` is told of other weights for it in the file.
    """
    model = build_model(config.student.model, task=config.task, where="student.model")
    for warning in warnings_of_others(weights, load_weights(model, weights)):
        warn(warning)
    student = LoadedStudent.on(device, model, config.task).eval().requires_grad_(False)
    student.learned_from = config.task.image_shape[1:]
    return student
