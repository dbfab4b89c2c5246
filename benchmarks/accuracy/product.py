"""`ssdkd` as its users have it: commands in processes of their own, JSON on stdout, exit codes. Nothing else of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

SSDKD = (sys.executable, "-m", "ssdkd_cli")
EXIT_DONE, EXIT_STOPPED = 0, 75
EXIT_REFUSED = (2, 3, 4)
"""Settings, a file, the machine: nothing was started and nothing is left."""

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class HarnessError(Exception):
    """A mistake of the user's: what is wrong, and a hint what to do."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Answer(NamedTuple):
    """What a command left: exit code, the document on stdout (None without one), the text on stderr."""

    code: int
    document: Any
    err: str

    def complaint(self) -> str:
        """What it said was wrong, in one line."""
        lines = [line.strip() for line in self.err.splitlines() if line.startswith(("error:", "hint:", "  "))]
        return ("; ".join(lines) or " ".join(self.err.split()[-30:])).removeprefix("error: ")


def ask(*arguments: str) -> Answer:
    """A command that takes a moment."""
    # A session of its own: Ctrl-C is for the harness, which lets a command end in peace.
    done = subprocess.run(
        [*SSDKD, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    return Answer(done.returncode, _document(done.stdout), done.stderr)


def ask_for(*arguments: str) -> Any:
    """The document of a command that must succeed. Raises HarnessError with its words."""
    answer = ask(*arguments)
    if answer.code != EXIT_DONE or answer.document is None:
        raise HarnessError(f"`ssdkd {' '.join(arguments)}`: {answer.complaint()}")
    return answer.document


def preset_options(presets: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """`--preset` and `--set` options."""
    options = [text for preset in presets for text in ("--preset", preset)]
    return options + [text for override in overrides for text in ("--set", override)]


def resolved_settings(presets: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Every key of a preset with its value, by dotted name."""
    return flat(ask_for("presets", "show", *presets, *preset_options((), overrides), "--json"))


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def labelled(texts: Sequence[str]) -> dict[str, list[Path]]:
    """Runs by what they are called: `LABEL=RUN`, or by the folder's name, for `seed-0` by that of the one above."""
    groups: dict[str, list[Path]] = {}
    for text in texts:
        label, _, place = text.rpartition("=")
        path = Path(place)
        name = path.absolute().parent.name if path.name.startswith("seed-") else path.absolute().name
        groups.setdefault(label or name, []).append(path)
    return groups


class Trainer:
    """Runs one command that trains at a time, and passes a wish to stop on to it.

    The first signal asks the run to save everything and stop, a second one ends it at once.
    """

    def __init__(self) -> None:
        self.must_stop = False
        self._process: subprocess.Popen[str] | None = None

    def run(self, arguments: Sequence[str], log: Path) -> Answer:
        """Start it and wait for its end; what it says on stderr goes to the end of `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a+", encoding="utf-8", errors="replace") as err:
            began = err.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                [*SSDKD, *arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                start_new_session=True,
            )
            if self.must_stop:  # the signal came while the process was being made
                self._process.send_signal(signal.SIGTERM)
            out, _ = self._process.communicate()
            code, self._process = self._process.returncode, None
            err.seek(began)
            return Answer(code, _document(out), err.read())

    @contextmanager
    def listening_to_signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and SIGHUP are wishes to stop; one that was to be ignored (`nohup`) stays ignored."""
        heard = [number for number in _STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._stop) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        text = b"stops at once\n" if self.must_stop else b"saves everything and stops; once more ends it at once\n"
        self.must_stop = True
        if self._process is not None:
            # Not SIGINT: what a script starts in the background is told to ignore that one.
            self._process.send_signal(signal.SIGTERM)
            os.write(sys.stderr.fileno(), text)  # print is not for signal handlers


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
