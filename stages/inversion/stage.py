"""Stage 1: make images, and insert them into the buffer (Algorithm 1, lines 4-15)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from stages.errors import ConfigError, DivergedError
from stages.events import Warning
from stages.inversion.config import InversionConfig
from stages.inversion.method import InversionMethod, Inverted
from stages.inversion.overlap import Overlap
from stages.registry import build
from stages.run import Run
from stages.scoring import insert_scored
from stages.stage import Stage

_ROUNDING = 1e-3
"""How far outside of [0, 1] a pixel may be."""

_LEAST_THAT_VARY = 16
"""Images in the buffer from which on all of one class are a collapse: fewer may be so by chance."""

_LEAST_OF_A_CLASS = 10
"""Images per class, on the average, from which on their numbers are looked at: with fewer, a class may be without any,
or have too many, by chance."""

_MANY_CLASSES = 4
_TOO_MUCH_OF_A_CLASS = 0.5
"""Share of the buffer above which a class is warned of, where there are `_MANY_CLASSES`: of two or three one may well
have half."""


class Inversion(Stage[InversionConfig]):
    """Data inversion with distribution balancing (Sec. 3.3). How images are made is the method's business."""

    def setup(self, run: Run) -> None:
        """Build the method that the preset names."""
        self._method: InversionMethod = build(
            "methods", self.config.method, self.config, where="inversion.method", takes="the [inversion] table"
        )
        self._overlap = Overlap(run) if run.schedule.overlaps else None
        self._method.setup(run if self._overlap is None else self._overlap.run)
        self._is_finite = torch.ones((), dtype=torch.bool, device=run.device)
        self._is_in_range = torch.ones((), dtype=torch.bool, device=run.device)
        self._has_targets = torch.ones((), dtype=torch.bool, device=run.device)
        self._must_vary = False
        self._call = 0

    def run_epoch(self, run: Run) -> None:
        """Calls of the method, each with the insertion of its images; after the last warm-up epoch the hold-out too."""
        num_calls = run.schedule.num_calls(run.epoch)
        while self._call < num_calls:
            run.call = self._call
            inverted = self._invert(run)
            _check_shapes(run, inverted, num_images=self.config.batch_size)
            self._is_finite &= insert(run, inverted, batch_size=self.config.batch_size)
            images_BCHW = inverted.images_BCHW
            self._is_in_range &= ~((images_BCHW < -_ROUNDING) | (images_BCHW > 1 + _ROUNDING)).any()
            self._has_targets &= (inverted.target_B >= -1).all() & (inverted.target_B < run.task.num_classes).all()
            run.call, self._call = 0, self._call + 1
            if self._call < num_calls:
                run.safe_point()
        self._call = 0
        if run.epoch == run.schedule.warmup_epochs:
            self._must_vary = True
            num_holdout = run.config.evaluation.num_holdout
            if run.schedule.command == "run" and num_holdout > 0:
                run.holdout_NCHW = self._make_holdout(run, num_holdout)
        if self._overlap is not None and not run.in_warmup and not run.is_last_epoch:
            self._overlap.begin(self._method.invert)

    def _invert(self, run: Run) -> Inverted:
        if self._overlap is None:
            return self._method.invert(run)
        return self._overlap.take() or self._overlap.now(self._method.invert)

    def _make_holdout(self, run: Run, num_images: int) -> Tensor:
        """The hold-out, uint8 [N, C, H, W], in equal calls no larger than those of an epoch."""
        num_calls = math.ceil(num_images / self.config.batch_size)
        made = []
        for run.call in range(num_calls):
            num = (num_images + run.call) // num_calls
            inverted = self._invert_holdout(run, num)
            _check_shapes(run, inverted, num_images=num)
            self._is_finite &= inverted.images_BCHW.isfinite().all()
            made.append(quantized(inverted.images_BCHW))
        run.call = 0
        return torch.cat(made)

    def _invert_holdout(self, run: Run, num_images: int) -> Inverted:
        if self._overlap is None:
            return self._method.invert_holdout(run, num_images)
        return self._overlap.now(lambda own: self._method.invert_holdout(own, num_images))

    def check(self, run: Run) -> None:
        """Raise DivergedError where the student is lost, or where warm-up made images of one class only.

        And ConfigError where the method aims at classes that there are not, or has no images from 0 to 1.
        """
        if not self._is_finite:
            raise DivergedError(
                f"the images of epoch {run.epoch}, or teacher's and student's divergence on them, are not finite",
                hint="lower distillation.lr or inversion.lr_generator, or use run.precision=fp32",
            )
        if not self._is_in_range:
            raise ConfigError(
                f"`inversion.method` = `{self.config.method}` gives images with values outside of [0, 1]",
                hint="`stages.api.Inverted` has images from 0 to 1, before any normalisation",
            )
        if not self._has_targets:
            raise ConfigError(
                f"`inversion.method` = `{self.config.method}` aims at classes beyond 0 to {run.task.num_classes - 1}",
                hint="`stages.api.Inverted` says what a method gives; -1 is no class",
            )
        if self._must_vary:
            self._require_variety(run)
            self._must_vary = False

    def _require_variety(self, run: Run) -> None:
        counts_K = run.buffer.class_counts()
        can_vary = run.task.num_classes > 1 and run.buffer.size >= _LEAST_THAT_VARY
        if can_vary and int((counts_K > 0).sum()) == 1:
            raise DivergedError(
                f"inversion collapsed: after warm-up all {run.buffer.size} images in the buffer are of class"
                f" {int(counts_K.argmax())} to the teacher",
                hint=("" if self.config.targets == "balanced" else "set inversion.targets=balanced, ")
                + "lower inversion.lr_generator, raise inversion.task_weight, or check task.mean and task.std",
            )
        largest, total = int(counts_K.max()), int(counts_K.sum())
        if total < _LEAST_OF_A_CLASS * run.task.num_classes:
            return
        missing = (counts_K == 0).nonzero().flatten().tolist()
        if missing:
            first = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            run.emit(
                Warning(
                    message=f"after warm-up the buffer has no image of {len(missing)} of {run.task.num_classes} classes"
                    f" ({first}): a student learns nothing of them, and agreement does not tell",
                    hint="`ssdkd inspect-buffer` counts the classes; inversion.targets=balanced aims at all of them",
                )
            )
        if run.task.num_classes >= _MANY_CLASSES and largest > _TOO_MUCH_OF_A_CLASS * total:
            run.emit(
                Warning(
                    message=f"after warm-up {largest / total:.0%} of the buffer is of class {int(counts_K.argmax())} to"
                    " the teacher: a student learns little of the others, and high agreement says little",
                    hint="`ssdkd inspect-buffer` counts the classes; inversion.targets=balanced aims at all of them",
                )
            )

    def close(self) -> None:
        """End the thread that makes images, and let the method go."""
        if self._overlap is not None:
            self._overlap.close()
        close = getattr(self._method, "close", None)
        if close is not None:
            close()

    def state_dict(self) -> dict[str, Any]:
        """The method's state, how many calls of this epoch are done, and images made ahead."""
        ahead = {}
        if self._overlap is not None:  # first: the method is at work until then
            ahead = {"ahead": self._overlap.state_dict()}
        return {"method": self._method.state_dict(), "call": self._call, **ahead}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._method.load_state_dict(state["method"])
        self._call = state["call"]
        if self._overlap is not None:
            self._overlap.load_state_dict(state["ahead"])


