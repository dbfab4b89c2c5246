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

    @property
    def distillation_epochs(self) -> int:
        """Epochs in which the student learns: the span of its learning rate's cosine."""
        return self.epochs - self.warmup_epochs

    def is_warmup(self, epoch: int) -> bool:
        """Whether the student does not learn yet in `epoch`."""
        return epoch <= self.warmup_epochs

    def is_adversarial(self, epoch: int) -> bool:
        """Whether inversion pits the student against the teacher: from the last warm-up epoch on, never in `invert`."""
        return self.command != "invert" and epoch >= self.warmup_epochs

    @classmethod
    def of(cls, command: Command, config: Config) -> Schedule:
        """The schedule of a command.

        `run` chains the preset's stages. `invert` makes as many calls as fill the buffer, at most `run.epochs`.
        `distill` leaves inversion and its warm-up out.
        """
        stages = tuple(config.run.stages)
        if command == "invert":
            calls = math.ceil(config.buffer.capacity / config.inversion.batch_size)
            epochs = min(config.run.epochs, calls)
            kept = tuple(name for name in stages if name != "distillation")
            return cls(command, kept, epochs, warmup_epochs=epochs)
        if command == "distill":
            kept = tuple(name for name in stages if name != "inversion")
            return cls(command, kept, config.run.epochs - config.run.warmup_epochs, warmup_epochs=0)
        return cls(command, stages, config.run.epochs, config.run.warmup_epochs)
