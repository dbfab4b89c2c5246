"""Build the teacher, load its weights, and say what the user should know about it.

Everything that can be wrong with a teacher is found here, before the first step of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.config import Config
from stages.errors import ConfigError, FileError
from stages.files.file_digest import sha256_of
from stages.machine.device import is_out_of_memory
from stages.models.build import build_model
from stages.models.layers import bn_layers, bn_layers_that_run
from stages.models.weights import load_weights, warnings_of_others
from stages.teachers.learned_images import LearnedImages, learned_images
from stages.teachers.resolve import teacher_file

_CHANGE_THEIR_INPUT = ("torchvision:googlenet", "torchvision:inception_v3")
"""Networks that torchvision lets change the normalisation of their images where it loads its own weights."""

_NORMALISATION_THERE = 0.5

_HAVE_CIFAR_VARIANTS = ("torchvision:mobilenet_v2", "torchvision:shufflenet_v2_")
"""Networks of torchvision that public code has changed for small images in what leaves no trace in a file: strides."""

_SMALL_IMAGE = 64
_NUM_NOISE_IMAGES = 3

_LITTLE_TASK = 0.1
"""The `inversion.task_weight` that is advised for a teacher without batch-norm (benchmarks/LOG.md)."""

_SUM_TOLERANCE = 1e-3  # of probabilities in bf16, too
_SPREAD_TOLERANCE = 1e-2  # of the logits' standard deviation; less is no matter
_ROUNDING = 1e-5  # of the largest logit, in fp32: kernels for another batch may round otherwise


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher that is ready: frozen, in eval mode, taking normalised images."""

    model: nn.Module
    path: Path
    sha256: str
    """Of the file, 64 hexadecimal digits."""
    warnings: tuple[str, ...]
    learned: LearnedImages | None = None
    """What the images were like that it learned, where that can be told."""


def load_teacher(config: Config, device: torch.device, *, is_inverted: bool = True) -> LoadedTeacher:
    """The teacher of the preset on `device`, known to turn `task.image_shape` into `task.num_classes` logits.

    Where it is to be inverted its warnings say what speaks against that. Raises FileError for weights that are missing,
    damaged or of another network, ConfigError where the preset disagrees with a readable model.
    """
    path = teacher_file(config)
    model = build_model(config.teacher.model, task=config.task, where="teacher.model")
    passed_over = load_weights(model, path)
    model.to(device).eval().requires_grad_(False)
    warnings = (
        warnings_of_others(path, passed_over)
        + _warnings_of_normalisation(config)
        + _warnings_of_strides(config)
        + _check_answer(model, config, path, device)
    )
    learned = learned_images(model, config.task, device)
    doubt = None if learned is None else learned.doubt()
    if doubt is not None:
        warnings += (f"the teacher `{config.teacher.model}` {doubt}",)
    if is_inverted:
        _check_gradient(model, config, device)
        warnings += _warnings_of_inversion(model, config)
    return LoadedTeacher(model, path, sha256_of(path), warnings, learned)


def _warnings_of_normalisation(config: Config) -> tuple[str, ...]:
    name, task = config.teacher.model, config.task
    if name not in _CHANGE_THEIR_INPUT or {*task.mean, *task.std} == {_NORMALISATION_THERE}:
        return ()
    doubt = (
        f"the weights that torchvision publishes for `{name}` want task.mean and task.std to be {_NORMALISATION_THERE}"
        " throughout (there it changes its input by itself, `transform_input`); others what they were trained with"
    )
    return (doubt,)


def _warnings_of_strides(config: Config) -> tuple[str, ...]:
    name = config.teacher.model
    if not name.startswith(_HAVE_CIFAR_VARIANTS) or max(config.task.image_shape[1:]) >= _SMALL_IMAGE:
        return ()
    doubt = (
        f"`{name}` makes images smaller five times, its variants for CIFAR in public code (chenyaofo's, huyvnphan's) do"
        " so less often, and their weights fit it all the same: where yours are of such a variant, name its own code,"
        " `path/to/file.py:factory`"
    )
    return (doubt,)


