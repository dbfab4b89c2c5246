"""`ssdkd watch` in a pseudo-terminal that somebody reads, with what it costs."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Viewer:
    """The dashboard on a run, 120x40. `first_paint_s` is set once the screen has shown `wanted`."""

    def __init__(self, run: Path, wanted: bytes) -> None:
        self.first_paint_s: float | None = None
        self.first_paint_cpu_s: float | None = None
        self.num_bytes = 0
        self._wanted = wanted
        self._seen = b""
        self._screen, inner = os.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._began_s = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ssdkd_cli", "watch", str(run), "--read-only"],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=os.environ | {"TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(inner)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                select.select([self._screen], [], [])
                data = os.read(self._screen, 1 << 16)
            except OSError:
                return
            self.num_bytes += len(data)
            if self.first_paint_s is None:
                self._seen += data
                if self._wanted in self._seen:
                    self.first_paint_s = time.perf_counter() - self._began_s
                    self.first_paint_cpu_s = self.cpu_s()

    def wait_for_paint(self, timeout_s: float = 120.0) -> None:
        deadline_s = time.perf_counter() + timeout_s
        while self.first_paint_s is None:
            assert time.perf_counter() < deadline_s, self._seen[-2000:]
            assert self.process.poll() is None, self._seen[-2000:]
            time.sleep(0.01)

    def cpu_s(self) -> float:
        """Seconds of CPU so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def peak_mib(self) -> float:
        """The most memory it has had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def close(self) -> None:
        if self.process.poll() is None:
            os.write(self._screen, b"q")
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._screen)
