"""The trainer as a process of its own, so that the terminal it was started from is only a viewer.

The terminal's process starts what was typed as a new command, with `--no-tui`, in a new session: neither Ctrl-C nor a
lost connection reaches it. Until its first event the trainer keeps the terminal's output, so that everything that is
refused is told there as ever. With the first event it says through a pipe where the run is, and from then on writes
what it has to say to `trainer.log` in the run's directory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from stages.events import Event, Listener
from stages.run_directory import RUNS_ROOT, RunDirectory

PROGRAM = (sys.executable, "-P", "-m", "ssdkd_cli")
"""`ssdkd` as the beginning of a command; without the current folder, whose `stages.py` or `random.py` is another's."""

_PIPE_VARIABLE = "SSDKD_READY_PIPE"
"""Number of the file descriptor on which a trainer says where its run is; only in a trainer's environment."""


class TrainerProcess:
    """A trainer, as the process that started it has it: the viewer in the terminal."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Start `ssdkd` with these arguments."""
        self.log_start = 0
        """Bytes of the run's log that an earlier trainer of the run has written."""
        self._pipe, ready = os.pipe()
        try:
            self.process = subprocess.Popen(
                [*PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=(ready,),
                env=os.environ | {_PIPE_VARIABLE: str(ready)},
                start_new_session=True,
            )
        finally:
            os.close(ready)

    def wait_until_ready(self, *, meanwhile: Callable[[], object] = lambda: None) -> RunDirectory | None:
        """The run, as soon as the trainer has begun it; None where it ended without: its exit code tells.

        `meanwhile` is called first, for the trainer takes a while. Ctrl-C is passed on: nothing is running yet that
        would be worth keeping.
        """
        try:
            meanwhile()
            with os.fdopen(self._pipe, "rb") as pipe:
                line = pipe.readline()
        except KeyboardInterrupt:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()
            raise
        if not line:
            return None
        told = json.loads(line)
        self.log_start = told["log_start"]
        return RunDirectory(Path(told["run"]))

    def exit_code(self, timeout_s: float | None = None) -> int | None:
        """The trainer's exit code; None while it works (after waiting for `timeout_s`)."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return code if code >= 0 else 128 - code  # killed by a signal, which shells add to 128

    def killed_by(self) -> str | None:
        """The name of the signal that the trainer was killed by, once it is over; None where it ended by itself."""
        code = self.process.wait()
        if code >= 0:
            return None
        return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"


class ReadyPipe:
    """The trainer's end of the pipe on which its viewer waits to be told where the run is."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def tell(self, path: Path) -> None:
        """Leave the terminal, and say where the run is."""
        told = {"run": str(path), "log_start": _write_to(RunDirectory(path).trainer_log_file)}
        with suppress(BrokenPipeError):  # the viewer has gone already
            os.write(self._descriptor, json.dumps(told).encode() + b"\n")
        os.close(self._descriptor)


def ready_pipe_of_this_process() -> ReadyPipe | None:
    """The pipe to the viewer, where this process is a trainer that was started by one; None elsewhere."""
    descriptor = os.environ.pop(_PIPE_VARIABLE, "")  # no process of ours inherits it
    if not descriptor.isdecimal():
        return None
    os.set_inheritable(int(descriptor), False)
    # The terminal that this run was started from may go; that is no reason to stop.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return ReadyPipe(int(descriptor))


def once_begun(act: Callable[[Path], object], path: Path | None) -> Listener:
    """A listener that calls `act` with the run's path at its first event; None is a new run in `RUNS_ROOT`."""
    is_done = False

    def listen(event: Event, _epoch: int) -> None:
        nonlocal is_done
        if not is_done:
            is_done = True
            act(path or RUNS_ROOT / str(getattr(event, "run", "")))

    return listen


def _write_to(path: Path) -> int:
    """Append stdout and stderr of this process to a file from now on; returns its size before [bytes]."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError:  # the run goes on without a log
        descriptor = os.open(os.devnull, os.O_WRONLY)
    num_bytes = os.fstat(descriptor).st_size
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    return num_bytes
