"""The terminal as a viewer: the dashboard on a run, and what is said when it closes."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from ssdkd_cli import diagnostics, summary
from ssdkd_cli.diagnostics import ExitCode
from ssdkd_cli.trainer_process import PROGRAM, TrainerProcess
from stages.errors import MachineError
from stages.paths import in_shell
from stages.run_directory import LIVE_STATUSES, RunDirectory

_PATIENCE_S = 30.0
"""After its last event a trainer has little left to do before it ends."""

_MAX_LOG_BYTES = 1 << 16
_TERMINATED = 128 + signal.SIGTERM
"""What shells say of a command that a signal ended."""


def show(run: RunDirectory, *, folder: Path | None = None, is_read_only: bool = False) -> int:
    """Open the dashboard on any run (`ssdkd watch`), and on those that follow it in a folder where one is given.

    Returns when the viewer is closed, FAILED where it crashed.
    """
    closed = _open_dashboard(run, folder=folder, is_read_only=is_read_only)
    if closed.run.status() in LIVE_STATUSES:
        _say_how_to_come_back(closed.run, is_stopping=closed.is_stopping)
    return closed.code


def serve_to_browsers(run: RunDirectory, text: str | None, *, is_read_only: bool, port: int) -> int:
    """The dashboard in every browser of this machine that asks for it (`ssdkd watch --serve`); returns at Ctrl-C.

    `text` is what was typed for the run. Each window is a viewer of its own. Raises MachineError where textual-serve is
    missing or the port is taken.
    """
    try:
        from textual_serve.server import Server
    except ImportError as error:
        raise MachineError(
            "`--serve` needs textual-serve, which is not installed",
            hint="in a clone `uv sync --extra serve` adds it, elsewhere `pip install textual-serve`",
        ) from error
    options = ["--read-only"] if is_read_only else []
    typed = [] if text is None else [text]
    command = shlex.join([*PROGRAM, "watch", *options, "--", *typed])
    diagnostics.note(f"{run.path} is shown at http://localhost:{port} until Ctrl-C; the run does not depend on it")
    try:
        server = Server(command, host="localhost", port=port, title=f"ssdkd {run.name}")
        server.console.quiet = True  # its banner goes to stdout
        server.serve()
    except OSError as error:
        raise MachineError(
            f"cannot listen on port {port} of this machine: {error.strerror or error}", hint="choose another --port"
        ) from error
    return ExitCode.DONE


def show_own(run: RunDirectory, trainer: TrainerProcess, *, command: str) -> int:
    """Open the dashboard on the run that this terminal started; returns the exit code of the command.

    A viewer that leaves a run at work ends with 0, or FAILED where it crashed. Once the run is over, its summary is
    printed and its exit code is the command's.
    """
    try:
        closed = _open_dashboard(run)
    except KeyboardInterrupt:  # before there was a dashboard to hear it: the run has begun all the same
        _say_how_to_come_back(run)
        raise
    is_over = run.summary() is not None
    code = trainer.exit_code(_PATIENCE_S if is_over else 0)
    if code is None:
        _say_how_to_come_back(run, is_stopping=closed.is_stopping and closed.run.path == run.path)
        return closed.code
    document = run.summary()
    if document is not None:
        summary.print_summary(document, run.path)
    if code == ExitCode.STOPPED:
        diagnostics.print_hint(f"go on with `ssdkd {command} --resume {in_shell(run.path)}`")
    elif code != ExitCode.DONE:
        hint = f"`ssdkd {command} --resume {in_shell(run.path)}` goes on from its last checkpoint"
        report_killed(trainer, "the run", hint=hint)
        _print_last_words(run, trainer.log_start)
    return code


def report_killed(trainer: TrainerProcess, what: str, *, hint: str) -> None:
    """Say that a signal ended `what`, where one ended the trainer: it could not say so itself."""
    signal_name = trainer.killed_by()
    if signal_name is None:
        return
    if signal_name == "SIGKILL":
        hint += "; usually the machine ran out of memory: `ssdkd doctor` says what is free"
    diagnostics.report(MachineError(f"{signal_name} ended {what}", hint=hint))


class _Closed(NamedTuple):
    """How a viewer ended."""

    code: int
    run: RunDirectory
    """That was on the screen last."""
    is_stopping: bool
    """Whether it was asked to stop here."""


def _open_dashboard(run: RunDirectory, *, folder: Path | None = None, is_read_only: bool = False) -> _Closed:
    from ssdkd_cli.dashboard.app import DashboardApp

    app = DashboardApp(run, read_only=is_read_only, folder=folder)
    with _ending_with_the_terminal(), _detaching_when_terminated(app.detach_from_outside) as is_terminated:
        app.run()
    code = ExitCode.FAILED if app.return_code else ExitCode.DONE
    return _Closed(_TERMINATED if is_terminated() else code, app.run_directory, app.is_stopping)


@contextmanager
def _ending_with_the_terminal() -> Iterator[None]:
    """A viewer whose terminal has gone ends, even if a parent told it to ignore hang-ups: it would wait for ever."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def _detaching_when_terminated(detach: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """SIGTERM closes the viewer, which gives the terminal back as it was; a second one ends the process at once.

    Yields a function that says whether it came.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        detach()

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)


def _say_how_to_come_back(run: RunDirectory, *, is_stopping: bool = False) -> None:
    path = in_shell(run.path)
    does, commands = "goes on", {"watch": "look at it again", "runs stop": "save everything and stop"}
    if is_stopping:
        does, commands = "saves everything and stops", {"watch": "look at it"}
    elif run.status() == "paused":
        does, commands = "is paused and waits", {"runs resume": "let it go on", **commands}
    diagnostics.note(f"{run.path} {does} without this terminal")
    width = max(map(len, commands))
    for command, what in commands.items():
        diagnostics.note(f"  {f'ssdkd {command} {path}':{width + len(path) + 7}}   {what}", is_whole=True)


def _print_last_words(run: RunDirectory, start: int) -> None:
    """Print the end of the trainer's log, behind `start`: from its last traceback on, else from its first error on."""
    try:
        with run.trainer_log_file.open("rb") as file:
            file.seek(max(start, run.trainer_log_file.stat().st_size - _MAX_LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    tracebacks = [index for index, line in enumerate(lines) if line.startswith("Traceback")]
    errors = [index for index, line in enumerate(lines) if line.startswith("error:")]
    first = tracebacks[-1:] or errors[:1]
    if first:
        diagnostics.note("\n".join(lines[first[0] :]), is_whole=True)
    diagnostics.note(f"all that the trainer said is in {run.trainer_log_file}")
