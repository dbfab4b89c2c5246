"""A pseudo-terminal with a command in it, as on somebody's desk: keys go in, the screen comes out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

APP_OPENED, APP_CLOSED = b"\x1b[?1049h", b"\x1b[?1049l"
"""What a terminal is told when a program takes the whole screen, and when it gives it back."""

TIMEOUT_S = 600.0
"""For machines that have other things to do; a wait ends as soon as what it waits for is there."""

# The terminal becomes the controlling one, as of a login shell: closing it sends a hang-up.
_IN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', 'ssdkd_cli', *sys.argv[1:]])"
)


class Terminal:
    """`with Terminal("run", ...) as terminal:`; leaving it closes the window."""

    def __init__(self, *arguments: str, place: Path, size: tuple[int, int] = (120, 40)) -> None:
        self.output = b""
        self._num_before_key = 0
        self._screen, inner = os.openpty()
        columns, rows = size
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(rows)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, *arguments],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=place,
            env=environment,
            start_new_session=True,
        )
        os.close(inner)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Close the window: whoever sits in it gets a hang-up."""
        if self._screen >= 0:
            os.close(self._screen)
            self._screen = -1

    def press(self, keys: str) -> None:
        """Type."""
        self._num_before_key = len(self.output)
        os.write(self._screen, keys.encode())

    def read(self, for_s: float = 0.1) -> bool:
        """Take in what the screen shows; False once nobody writes to it any more."""
        if not select.select([self._screen], [], [], for_s)[0]:
            return True
        try:
            data = os.read(self._screen, 1 << 16)
        except OSError:  # the last program in the terminal is gone
            return False
        self.output += data
        return bool(data)

    def wait_for(self, wanted: bytes | Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        """Until the screen has shown `wanted` since the last key, or until it has come true."""
        deadline_s = time.monotonic() + timeout_s
        while not self._has_come(wanted):
            is_open = self.read()
            assert is_open or self._has_come(wanted), f"the command ended: {self.text()}"
            assert time.monotonic() < deadline_s, f"nothing came in {timeout_s} s: {self.text()}"

    def _has_come(self, wanted: bytes | Callable[[], bool]) -> bool:
        return wanted in self.output[self._num_before_key :] if isinstance(wanted, bytes) else wanted()

    def wait_for_exit(self, timeout_s: float = TIMEOUT_S) -> int:
        """The exit code; the screen goes on being read, or the command would wait for that."""
        deadline_s = time.monotonic() + timeout_s
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < deadline_s, f"no end within {timeout_s} s: {self.text()}"
        while select.select([self._screen], [], [], 0)[0] and self.read(0):
            pass
        return self.process.returncode

    def text(self) -> str:
        """What was shown outside of any full-screen program."""
        before, *apps = self.output.split(APP_OPENED)
        after = [app.partition(APP_CLOSED)[2] for app in apps]
        return b"".join([before, *after]).decode(errors="replace").replace("\r", "")
