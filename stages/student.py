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

_FRAMES_OF_A_CALL = 6
"""From here back to whoever calls the module: the warning names their line."""


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
    student = student_from(weights, config, torch.device("cpu"))
    student.register_forward_hook(_FirstLook())
    return student


class _FirstLook:
    """Warns of first images that are normalised already, or bytes as floats: their logits are plausible, and wrong."""

    def __init__(self) -> None:
        self._is_over = False

    def __call__(self, _student: nn.Module, inputs: tuple[Tensor, ...], _logits_BK: Tensor) -> None:
        if self._is_over or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return
        self._is_over = True
        for images_BCHW in inputs:
            if images_BCHW.is_floating_point() and images_BCHW.numel() > 0:
                _warn_of_other_scales(images_BCHW)


def _warn_of_other_scales(images_BCHW: Tensor) -> None:
    low, high = (float(value) for value in images_BCHW.aminmax())
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        way_out = "leave the normalisation to it" if low < -_OVERSHOOT else "divide them by 255, or give it uint8"
        warnings.warn(
            f"these images are from {low:.3g} to {high:.3g}, and a student takes them from 0 to 1: {way_out}",
            stacklevel=_FRAMES_OF_A_CALL,
        )


def student_from(
    weights: Path, config: Config, device: torch.device, *, warn: Callable[[str], object] = lambda _: None
) -> NormalizedModel:
    """The student that a preset names, with weights from a file in any public layout, in eval mode on the device.

    `warn` is told of other weights for it in the file.
    """
    model = build_model(config.student.model, task=config.task, where="student.model")
    for warning in warnings_of_others(weights, load_weights(model, weights)):
        warn(warning)
    return NormalizedModel.on(device, model, config.task).eval().requires_grad_(False)
