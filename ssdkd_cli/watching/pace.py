"""How long a run still takes, by its own accounts, which leave pauses out, and never by the clock, which may jump."""

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
        self._last: tuple[int, float] | None = None

    def account(self, epoch: int, total_s: float, *, warmup_epochs: int) -> None:
        """At the end of `epoch` the run has taken `total_s` seconds so far."""
        if self._last is not None:
            num_epochs, seconds = epoch - self._last[0], total_s - self._last[1]
            # Several epochs between two accounts are timed as their mean, unless they are of both kinds.
            is_one_kind = (epoch <= warmup_epochs) == (self._last[0] + 1 <= warmup_epochs)
            if num_epochs > 0 and seconds > 0 and is_one_kind:
                (self._warmup_s if epoch <= warmup_epochs else self._main_s).append(seconds / num_epochs)
        self._last = (epoch, total_s)

    def forget_position(self) -> None:
        """The next account starts anew: it does not follow upon the last one, as after a resumption."""
        self._last = None

    def timed_after(self, epoch: int, *, warmup_epochs: int) -> int:
        """The epoch at whose end the main epochs will have been timed, where they are not yet; `epoch` is at work."""
        # The first epoch, and one that is resumed within, are not timed: there was no account at their beginning.
        first_timed = epoch if self._last is not None else epoch + 1
        return max(first_timed, warmup_epochs + 1)

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