def quantized(images_BCHW: Tensor) -> Tensor:
    """Images in [0, 1] as they are stored: uint8, rounded to nearest."""
    return (images_BCHW.clamp(0, 1) * 255).round().to(torch.uint8, memory_format=torch.contiguous_format)


def _check_shapes(run: Run, inverted: Inverted, *, num_images: int) -> None:
    """Raise ConfigError where a method of others' gives something else than `Inverted` says, or than was asked for."""
    if not isinstance(inverted, Inverted):
        raise ConfigError(
            f"`inversion.method` = `{run.config.inversion.method}` gives a {type(inverted).__name__}, not an Inverted",
            hint="`stages.api.Inverted` says what a method gives",
        )
    images_BCHW, target_B = inverted
    if num_images != len(images_BCHW):
        raise ConfigError(
            f"`inversion.method` = `{run.config.inversion.method}` gives {len(images_BCHW)} images,"
            f" {num_images} were asked for",
            hint="`stages.api.InversionMethod` says how many `invert` and `invert_holdout` give",
        )
    image_shape = tuple(run.config.task.image_shape)
    label_shape = run.task.label_shape(image_shape)
    is_right = images_BCHW.shape[1:] == image_shape and images_BCHW.is_floating_point()
    if not is_right or target_B.shape != (len(images_BCHW), *label_shape) or target_B.dtype != torch.int64:
        raise ConfigError(
            f"`inversion.method` = `{run.config.inversion.method}` gives images {list(images_BCHW.shape)} of"
            f" {images_BCHW.dtype} with targets {list(target_B.shape)} of {target_B.dtype}; the task has images"
            f" {list(image_shape)} and targets {list(label_shape)} of torch.int64",
            hint="`stages.api.Inverted` says what a method gives",
        )


def insert(run: Run, inverted: Inverted, *, batch_size: int) -> Tensor:
    """Lines 12-15: quantise, let teacher and student judge what will be stored, give delta_0, insert, evict.

    Returns whether all deltas and pixels were finite, a scalar bool on the device.
    Not stated in the paper: here the student judges the images themselves, in eval mode; later priorities are of the
    views that it is trained on, in train mode. A student that has just begun to learn can be far worse in eval mode:
    new images are then drawn the more often.
    """
    images_BCHW = quantized(inverted.images_BCHW)
    finite_B = insert_scored(run, images_BCHW, inverted.target_B, epoch=run.epoch, batch_size=batch_size)
    run.num_synthesized += len(images_BCHW)
    return finite_B.all() & inverted.images_BCHW.isfinite().all()
