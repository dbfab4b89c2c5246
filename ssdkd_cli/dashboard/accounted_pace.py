"""How long a run still takes, by its own accounts."""

from __future__ import annotations

from ssdkd_cli.pace import Pace


class AccountedPace(Pace):
    """Seconds per epoch by the run's own accounts, which leave pauses out, and never by the clock, which may jump."""

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[int, float] | None = None

    def account(self, epoch: int, total_s: float, *, warmup_epochs: int) -> None:
        """At the end of `epoch` the run has taken `total_s` seconds so far."""
        if self._last is not None:
            num_epochs, seconds = epoch - self._last[0], total_s - self._last[1]
            # Epochs that were not told of one by one are timed as their mean; of both kinds at once they say nothing.
            is_one_kind = (epoch <= warmup_epochs) == (self._last[0] + 1 <= warmup_epochs)
            if num_epochs > 0 and seconds > 0 and is_one_kind:
                self.add(seconds / num_epochs, is_warmup=epoch <= warmup_epochs)
        self._last = (epoch, total_s)

    def forget_position(self) -> None:
        """What comes next does not follow upon what was accounted last."""
        self._last = None
