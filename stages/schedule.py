"""Which stages a command runs, and for how many epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from stages.config import Config

Command = Literal["run", "invert", "distill"]


@dataclass(frozen=True)
class Schedule:
    """Epochs count from 1 to `epochs`; in the first `warmup_epochs` the student does not learn."""

    command: Command
    stages: tuple[str, ...]
    epochs: int
    warmup_epochs: int
    calls: int
    """Synthesis calls of an epoch after warm-up."""
    warmup_calls: int
    overlaps: bool
    """Whether images are made while the student learns."""

    @property
    def distillation_epochs(self) -> int:
        """Epochs in which the student learns: the span of its learning rate's schedule."""
        return self.epochs - self.warmup_epochs

    def progress(self, epoch: int, share: float) -> float:
        """Share of the student's updates that are done after `share` of those of `epoch`."""
        return (epoch - self.warmup_epochs - 1 + share) / self.distillation_epochs

    def is_warmup(self, epoch: int) -> bool:
        """Whether the student does not learn yet in `epoch`."""
        return epoch <= self.warmup_epochs

    def is_adversarial(self, epoch: int) -> bool:
        """Whether inversion pits the student against the teacher: from the last warm-up epoch on, where one learns."""
        is_learning = self.command != "invert" and not {"inversion", "evaluation"}.issuperset(self.stages)
        return is_learning and epoch >= self.warmup_epochs

    def num_calls(self, epoch: int) -> int:
        """Synthesis calls of `epoch`."""
        return self.warmup_calls if self.is_warmup(epoch) else self.calls

    @property
    def total_calls(self) -> int:
        """Synthesis calls of the whole run."""
        if "inversion" not in self.stages:
            return 0
        return self.warmup_epochs * self.warmup_calls + self.distillation_epochs * self.calls

    @classmethod
    def of(cls, command: Command, config: Config) -> Schedule:
        """The schedule of a command.

        `run` chains the preset's stages. `invert` has as many epochs as fill the buffer, at most `run.epochs`.
        `distill` leaves inversion and its warm-up out.
        """
        stages, inversion = tuple(config.run.stages), config.inversion
        epochs, warmup_epochs = config.run.epochs, config.run.warmup_epochs
        if command == "invert":
            stages = tuple(name for name in stages if name != "distillation")
            images_per_epoch = inversion.warmup_calls * inversion.batch_size
            epochs = warmup_epochs = min(epochs, math.ceil(config.buffer.capacity / images_per_epoch))
        elif command == "distill":
            stages = tuple(name for name in stages if name != "inversion")
            epochs, warmup_epochs = epochs - warmup_epochs, 0
        return cls(
            command,
            stages,
            epochs,
            warmup_epochs,
            calls=inversion.calls,
            warmup_calls=inversion.warmup_calls,
            overlaps=inversion.overlap and {"inversion", "distillation"} <= set(stages),
        )
