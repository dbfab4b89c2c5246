"""Time that passes when a test says so."""

from __future__ import annotations


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s
