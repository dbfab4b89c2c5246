"""Signals by which a scheduler or a container's runtime ends a command: they do what Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Ending:
    """Whether the command is ending by itself already: then further signals change nothing."""

    def __init__(self) -> None:
        self.is_near = False

    def begin(self) -> None:
        """What there is to save is being saved, or has been."""
        self.is_near = True

    def begun_by(self, tell: Callable[[], None]) -> Callable[[], None]:
        """What a run is to call when a signal asks it to stop: the ending begins, and `tell` says so."""

        def stop_is_heard() -> None:
            self.begin()
            tell()

        return stop_is_heard


@contextmanager
def heard_as_ctrl_c() -> Iterator[Ending]:
    """While in this context SIGTERM, SIGHUP and SIGUSR1 interrupt as Ctrl-C does, until the ending has begun.

    Without a handler the first process of a container would not get them at all, and any other would end without a
    word. Once the ending has begun they are ignored for good: one sent twice would spoil the exit code in the last
    moments of the process. What it was told to ignore stays ignored. Only in the main thread.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if not ending.is_near:
            raise KeyboardInterrupt

    usual = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in usual:
        signal.signal(number, interrupt)
    try:
        yield ending
    finally:
        for number in usual:
            signal.signal(number, signal.SIG_IGN if ending.is_near else signal.SIG_DFL)
