"""How long a run still takes, from the time its last epochs took."""

from __future__ import annotations

from collections import deque
from statistics import median_low

NUM_EPOCHS_TIMED = 20
"""The time left comes from the median of the last epochs: a first one may pay for what is made once."""


class Pace:
    """Seconds per epoch, warm-up epochs and the others apart: the former only invert and are far cheaper."""

    def __init__(self) -> None:
        self._warmup_s: deque[float] = deque(maxlen=NUM_EPOCHS_TIMED)
        self._main_s: deque[float] = deque(maxlen=NUM_EPOCHS_TIMED)

    def add(self, seconds: float, *, is_warmup: bool) -> None:
        """An epoch took so long."""
        (self._warmup_s if is_warmup else self._main_s).append(seconds)

    def seconds_left(self, num_warmup: float, num_main: float) -> float | None:
        """Time for so many epochs of each kind; None until an epoch of each kind needed has been timed."""
        left_s = 0.0
        for num_epochs, seconds in ((num_warmup, self._warmup_s), (num_main, self._main_s)):
            if num_epochs <= 0:
                continue
            if not seconds:
                return None
            left_s += num_epochs * median_low(seconds)
        return left_s
