"""What every stage of a run looks like, ours and a stranger's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from stages.run import Run

ConfigT = TypeVar("ConfigT", bound=BaseModel)


class Stage(ABC, Generic[ConfigT]):
    """One part of an epoch.

    It gets device, randomness, events and the stop request from the run, owns its part of the state, and talks to the
    other stages only through what the run holds: teacher, student, buffer. The constructor stores the config and
    nothing else.
    """

    only_looks: ClassVar[bool] = False
    """Whether it changes nothing that is learned: where such a stage fails, all before it is saved, and `--resume` goes
    on with it."""

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @abstractmethod
    def setup(self, run: Run) -> None:
        """Build networks and optimisers on the run's device. Called once, before the first epoch or a resumption."""

    @abstractmethod
    def run_epoch(self, run: Run) -> None:
        """Do this stage's part of epoch `run.epoch`.

        A long one calls `run.safe_point()` between steps, with its state such that `run_epoch` called again after
        `load_state_dict(state_dict())` does the remaining steps.
        """

    def check(self, run: Run) -> None:
        """Raise what ends the run where something has gone wrong that no step has waited for the device to tell.

        DivergedError, or ConfigError where the settings are to blame. Called after each epoch and before each save.
        """

    def close(self) -> None:
        """Let go of what would outlive the run: threads, files. Called once, however the run ended, and where
        `setup` raised."""

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on: nested dicts and lists of tensors and JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`. After `setup`; tensors are on the CPU, tuples have become lists."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {sorted(state)}")