@torch.no_grad()
def _check_answer(model: nn.Module, config: Config, path: Path, device: torch.device) -> tuple[str, ...]:
    # Once normalised, zeros are the mean image: any teacher has something to say about it.
    logits_1K = model(torch.zeros(1, *config.task.image_shape, device=device))
    if not bool(torch.isfinite(logits_1K).all()):
        raise FileError(
            f"the teacher in {path} answers NaN or infinity to the mean image",
            hint="its weights are damaged (a negative running variance?): take another checkpoint",
        )
    rng = torch.Generator().manual_seed(0)
    noise_BCHW = torch.randn(_NUM_NOISE_IMAGES, *config.task.image_shape, generator=rng).to(device)
    logits_BK = model(noise_BCHW.clone())  # it may change its images in place
    answers = torch.cat([logits_1K, logits_BK])
    if bool((answers == answers[:1]).all()):
        return (f"the teacher `{config.teacher.model}` answers the same to every image: are these trained weights?",)
    doubts = (_doubt_of_probabilities(answers), _doubt_of_chance(model, noise_BCHW, logits_BK))
    return tuple(f"the teacher `{config.teacher.model}` {doubt}" for doubt in doubts if doubt is not None)


def _doubt_of_probabilities(logits_BK: Tensor) -> str | None:
    is_of_one = ((logits_BK[0].sum(dim=0) - 1).abs() < _SUM_TOLERANCE).all()
    # The sums are 1 by a softmax; by sigmoids each is below 1, whatever the image.
    if not bool((logits_BK >= 0).all() and (is_of_one or (logits_BK <= 1).all())):
        return None
    return (
        "answers with probabilities, which are taken for logits and teach hardly anything: let its forward return what"
        " it has before its softmax or sigmoids"
    )


def _doubt_of_chance(model: nn.Module, noise_BCHW: Tensor, logits_BK: Tensor) -> str | None:
    """Of a teacher in eval mode, whether its answer goes by the image alone."""
    tolerance = _SPREAD_TOLERANCE * logits_BK.std() + _ROUNDING * logits_BK.abs().max()
    if (model(noise_BCHW.clone()) - logits_BK).abs().max() > tolerance:
        return (
            "answers the same images differently each time (a dropout that is always on, such as F.dropout without"
            " training=self.training?): what is random in its answers is taught, too"
        )
    if (model(noise_BCHW[:1].clone()) - logits_BK[:1]).abs().max() > tolerance:
        return (
            "answers an image differently in another batch (batch-norm without running statistics?): what it says"
            " depends on the images that happen to be beside it"
        )
    return None


@torch.enable_grad()
def _check_gradient(model: nn.Module, config: Config, device: torch.device) -> None:
    leaf_1CHW = torch.zeros(1, *config.task.image_shape, device=device, requires_grad=True)
    images_1CHW = leaf_1CHW * 1  # what a run shows it is computed, too, and may be changed in place
    what = f"the teacher `{config.teacher.model}` gives its images no gradient"
    hint = "images are made by it: leave torch.no_grad, torch.inference_mode, .detach() and numpy out of its forward"
    try:
        has_gradient = model(images_1CHW).requires_grad
    except Exception as error:  # a stranger's forward, which has just answered the same images without gradients
        if is_out_of_memory(error):
            raise
        raise ConfigError(f"{what}: {type(error).__name__}: {error}", hint=hint) from error
    if not has_gradient:
        raise ConfigError(what, hint=hint)


def _keeps_statistics(module: nn.Module) -> bool:
    statistics = [getattr(module, name, None) for name in ("running_mean", "running_var")]
    return all(isinstance(value, Tensor) for value in statistics)


def _warnings_of_inversion(model: nn.Module, config: Config) -> tuple[str, ...]:
    if bn_layers_that_run(model, config.task.image_shape):
        return ()
    why = "has no batch-norm statistics"
    foreign = next((type(module).__name__ for module in model.modules() if _keeps_statistics(module)), None)
    if bn_layers(model):
        why = "has batch-norm layers and does not call them (its forward uses their numbers), so nothing can watch them"
    elif foreign is not None:
        why = f"keeps running statistics in `{foreign}`, which is no batch-norm of torch's: let it be nn.BatchNorm2d"
    lost = (
        f"the teacher `{config.teacher.model}` {why}: the BN term (Eq. 1,"
        " `inversion.bn_weight`) has nothing to match, so nothing draws the synthetic images towards the data the"
        " teacher saw, only its classes and the gap to the student shape them; expect a weaker student"
    )
    if config.inversion.targets == "teacher":
        lost += ", and set inversion.targets=balanced, or all images may become of one class"
    advice = [] if config.distillation.mix == "cutmix" else ["the overlay `plus`"]
    advice += [] if config.inversion.targets == "balanced" else ["balanced targets"]
    advice += [] if config.inversion.task_weight <= _LITTLE_TASK else [f"inversion.task_weight={_LITTLE_TASK}"]
    if advice:
        lost += (
            f". In long runs on digits {' and '.join(filter(None, [', '.join(advice[:-1]), advice[-1]]))} helped most"
        )
    return (lost,)
