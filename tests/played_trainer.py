"""Somebody who answers the requests to a run, as its trainer does at its safe points."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from run_files import acknowledged, append_events, finished

from stages.events import RunFinished
from stages.run_directory import RunDirectory
from stages.run_directory.control import ControlReader

STOPPED = finished("stopped")


@contextmanager
def played_trainer(
    run: RunDirectory, *, accepts: bool = True, ends: RunFinished | None = STOPPED
) -> Iterator[list[str]]:
    """Hold the run's lock and answer `ACTION it is`, or `not now`; yields the actions asked for so far.

    `ends` is what the run tells where it is asked to stop; None: it goes on.
    """
    asked: list[str] = []
    is_over = threading.Event()
    reader = ControlReader(run.control_file)

    def answer() -> None:
        while not is_over.wait(0.01):
            for request in reader.poll():
                message = f"{request.action} it is" if accepts else "not now"
                told = [acknowledged(request.action, request_id=request.id, accepted=accepts, message=message)]
                if request.action == "stop" and accepts and ends is not None:
                    told.append(ends)
                asked.append(request.action)
                append_events(run, told, time_s=time.time())

    with run.lock.held():
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield asked
        finally:
            is_over.set()
            thread.join()
