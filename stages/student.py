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

_FRAMES_OF_A_CALL = 5
"""From `_warn_of_other_scales` back to whoever calls the module: the warning names their line."""


class LoadedStudent(NormalizedModel):
    """A student that looks at the first images it gets, and warns of a scale that makes its logits plausible and wrong:
    of images that are normalised already, and of bytes as floats.
    """

    _has_looked = False

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of the images."""
        if not self._has_looked and not torch.compiler.is_compiling() and not _is_traced(images_BCHW):
            self._has_looked = True
            _warn_of_other_scales(images_BCHW)
        return super().forward(images_BCHW)


def _is_traced(images_BCHW: Tensor) -> bool:
    """Whether this is no image to look at, but what stands for one where a network is looked at."""
    is_plain = type(images_BCHW) in (Tensor, nn.Parameter) and not images_BCHW.is_meta
    return not is_plain or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _warn_of_other_scales(images_BCHW: Tensor) -> None:
    if not images_BCHW.is_floating_point() or images_BCHW.numel() == 0:
        return
    low, high = (value.item() for value in images_BCHW.detach().float().aminmax())
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return
    is_in_bytes = high > _LARGEST_NORMALIZED
    way_out = "divide them by 255, or give it uint8" if is_in_bytes else "leave the normalisation to it"
    warnings.warn(
        f"these images are from {low:.3g} to {high:.3g}, and a student takes them from 0 to 1: {way_out}",
        stacklevel=_FRAMES_OF_A_CALL,
    )


def load_student(run: str | Path) -> NormalizedModel:
    """The student of a run, by its path or its name in ./runs: on the CPU, in eval mode, with its normalisation.

    It maps images [B, C, H, W], float in [0, 1] or uint8, to logits [B, K]; its attribute `model` is the network alone.
    Images of other types or numbers of channels are refused with TypeError or ValueError. Warns, as Python does, where
    the file of yours that makes the network has changed since the run, and where the first images that it gets are not
    in [0, 1].
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
    return LoadedStudent.on(device, model, config.task).eval().requires_grad_(False)
