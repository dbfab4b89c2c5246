"""The state that the stages of a run share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stages.buffer.replay_buffer import ReplayBuffer
from stages.config import Config
from stages.data.augment import Augmentation, draw_augmentation
from stages.data.dataset import LabelledImages
from stages.evaluation.config import SELECTED
from stages.events import Event
from stages.machine.recorded_step import Tape
from stages.models.normalized import NormalizedModel
from stages.schedule import Schedule
from stages.tasks.task import Task


@dataclass
class Results:
    """What the last evaluation found: metrics on real data (None without any), and on the synthetic hold-out agreement
    and calibration error against the teacher."""

    teacher: dict[str, Any] | None = None
    student: dict[str, Any] | None = None
    agreement: float | None = None
    agreement_by_chance: float | None = None
    ece: float | None = None
    data: str | None = None
    """A digest of the real data that teacher and student were measured on."""

    def state_dict(self) -> dict[str, Any]:
        """Everything; metrics as pairs, for a checkpoint sorts its keys and people read them in the task's order."""
        return {name: list(value.items()) if isinstance(value, dict) else value for name, value in vars(self).items()}


@dataclass
class BestStudent:
    """The student that did best on labelled data, and how it did."""

    score: float
    epoch: int
    weights: dict[str, Tensor]


class StopRequested(Exception):  # noqa: N818 - not an error: the user asked for it
    """Raised at a safe point when the run shall save and stop."""


@dataclass
class Run:
    """Teacher, student and buffer, and the services every stage needs. Stages talk to each other only through this."""

    config: Config
    schedule: Schedule
    task: Task
    device: torch.device
    precision: str
    """ "fp32" or "bf16", resolved."""
    teacher: NormalizedModel
    """Frozen, in eval mode."""
    student: NormalizedModel
    buffer: ReplayBuffer
    class_names: tuple[str, ...] | None = None
    evaluation_data: LabelledImages | None = None
    """Real images; only the evaluation stage may look."""
    holdout_NCHW: Tensor | None = None
    """Synthetic images uint8 that were never in the buffer, for agreement."""
    epoch: int = 0
    """The present epoch, from 1; 0 before the first."""
    call: int = 0
    """Which of the epoch's synthesis calls is at work, from 0; 0 outside of inversion."""
    num_synthesized: int = 0
    """Images made for the buffer so far."""
    num_trained: int = 0
    """Images that went through a training step so far, in inversion and distillation."""
    best_student: BestStudent | None = None
    """Only where `evaluation.select_best` asks for it."""
    results: Results = field(default_factory=Results)
    tape: Tape | None = None
    """What records the steps of training; None where Python runs them all."""
    may_record: Callable[[], bool] = lambda: True
    """Called before a step is rehearsed or recorded, which needs the device to itself: waits until nothing else is at
    work there and returns True, or returns False, and the step runs unrecorded this time."""
    deliver: Callable[[NormalizedModel], NormalizedModel] = lambda student: student
    """What makes the student that is measured and written of the one that is trained."""
    emit: Callable[[Event], None] = lambda _event: None
    safe_point: Callable[[], None] = lambda: None
    """Called where the run may be stopped, paused or saved; raises StopRequested."""
    charged_to: Callable[[str], AbstractContextManager[None]] = lambda _account: nullcontext()
    """A context whose time is charged to an account of its own instead of the stage's."""

    @property
    def in_warmup(self) -> bool:
        """Whether the student does not learn yet."""
        return self.schedule.is_warmup(self.epoch)

    @property
    def delivered_student(self) -> NormalizedModel:
        """The student as it is measured and written now."""
        return self.deliver(self.student)

    @property
    def is_last_epoch(self) -> bool:
        """Whether the run ends with this epoch."""
        return self.epoch == self.schedule.epochs

    def rng(self, stage: str, purpose: str, step: int = 0) -> torch.Generator:
        """A fresh random stream for one purpose in one step of this epoch, on the run's device.

        Counter-based: the seed is a hash of (run.seed, stage, purpose, epoch, step, call), so nobody's draws depend
        on how many others drew, and a resumed run draws what the undisturbed one would have drawn.
        """
        return torch.Generator(self.device).manual_seed(self._derived_seed(stage, purpose, step))

    def draw_augmentation(self, num_images: int, rng: torch.Generator) -> Augmentation:
        """A shift and a flip for each of so many images, as far as the task allows them."""
        task = self.config.task
        return draw_augmentation(
            num_images, padding=task.crop_padding, flip=task.horizontal_flip, rng=rng, device=self.device
        )

    def seed_layers(self, stage: str, purpose: str, step: int = 0) -> None:
        """Seed torch's global stream, from which layers such as dropout, and weight initialisation, draw."""
        seed = self._derived_seed(stage, purpose, step)
        # Not torch.manual_seed, which makes a note of the call stack for each kind of device that is not there.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _derived_seed(self, stage: str, purpose: str, step: int) -> int:
        later_call = (self.call,) if self.call > 0 else ()
        return derived_seed(self.config.run.seed, stage, purpose, self.epoch, step, *later_call)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the networks. Losses and statistics are fp32 whatever it is."""
        is_bf16 = self.precision == "bf16"
        # Threads share one cache of cast weights: one would empty it under another that uses a weight twice.
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=is_bf16, cache_enabled=not self.schedule.overlaps
        )

    def keep_if_best(self, score: float) -> None:
        """Keep a copy of the student's weights where `score`, on labelled data, is the highest so far."""
        if self.best_student is None or score > self.best_student.score:
            weights = {
                name: value.detach().clone(memory_format=torch.contiguous_format)
                for name, value in self.delivered_student.model.state_dict().items()
            }
            self.best_student = BestStudent(score, self.epoch, weights)

    def best_results(self) -> dict[str, Any]:
        """What the student that did best on labelled data is, with epoch and headline metric; empty without one."""
        best = self.best_student
        return {} if best is None else {"selection": SELECTED, "epoch": best.epoch, self.task.headline: best.score}

    def load_results(self, results: dict[str, Any], best_student: dict[str, Any] | None) -> None:
        """Continue with what evaluations before a checkpoint found."""
        metrics = {role: dict(results[role]) for role in ("teacher", "student") if results[role] is not None}
        self.results = Results(**results | metrics)
        self.best_student = None if best_student is None else BestStudent(**best_student)

    def should_log(self, step: int, num_steps: int) -> bool:
        """Whether to report this step (from 0): every `run.log_every` steps, and the last one.

        Nothing else in a step waits for the device.
        """
        return (step + 1) % self.config.run.log_every == 0 or step + 1 == num_steps


def derived_seed(seed: int, *counters: object) -> int:
    """A 63-bit seed from the run's seed and any counters. Torch's generator of a CPU goes by its lower 32 bits."""
    digest = hashlib.blake2b(repr((seed, *counters)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
