"""What a run has cost so far: wall-clock seconds in total and of each stage, over all processes that worked on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

_TOTAL = "total"
_ALWAYS_TOLD = ("inversion", "distillation", "evaluation")
"""Stages that have an account even in a run without them."""


class Accounts:
    """Seconds since a beginning, charged to the total and to the stage at work.

    Waiting (paused, or saving on request) counts for neither.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds = dict.fromkeys((*_ALWAYS_TOLD, _TOTAL), 0.0)
        self._stage: str | None = None
        self._is_waiting = False
        self._settled_s = clock()

    def continue_from(self, seconds: Mapping[str, float]) -> None:
        """Add what earlier processes of the run had spent."""
        for name, value in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + value

    def seconds(self) -> dict[str, float]:
        """The accounts up to now: of each stage, and at the end "total", of which they are parts."""
        self._settle()
        stages = {name: value for name, value in self._seconds.items() if name != _TOTAL}
        return stages | {_TOTAL: self._seconds[_TOTAL]}

    def training_seconds(self) -> float:
        """Seconds in which images go through training steps."""
        seconds = self.seconds()
        return seconds["inversion"] + seconds["distillation"]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge the time in this context to a stage; within another stage's context, to this one alone."""
        self._settle()
        outer, self._stage = self._stage, name
        self._seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._settle()
            self._stage = outer

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time in this context counts for nothing."""
        self._settle()
        self._is_waiting = True
        try:
            yield
        finally:
            self._settle()
            self._is_waiting = False

    def _settle(self) -> None:
        """Charge the time since the last look to whom it belongs."""
        now_s = self._clock()
        elapsed_s, self._settled_s = now_s - self._settled_s, now_s
        if self._is_waiting:
            return
        self._seconds[_TOTAL] += elapsed_s
        if self._stage is not None:
            self._seconds[self._stage] += elapsed_s
