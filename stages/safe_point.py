"""Who may interrupt a run, and where: signals and requests are heard at safe points only.

A first SIGINT, SIGTERM, SIGHUP or SIGUSR1, by which schedulers warn, asks the run to save and stop; a second Ctrl-C
ends it without saving. A SIGHUP that the process was told to ignore (`nohup`, or a trainer that outlives its terminal)
stays ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from types import FrameType

from stages.errors import SsdkdError, StorageError
from stages.events import ControlAcknowledged
from stages.recorder import Recorder
from stages.run import StopRequested
from stages.run_directory.control import ACTIONS, ControlReader, Request

_PAUSE_POLL_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_ECHO_S = 0.5
"""So long after the first signal another is the same one: the terminal and a launcher such as `uv run` both send it."""


class SafePoint:
    """Called between stages, synthesis calls and distillation steps; costs a look at one file's size and the clock."""

    def __init__(
        self,
        recorder: Recorder,
        control: ControlReader,
        *,
        save: Callable[[], None],
        on_signal: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_signal` is called at once at the first signal: the next safe point may be a while away."""
        self._recorder = recorder
        self._control = control
        self._save = save
        self._on_signal = on_signal
        self._signalled_s: float | None = None
        self._is_stop_requested = False
        self._is_paused = False

    def __call__(self) -> None:
        """Carry out what was asked since the last safe point. Raises StopRequested; returns once not paused."""
        self._recorder.tell_now_and_then()
        requests = self._control.poll()
        if not requests and not self._must_stop:
            return
        with self._recorder.accounts.waiting():
            self._answer(requests)
            while self._is_paused and not self._must_stop:
                sleep(_PAUSE_POLL_S)
                self._answer(self._control.poll())
        if self._must_stop:
            raise StopRequested

    @property
    def _must_stop(self) -> bool:
        return self._signalled_s is not None or self._is_stop_requested

    def refuse_rest(self) -> None:
        """Answer what was asked after the last safe point: the run is over."""
        self._refuse(self._control.poll())

    def _refuse(self, requests: list[Request]) -> None:
        for request in requests:
            self._acknowledge(request, accepted=False, message="the run is over")

    def _answer(self, requests: list[Request]) -> None:
        for place, request in enumerate(requests):
            try:
                accepted, message = self._carry_out(request.action)
            except SsdkdError as error:  # what ends the run; whoever asked is told before
                self._acknowledge(request, accepted=False, message=error.message)
                self._refuse(requests[place + 1 :])
                raise
            self._acknowledge(request, accepted=accepted, message=message)

    def _acknowledge(self, request: Request, *, accepted: bool, message: str) -> None:
        self._recorder.emit(
            ControlAcknowledged(id=request.id, action=request.action, accepted=accepted, message=message)
        )

    def _carry_out(self, action: str) -> tuple[bool, str]:
        match action:
            case "pause":
                was_paused, self._is_paused = self._is_paused, True
                return True, "was paused already" if was_paused else "paused"
            case "resume":
                was_paused, self._is_paused = self._is_paused, False
                return True, "goes on" if was_paused else "was not paused"
            case "checkpoint":
                try:
                    self._save()
                except StorageError as error:  # nobody needs this one: the run goes on, to where it would save anyway
                    return False, error.message
                return True, "checkpoint saved"
            case "stop":
                self._is_stop_requested = True
                return True, "saves and stops"
        return False, f"unknown action `{action}`; known: {', '.join(ACTIONS)}"

    @contextmanager
    def listening_to_signals(self) -> Iterator[None]:
        """While in this context the signals ask for a stop. Only in the main thread; elsewhere it does nothing.

        A signal that the process was told to ignore (`nohup`, a job in the background of a script) stays ignored.
        """

        def ask_to_stop(number: int, _frame: FrameType | None) -> None:
            if self._signalled_s is None:
                self._signalled_s = monotonic()
                self._on_signal()
            elif number == signal.SIGINT and monotonic() - self._signalled_s > _ECHO_S:
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, ask_to_stop) for number in heard}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
